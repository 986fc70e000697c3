"""Measured profiles as points: a family of runs that compare, an accelerator, and where on each axis they stand."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from profile_store.domain.profile import Profile, Provenance

__all__ = ["AXES", "Family", "Place", "Run", "by_place", "run_of", "runs_of"]

AXES = ("devices", "batch_size", "concurrency", "input_tokens", "output_tokens")
"""What may be interpolated over."""


BATCH = re.compile(r" \(batch size \d+\)$")


class Place(NamedTuple):
    """On each axis the number, 0 where the profile does not say."""

    devices: int
    batch_size: int
    concurrency: int
    input_tokens: int
    output_tokens: int


class Family(NamedTuple):
    """Runs of one family do the same work: their speeds compare."""

    workload: str
    unit: str
    precision: str
    settings: str
    power_limit_watts: float


@dataclass(frozen=True, slots=True)
class Run:
    """`speed` is the natural logarithm of throughput."""

    family: Family
    accelerator: str
    place: Place
    speed: float
    profile: Profile = field(compare=False)


def run_of(profile: Profile, throughput: float = 1.0) -> Run:
    """Gavel's workloads carry their batch size in the name: without it they are one family."""
    workload = profile.key.workload
    if profile.batch_size is not None:
        workload = BATCH.sub("", workload)
    place = Place(
        profile.key.devices,
        *(getattr(profile, name) or 0 for name in AXES[1:]),
    )
    family = Family(
        workload, profile.throughput_unit, profile.precision, profile.settings, profile.power_limit_watts or 0.0
    )
    return Run(family, profile.key.accelerator, place, math.log(throughput), profile)


def runs_of(profiles: Iterable[Profile]) -> tuple[Run, ...]:
    """Those that say something of others: measured alone with a speed that is sure enough, in a fixed order."""
    runs: dict[tuple[Family, str, Place], Run] = {}
    # Of one configuration that was observed here and measured, the observation speaks.
    for profile in sorted(profiles, key=lambda one: (one.provenance != Provenance.OBSERVED, one.key)):
        if profile.throughput and not profile.key.co_located_with and not profile.low_confidence:
            if profile.provenance not in (Provenance.OBSERVED, Provenance.MEASURED):
                continue
            run = run_of(profile, profile.throughput)
            runs.setdefault((run.family, run.accelerator, run.place), run)
    return tuple(runs.values())


def by_place(runs: Iterable[Run]) -> Mapping[tuple[Family, str], list[Run]]:
    found: dict[tuple[Family, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.family, run.accelerator), []).append(run)
    return found
