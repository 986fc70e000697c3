"""Speed on an accelerator where a workload never ran: low-rank completion of the matrix of runs and accelerators.

Rows are runs (family and place), columns accelerators, entries logarithms of speed. A row's own level is free, since
units differ; what is left is the column's level, which starts from the catalogue's roofline, and a few factors (as
in Paragon, Quasar and Gavel) found by ridge-regularised alternating least squares. What like runs (the same family,
near places) are off by is added, the nearer the more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profile_store.domain.prediction.runs import AXES, Family, Place, Run

__all__ = ["Completed", "Completion"]

RANK = 2
ROUNDS = 12
FACTOR_RIDGE = 0.3
COLUMN_RIDGE = 0.5
FAMILY_DISTANCE = 1.5
RESIDUAL_RIDGE = 0.15

Row = tuple[Family, Place]


@dataclass(frozen=True, slots=True)
class Completed:
    """`speed` in logarithm; `spread` is the variance of what like runs were off by, `support` their weight, 0 where
    none; `sources` are the accelerators on which the run was measured."""

    speed: float
    spread: float
    support: float
    sources: tuple[str, ...]


class Completion:
    """Fitted to runs; `prior` is each accelerator's expected speed in logarithms, up to one constant."""

    def __init__(self, runs: Sequence[Run], prior: Mapping[str, float]) -> None:
        rows: dict[Row, dict[str, float]] = {}
        for run in runs:
            rows.setdefault((run.family, run.place), {})[run.accelerator] = run.speed
        self._rows = rows
        self._prior = prior
        self._names = sorted({run.accelerator for run in runs})
        self._column = {name: number for number, name in enumerate(self._names)}
        self._keys = list(rows)
        self._number = {key: number for number, key in enumerate(self._keys)}
        self._known = np.full((len(rows), len(self._names)), np.nan)
        for number, row in enumerate(rows.values()):
            for name, speed in row.items():
                self._known[number, self._column[name]] = speed - prior.get(name, 0.0)
        self._fit()

    def _fit(self) -> None:
        known, mask = self._known, ~np.isnan(self._known)
        shape = known.shape
        filled = np.where(mask, known, 0.0)
        self._level = np.zeros(shape[0])
        self._shift = np.zeros(shape[1])
        # A fixed start: the same runs give the same answer.
        seed = np.random.default_rng(7)
        self._right = seed.normal(0, 0.1, (shape[1], RANK))
        self._left = np.zeros((shape[0], RANK))
        counts = mask.sum(axis=1)
        self._measured = counts
        several = counts > 1
        for _ in range(ROUNDS):
            rest = filled - self._shift - self._left @ self._right.T
            self._level = (rest * mask).sum(axis=1) / np.maximum(counts, 1)
            rest = filled - self._level[:, None] - self._left @ self._right.T
            use = mask & several[:, None]
            self._shift = (rest * use).sum(axis=0) / (use.sum(axis=0) + COLUMN_RIDGE)
            rest = filled - self._level[:, None] - self._shift
            self._left = _ridge(rest, use, self._right)
            self._right = _ridge(rest.T, use.T, self._left)

    def _fitted(self, number: int, column: int | None) -> float:
        if column is None:
            return float(self._level[number])
        return float(self._level[number] + self._shift[column] + self._left[number] @ self._right[column])

    def predict(self, family: Family, place: Place, accelerator: str) -> Completed | None:
        """None: the run was measured on no accelerator."""
        number = self._number.get((family, place))
        if number is None:
            return None
        column = self._column.get(accelerator)
        base = self._fitted(number, column) + self._prior.get(accelerator, 0.0)
        offs, weights = [0.0], [RESIDUAL_RIDGE]
        if column is not None:
            for other in np.flatnonzero(~np.isnan(self._known[:, column])):
                if other == number or self._measured[other] < 2:
                    continue
                weights.append(_likeness(self._keys[number], self._keys[other]))
                offs.append(float(self._known[other, column]) - self._fitted(int(other), column))
        off = float(np.average(offs, weights=weights))
        spread = float(np.average((np.array(offs) - off) ** 2, weights=weights))
        return Completed(base + off, spread, sum(weights) - RESIDUAL_RIDGE, tuple(sorted(self._rows[family, place])))


def _ridge(rest: NDArray[np.float64], use: NDArray[np.bool_], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row the factors' weights that explain it best."""
    weighted = use.astype(float)
    gram = np.einsum("ij,jk,jl->ikl", weighted, factors, factors) + FACTOR_RIDGE * np.eye(factors.shape[1])
    right = (rest * weighted) @ factors
    return np.asarray(np.linalg.solve(gram, right[:, :, None])[:, :, 0])


def _likeness(one: Row, other: Row) -> float:
    """1 for the same run, less with each doubling and for another family."""
    distance = 0.0 if one[0] == other[0] else FAMILY_DISTANCE + (one[0].unit != other[0].unit)
    for axis in range(len(AXES)):
        a, b = one[1][axis], other[1][axis]
        if a and b:
            distance += 0.35 * abs(math.log2(a / b))
    return math.exp(-distance * 2)
