"""The emulated fleet: pages that ingest's own reader understands, heat that follows jobs."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
import yaml

from berth import catalogue
from berth.fleet_emulator import EmulatedFleet, main, write_targets
from berth.v1 import binding_pb2, jobs_pb2


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def values(page: str, metric: str) -> dict[str, float]:
    """The metric's values by the device's UUID, serial number or Gaudi UUID."""
    found = re.findall(rf'^{metric}{{.*?(?:UUID|serial_number)="([^"]+)".*}} (\S+)$', page, re.MULTILINE)
    return {identity: float(value) for identity, value in found}


def bind(job: str, devices: list[str], *, attempt: int = 1, milli: int = 1000) -> binding_pb2.PlacementDecided:
    member = jobs_pb2.MemberPlacement(
        devices=[jobs_pb2.DeviceClaim(device_id=one, milli=milli, memory_bytes=10 << 30) for one in devices]
    )
    return binding_pb2.PlacementDecided(job_id=job, attempt=attempt, bind=binding_pb2.Bind(members=[member]))


def event(job: str, kind: binding_pb2.LifecycleEvent, attempt: int = 1) -> binding_pb2.JobLifecycle:
    return binding_pb2.JobLifecycle(job_id=job, attempt=attempt, event=kind)


STARTED, SUCCEEDED = binding_pb2.LIFECYCLE_EVENT_STARTED, binding_pb2.LIFECYCLE_EVENT_SUCCEEDED


def test_the_fleet_is_mixed_and_the_same_for_a_seed() -> None:
    fleet = EmulatedFleet(60, 1)
    assert len(fleet.nodes) == 60
    kinds = {node.kind for node in fleet.nodes.values()}
    assert {kind.format for kind in kinds} == {"dcgm", "amd", "gaudi"}
    assert len(kinds) == 8
    for kind in kinds:
        entry = catalogue.resolve(kind.reported)
        assert entry is not None, kind.reported
        assert entry.name == kind.model
    identities = [device.device_id for node in fleet.nodes.values() for device in node.devices]
    assert len(set(identities)) == len(identities)
    again = EmulatedFleet(60, 1)
    assert [device.device_id for node in again.nodes.values() for device in node.devices] == identities
    assert len(EmulatedFleet(3).nodes) == 3


def test_a_running_job_heats_its_devices_and_they_cool_when_it_ends() -> None:
    clock = Clock()
    fleet = EmulatedFleet(60, 1, clock=clock)
    node = fleet.nodes["h100-001"]
    busy, idle = node.devices[0].device_id, node.devices[1].device_id

    def look(seconds: float = 300.0) -> Callable[[str], dict[str, float]]:
        clock.now += seconds
        page = fleet.page(node.name)
        assert page is not None
        return lambda metric: values(page, f"DCGM_FI_DEV_{metric}")

    cold = look()("GPU_TEMP")
    fleet.decided(bind("j", [busy, "GPU-unknown"]))
    assert abs(look()("GPU_TEMP")[busy] - cold[busy]) <= 2, "bound is not running"
    fleet.lived(event("j", STARTED))
    fleet.lived(event("j", binding_pb2.LIFECYCLE_EVENT_OBSERVED))
    hot = look()
    assert hot("GPU_TEMP")[busy] >= cold[busy] + 25
    assert abs(hot("GPU_TEMP")[idle] - cold[idle]) <= 2
    assert hot("GPU_UTIL") == {one.device_id: 100 if one.device_id == busy else 0 for one in node.devices}
    assert hot("FB_USED")[busy] == 10 << 10
    assert hot("POWER_USAGE")[busy] > 500
    # Never more used than is claimed: that would look like leaked memory.
    assert sum(hot("FB_USED").values()) == 10 << 10
    energy = hot("TOTAL_ENERGY_CONSUMPTION")[busy]
    later = look(10.0)
    mean = (later("TOTAL_ENERGY_CONSUMPTION")[busy] - energy) / 1000 / 10
    assert mean == pytest.approx(later("POWER_USAGE")[busy], rel=0.01)
    fleet.lived(event("j", SUCCEEDED))
    assert abs(look()("GPU_TEMP")[busy] - cold[busy]) <= 2
    # What comes late for an attempt that ended changes nothing.
    fleet.lived(event("j", STARTED))
    fleet.decided(bind("j", [busy]))
    assert look()("GPU_UTIL")[busy] == 0
    assert (fleet._bound, fleet._started) == ({}, set()), "nothing is kept of it"


def test_topics_may_overtake_each_other_and_a_release_frees() -> None:
    fleet = EmulatedFleet(1, 1, clock=Clock())
    (node,) = fleet.nodes.values()
    device = node.devices[0]
    fleet.lived(event("j", STARTED))
    fleet.decided(bind("j", [device.device_id], milli=500))
    assert (device.busy, device.claimed) == (0.5, {"j.1": 10 << 30})
    fleet.decided(binding_pb2.PlacementDecided(job_id="j", attempt=1, release=binding_pb2.Release(reason="x")))
    assert (device.busy, device.claimed) == (0.0, {})


def test_some_nodes_are_hot_and_some_capped() -> None:
    clock = Clock()
    fleet = EmulatedFleet(60, 1, clock=clock)
    for node in fleet.nodes.values():
        for device in node.devices:
            fleet.decided(bind(device.device_id, [device.device_id]))
            fleet.lived(event(device.device_id, STARTED))
    clock.now = 600.0
    for name in fleet.nodes:
        assert fleet.page(name)
    devices = [device for node in fleet.nodes.values() for device in node.devices]
    assert 0 < sum(device.celsius > 85 for device in devices) < len(devices) / 5
    capped = [device for device in devices if device.throttle_bits & 0x4]
    assert 0 < len(capped) < len(devices) / 5
    assert all(device.watts <= device.cap_watts < device.tdp_watts for device in capped)


def test_targets_name_every_page(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "targets.yaml"
    write_targets(path, "http://127.0.0.1:1", nodes=12, seed=3)
    entries = yaml.safe_load(path.read_text())
    assert entries == json.loads(path.read_text())
    assert [entry["node"] for entry in entries] == list(EmulatedFleet(12, 3).nodes)
    assert entries[0]["scrape"] == [{"url": f"http://127.0.0.1:1/nodes/{entries[0]['node']}/metrics", "format": "dcgm"}]
    assert {"node", "pool", "topology", "executors", "power_cap_watts", "cpu_milli", "memory_bytes"} <= set(entries[0])
    assert list(tmp_path.rglob(".*")) == []


async def test_the_program_serves_until_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "berth.fleet_emulator", "--targets", str(path), "--nodes", "9"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = await asyncio.wait_for(process.stdout.readline(), 30)
        assert b"emulator: 9 nodes at http://127.0.0.1:" in said
        async with aiohttp.ClientSession() as session:
            for entry in yaml.safe_load(path.read_text()):
                async with session.get(entry["scrape"][0]["url"]) as response:
                    assert response.status == 200
                    assert response.content_type == "text/plain"
            async with session.get(said.split()[-1].decode() + "/nodes/none/metrics") as response:
                assert response.status == 404
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_misuse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--targets", str(tmp_path / "t"), "--nodes", "0"])
    assert caught.value.code == 2
    assert "--nodes: 0: at least 1 is needed" in capsys.readouterr().err
