"""Mutable facts of the fleet, from which the columns are written. Private to the core."""

from dataclasses import dataclass, field

from placement_engine.domain.columns import CORDONED, HEATING, HOT, SICK, THROTTLED
from placement_engine.domain.health_watch import HealthWatch, is_well, is_worn
from placement_engine.domain.model import WHOLE_DEVICE, Device, DeviceSample, Member, Node, NodeSample, Partition
from placement_engine.domain.partitions import UNDIVIDED, UNPARTITIONABLE, used_slices
from placement_engine.domain.policy import Policy
from placement_engine.domain.telemetry import Draw, HeatTrend, blocking_throttle, heat_margin, heat_score, takes_heat

MEMORY_STEP = 16 * 1024 * 1024
"""Use by others is rounded up to this, so that a few pages more or less are no change."""
FRESH_STARTS = 2
"""Samples with which the average of a draw starts anew after its work ended: the first may be older than the end."""


@dataclass(frozen=True, slots=True)
class DeviceHold:
    """A job's share of one device, as the columns count it."""

    job_id: str
    member: int
    milli: int
    memory_bytes: int
    """Declared, or 0."""
    partition: str = ""
    partition_start: int = 0


@dataclass(slots=True)
class MemberHold:
    """A member's claim on a node, with its expected draw as long as telemetry does not show it."""

    job_id: str
    member: Member
    since: float
    watts: dict[str, int] = field(default_factory=dict)
    """Per device whose own telemetry does not show it yet."""
    node_watts: int = 0
    """The same for the node's telemetry."""
    visible: bool = False
    """A sample was received long enough after the claim to show its work."""


@dataclass(slots=True)
class DeviceFacts:
    device: Device
    row: int
    slot: int
    sample: DeviceSample | None = None
    heard_at: float | None = None
    cool: bool = True
    margin: float | None = None
    trend: HeatTrend = field(default_factory=HeatTrend)
    watch: HealthWatch | None = None
    """None: nothing is wrong, nor was lately."""
    blocked: int = 0
    """What telemetry has against new work, as bits of the BLOCKED column."""
    heat: float = 0.5
    nominal_bytes: int | None = None
    partitions: tuple[Partition, ...] = ()
    """What it may be cut into; none unless it is partitionable."""
    draw: Draw = field(default_factory=Draw)
    fresh_starts: int = 0
    foreign_bytes: int = 0
    """In use beyond what Berth's claims expected when the sample came."""
    holds: dict[tuple[str, int], DeviceHold] = field(default_factory=dict)
    pending_watts: int = 0
    idle_watts: float = 0.0
    """Draw of an unclaimed device that does nothing; 0 where it works, or nobody knows."""
    written: tuple[float, ...] = ()
    supposed_idle: bool = False
    """In a supposition: its work was taken out, though telemetry still shows it."""

    def inherit(self, before: "DeviceFacts") -> None:
        """What telemetry told of it before its node was declared anew."""
        self.sample, self.heard_at = before.sample, before.heard_at
        self.cool, self.margin, self.trend = before.cool, before.margin, before.trend
        self.watch, self.heat, self.foreign_bytes = before.watch, before.heat, before.foreign_bytes
        self.draw, self.fresh_starts = before.draw, before.fresh_starts

    def hear(self, sample: DeviceSample, at: float, policy: Policy) -> bool:
        """Takes a sample received at `at`; whether it is what cordons the device."""
        self.sample, self.heard_at = sample, at
        margin = self.margin = heat_margin(sample)
        if margin is not None:  # a hot device that lost its sensor stays hot until it is heard cool
            self.trend.add(margin, at, policy)
            self.cool = takes_heat(self.trend.forecast(policy), self.cool, policy)
        worn = bool(sample.error_code) and is_worn(sample, self.device.stack)
        self.heat = heat_score(margin, sample.throttle_bits, policy, worn=worn)
        if sample.power_watts is not None:
            if self.fresh_starts:
                self.fresh_starts, self.draw = self.fresh_starts - 1, Draw()
            self.draw.add(sample.power_watts, policy.power_alpha)
        if sample.memory_used_bytes is not None:
            beyond = max(0, sample.memory_used_bytes - self.claimed_bytes())
            self.foreign_bytes = -(-beyond // MEMORY_STEP) * MEMORY_STEP
        wrong = sample.error_code or sample.healthy is False or blocking_throttle(sample)
        if not wrong and self.watch is None and self.cool and margin is not None:
            self.blocked = 0  # as nearly always
            return False
        cordoned = False
        if wrong or self.watch is not None:
            self.watch = self.watch or HealthWatch()
            cordoned = self.watch.hear(sample, self.device.stack, at, policy)
            if self.watch.idle:
                self.watch = None
        self.judge(policy)
        return cordoned

    def judge(self, policy: Policy) -> None:
        """Brings `blocked` up to date."""
        blocked = 0
        if not is_well(self.sample, self.device.stack):
            blocked |= SICK
        if not self.cool:
            blocked |= HEATING if self.heats_up(policy) else HOT
        elif self.margin is None and not takes_heat(None, True, policy):
            blocked |= HOT
        if blocking_throttle(self.sample):
            blocked |= THROTTLED
        if self.watch is not None and self.watch.cordon is not None:
            blocked |= CORDONED
        self.blocked = blocked

    def heats_up(self, policy: Policy) -> bool:
        """Whether only the forecast keeps work away: the margin itself would do."""
        margin, forecast = self.margin, self.trend.forecast(policy)
        if margin is None or forecast is None:
            return False
        floor = policy.heat_floor_celsius
        return forecast < floor <= margin or margin >= floor + policy.heat_hysteresis_celsius

    def division(self) -> tuple[int, int]:
        """(Thousandths free for whole devices and fractions, none of a partitioned device; the mask of memory
        slices in use, or why no partition may be made here: see partitions.py)."""
        uncut = 0 if self.partitions else UNPARTITIONABLE
        if not self.holds:
            return WHOLE_DEVICE, uncut
        free = WHOLE_DEVICE - self.used_milli
        if not self.partitions:
            return free, uncut
        cuts = [(hold.partition, hold.partition_start) for hold in self.holds.values() if hold.partition]
        state = UNDIVIDED if len(cuts) < len(self.holds) else used_slices(self.partitions, cuts)
        return min(free, 0) if cuts else free, state

    def slices(self) -> int:
        return self.division()[1]

    @property
    def used_milli(self) -> int:
        used = 0
        for hold in self.holds.values():
            used += hold.milli
        return used

    @property
    def total_bytes(self) -> int | None:
        if self.sample is not None and self.sample.memory_total_bytes is not None:
            return self.sample.memory_total_bytes
        return self.nominal_bytes

    def claimed_bytes(self) -> int:
        """Declared memory; a claim without one is taken to use its share of the device."""
        if not self.holds:
            return 0
        total, claimed = self.total_bytes or 0, 0
        for hold in self.holds.values():
            claimed += hold.memory_bytes or total * hold.milli // WHOLE_DEVICE
        return claimed


@dataclass(slots=True)
class RowFacts:
    row: int
    model: int
    devices: list[DeviceFacts]
    written: tuple[float, ...] = ()
    present: int = 0
    """Devices that are there."""
    own_heat: float = 0.5
    """Mean heat score of its devices."""
    shared: tuple[float, ...] = ()
    """As written of what it shares with others: headroom, part of the budget left, heat."""


@dataclass(slots=True)
class NodeFacts:
    node: Node
    rows: list[RowFacts]
    devices: dict[str, DeviceFacts]
    number: int
    sample: NodeSample | None = None
    draw: Draw = field(default_factory=Draw)
    fresh_starts: int = 0
    used_cpu: int = 0
    used_memory: int = 0
    used_pods: int = 0
    pending_watts: int = 0
    """Expected draw of claims that the node's own telemetry does not show yet."""
    seen_watts: float = 0.0
    """Upper estimate of the draw that telemetry shows, of the node's own or else of its devices', W."""
    total_watts: int = 0
    """Upper estimate of the draw with what is claimed but not yet visible, in whole W."""
    headroom: float = float("inf")
    accelerators: int = 0
    supposed_idle: int = 0
    """Devices whose work a supposition took out."""
