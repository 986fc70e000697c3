"""The assignment of jobs to kinds for a large fleet: by classes of jobs alike, each with how many of them go where.

The exact assignment (`round_assignment`) grows with the cube of jobs and devices. Jobs of equal scale whose values
stand in the same proportions from kind to kind differ only in their height: a class is those of about the same height.
How many devices of each kind a class gets is a linear program with one row a class and one a kind, so its size follows
from the variety of the jobs and not from their number (the transportation problem; Dantzig 1951). Within a class the
highest go first, to the kinds where they are worth most.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import csr_array

__all__ = ["MOST_CLASSES", "whole_by_class"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_CLASSES = 600
STEPS = (1.02, 1.05, 1.1, 1.25, 1.6, 2.5, 6.0, 1e300)
"""Ratios of the highest to the lowest in a class: the finest that makes few enough classes is taken."""
PROPORTION = 1e-3
"""Values in proportion are alike to this part of the highest."""


def whole_by_class(value: Floats, scale: Ints, free: Ints) -> Ints:
    """Kind of each job, -1: none. What a class gets beyond whole jobs is left free.

    value: worth on each kind, shape (jobs, kinds), above 0 on one at least. free: devices of each kind.
    """
    kinds = free.size
    label, count = _classes(value, scale)
    best = np.zeros((count, kinds))
    np.maximum.at(best, label, value / scale[:, None])
    size = np.bincount(label, minlength=count)
    each = np.zeros(count, dtype=np.int64)
    each[label] = scale
    given = _devices(best, size * each, free)
    return _jobs(value, label, given, each, free)


def _classes(value: Floats, scale: Ints) -> tuple[Ints, int]:
    """Class of each job, and how many there are."""
    height = value.max(axis=1)
    proportion = np.rint(value / height[:, None] / PROPORTION).astype(np.int64)
    alike = np.unique(np.column_stack([scale, proportion]), axis=0, return_inverse=True)[1].reshape(-1)
    level = np.log(height / scale)
    for step in STEPS:
        at = np.floor((level - level.min()) / np.log(step)).astype(np.int64)
        label = np.unique(np.column_stack([alike, at]), axis=0, return_inverse=True)[1].reshape(-1)
        count = int(label.max()) + 1
        if count <= MOST_CLASSES:
            break
    return label.astype(np.int64), count


def _devices(density: Floats, most: Ints, free: Ints) -> Floats:
    """Devices of each kind that each class gets, shape (classes, kinds)."""
    at, kind = np.nonzero(density > 0)
    number = np.arange(at.size)
    ones = np.ones(2 * at.size)
    rows = np.concatenate([at, density.shape[0] + kind])
    limits = csr_array((ones, (rows, np.concatenate([number, number]))), shape=(sum(density.shape), at.size))
    solved = linprog(
        -density[at, kind], A_ub=limits, b_ub=np.concatenate([most, free]), bounds=(0, None), method="highs"
    )
    given = np.zeros(density.shape)
    if solved.x is None:
        return _densest_first(density, most, free)
    given[at, kind] = solved.x
    return given


def _densest_first(density: Floats, most: Ints, free: Ints) -> Floats:
    """Where the solver gives up: what is worth most for a device takes what is left, one after another."""
    given = np.zeros(density.shape)
    wanted, left = most.copy(), free.copy()
    at, kind = np.nonzero(density > 0)
    for one in np.argsort(-density[at, kind], kind="stable").tolist():
        row, on = at[one], kind[one]
        taken = min(wanted[row], left[on])
        given[row, on] = taken
        wanted[row] -= taken
        left[on] -= taken
    return given


def _jobs(value: Floats, label: Ints, given: Floats, each: Ints, free: Ints) -> Ints:
    kind = np.full(label.size, -1, dtype=np.int64)
    left = free.astype(np.int64).copy()
    order = np.lexsort((np.arange(label.size), -value.max(axis=1), label))
    start = np.searchsorted(label[order], np.arange(each.size + 1))
    for one in np.flatnonzero(given.sum(axis=1) > 0).tolist():
        members = order[start[one] : start[one + 1]]
        taken = 0
        for on in np.argsort(-value[members[0]], kind="stable").tolist():
            whole = min(int(given[one, on] / each[one] + 1e-6), int(left[on] // each[one]), members.size - taken)
            kind[members[taken : taken + whole]] = on
            left[on] -= whole * each[one]
            taken += whole
    return kind
