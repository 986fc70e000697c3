"""What programs reached of their roofline where they were measured: how far the bound of another one may be off.

A program is one kind, whatever its configurations: they are off together (kinds.py). Those bound by the same count, and
the nearer the accelerator the more.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profile_store.domain.prediction import kinds

__all__ = ["RATIO_WEIGHTS", "Reached", "alone", "carried"]

RATIO_WEIGHTS = (3.0, 1.0, 0.05)
"""By distance: the same accelerator, the same class, any other."""


@dataclass(frozen=True, slots=True)
class Reached:
    """`ratio`: how much longer a call took than its bound, in logarithms. `run` tells configurations and counts apart,
    `kind` is the program."""

    kind: str
    run: tuple[str, int]
    accelerator: str
    by: str
    ratio: float
    distance: int
    """From the accelerator that is asked for."""


def alone(reached: Iterable[Reached], by: str, width: float) -> float:
    """Half of the 90 % interval of a bound that nothing corrects. `width`: where no program was measured."""
    return _width({(one.run, one.accelerator): one for one in reached if one.by == by}.values(), width)


def carried(reached: Iterable[Reached], by: str, width: float) -> float:
    """The same of a bound that is corrected by what the program reached on another accelerator: by how much others were
    off that were measured on two."""
    runs: dict[tuple[str, int], dict[str, Reached]] = {}
    for one in reached:
        if one.by == by:
            runs.setdefault(one.run, {})[one.accelerator] = one
    errors = []
    for there in runs.values():
        for name, one in there.items():
            others = [other.ratio for other in there.values() if other.accelerator != name]
            if others:
                ratio = one.ratio - statistics.median(others)
                errors.append(Reached(one.kind, one.run, name, by, ratio, one.distance))
    return _width(errors, width)


def _width(reached: Iterable[Reached], width: float) -> float:
    left: dict[str, list[tuple[float, float]]] = {}
    weights: dict[str, float] = {}
    for one in reached:
        weight = RATIO_WEIGHTS[one.distance]
        left.setdefault(one.kind, []).append((one.ratio, weight))
        weights[one.kind] = max(min(weight, 1.0), weights.get(one.kind, 0.0))
    return kinds.half_width(_fixed(left), weights, width / kinds.NINETY) if left else width


def _fixed(left: Mapping[str, list[tuple[float, float]]]) -> kinds.Left:
    """In a fixed order: the same runs give the same width."""
    return {kind: sorted(left[kind]) for kind in sorted(left)}
