"""Speed between measured configurations of one family on one accelerator.

Along each axis (devices, batch, concurrency, tokens, power limit) on which two or more runs differ in nothing else: a
monotone cubic (PCHIP, Fritsch and Carlson 1980) through logarithms of both, so that no bump is made up between
neighbours.
Axes are weighed by how far their neighbours stand apart. Beyond the last run the slope of the last two, at most
linear, and never for more than a factor of four.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.interpolate import PchipInterpolator

from profile_store.domain.prediction.runs import AXES, Place, Run

__all__ = ["Along", "combined", "interpolate", "residuals"]

FARTHEST = 2.0
"""Doublings beyond the last run."""


@dataclass(frozen=True, slots=True)
class Along:
    """`speed` in logarithm. `gap`: doublings between the neighbours, or beyond the last one twice the distance."""

    speed: float
    gap: float
    axis: str
    below: float
    above: float
    outside: bool


def interpolate(runs: Sequence[Run], place: Place) -> tuple[Along, ...]:
    """One answer for each axis that has one, those between neighbours alone where there are any; `runs` are of one
    family and accelerator."""
    found = [along for axis, name in enumerate(AXES) if (along := _along(runs, place, axis, name)) is not None]
    inside = tuple(along for along in found if not along.outside)
    return inside or tuple(found)


def combined(answers: Sequence[Along]) -> tuple[float, float]:
    """(speed, gap), the nearest axes counting most."""
    weights = [1.0 / along.gap**2 for along in answers]
    speed = sum(weight * along.speed for weight, along in zip(weights, answers, strict=True)) / sum(weights)
    return speed, 1.0 / math.sqrt(sum(weights))


def _along(runs: Sequence[Run], place: Place, axis: int, name: str) -> Along | None:
    wanted = place[axis]
    if not wanted:
        return None
    line = {
        run.place[axis]: run.speed
        for run in runs
        if run.place[axis]
        and run.place[axis] != wanted
        and all(run.place[other] == place[other] for other in range(len(AXES)) if other != axis)
    }
    if len(line) < 2:
        return None
    points = sorted(line)
    below = max((n for n in points if n < wanted), default=0)
    above = min((n for n in points if n > wanted), default=0)
    if below and above:
        x, y = [math.log2(n) for n in points], [line[n] for n in points]
        speed = float(PchipInterpolator(x, y)(math.log2(wanted)))
        return Along(speed, math.log2(above / below), name, below, above, outside=False)
    near, next_ = (points[-1], points[-2]) if below else (points[0], points[1])
    distance = math.log2(wanted / near)
    if abs(distance) > FARTHEST:
        return None
    slope = (line[near] - line[next_]) / math.log2(near / next_)
    # More devices or watts are not slower by plan; a larger batch may be, where memory runs short.
    slope = min(max(slope, 0.0 if name in ("devices", "power_limit_watts") else -math.log(2)), math.log(2))
    return Along(line[near] + slope * distance, 2 * abs(distance), name, near, near, outside=True)


def residuals(runs: Sequence[Run], outside: bool) -> list[tuple[float, float]]:
    """(error in logarithms, gap) of each run as if it had not been measured."""
    found = []
    for number, run in enumerate(runs):
        answers = interpolate([*runs[:number], *runs[number + 1 :]], run.place)
        if answers and answers[0].outside == outside:
            speed, gap = combined(answers)
            found.append((speed - run.speed, gap))
    return found
