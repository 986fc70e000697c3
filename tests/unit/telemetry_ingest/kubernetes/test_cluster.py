"""What changes is gathered and told in batches; what cannot be stored is told again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from berth.kubernetes.client import Kubernetes
from berth.kubernetes.devices import DeviceResources
from telemetry_ingest.adapters.cluster import ClusterFleet
from tests.unit.telemetry_ingest.builders import World
from tests.unit.telemetry_ingest.kubernetes.builders import a_node, a_pod


class FakeKubernetes(Kubernetes):
    """Lists what it is given and never tells of changes: a test tells them to the informers."""

    def __init__(self, **collections: list[dict[str, Any]]) -> None:
        self.collections = collections

    async def list(self, path: str, *, page: int = 500, **query: Any) -> tuple[list[dict[str, Any]], str]:
        return self.collections.get(path.rpartition("/")[2], []), "1"

    async def watch(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        await asyncio.Event().wait()
        yield


@asynccontextmanager
async def following(
    world: World, client: FakeKubernetes, again: float = 60.0, exporters: tuple[str, ...] = ()
) -> AsyncIterator[ClusterFleet]:
    cluster = ClusterFleet(
        client,
        DeviceResources(),
        world.ingest,
        exporter_namespaces=exporters,
        gather_seconds=0.02,
        again_seconds=again,
    )
    task = asyncio.create_task(cluster.run())
    try:
        yield cluster
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(world: World, holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_wave_of_pods_is_one_change_of_a_node() -> None:
    world = World()
    async with following(world, FakeKubernetes(nodes=[a_node(resources={"nvidia.com/gpu": "4"})])) as cluster:
        await until(world, lambda: world.store.names() == [("n1", 1)])
        for number in range(50):
            cluster._pods._take({**a_pod(f"p{number}", {"cpu": "1"}), "kind": "Pod"})
        await until(world, lambda: world.ingest.inventory.nodes["n1"].cpu_milli_elsewhere == 50_000)
        assert world.store.names() == [("n1", 1), ("n1", 2)]
        for number in range(50):
            cluster._pods._take(a_pod(f"p{number}"), gone=True)
        await until(world, lambda: world.ingest.inventory.nodes["n1"].cpu_milli_elsewhere == 0)
        assert len(world.store.saved) == 3


async def test_what_could_not_be_stored_is_told_again() -> None:
    world = World()
    async with following(world, FakeKubernetes(nodes=[a_node()])) as cluster:
        await until(world, lambda: world.store.names() == [("n1", 1)])
        world.store.broken = True
        with capture_logs() as said:
            cluster._pods._take(a_pod(requests={"cpu": "1"}))
            await until(world, lambda: any("stored again" in one["event"] for one in said))
        assert world.ingest.inventory.nodes["n1"].cpu_milli_elsewhere == 0
        world.store.broken = False
        await until(world, lambda: world.store.names() == [("n1", 1), ("n1", 2)])


async def test_a_node_that_is_not_understood_is_left_as_it_was() -> None:
    world = World()
    async with following(world, FakeKubernetes(nodes=[a_node("n1"), a_node("n2")])):
        await until(world, lambda: len(world.store.saved) == 2)
    strange = {"metadata": {"name": "n2", "labels": 7}}
    with capture_logs() as said:
        async with following(world, FakeKubernetes(nodes=[strange])):
            await until(world, lambda: world.ingest.inventory.nodes["n1"].removed)
            await asyncio.sleep(0.1)
    assert not world.ingest.inventory.nodes["n2"].removed
    assert [one["object"] for one in said if "not understood" in one["event"]] == ["n2"]


async def test_nodes_that_left_while_nobody_watched_are_removed() -> None:
    world = World()
    async with following(world, FakeKubernetes(nodes=[a_node("n1"), a_node("n2")])):
        await until(world, lambda: len(world.store.saved) == 2)
    async with following(world, FakeKubernetes(nodes=[a_node("n2")])):
        await until(world, lambda: world.ingest.inventory.nodes["n1"].removed)
    assert world.store.names() == [("n1", 1), ("n2", 1), ("n1", 2)]


async def test_every_node_is_looked_at_again() -> None:
    """Nothing of the cluster changed, and the inventory is not as it has it."""
    world = World()
    async with following(world, FakeKubernetes(nodes=[a_node(unschedulable=True)]), again=0.2):
        await until(world, lambda: bool(world.store.saved))
        node = world.ingest.inventory.nodes["n1"]
        world.ingest.inventory.commit([replace(node, schedulable=True, cordon_reason="")])
        await until(world, lambda: world.ingest.inventory.nodes["n1"].cordon_reason == node.cordon_reason)


async def test_only_exporters_in_namespaces_of_operators_are_believed() -> None:
    """Who may make a pod in his own namespace must not speak for the node's devices."""

    def exporter(namespace: str, port: int, **changes: Any) -> dict[str, Any]:
        made = a_pod(f"p{port}", annotations={"berth.dev/exporter": "dcgm", "prometheus.io/port": str(port)}, **changes)
        return {**made, "metadata": {**made["metadata"], "namespace": namespace}}

    def endpoints(namespace: str, port: int) -> dict[str, Any]:
        labels = {"kubernetes.io/service-name": "dcgm-exporter"}
        return {
            "metadata": {"namespace": namespace, "name": "dcgm-exporter-1", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"port": port}],
            "endpoints": [{"nodeName": "n1", "addresses": ["10.0.0.9"]}],
        }

    found = {
        "nodes": [a_node()],
        "pods": [exporter("gpu-operator", 1), exporter("ml", 2), exporter("ml", 3)],
        "endpointslices": [endpoints("monitoring", 4), endpoints("ml", 5)],
    }

    async def scraped(*namespaces: str) -> tuple[list[str], list[str]]:
        world = World()
        with capture_logs() as said:
            async with following(world, FakeKubernetes(**found), exporters=namespaces):
                await until(world, lambda: bool(world.store.saved))
        left = [f"{one['namespace']}: {one['of']}" for one in said if "not believed" in one["event"]]
        return sorted(target.url.removeprefix("http://10.0.0.9:")[0] for target in world.scraped), left

    assert await scraped("gpu-operator", "monitoring") == (["1", "4"], ["ml: pod ml/p2"])
    assert await scraped() == (
        [],
        ["gpu-operator: pod gpu-operator/p1", "ml: pod ml/p2", "monitoring: slice monitoring/dcgm-exporter-1"],
    )
    assert await scraped("ml", "*") == (["1", "2", "3", "4", "5"], [])
