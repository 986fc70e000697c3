"""What a workload would do on each accelerator, and how sure that is.

In this order: its profile on that accelerator (between and beyond measured device counts: scaling.py);
a profile on another accelerator, moved over by the ratio of both rooflines; the roofline of the work's own
character (roofline.py); the roofline of work of which nothing is known. Every estimate says where it comes
from; what nobody knows is None.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from placement_engine.domain import scaling
from placement_engine.domain.model import Accelerator, Character, Objective, Profile, Provenance
from placement_engine.domain.roofline import Bound, Roofline

RANK = {provenance: rank for rank, provenance in enumerate(Provenance)}
# Of one count the adapter picked one of both; over counts they are points of one curve.
RANK[Provenance.MEASURED] = RANK[Provenance.OBSERVED]
"""Best first."""
UNCERTAINTY = {
    Provenance.OBSERVED: 0.05,
    Provenance.MEASURED: 0.05,
    Provenance.INTERPOLATED: 0.15,
    Provenance.TRANSFERRED: 0.35,
    Provenance.ROOFLINE: 0.5,
    Provenance.DECLARED: 0.3,
    Provenance.UNKNOWN: 0.5,
}
"""Relative, where a profile does not state its own."""
SAID = frozenset({Provenance.MEASURED, Provenance.DECLARED})
"""Somebody's own word of this accelerator. All else was derived or observed, and says nothing but speed."""
OTHER_CLASS_UNCERTAINTY = 0.35
UNCHARACTERISED_UNCERTAINTY = 0.75
ASSUMED_TAIL = 1.5
"""p99 of a request in means, where nobody measured either: as the profile store assumes it."""
ASSUMED_INTENSITY = 200.0
"""Operations a byte of work of which nothing is known: near the ridge of present GPUs (150 to 420)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a workload on `devices` of one accelerator. Speed is in units that all estimates of one workload
    share; W and $ are per device."""

    speed: float | None
    latency_seconds: float | None
    memory_bytes: int | None
    watts: float | None
    peak_watts: float | None
    price_per_hour: float | None
    provenance: Provenance
    relative_uncertainty: float | None
    basis: str = ""
    """For a person: "interpolated from 1 and 4 devices"."""
    roofline: Bound | None = None
    """Of the work's character on this many devices, also where a profile speaks."""
    latency_high_seconds: float | None = None
    """Upper end of the latency's own interval; None: that of the speed stands for it."""

    def upper(self, value: float) -> float:
        return value * (1.0 + (self.relative_uncertainty or 0.0))

    @property
    def latest_seconds(self) -> float | None:
        """The latency that a target must hold for."""
        if self.latency_seconds is None or self.latency_high_seconds is not None:
            return self.latency_high_seconds
        return self.upper(self.latency_seconds)


class Estimator:
    """Profiles and catalogue, asked by (workload, accelerator, devices)."""

    def __init__(self, roofline: Roofline | None = None, risk_aversion: float = 0.0) -> None:
        self._profiles: dict[str, dict[str, dict[int, Profile]]] = {}
        self._catalogue: dict[str, Accelerator] = {}
        self._roofline = roofline or Roofline()
        self._risk_aversion = risk_aversion

    def set_profiles(self, profiles: Iterable[Profile]) -> None:
        """Replaces all. Of two of one workload, accelerator and devices the better provenance stays."""
        self._profiles = {}
        for profile in sorted(profiles, key=lambda p: -RANK[p.provenance]):
            self.put_profile(profile)

    def put_profile(self, profile: Profile) -> None:
        """Replaces the one of the same workload, accelerator and devices: the profile store's last word."""
        by_model = self._profiles.setdefault(profile.workload, {})
        by_model.setdefault(profile.accelerator.casefold(), {})[max(1, profile.devices)] = profile

    def set_catalogue(self, accelerators: Iterable[Accelerator]) -> None:
        self._catalogue = {accelerator.name.casefold(): accelerator for accelerator in accelerators}

    def accelerator(self, model: str) -> Accelerator | None:
        return self._catalogue.get(model.casefold())

    def profiles(self) -> list[Profile]:
        """All, in a fixed order."""
        found = [p for models in self._profiles.values() for by_count in models.values() for p in by_count.values()]
        return sorted(found, key=lambda p: (p.workload, p.accelerator, p.devices))

    def catalogue(self) -> list[Accelerator]:
        return sorted(self._catalogue.values(), key=lambda a: a.name)

    def measured_counts(self, workload: str) -> set[int]:
        """Device counts of any profile of the workload."""
        return {count for by_count in self._profiles.get(workload, {}).values() for count in by_count}

    def estimate(self, workload: str, model: str, devices: int, character: Character | None = None) -> Estimate:
        """Never fails: what nobody knows is None, with provenance UNKNOWN."""
        entry = self.accelerator(model)
        own = self._bound(character, entry, devices)
        points = self._points(workload, model)
        if points:
            found = _profiled(points, devices, entry.price_per_hour if entry else None, own)
            derived = points[_nearest(points, devices)].provenance not in SAID
            return self._guarded(found, workload, model, devices) if derived else found
        if entry is None:
            return _unknown(None)
        reference = self._reference(workload, entry)
        if reference is not None:
            return self._transferred(workload, reference, entry, devices, character, own)
        if self._profiles.get(workload):
            return _unknown(entry)  # a roofline alone cannot be compared with measured speeds
        if character is not None:
            if own is None:
                return _unknown(entry)
            found = _by_roofline(entry, 1.0 / own.seconds, own, workload)
            alone = self._bound(character, entry, 1)
            return _with_latency(found, alone, character.calls) if alone and character.calls else found
        speed = self._uncharacterised(entry, devices) if workload else None
        return _unknown(entry) if speed is None else _by_roofline(entry, speed, None, workload)

    def _points(self, workload: str, model: str) -> dict[int, Profile]:
        """By device count the profiles of the best provenance that there is: worse ones are not mixed in."""
        known = self._profiles.get(workload, {}).get(model.casefold()) if workload else None
        if not known:
            return {}
        best = min(RANK[p.provenance] for p in known.values())
        return {count: p for count, p in known.items() if RANK[p.provenance] == best}

    def _guarded(self, found: Estimate, workload: str, model: str, devices: int) -> Estimate:
        """Where a prediction says nothing of memory or power: what other profiles on that accelerator say, else what
        would be assumed without it. So keeping a prediction never takes a limit away."""
        entry, beside = self.accelerator(model), self._profiles[workload][model.casefold()]
        memory = found.memory_bytes
        if memory is None:
            memory = _memory(beside, devices)
        if memory is None:
            memory = self._least_memory(workload, devices)
        if found.watts is not None or found.peak_watts is not None:
            return replace(found, memory_bytes=memory)
        drawing = {n: p for n, p in beside.items() if p.power_watts or p.peak_power_watts}
        near = drawing[_nearest(drawing, devices)] if drawing else None
        watts = (near.power_watts or near.peak_power_watts) if near else entry.tdp_watts if entry else None
        peak = (near.peak_power_watts or near.power_watts) if near else watts
        return replace(found, memory_bytes=memory, watts=watts, peak_watts=peak)

    # -- roofline --------------------------------------------------------------------------------

    def _bound(self, character: Character | None, entry: Accelerator | None, devices: int) -> Bound | None:
        if character is None or entry is None:
            return None
        one = self._roofline.bound(character, entry)
        if one is None:
            return None
        return Bound(
            seconds=1.0 / scaling.at_count({1: 1.0 / one.seconds}, devices),
            by=one.by,
            relative_uncertainty=one.relative_uncertainty + scaling.uncertainty((1,), devices),
        )

    def _reference(self, workload: str, entry: Accelerator) -> Accelerator | None:
        """The accelerator most like this one, of those with a profile: class, then bandwidth, then name."""
        known = [
            accelerator
            for model in self._profiles.get(workload, ())
            if (accelerator := self._catalogue.get(model)) and self._speeds(workload, model)
        ]

        def unlike(other: Accelerator) -> tuple[bool, float, str]:
            mine, theirs = entry.memory_bandwidth, other.memory_bandwidth
            far = abs(math.log(mine / theirs)) if mine and theirs else math.inf
            return other.device_class != entry.device_class, far, other.name

        return min(known, key=unlike, default=None)

    def _speeds(self, workload: str, model: str) -> dict[int, float]:
        return {n: p.throughput for n, p in self._points(workload, model).items() if p.throughput}

    def _transferred(
        self,
        workload: str,
        reference: Accelerator,
        entry: Accelerator,
        devices: int,
        character: Character | None,
        own: Bound | None,
    ) -> Estimate:
        """The reference's speed times the ratio of both rooflines, of the work where its character is known."""
        if character is None:
            ratio = self._plain_ratio(entry, reference)
        else:
            theirs = self._bound(character, reference, devices)
            ratio = theirs.seconds / own.seconds if theirs and own else None
        if ratio is None:
            return _unknown(entry)
        speeds = self._speeds(workload, reference.name)
        points = self._points(workload, reference.name)
        spread = UNCERTAINTY[Provenance.TRANSFERRED] + _own_uncertainty(points, devices)
        if reference.device_class != entry.device_class:
            spread += OTHER_CLASS_UNCERTAINTY
        return Estimate(
            speed=scaling.at_count(speeds, devices) * ratio,
            latency_seconds=None,
            memory_bytes=self._least_memory(workload, devices),
            watts=entry.tdp_watts,
            peak_watts=entry.tdp_watts,
            price_per_hour=entry.price_per_hour,
            provenance=_worse(Provenance.TRANSFERRED, next(iter(points.values())).provenance),
            relative_uncertainty=spread,
            basis=f"by roofline from {reference.name}, which has a profile",
            roofline=own,
        )

    def _least_memory(self, workload: str, devices: int) -> int | None:
        """Bytes a device that sufficed on some accelerator: others took more because they had more."""
        known = [_memory(self._points(workload, model), devices) for model in self._profiles[workload]]
        return min((need for need in known if need is not None), default=None)

    def _plain_ratio(self, entry: Accelerator, reference: Accelerator) -> float | None:
        """Of peaks or of bandwidths, whichever differs less; between both where one gains and one loses. So
        there and back is 1, and it is what measured pairs show: A100 and H100 differ by bandwidth."""
        mine, theirs = self._roofline.rates(entry), self._roofline.rates(reference)
        ratios = [
            top * part / (bottom * other)
            for top, bottom, part, other in (
                (entry.dense_fp16_tflops, reference.dense_fp16_tflops, mine.compute, theirs.compute),
                (entry.memory_bandwidth, reference.memory_bandwidth, mine.streaming, theirs.streaming),
            )
            if top and bottom
        ]
        if not ratios:
            return None
        least, most = min(ratios), max(ratios)
        if least < 1.0 < most:
            return math.sqrt(least * most)
        return least if least >= 1.0 else most

    def _uncharacterised(self, entry: Accelerator, devices: int) -> float | None:
        """In 1e12 operations a second, with what the catalogue knows."""
        rates, bounds = self._roofline.rates(entry), []
        if entry.dense_fp16_tflops:
            bounds.append(entry.dense_fp16_tflops * rates.compute)
            if entry.memory_bandwidth:
                bounds.append(entry.memory_bandwidth * rates.streaming * ASSUMED_INTENSITY / 1e12)
        return scaling.at_count({1: min(bounds)}, devices) if bounds else None

    # -- objective -------------------------------------------------------------------------------

    def objective_values(self, objective: Objective, options: Sequence[tuple[Estimate, int]]) -> list[float | None]:
        """Per (estimate, devices) 0..1: 1 is the best of them, half as good is 0.5; None where unknown.

        Compared is mean x (1 + risk_aversion x uncertainty), so that of two like means the surer wins.
        Where no latency is known, speed stands in for it.
        """
        if objective is Objective.LATENCY and all(e.latency_seconds is None for e, _ in options):
            objective = Objective.TIME
        costs = [self._at_risk(_cost_of(objective, e, devices), e) for e, devices in options]
        best = min((c for c in costs if c is not None), default=0.0)
        return [None if c is None else (best / c if c > 0 else 1.0) for c in costs]

    def _at_risk(self, mean: float | None, estimate: Estimate) -> float | None:
        return None if mean is None else mean * (1.0 + self._risk_aversion * (estimate.relative_uncertainty or 0.0))


def _cost_of(objective: Objective, estimate: Estimate, devices: int) -> float | None:
    """What the objective wants least of, per unit of work."""
    if objective is Objective.LATENCY and estimate.latency_seconds is not None:
        return estimate.latency_seconds
    if not estimate.speed or objective is Objective.LATENCY:
        return None
    seconds = 1.0 / estimate.speed
    if objective is Objective.TIME:
        return seconds
    rate = estimate.price_per_hour if objective is Objective.COST else estimate.watts
    return None if rate is None else seconds * rate * devices


# -- profiles ------------------------------------------------------------------------------------


def _profiled(points: Mapping[int, Profile], devices: int, price: float | None, own: Bound | None) -> Estimate:
    exact = points.get(devices)
    near = exact or points[_nearest(points, devices)]
    speeds = {n: p.throughput for n, p in points.items() if p.throughput}
    latency = _latency(points, speeds, devices)
    return Estimate(
        speed=scaling.at_count(speeds, devices) if speeds else None,
        latency_seconds=latency,
        latency_high_seconds=_latency_high(points, latency, devices),
        memory_bytes=_memory(points, devices),
        watts=near.power_watts,
        peak_watts=near.peak_power_watts or near.power_watts,
        price_per_hour=near.price_per_hour if near.price_per_hour is not None else price,
        provenance=exact.provenance if exact else _worse(Provenance.INTERPOLATED, near.provenance),
        relative_uncertainty=_own_uncertainty(points, devices),
        basis=_basis(points, devices),
        roofline=own,
    )


def _latency(points: Mapping[int, Profile], speeds: Mapping[int, float], devices: int) -> float | None:
    """Between counts like speed. Beyond them the careful way: more devices do not shorten it, fewer lengthen
    it as they slow the work."""
    known = {n: p.latency_p99_seconds for n, p in points.items() if p.latency_p99_seconds}
    if not known:
        return None
    if devices > max(known):
        return known[max(known)]
    least = min(known)
    if devices < least:
        slower: float = (least / devices) ** scaling.exponent(speeds)
        return known[least] * slower
    return scaling.at_count(known, devices)


def _latency_high(points: Mapping[int, Profile], latency: float | None, devices: int) -> float | None:
    """As far above the latency as at the nearest count; None where that one's latency has no interval."""
    known = {n: p for n, p in points.items() if p.latency_p99_seconds}
    if latency is None or not known:
        return None
    near = known[_nearest(known, devices)]
    if near.latency_p99_high_seconds is None or not near.latency_p99_seconds:
        return None
    return latency * near.latency_p99_high_seconds / near.latency_p99_seconds


def _memory(points: Mapping[int, Profile], devices: int) -> int | None:
    """Bytes a device: of the next lower measured count, which needs at least as much, else of the lowest."""
    known = {n: p.memory_bytes for n, p in points.items() if p.memory_bytes is not None}
    if not known:
        return None
    return known[max((n for n in known if n <= devices), default=min(known))]


def _own_uncertainty(points: Mapping[int, Profile], devices: int) -> float:
    near = points[_nearest(points, devices)]
    stated = near.relative_uncertainty
    own = UNCERTAINTY[near.provenance] if stated is None else stated
    return own + scaling.uncertainty(points, devices)


def _nearest(counts: Iterable[int], devices: int) -> int:
    return min(counts, key=lambda n: (abs(math.log(n / devices)), n))


def _basis(points: Mapping[int, Profile], devices: int) -> str:
    if devices in points:
        return points[devices].provenance.value
    below = max((n for n in points if n < devices), default=None)
    above = min((n for n in points if n > devices), default=None)
    if below is not None and above is not None:
        return f"interpolated from {below} and {above} devices"
    ends = sorted(points)
    which = f"{ends[0]}" if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"
    return f"extrapolated from {which} device{'' if ends == [1] else 's'}"


# -- without a profile ---------------------------------------------------------------------------


def _with_latency(found: Estimate, alone: Bound, calls: float) -> Estimate:
    """Of one call on one device: each has the whole model, so more of them answer more calls, and none sooner."""
    latency = ASSUMED_TAIL * alone.seconds / calls
    high = latency * (1.0 + alone.relative_uncertainty)
    return replace(found, latency_seconds=latency, latency_high_seconds=high)


def _by_roofline(entry: Accelerator, speed: float, own: Bound | None, workload: str) -> Estimate:
    what = f"{own.by} bound" if own else "nothing is known of the work"
    missing = f"no profile of {workload!r}" if workload else "the job names no workload"
    return Estimate(
        speed=speed,
        latency_seconds=None,
        memory_bytes=None,
        watts=entry.tdp_watts,
        peak_watts=entry.tdp_watts,
        price_per_hour=entry.price_per_hour,
        provenance=Provenance.ROOFLINE,
        relative_uncertainty=own.relative_uncertainty if own else UNCHARACTERISED_UNCERTAINTY,
        basis=f"by roofline: {what}, {missing}",
        roofline=own,
    )


def _unknown(entry: Accelerator | None) -> Estimate:
    tdp = entry.tdp_watts if entry else None
    price = entry.price_per_hour if entry else None
    return Estimate(None, None, None, tdp, tdp, price, Provenance.UNKNOWN, None)


def _worse(one: Provenance, other: Provenance) -> Provenance:
    return max(one, other, key=RANK.__getitem__)
