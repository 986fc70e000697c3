"""Max-min fairness over normalised throughput (Gavel, OSDI'20, section 4.1), by a linear program.

The share of time of each job on each kind maximises the least throughput, each job's taken as a multiple of what it
gets by an equal time on every device, times its scale factor. HiGHS finds a corner of the optimal face; the published
code's interior-point solver ends inside it.
"""

from collections import Counter
from typing import ClassVar

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from placement_engine.simulation.gavel.policies.base import View
from placement_engine.simulation.gavel.policies.rounds import AllocationPolicy
from placement_engine.simulation.gavel.trace import Floats, Ints

__all__ = ["MaxMinFairness", "max_min_share", "max_min_share_of_pairs"]


class MaxMinFairness(AllocationPolicy):
    """With sharing, pairs of jobs have shares of time of their own (section 3.1 there)."""

    shares: ClassVar[bool] = True

    def allocate(self, view: View, members: Ints) -> Floats:
        table, devices = self.setting.table, np.array(self.setting.cluster.devices, dtype=np.float64)
        equal = table.alone @ (devices / devices.sum())
        scale = np.array([scale for _, scale in table.shapes], dtype=np.int64)
        worth = table.alone / equal[:, None] * scale[:, None]
        if not self.setting.share:
            return max_min_share(worth[view.shape], view.scale, devices).T
        paired = table.paired / equal[:, None, None] * scale[:, None, None]
        return max_min_share_of_pairs(worth, paired, scale, devices, view.shape, members)


def max_min_share(worth: Floats, scale: Ints, devices: Floats) -> Floats:
    """Shares of time, shape (jobs, kinds), that maximise the least of the jobs' sums of worth x share."""
    jobs, kinds = worth.shape
    size = jobs * kinds
    variable = np.arange(size)
    job, kind = variable // kinds, variable % kinds
    # Rows: least <= sum of worth x share; sum of shares <= 1; devices of each kind.
    row = np.concatenate([job, np.arange(jobs), jobs + job, 2 * jobs + kind])
    column = np.concatenate([variable, np.full(jobs, size), variable, variable])
    entry = np.concatenate([-worth.ravel(), np.ones(jobs), np.ones(size), scale[job].astype(np.float64)])
    limit = np.concatenate([np.zeros(jobs), np.ones(jobs), devices])
    share = _maximise_last((row, column, entry), limit, size + 1)[:size]
    return np.clip(share.reshape(jobs, kinds), 0.0, 1.0)


def max_min_share_of_pairs(
    worth: Floats, paired: Floats, scale: Ints, devices: Floats, shape: Ints, members: Ints
) -> Floats:
    """Shares of time of jobs and pairs on each kind, shape (kinds, units).

    worth: of each shape, shape (shapes, kinds); paired: of the first with the second, shape (shapes, shapes, kinds).
    shape: of each job. members: positions of a unit's jobs, the second -1 for a job alone. Jobs of one shape are
    alike, so an optimum exists that treats them so: the program has one variable a shape, or pair of shapes, and kind.
    """
    kinds = devices.size
    count = Counter(shape.tolist())
    present = sorted(count)
    number = {one: index for index, one in enumerate(present)}
    classes: dict[tuple[int, int], int] = {}
    row: list[int] = []
    column: list[int] = []
    entry: list[float] = []
    shapes, size = len(present), 0

    def add(at: int, value: float) -> None:
        row.append(at)
        column.append(size)
        entry.append(value)

    for one in present:
        for other in [-1, *(another for another in present if another >= one)]:
            together = other >= 0
            if together and (scale[one] != scale[other] or (one == other and count[one] < 2)):
                continue
            classes[one, other] = size
            for kind in range(kinds):
                if together and paired[one, other, kind] and paired[other, one, kind]:
                    add(number[one], -paired[one, other, kind])
                    add(number[other], -paired[other, one, kind])
                    add(shapes + number[other], 1.0)
                elif together:
                    size += 1
                    continue
                else:
                    add(number[one], -worth[one, kind])
                add(shapes + number[one], 1.0)
                add(2 * shapes + kind, float(scale[one]))
                size += 1
    for one in present:
        add(number[one], float(count[one]))
    limit = np.concatenate([np.zeros(shapes), [float(count[one]) for one in present], devices])
    total = _maximise_last((np.array(row), np.array(column), np.array(entry)), limit, size + 1)
    first = np.array([classes.get((one, -1), 0) for one in range(scale.size)])
    share = np.zeros((kinds, members.shape[0]))
    alone = members[:, 1] < 0
    low = np.minimum(shape[members[:, 0]], np.where(alone, shape[members[:, 0]], shape[members[:, 1]]))
    high = np.maximum(shape[members[:, 0]], np.where(alone, 0, shape[members[:, 1]]))
    start = np.full((scale.size, scale.size), -1)
    for (one, other), at in classes.items():
        if other >= 0:
            start[one, other] = at
    of = np.array([count.get(one, 0) for one in range(scale.size)], dtype=np.float64)
    units = np.where(low == high, of[low] * (of[low] - 1) / 2, of[low] * of[high])
    units = np.where(alone, of[low], np.maximum(units, 1.0))
    begin = np.where(alone, first[low], start[low, high])
    for kind in range(kinds):
        share[kind] = np.where(begin >= 0, total[np.maximum(begin, 0) + kind] / units, 0.0)
    return np.clip(share, 0.0, 1.0)


def _maximise_last(matrix: tuple[Ints, Ints, Floats], limit: Floats, size: int) -> Floats:
    """The last of `size` variables, none negative, as large as matrix @ variables <= limit allows."""
    row, column, entry = matrix
    cost = np.zeros(size)
    cost[-1] = -1.0
    rows = coo_array((entry, (row, column)), shape=(limit.size, size)).tocsr()
    found: Floats = linprog(cost, A_ub=rows, b_ub=limit, method="highs").x
    return found
