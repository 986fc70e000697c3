"""What a prediction says beside throughput: latency, memory, power, energy and price, each with its way and interval.

In this order for each figure: what was measured in just this configuration; interpolation and completion as for
throughput, over the runs that measured it; then what follows from something else:

- latency of one request from throughput, only where it is known how many are in flight (Little's law), and the
  percentiles from the mean by the tail that was measured of the workload; of a derived mean else by an assumed one;
- memory from the program's analysis;
- power from the part of the TDP that others drew;
- energy and price of a unit of work from power, price and throughput.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from berth.catalogue import Accelerator
from profile_store.domain.prediction.library import Answer, Library
from profile_store.domain.prediction.roofline import Work
from profile_store.domain.prediction.runs import Quantity, run_of
from profile_store.domain.profile import PREDICTED, SEEN, Profile, Provenance

__all__ = ["DOLLARS", "QUANTITIES", "Figure", "Figures", "Speed"]

DOLLARS = "dollars_per_million_units"
LATENCIES = (
    "latency_mean_seconds",
    "latency_p50_seconds",
    "latency_p90_seconds",
    "latency_p95_seconds",
    "latency_p99_seconds",
)
FIRST_TOKENS = ("first_token_p50_seconds", "first_token_p99_seconds")
NEXT_TOKENS = ("token_p50_seconds", "token_p99_seconds")
INFERENCE_TRANSFER = 0.21
"""Latencies are of inference: the workloads of MLPerf inference, by throughput, each left out whole."""
QUANTITIES = {
    **{name: Quantity(name, sign=-1, transfer_error=INFERENCE_TRANSFER) for name in (*LATENCIES, *FIRST_TOKENS)},
    # A decode step reads weights and cache once: bandwidth bounds it.
    **{name: Quantity(name, sign=-1, likeness="bandwidth", transfer_error=INFERENCE_TRANSFER) for name in NEXT_TOKENS},
    "memory_bytes": Quantity("memory_bytes", sign=-1, likeness="same", prior_error=0.1, transfer_error=0.18),
    "power_watts": Quantity("power_watts", likeness="tdp", prior_error=0.08, transfer_error=0.144),
    "peak_power_watts": Quantity("peak_power_watts", likeness="tdp", prior_error=0.08, transfer_error=0.144),
}
"""A transfer's error is to an interpolation's as with speed (1.8 times), of which more is known."""
ASSUMED_TAIL = {"latency_p99_seconds": 1.5}
"""Seconds for each of a mean that was derived, where no tail was measured; no other percentile is made up."""
TAIL_WIDTH = 0.4
MEASURED_TAIL_WIDTH = 0.25
ANALYSED_MEMORY_WIDTH = math.log(1.5)
"""A runtime's own buffers, and what its compiler fuses otherwise."""
FEWEST_DRAWS = 8
"""Runs whose part of the TDP is known, before it is believed of others."""
RISING = (("latency_p50_seconds", "latency_p90_seconds", "latency_p95_seconds", "latency_p99_seconds"),
          ("first_token_p50_seconds", "first_token_p99_seconds"), ("token_p50_seconds", "token_p99_seconds"),
          ("power_watts", "peak_power_watts"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """`name` is the profile's field, or DOLLARS. It lies from `low` to `high` nine times of ten; None: unknown."""

    name: str
    value: float
    low: float | None
    high: float | None
    way: Provenance
    basis: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Throughput that was found, half its interval in logarithms (None: unknown), and seconds of one call at a time
    where a roofline says them."""

    throughput: float
    half_width: float | None
    way: Provenance
    call_seconds: float | None = None


class Figures:
    """Asked for each accelerator; the library of each figure is made when first needed."""

    def __init__(self, profiles: Sequence[Profile], entries: Sequence[Accelerator]) -> None:
        self._profiles = profiles
        self._entries = {entry.name: entry for entry in entries}
        self._libraries: dict[str, Library | None] = {}

    def of(self, target: Profile, accelerator: str, speed: Speed, known: Profile | None, work: Work | None) -> tuple[
        Figure, ...
    ]:  # fmt: skip
        """`known`: the profile that was measured or declared in just this configuration."""
        entry = self._entries[accelerator]
        found: dict[str, Figure] = {}
        for name in QUANTITIES:
            figure = self._one(name, target, accelerator, known)
            if figure is not None:
                found[name] = figure
        self._latencies(found, target, speed)
        if "memory_bytes" not in found and work is not None and work.memory_bytes:
            found["memory_bytes"] = _figure(
                "memory_bytes", work.memory_bytes, ANALYSED_MEMORY_WIDTH, Provenance.ROOFLINE, "the program's analysis"
            )  # fmt: skip
        if "power_watts" not in found and (drawn := self._drawn(entry)) is not None:
            found["power_watts"] = drawn
        for name in ("power_watts", "peak_power_watts"):
            if name in found and entry.tdp_watts and found[name].way in PREDICTED:
                found[name] = _at_most(found[name], entry.tdp_watts)
        _rising(found)
        self._per_unit(found, target, entry, speed, known)
        return tuple(found.values())

    def _one(self, name: str, target: Profile, accelerator: str, known: Profile | None) -> Figure | None:
        value = getattr(known, name) if known is not None else None
        if known is not None and value:
            way = Provenance(known.provenance)
            return Figure(name, value, None, None, way, way.name.lower())
        library = self._library(name)
        if library is None:
            return None
        run = run_of(target, library.quantity)
        answer = library.answer(run.family, run.place, accelerator)
        return None if answer is None else _answered(name, answer, library.quantity.sign)

    def _library(self, name: str) -> Library | None:
        if name not in self._libraries:
            made = Library(self._profiles, tuple(self._entries.values()), QUANTITIES[name])
            self._libraries[name] = made if made.runs else None
        return self._libraries[name]

    def _latencies(self, found: dict[str, Figure], target: Profile, speed: Speed) -> None:
        """Fills what is missing: the mean by Little's law, then percentiles from the mean or the median."""
        derived = "latency_mean_seconds" not in found and "latency_p50_seconds" not in found
        if derived:
            mean = _little(target, speed)
            if mean is None:
                return
            found["latency_mean_seconds"] = mean
        anchor = found.get("latency_mean_seconds") or found["latency_p50_seconds"]
        for name in LATENCIES[1:]:
            if name in found or anchor.name == name:
                continue
            tail = self._tail(target.key.workload, anchor.name, name, derived=derived)
            if tail is None:
                continue
            ratio, width, basis = tail
            half = math.hypot(_half(anchor) or 0.0, width)
            way = anchor.way if anchor.way in PREDICTED else Provenance.TRANSFERRED
            found[name] = _figure(name, anchor.value * ratio, half, way, f"{anchor.basis}; {basis}")

    def _tail(self, workload: str, anchor: str, name: str, *, derived: bool) -> tuple[float, float, str] | None:
        """Percentile for each second of the anchor, half of its interval in logarithms, and whence."""
        seen = [
            getattr(one, name) / getattr(one, anchor)
            for one in self._profiles
            if one.key.workload == workload and one.provenance in SEEN and getattr(one, name) and getattr(one, anchor)
        ]
        title = name.removeprefix("latency_").removesuffix("_seconds")
        of = anchor.removeprefix("latency_").removesuffix("_seconds")
        if seen:
            ratio = statistics.median(seen)
            return ratio, MEASURED_TAIL_WIDTH, f"{title} at {ratio:.2f} of the {of} as measured elsewhere"
        ratio = ASSUMED_TAIL.get(name, 0.0)
        if not derived or not ratio:
            return None
        return ratio, TAIL_WIDTH, f"{title} assumed at {ratio:g} of the {of}"

    @cached_property
    def _parts(self) -> list[float]:
        """Of the TDP, or of the power limit where one was set."""
        parts = []
        for one in self._profiles:
            entry = self._entries.get(one.key.accelerator)
            tdp = entry.tdp_watts if entry else None
            if one.provenance not in SEEN or not one.power_watts or not tdp or one.low_confidence:
                continue
            if one.power_limit_watts is None or one.power_limit_watts >= tdp:
                parts.append(math.log(one.power_watts / tdp))
        return sorted(parts)

    def _drawn(self, entry: Accelerator) -> Figure | None:
        if entry.tdp_watts is None or len(self._parts) < FEWEST_DRAWS:
            return None
        part = statistics.median(self._parts)
        beyond = sorted(abs(one - part) for one in self._parts)
        width = beyond[min(len(beyond) - 1, math.ceil(0.9 * (len(beyond) + 1)) - 1)]
        basis = f"{math.exp(part):.0%} of the TDP, as {len(self._parts)} other runs drew"
        return _figure("power_watts", entry.tdp_watts * math.exp(part), width, Provenance.TRANSFERRED, basis)

    def _per_unit(
        self, found: dict[str, Figure], target: Profile, entry: Accelerator, speed: Speed, known: Profile | None
    ) -> None:
        devices = target.key.devices
        energy = known.energy_joules_per_unit if known is not None else None
        power = found.get("power_watts")
        if known is not None and energy:
            way = Provenance(known.provenance)
            found["energy_joules_per_unit"] = Figure(
                "energy_joules_per_unit", energy, None, None, way, way.name.lower()
            )  # fmt: skip
        elif power is not None:
            half = None
            if speed.half_width is not None:
                half = math.hypot(speed.half_width, _half(power) or 0.0)
            found["energy_joules_per_unit"] = _figure(
                "energy_joules_per_unit", power.value * devices / speed.throughput, half,
                _less_sure(power.way, speed.way), "power by throughput",
            )  # fmt: skip
        own = known.price_per_hour if known is not None else None
        price = own if own is not None else entry.price_per_hour
        if price:
            basis = f"${price:g} an hour for each device"
            found[DOLLARS] = _figure(
                DOLLARS, price * devices / 3600 / speed.throughput * 1e6, speed.half_width, speed.way, basis
            )


def _little(target: Profile, speed: Speed) -> Figure | None:
    """Mean seconds of one request; None where nobody says how many are in flight. A workload of which the analysis
    alone is known (its target is a roofline's) is one call with nothing beside it, unless somebody says otherwise."""
    analysed = target.concurrency is None and target.provenance == Provenance.ROOFLINE
    if speed.call_seconds is not None and (target.concurrency == 1 or analysed):
        return _figure(
            "latency_mean_seconds", speed.call_seconds, speed.half_width, speed.way, "one call at a time"
        )  # fmt: skip
    if target.concurrency is None:
        return None
    match target.throughput_unit:
        case "queries/s" | "steps/s":
            units = 1.0
        case "tokens/s" if target.output_tokens:
            units = float(target.output_tokens)
        case _:
            return None
    seconds = target.concurrency * units / speed.throughput
    way = speed.way if speed.way in PREDICTED else Provenance.TRANSFERRED
    basis = f"throughput with {target.concurrency} in flight"
    return _figure("latency_mean_seconds", seconds, speed.half_width, way, basis)


def _answered(name: str, answer: Answer, sign: int) -> Figure:
    return _figure(name, math.exp(sign * answer.speed), answer.half_width or None, answer.way, answer.basis)


def _figure(name: str, value: float, half_width: float | None, way: Provenance, basis: str) -> Figure:
    if not half_width:
        return Figure(name, value, None, None, way, basis)
    return Figure(name, value, value * math.exp(-half_width), value * math.exp(half_width), way, basis)


def _half(figure: Figure) -> float | None:
    return math.log(figure.high / figure.value) if figure.high is not None else None


def _less_sure(one: Provenance, other: Provenance) -> Provenance:
    order = (Provenance.OBSERVED, Provenance.MEASURED, Provenance.DECLARED, *PREDICTED)
    return max(one, other, key=order.index)


def _at_most(figure: Figure, most: float) -> Figure:
    low = None if figure.low is None else min(figure.low, most)
    high = None if figure.high is None else min(figure.high, most)
    return replace(figure, value=min(figure.value, most), low=low, high=high)


def _rising(found: dict[str, Figure]) -> None:
    """No percentile under a lower one, however each was found. What was measured stays: it is raised last."""
    for names in RISING:
        present = [name for name in names if name in found]
        for lower, higher in itertools.pairwise(present):
            one, other = found[lower], found[higher]
            if other.value >= one.value:
                continue
            if other.way in PREDICTED:
                high = None if other.high is None else max(other.high, one.value)
                found[higher] = replace(other, value=one.value, high=high)
            elif one.way in PREDICTED:
                found[lower] = _at_most(one, other.value)
