"""An emulator of exporters, for the demonstration: no device behind it is real.

One process serves the pages of a mixed fleet, /nodes/<name>/metrics, in the text of the vendors' own exporters.
Heat and power follow the jobs that Berth places: it reads placements.decided and jobs.lifecycle, and a device
warms while a job runs on it. Memory sizes and power figures are the catalogue's; temperatures, time constants and
limits are this emulator's own choice, since no source gives them per model.

    python -m berth.fleet_emulator --kafka 127.0.0.1:9092 --targets targets.yaml
"""

import argparse
import asyncio
import json
import math
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from berth import catalogue
from berth.kafka import KafkaBus, Record
from berth.settings import ServiceSettings
from berth.topics import JOBS_LIFECYCLE, PLACEMENTS_DECIDED
from berth.v1 import binding_pb2

__all__ = ["EmulatedDevice", "EmulatedFleet", "EmulatedNode", "main", "serve", "write_targets"]

MIB = 1 << 20
RESERVED_MIB = 600
ROOM_CELSIUS = 24.0
HOT_ROOM_CELSIUS = 50.0
LOADED_RISE_CELSIUS = 42.0
SLOWDOWN_CELSIUS = 90.0
MEMORY_MAX_CELSIUS = 95.0
TIME_CONSTANT_SECONDS = 25.0
IDLE_SHARE = 0.12
BUSY_SHARE = 0.93
CAP_SHARE = 0.6
ENDED_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Kind:
    """Nodes of one accelerator: its catalogue name, the exporter's name of it, devices a node, share of the fleet."""

    model: str
    reported: str
    format: str
    devices: int
    weight: int


KINDS = (
    _Kind("H100-SXM", "NVIDIA H100 80GB HBM3", "dcgm", 8, 10),
    _Kind("A100-80-SXM", "NVIDIA A100-SXM4-80GB", "dcgm", 8, 8),
    _Kind("MI300X", "AMD Instinct MI300X OAM", "amd", 8, 6),
    _Kind("Gaudi3", "HL-325L", "gaudi", 8, 6),
    _Kind("L40S", "NVIDIA L40S", "dcgm", 4, 10),
    _Kind("L4", "NVIDIA L4", "dcgm", 4, 8),
    _Kind("T4", "Tesla T4", "dcgm", 4, 6),
    _Kind("V100-32", "Tesla V100-SXM2-32GB", "dcgm", 8, 6),
)
# dcgm-exporter says 0 for boards without a sensor in the memory.
NO_MEMORY_SENSOR = frozenset({"L40S", "L4", "T4"})


@dataclass(slots=True)
class EmulatedDevice:
    """One device. W, degrees Celsius, bytes, J; `load` and `claimed` by job attempt."""

    device_id: str
    index: int
    tdp_watts: float
    cap_watts: float
    idle_watts: float
    memory_bytes: int
    room_celsius: float
    celsius: float
    load: dict[str, float] = field(default_factory=dict)
    claimed: dict[str, int] = field(default_factory=dict)
    watts: float = 0.0
    joules: float = 0.0

    @property
    def busy(self) -> float:
        return min(sum(self.load.values()), 1.0)

    def advance(self, seconds: float, noise: float) -> None:
        """First order: the temperature moves to that of the present draw, with one time constant."""
        wanted = self.idle_watts + (BUSY_SHARE * self.tdp_watts - self.idle_watts) * self.busy
        self.watts = min(max(wanted * (1.0 + noise), 1.0), self.cap_watts)
        target = self.room_celsius + LOADED_RISE_CELSIUS * self.watts / self.tdp_watts
        self.celsius = target + (self.celsius - target) * math.exp(-seconds / TIME_CONSTANT_SECONDS)
        self.joules += self.watts * seconds

    @property
    def throttle_bits(self) -> int:
        bits = 0 if self.busy else 0x1
        bits |= 0x4 if self.busy and self.watts >= self.cap_watts else 0
        return bits | (0x20 if self.celsius >= SLOWDOWN_CELSIUS else 0)


@dataclass(slots=True)
class EmulatedNode:
    name: str
    kind: _Kind
    rack: str
    zone: str
    power_cap_watts: float
    devices: list[EmulatedDevice]
    advanced_at: float

    def page(self, now: float, noise: Callable[[], float]) -> str:
        """The exporter's page at `now`, monotonic seconds."""
        for device in self.devices:
            device.advance(max(0.0, now - self.advanced_at), noise())
        self.advanced_at = now
        return {"dcgm": _dcgm_page, "amd": _amd_page, "gaudi": _gaudi_page}[self.kind.format](self)


class EmulatedFleet:
    """The same `nodes` and `seed` give the same fleet. `clock`: monotonic seconds."""

    def __init__(self, nodes: int = 60, seed: int = 1, *, clock: Callable[[], float] = time.monotonic) -> None:
        if nodes < 1:
            raise ValueError(f"nodes: {nodes}: at least 1 is needed")
        self._random = random.Random(seed)
        self._clock = clock
        self.nodes: dict[str, EmulatedNode] = {}
        self._devices: dict[str, EmulatedDevice] = {}
        self._bound: dict[str, list[tuple[str, float, int]]] = {}
        self._started: set[str] = set()
        self._ended: dict[str, None] = {}
        for position, kind in enumerate(_spread(nodes)):
            node = self._node(position, kind)
            self.nodes[node.name] = node
            self._devices.update({device.device_id: device for device in node.devices})

    def _node(self, position: int, kind: _Kind) -> EmulatedNode:
        entry = catalogue.by_name(kind.model)
        if entry is None or entry.memory_bytes is None or entry.tdp_watts is None:
            raise ValueError(f"model: {kind.model!r}: the catalogue has no memory or power for it: choose another")
        number = position + 1
        rack = position // 4
        # Each twelfth node stands in a hot aisle, each tenth has its power capped.
        room = HOT_ROOM_CELSIUS if number % 12 == 0 else ROOM_CELSIUS + self._random.uniform(0, 6)
        cap = entry.tdp_watts * (CAP_SHARE if number % 10 == 0 else 1.0)
        idle = entry.idle_watts or IDLE_SHARE * entry.tdp_watts
        devices = [
            EmulatedDevice(
                device_id=self._identity(kind, f"{number:03d}{index}"),
                index=index,
                tdp_watts=entry.tdp_watts,
                cap_watts=cap,
                idle_watts=idle,
                memory_bytes=entry.memory_bytes,
                room_celsius=room,
                celsius=room + LOADED_RISE_CELSIUS * idle / entry.tdp_watts,
                watts=idle,
                joules=self._random.uniform(1e6, 1e7),
            )
            for index in range(kind.devices)
        ]
        budget = round(1.15 * entry.tdp_watts * kind.devices + 1000.0)
        if number % 15 == 0:
            budget = round(0.7 * entry.tdp_watts * kind.devices + 500.0)
        return EmulatedNode(
            name=f"{kind.model.lower().split('-')[0]}-{number:03d}",
            kind=kind,
            rack=f"r{rack + 1:02d}",
            zone="ab"[rack % 2],
            power_cap_watts=float(budget),
            devices=devices,
            advanced_at=self._clock(),
        )

    def _identity(self, kind: _Kind, number: str) -> str:
        made = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        # An AMD page names the serial number; ingest makes "AMD-<serial>" of it.
        return {"dcgm": f"GPU-{made}", "amd": f"AMD-EMU{number}", "gaudi": f"01P0-EMU-{number}-{made[:8]}"}[kind.format]

    def page(self, node: str) -> str | None:
        found = self.nodes.get(node)
        return found.page(self._clock(), lambda: self._random.gauss(0.0, 0.015)) if found else None

    def targets(self, base_url: str) -> list[dict[str, Any]]:
        """The fleet as telemetry-ingest's targets file has it."""
        return [
            {
                "node": node.name,
                "pool": "default",
                "topology": {"rack": node.rack, "zone": node.zone},
                "labels": {"berth.dev/emulated": "true"},
                "cpu_milli": 24_000 * len(node.devices),
                "memory_bytes": (256 << 30) * len(node.devices),
                "power_cap_watts": node.power_cap_watts,
                "executors": ["simulated"],
                "scrape": [{"url": f"{base_url}/nodes/{node.name}/metrics", "format": node.kind.format}],
            }
            for node in self.nodes.values()
        ]

    def write_targets(self, path: Path, base_url: str) -> None:
        """Replaces the file in one step, so that its reader never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(self.targets(base_url), indent=1) + "\n")
        temporary.replace(path)

    # -- what Berth does with it ---------------------------------------------------------------

    async def on_decisions(self, records: Sequence[Record]) -> None:
        for record in records:
            self.decided(binding_pb2.PlacementDecided.FromString(record.value))

    async def on_lifecycle(self, records: Sequence[Record]) -> None:
        for record in records:
            self.lived(binding_pb2.JobLifecycle.FromString(record.value))

    def decided(self, message: binding_pb2.PlacementDecided) -> None:
        """A bind names the devices; a release frees them. The topics may overtake each other."""
        attempt = f"{message.job_id}.{message.attempt}"
        if message.WhichOneof("action") == "release":
            self._end(attempt)
            return
        if message.WhichOneof("action") != "bind" or attempt in self._ended:
            return
        self._bound[attempt] = [
            (claim.device_id, min(max(claim.milli, 0), 1000) / 1000.0, max(claim.memory_bytes, 0))
            for member in message.bind.members
            for claim in member.devices
            if claim.device_id in self._devices
        ]
        if attempt in self._started:
            self._start(attempt)

    def lived(self, message: binding_pb2.JobLifecycle) -> None:
        attempt = f"{message.job_id}.{message.attempt}"
        if message.event == binding_pb2.LIFECYCLE_EVENT_STARTED:
            if attempt not in self._ended:
                self._started.add(attempt)
                self._start(attempt)
        elif message.event not in (
            binding_pb2.LIFECYCLE_EVENT_UNSPECIFIED,
            # It runs, and is told how fast.
            binding_pb2.LIFECYCLE_EVENT_OBSERVED,
        ):
            self._end(attempt)

    def _start(self, attempt: str) -> None:
        for identity, load, memory in self._bound.get(attempt, ()):
            device = self._devices[identity]
            device.load[attempt] = load
            # Never above the claim: what is used beyond claims counts as leaked memory.
            device.claimed[attempt] = memory

    def _end(self, attempt: str) -> None:
        for identity, _, _ in self._bound.pop(attempt, ()):
            self._devices[identity].load.pop(attempt, None)
            self._devices[identity].claimed.pop(attempt, None)
        self._started.discard(attempt)
        self._ended[attempt] = None
        while len(self._ended) > ENDED_REMEMBERED:
            del self._ended[next(iter(self._ended))]


def write_targets(path: Path, base_url: str, *, nodes: int = 60, seed: int = 1) -> None:
    """The targets file of the fleet that `nodes` and `seed` give, served at `base_url`."""
    EmulatedFleet(nodes, seed).write_targets(path, base_url)


def _spread(nodes: int) -> list[_Kind]:
    """`nodes` kinds by weight, the scarce ones mixed among the others; each kind once before any stands often."""
    given = {kind.model: 0 for kind in KINDS}
    chosen = []
    for _ in range(nodes):
        kind = min(KINDS, key=lambda kind: ((given[kind.model] + 0.5) / kind.weight, kind.model))
        given[kind.model] += 1
        chosen.append(kind)
    return sorted(chosen, key=lambda kind: KINDS.index(kind))


def _page(rows: list[tuple[str, str, list[tuple[str, float | int]]]]) -> str:
    lines = []
    for name, kind, samples in rows:
        lines.append(f"# HELP {name} Emulated by berth.fleet_emulator.")
        lines.append(f"# TYPE {name} {kind}")
        lines += [f"{name}{{{labels}}} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _dcgm_page(node: EmulatedNode) -> str:
    labelled = [
        (
            f'gpu="{device.index}",UUID="{device.device_id}",pci_bus_id="00000000:{device.index + 16:02X}:00.0",'
            f'device="nvidia{device.index}",modelName="{node.kind.reported}",Hostname="{node.name}"',
            device,
        )
        for device in node.devices
    ]

    def row(name: str, value: Callable[[EmulatedDevice], float | int], kind: str = "gauge") -> Any:
        return (f"DCGM_FI_DEV_{name}", kind, [(labels, value(device)) for labels, device in labelled])

    def used(device: EmulatedDevice) -> int:
        return min(sum(device.claimed.values()), device.memory_bytes) // MIB

    sensor = node.kind.model not in NO_MEMORY_SENSOR
    return _page(
        [
            row("GPU_TEMP", lambda device: round(device.celsius)),
            row("MEMORY_TEMP", lambda device: round(device.celsius + 6) if sensor else 0),
            row("SLOWDOWN_TEMP", lambda device: int(SLOWDOWN_CELSIUS)),
            row("MEM_MAX_OP_TEMP", lambda device: int(MEMORY_MAX_CELSIUS) if sensor else 0),
            row("POWER_USAGE", lambda device: round(device.watts, 3)),
            row("ENFORCED_POWER_LIMIT", lambda device: device.cap_watts),
            row("TOTAL_ENERGY_CONSUMPTION", lambda device: int(device.joules * 1000), "counter"),
            row("GPU_UTIL", lambda device: round(100 * device.busy)),
            row("FB_USED", used),
            # Rounded up, so that the usable part is never less than the catalogue says.
            row("FB_FREE", lambda device: -(-device.memory_bytes // MIB) - used(device)),
            row("FB_RESERVED", lambda device: RESERVED_MIB),
            row("CLOCKS_EVENT_REASONS", lambda device: device.throttle_bits),
            row("XID_ERRORS", lambda device: 0),
        ]
    )


def _amd_page(node: EmulatedNode) -> str:
    labelled = [
        (
            f'gpu_id="{device.index}",serial_number="{device.device_id.removeprefix("AMD-")}",'
            f'card_model="{node.kind.reported}",hostname="{node.name}",gpu_partition_id="0"',
            device,
        )
        for device in node.devices
    ]

    def row(name: str, value: Callable[[EmulatedDevice], float | int], kind: str = "gauge") -> Any:
        return (name, kind, [(labels, value(device)) for labels, device in labelled])

    def used(device: EmulatedDevice) -> int:
        return min(sum(device.claimed.values()), device.memory_bytes) // MIB

    return _page(
        [
            row("gpu_package_power", lambda device: round(device.watts, 2)),
            row("gpu_energy_consumed", lambda device: int(device.joules * 1e6), "counter"),
            row("gpu_junction_temperature", lambda device: round(device.celsius)),
            row("gpu_memory_temperature", lambda device: round(device.celsius + 4)),
            row("gpu_total_vram", lambda device: -(-device.memory_bytes // MIB)),
            row("gpu_used_vram", used),
            row("gpu_free_vram", lambda device: -(-device.memory_bytes // MIB) - used(device)),
            row("gpu_gfx_activity", lambda device: round(100 * device.busy)),
            row("gpu_health", lambda device: 1),
            row("gpu_violation_ppt_residency_percentage", lambda device: 5 if device.throttle_bits & 0x4 else 0),
            row(
                "gpu_violation_socket_thermal_residency_percentage",
                lambda device: 5 if device.throttle_bits & 0x20 else 0,
            ),
        ]
    )


def _gaudi_page(node: EmulatedNode) -> str:
    labelled = [
        (
            f'device="accel{device.index}",UUID="{device.device_id}",Serial="EMU{node.name}{device.index}",'
            f'modelName="{node.kind.reported}",hostname="{node.name}"',
            device,
        )
        for device in node.devices
    ]

    def row(name: str, value: Callable[[EmulatedDevice], float | int]) -> Any:
        return (f"habanalabs_{name}", "gauge", [(labels, value(device)) for labels, device in labelled])

    def used(device: EmulatedDevice) -> int:
        return min(sum(device.claimed.values()), device.memory_bytes)

    return _page(
        [
            row("power_mW", lambda device: round(1000 * device.watts)),
            row("power_default_limit_mW", lambda device: round(1000 * device.cap_watts)),
            row("temperature_onchip", lambda device: round(device.celsius)),
            row("temperature_onboard", lambda device: round(device.celsius - 8)),
            row("temperature_threshold_slowdown", lambda device: int(SLOWDOWN_CELSIUS)),
            row("memory_total_bytes", lambda device: device.memory_bytes),
            row("memory_used_bytes", used),
            row("memory_free_bytes", lambda device: device.memory_bytes - used(device)),
            row("utilization", lambda device: round(100 * device.busy)),
        ]
    )


async def serve(fleet: EmulatedFleet, port: int = 0) -> tuple[web.AppRunner, str]:
    """Serves the pages on loopback. Gives the runner (clean it up) and the base URL."""

    async def metrics(request: web.Request) -> web.Response:
        page = fleet.page(request.match_info["name"])
        if page is None:
            return web.Response(status=404, text="no such node in this emulated fleet\n")
        return web.Response(body=page.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def index(_request: web.Request) -> web.Response:
        lines = [f"/nodes/{name}/metrics" for name in fleet.nodes]
        return web.Response(text="An emulated fleet; no device here is real.\n" + "\n".join(lines) + "\n")

    application = web.Application()
    application.add_routes([web.get("/", index), web.get("/nodes/{name}/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    fleet = EmulatedFleet(options.nodes, options.seed)
    runner, base_url = await serve(fleet, options.port)
    bus: KafkaBus | None = None
    starting: asyncio.Future[None] | None = None
    try:
        fleet.write_targets(options.targets, base_url)
        print(f"berth fleet emulator: {len(fleet.nodes)} nodes at {base_url}", flush=True)
        if options.kafka:
            bus = KafkaBus(ServiceSettings(kafka_bootstrap=options.kafka), "fleet-emulator")
            bus.broadcast(PLACEMENTS_DECIDED, fleet.on_decisions, from_beginning=True)
            bus.broadcast(JOBS_LIFECYCLE, fleet.on_lifecycle, from_beginning=True)
            starting = asyncio.ensure_future(bus.start())
        await stop.wait()
    finally:
        if starting is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        if bus is not None:
            await bus.stop()
        await runner.cleanup()


def main(arguments: Sequence[str] | None = None) -> int:
    """Until SIGTERM or Ctrl-C. Exit codes: 0 done, 2 misuse."""
    parser = argparse.ArgumentParser(
        prog="python -m berth.fleet_emulator", description="Emulates the exporters of a mixed fleet, on loopback."
    )
    parser.add_argument("--kafka", default="", help="broker; without it the devices stay idle")
    parser.add_argument("--targets", type=Path, required=True, help="where to write telemetry-ingest's targets file")
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    options = parser.parse_args(arguments)
    if options.nodes < 1:
        parser.error(f"--nodes: {options.nodes}: at least 1 is needed")
    asyncio.run(_run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
