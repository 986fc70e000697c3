"""A real cluster's nodes, pods and exporters in the fleet: the real telemetry-ingest on a real API server."""

import asyncio
from collections.abc import Callable
from typing import Any

from berth.fleet_emulator import EmulatedFleet, serve
from berth.grpc import connect
from berth.jobs import parse_document
from berth.kubernetes.client import Kubernetes
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from tests.kubernetes.conftest import pod
from tests.services import ServiceProcess, System

NODES, PODS = "/api/v1/nodes", "/api/v1/namespaces/default/pods"


class Fleet:
    """telemetry-ingest on the cluster, and the inventory as it stored it."""

    def __init__(self, system: System, cluster: Any, kubernetes: Kubernetes) -> None:
        self.system, self.cluster, self.kubernetes = system, cluster, kubernetes
        self.ingest: ServiceProcess

    async def start(self, **settings: str) -> "Fleet":
        self.ingest = self.system.service(
            "telemetry-ingest", kubernetes="true", kubeconfig=str(self.cluster.kubeconfig), **settings
        )
        await self.ingest.ready()
        return self

    async def node(self, name: str) -> fleet_pb2.Node | None:
        rows = await self.system.fetch("SELECT record FROM ingest.node WHERE name = $1", name)
        return fleet_pb2.Node.FromString(rows[0]["record"]) if rows else None

    async def until(self, name: str, holds: Callable[[fleet_pb2.Node], bool], seconds: float = 30.0) -> fleet_pb2.Node:
        last: fleet_pb2.Node | None = None

        async def look() -> fleet_pb2.Node | None:
            nonlocal last
            last = await self.node(name)
            return last if last is not None and holds(last) else None

        try:
            found: fleet_pb2.Node = await self.system.eventually(look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{last}\n{error}") from None
        return found

    async def patch(self, name: str, change: dict[str, Any], *, status: bool = False) -> None:
        await self.kubernetes.patch(f"{NODES}/{name}{'/status' if status else ''}", change, kind="strategic")


def held(node: fleet_pb2.Node) -> dict[str, str]:
    return {device.device_id: device.held_by for device in node.devices if device.held_by}


async def test_a_nodes_life(system: System, cluster: Any, kubernetes: Kubernetes) -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "topology.berth.dev/rack": "r1"}
    await asyncio.to_thread(
        cluster.add_nodes, 1, prefix="gpu", resources={"nvidia.com/gpu": 2, "cpu": 16, "memory": "64Gi"}, labels=labels
    )
    fleet = await Fleet(system, cluster, kubernetes).start()
    # Added.
    node = await fleet.until("gpu-0", lambda node: node.schedulable)
    assert [(one.device_id, one.index, one.model, one.stack, one.present) for one in node.devices] == [
        ("gpu-0/nvidia.com-gpu/0", 0, "H100-SXM", "CUDA", True),
        ("gpu-0/nvidia.com-gpu/1", 1, "H100-SXM", "CUDA", True),
    ]
    assert (node.pool, node.cpu_milli, node.memory_bytes) == ("default", 16_000, 64 << 30)
    assert (list(node.executors), dict(node.topology), node.telemetry_exempt) == (["kubernetes"], {"rack": "r1"}, True)
    assert node.labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    # Relabelled and tainted.
    taint = {"key": "team", "value": "vision", "effect": "NoSchedule"}
    change = {
        "metadata": {"labels": {"berth.dev/pool": "spare", "berth.dev/accelerator": "H200"}},
        "spec": {"taints": [taint]},
    }
    await fleet.patch("gpu-0", change)
    node = await fleet.until("gpu-0", lambda node: node.pool == "spare" and bool(node.taints))
    assert [one.model for one in node.devices] == ["H200", "H200"]
    assert node.taints[0] == fleet_pb2.Taint(**taint)
    # Cordoned and back.
    await fleet.patch("gpu-0", {"spec": {"unschedulable": True}})
    node = await fleet.until("gpu-0", lambda node: not node.schedulable)
    assert node.cordon_reason == "Kubernetes: cordoned (spec.unschedulable)"
    await fleet.patch("gpu-0", {"spec": {"unschedulable": None}})
    await fleet.until("gpu-0", lambda node: node.schedulable and not node.cordon_reason)
    # A device falls ill: the node has it still, and nobody may use it.
    await fleet.patch("gpu-0", {"status": {"allocatable": {"nvidia.com/gpu": "1"}}}, status=True)
    node = await fleet.until("gpu-0", lambda node: bool(held(node)))
    assert held(node) == {"gpu-0/nvidia.com-gpu/1": "kubelet/not-allocatable"}
    # Under pressure.
    full = [{"type": "DiskPressure", "status": "True", "reason": "KubeletHasDiskPressure"}]
    await fleet.patch("gpu-0", {"status": {"conditions": full}}, status=True)
    node = await fleet.until("gpu-0", lambda node: not node.schedulable)
    assert node.cordon_reason == "Kubernetes: DiskPressure (KubeletHasDiskPressure)"
    # One that no kubelet looks after yet: it takes nothing before it is ready, nor afterwards.
    await kubernetes.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare"}})
    node = await fleet.until("bare", lambda node: not node.schedulable)
    assert node.cordon_reason.startswith("Kubernetes: not ready (")
    await fleet.patch(
        "bare", {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Well"}]}}, status=True
    )
    await fleet.until("bare", lambda node: node.schedulable)
    await fleet.patch(
        "bare", {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Ill"}]}}, status=True
    )
    node = await fleet.until("bare", lambda node: not node.schedulable)
    assert node.cordon_reason == "Kubernetes: not ready (Ill)"
    # Deleted, and made anew.
    await kubernetes.delete(f"{NODES}/gpu-0")
    await fleet.until("gpu-0", lambda node: node.removed)
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="gpu", resources={"nvidia.com/gpu": 4}, labels={})
    node = await fleet.until("gpu-0", lambda node: not node.removed and node.schedulable)
    assert [one.present for one in node.devices] == [True] * 4


async def test_foreign_pods_are_counted_and_freed_across_restarts(
    system: System, cluster: Any, kubernetes: Kubernetes
) -> None:
    await asyncio.to_thread(
        cluster.add_nodes, 2, prefix="gpu", resources={"nvidia.com/gpu": 4, "cpu": 16, "memory": "64Gi"}
    )
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="gone", resources={"nvidia.com/gpu": 1})
    fleet = await Fleet(system, cluster, kubernetes).start()
    await fleet.until("gpu-0", lambda node: node.schedulable)
    # A pod of somebody else's takes devices from the top, CPU and memory.
    await kubernetes.post(PODS, pod("theirs", scheduler="other", limits={"nvidia.com/gpu": 2}, nodeName="gpu-0"))
    node = await fleet.until("gpu-0", lambda node: len(held(node)) == 2)
    assert held(node) == {f"gpu-0/nvidia.com-gpu/{index}": "default/theirs" for index in (2, 3)}
    assert node.cpu_milli_elsewhere == 1000
    # One of Berth's changes nothing: its claim is in the ledger.
    ours = {"berth.dev/job": "j1", "berth.dev/devices": "gpu-0/nvidia.com-gpu/0"}
    await kubernetes.post(PODS, pod("ours", annotations=ours, limits={"nvidia.com/gpu": 1}, nodeName="gpu-0"))
    await kubernetes.post(PODS, pod("late", scheduler="other", limits={"nvidia.com/gpu": 1}, nodeName="gpu-0"))
    node = await fleet.until("gpu-0", lambda node: len(held(node)) == 3)
    assert held(node)["gpu-0/nvidia.com-gpu/1"] == "default/late"
    # While ingest is dead a pod goes, one comes and a node leaves.
    fleet.ingest.kill()
    await kubernetes.delete(f"{PODS}/theirs", grace_seconds=0)
    await kubernetes.post(PODS, pod("other", scheduler="other", limits={"nvidia.com/gpu": 4}, nodeName="gpu-1"))
    await kubernetes.delete(f"{NODES}/gone-0")
    fleet.ingest.start()
    await fleet.ingest.ready()
    node = await fleet.until("gpu-0", lambda node: len(held(node)) == 1)
    assert held(node) == {"gpu-0/nvidia.com-gpu/1": "default/late"}
    await fleet.until("gpu-1", lambda node: len(held(node)) == 4)
    await fleet.until("gone-0", lambda node: node.removed)
    # While the API server is dead nothing is freed; afterwards all is as it is there.
    cluster.kill("kube-apiserver")
    await asyncio.sleep(0.5)
    await asyncio.to_thread(cluster.start, "kube-apiserver")
    assert held((await fleet.node("gpu-1")) or fleet_pb2.Node()).keys() == {
        f"gpu-1/nvidia.com-gpu/{i}" for i in range(4)
    }
    await kubernetes.delete(f"{PODS}/other", grace_seconds=0)
    node = await fleet.until("gpu-1", lambda node: not held(node))
    assert (node.cpu_milli_elsewhere, node.memory_bytes_elsewhere) == (0, 0)
    # A pod that has ended takes nothing.
    await kubernetes.post(
        PODS, pod("short", scheduler="other", limits={"nvidia.com/gpu": 1}, nodeName="gpu-1", run_for="1s")
    )
    await fleet.until("gpu-1", lambda node: len(held(node)) == 1)
    await fleet.until("gpu-1", lambda node: not held(node))


async def test_an_exporter_in_the_cluster_speaks_for_the_kubelets_devices(
    system: System, cluster: Any, kubernetes: Kubernetes
) -> None:
    emulated = EmulatedFleet(nodes=1)
    runner, url = await serve(emulated)
    try:
        source = next(iter(emulated.nodes.values()))
        count = len(source.devices)
        await asyncio.to_thread(cluster.add_nodes, 1, prefix="gpu", resources={"nvidia.com/gpu": count})
        fleet = await Fleet(system, cluster, kubernetes).start(
            scrape_interval_seconds="0.2", exporter_namespaces="default"
        )
        node = await fleet.until("gpu-0", lambda node: node.schedulable)
        assert [one.model for one in node.devices] == [""] * count
        port = url.rpartition(":")[2]
        annotations = {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": port,
            "prometheus.io/path": f"/nodes/{source.name}/metrics",
        }
        exporter = pod(
            "dcgm", scheduler="other", annotations=annotations, labels={"app": "nvidia-dcgm-exporter"}, nodeName="gpu-0"
        )
        await kubernetes.post(PODS, exporter)
        # KWOK gives no addresses; a kubelet would.
        address = {"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}
        await kubernetes.patch(f"{PODS}/dcgm/status", address, kind="strategic")
        node = await fleet.until("gpu-0", lambda node: not node.telemetry_exempt)
        # The same devices under the same names, known now.
        assert [one.device_id for one in node.devices] == [f"gpu-0/nvidia.com-gpu/{index}" for index in range(count)]
        assert {one.model for one in node.devices} == {source.kind.model}
        # The exporter goes: the node needs no telemetry to take work.
        await kubernetes.delete(f"{PODS}/dcgm", grace_seconds=0)
        await fleet.until("gpu-0", lambda node: node.telemetry_exempt)
    finally:
        await runner.cleanup()


async def test_the_engine_places_beside_others_and_where_it_may(
    system: System, cluster: Any, kubernetes: Kubernetes
) -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4"}
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="a", resources={"nvidia.com/gpu": 4}, labels=labels)
    await asyncio.to_thread(
        cluster.add_nodes, 1, prefix="b", resources={"nvidia.com/gpu": 4}, labels={**labels, "disk": "ssd"}
    )
    await kubernetes.post(PODS, pod("theirs", scheduler="other", limits={"nvidia.com/gpu": 2}, nodeName="a-0"))
    fleet = await Fleet(system, cluster, kubernetes).start()
    await fleet.until("a-0", lambda node: len(held(node)) == 2)
    taint = {"key": "team", "value": "vision", "effect": "NoSchedule"}
    await fleet.patch("b-0", {"spec": {"taints": [taint]}})
    await fleet.until("b-0", lambda node: bool(node.taints) and node.schedulable)
    engine = system.service("placement-engine")
    await engine.ready()
    async with connect(engine.endpoint("grpc")) as channel:
        placement = PlacementServiceStub(channel)

        async def place(document: dict[str, Any]) -> None:
            spec = parse_document({"executor": "kubernetes", "kubernetes": {"manifest": pod("any")}, **document})
            await placement.PlaceJob(placement_pb2.PlaceJobRequest(spec=spec))  # type: ignore[misc]

        async def job(name: str) -> jobs_pb2.Job:
            return (await placement.GetJob(placement_pb2.GetJobRequest(job=name))).job  # type: ignore[misc, no-any-return]

        async def reasons(name: str) -> dict[str, str]:
            found = await placement.ExplainJob(placement_pb2.ExplainJobRequest(job=name))  # type: ignore[misc]
            return {reason.code: reason.message for reason in found.explanation.reasons}

        async def said(name: str, code: str) -> str:
            async def look() -> str:
                return (await reasons(name)).get(code, "")

            text: str = await system.eventually(look, 20)
            return text

        await place({"name": "waits", "devices": 4})
        assert await said("waits", "DEVICE_HELD_ELSEWHERE") == "2 devices are held outside Berth: default/theirs (2)"
        assert await said("waits", "TAINT_NOT_TOLERATED") == "does not tolerate team=vision:NoSchedule (1 nodes)"
        tolerant = {"required": [{"disk": "ssd"}], "tolerations": [{"key": "team", "operator": "Exists"}]}
        await place({"name": "tolerant", "devices": 4, "nodes": tolerant})

        async def node_of(name: str) -> str:
            members = (await job(name)).members
            return members[0].node if members else ""

        assert await system.eventually(lambda: node_of("tolerant"), 20) == "b-0"
        await kubernetes.delete(f"{PODS}/theirs", grace_seconds=0)
        assert await system.eventually(lambda: node_of("waits"), 20) == "a-0"
        assert (await system.audit(engine)).violations == []
