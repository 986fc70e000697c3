"""Admission beside Kueue, on its real types: whether and where a Workload with quota would fit now."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes, Object
from berth.v1 import fleet_pb2
from tests.kubernetes import kueue
from tests.kubernetes.extending import Extended, fleet_node
from tests.kubernetes.kueue import API, VERSION, WORKLOADS, KueueStandIn, a_pod_set
from tests.services import System

CHECK = "berth"


@pytest.fixture(scope="module")
def kueue_types(shared_cluster: Any) -> Iterator[None]:
    """Kueue's types in the cluster, and out of it again."""
    folder = kueue.definitions()
    if isinstance(folder, str):
        if os.environ.get("CI"):
            pytest.fail(f"CI must run on Kueue's real types, but: {folder}", pytrace=False)
        pytest.skip(folder)
    assert isinstance(folder, Path)
    kinds = ("admissionchecks", "resourceflavors", "workloads")
    names = [f"{kind}.kueue.x-k8s.io" for kind in kinds]
    files = [f"--filename={folder}/kueue.x-k8s.io_{kind}.yaml" for kind in kinds]
    shared_cluster.kubectl("apply", "--server-side", *files)
    until = time.monotonic() + 30
    while not all(served(shared_cluster, kind) for kind in kinds):
        assert time.monotonic() < until, "Kueue's types are not served"
        time.sleep(0.1)
    yield
    shared_cluster.kubectl("delete", "crd", *names)


def served(cluster: Any, kind: str) -> bool:
    try:
        cluster.request("GET", f"{API}/{kind}")
    except RuntimeError:
        return False
    return True


@pytest.fixture
async def admission(
    system: System, cluster: Any, kueue_types: None, kubernetes: Kubernetes
) -> AsyncIterator["Admission"]:
    made = Admission(system, kubernetes, str(cluster.kubeconfig))
    yield made
    for path in (WORKLOADS, f"{API}/admissionchecks", f"{API}/resourceflavors"):
        await kubernetes.request("DELETE", path)


class Admission:
    def __init__(self, system: System, client: Kubernetes, kubeconfig: str) -> None:
        self._system = system
        self._client = client
        self._kubeconfig = kubeconfig
        self.kueue = KueueStandIn(client)
        self.berth: Extended

    async def start(self, *nodes: fleet_pb2.Node, **check: Any) -> None:
        """The engine with these nodes, and an AdmissionCheck of its own that is active."""
        await self.add_check(CHECK, **check)
        self.berth = await Extended.started(
            self._system, list(nodes), kubernetes="true", kubeconfig=self._kubeconfig
        )  # fmt: skip
        await self.condition(CHECK)

    async def add_check(self, name: str, **spec: Any) -> None:
        manifest = {"apiVersion": VERSION, "kind": "AdmissionCheck", "metadata": {"name": name}}
        spec = {"controllerName": "berth.dev/placement", **spec}
        await self._client.post(f"{API}/admissionchecks", {**manifest, "spec": spec})

    async def condition(self, check: str) -> tuple[str, str, str]:
        """The check's Active condition, once it has one."""

        async def told() -> Any:
            status = (await self._client.get(f"{API}/admissionchecks/{check}")).get("status") or {}
            return [(one["status"], one["reason"], one["message"]) for one in status.get("conditions") or ()]

        (found,) = await self._system.eventually(told)
        return found  # type: ignore[no-any-return]

    async def answer(self, workload: str) -> Object:
        """The entry of our check, once it is not pending."""

        async def told() -> Any:
            found = await self._client.get(f"{WORKLOADS}/{workload}")
            (ours,) = [one for one in found["status"]["admissionChecks"] if one["name"] == CHECK]
            (other,) = [one for one in found["status"]["admissionChecks"] if one["name"] != CHECK]
            assert other["state"] == "Pending"
            return None if ours["state"] == "Pending" else ours

        return await self._system.eventually(told)  # type: ignore[no-any-return]


def a_node(
    name: str, rack: str = "", *, devices: int = 8, product: str = "NVIDIA-H100-80GB-HBM3", **fields: Any
) -> Any:
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": product, "topology.kubernetes.io/zone": "z1"}
    topology = {"node": name, "zone": "z1"}
    if rack:
        labels["topology.berth.dev/rack"] = topology["rack"] = rack
    return fleet_node(name, devices, labels=labels, topology=topology, **fields)


async def test_what_fits_is_ready_and_led_to_where_berth_would_put_it(admission: Admission) -> None:
    await admission.start(
        a_node("a1", "ra"), a_node("a2", "ra"), a_node("b1", "rb"), a_node("b2", "rb"),
        a_node("l4", "rb", model="L4", product="NVIDIA-L4"),
    )  # fmt: skip
    assert await admission.condition(CHECK) == (
        "True", "Active", "Berth answers whether and where a workload fits now",
    )  # fmt: skip
    await admission.berth.margins(a1=1.0, a2=1.0, b1=40.0, b2=30.0)
    wish: dict[str, Any] = {"annotations": {"berth.dev/accelerators": "H100-SXM"}}
    await admission.kueue.reserves_quota("one", CHECK, a_pod_set(**wish))
    answer = await admission.answer("one")
    product = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert answer["podSetUpdates"] == [
        {"name": "main", "nodeSelector": {**product, "kubernetes.io/hostname": "b1"}}
    ]  # fmt: skip
    assert (answer["state"], answer["message"].partition(" ")[0]) == ("Ready", "berth:")
    # The first is promised b1, so that two more do not fit, and one does.
    await admission.kueue.reserves_quota("two", CHECK, a_pod_set(count=2, **wish))
    answer = await admission.answer("two")
    assert (answer["state"], answer["requeueAfterSeconds"]) == ("Retry", 15)
    assert answer["message"].startswith("berth: 1 of 2 replicas fit at once on one model; 16 devices are too hot")
    assert "podSetUpdates" not in answer
    await admission.berth.margins(a1=40.0, a2=40.0, b1=12.0, b2=12.0)
    await admission.kueue.asks_again("two", CHECK)
    answer = await admission.answer("two")
    assert answer["state"] == "Ready"
    assert answer["podSetUpdates"] == [{"name": "main", "nodeSelector": {**product, "topology.berth.dev/rack": "ra"}}]


async def test_pod_sets_of_several_shapes_are_one_gang_and_keys_that_are_there_already_stay(
    admission: Admission,
) -> None:
    await admission.start(
        a_node("a1", "ra", model="L4", product="NVIDIA-L4"), a_node("b1", "rb"), a_node("b2", "rb"),
    )  # fmt: skip
    there = {"nodeSelector": {"topology.berth.dev/rack": "rb"}, "annotations": {"berth.dev/accelerators": "H100-SXM"}}
    own = {"schedulerName": "berth", "annotations": {"berth.dev/accelerators": "L4"}}
    await admission.kueue.reserves_quota(
        "mixed", CHECK, a_pod_set("driver", 1, 2, **own), a_pod_set("workers", 2, 8, **there)
    )
    answer = await admission.answer("mixed")
    # Berth places the driver itself; the workers' rack is said already.
    assert (answer["state"], answer["podSetUpdates"]) == (
        "Ready",
        [{"name": "workers", "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}],
    )


async def test_what_never_fits_or_is_not_understood_is_rejected(admission: Admission) -> None:
    await admission.start(a_node("a1"), a_node("a2"))
    await admission.kueue.reserves_quota("unclear", CHECK, a_pod_set(annotations={"berth.dev/objective": "fast"}))
    answer = await admission.answer("unclear")
    assert answer["state"] == "Rejected"
    assert "podSets[main]" in answer["message"]
    assert "metadata.annotations[berth.dev/objective]: 'fast': write one of" in answer["message"]
    # A fleet that has just come is not taken to be all there will be.
    await admission.kueue.reserves_quota("early", CHECK, a_pod_set(count=3))
    answer = await admission.answer("early")
    assert (answer["state"], answer["requeueAfterSeconds"]) == ("Retry", 15)
    assert "larger than pool 'default'" in answer["message"]
    until = time.monotonic() + 60
    while answer["state"] == "Retry" and time.monotonic() < until:
        await asyncio.sleep(2.0)
        await admission.kueue.asks_again("early", CHECK)
        answer = await admission.answer("early")
    assert answer["state"] == "Rejected"
    assert "2 of 3 members fit at once when all is free" in answer["message"]


async def test_parameters_name_a_pool_and_others_make_no_active_check(admission: Admission) -> None:
    await admission.start(a_node("a1"))
    for name, parameters, message in (
        ("other-kind", {"apiGroup": "kueue.x-k8s.io", "kind": "Thing", "name": "x"},
         "spec.parameters: 'kueue.x-k8s.io/Thing': name {apiGroup: berth.dev, kind: Pool}, or none"),
        ("no-pool", {"apiGroup": "berth.dev", "kind": "Pool", "name": "nowhere"},
         "spec.parameters.name: 'nowhere': unknown pool: use one of: default"),
    ):  # fmt: skip
        await admission.add_check(name, parameters=parameters)
        assert await admission.condition(name) == ("False", "BadParameters", message)
    await admission.add_check("pool", parameters={"apiGroup": "berth.dev", "kind": "Pool", "name": "default"})
    assert (await admission.condition("pool"))[0] == "True"


async def test_the_labels_of_a_flavor_count(admission: Admission, kubernetes: Kubernetes) -> None:
    await admission.start(a_node("a1", "ra"), a_node("b1", "rb"))
    await admission.berth.margins(a1=40.0, b1=30.0)
    for name, rack in (("rack-b", "rb"), ("rack-c", "rc")):
        flavor = {"apiVersion": VERSION, "kind": "ResourceFlavor", "metadata": {"name": name}}
        spec = {"nodeLabels": {"topology.berth.dev/rack": rack}}
        await kubernetes.post(f"{API}/resourceflavors", {**flavor, "spec": spec})
    await admission.kueue.reserves_quota("there", CHECK, a_pod_set(devices=4), flavor="rack-b")
    answer = await admission.answer("there")
    assert answer["state"] == "Ready"
    assert answer["podSetUpdates"][0]["nodeSelector"]["kubernetes.io/hostname"] == "b1"
    await admission.kueue.reserves_quota("nowhere", CHECK, a_pod_set(devices=4), flavor="rack-c")
    assert (await admission.answer("nowhere"))["state"] == "Retry"
