"""What running jobs teach: spans of work become an estimate of speed for each workload, accelerator, count and
configuration. Pure.

The estimate is a running mean and variance of the logarithm of units a second, whose memory is capped at MEMORY
spans: what is older fades. A span that lies too far off is an outlier and is set aside; several in a row that agree
with one another are no outliers but a new level, and become the estimate. Nothing else is forgotten or counted twice:
spans learnt from and spans set aside add up to the spans that came.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple

from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = [
    "ENOUGH", "Estimate", "Latencies", "Lesson", "Reason", "Run", "Span", "Watched", "learn", "profile_of",
    "worth_telling",
]  # fmt: skip

MEMORY: Final = 50
"""Spans: beyond these the mean moves by a fiftieth of each."""
ENOUGH: Final = 3
"""Spans before the estimate is told as a profile, and outranks what was measured elsewhere."""
SHORTEST_SECONDS: Final = 1.0
PRIOR_SPREAD, PRIOR_SPANS = 0.15, 3.0
"""Relative spread that is assumed before there is one, and how many spans it weighs."""
LEAST_SPREAD: Final = 0.02
OUTLYING: Final = 3.5
"""In spreads from the mean; the customary bound of the modified z-score (Iglewicz and Hoaglin, 1993)."""
SHIFT_SPANS, SHIFT_RUNS, SHIFT_SPANS_OF_ONE_RUN = 5, 2, 20
"""Outliers in a row that agree make a new level: so many of two runs or more, as one run may sit on a sick node."""
AGREEING: Final = 0.1
"""Logarithm by which outliers may differ and still agree, where their own spread is not wider."""
MATERIAL: Final = 0.02
WINDOWS: Final = 5
"""Spans whose latencies are kept: a slow one among them is not yet the rule."""
MATERIAL_LATENCY: Final = 0.2
"""Logarithm. A window's p99 is one or a few requests: it moves more than the speed does."""


class Reason(StrEnum):
    """Why a span was set aside."""

    TOO_SHORT = "too short"
    PARTIAL_GANG = "partial gang"
    SHARED = "shared device"
    THROTTLED = "throttled"
    OTHER_UNIT = "other unit"
    OUTLIER = "outlier"


class Watched(StrEnum):
    """What telemetry says of the devices during a span."""

    CLEAR = "clear"
    THROTTLED = "throttled"
    UNKNOWN = "unknown"


class Run(NamedTuple):
    """One attempt of one job."""

    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Latencies:
    """Quantiles of requests' latency in one span or window of time, seconds."""

    latency_p50_seconds: float | None = None
    latency_p90_seconds: float | None = None
    latency_p99_seconds: float | None = None

    FIELDS: ClassVar = ("latency_p50_seconds", "latency_p90_seconds", "latency_p99_seconds")

    @property
    def told(self) -> tuple[float, ...]:
        values = (getattr(self, field) for field in self.FIELDS)
        return tuple(value for value in values if value is not None)

    @property
    def highest(self) -> float | None:
        """Of the highest quantile that is told."""
        return self.told[-1] if self.told else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Work of one run in a span of time: `units` in `seconds` of work on all devices together.

    `key` is that of the observed profile. `sequence` rises with each span of the run. `whole`: all members of the gang
    are counted; `alone`: nothing else could run on the devices.
    """

    run: Run
    sequence: int
    key: ProfileKey
    units: float
    unit: str
    seconds: float
    at: datetime
    watched: Watched = Watched.UNKNOWN
    whole: bool = True
    alone: bool = True
    batch_size: int | None = None
    precision: str = ""
    software_stack: str = ""
    latencies: Latencies = Latencies()

    @property
    def throughput(self) -> float:
        return self.units / self.seconds


@dataclass(frozen=True, slots=True)
class Outlier:
    """One of a row: its logarithm, and whose it was."""

    level: float
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`level` and `variance` of the logarithm of units a second; `weight`: spans that they stand for, at most MEMORY.

    `learnt` spans made it, `unwatched` of them without news of the devices' heat. `other_units`:
    sound spans in another unit, in a row. `told`: throughput and relative
    uncertainty of the profile that was published last; `told_latency`: its highest latency quantile, seconds.
    `windows`: what the last WINDOWS spans that told latencies told, the newest last.
    """

    unit: str = ""
    level: float = 0.0
    variance: float = 0.0
    weight: int = 0
    learnt: int = 0
    unwatched: int = 0
    other_units: int = 0
    runs: int = 0
    set_aside: Mapping[Reason, int] = field(default_factory=dict)
    outlying: tuple[Outlier, ...] = ()
    windows: tuple[Latencies, ...] = ()
    told: tuple[float, float] | None = None
    told_latency: float | None = None
    last_at: datetime | None = None

    @property
    def known(self) -> bool:
        return self.weight > 0

    @property
    def throughput(self) -> float:
        """The geometric mean: as often above as below."""
        return math.exp(self.level)

    @property
    def latencies(self) -> Latencies:
        """Of one window, that in the middle: quantiles of several are not joined, for their mean is no quantile. Of an
        even number the slower one; those that tell fewer quantiles than others do not count."""
        most = max((len(one.told) for one in self.windows), default=0)
        whole = sorted((one for one in self.windows if len(one.told) == most), key=lambda one: one.highest or 0.0)
        return whole[len(whole) // 2] if whole else Latencies()

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithm, drawn to PRIOR_SPREAD while there are few spans."""
        drawn = (PRIOR_SPANS * PRIOR_SPREAD**2 + self.weight * self.variance) / (PRIOR_SPANS + self.weight)
        return max(LEAST_SPREAD, math.sqrt(drawn))

    @property
    def relative_uncertainty(self) -> float:
        """Relative standard deviation of the next span: its own spread and that of the mean."""
        return min(10.0, self.spread * math.sqrt(1.0 + 1.0 / max(1, self.weight)))


@dataclass(frozen=True, slots=True)
class Lesson:
    """What changes: the last sequence of each run, and estimates by key."""

    reached: Mapping[Run, int]
    estimates: Mapping[ProfileKey, Estimate]


def learn(
    spans: Sequence[Span],
    reached: Mapping[Run, int],
    estimates: Mapping[ProfileKey, Estimate],
    units_of: Callable[[str], Set[str]],
) -> Lesson:
    """The estimates after `spans`, in their order. `reached`: last sequence taken of each run; what is not newer is a
    repetition and changes nothing. `units_of`: units in which a workload's profiles count, empty where there are none;
    speeds in other units do not compare with theirs.
    """
    new_reached: dict[Run, int] = {}
    changed: dict[ProfileKey, Estimate] = {}
    for span in spans:
        last = new_reached.get(span.run, reached.get(span.run, 0))
        if span.sequence <= last:
            continue
        new_reached[span.run] = span.sequence
        before = changed.get(span.key) or estimates.get(span.key) or Estimate()
        if last == 0:
            before = replace(before, runs=before.runs + 1)
        changed[span.key] = _learnt(before, span, units_of(span.key.workload))
    return Lesson(new_reached, changed)


def _learnt(before: Estimate, span: Span, units: Set[str]) -> Estimate:
    """`units`: of the workload's profiles; empty: it has none."""
    reason = _unfit(span)
    if reason is not None:
        return _aside(before, reason)
    if units and span.unit not in units:
        return _aside(before, Reason.OTHER_UNIT)
    if before.unit in ("", span.unit):
        return _taken(before, span)
    row = before.other_units + 1
    if (units and before.unit not in units) or (before.weight < ENOUGH and row >= ENOUGH):
        # One span in a unit that nobody else uses must not be the measure of all that come.
        return _taken(_in_another_unit(before), span)
    return _aside(replace(before, other_units=row), Reason.OTHER_UNIT)


def _in_another_unit(before: Estimate) -> Estimate:
    """Blank: what was learnt is set aside."""
    blank = Estimate(runs=before.runs, set_aside=before.set_aside, last_at=before.last_at)
    return _aside(blank, Reason.OTHER_UNIT, before.learnt)


def _unfit(span: Span) -> Reason | None:
    """Why a span says nothing of the speed, whatever it is and whatever it counts."""
    if not span.whole:
        return Reason.PARTIAL_GANG
    if not span.alone:
        return Reason.SHARED
    if span.watched is Watched.THROTTLED:
        return Reason.THROTTLED
    if span.seconds < SHORTEST_SECONDS:
        return Reason.TOO_SHORT
    return None


def _aside(estimate: Estimate, reason: Reason, spans: int = 1) -> Estimate:
    count = estimate.set_aside.get(reason, 0) + spans
    others = {one: n for one, n in estimate.set_aside.items() if one is not reason}
    return replace(estimate, set_aside={**others, reason: count} if count else others)


def _taken(estimate: Estimate, span: Span) -> Estimate:
    """The estimate after a sound span: learnt from, or put into the row of outliers."""
    level = math.log(span.throughput)
    estimate = replace(estimate, unit=span.unit, other_units=0, last_at=max(span.at, estimate.last_at or span.at))
    if estimate.known and abs(level - estimate.level) > OUTLYING * estimate.spread:
        return _outlying(estimate, Outlier(level, span.run))
    weight = min(estimate.weight + 1, MEMORY)
    share = 1.0 / weight
    off = level - estimate.level
    return replace(
        estimate,
        level=estimate.level + share * off if estimate.known else level,
        variance=(1.0 - share) * (estimate.variance + share * off * off) if estimate.known else 0.0,
        weight=weight,
        learnt=estimate.learnt + 1,
        unwatched=estimate.unwatched + (span.watched is Watched.UNKNOWN),
        outlying=(),
        windows=(*estimate.windows, span.latencies)[-WINDOWS:] if span.latencies.told else estimate.windows,
    )


def _outlying(estimate: Estimate, outlier: Outlier) -> Estimate:
    """Set aside, unless it completes a row that agrees: then the row is the new level, and was learnt from."""
    row = estimate.outlying
    if row and abs(outlier.level - _mean(row)) > max(AGREEING, OUTLYING * math.sqrt(_variance(row))):
        row = ()
    row = (*row, outlier)
    runs = len({one.run for one in row})
    shifted = len(row) >= SHIFT_SPANS and (runs >= SHIFT_RUNS or len(row) >= SHIFT_SPANS_OF_ONE_RUN)
    if not shifted:
        return _aside(replace(estimate, outlying=row), Reason.OUTLIER)
    moved = replace(
        estimate,
        level=_mean(row),
        variance=_variance(row),
        weight=len(row),
        learnt=estimate.learnt + len(row),
        # Nobody kept what telemetry said of the earlier ones.
        unwatched=estimate.unwatched + len(row),
        outlying=(),
        windows=(),
    )
    return _aside(moved, Reason.OUTLIER, 1 - len(row))


def _mean(row: Sequence[Outlier]) -> float:
    return math.fsum(one.level for one in row) / len(row)


def _variance(row: Sequence[Outlier]) -> float:
    mean = _mean(row)
    return math.fsum((one.level - mean) ** 2 for one in row) / len(row)


def worth_telling(estimate: Estimate) -> bool:
    """Whether the profile has to be published: for the first time, or as it has moved by MATERIAL, its latency by
    MATERIAL_LATENCY, or as it has become twice as sure, or half as sure, as the one published last."""
    if estimate.weight < ENOUGH:
        return False
    if estimate.told is None:
        return True
    throughput, uncertainty = estimate.told
    surer = estimate.relative_uncertainty / uncertainty
    if abs(estimate.level - math.log(throughput)) > MATERIAL or not 0.5 < surer < 2.0:
        return True
    latency, told = estimate.latencies.highest, estimate.told_latency
    if latency is None or told is None:
        return latency is not told
    return abs(math.log(latency / told)) > MATERIAL_LATENCY


def profile_of(key: ProfileKey, estimate: Estimate, span: Span) -> Profile:
    """The observed profile. `span`: the last of its kind, which says how it was run. Not validated."""
    return Profile(
        key=key,
        provenance=Provenance.OBSERVED,
        source="running jobs",
        precision=span.precision,
        software_stack=span.software_stack,
        batch_size=span.batch_size,
        throughput=estimate.throughput,
        throughput_unit=f"{estimate.unit}/s",
        latency_p50_seconds=estimate.latencies.latency_p50_seconds,
        latency_p90_seconds=estimate.latencies.latency_p90_seconds,
        latency_p99_seconds=estimate.latencies.latency_p99_seconds,
        relative_uncertainty=estimate.relative_uncertainty,
        measured_at=estimate.last_at,
        samples=estimate.learnt,
    )
