"""Speed from what one call of a program does, and what accelerators can do at most.

    seconds = max(sum over precisions of operations / (peak x part) / devices^0.9,
                  bytes / (bandwidth x part) / devices^0.5) + launch

The parts of the data sheet are those that placement assumes for each device class. Where the catalogue lacks a figure,
what `berth profiles bench` measured there stands for it. Where the same work was measured somewhere, the ratio of its
seconds to its bound there is taken along: on the same accelerator before the same class before any other. A run faster
than the data sheet is not of that work and teaches nothing; no answer is faster than the data sheet of its accelerator.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from berth.catalogue import Accelerator
from berth.models.roofline import COMPUTE, DEFAULT, FROM_PEAKS, SMALL_PART, STREAMING, served
from profile_store.domain.prediction.reached import Reached, alone, carried
from profile_store.domain.profile import SEEN, Profile

__all__ = ["COPY", "MATMUL", "PRECISIONS", "Bounded", "Roofs", "Work", "items_of", "known_work", "prior", "work_of"]

MEASURED_PART = 0.9
"""Of what a matrix product or a copy reached there."""
LAUNCH = {"CPU": 2e-5, "GPU": 5e-5}
OTHER_LAUNCH = 1e-4
"""Seconds to start one call, whatever it does: assumed, and off by a factor of LAUNCH_FACTOR nine times of ten."""
LAUNCH_FACTOR = 3.0
SCALING, MEMORY_SCALING = 0.9, 0.5
"""Speed over devices. Work that is bound by memory does little between two exchanges, and each takes as long as what
sharing saves: such work gains nothing to all of it, and half (in logarithms) stands in the middle."""
RAW, CORRECTED_ELSEWHERE, CORRECTED_IN_CLASS, CORRECTED_HERE = 0.95, 0.95, 0.6, 0.4
"""Half of the 90 % interval, in logarithms, until other programs were measured (reached.py, docs/adr/0037). RAW: five
kinds of program are off by 0.47 (prompt and token of two language models on two GPUs, a small transformer on a CPU;
root mean square), by Student's distribution for five. IN_CLASS: four of them on the other GPU, 0.28. The others are
assumed."""
ASSUMED_PEAK = 0.35
"""Added where the peak at that precision is assumed from another one's."""
FASTER_THAN_SHEET = 1.1
"""A data sheet rounds, and chips boost: only beyond this a run is not believed to be of the work."""
ELSEWHERE = 2
"""Distance of an accelerator of another class: the widths above, by distance from 0."""
BYTES_AN_OPERATION = 1 / 250

SAME_UNITS = {"": "fp16", "mixed": "fp16", "tf32": "fp32", "uint8": "int8", "mxfp4": "fp4"}
"""Other names that profiles give to what `berth model analyse` has: the same units compute it."""
PRECISIONS = (*FROM_PEAKS, *(name for name in SAME_UNITS if name))
MATMUL, COPY = "berth-matmul-", "berth-copy"
"""Workloads of `berth profiles bench` that measure a roof: the first is followed by its precision."""


@dataclass(frozen=True, slots=True)
class Work:
    """One call on all devices: floating point operations, those by precision, bytes to and from memory, bytes held."""

    operations: float | None = None
    bytes_moved: float | None = None
    memory_bytes: int | None = None
    by_precision: Mapping[str, float] = field(default_factory=dict)
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Bounded:
    """Logarithms of throughput in the target's unit, `most` that the data sheet allows (infinite where it is silent);
    `seconds` of one call; `by`: "compute", "memory" or "launch".
    `corrected`: by how much slower than its bound the work was where it was measured; None: nowhere."""

    speed: float
    half_width: float
    seconds: float
    by: str
    basis: str
    most: float
    corrected: float | None = None


@dataclass(frozen=True, slots=True)
class _Bound:
    """`least`: seconds at the whole of every figure that a data sheet gives, whatever else is assumed."""

    seconds: float
    by: str
    width: float
    remark: str
    least: float


def prior(entries: Iterable[Accelerator]) -> dict[str, float]:
    """Expected speed of each accelerator, in logarithms up to a constant: the mean of peak and bandwidth."""
    found = {}
    for entry in entries:
        peak, bandwidth = entry.peak("fp16"), entry.memory_bandwidth
        parts = [math.log(peak * 1e12 * BYTES_AN_OPERATION)] if peak else []
        parts += [math.log(bandwidth)] if bandwidth else []
        found[entry.name] = sum(parts) / len(parts) if parts else math.log(1e12)
    return found


def items_of(profile: Profile, work: Work | None = None) -> float | None:
    """Units of throughput that one call does; None: an epoch is no call, and tokens of unknown number."""
    batch = profile.batch_size or (work.batch_size if work else None) or 1
    match profile.throughput_unit:
        case "" | "steps/s":
            return 1.0
        case "samples/s" | "queries/s":
            return float(batch)
        case "tokens/s" if profile.output_tokens:
            return float(batch * profile.output_tokens)
    return None


def work_of(profile: Profile) -> Work | None:
    """What a profile says of one call."""
    if not profile.operations and not profile.bytes_moved:
        return None
    shares = dict(profile.operations_by_precision)
    return Work(profile.operations, profile.bytes_moved, profile.memory_bytes, shares, profile.batch_size)


def _of_batch(work: Work, target: Profile) -> bool:
    """Whether the work is that of the target's batch. Nothing said on both sides is one batch; else 1 stands for it."""
    return (work.batch_size or 1) == (target.batch_size or 1)


def known_work(target: Profile, alike: Sequence[Profile]) -> Work | None:
    """Of the profile most like the target in precision and batch, of those that say operations or bytes."""
    saying = [one for one in alike if work_of(one) is not None]
    like = min(
        saying,
        key=lambda one: (one.precision != target.precision, one.batch_size != target.batch_size, one.key),
        default=None,
    )
    work = work_of(like) if like is not None else None
    if work is None or like is None or like.precision == target.precision:
        return work
    # The same operations, asked for at another precision than they were counted in.
    return replace(work, by_precision={})


def _program(profile: Profile) -> str:
    return profile.model or profile.key.workload


def _units(precision: str) -> str:
    """The precision whose units compute it."""
    wanted = precision.casefold()
    return SAME_UNITS.get(wanted, wanted)


def _bits(precision: str) -> int:
    """Of one operand: 16 where the name has no number."""
    return int("".join(letter for letter in precision if letter.isdigit()) or 16)


class Roofs:
    """What each accelerator can do, from the catalogue and from measured roofs among the profiles."""

    def __init__(self, entries: Iterable[Accelerator], profiles: Iterable[Profile] = ()) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._profiles = tuple(profiles)
        self._peaks: dict[tuple[str, str], float] = {}
        self._bandwidths: dict[str, float] = {}
        for one in self._profiles:
            if one.provenance not in SEEN or not one.throughput or one.key.co_located_with:
                continue
            name, rate = one.key.accelerator, one.throughput / one.key.devices
            if one.key.workload.startswith(MATMUL) and one.operations:
                place = name, one.precision
                self._peaks[place] = max(self._peaks.get(place, 0.0), rate * one.operations)
            elif one.key.workload == COPY and one.bytes_moved:
                self._bandwidths[name] = max(self._bandwidths.get(name, 0.0), rate * one.bytes_moved)

    def bounded(
        self, target: Profile, alike: Sequence[Profile], accelerator: str, work: Work | None = None
    ) -> Bounded | None:
        """What `target` would do there. `alike` are profiles of the same workload: what they say of the work, where
        `work` is None, and how fast they were seen to do it. None where the accelerator is not known, or the work at
        the target's batch: how it grows with the batch nobody says."""
        work = work or known_work(target, alike)
        if work is None or not _of_batch(work, target):
            return None
        items = items_of(target, work)
        bound = self._bound(work, target.precision, accelerator, target.key.devices)
        if bound is None or items is None:
            return None
        most = math.log(items / bound.least) if bound.least else math.inf
        ratios: dict[int, list[tuple[float, str]]] = {}
        absurd: set[str] = set()
        for other in alike:
            taken = self._ratio(work, other)
            if taken is None:
                continue
            if math.isnan(taken[0]):
                absurd.add(taken[1])
                continue
            distance = self._distance(other.key.accelerator, accelerator)
            # How well a CPU computes says nothing of how soon a GPU's kernel starts.
            if distance < ELSEWHERE or taken[2] == bound.by:
                ratios.setdefault(distance, []).append(taken[:2])
        left_out = ""
        if absurd:
            names = ", ".join(sorted(absurd)[:4])
            left_out = f"; not as on {names}: faster than its data sheet, so it ran something else"
        if not ratios:
            basis = f"roofline: {bound.by} bound{bound.remark}{left_out}"
            width = math.hypot(alone(self._others(target, accelerator), bound.by, RAW), bound.width)
            return Bounded(-math.log(bound.seconds / items), width, bound.seconds, bound.by, basis, most)
        nearest = min(ratios)
        slower = statistics.median(ratio for ratio, _ in ratios[nearest])
        seconds = max(bound.seconds * math.exp(slower), bound.least)
        width = (CORRECTED_HERE, CORRECTED_IN_CLASS, CORRECTED_ELSEWHERE)[nearest]
        if nearest:
            width = carried(self._others(target, accelerator), bound.by, width)
        where = ", ".join(sorted({name for _, name in ratios[nearest]})[:4])
        reached = f"{math.exp(-slower):.2f} of it" if slower > 0 else f"{math.exp(-slower):.1f} times it"
        if seconds == bound.least:
            reached += ", and no faster than the data sheet"
        basis = f"roofline: {bound.by} bound{bound.remark}, as on {where}, which reached {reached}{left_out}"
        width = math.hypot(width, bound.width)
        return Bounded(-math.log(seconds / items), width, seconds, bound.by, basis, most, math.exp(slower))

    def _others(self, target: Profile, accelerator: str) -> list[Reached]:
        """What other programs reached where they were measured, from the accelerator's point of view."""
        kind = _program(target)
        return [
            replace(one, distance=self._distance(one.accelerator, accelerator))
            for one in self._reached
            if one.kind != kind
        ]

    @cached_property
    def _reached(self) -> tuple[Reached, ...]:
        found = []
        for one in self._profiles:
            work = work_of(one)
            if work is None or one.key.workload.startswith(MATMUL) or one.key.workload == COPY:
                continue
            taken = self._ratio(work, one)
            if taken is not None and not math.isnan(taken[0]):
                run = f"{one.key.workload} {one.key.configuration}", one.key.devices
                found.append(Reached(_program(one), run, taken[1], taken[2], taken[0], 0))
        return tuple(sorted(found, key=lambda one: (one.kind, one.run, one.accelerator)))

    def _distance(self, one: str, other: str) -> int:
        if one == other:
            return 0
        a, b = self._entries.get(one), self._entries.get(other)
        return 1 if a and b and a.device_class == b.device_class else ELSEWHERE

    def _ratio(self, work: Work, seen: Profile) -> tuple[float, str, str] | None:
        """How much longer one call took than its bound there says, in logarithms; NaN where that cannot be. Then where,
        and what bound it."""
        if seen.provenance not in SEEN or seen.low_confidence or seen.key.co_located_with:
            return None
        if seen.batch_size and seen.batch_size != (work.batch_size or 1):
            return None
        items = items_of(seen, work)
        seconds = seen.busy_seconds
        if seconds is None and seen.throughput and items is not None:
            seconds = items / seen.throughput
        bound = self._bound(work, seen.precision, seen.key.accelerator, seen.key.devices) if seconds else None
        if bound is None or not seconds:
            return None
        if seconds * FASTER_THAN_SHEET < bound.least:
            return math.nan, seen.key.accelerator, bound.by
        return math.log(seconds / bound.seconds), seen.key.accelerator, bound.by

    def _bound(self, work: Work, precision: str, accelerator: str, devices: int) -> _Bound | None:
        entry = self._entries.get(accelerator)
        if entry is None:
            return None
        shares = dict(work.by_precision) or {precision: work.operations or 0.0}
        compute, least, sure, remarks, unpriced = 0.0, 0.0, True, [], {}
        for name, operations in sorted(shares.items()):
            if not operations:
                continue
            rate = self._rate(entry, name)
            if rate is None:
                unpriced[name] = operations
                continue
            compute += operations / rate[0]
            least += operations / self._sheet(entry, name)
            if rate[1]:
                remarks.append(rate[1])
                sure = False
        if unpriced:
            widest = self._widest(entry)
            small = sum(unpriced.values()) < SMALL_PART * sum(shares.values())
            if not small or "fp64" in unpriced:
                return None
            how = "left out: no peak of theirs is known"
            if widest is not None:
                compute += sum(unpriced.values()) / (widest[0] * MEASURED_PART)
                how = f"as fast as {widest[1]} measured there"
            remarks.append(f"{', '.join(unpriced)}, under {SMALL_PART:.0%} of the operations, {how}")
        stream = self._stream(entry)
        if work.bytes_moved and stream is None:
            return None
        memory = (work.bytes_moved or 0.0) / stream if stream else 0.0
        compute, memory = compute / devices**SCALING, memory / devices**MEMORY_SCALING
        body = max(compute, memory)
        launch = LAUNCH.get(entry.device_class, OTHER_LAUNCH)
        if not body:
            return None
        seconds = body + launch
        by = "launch" if launch > body else "compute" if compute >= memory else "memory"
        width = launch / seconds * math.log(LAUNCH_FACTOR)
        if not sure and compute >= memory:
            width = math.hypot(width, ASSUMED_PEAK)
        remark = f" ({'; '.join(dict.fromkeys(remarks))})" if remarks and compute >= memory else ""
        if work.bytes_moved and entry.memory_bandwidth:
            least = max(least, work.bytes_moved / entry.memory_bandwidth)
        return _Bound(seconds, by, width, remark, least / devices)

    def _sheet(self, entry: Accelerator, precision: str) -> float:
        """Operations a second that the data sheet allows: of units no wider than the work; infinite where it is silent
        of them, for narrower work may be faster there than wider work."""
        wanted = _units(precision)
        for name, _ in FROM_PEAKS.get(wanted, ()):
            peak = entry.peak(name)
            if peak and _bits(name) <= _bits(wanted):
                return peak * 1e12
        return math.inf

    def _rate(self, entry: Accelerator, precision: str) -> tuple[float, str] | None:
        """Operations a second that work reaches, and what was assumed for it."""
        wanted = precision.casefold()
        sheet = served(entry, _units(precision))
        if sheet is not None:
            name, tera = sheet
            share = tera / (entry.peak(name) or tera)
            assumed = "" if name == _units(precision) else f"{wanted} at {share:.2g} of {name}'s peak"
            return tera * 1e12 * COMPUTE.get(entry.device_class, DEFAULT[0]), assumed
        measured = self._peaks.get((entry.name, wanted))
        if measured:
            return measured * MEASURED_PART, ""
        wider = self._peaks.get((entry.name, "fp32"))
        if wider and wanted != "fp64":
            return wider * MEASURED_PART, f"{wanted or 'unsaid precision'} as fast as fp32 measured there"
        return None

    def _widest(self, entry: Accelerator) -> tuple[float, str] | None:
        """Operations a second of the widest precision measured there, of two such the slower."""
        known = [(-_bits(name), rate, name) for (place, name), rate in self._peaks.items() if place == entry.name]
        return min(known)[1:] if known else None

    def _stream(self, entry: Accelerator) -> float | None:
        part = STREAMING.get(entry.device_class, DEFAULT[1])
        if entry.memory_bandwidth:
            return entry.memory_bandwidth * part
        measured = self._bandwidths.get(entry.name)
        return measured * MEASURED_PART if measured else None
