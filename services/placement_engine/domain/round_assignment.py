"""Who runs where in the next round: the assignment of jobs to device kinds of the highest total value.

A job of s devices takes s devices of one kind or waits. Taken as s separate devices the problem is a linear assignment,
solved exactly; the few jobs that come out split between kinds are then placed whole where that gains most. With jobs of
one device the result is the optimum. A problem of more than `MOST_CELLS` is solved by classes of jobs alike instead
(`class_assignment`), which is nearly as good. Nothing here knows where the values come from.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from placement_engine.domain.class_assignment import whole_by_class

__all__ = ["WAITS", "assign_kinds", "assign_shared", "overdue"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WAITS = -1
LEAST_GAIN = 1e-9
PAIRING_PASSES = 6
MOST_CELLS = 400_000
"""Devices asked for times devices free: beyond it jobs are assigned by class."""


def overdue(waited: Floats, patience: float) -> Ints:
    """Jobs that have waited at least `patience`, the longest-waiting first, then by position: for `first` below.

    As the head of these always gets its place, a job waits at most `patience` and a plan for each job before it.
    """
    late = np.flatnonzero(waited >= patience)
    return late[np.argsort(-waited[late], kind="stable")]


def assign_kinds(value: Floats, scale: Ints, devices: Ints, first: Ints) -> Ints:
    """The kind of each job, -1: it waits.

    value: worth of the job's next round on each kind, shape (jobs, kinds); 0 or less: it cannot run there.
    scale: devices that each job takes. devices: devices of each kind. first: jobs that are placed before all others,
    in this order, each on the best kind that still holds it.
    No device is left idle that a waiting job could take.
    """
    jobs = value.shape[0]
    kind = np.full(jobs, WAITS, dtype=np.int64)
    free = devices.astype(np.int64).copy()
    _place_whole(kind, free, value, scale, first)
    rest = np.flatnonzero((kind == WAITS) & (value.max(axis=1, initial=0.0) > 0))
    if rest.size and free.any():
        if int(scale[rest].sum()) * int(free.sum()) > MOST_CELLS:
            on = whole_by_class(np.maximum(value[rest], 0.0), scale[rest], free)
            whole, on = rest[on != WAITS], on[on != WAITS]
        else:
            whole, on = _whole(value, scale, free, rest)
        kind[whole] = on
        np.subtract.at(free, on, scale[whole])
    _move_up(kind, free, value, scale)
    return kind


def _whole(value: Floats, scale: Ints, free: Ints, rest: Ints) -> tuple[Ints, Ints]:
    """Jobs of `rest` that come out whole of the assignment of their devices one by one, and their kinds."""
    jobs, kinds = value.shape
    column = np.repeat(np.arange(kinds), free)
    row = np.repeat(rest, scale[rest])
    density = np.maximum(value[rest], 0.0) / scale[rest][:, None]
    at, device = linear_sum_assignment(np.repeat(density, scale[rest], axis=0)[:, column], maximize=True)
    counts = np.zeros((jobs, kinds), dtype=np.int64)
    np.add.at(counts, (row[at], column[device]), 1)
    whole, on = np.nonzero((counts == scale[:, None]) & (value > 0))
    return whole, on


def _place_whole(kind: Ints, free: Ints, value: Floats, scale: Ints, jobs: Ints) -> None:
    for job in jobs.tolist():
        worth = np.where(free >= scale[job], value[job], 0.0)
        best = int(worth.argmax())
        if worth[best] > 0:
            kind[job] = best
            free[best] -= scale[job]


def _move_up(kind: Ints, free: Ints, value: Floats, scale: Ints) -> None:
    """Best move first, a waiting job or one on a slower kind to free devices, until none gains."""
    everyone = np.arange(kind.size)
    current = np.where(kind == WAITS, 0.0, value[everyone, kind])
    while free.any():
        gain = np.where(scale[:, None] <= free, value - current[:, None], 0.0) / scale[:, None]
        job, best = divmod(int(gain.argmax()), free.size)
        if gain[job, best] <= LEAST_GAIN:
            return
        if kind[job] != WAITS:
            free[kind[job]] += scale[job]
        free[best] -= scale[job]
        kind[job], current[job] = best, value[job, best]


def assign_shared(
    worth: Floats, speed: Floats, paired: Floats, scale: Ints, devices: Ints, first: Ints
) -> tuple[Ints, Ints]:
    """As `assign_kinds`, but two jobs of equal scale may share devices: (kind, partner) of each job, -1: none.

    worth: of a second of each job's work at full speed. speed: share of full speed on each kind, shape (jobs, kinds).
    paired: that of the first job while the second shares its devices, shape (jobs, jobs, kinds); 0: cannot share.
    From the best plan without sharing, the pairs of the highest gain at the plan's device prices are made, a part of
    them at a time because each pair eases the prices; then everything is placed anew, a pair as one.
    """
    jobs = worth.size
    value = worth[:, None] * speed
    together = worth[:, None, None] * paired
    together = together + together.transpose(1, 0, 2)
    together[(paired <= 0) | (paired.transpose(1, 0, 2) <= 0)] = 0.0
    together[scale[:, None] != scale[None, :]] = 0.0
    partner = np.full(jobs, WAITS, dtype=np.int64)
    unit = value.copy()  # what the row is worth on each kind; a pair has the row of its first job
    kind = assign_kinds(unit, scale, devices, first)
    best_kind, best_partner, best_total = kind, partner.copy(), _total(unit, kind)
    for _ in range(PAIRING_PASSES):
        price = _prices(unit, scale, devices, kind)
        surplus = np.maximum((value - scale[:, None] * price).max(axis=1), 0.0)
        gain = (together - (scale[:, None] * price)[:, None, :]).max(axis=2) - surplus[:, None] - surplus[None, :]
        taken = partner != WAITS
        gain[taken], gain[:, taken] = 0.0, 0.0
        rows, columns = np.nonzero(np.triu(gain > LEAST_GAIN, 1))
        if not rows.size:
            break
        order = np.argsort(-gain[rows, columns], kind="stable")
        quota = max(1, int((~taken).sum()) // 8)
        for one, other in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if partner[one] == WAITS and partner[other] == WAITS:
                partner[one], partner[other] = other, one
                unit[one], unit[other] = together[one, other], 0.0
                quota -= 1
                if not quota:
                    break
        seconds = (partner != WAITS) & (partner < np.arange(jobs))
        leads = np.where(seconds, partner, np.arange(jobs))
        kind = assign_kinds(unit, scale, devices, np.array(list(dict.fromkeys(leads[first].tolist())), dtype=np.int64))
        total = _total(unit, kind)
        if total > best_total:
            best_kind, best_partner, best_total = kind[leads], partner.copy(), total
    # A pair that waits is none.
    return best_kind, np.where(best_kind == WAITS, WAITS, best_partner)


def _total(unit: Floats, kind: Ints) -> float:
    return float(unit[np.arange(kind.size), kind][kind != WAITS].sum())


def _prices(unit: Floats, scale: Ints, devices: Ints, kind: Ints) -> Floats:
    """What one more device of each kind would add, by a job that moves up and those that follow into its place."""
    kinds = devices.size
    runs = kind != WAITS
    held = np.bincount(kind[runs], weights=scale[runs], minlength=kinds)
    current = np.where(runs, unit[np.arange(kind.size), kind], 0.0)
    step = (unit - current[:, None]) / scale[:, None]
    price = np.zeros(kinds)
    for _ in range(kinds):
        behind = np.where(runs, price[kind], 0.0)
        price = np.where(held < devices, 0.0, np.maximum((step + behind[:, None]).max(axis=0, initial=0.0), 0.0))
    return price
