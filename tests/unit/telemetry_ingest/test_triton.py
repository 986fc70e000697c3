"""NVIDIA Triton beside a node: what its page says of devices, and that the node offers `triton` while it is ready.

The server is a real one.
"""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import psutil
import pytest

from berth.embedded.triton import TritonServer, unavailable
from berth.errors import InvalidInput, NotFound
from berth.kubernetes.devices import DeviceResources
from telemetry_ingest.adapters.triton_health import TritonHealth
from telemetry_ingest.domain.counters import Counters
from telemetry_ingest.domain.formats import detect, normalise
from telemetry_ingest.domain.inventory import FROM_KUBERNETES, DeviceRecord, NodeRecord
from telemetry_ingest.domain.kubernetes.nodes import NodeFacts, facts_of
from telemetry_ingest.domain.model import DeviceReading, NodeReading, Observation
from telemetry_ingest.domain.targets import NodeDeclaration, Target, parse_targets
from tests.unit.telemetry_ingest import pages
from tests.unit.telemetry_ingest.builders import World

# By the names and units of Triton's documentation; no GPU was at hand. The third is one that it could not read.
WITH_GPUS = """\
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
nv_inference_count{model="m",version="1"} 7
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.25
nv_gpu_utilization{gpu_uuid="GPU-b"} 0
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 85520809984
nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 85520809984
nv_gpu_memory_total_bytes{gpu_uuid="GPU-c"} 0
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 1000000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-b"} 0
nv_gpu_memory_used_bytes{gpu_uuid="GPU-c"} 0
nv_gpu_power_usage{gpu_uuid="GPU-a"} 321.5
nv_gpu_power_usage{gpu_uuid="GPU-b"} NaN
nv_gpu_power_usage{gpu_uuid="GPU-c"} 0
nv_gpu_power_limit{gpu_uuid="GPU-a"} 700
nv_energy_consumption{gpu_uuid="GPU-a"} 25000
nv_pinned_memory_pool_total_bytes 268435456
nv_cpu_utilization 0.5
nv_cpu_memory_total_bytes 64000000000
nv_cpu_memory_used_bytes 16000000000
"""
METRICS = Target("n1", "http://n1:8002/metrics", "triton")
GPUS = Target("n1", "http://n1:9400/metrics", "dcgm")


def read(text: str) -> Observation:
    return normalise(text, node="n1", now=0.0, counters=Counters())


def test_a_page_with_gpus_says_what_triton_measured_and_nothing_else() -> None:
    observation = read(WITH_GPUS)
    assert (observation.format, observation.fills) == ("triton", True)
    assert observation.node == NodeReading(
        cpu_utilisation=0.5, memory_used_bytes=16 * 10**9, memory_total_bytes=64 * 10**9
    )
    assert {device.device_id: device.reading for device in observation.devices} == {
        "GPU-a": DeviceReading(
            memory_used_bytes=10**9,
            memory_total_bytes=85520809984,
            power_watts=321.5,
            power_limit_watts=700.0,
            utilisation=0.25,
        ),
        "GPU-b": DeviceReading(memory_used_bytes=0, memory_total_bytes=85520809984, utilisation=0.0),
        "GPU-c": DeviceReading(),
    }


async def test_triton_makes_no_device_and_fills_in_what_the_others_leave_open() -> None:
    world = World()
    await world.declare(METRICS, GPUS)
    await world.ingest.on_page(METRICS, WITH_GPUS, "text/plain")
    assert world.ingest.inventory.nodes["n1"].devices == ()
    ((snapshot, _),) = world.ingest.drain()
    assert (snapshot.devices, snapshot.reading.cpu_utilisation) == ((), 0.5)
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    before = world.ingest.inventory.nodes["n1"]
    dcgm = dict(world.ingest.drain()[0][0].devices)
    world.tick()
    await world.ingest.on_page(METRICS, WITH_GPUS, "text/plain")
    ((snapshot, _),) = world.ingest.drain()
    # Dated by the page that measures them: Triton's makes them look neither younger nor older.
    assert snapshot.received_at == 1000.0
    assert dcgm["GPU-b"].utilisation is None
    assert dict(snapshot.devices) == {
        "GPU-a": dcgm["GPU-a"],
        "GPU-b": replace(dcgm["GPU-b"], memory_total_bytes=85520809984, utilisation=0.0, memory_used_bytes=0),
    }
    assert world.ingest.inventory.nodes["n1"] == before
    world.tick()
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    assert [snapshot.received_at for snapshot, _ in world.ingest.drain()] == [1010.0]
    # Nor does a device wait for it to be known as gone.
    await world.ingest.on_page(GPUS, pages.DCGM.replace("GPU-b", "GPU-z"), "text/plain")
    present = {one.device_id: one.present for one in world.ingest.inventory.nodes["n1"].devices}
    assert present == {"GPU-a": True, "GPU-b": False, "GPU-z": True}


async def test_a_page_of_a_node_that_is_not_there_is_refused() -> None:
    world = World()
    world.ingest.on_found_targets([METRICS])
    with pytest.raises(NotFound, match="n1"):
        await world.ingest.on_page(METRICS, WITH_GPUS, "text/plain")


@pytest.mark.parametrize(
    ("written", "triton", "metrics"),
    [
        ("http://n1:8000/", "http://n1:8000", ["http://n1:8002/metrics"]),
        ("https://[::1]:8000", "https://[::1]:8000", ["http://[::1]:8002/metrics"]),
        ({"url": "http://n1:8000", "metrics": "http://n1:9/m"}, "http://n1:8000", ["http://n1:9/m"]),
        ({"url": "http://n1:8000", "metrics": ""}, "http://n1:8000", []),
        (None, "", []),
    ],
)
def test_a_node_names_its_server(written: object, triton: str, metrics: list[str]) -> None:
    (declared,) = parse_targets([{"node": "n1", "triton": written}])
    assert (declared.triton, [(one.url, one.format) for one in declared.targets]) == (
        triton,
        [(url, "triton") for url in metrics],
    )


@pytest.mark.parametrize(
    ("written", "error"),
    [
        (
            "n1:8000",
            r"\[0\] \(n1\).triton.url: 'n1:8000': write an http or https address, for example http://host:8000",
        ),
        ({"metrics": "http://n1:8002"}, "triton: .*: write the server's address, or"),
        ({"url": "http://n1", "port": 1}, "triton: .*: write the server's address, or"),
        ({"url": "http://n1:8000", "metrics": "x"}, "triton.metrics: 'x': write an http or https address"),
        ({"url": "http://n1:99999999"}, "triton.url"),
        ({"url": None}, "triton.url"),
        (7, "triton: '7'"),
    ],
)
def test_a_wrong_server_is_named(written: object, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        parse_targets([{"node": "n1", "triton": written}])


def executors(world: World) -> tuple[str, ...]:
    return world.ingest.inventory.nodes["n1"].executors


def declared(*names: str, triton: str = "http://n1:8000") -> list[NodeDeclaration]:
    return [NodeDeclaration("n1", executors=names, triton=triton)]


async def test_a_node_offers_triton_only_while_its_server_is_ready() -> None:
    world = World()
    await world.ingest.on_targets(declared("process", "triton"))
    assert executors(world) == ("process",)
    await world.ingest.on_triton("n1", True)
    assert executors(world) == ("process", "triton")
    saved = world.store.names()
    await world.ingest.on_triton("n1", True)
    await world.ingest.on_targets(declared("process"))
    assert (executors(world), world.store.names()) == (("process", "triton"), saved)
    await world.ingest.on_triton("n1", False)
    assert executors(world) == ("process",)
    await world.ingest.on_triton("n1", True)
    # Another file takes it away; a late answer of the server is nobody's then.
    await world.ingest.on_targets(declared("process", triton=""))
    await world.ingest.on_triton("n1", True)
    assert executors(world) == ("process",)
    # Without an address nobody checks it: it is offered as the operator says.
    await world.ingest.on_targets(declared("triton", triton=""))
    assert executors(world) == ("triton",)


async def test_what_is_known_of_a_server_stands_until_it_is_heard_after_a_restart() -> None:
    world = World()
    await world.ingest.on_targets(declared("process"))
    await world.ingest.on_triton("n1", True)
    again = World()
    again.ingest.inventory.commit(world.ingest.inventory.nodes.values())
    await again.ingest.on_targets(declared("process"))
    assert (executors(again), again.store.saved) == (("process", "triton"), [])


async def test_an_answer_that_was_not_stored_is_stored_with_the_next() -> None:
    world = World()
    await world.ingest.on_targets(declared("process"))
    world.store.broken = True
    with pytest.raises(ConnectionError):
        await world.ingest.on_triton("n1", True)
    assert executors(world) == ("process",)
    world.store.broken = False
    await world.ingest.on_triton("n1", True)
    assert executors(world) == ("process", "triton")


async def test_a_cluster_that_tells_of_its_node_again_does_not_take_triton_from_it() -> None:
    world = World()
    node = NodeRecord("n1", executors=("kubernetes",), origin=FROM_KUBERNETES)
    inventory = world.ingest.inventory

    def told() -> None:
        inventory.commit(inventory.plan_kubernetes([replace(inventory.nodes["n1"], executors=("kubernetes",))], 0.0))

    inventory.commit([node])
    await world.ingest.on_targets(declared())
    await world.ingest.on_triton("n1", True)
    told()
    assert executors(world) == ("kubernetes", "triton")
    await world.ingest.on_targets([])
    told()
    assert executors(world) == ("kubernetes",)


async def test_a_cluster_names_a_nodes_server_by_an_annotation() -> None:
    world = World()
    resources = DeviceResources.read(None)

    async def told(address: str) -> NodeFacts:
        metadata = {"name": "n1", "annotations": {"berth.dev/triton": address} if address else None}
        facts = facts_of({"metadata": metadata}, resources)
        await world.ingest.on_cluster([(facts, ())], resources)
        return facts

    await told("http://10.0.0.7:8000/")
    assert world.ingest.triton_servers == {"n1": "http://10.0.0.7:8000"}
    assert executors(world) == ("kubernetes",)
    await world.ingest.on_triton("n1", True)
    await told("http://10.0.0.7:8000")
    # A targets file that says nothing of it takes nothing from it.
    await world.ingest.on_targets([])
    assert executors(world) == ("kubernetes", "triton")
    wrong = await told("10.0.0.7; rm")
    assert "annotation berth.dev/triton: '10.0.0.7; rm': write an address such as" in wrong.problems[-1]
    assert (executors(world), world.ingest.triton_servers) == (("kubernetes",), {})
    await told("")
    await world.ingest.on_triton("n1", True)
    assert executors(world) == ("kubernetes",)


async def test_an_agent_offers_its_server_and_takes_it_back() -> None:
    world = World()
    reported = NodeRecord("n1", executors=("process", "triton"), devices=(DeviceRecord("n1/cpu", device_class="CPU"),))
    without = replace(reported, executors=("process",))
    for declaration in ([], declared("simulated", triton="")):
        await world.ingest.on_targets(declaration)
        await world.ingest.on_agent_inventory(reported)
        assert "triton" in executors(world)
        await world.ingest.on_agent_inventory(without)
        assert "triton" not in executors(world)
    # Where the server itself is asked, the agent's word counts for nothing.
    await world.ingest.on_targets(declared("simulated"))
    await world.ingest.on_triton("n1", False)
    await world.ingest.on_agent_inventory(reported)
    assert "triton" not in executors(world)
    await world.ingest.on_triton("n1", True)
    await world.ingest.on_agent_inventory(without)
    assert "triton" in executors(world)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TritonServer]:
    if reason := unavailable():
        pytest.skip(reason)
    server = TritonServer(tmp_path_factory.mktemp("triton"))
    await server.start()
    yield server
    server.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def page(server: TritonServer) -> str:
    with urllib.request.urlopen(server.metrics, timeout=5) as answer:
        return str(answer.read().decode())


async def test_the_page_of_a_real_server_without_gpus_says_nothing_of_gpus(server: TritonServer) -> None:
    text = await asyncio.to_thread(page, server)
    assert detect(text).name == "triton"
    seen: list[Observation] = []

    async def measured() -> bool:
        seen.append(read(await asyncio.to_thread(page, server)))
        assert seen[-1].devices == ()
        return seen[-1].node.memory_total_bytes is not None

    # Before its first look at the host Triton writes 0 bytes of memory.
    async with asyncio.timeout(30):
        while not await measured():
            assert seen[-1].node == NodeReading()
            await asyncio.sleep(0.1)
    node = seen[-1].node
    assert node.memory_total_bytes is not None
    assert node.memory_used_bytes is not None
    assert 0 < node.memory_used_bytes < node.memory_total_bytes
    assert abs(node.memory_total_bytes - psutil.virtual_memory().total) < 1 << 20
    assert node.power_watts is None


async def test_a_real_server_that_is_killed_and_started_again_is_left_and_offered_again(server: TritonServer) -> None:
    world = World()
    health = TritonHealth(
        lambda: world.ingest.triton_servers, world.ingest.on_triton, interval_seconds=0.05, timeout_seconds=2.0
    )
    await world.ingest.on_targets(declared("process", triton=server.address))
    running = asyncio.create_task(health.run())
    try:
        await until(lambda: executors(world) == ("process", "triton"))
        server.kill()
        await until(lambda: executors(world) == ("process",))
        await server.start()
        await until(lambda: executors(world) == ("process", "triton"))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_answers_late_once_is_still_ready() -> None:
    connections: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    told: list[tuple[str, bool, int]] = []

    async def on_ready(node: str, ready: bool) -> None:
        told.append((node, ready, len(connections)))

    health = TritonHealth(
        lambda: {"n1": f"http://127.0.0.1:{port}"}, on_ready, interval_seconds=0.01, timeout_seconds=0.1
    )
    running = asyncio.create_task(health.run())
    try:
        await until(lambda: told)
        assert told[0] == ("n1", False, 2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for writer in connections:
            writer.close()
        listener.close()
        await listener.wait_closed()
