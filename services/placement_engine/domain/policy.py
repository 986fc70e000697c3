"""Every weight and threshold of the core, in one frozen value."""

from dataclasses import dataclass, field
from enum import Enum

from placement_engine.domain.roofline import ASSUMED_RATES, ClassRates


class UnknownPolicy(Enum):
    """What to do where telemetry says nothing: absent is unknown, never zero."""

    ALLOW = "allow"
    PENALISE = "penalise"
    REFUSE = "refuse"


class DefragmentPolicy(Enum):
    """What becomes of moves that would make a waiting job fit."""

    OFF = "off"
    PROPOSE = "propose"
    ACT = "act"
    """Preemptible jobs are moved; moves of others are proposed."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each score plugin; every plugin's value is in 0..1."""

    objective: float = 4.0
    fragmentation: float = 3.0
    topology: float = 2.0
    heat: float = 1.0
    power: float = 0.5
    freshness: float = 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds: degrees Celsius, seconds, W. Defaults suit a fleet scraped every 5 to 15 seconds."""

    weights: Weights = field(default_factory=Weights)

    heat_floor_celsius: float = 5.0
    """A device whose margin falls below this takes no new work ..."""
    heat_hysteresis_celsius: float = 3.0
    """... until its margin is back at floor + hysteresis."""
    heat_forecast_seconds: float = 30.0
    """A device whose margin would fall below the floor within this time takes no new work already; 0: off."""
    heat_slope_seconds: float = 30.0
    """Time constant of the smoothed slope that the forecast goes by."""
    heat_spread_level: str = "rack"
    """Among equals the domain of this topology level with the most room for heat and power comes first; "": none."""
    unknown_heat: UnknownPolicy = UnknownPolicy.PENALISE
    """A device that reports no temperature (TPUs, virtual GPUs)."""

    telemetry_gap_seconds: float = 60.0
    """Nothing is read across a longer gap in a device's telemetry: no slope, no lasting throttling, no recovery."""
    sustained_throttle_seconds: float = 60.0
    """Throttling by heat or power brake that lasted so long cordons the device; shorter only blocks it."""
    cordon_clear_seconds: float = 300.0
    """A cordoned device takes work again after it was stated to be well for this long."""

    fresh_seconds: float = 30.0
    """Up to this age a node's telemetry is fresh; later it costs score."""
    degraded_seconds: float = 60.0
    """From this age it costs more score."""
    unschedulable_seconds: float = 120.0
    """Beyond this age the node takes no new work. Nothing is ever evicted for staleness."""
    unknown_telemetry: UnknownPolicy = UnknownPolicy.PENALISE
    """A node, or a device of a node, that was never heard of."""

    power_sigma: float = 2.0
    """k of: headroom = cap - sum(EWMA draw + k sigma) - draw claimed but not yet visible."""
    power_alpha: float = 0.3
    """Weight of the newest sample in the moving average of the draw."""
    power_settle_seconds: float = 60.0
    """A claim's expected draw counts until a sample was received this long after the claim."""
    idle_power_fraction: float = 0.3
    """An unclaimed device that draws less than this part of its limit is idle: a job replaces that draw."""

    thrift_milli_per_watt: float = 0.0
    """What a watt that a job wakes counts in packing while there is room, in thousandths of a device that could still
    be hosted; 0: off, 40: measured on openb (README, "Comparing policies"). See thrift.py."""
    thrifty_until: float = 0.7
    """Part of the fleet's devices that is taken up to which watts count in full ..."""
    packing_from: float = 0.8
    """... and from which they count nothing; between them less and less."""
    cpu_package_milli: int = 32_000
    """Thousandths of a core of one CPU package (16 cores, 32 threads), which draws its full power as soon as one
    thread works ..."""
    cpu_package_watts: float = 105.0
    """... that many W more than idle (PWR, CCGrid'25: 120 and 15 W)."""

    usage_half_life_seconds: float = 7 * 86_400.0
    """Past use of a queue counts half after this time in its standing; 0: only what it holds now counts."""

    max_jobs_per_cycle: int = 512
    next_best: int = 3
    """Candidates kept with a decision, besides the chosen one."""
    reasons_max_age_seconds: float = 1.0
    """In a cycle, reasons of a shape that still does not fit are computed anew at most this often."""
    cache_bytes: int = 128 * 1024 * 1024
    """Memory for the score tables of job shapes; the least recently used go first."""

    risk_aversion: float = 0.2
    """k of: the objective compares mean x (1 + k x uncertainty). 0: means alone."""
    class_rates: tuple[ClassRates, ...] = ASSUMED_RATES
    """What a device class reaches of its data sheet, for work without a profile; classes not named keep theirs."""
    reservations: int = 1
    """Blocked jobs, the first in queue order, that have devices reserved for a start by the forecast; 0: none."""
    reservation_after_seconds: float = 10.0
    """A job that waits for less has none."""
    backfill_tries: int = 32
    """Most jobs in a cycle that are tried in what is reserved for others."""
    forecasts_per_cycle: int = 8
    """Most blocked jobs in a cycle, each unlike those before it, for which a start is looked for."""
    forecast_claims: int = 1024
    """Most running jobs that a forecast supposes to end."""
    preemptions_per_cycle: int = 8
    """Most blocked jobs in a cycle for which it is looked whom to stop; 0: nobody is ever preempted."""
    preemption_candidates: int = 256
    """Of the running jobs in order of harm, those looked at wherever they sit (more for a larger gang)."""
    protected_seconds: float = 0.0
    """A job is not stopped before it has run so long; a queue may say more."""
    nomination_seconds: float = 60.0
    """How long a place stays kept for a job that does not fit there though all who were stopped are gone."""
    defragment: DefragmentPolicy = DefragmentPolicy.PROPOSE
    defragment_moves: int = 3
    """Most running jobs that one plan moves."""
    defragment_after_seconds: float = 60.0
    """Moves are looked for once a job has waited so long, and at most once in that time."""
    resize_gangs: bool = False
    """Whether running elastic gangs give members above their minimum before a job is stopped whole, and get more of
    those they wish for. See resizing.py; the service does not carry it out yet and refuses it."""
    grow_after_seconds: float = 60.0
    """A gang grows only when it has run so long with the members that it has."""
    round_seconds: float = 0.0
    """Length of a round of time slicing: after each it is planned anew which of the jobs that can be checkpointed run,
    and on which accelerators; 0: a job keeps its place until it ends. See rounds.py."""
    plan_retry_seconds: float = 1.0
    """A forecast or a preemption that found no way is not tried again before this."""

    def __post_init__(self) -> None:
        if not 0 <= self.fresh_seconds <= self.degraded_seconds <= self.unschedulable_seconds:
            raise ValueError(
                "policy ages must rise: 0 <= fresh_seconds <= degraded_seconds <= unschedulable_seconds, "
                f"got {self.fresh_seconds}, {self.degraded_seconds}, {self.unschedulable_seconds}"
            )
        if not 0 < self.power_alpha <= 1:
            raise ValueError(f"policy power_alpha must be in (0, 1], got {self.power_alpha}")
        if self.max_jobs_per_cycle < 1:
            raise ValueError(f"policy max_jobs_per_cycle must be at least 1, got {self.max_jobs_per_cycle}")
        if not self.heat_slope_seconds > 0:
            raise ValueError(f"policy heat_slope_seconds must be above 0, got {self.heat_slope_seconds}")
        if not 0 <= self.thrifty_until < self.packing_from:
            raise ValueError(
                "policy thrifty_until must be below packing_from and not negative, "
                f"got {self.thrifty_until} and {self.packing_from}"
            )
        if self.cpu_package_milli < 1:
            raise ValueError(f"policy cpu_package_milli must be at least 1, got {self.cpu_package_milli}")
        for name in (
            "thrift_milli_per_watt",
            "cpu_package_watts",
            "heat_hysteresis_celsius",
            "heat_forecast_seconds",
            "telemetry_gap_seconds",
            "sustained_throttle_seconds",
            "cordon_clear_seconds",
            "power_sigma",
            "power_settle_seconds",
            "usage_half_life_seconds",
            "next_best",
            "risk_aversion",
            "reservations",
            "reservation_after_seconds",
            "plan_retry_seconds",
            "round_seconds",
            "protected_seconds",
            "grow_after_seconds",
            "defragment_after_seconds",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"policy {name} must not be negative, got {getattr(self, name)}")
