"""Pages and reports in; inventory, telemetry and targets' health out."""

import pytest

from berth.errors import InvalidInput, NotFound
from telemetry_ingest.domain.board import SourceReading
from telemetry_ingest.domain.inventory import DeviceRecord, NodeRecord
from telemetry_ingest.domain.model import DeviceReading, NodeReading
from telemetry_ingest.domain.targets import Target
from tests.unit.telemetry_ingest import pages
from tests.unit.telemetry_ingest.builders import World

GPUS = Target("n1", "http://n1:9400/metrics", "dcgm")
HOST = Target("n1", "http://n1:9100/metrics", "auto")


async def test_a_page_becomes_inventory_and_telemetry() -> None:
    world = World()
    await world.declare(GPUS, HOST)
    assert world.scraped == [GPUS, HOST]
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    await world.ingest.on_page(HOST, pages.HOST, "text/plain")
    record = world.ingest.inventory.nodes["n1"]
    assert [(one.device_id, one.model, one.memory_bytes, one.power_limit_watts) for one in record.devices] == [
        ("GPU-a", "H100-SXM", 81559 << 20, 650.0),
        # Says neither memory nor limit: the catalogue does.
        ("GPU-b", "H100-SXM", 80 * 10**9, 700.0),
    ]
    assert (record.boot_id, record.memory_bytes) == ("boot-1700000000", 10**11)
    ((snapshot, boot_id),) = world.ingest.drain()
    assert (boot_id, snapshot.sequence, snapshot.received_at) == ("boot-1700000000", 1, 1000.0)
    assert [identity for identity, _ in snapshot.devices] == ["GPU-a", "GPU-b"]
    assert snapshot.reading.memory_used_bytes == 40 * 10**9
    # The same again: telemetry, but no new version and nothing stored.
    saved = world.store.names()
    world.tick()
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    assert world.store.names() == saved
    assert [snapshot.received_at for snapshot, _ in world.ingest.drain()] == [1005.0]
    assert [(one.healthy, one.devices, one.last_success) for one in world.ingest.targets()] == [
        (True, 0, 1000.0),
        (True, 2, 1005.0),
    ]


async def test_a_useless_page_changes_nothing_and_shows_on_the_target() -> None:
    world = World()
    await world.declare(GPUS)
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    world.ingest.drain()
    before = world.ingest.inventory.nodes["n1"]
    for page in (pages.HTML, "", pages.HOST, pages.DCGM[:-30]):
        with pytest.raises(InvalidInput) as caught:
            await world.ingest.on_page(GPUS, page, "text/plain")
        world.ingest.on_scrape_failed(GPUS, str(caught.value))
    assert world.ingest.inventory.nodes["n1"] == before
    assert world.ingest.drain() == []
    (status,) = world.ingest.targets()
    assert (status.healthy, status.last_success, status.devices) == (False, 1000.0, 2)
    assert "broken or cut off" in status.last_error
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    assert (world.ingest.targets()[0].healthy, world.ingest.targets()[0].last_error) == (True, "")


async def test_what_could_not_be_stored_did_not_happen() -> None:
    world = World()
    await world.declare(GPUS)
    world.store.broken = True
    with pytest.raises(ConnectionError):
        await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    assert world.ingest.inventory.nodes["n1"].devices == ()
    assert world.ingest.drain() == []
    world.store.broken = False
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    assert world.store.names() == [("n1", 1), ("n1", 2)]


async def test_a_node_that_left_the_file_publishes_nothing_more() -> None:
    world = World()
    await world.declare(GPUS)
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    await world.declare()
    assert world.ingest.drain() == []
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    assert (world.ingest.drain(), world.ingest.targets(), world.scraped) == ([], [], [])
    assert world.ingest.inventory.nodes["n1"].removed


def reading(identity: str = "host/cpu", at: float = 10.0) -> SourceReading:
    return SourceReading(((identity, DeviceReading(utilisation=0.5)),), NodeReading(), 1000.0, at)


async def test_an_agents_reports() -> None:
    world = World()
    take = world.ingest.on_agent_telemetry
    with pytest.raises(NotFound, match="'host': not known; send its inventory first"):
        take("host", "b1", 1, reading())
    own = NodeRecord("host", devices=(DeviceRecord("host/cpu", device_class="CPU", reported_model="Odd CPU"),))
    await world.ingest.on_agent_inventory(own)
    assert world.ingest.inventory.nodes["host"].devices[0].model == "CPU"
    take("host", "b1", 5, reading())
    with pytest.raises(InvalidInput, match=r"telemetry.sequence: '5': must be above 5"):
        take("host", "b1", 5, reading())
    take("host", "b2", 1, reading())
    with pytest.raises(InvalidInput, match="'GPU-a': is no device of node 'host'"):
        take("host", "b2", 2, reading("GPU-a"))
    assert [(snapshot.node, snapshot.sequence) for snapshot, _ in world.ingest.drain()] == [("host", 1)]


async def test_an_agent_cannot_take_another_nodes_device() -> None:
    world = World()
    await world.declare(GPUS)
    await world.ingest.on_page(GPUS, pages.DCGM, "text/plain")
    with pytest.raises(InvalidInput, match="device: 'GPU-a': node 'n1' has it already"):
        await world.ingest.on_agent_inventory(NodeRecord("host", devices=(DeviceRecord("GPU-a"),)))
    assert "host" not in world.ingest.inventory.nodes


async def test_devices_that_vanish_and_return_are_seen_on_the_next_page() -> None:
    world = World()
    await world.declare(GPUS)
    alone = "".join(line for line in pages.DCGM.splitlines(keepends=True) if "GPU-b" not in line)
    swapped = pages.DCGM.replace('gpu="1"', 'gpu="X"').replace('gpu="0"', 'gpu="1"').replace('gpu="X"', 'gpu="0"')
    states = []
    for page in (pages.DCGM, pages.DCGM, alone, alone, swapped, swapped):
        world.tick()
        await world.ingest.on_page(GPUS, page, "text/plain")
        devices = world.ingest.inventory.nodes["n1"].devices
        states.append({one.device_id: (one.index, one.present) for one in devices})
    both = {"GPU-a": (0, True), "GPU-b": (1, True)}
    gone = {"GPU-a": (0, True), "GPU-b": (1, False)}
    turned = {"GPU-a": (1, True), "GPU-b": (0, True)}
    assert states == [both, both, gone, gone, turned, turned]
    assert [version for _, version in world.store.names()] == [1, 2, 3, 4]
