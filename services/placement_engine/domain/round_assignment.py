"""Who runs where in the next round: the assignment of jobs to device kinds of the highest total value.

A job of s devices takes s devices of one kind or waits. Taken as s separate devices the problem is a linear assignment,
solved exactly; the few jobs that come out split between kinds are then placed whole, the densest value first. With jobs
of one device the result is the optimum. Nothing here knows where the values come from.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

__all__ = ["WAITS", "assign_kinds", "pair_up"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

WAITS = -1
# Equal jobs would come out split between kinds at random: the earlier is worth this much more.
TIE = 1e-7


def assign_kinds(value: Floats, scale: Ints, devices: Ints, first: Ints) -> Ints:
    """The kind of each job, -1: it waits.

    value: worth of the job's next round on each kind, shape (jobs, kinds); 0 or less: it cannot run there.
    scale: devices that each job takes. devices: devices of each kind. first: jobs that are placed before all others,
    in this order, each on the best kind that still holds it.
    No device is left idle that a waiting job could take.
    """
    jobs, kinds = value.shape
    kind = np.full(jobs, WAITS, dtype=np.int64)
    free = devices.astype(np.int64).copy()
    _place_whole(kind, free, value, scale, first)
    rest = np.flatnonzero((kind == WAITS) & (value.max(axis=1, initial=0.0) > 0))
    if rest.size and free.any():
        column = np.repeat(np.arange(kinds), free)
        row = np.repeat(rest, scale[rest])
        rank = 1 + TIE * np.arange(rest.size, 0, -1)
        density = np.maximum(value[rest], 0.0) * (rank / scale[rest])[:, None]
        at, device = linear_sum_assignment(np.repeat(density, scale[rest], axis=0)[:, column], maximize=True)
        counts = np.zeros((jobs, kinds), dtype=np.int64)
        np.add.at(counts, (row[at], column[device]), 1)
        whole, on = np.nonzero((counts == scale[:, None]) & (value > 0))
        kind[whole] = on
        np.subtract.at(free, on, scale[whole])
        left = rest[kind[rest] == WAITS]
        best = value[left].max(axis=1, initial=0.0) / scale[left]
        _place_whole(kind, free, value, scale, left[np.argsort(-best, kind="stable")])
    return kind


def _place_whole(kind: Ints, free: Ints, value: Floats, scale: Ints, jobs: Ints) -> None:
    for job in jobs.tolist():
        worth = np.where(free >= scale[job], value[job], 0.0)
        best = int(worth.argmax())
        if worth[best] > 0:
            kind[job] = best
            free[best] -= scale[job]
