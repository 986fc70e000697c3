"""How far a transfer may be off where little or nothing of the workload ever ran on the accelerator.

Runs of one workload are off together: what one of them shows, the next repeats. So workloads are counted and not runs,
each once however many runs and accelerators it has. With few of them the interval is drawn from what transfers are off
by in general, as if PRIOR_WORKLOADS more had been seen that err so (by Student's distribution: their spread is known
from so many alone); each further workload takes a part of its place. The first runs on the accelerator narrow it as
they would an interpolation.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from scipy.special import stdtrit

__all__ = ["NINETY", "PRIOR_RUNS", "Left", "half_width", "narrowed", "ninetieth"]

PRIOR_WORKLOADS = PRIOR_RUNS = 4
NINETY = float(stdtrit(PRIOR_WORKLOADS, 0.95))
"""Half of the 90 % interval in spreads, where no workload is known."""
POINTS = 200
_ERRORS = tuple(float(stdtrit(PRIOR_WORKLOADS, 0.5 + (number + 0.5) / (2 * POINTS))) for number in range(POINTS))
"""Absolute errors in spreads, evenly likely."""
TENTH = 0.1

Left = Mapping[str, Sequence[tuple[float, float]]]
"""By workload (error in logarithms, weight) of each of its runs, made as if nothing of it had run there."""


def half_width(left: Left, weights: Mapping[str, float], spread: float) -> float:
    """Half of the 90 % interval, in logarithms, where nothing of the workload ran there. `weights`: of each workload, 1
    where it tells as much as the prior's; `spread`: what transfers are off by in general."""
    weighed = [(spread * one, PRIOR_WORKLOADS / POINTS) for one in _ERRORS]
    for workload, runs in left.items():
        total = sum(weight for _, weight in runs)
        weighed += [(abs(error), weights[workload] * weight / total) for error, weight in runs]
    return ninetieth(weighed)


def ninetieth(weighed: Iterable[tuple[float, float]]) -> float:
    """The error that a tenth of the weight reaches, of (error, weight) with some weight."""
    falling = sorted(weighed, reverse=True)
    beyond, whole = 0.0, sum(weight for _, weight in falling)
    for error, weight in falling:
        beyond += weight
        if beyond > TENTH * whole:
            return error
    raise ValueError("errors without any weight")


def narrowed(nothing: float, everything: float, runs: int) -> float:
    """Half of the interval where `runs` of the workload are known there, from that with nothing and with all known."""
    return math.hypot(everything, math.sqrt(max(0.0, nothing**2 - everything**2) * PRIOR_RUNS / (PRIOR_RUNS + runs)))
