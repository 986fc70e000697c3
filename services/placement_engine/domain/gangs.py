"""Gangs: all members of a job claimed, or none.

An elastic gang takes as many members as fit when it is placed, from the least to the wished number; it does not
grow later. A gang of several shapes is placed in one domain for all groups: the least of every group first, then
the wished rest in group order. Members of one group sit on one accelerator model, groups may differ.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from placement_engine.domain.columns import CPU, FREE, HOST_MEMORY, PODS, PRIMARY, Bools, Floats, Ints
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Expectation, Job, Member
from placement_engine.domain.part_claims import Claimed, Part, PartClaims, several_devices
from placement_engine.domain.policy import Policy
from placement_engine.domain.reserve import Reservation, draw_on, next_best
from placement_engine.domain.shapes import Ask, Shape, jobs_of, lead_job, lead_of, least_replicas, own_ask, shapes_of
from placement_engine.domain.spreading import Container, Need, Room, containers, reach, tightness
from placement_engine.domain.tables import EXCLUDED, Pipeline, Table
from placement_engine.domain.topology import Topology, Wishes, wishes_of

MOST_ARRANGEMENTS = 4
"""Domains of each level that are tried for a gang of several shapes, the most promising first."""


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
        self._topology = topology
        self._table_of = table_of
        self._claims = PartClaims(fleet, policy, pipeline, topology)
        self._next_best = policy.next_best

    def reserve(self, job: Job, ask: Ask, table: Table, now: float) -> Reservation | None:
        """As `Reserver.reserve`."""
        wishes = wishes_of(job)
        with self._fleet.power_domains_later():
            if job.groups:
                found = self._claim_groups(job, ask, wishes, now)
            else:
                part = Part("", job, ask, table, need_of(job, wishes))
                one = self._claims.claim(part, part.need, wishes, 0, now)
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
            [room for _, room in self._claims.rooms(p, p.need, wishes, near and several_devices(wishes, p), None)]
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
        """Domains that have the devices, CPU, memory and pods of the least of all groups together."""
        view = self._fleet.columns.view()
        rows, primary = np.arange(view.model.shape[0]), view.rows(PRIMARY)
        members = sum(p.need.wished for p in parts)
        enough = np.ones(place.count, dtype=np.bool_)
        for free, demand in (
            (np.maximum(view.devices(FREE), 0.0).sum(axis=0), [p.job.milli_per_member for p in parts]),
            (view.rows(CPU) * primary, [p.job.cpu_milli for p in parts]),
            (view.rows(HOST_MEMORY) * primary, [p.job.memory_bytes for p in parts]),
            (view.rows(PODS).clip(0, members) * primary, [1] * len(parts)),
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
            one = self._claims.claim(part, Need(size, size, part.need.group_size), inside, first, now, within)
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
                more = self._claims.claim(part, Need.of(1, rest, size), inside, first, now, within, one.model)
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
            draw = draw_on(self._fleet, picks[0][0], part.ask)
            for member in members:
                self._fleet.hold(part.job.job_id, member, now, *draw)
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


def _sums_inside(place: Container, rows: Ints, values: Ints | Floats) -> Ints:
    """Per domain of the place, over these rows."""
    domain = place.domain[rows]
    inside = (domain >= 0) & (domain < place.count)
    return np.bincount(domain[inside], weights=values[inside], minlength=place.count).astype(np.intp)


def _held(place: Container, rooms: Iterable[Room], need: Need, topology: Topology, wishes: Wishes) -> Ints:
    """Members of one shape that each domain holds on its best model, 0 where fewer than the least."""
    held = np.zeros(place.count, dtype=np.intp)
    for room in rooms:
        groups = topology.level(wishes.group_level).domain[room.row] if wishes.group_size > 1 else room.row
        held = np.maximum(held, reach(room.fits, place.domain[room.row], place.count, groups, need))
    return held
