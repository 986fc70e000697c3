"""A real cluster's nodes, pods and exporters in the fleet: the real telemetry-ingest on a real API server."""

import asyncio
from collections.abc import Callable
from typing import Any

from berth.fleet_emulator import EmulatedFleet, serve
from berth.kubernetes.client import Kubernetes
from berth.v1 import fleet_pb2
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
    version = node.version
    # While ingest is dead a pod goes, one comes and a node leaves.
    fleet.ingest.kill()
    await kubernetes.delete(f"{PODS}/theirs", grace_seconds=0)
    await kubernetes.post(PODS, pod("other", scheduler="other", limits={"nvidia.com/gpu": 4}, nodeName="gpu-1"))
    await kubernetes.delete(f"{NODES}/gone-0")
    fleet.ingest.start()
    await fleet.ingest.ready()
    node = await fleet.until("gpu-0", lambda node: len(held(node)) == 1)
    assert (held(node), node.version) == ({"gpu-0/nvidia.com-gpu/1": "default/late"}, version + 1)
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
        fleet = await Fleet(system, cluster, kubernetes).start(scrape_interval_seconds="0.2")
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
