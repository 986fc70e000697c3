"""What a workload would do on each accelerator: profiles first, then the roofline of the catalogue.

Roofline: speed is bounded by the lesser of the ratios of peak and of bandwidth to a reference
(Williams, Waterman, Patterson, CACM 2009); every estimate says where it comes from.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from placement_engine.domain.model import Accelerator, Expectation, Objective, Profile, Provenance

ROOFLINE_UNCERTAINTY = 0.5
INTERPOLATION_UNCERTAINTY = 0.15


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a workload on `devices` of one accelerator. Speed is in the profile's units a second (or in
    TFLOPS where only the catalogue speaks); W and $ are per device."""

    speed: float | None
    latency_seconds: float | None
    memory_bytes: int | None
    watts: float | None
    peak_watts: float | None
    price_per_hour: float | None
    provenance: Provenance
    relative_uncertainty: float | None


class Estimator:
    """Profiles and catalogue, asked by (workload, accelerator, devices)."""

    def __init__(self) -> None:
        self._profiles: dict[str, dict[str, dict[int, Profile]]] = {}
        self._catalogue: dict[str, Accelerator] = {}

    def set_profiles(self, profiles: Iterable[Profile]) -> None:
        self._profiles = {}
        for profile in profiles:
            self.put_profile(profile)

    def put_profile(self, profile: Profile) -> None:
        by_model = self._profiles.setdefault(profile.workload, {})
        by_model.setdefault(profile.accelerator.casefold(), {})[max(1, profile.devices)] = profile

    def set_catalogue(self, accelerators: Iterable[Accelerator]) -> None:
        self._catalogue = {accelerator.name.casefold(): accelerator for accelerator in accelerators}

    def accelerator(self, model: str) -> Accelerator | None:
        return self._catalogue.get(model.casefold())

    def profiles(self) -> list[Profile]:
        """All, in a fixed order."""
        found = [p for models in self._profiles.values() for by in models.values() for p in by.values()]
        return sorted(found, key=lambda p: (p.workload, p.accelerator, p.devices))

    def catalogue(self) -> list[Accelerator]:
        return sorted(self._catalogue.values(), key=lambda a: a.name)

    def estimate(self, workload: str, model: str, devices: int) -> Estimate:
        """Never fails: what nobody knows is None, with provenance UNKNOWN."""
        known = self._profiles.get(workload, {}).get(model.casefold()) if workload else None
        entry = self.accelerator(model)
        price = entry.price_per_hour if entry else None
        if known:
            profile = known.get(devices) or known[min(known, key=lambda n: (abs(n - devices), n))]
            exact = profile.devices == devices
            scale = devices / max(1, profile.devices)
            own = profile.relative_uncertainty
            return Estimate(
                speed=None if profile.throughput is None else profile.throughput * scale,
                latency_seconds=profile.latency_p99_seconds,
                memory_bytes=profile.memory_bytes,
                watts=profile.power_watts,
                peak_watts=profile.peak_power_watts or profile.power_watts,
                price_per_hour=profile.price_per_hour if profile.price_per_hour is not None else price,
                provenance=profile.provenance if exact else Provenance.INTERPOLATED,
                relative_uncertainty=own if exact else (own or 0.0) + INTERPOLATION_UNCERTAINTY,
            )
        tdp = entry.tdp_watts if entry else None
        speed = self._roofline(workload, entry, devices) if workload and entry else None
        return Estimate(
            speed=speed,
            latency_seconds=None,
            memory_bytes=None,
            watts=tdp,
            peak_watts=tdp,
            price_per_hour=price,
            provenance=Provenance.UNKNOWN if speed is None else Provenance.ROOFLINE,
            relative_uncertainty=None if speed is None else ROOFLINE_UNCERTAINTY,
        )

    def _roofline(self, workload: str, entry: Accelerator, devices: int) -> float | None:
        """Speed scaled from the workload's first profiled accelerator, else the bare dense peak."""
        for model in sorted(self._profiles.get(workload, {})):
            reference = self._catalogue.get(model)
            profile = next(iter(sorted(self._profiles[workload][model].values(), key=lambda p: p.devices)))
            if reference is None or profile.throughput is None:
                continue
            ratios = [
                mine / theirs
                for mine, theirs in (
                    (entry.dense_fp16_tflops, reference.dense_fp16_tflops),
                    (entry.memory_bandwidth, reference.memory_bandwidth),
                )
                if mine and theirs
            ]
            if ratios:
                return profile.throughput / max(1, profile.devices) * devices * min(ratios)
        if self._profiles.get(workload):
            return None  # a bare peak cannot be compared with measured speeds
        return entry.dense_fp16_tflops * devices if entry.dense_fp16_tflops else None

    def objective_values(self, objective: Objective, estimates: list[Estimate], devices: int) -> list[float | None]:
        """Per estimate 0..1: 1 is the best of them, half as good is 0.5; None where unknown.

        Where no latency is known, speed stands in for it.
        """
        if objective is Objective.LATENCY and all(e.latency_seconds is None for e in estimates):
            objective = Objective.TIME
        costs: list[float | None] = [_cost_of(objective, e, devices) for e in estimates]
        known = [c for c in costs if c is not None]
        best = min(known, default=0.0)
        return [None if c is None else (best / c if c > 0 else 1.0) for c in costs]

    def expectation(
        self, estimate: Estimate, fastest: float | None, model: str, devices: int, declared: float | None
    ) -> Expectation:
        """`declared`: the job's duration in seconds on the fastest accelerator known for it."""
        duration, provenance = duration_on(estimate, fastest, declared)
        price, watts = estimate.price_per_hour, estimate.watts
        return Expectation(
            accelerator=model,
            devices=devices,
            duration_seconds=duration,
            cost_dollars=None if duration is None or price is None else price * devices * duration / 3600,
            energy_joules=None if duration is None or watts is None else watts * devices * duration,
            latency_seconds=estimate.latency_seconds,
            provenance=provenance,
            relative_uncertainty=estimate.relative_uncertainty,
        )


def duration_on(estimate: Estimate, fastest: float | None, declared: float | None) -> tuple[float | None, Provenance]:
    """Seconds on this accelerator. What the user declared holds on the fastest; others scale by speed."""
    if declared is None:
        return None, estimate.provenance
    if estimate.speed and fastest:
        return declared * fastest / estimate.speed, estimate.provenance
    return declared, Provenance.DECLARED


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
