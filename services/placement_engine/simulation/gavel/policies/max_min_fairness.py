"""Max-min fairness over normalised throughput (Gavel, OSDI'20, section 4.1), by a linear program.

The share of time of each job on each kind maximises the least throughput, each job's taken as a multiple of what it
gets by an equal time on every device, times its scale factor. HiGHS finds a corner of the optimal face; the published
code's interior-point solver ends inside it.
"""

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
    kinds, shapes = devices.size, scale.size
    count = np.bincount(shape, minlength=shapes)
    able = (paired > 0) & (paired.transpose(1, 0, 2) > 0) & (scale[:, None] == scale[None, :])[:, :, None]
    present = [one for one in range(shapes) if count[one]]
    # A variable: its shape, the other shape or -1, its kind.
    variables = [(one, -1, kind) for one in present for kind in range(kinds)] + [
        (one, other, kind)
        for one in present
        for other in present
        for kind in range(kinds)
        if one <= other and able[one, other, kind] and (one < other or count[one] > 1)
    ]
    # Rows: least <= mean over the shape's jobs of worth x time; time of the shape's jobs; devices of each kind.
    entries: list[tuple[int, int, float]] = [(one, len(variables), float(count[one])) for one in present]
    for column, (one, other, kind) in enumerate(variables):
        entries.append((2 * shapes + kind, column, float(scale[one])))
        for this, beside in ((one, other), (other, one)):
            if this >= 0:
                entries.append((this, column, -float(worth[one, kind] if other < 0 else paired[this, beside, kind])))
                entries.append((shapes + this, column, 1.0))
    row, column_of, entry = (np.array(part) for part in zip(*entries, strict=True))
    limit = np.concatenate([np.zeros(shapes), count.astype(np.float64), devices])
    total = _maximise_last((row, column_of, entry), limit, len(variables) + 1)
    # Back to the jobs: every unit of a class has the same part. Alone, the second shape is the last, of which none is.
    by_class = np.zeros((kinds, shapes, shapes + 1))
    for value, (one, other, kind) in zip(total.tolist(), variables, strict=False):
        units = count[one] if other < 0 else count[one] * (count[other] - (one == other)) / (1 + (one == other))
        by_class[kind, one, other] = value / units
    of = np.append(shape, shapes)[members]
    share: Floats = by_class[:, of.min(axis=1), of.max(axis=1)]
    return np.clip(share, 0.0, 1.0)


def _maximise_last(matrix: tuple[Ints, Ints, Floats], limit: Floats, size: int) -> Floats:
    """The last of `size` variables, none negative, as large as matrix @ variables <= limit allows."""
    row, column, entry = matrix
    cost = np.zeros(size)
    cost[-1] = -1.0
    rows = coo_array((entry, (row, column)), shape=(limit.size, size)).tocsr()
    found: Floats = linprog(cost, A_ub=rows, b_ub=limit, method="highs").x
    return found
