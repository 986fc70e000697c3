"""The emulator's pages, read by ingest: what the demonstration shows is what ingest sees."""

from berth.fleet_emulator import EmulatedFleet
from telemetry_ingest.domain.counters import Counters
from telemetry_ingest.domain.formats import detect, normalise
from telemetry_ingest.domain.targets import parse_targets


def test_every_emulated_page_is_whole() -> None:
    fleet = EmulatedFleet(60, 1, clock=lambda: 0.0)
    declared = {one.name: one for one in parse_targets(fleet.targets("http://127.0.0.1:1"))}
    assert set(declared) == set(fleet.nodes)
    for name, node in fleet.nodes.items():
        page = fleet.page(name)
        assert page is not None
        assert detect(page).name == node.kind.format
        observation = normalise(page, format=node.kind.format, node=name, now=1.0, counters=Counters())
        assert [one.device_id for one in observation.devices] == [one.device_id for one in node.devices]
        for seen, device in zip(observation.devices, node.devices, strict=True):
            assert seen.reading.memory_total_bytes is not None
            assert seen.reading.memory_used_bytes is not None
            # The usable memory is never less than the catalogue says.
            assert seen.reading.memory_total_bytes - seen.reading.memory_used_bytes >= device.memory_bytes
            assert seen.reading.power_watts is not None
            assert abs(seen.reading.power_watts - device.watts) < 0.01
            assert seen.reading.temperature_celsius == round(device.celsius)
            assert seen.reading.utilisation == 0.0
