"""What a job may get (each number of devices on each accelerator of the fleet) and what to expect of each.

A declared duration holds on the fastest accelerator at the least number of devices; all others follow by
speed. Without one the roofline of the work's character gives the seconds. A constraint (deadline, latency)
is held against the upper end, mean x (1 + uncertainty); only where no option at all meets it so, against
the mean, and the decision says that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from placement_engine.domain.columns import Bools
from placement_engine.domain.estimates import Estimate
from placement_engine.domain.model import Expectation, Provenance

MOST_COUNTS = 6
NEUTRAL = 0.5
"""The value of an objective of which nothing is known."""

Option = tuple[int, int]
"""(whole devices of a member, the fleet's model id)."""


@dataclass(frozen=True, slots=True)
class TooLate:
    """The best that there is for a deadline that nothing meets."""

    end: float
    late_seconds: float
    devices: int
    model: int


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of an option are `units / speed`. `provenance` and uncertainty of the units, None: the user's word."""

    units: float
    provenance: Provenance | None = None
    relative_uncertainty: float = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    estimates: Mapping[Option, Estimate] = field(default_factory=lambda: MappingProxyType({}))
    values: Mapping[Option, float] = field(default_factory=lambda: MappingProxyType({}))
    """Of the objective, 0..1 over all options; those that are known."""
    least: int = 0
    impossible: frozenset[Option] = frozenset()
    """Options that need more devices than the fleet has, or more memory than such a device has, or that miss
    the latency target: they meet no deadline and set no scale."""
    too_slow: frozenset[Option] = frozenset()
    """Those of them that miss the latency target."""
    latency_by_mean: bool = False
    """No option's upper end meets the latency target, some means do."""

    def most_worth(self) -> list[tuple[float, int]]:
        """(the best objective value at this number of devices, the number), the best first, then the least."""
        counts = sorted({count for count, _ in self.estimates})
        return sorted(((self._worth(count), count) for count in counts), key=lambda one: (-one[0], one[1]))

    def _worth(self, count: int) -> float:
        options = (option for option in self.estimates if option[0] == count and option not in self.impossible)
        return max((self.values.get(option, NEUTRAL) for option in options), default=0.0)

    def could_do(self, count: int, in_time: Bools) -> bool:
        """Whether this number of devices could do on some accelerator, were it free."""
        return any(in_time[model] and (at, model) not in self.impossible for at, model in self.estimates if at == count)

    def work(self, declared: float | None) -> Work | None:
        """None: neither a declared duration nor the work's character tells how much there is to do."""
        at_least = [e for (count, _), e in sorted(self.estimates.items()) if count == self.least and e.speed]
        if not at_least:
            return None
        if declared is not None:
            return Work(declared * max(e.speed or 0.0 for e in at_least))
        known = [e for e in at_least if e.roofline is not None]
        if not known:
            return None
        anchor = max(known, key=lambda e: e.speed or 0.0)
        assert anchor.roofline is not None
        assert anchor.speed is not None
        return Work(anchor.roofline.seconds * anchor.speed, Provenance.ROOFLINE, anchor.roofline.relative_uncertainty)

    def seconds(self, option: Option, work: Work | None) -> tuple[float, float] | None:
        """(mean, upper end), or None where unknown."""
        estimate = self.estimates.get(option)
        if work is None or estimate is None or not estimate.speed:
            return None
        mean = work.units / estimate.speed
        return mean, mean * (1.0 + max(estimate.relative_uncertainty or 0.0, work.relative_uncertainty))

    def expectation(self, option: Option, model: str, members: int, share: int, declared: float | None) -> Expectation:
        """`share`: devices of a member that it sits on."""
        estimate, work = self.estimates[option], self.work(declared)
        devices, provenance, spread = members * share, estimate.provenance, estimate.relative_uncertainty
        seconds = self.seconds(option, work)
        if seconds is not None:
            duration: float | None = seconds[0]
            if work is not None and work.provenance is not None:
                provenance, spread = work.provenance, max(spread or 0.0, work.relative_uncertainty)
        else:
            duration = declared
            provenance = provenance if declared is None else Provenance.DECLARED
        price, watts = estimate.price_per_hour, estimate.watts
        return Expectation(
            accelerator=model,
            devices=devices,
            duration_seconds=duration,
            cost_dollars=None if duration is None or price is None else price * devices * duration / 3600,
            energy_joules=None if duration is None or watts is None else watts * devices * duration,
            latency_seconds=estimate.latency_seconds,
            provenance=provenance,
            relative_uncertainty=spread,
        )

    def in_time(
        self, now: float, deadline: float, work: Work | None
    ) -> tuple[dict[Option, bool], bool, TooLate | None]:
        """(whether each option with a known duration ends in time, whether only means do, or how late the best is)."""
        options = sorted(self.estimates.keys() - self.impossible)
        known = {option: s for option in options if (s := self.seconds(option, work)) is not None}
        met, by_mean = _met(known, deadline - now)
        if not known or any(met.values()) or len(known) < len(options):
            return met, by_mean, None
        count, model = min(known, key=lambda option: (known[option][0], option))
        end = now + known[count, model][0]
        return met, False, TooLate(end, end - deadline, count, model)


NOTHING_KNOWN = Outlook()


def too_slow(
    estimates: Mapping[Option, Estimate], impossible: Iterable[Option], target: float
) -> tuple[frozenset[Option], bool]:
    """(options whose known latency misses the target, whether the others meet it by their means only)."""
    known = {
        option: (e.latency_seconds, e.latest_seconds)
        for option, e in estimates.items()
        if e.latency_seconds is not None and e.latest_seconds is not None
    }
    met, by_mean = _met({option: known[option] for option in known.keys() - set(impossible)}, target)
    missed = {option for option, (mean, _) in known.items() if not met.get(option, mean <= target)}
    return frozenset(missed), by_mean


def _met(known: Mapping[Option, tuple[float, float]], limit: float) -> tuple[dict[Option, bool], bool]:
    strictly = {option: upper <= limit for option, (_, upper) in known.items()}
    if any(strictly.values()):
        return strictly, False
    by_mean = {option: mean <= limit for option, (mean, _) in known.items()}
    return by_mean, any(by_mean.values())


def counts_between(least: int, most: int, measured: Iterable[int]) -> tuple[int, ...]:
    """At most six: both ends, then counts that were measured, then powers of two, spread evenly."""
    if most <= least:
        return (least,)
    ends = {least, most}
    known = sorted({n for n in measured if least < n < most})
    doublings = sorted({2**k for k in range(most.bit_length()) if least < 2**k < most} - set(known))
    picked = _spread(known, MOST_COUNTS - len(ends))
    picked += _spread(doublings, MOST_COUNTS - len(ends) - len(picked))
    return tuple(sorted(ends | set(picked)))


def _spread(values: list[int], room: int) -> list[int]:
    """At most `room` of the sorted values, evenly apart in order."""
    if len(values) <= room:
        return values
    return [values[(2 * i + 1) * len(values) // (2 * room)] for i in range(room)]
