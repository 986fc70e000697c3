"""Pods of a real API server become jobs of a real engine, through the real binder."""

import asyncio
import socket
from typing import Any

import pytest

from berth.grpc import connect
from berth.kubernetes.client import Kubernetes, KubernetesError, Object
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from tests.kubernetes.conftest import pod
from tests.services import ServiceProcess, System, node

PODS = "/api/v1/namespaces/default/pods"
GROUPS = "/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups"
PENDING, PLACED, CANCELLED = 1, 2, 7


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def cordoned(name: str, *, devices: int = 8) -> fleet_pb2.Node:
    made = node(name, devices)
    made.schedulable, made.cordon_reason = False, "under repair"
    del made.executors[:]
    made.executors.append("kubernetes")
    return made


class Scheduler:
    """An engine and a binder on one cluster."""

    def __init__(self, system: System, cluster: Any, kubernetes: Kubernetes) -> None:
        self.system, self.cluster, self.kubernetes = system, cluster, kubernetes
        port = free_port()
        self.engine = system.service("placement-engine", grpc_listen=f"127.0.0.1:{port}")
        self._binder = {"kubernetes": "true", "kubeconfig": str(cluster.kubeconfig), "engine": f"127.0.0.1:{port}"}
        self.binder = self.start_binder("binder")

    def start_binder(self, name: str) -> ServiceProcess:
        return self.system.service("binder", name=name, **self._binder)

    async def create(self, manifest: Object) -> str:
        """The pod's uid."""
        return str((await self.kubernetes.post(PODS, manifest))["metadata"]["uid"])

    async def delete(self, name: str) -> None:
        await self.kubernetes.delete(f"{PODS}/{name}", grace_seconds=0)

    async def jobs(self) -> list[dict[str, Any]]:
        """Accepted first, first: name, state, replicas, message."""
        rows = await self.system.fetch("SELECT name, state, spec, message FROM engine.job ORDER BY accepted_at, job_id")
        found = []
        for row in rows:
            spec = jobs_pb2.JobSpec.FromString(row["spec"])
            found.append({
                "name": row["name"], "state": row["state"], "message": row["message"], "spec": spec,
                "pods": [one.name for one in spec.kubernetes.pods],
            })  # fmt: skip
        return found

    async def states(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for job in await self.jobs():
            found.setdefault(job["name"], []).append(job["state"])
        return found

    async def until(self, wanted: dict[str, list[int]]) -> None:
        try:
            await self.system.eventually(lambda: self._are(wanted), seconds=20.0)
        except AssertionError as error:
            raise AssertionError(f"wanted {wanted}, there are {await self.states()}") from error

    async def _are(self, wanted: dict[str, list[int]]) -> bool:
        return await self.states() == wanted

    async def condition(self, name: str) -> Object:
        try:
            found = await self.kubernetes.get(f"{PODS}/{name}")
        except KubernetesError:
            return {}
        conditions = found.get("status", {}).get("conditions") or []
        return next((one for one in conditions if one["type"] == "PodScheduled"), {})

    async def message(self, name: str, contains: str) -> str:
        """The condition's message, once it says that."""

        async def says() -> str:
            text = str((await self.condition(name)).get("message", ""))
            return text if contains in text else ""

        try:
            return str(await self.system.eventually(says, seconds=20.0))
        except AssertionError as error:
            raise AssertionError(f"{contains!r} not said, but {await self.condition(name)}\n{error}") from error


@pytest.fixture
async def scheduler(system: System, cluster: Any, kubernetes: Kubernetes) -> Scheduler:
    made = Scheduler(system, cluster, kubernetes)
    await made.engine.ready()
    await made.binder.ready()
    return made


async def test_a_pod_becomes_a_job_that_says_why_it_waits_and_ends_with_the_pod(scheduler: Scheduler) -> None:
    await scheduler.system.publish_nodes([cordoned("n0", devices=2)])
    big = pod("big", limits={"nvidia.com/gpu": 2}, annotations={"berth.dev/objective": "time"})
    await scheduler.create(big)
    await scheduler.until({"big": [PENDING]})
    (job,) = await scheduler.jobs()
    spec = job["spec"]
    assert (spec.tenant, spec.queue, spec.executor, spec.resources.devices) == ("default", "default", "kubernetes", 2)
    assert (list(spec.accelerators.stacks), spec.objective, spec.resources.cpu_milli) == (["CUDA"], 2, 1000)
    text = await scheduler.message("big", "waits")
    condition = await scheduler.condition("big")
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    shown = scheduler.cluster.kubectl("describe", "pod", "big")
    print(shown)
    assert "FailedScheduling" in shown
    assert text.split(".")[0] in shown
    await scheduler.delete("big")
    await scheduler.until({"big": [CANCELLED]})


async def test_a_bad_wish_is_said_on_the_pod_and_a_better_one_is_taken(scheduler: Scheduler) -> None:
    await scheduler.create(pod("odd", annotations={"berth.dev/objective": "cheap", "berth.dev/deadline": "soon"}))
    await scheduler.create(pod("astray", annotations={"berth.dev/queue": "nowhere"}))
    text = await scheduler.message("odd", "refused")
    assert "metadata.annotations[berth.dev/objective]: 'cheap': write one of: cost, time, latency, energy" in text
    assert "berth.dev/deadline" in text
    assert "metadata.annotations[berth.dev/queue]: 'nowhere': unknown queue" in await scheduler.message(
        "astray", "nowh"
    )
    assert await scheduler.jobs() == []
    better = {"metadata": {"annotations": {"berth.dev/objective": "cost", "berth.dev/deadline": None}}}
    await scheduler.kubernetes.patch(f"{PODS}/odd", better)
    await scheduler.until({"odd": [PENDING]})
    # Another wish while it waits is another job, and the first one ends.
    await scheduler.kubernetes.patch(f"{PODS}/odd", {"metadata": {"annotations": {"berth.dev/objective": "energy"}}})
    await scheduler.until({"odd": [CANCELLED, PENDING]})


async def test_a_gang_waits_for_its_minimum_and_is_one_job(scheduler: Scheduler) -> None:
    group = {
        "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup", "metadata": {"name": "ring"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 3}}},
    }  # fmt: skip
    member = {"schedulingGroup": {"podGroupName": "ring"}}
    await scheduler.create(pod("ring-0", **member))
    assert "PodGroup ring (scheduling.k8s.io) does not exist" in await scheduler.message("ring-0", "exist")
    await scheduler.kubernetes.post(GROUPS, group)
    await scheduler.create(pod("ring-1", **member))
    assert "2 of 3 pods of PodGroup ring" in await scheduler.message("ring-0", "2 of 3")
    assert await scheduler.jobs() == []
    await scheduler.create(pod("ring-2", **member))
    await scheduler.until({"ring": [PENDING]})
    # A fourth pod joins while the gang waits; one is deleted.
    await scheduler.create(pod("ring-3", **member))
    await scheduler.until({"ring": [CANCELLED, PENDING]})
    (first, second) = await scheduler.jobs()
    assert first["pods"] == ["ring-0", "ring-1", "ring-2"]
    assert second["pods"] == ["ring-0", "ring-1", "ring-2", "ring-3"]
    assert (second["spec"].replicas, second["spec"].min_replicas) == (4, 3)
    await scheduler.delete("ring-1")
    await scheduler.until({"ring": [CANCELLED, CANCELLED, PENDING]})
    await scheduler.delete("ring-0")
    await scheduler.until({"ring": [CANCELLED, CANCELLED, CANCELLED]})
    assert "2 of 3 pods" in await scheduler.message("ring-3", "2 of 3")


async def test_a_restart_neither_loses_nor_doubles_nor_writes_again(scheduler: Scheduler) -> None:
    for name in ("kept", "leaves"):
        await scheduler.create(pod(name))
    await scheduler.until({"kept": [PENDING], "leaves": [PENDING]})
    await scheduler.message("kept", "waits")
    await scheduler.message("leaves", "waits")
    scheduler.binder.kill()
    before = (await scheduler.kubernetes.get(f"{PODS}/kept"))["metadata"]["resourceVersion"]
    await scheduler.delete("leaves")
    await scheduler.create(pod("comes"))
    scheduler.binder.start()
    await scheduler.until({"kept": [PENDING], "leaves": [CANCELLED], "comes": [PENDING]})
    await scheduler.message("comes", "waits")
    assert (await scheduler.kubernetes.get(f"{PODS}/kept"))["metadata"]["resourceVersion"] == before


async def test_a_gate_holds_a_pod_back_and_a_cancel_in_berth_is_heard(scheduler: Scheduler) -> None:
    await scheduler.create(pod("gated", schedulingGates=[{"name": "example.com/quota"}]))
    await scheduler.create(pod("stopped"))
    await scheduler.until({"stopped": [PENDING]})
    assert (await scheduler.condition("gated"))["reason"] == "SchedulingGated"
    await scheduler.kubernetes.patch(f"{PODS}/gated", {"spec": {"schedulingGates": None}}, kind="strategic")
    await scheduler.until({"stopped": [PENDING], "gated": [PENDING]})
    async with connect(scheduler.engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        await stub.CancelJob(placement_pb2.CancelJobRequest(job="default/stopped", reason="not today"))
    assert "not today" in await scheduler.message("stopped", "was cancelled in Berth")
    await asyncio.sleep(1.0)
    assert await scheduler.states() == {"stopped": [CANCELLED], "gated": [PENDING]}
