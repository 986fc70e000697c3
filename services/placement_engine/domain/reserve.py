"""Reserve: the best node for one member. Whole gangs are reserved in gangs.py."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import CPU, HOST_MEMORY, MEMORY, NODE_WATTS, PODS, WATTS, Bools, Floats, Ints, View
from placement_engine.domain.facts import DeviceFacts, RowFacts
from placement_engine.domain.filters.power_headroom import member_watts
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, DeviceClaim, Job, Member
from placement_engine.domain.policy import Policy
from placement_engine.domain.shapes import Ask
from placement_engine.domain.sharing import claims_on, fits_per_device
from placement_engine.domain.tables import EXCLUDED, Table
from placement_engine.domain.topology import wants_near_devices


@dataclass(frozen=True, slots=True)
class Reservation:
    """Claims taken. `scores` are of the rows before the claim, `others` the next best rows."""

    members: tuple[Member, ...]
    row: int
    score: float
    others: tuple[tuple[int, float], ...]
    tightness: float | None
    """Of a gang: see `spreading.tightness`."""


Reserve = Callable[[Job, Ask, Table, float], Reservation | None]


class Reserver:
    def __init__(self, fleet: Fleet, policy: Policy, gang: Reserve) -> None:
        self._fleet = fleet
        self._next_best = policy.next_best
        self._gang = gang

    def reserve(self, job: Job, ask: Ask, table: Table, now: float) -> Reservation | None:
        """Claims at once where it fits; None: it does not, and nothing is claimed. `ask` and `table` are those
        of `shape_of(job)`, up to date."""
        if job.replicas > 1 or job.groups or wants_near_devices(job):
            return self._gang(job, ask, table, now)
        score = table.score
        if ask.time_bound:
            model = self._fleet.columns.model[: score.shape[0]]
            score = np.where(ask.in_time.take(model), score, EXCLUDED)
        if score.shape[0] == 0:
            return None
        row = int(score.argmax())
        best = score.item(row)
        if best == EXCLUDED:
            return None
        others = next_best(score, [row], max(1, self._next_best))
        if others and others[0][1] == best:
            ties = (score == best).nonzero()[0]
            row = int(ties[self._fleet.rank().take(ties).argmin()])
            others = next_best(score, [row], self._next_best)
        others = others[: self._next_best]
        member = member_on(self._fleet, 0, row, ask, table.usable[:, row])
        self._fleet.hold(job.job_id, member, now, *draw_on(self._fleet, row, ask))
        return Reservation((member,), row, best, others, None)


def next_best(score: Floats, rows: list[int], count: int) -> tuple[tuple[int, float], ...]:
    """The best rows but these. `score` is written to and put back."""
    first, item = len(rows), score.item
    kept: list[tuple[int, float]] = [(row, item(row)) for row in rows]
    for row in rows:
        score[row] = EXCLUDED
    for _ in range(count):
        at = int(score.argmax())
        value: float = item(at)
        if value == EXCLUDED:
            break
        kept.append((at, value))
        score[at] = EXCLUDED
    for at, value in kept:
        score[at] = value
    return tuple(kept[first:])


def draw_on(fleet: Fleet, row: int, ask: Ask) -> tuple[float, float]:
    """A member's expected peak on each device of a row, W, and the part of the device that it takes."""
    model = fleet.by_row[row][1].model
    part = ask.shape.fraction if ask.milli is None else float(ask.milli[model]) / WHOLE_DEVICE
    return ask.watts.item(model), part


def member_on(fleet: Fleet, number: int, row: int, ask: Ask, usable: Bools, group: str = "") -> Member:
    """A member on a row that can take one: the devices are chosen, nothing is claimed yet."""
    facts, row_facts = fleet.by_row[row]
    shape = ask.shape
    claims: tuple[DeviceClaim, ...] = ()
    if shape.needs_devices:
        claims = tuple(claims_on(_choose(row_facts, usable, ask), ask, row_facts.model))
    return Member(number, facts.node.name, claims, shape.cpu_milli, shape.memory, group)


def members_per_row(view: View, usable: Bools, ask: Ask, limit: int) -> Ints:
    """How many members of one gang each row could take at once, at most `limit`."""
    shape = ask.shape
    fits = np.full(view.model.shape[0], float(limit))
    if shape.whole:
        fits = np.minimum(fits, usable.sum(axis=0) // shape.whole)
    elif shape.needs_devices:
        each = fits_per_device(view, ask)
        for column, need in ((MEMORY, ask.memory.take(view.model)), (WATTS, ask.watts.take(view.model))):
            asked = need > 0
            room = view.devices(column) / np.where(asked, need, 1.0)
            each = np.minimum(each, np.where(asked, np.floor(room), np.inf))
        fits = np.minimum(fits, np.where(usable, each, 0.0).sum(axis=0))
    if shape.cpu_milli > 0:
        fits = np.minimum(fits, view.rows(CPU) // shape.cpu_milli)
    if shape.memory > 0:
        fits = np.minimum(fits, view.rows(HOST_MEMORY) // shape.memory)
    fits = np.minimum(fits, np.maximum(view.rows(PODS), 0.0))
    added = member_watts(view, ask)
    room = view.rows(NODE_WATTS) / np.where(added > 0, added, 1.0)
    fits = np.minimum(fits, np.where(added > 0, np.floor(room), np.inf))
    whole: Ints = fits.astype(np.intp)
    return whole


def _choose(row: RowFacts, usable: Bools, ask: Ask) -> list[DeviceFacts]:
    """The coolest whole devices; for a fraction, the device that it fills best; for a partition, the one where
    larger partitions lose least."""
    able = [device for device, fits in zip(row.devices, usable.tolist(), strict=False) if fits]
    shape = ask.shape
    if shape.whole:
        return sorted(able, key=lambda d: (-d.heat, d.slot))[: shape.whole]
    cut = None if ask.cuts is None else ask.cuts.by_model[row.model]
    if cut is not None:
        loss = cut.loss
        return [min(able, key=lambda d: (loss[d.slices()], -d.heat, d.slot))]
    return [min(able, key=lambda d: (-d.used_milli, -d.heat, d.slot))]
