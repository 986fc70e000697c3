"""The latest reading of every node, from all its sources, and which of them are not published yet.

Ages count by receive time: the sources' own clocks are passed on and never compared. A source whose clock, or
this host's clock, runs backwards makes nothing look older or newer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from telemetry_ingest.domain.model import DeviceReading, NodeReading

__all__ = ["Board", "NodeSnapshot", "SourceReading"]


@dataclass(frozen=True, slots=True)
class SourceReading:
    """One page or report. `received_at` and `source_time`: seconds since the epoch; `monotonic` orders them.

    `fills`: it says only what the node's other sources leave open.
    """

    devices: tuple[tuple[str, DeviceReading], ...]
    node: NodeReading
    received_at: float
    monotonic: float
    shared: DeviceReading | None = None
    source_time: float | None = None
    fills: bool = False


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """What is published of one node: `sequence` rises by one with each."""

    node: str
    sequence: int
    received_at: float
    source_time: float | None
    devices: tuple[tuple[str, DeviceReading], ...]
    reading: NodeReading


@dataclass(slots=True)
class _Node:
    sources: dict[str, SourceReading] = field(default_factory=dict)
    sequence: int = 0


class Board:
    """`keep_seconds`: how long a source that fell silent still counts beside those that speak."""

    def __init__(self, keep_seconds: float = 30.0) -> None:
        self._keep_seconds = keep_seconds
        self._nodes: dict[str, _Node] = {}
        self._dirty: dict[str, None] = {}

    def put(self, node: str, source: str, reading: SourceReading) -> None:
        self._nodes.setdefault(node, _Node()).sources[source] = reading
        self._dirty[node] = None

    def drop(self, node: str, source: str | None = None) -> None:
        """Forgets a source, or the node. The sequence goes on."""
        entry = self._nodes.get(node)
        if entry is None:
            return
        if source is None:
            entry.sources.clear()
        else:
            entry.sources.pop(source, None)
        if not entry.sources:
            self._dirty.pop(node, None)

    def retain(self, keep: dict[str, frozenset[str]], always: str) -> None:
        """Forgets the sources that are not in `keep`; `always` stays."""
        for node, entry in self._nodes.items():
            for source in set(entry.sources) - keep.get(node, frozenset()) - {always}:
                self.drop(node, source)

    def drain(self) -> list[NodeSnapshot]:
        """One snapshot for each node that changed since the last call."""
        names, self._dirty = list(self._dirty), {}
        return [snapshot for name in names if (snapshot := self._snapshot(name)) is not None]

    def undrain(self, nodes: Iterable[str]) -> None:
        """Publishing failed: they are due again."""
        for node in nodes:
            if self._nodes[node].sources:
                self._dirty[node] = None

    def _snapshot(self, name: str) -> NodeSnapshot | None:
        entry = self._nodes[name]
        if not entry.sources:
            return None
        newest = max(source.monotonic for source in entry.sources.values())
        sources = [source for source in entry.sources.values() if newest - source.monotonic <= self._keep_seconds]
        sources.sort(key=lambda source: source.fills)
        devices: dict[str, DeviceReading] = {}
        shared: DeviceReading | None = None
        for source in sources:
            if source.fills:
                for identity, reading in source.devices:
                    devices[identity] = _filled(devices[identity], reading) if identity in devices else reading
            else:
                devices.update(source.devices)
            shared = source.shared or shared
        if shared is not None:
            devices = {identity: _filled(reading, shared) for identity, reading in devices.items()}
        # The oldest source with devices dates the record: what it says must not look younger than it is.
        dating = [source for source in sources if source.devices and not source.fills] or sources
        oldest = min(dating, key=lambda source: source.monotonic)
        entry.sequence += 1
        node = sources[0].node
        for source in sources[1:]:
            node = _filled_node(node, source.node)
        node = _with_power(node, devices)
        return NodeSnapshot(name, entry.sequence, oldest.received_at, oldest.source_time, tuple(devices.items()), node)


def _filled(reading: DeviceReading, shared: DeviceReading) -> DeviceReading:
    missing = {
        entry.name: value
        for entry in fields(DeviceReading)
        if getattr(reading, entry.name) is None and (value := getattr(shared, entry.name)) is not None
    }
    return replace(reading, **missing) if missing else reading


def _filled_node(first: NodeReading, second: NodeReading) -> NodeReading:
    missing = {
        entry.name: value
        for entry in fields(NodeReading)
        if getattr(first, entry.name) is None and (value := getattr(second, entry.name)) is not None
    }
    return replace(first, **missing) if missing else first


def _with_power(node: NodeReading, devices: dict[str, DeviceReading]) -> NodeReading:
    """The whole node's draw, where only the CPU packages' is measured: those and every device, if all are known."""
    if node.power_watts is not None or node.cpu_watts is None:
        return node
    draws = [reading.power_watts for identity, reading in devices.items() if not identity.endswith("/cpu")]
    known = [draw for draw in draws if draw is not None]
    return replace(node, power_watts=node.cpu_watts + sum(known)) if len(known) == len(draws) else node
