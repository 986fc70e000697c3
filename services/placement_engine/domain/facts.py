"""Mutable facts of the fleet, from which the columns are written. Private to the core."""

from dataclasses import dataclass, field

from placement_engine.domain.model import Device, DeviceSample, Member, Node, NodeSample
from placement_engine.domain.telemetry import Draw


@dataclass(frozen=True, slots=True)
class DeviceHold:
    """A job's share of one device, as the columns count it."""

    job_id: str
    member: int
    milli: int
    memory_bytes: int
    """Declared, or 0."""


@dataclass(slots=True)
class MemberHold:
    """A member's claim on a node. `watts`: expected draw per device not yet visible in telemetry."""

    job_id: str
    member: Member
    since: float
    watts: dict[str, int] = field(default_factory=dict)
    visible: bool = False


@dataclass(slots=True)
class DeviceFacts:
    device: Device
    row: int
    slot: int
    sample: DeviceSample | None = None
    heard_at: float | None = None
    cool: bool = True
    margin: float | None = None
    heat: float = 0.5
    nominal_bytes: int | None = None
    draw: Draw = field(default_factory=Draw)
    foreign_bytes: int = 0
    """In use beyond what Berth's claims expected when the sample came."""
    holds: dict[tuple[str, int], DeviceHold] = field(default_factory=dict)
    pending_watts: int = 0
    written: tuple[float, ...] = ()
    supposed_idle: bool = False
    """In a supposition: its work was taken out, though telemetry still shows it."""

    @property
    def used_milli(self) -> int:
        return sum(hold.milli for hold in self.holds.values()) if self.holds else 0

    @property
    def total_bytes(self) -> int | None:
        if self.sample is not None and self.sample.memory_total_bytes is not None:
            return self.sample.memory_total_bytes
        return self.nominal_bytes

    def claimed_bytes(self) -> int:
        """Declared memory; a claim without one is taken to use its share of the device."""
        if not self.holds:
            return 0
        total = self.total_bytes or 0
        return sum(h.memory_bytes or total * h.milli // 1000 for h in self.holds.values())


@dataclass(slots=True)
class RowFacts:
    row: int
    model: int
    devices: list[DeviceFacts]
    written: tuple[float, ...] = ()


@dataclass(slots=True)
class NodeFacts:
    node: Node
    rows: list[RowFacts]
    devices: dict[str, DeviceFacts]
    number: int
    sample: NodeSample | None = None
    draw: Draw = field(default_factory=Draw)
    used_cpu: int = 0
    used_memory: int = 0
    pending_watts: int = 0
    total_watts: int = 0
    """Upper estimate of the draw with what is claimed but not yet visible, in whole W."""
    headroom: float = float("inf")
    accelerators: int = 0
    supposed_idle: int = 0
    """Devices whose work a supposition took out."""


@dataclass(slots=True)
class DomainFacts:
    """A power budget above the node and what draws on it, in whole W (integers, so sums are exact)."""

    cap: float
    draw: int = 0
    nodes: set[str] = field(default_factory=set)
    headroom: float = float("inf")
    """As last written to the rows of its nodes; inf: not yet."""
