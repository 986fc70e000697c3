"""Gangs: all members of a job claimed, or none.

The spread is planned over bounds (spreading.py), then claimed row by row, and what several members of one node or
one power budget share is checked anew as they are claimed. Where that finds less than the bound, all is let go and
planned again with what was found, so that a decision is exact whatever the bounds are.

An elastic gang takes as many members as fit when it is placed, from the least to the wished number; it does not
grow later. A gang of several shapes is placed in one domain for all groups: the least of every group first, then
the wished rest in group order. Members of one group sit on one accelerator model, groups may differ.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from placement_engine.domain.columns import (
    CPU,
    CPU_TOTAL,
    DEVICES,
    FREE,
    HOST_MEMORY,
    NODE_WATTS,
    PRIMARY,
    Bools,
    Floats,
    Ints,
)
from placement_engine.domain.filters.power_headroom import member_watts
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, Expectation, Job, Member
from placement_engine.domain.policy import Policy
from placement_engine.domain.reserve import Reservation, draw_on, member_on, members_per_row, next_best
from placement_engine.domain.shapes import Ask, Shape, jobs_of, lead_job, lead_of, least_replicas, own_ask, shapes_of
from placement_engine.domain.spreading import Container, Need, Plan, Room, Stock, containers, plan, reach, tightness
from placement_engine.domain.tables import EXCLUDED, Pipeline, Table
from placement_engine.domain.topology import (
    Topology,
    Wishes,
    asks_for_neighbours,
    members_in_one_domain,
    nearest_devices,
    wishes_of,
)

MOST_ARRANGEMENTS = 4
"""Domains of each level that are tried for a gang of several shapes, the most promising first."""


@dataclass(frozen=True, slots=True)
class Part:
    """The members of one shape."""

    name: str
    job: Job
    ask: Ask
    table: Table
    need: Need


@dataclass(frozen=True, slots=True)
class Claimed:
    part: Part
    plan: Plan
    model: int
    members: tuple[Member, ...]


class Gangs:
    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        pipeline: Pipeline,
        topology: Topology,
        table_of: Callable[[Shape], Table],
    ) -> None:
        self._fleet = fleet
        self._pipeline = pipeline
        self._topology = topology
        self._table_of = table_of
        self._next_best = policy.next_best
        self._topology_weight = policy.weights.topology

    def reserve(self, job: Job, ask: Ask, table: Table, now: float) -> Reservation | None:
        """As `Reserver.reserve`."""
        wishes = wishes_of(job)
        with self._fleet.power_domains_later():
            if job.groups:
                found = self._claim_groups(job, ask, wishes, now)
            else:
                part = Part("", job, ask, table, need_of(job, wishes))
                one = self._claim_part(part, part.need, wishes, 0, now)
                found = None if one is None else (one,)
        return None if found is None else self._reservation(job, found, wishes)

    def _reservation(self, job: Job, found: tuple[Claimed, ...], wishes: Wishes) -> Reservation:
        lead = found[lead_of(job)] if job.groups else found[0]
        rows = [row for claimed in found for row, _ in claimed.plan.picks]
        score, alike = lead.part.table.score, self._fleet.columns.model[: lead.part.table.score.shape[0]] == lead.model
        if lead.part.ask.shape.needs_devices:
            score = np.where(alike, score, EXCLUDED)
        return Reservation(
            members=tuple(member for claimed in found for member in claimed.members),
            row=lead.plan.picks[0][0],
            score=lead.plan.score,
            others=next_best(score, sorted(set(rows)), self._next_best),
            tightness=tightness(self._topology, wishes, np.array(rows)),
        )

    # -- one shape -------------------------------------------------------------------------------

    def _claim_part(
        self,
        part: Part,
        need: Need,
        wishes: Wishes,
        first: int,
        now: float,
        within: Bools | None = None,
        model: int | None = None,
    ) -> Claimed | None:
        """Claims the members of one shape, numbered from `first`, on rows `within` and on `model` where given."""
        part.table.refresh(self._fleet, self._pipeline)
        places = containers(self._topology, wishes, self._fleet.columns.rows)
        near = _several_devices(wishes, part)
        for strict in (True, False) if near and not wishes.device_required else (near,):
            rooms = {
                number: room
                for number, room in self._rooms(part, need, wishes, strict, within)
                if model in (None, number)
            }
            plans = {number: plan(room, need, self._topology, wishes, places) for number, room in rooms.items()}
            while options := [(self._order(one, number), one) for number, one in plans.items() if one is not None]:
                (*_, best), chosen = min(options, key=lambda option: option[0])
                if strict and not wishes.device_required and chosen.size < need.wished:
                    break  # more members count for more than near devices
                members, found = self._claim(part, chosen, wishes, first, now)
                if len(members) == chosen.size:
                    return Claimed(part, chosen, best, members)
                self._fleet.let_go_all(part.job.job_id, members)
                rooms[best] = _corrected(rooms[best], found)
                plans[best] = plan(rooms[best], need, self._topology, wishes, places)
        return None

    def _order(self, one: Plan, model: int) -> tuple[int, float, str, int]:
        """Most members first, then the best score with the topology term, then the model's name."""
        total = one.score + self._topology_weight * one.tightness
        return -one.size, -total, self._fleet.models.names[model], model

    def _rooms(
        self, part: Part, need: Need, wishes: Wishes, strict: bool, within: Bools | None
    ) -> Iterator[tuple[int, Room]]:
        """(model, room) by name of the model; 0 where the shape needs no devices."""
        columns, ask, table = self._fleet.columns, part.ask, part.table
        able = table.score > EXCLUDED
        if within is not None:
            able &= within
        if ask.time_bound:
            able &= ask.in_time.take(columns.model[: able.shape[0]])
        rows = np.flatnonzero(able)
        if rows.shape[0] == 0:
            return
        view = columns.view()
        fits = members_per_row(view, table.usable, ask, need.wished)
        if strict:
            domains = self._topology.device_domains(wishes.device_level)
            fits = np.minimum(fits, members_in_one_domain(table.usable, domains, ask.shape.whole))
        models = columns.model[: columns.rows]
        for model in sorted(set(models[rows].tolist())) if ask.shape.needs_devices else (0,):
            if ask.shape.needs_devices:
                alike = models == model
                free = np.maximum(view.devices(FREE), 0.0).sum(axis=0) * alike
                total = view.rows(DEVICES) * WHOLE_DEVICE * alike
                own = rows[alike[rows]]
            else:
                free, total = (view.rows(column) * view.rows(PRIMARY) for column in (CPU, CPU_TOTAL))
                own = rows
            yield (
                model,
                Room(
                    row=own,
                    fits=fits[own],
                    score=table.score[own],
                    rank=self._fleet.rank()[own],
                    stock=Stock(free, free < total),
                ),
            )

    def _claim(
        self, part: Part, chosen: Plan, wishes: Wishes, first: int, now: float
    ) -> tuple[tuple[Member, ...], dict[int, int]]:
        """Claims row after row. Returns what was claimed and, where that is less than planned, the most that rows
        take: nothing more where the power budget of a row is used up."""
        members: list[Member] = []
        taken: dict[int, int] = {}
        limits: dict[int, int] = {}
        for row, count in chosen.picks:
            found = self._claim_row(part, row, count, wishes, first + len(members), now, again=row in taken)
            members += found
            taken[row] = taken.get(row, 0) + len(found)
            if len(found) < count:
                limits[row] = 0
                limits.update(dict.fromkeys(self._rows_out_of_power(part, row), 0))
        return tuple(members), limits | {row: count for row, count in taken.items() if row in limits}

    def _claim_row(
        self, part: Part, row: int, count: int, wishes: Wishes, first: int, now: float, *, again: bool
    ) -> list[Member]:
        """Claims up to `count` members on one row."""
        ask, fleet, shape = part.ask, self._fleet, part.ask.shape
        draw = draw_on(fleet, row, ask)
        members: list[Member] = []
        if shape.needs_devices and not shape.whole:
            # Shares of devices lean on each other: each is chosen when the one before it is claimed.
            while len(members) < count and (usable := self._usable(part, row)) is not None:
                member = member_on(fleet, first + len(members), row, ask, usable, part.name)
                fleet.hold(part.job.job_id, member, now, *draw)
                members.append(member)
            return members
        usable = self._usable(part, row) if again else part.table.usable[:, row].copy()
        if usable is None:
            return []
        slots = {device.device.device_id: device.slot for device in fleet.by_row[row][1].devices}
        for number in range(first, first + count):
            member = member_on(fleet, number, row, ask, self._near(part, row, usable, wishes), part.name)
            usable[[slots[claim.device_id] for claim in member.devices]] = False
            members.append(member)
        if not again and self._power_for_all(part, row, count):
            fleet.hold_all(part.job.job_id, members, now, *draw)
            return members
        if count > 1:
            fleet.hold_all(part.job.job_id, members[:-1], now, *draw)
        # The last one is checked against what is left when all before it are claimed; so each before it is too.
        while members and not self._takes_one(part, row, fresh=len(members) == 1 and not again):
            members.pop()
            if members:
                fleet.let_go(part.job.job_id, members[-1])
        if members:
            fleet.hold(part.job.job_id, members[-1], now, *draw)
        return members

    def _power_for_all(self, part: Part, row: int, count: int) -> bool:
        """Beyond doubt: each device at its peak in whole W. Devices, CPU and memory the bounds count exactly."""
        columns, shape = self._fleet.columns, part.ask.shape
        most = count * shape.slots * (draw_on(self._fleet, row, part.ask)[0] + 1.0)
        left = float(columns.row[NODE_WATTS, row])
        return left >= most and self._fleet.budget_above(self._fleet.by_row[row][0]) >= most

    def _near(self, part: Part, row: int, usable: Bools, wishes: Wishes) -> Bools:
        if not _several_devices(wishes, part):
            return usable
        domains = self._topology.device_domains(wishes.device_level)[:, row]
        return nearest_devices(usable, domains, part.ask.shape.whole)

    def _usable(self, part: Part, row: int) -> Bools | None:
        """Devices for one more member, as the fleet is now; None: it takes no more."""
        feasible, usable = self._pipeline.feasible(self._fleet.columns.view(np.array([row])), part.ask)
        return usable[:, 0] if feasible[0] and self._within_budget(part, row) else None

    def _takes_one(self, part: Part, row: int, *, fresh: bool) -> bool:
        """`fresh`: nothing of this gang is on the node, so its table knows all but the power budgets above."""
        return self._within_budget(part, row) if fresh else self._usable(part, row) is not None

    def _within_budget(self, part: Part, row: int) -> bool:
        if not self._fleet.power_domains():
            return True
        return self._fleet.budget_above(self._fleet.by_row[row][0]) >= self._watts_added(part, row)

    def _watts_added(self, part: Part, row: int) -> float:
        return float(member_watts(self._fleet.columns.view(np.array([row])), part.ask)[0])

    def _rows_out_of_power(self, part: Part, row: int) -> Iterator[int]:
        """All rows under the power budgets that have no room for one more member of this row."""
        if self._within_budget(part, row):
            return
        added = self._watts_added(part, row)
        for name in self._fleet.nodes_short_of(self._fleet.by_row[row][0], added):
            yield from (one.row for one in self._fleet.nodes[name].rows)

    # -- several shapes --------------------------------------------------------------------------

    def _claim_groups(self, job: Job, ask: Ask, wishes: Wishes, now: float) -> tuple[Claimed, ...] | None:
        parts = self._parts(job, ask, wishes)
        for within in self._arrangements(parts, wishes, lead_of(job)):
            found = self._claim_all(parts, wishes, now, within, whole=True)
            if found is None and any(part.need.least < part.need.wished for part in parts):
                found = self._claim_all(parts, wishes, now, within, whole=False)
            if found is not None:
                return found
        return None

    def _parts(self, job: Job, ask: Ask, wishes: Wishes) -> tuple[Part, ...]:
        parts = []
        for group, one, shape in zip(job.groups, jobs_of(job), shapes_of(job), strict=True):
            table = self._table_of(shape)
            parts.append(Part(group.name, one, own_ask(table.ask, ask), table, need_of(one, wishes)))
        return tuple(parts)

    def _arrangements(self, parts: Sequence[Part], wishes: Wishes, lead: int) -> Iterator[Bools]:
        """Rows of one domain that may hold the gang: where most members fit, the tightest of those first."""
        places = containers(self._topology, wishes, self._fleet.columns.rows)
        near = bool(wishes.device_required)
        rooms = [
            [room for _, room in self._rooms(p, p.need, wishes, near and _several_devices(wishes, p), None)]
            for p in parts
        ]
        options: list[tuple[int, int, int, int]] = []
        for depth, place in enumerate(places):
            held = [
                _held(place, of_part, p.need, self._topology, wishes) for p, of_part in zip(parts, rooms, strict=True)
            ]
            size = np.where(np.minimum.reduce(held) > 0, np.add.reduce(held), 0)
            left = np.zeros_like(size)
            for room in rooms[lead]:
                left += _sums_inside(place, room.row, room.fits)
            able = np.flatnonzero((size > 0) & self._holds_in_sum(place, parts))
            best = able[np.lexsort((able, left[able], -size[able]))][:MOST_ARRANGEMENTS]
            options += [(-int(size[d]), depth, int(left[d]), int(d)) for d in best.tolist()]
        for _, depth, _, domain in sorted(options):
            yield places[depth].domain == domain

    def _holds_in_sum(self, place: Container, parts: Sequence[Part]) -> Bools:
        """Domains that have the devices, CPU and memory of the least of all groups together."""
        view = self._fleet.columns.view()
        rows, primary = np.arange(view.model.shape[0]), view.rows(PRIMARY)
        enough = np.ones(place.count, dtype=np.bool_)
        for free, demand in (
            (np.maximum(view.devices(FREE), 0.0).sum(axis=0), [p.job.milli_per_member for p in parts]),
            (view.rows(CPU) * primary, [p.job.cpu_milli for p in parts]),
            (view.rows(HOST_MEMORY) * primary, [p.job.memory_bytes for p in parts]),
        ):
            asked = sum(p.need.least * each for p, each in zip(parts, demand, strict=True))
            if asked:
                enough &= _sums_inside(place, rows, free) >= asked
        return enough

    def _claim_all(
        self, parts: Sequence[Part], wishes: Wishes, now: float, within: Bools, *, whole: bool
    ) -> tuple[Claimed, ...] | None:
        """Every group within the rows, or nothing. `whole`: each its wished size; else the least of all, then more."""
        inside = replace(wishes, required="", preferred=tuple(filter(None, (*wishes.preferred, wishes.required))))
        demanding = sorted(range(len(parts)), key=lambda p: _demand(parts[p]))
        found: dict[int, list[Claimed]] = {}
        wished = [part.need.wished for part in parts]
        for index in demanding:
            part, first = parts[index], sum(wished[:index])
            size = part.need.wished if whole else part.need.least
            one = self._claim_part(part, Need(size, size, part.need.group_size), inside, first, now, within)
            if one is None:
                self._let_go(found)
                return None
            found[index] = [one]
        if whole:
            return tuple(found[index][0] for index in range(len(parts)))
        for index, part in enumerate(parts):
            rest, (one,) = part.need.wished - part.need.least, found[index]
            if rest:
                first, size = sum(wished[:index]) + part.need.least, part.need.group_size
                more = self._claim_part(part, Need.of(1, rest, size), inside, first, now, within, one.model)
                found[index] += [more] if more is not None else []
        return self._numbered(found, parts, now)

    def _let_go(self, found: dict[int, list[Claimed]]) -> None:
        for of_part in found.values():
            for one in of_part:
                self._fleet.let_go_all(one.part.job.job_id, one.members)

    def _numbered(self, found: dict[int, list[Claimed]], parts: Sequence[Part], now: float) -> tuple[Claimed, ...]:
        """The same claims with members numbered through: not every group has its wished size."""
        self._let_go(found)
        result, number = [], 0
        for index, part in enumerate(parts):
            members = [member for one in found[index] for member in one.members]
            members = [replace(member, member=number + at) for at, member in enumerate(members)]
            number += len(members)
            first, picks = found[index][0], tuple(pick for one in found[index] for pick in one.plan.picks)
            self._fleet.hold_all(part.job.job_id, members, now, *draw_on(self._fleet, picks[0][0], part.ask))
            chosen = replace(first.plan, picks=picks, size=len(members))
            result.append(Claimed(part, chosen, first.model, tuple(members)))
        return tuple(result)


def sizes(job: Job, members: Sequence[Member]) -> str:
    """For the summary of a decision: "6 of 8 wished on ", or "on " where the gang has its wished size."""
    wished = sum(group.replicas for group in job.groups) or job.replicas
    return "on " if len(members) == wished else f"{len(members)} of {wished} wished on "


def as_placed(expected: Expectation, job: Job, members: Sequence[Member]) -> Expectation:
    """What is expected of the lead group at its wished size, for the members that were placed: the work is the
    same, so fewer devices take longer in proportion, cost and energy stay."""
    wished = lead_job(job)
    lead = job.groups[lead_of(job)].name if job.groups else ""
    placed = sum(1 for member in members if member.group == lead)
    devices = sum(len(member.devices) for member in members)
    if placed == wished.replicas:
        return expected if devices == expected.devices else replace(expected, devices=devices)
    seconds = expected.duration_seconds
    duration = None if seconds is None else seconds * wished.replicas / placed
    return replace(expected, devices=devices, duration_seconds=duration)


def need_of(job: Job, wishes: Wishes) -> Need:
    """Of a job of one shape."""
    return Need.of(least_replicas(job), job.replicas, wishes.group_size)


def _demand(part: Part) -> tuple[int, int, int]:
    """Large members find a place before small ones."""
    return -part.job.milli_per_member, -part.job.cpu_milli, -part.job.memory_bytes


def _corrected(room: Room, found: dict[int, int]) -> Room:
    fits = room.fits.copy()
    for row, count in found.items():
        fits[room.row == row] = count
    return replace(room, fits=fits)


def _sums_inside(place: Container, rows: Ints, values: Ints | Floats) -> Ints:
    """Per domain of the place, over these rows."""
    domain = place.domain[rows]
    inside = (domain >= 0) & (domain < place.count)
    return np.bincount(domain[inside], weights=values[inside], minlength=place.count).astype(np.intp)


def _several_devices(wishes: Wishes, part: Part) -> bool:
    return asks_for_neighbours(wishes, part.job.milli_per_member)


def _held(place: Container, rooms: Iterable[Room], need: Need, topology: Topology, wishes: Wishes) -> Ints:
    """Members of one shape that each domain holds on its best model, 0 where fewer than the least."""
    held = np.zeros(place.count, dtype=np.intp)
    for room in rooms:
        groups = topology.level(wishes.group_level).domain[room.row] if wishes.group_size > 1 else room.row
        held = np.maximum(held, reach(room.fits, place.domain[room.row], place.count, groups, need))
    return held
