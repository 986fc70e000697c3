"""Measured profiles as points: a family of runs that compare, an accelerator, and where on each axis they stand."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from profile_store.domain.profile import SEEN, Profile, Provenance

__all__ = ["AXES", "THROUGHPUT", "Family", "Place", "Quantity", "Run", "by_place", "run_of", "runs_of"]

AXES = ("devices", "batch_size", "concurrency", "input_tokens", "output_tokens", "power_limit_watts")
"""What may be interpolated over."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure of profiles that runs are compared by.

    `sign` -1: `Run.speed` is its negative logarithm, so that more devices make it no worse and likeness between
    accelerators is that of speeds. `likeness`: what accelerators are compared by before anything was measured: "speed"
    (data sheet), "bandwidth", "tdp" (a part of the TDP) or "same". In logarithms, until runs and workloads say so
    themselves: `prior_error`, what an interpolation is off by, and `transfer_error`, what a transfer of a workload is
    off by to an accelerator on which it never ran. `scales`: with the count of devices where one count was measured.
    """

    field: str
    sign: int = 1
    likeness: str = "speed"
    prior_error: float = 0.2
    transfer_error: float = 0.36
    """The root mean square over the workloads of MLPerf (0.21), Gavel (0.42) and Zeus (0.42), each left out whole.
    docs/adr/0027 has what holds where the table that is predicted was not looked at."""
    scales: bool = False


THROUGHPUT = Quantity("throughput", scales=True)


BATCH = re.compile(r" \(batch size \d+\)$")


class Place(NamedTuple):
    """On each axis the number, 0 where the profile does not say."""

    devices: int
    batch_size: int
    concurrency: int
    input_tokens: int
    output_tokens: int
    power_limit_watts: float = 0.0


class Family(NamedTuple):
    """Runs of one family do the same work: their speeds compare."""

    workload: str
    unit: str
    precision: str
    settings: str


@dataclass(frozen=True, slots=True)
class Run:
    """`speed` is the natural logarithm of throughput, or of another quantity with its sign."""

    family: Family
    accelerator: str
    place: Place
    speed: float
    profile: Profile = field(compare=False)


def run_of(profile: Profile, quantity: Quantity = THROUGHPUT, value: float = 1.0) -> Run:
    """Gavel's workloads carry their batch size in the name: without it they are one family."""
    workload = profile.key.workload
    if profile.batch_size is not None:
        workload = BATCH.sub("", workload)
    place = Place(
        profile.key.devices,
        *(getattr(profile, name) or 0 for name in AXES[1:]),
    )
    unit = profile.throughput_unit if quantity.field == THROUGHPUT.field else quantity.field
    family = Family(workload, unit, profile.precision, profile.settings)
    return Run(family, profile.key.accelerator, place, quantity.sign * math.log(value), profile)


def runs_of(profiles: Iterable[Profile], quantity: Quantity = THROUGHPUT) -> tuple[Run, ...]:
    """Those that say something of others: measured alone with a figure that is sure enough, in a fixed order."""
    runs: dict[tuple[Family, str, Place], Run] = {}
    # Of one configuration that was observed here and measured, the observation speaks.
    for profile in sorted(profiles, key=lambda one: (one.provenance != Provenance.OBSERVED, one.key)):
        value = getattr(profile, quantity.field)
        if value and not profile.key.co_located_with and not profile.low_confidence:
            if profile.provenance not in SEEN:
                continue
            run = run_of(profile, quantity, value)
            runs.setdefault((run.family, run.accelerator, run.place), run)
    return tuple(runs.values())


def by_place(runs: Iterable[Run]) -> Mapping[tuple[Family, str], list[Run]]:
    found: dict[tuple[Family, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.family, run.accelerator), []).append(run)
    return found
