"""Queue, Pool and WorkloadProfile: what the API server refuses, and what Berth makes of the rest by its own rights."""

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from berth.grpc import connect
from berth.kubernetes.client import Kubernetes, KubernetesError, Object
from berth.kubernetes.custom_resources import POOLS, QUEUES, WORKLOAD_PROFILES
from berth.topics import TELEMETRY_DEVICES
from berth.v1 import fleet_pb2, placement_pb2, profiles_pb2, telemetry_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from berth.v1.profiles_pb2_grpc import ProfileServiceStub
from tests.services import ServiceProcess, System, job, node

KINDS = {QUEUES: "Queue", POOLS: "Pool", WORKLOAD_PROFILES: "WorkloadProfile"}
PROFILE = {
    "workload": "llama-8b", "accelerator": "H100-SXM", "throughput": 1200, "throughputUnit": "tokens/s",
    "memory": "40Gi", "provenance": "Measured", "source": "own benchmark",
}  # fmt: skip


def thing(collection: str, name: str, spec: Any) -> Object:
    return {"apiVersion": "berth.dev/v1alpha1", "kind": KINDS[collection], "metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def resources(installed: Any, cluster: Any, kubernetes: Kubernetes) -> AsyncIterator[Any]:
    """The cluster with Berth's resources and rights, and none of its objects."""
    yield cluster
    for collection in KINDS:
        things, _ = await kubernetes.list(collection)
        for one in things:
            path = f"{collection}/{one['metadata']['name']}"
            await kubernetes.patch(path, {"metadata": {"finalizers": None}})
            await kubernetes.delete(path)


async def refusal(kubernetes: Kubernetes, collection: str, spec: Any, name: str = "a") -> str:
    """The API server's words, without the object's name."""
    try:
        await kubernetes.post(collection, thing(collection, name, spec), dryRun="All")
    except KubernetesError as error:
        return error.message.partition(" is invalid: ")[2]
    return ""


QUEUE_REFUSALS = {
    "weight": ({"weight": 0}, "spec.weight: Invalid value: 0: spec.weight in body should be greater than 0"),
    "limit": ({"deviceLimit": -1}, "spec.deviceLimit: Invalid value: -1"),
    "parent": ({"parent": "a"}, "a queue cannot be its own parent"),
    "reclaim": ({"reclaim": "any"}, 'supported values: "Any", "LowerPriority", "Never"'),
    "protected": ({"protected": "ten minutes"}, "spec.protected"),
    "quota": ({"quotas": [{"accelerator": "GPU"}]}, "spec.quotas[0].devices: Required value"),
    "lending": ({"quotas": [{"devices": 4, "lendingLimit": 5}]}, "cannot lend more devices than it owns"),
    "twice": ({"quotas": [{"devices": 4}, {"devices": 5}]}, "spec.quotas[1]: Duplicate value"),
    "fine": ({"weight": 2, "quotas": [{"accelerator": "GPU", "devices": 4, "lendingLimit": 4}]}, ""),
}
PROFILE_REFUSALS = {
    "no figure": ({"throughput": None, "throughputUnit": None, "memory": None}, "give at least one of throughput"),
    "no unit": ({"throughputUnit": None}, "throughput and throughputUnit go together"),
    "unit": ({"throughputUnit": "images/s"}, "Unsupported value"),
    "percentiles": ({"latencyP50Seconds": 2, "latencyP99Seconds": 1}, "the 99th percentile of the latency is below"),
    "draw": ({"powerWatts": 300, "peakPowerWatts": 200}, "the peak draw is below the mean draw"),
    "memory": ({"memory": "a lot"}, "spec.memory"),
    "source": ({"source": ""}, "spec.source"),
    "fine": ({}, ""),
}


async def test_the_api_server_refuses_what_cannot_be(resources: Any, kubernetes: Kubernetes) -> None:
    asked = [(QUEUES, name, spec, said) for name, (spec, said) in QUEUE_REFUSALS.items()]
    asked += [
        (WORKLOAD_PROFILES, name, {k: v for k, v in {**PROFILE, **change}.items() if v is not None}, said)
        for name, (change, said) in PROFILE_REFUSALS.items()
    ]
    asked += [
        (POOLS, "cap", {"powerDomains": [{"level": "rack", "name": "r1", "capWatts": 0}]}, "should be greater than 0"),
        (POOLS, "twice", {"powerDomains": [{"level": "rack", "name": "r", "capWatts": 1}] * 2}, "Duplicate value"),
        (POOLS, "fine", {"powerDomains": [{"level": "rack", "name": "r", "capWatts": 1}]}, ""),
    ]
    wrong = {}
    for collection, name, spec, said in asked:
        heard = await refusal(kubernetes, collection, spec)
        if (said not in heard) or (not said and heard):
            wrong[collection, name] = heard
    assert wrong == {}


async def test_what_a_profile_is_of_cannot_be_changed(resources: Any, kubernetes: Kubernetes) -> None:
    await kubernetes.post(WORKLOAD_PROFILES, thing(WORKLOAD_PROFILES, "p", PROFILE))
    path = f"{WORKLOAD_PROFILES}/p"
    for change in ({"workload": "b"}, {"accelerator": "A100"}, {"devices": 2}, {"coLocatedWith": "b"}):
        with pytest.raises(KubernetesError, match="create another object for it"):
            await kubernetes.patch(path, {"spec": change})
    await kubernetes.patch(path, {"spec": {"throughput": 1300}})


async def test_explain_reads_as_documentation(resources: Any) -> None:
    said = resources.kubectl("explain", "queues.spec.quotas", "--api-version=berth.dev/v1alpha1")
    assert "What it owns, by accelerator." in said
    assert "borrowingLimit" in said
    assert "No description" not in resources.kubectl("explain", "workloadprofiles.spec")


class Engine:
    """placement-engine in the cluster, by the rights of its service account."""

    def __init__(self, system: System, process: ServiceProcess, kubernetes: Kubernetes) -> None:
        self.system = system
        self.process = process
        self._kubernetes = kubernetes

    async def stub(self) -> PlacementServiceStub:
        return PlacementServiceStub(connect(self.process.endpoint("grpc")))

    async def ready(self, collection: str, name: str, reason: str) -> Object:
        """The object, once its condition Ready has that reason for its present generation."""

        async def asked() -> Object | None:
            one = await self._kubernetes.get(f"{collection}/{name}")
            for condition in (one.get("status") or {}).get("conditions", ()):
                current = condition["observedGeneration"] == one["metadata"]["generation"]
                if condition["type"] == "Ready" and condition["reason"] == reason and current:
                    return one
            return None

        found: Object = await self.system.eventually(asked, 20)
        return found

    async def queues(self) -> dict[str, fleet_pb2.Queue]:
        async with connect(self.process.endpoint("grpc")) as channel:
            answer = await PlacementServiceStub(channel).ListQueues(placement_pb2.ListQueuesRequest())  # type: ignore[misc]
            return {queue.name: queue for queue in answer.queues}


@pytest.fixture
async def engine(resources: Any, kubernetes: Kubernetes, system: System) -> Engine:
    process = system.service(
        "placement-engine",
        kubernetes="true",
        kubeconfig=str(resources.kubeconfig),
        reconcile_seconds="0.5",
        policy=json.dumps({"cordon_clear_seconds": 0.5}),
    )
    await process.ready()
    return Engine(system, process, kubernetes)


def message(thing: Object) -> str:
    return str(thing["status"]["conditions"][0]["message"])


async def test_queues_and_pools_come_into_force_and_say_so(
    engine: Engine, resources: Any, kubernetes: Kubernetes
) -> None:
    # The child comes before its parent: it waits, and then it is taken.
    vision = {
        "parent": "research", "weight": 3, "tenants": ["vision"], "deviceLimit": 9, "reclaim": "LowerPriority",
        "quotas": [{"accelerator": "h100 sxm", "devices": 2.5, "borrowingLimit": 1}], "protected": "10m",
    }  # fmt: skip
    await kubernetes.post(QUEUES, thing(QUEUES, "vision", vision))
    refused = await engine.ready(QUEUES, "vision", "Refused")
    assert message(refused) == "spec.parent: 'research': unknown queue: name an existing one"
    await kubernetes.post(QUEUES, thing(QUEUES, "research", {}))
    await engine.ready(QUEUES, "vision", "InForce")
    assert (await engine.queues())["vision"] == fleet_pb2.Queue(
        name="vision", parent="research", weight=3, tenants=["vision"], device_limit=9, protected_seconds=600,
        reclaim=fleet_pb2.RECLAIM_LOWER_PRIORITY, kept_by="queues.berth.dev/vision",
        quotas=[fleet_pb2.Quota(accelerator="H100-SXM", devices=2.5, borrowing_limit=1)],
        quota_use=[fleet_pb2.QuotaUse(accelerator="H100-SXM", owned=2.5)],
    )  # fmt: skip

    # A spec that is refused leaves the one before in force.
    await kubernetes.patch(f"{QUEUES}/vision", {"spec": {"quotas": [{"accelerator": "H1000", "devices": 1}]}})
    said = message(await engine.ready(QUEUES, "vision", "Refused"))
    assert said.startswith("spec.quotas[0].accelerator: 'H1000': neither a model of the catalogue nor a class; near: ")
    assert said.endswith("; what was declared before stays in force")
    assert (await engine.queues())["vision"].quotas[0].devices == 2.5

    # Usage; a pool; what kubectl shows.
    await engine.system.publish_nodes([node("n-0", 4)])
    spec = job("one", devices=2, seconds=600, queue="vision", tenant="vision")
    await engine.system.publish_jobs([spec, job("two", devices=4, seconds=600, queue="vision", tenant="vision")])
    domains = [{"level": "rack", "name": "r1", "capWatts": 9000}]
    await kubernetes.post(POOLS, thing(POOLS, "default", {"powerDomains": domains}))
    await engine.ready(POOLS, "default", "InForce")

    async def used() -> Object | None:
        one = await kubernetes.get(f"{QUEUES}/research")
        return one if one["status"].get("devicesInUse") and one["status"].get("pendingJobs") else None

    research = await engine.system.eventually(used, 20)
    status = {key: value for key, value in research["status"].items() if key != "conditions"}
    assert status == {
        "observedGeneration": 1, "pendingJobs": 1, "runningJobs": 1, "devicesInUse": 2, "devicesBorrowed": 0,
    }  # fmt: skip
    pools = await kubernetes.get(f"{POOLS}/default")
    assert {key: pools["status"][key] for key in ("nodes", "devices")} == {"nodes": 1, "devices": 4}
    lines = resources.kubectl("get", "bq").splitlines()
    assert lines[0].split() == ["NAME", "PARENT", "WEIGHT", "PENDING", "RUNNING", "DEVICES", "BORROWED", "READY", "AGE"]
    assert lines[1].split()[:7] == ["research", "1", "1", "1", "2", "0", "True"]
    assert lines[2].split()[:2] == ["vision", "research"]

    # `berth apply` does not change what an object declares.
    async with connect(engine.process.endpoint("grpc")) as channel:
        stub = PlacementServiceStub(channel)
        for asked in (
            stub.ApplyQueues(placement_pb2.ApplyQueuesRequest(queues=[fleet_pb2.Queue(name="vision", weight=9)])),
            stub.ApplyPools(placement_pb2.ApplyPoolsRequest(pools=[fleet_pb2.Pool(name="default")])),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="is declared by the Kubernetes object") as told:
                await asked  # type: ignore[misc]
            assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        # Without the object it may again.
        await kubernetes.delete(f"{POOLS}/default")

        async def free() -> bool:
            try:
                await stub.ApplyPools(placement_pb2.ApplyPoolsRequest(pools=[fleet_pb2.Pool(name="default")]))  # type: ignore[misc]
            except grpc.aio.AioRpcError:
                return False
            return True

        await engine.system.eventually(free, 20)


async def test_a_queue_goes_once_nothing_is_left_in_it(engine: Engine, kubernetes: Kubernetes) -> None:
    await kubernetes.post(QUEUES, thing(QUEUES, "a", {}))
    await kubernetes.post(QUEUES, thing(QUEUES, "b", {"parent": "a"}))
    await engine.ready(QUEUES, "b", "InForce")
    await engine.system.publish_jobs([job("waits", devices=64, queue="a")])

    async def waits() -> bool:
        return (await engine.queues())["a"].pending_jobs == 1

    await engine.system.eventually(waits, 20)
    await kubernetes.delete(f"{QUEUES}/a")

    async def says_what_is_left() -> bool:
        return "1 jobs wait in it" in message(await kubernetes.get(f"{QUEUES}/a"))

    await engine.system.eventually(says_what_is_left, 20)
    assert message(await engine.ready(QUEUES, "a", "Terminating")) == (
        "takes no new jobs, and goes once nothing is left: 1 jobs wait in it, it is the parent of b; "
        "cancel or delete them, or wait"
    )
    async with connect(engine.process.endpoint("grpc")) as channel:
        stub = PlacementServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="is being deleted and takes no new jobs"):
            await stub.PlaceJob(placement_pb2.PlaceJobRequest(spec=job("late", queue="a")))  # type: ignore[misc]
        assert (await engine.system.job_states()) == {1: 1}
        await kubernetes.delete(f"{QUEUES}/b")
        await stub.CancelJob(placement_pb2.CancelJobRequest(job="waits"))  # type: ignore[misc]

    async def gone() -> bool:
        things, _ = await kubernetes.list(QUEUES)
        return not things

    await engine.system.eventually(gone, 30)
    assert list(await engine.queues()) == ["default"]


async def test_of_two_engines_one_keeps_the_objects_and_the_other_takes_over(
    resources: Any, kubernetes: Kubernetes, system: System
) -> None:
    settings = {
        "kubernetes": "true", "kubeconfig": str(resources.kubeconfig), "reconcile_seconds": "0.5",
        "planner_lease_seconds": "1.5",
    }  # fmt: skip
    processes = [system.service("placement-engine", name=f"engine-{n}", instance=f"e{n}", **settings) for n in "ab"]
    for process in processes:
        await process.ready()
    engines = {f"e{n}": Engine(system, one, kubernetes) for n, one in zip("ab", processes, strict=True)}
    await kubernetes.post(POOLS, thing(POOLS, "default", {}))
    await kubernetes.post(QUEUES, thing(QUEUES, "a", {"deviceLimit": 1}))
    await engines["ea"].ready(QUEUES, "a", "InForce")
    planner = (await engines["ea"].ready(POOLS, "default", "InForce"))["status"]["planner"]
    log = engines[planner].process.log.read_text()
    other = next(one for name, one in engines.items() if name != planner)
    assert "queue is declared by the cluster" in log
    assert "queue is declared by the cluster" not in other.process.log.read_text()

    async def both_know() -> bool:
        known = [(await one.queues()).get("a") for one in engines.values()]
        return all(queue is not None and queue.device_limit == 1 for queue in known)

    await system.eventually(both_know, 20)
    engines[planner].process.kill()
    await kubernetes.patch(f"{QUEUES}/a", {"spec": {"deviceLimit": 2}})
    await other.ready(QUEUES, "a", "InForce")
    assert (await other.queues())["a"].device_limit == 2


RULES = "/apis/resource.k8s.io/v1/devicetaintrules"
DRIVER = "gpu.example.com"


def resource_slice(node: str, devices: int) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-gpu"},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": f"gpu-{index}"} for index in range(devices)],
        },
    }


async def test_verdicts_on_devices_of_slices_are_taints_as_long_as_they_hold(
    engine: Engine, kubernetes: Kubernetes
) -> None:
    listed = node("n-0", 4)
    for device in listed.devices:
        device.device_id = f"{DRIVER}/n-0/gpu-{device.index}"
    await kubernetes.post("/apis/resource.k8s.io/v1/resourceslices", resource_slice("n-0", 4))
    foreign = {"key": "example.com/repair", "effect": "NoSchedule"}
    await kubernetes.post(
        RULES,
        {"metadata": {"name": "berth-like"}, "spec": {"deviceSelector": {"driver": DRIVER}, "taint": foreign}},
    )
    # The other node's devices are of a device plugin: nobody allocates them by claims.
    await engine.system.publish_nodes([listed, node("n-1", 1)])
    sequence = 0

    async def report(*samples: tuple[str, dict[str, Any]], boot: str) -> None:
        nonlocal sequence
        sequence += 1
        for name in ("n-0", "n-1"):
            devices = [
                telemetry_pb2.DeviceSample(device_id=device_id, **fields)
                for device_id, fields in samples
                if (name == "n-1") == device_id.startswith("n-1")
            ]
            one = telemetry_pb2.NodeTelemetry(node=name, boot_id=boot, sequence=sequence, devices=devices)
            one.received_at.GetCurrentTime()
            await engine.system.producer.send(TELEMETRY_DEVICES, one.SerializeToString(), key=name.encode())
        await engine.system.producer.flush()

    gpus = [f"{DRIVER}/n-0/gpu-{index}" for index in range(4)]
    well = {"error_code": 0, "healthy": True, "margin_celsius": 40.0, "throttle_bits": 0}

    async def rules() -> dict[str, tuple[str, str, str]]:
        """Device to key, value and effect; of the foreign one "-"."""
        found, _ = await kubernetes.list(RULES)
        return {
            one["spec"]["deviceSelector"].get("device", "-"): (
                one["spec"]["taint"]["key"], one["spec"]["taint"].get("value", ""), one["spec"]["taint"]["effect"],
            )
            for one in found
        }  # fmt: skip

    def until(expected: dict[str, tuple[str, str, str]], *samples: tuple[str, dict[str, Any]], boot: str) -> Any:
        async def asked() -> bool:
            await report(*samples, boot=boot)  # as exporters do, again and again
            return await rules() == {"-": ("example.com/repair", "", "NoSchedule"), **expected}

        return engine.system.eventually(asked, 20)

    sick = (gpus[0], {**well, "error_code": 48})
    faulty = {"gpu-0": ("berth.dev/faulty", "error-48", "NoSchedule")}
    hot = {"gpu-1": ("berth.dev/hot", "", "NoSchedule")}
    ill = {"gpu-2": ("berth.dev/faulty", "", "NoSchedule")}
    await until(
        faulty | hot | ill,
        sick, (gpus[1], {**well, "margin_celsius": 1.0}), (gpus[2], {**well, "healthy": False}), (gpus[3], well),
        ("n-1/0", {**well, "error_code": 48}), boot="a",
    )  # fmt: skip
    made = (await kubernetes.list(RULES, labelSelector="app.kubernetes.io/managed-by=berth"))[0]
    assert {one["metadata"]["annotations"]["berth.dev/verdict"] for one in made} == {
        "on node n-0: error 48, uncorrectable memory error",
        "on node n-0: too little heat margin",
        "on node n-0: unhealthy",
    }
    # Cool again; silence says nothing of the other two.
    await until(faulty | ill, (gpus[1], well), (gpus[3], well), boot="a")
    # An engine that starts anew has heard nothing yet: a rule stays until it hears that the device is well.
    engine.process.kill()
    engine.process.start()
    await engine.process.ready()
    await until(faulty, (gpus[2], well), (gpus[3], well), boot="b")
    await until({}, (gpus[0], well), boot="c")


async def test_profiles_are_stored_each_generation_once(resources: Any, kubernetes: Kubernetes, system: System) -> None:
    process = system.service(
        "profile-store",
        kubernetes="true",
        kubeconfig=str(resources.kubeconfig),
    )
    await process.ready()
    store = Engine(system, process, kubernetes)
    await kubernetes.post(WORKLOAD_PROFILES, thing(WORKLOAD_PROFILES, "good", PROFILE))
    await kubernetes.post(
        WORKLOAD_PROFILES, thing(WORKLOAD_PROFILES, "bad", {**PROFILE, "accelerator": "H1000", "devices": 2})
    )
    await store.ready(WORKLOAD_PROFILES, "good", "Stored")
    assert "not in the accelerator catalogue" in message(await store.ready(WORKLOAD_PROFILES, "bad", "Refused"))
    async with connect(process.endpoint("grpc")) as channel:
        stub = ProfileServiceStub(channel)

        async def stored() -> profiles_pb2.Profile:
            asked = profiles_pb2.GetProfileRequest(workload="llama-8b", accelerator="H100-SXM", devices=1)
            return (await stub.GetProfile(asked)).profile  # type: ignore[misc]

        first = await stored()
        assert (first.throughput, first.memory_bytes, first.source) == (1200, 40 * 2**30, "own benchmark")
        # What a benchmark reports later stands, whatever happens to the object's status, until its spec changes.
        later = profiles_pb2.Profile()
        later.CopyFrom(first)
        later.throughput = 1500
        await stub.PutProfiles(profiles_pb2.PutProfilesRequest(profiles=[later]))  # type: ignore[misc]
        process.kill()
        process.start()
        await process.ready()
    async with connect(process.endpoint("grpc")) as channel:
        stub = ProfileServiceStub(channel)
        await kubernetes.post(WORKLOAD_PROFILES, thing(WORKLOAD_PROFILES, "other", {**PROFILE, "devices": 4}))
        await store.ready(WORKLOAD_PROFILES, "other", "Stored")
        assert (await stored()).throughput == 1500
        await kubernetes.patch(f"{WORKLOAD_PROFILES}/good", {"spec": {"throughput": 1300}})
        await store.ready(WORKLOAD_PROFILES, "good", "Stored")
        assert (await stored()).throughput == 1300
