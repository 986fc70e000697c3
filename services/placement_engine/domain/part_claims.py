"""Claims of the members of one shape: planned over bounds (spreading.py), claimed row by row, and exact.

What several members of one node or one power budget share is checked anew as they are claimed. Where that finds less
than the bound, all is let go and planned again with what was found.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from placement_engine.domain.columns import CPU, CPU_TOTAL, DEVICES, FREE, NODE_WATTS, PRIMARY, Bools
from placement_engine.domain.filters.power_headroom import member_watts
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, Job, Member
from placement_engine.domain.policy import Policy
from placement_engine.domain.reserve import draw_on, member_on, members_per_row
from placement_engine.domain.shapes import Ask
from placement_engine.domain.spreading import Need, Plan, Room, Stock, containers, plan
from placement_engine.domain.tables import EXCLUDED, Pipeline, Table
from placement_engine.domain.topology import (
    Topology,
    Wishes,
    asks_for_neighbours,
    members_in_one_domain,
    nearest_devices,
)


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


class PartClaims:
    def __init__(self, fleet: Fleet, policy: Policy, pipeline: Pipeline, topology: Topology) -> None:
        self._fleet = fleet
        self._pipeline = pipeline
        self._topology = topology
        self._topology_weight = policy.weights.topology

    def claim(
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
        near = several_devices(wishes, part)
        for strict in (True, False) if near and not wishes.device_required else (near,):
            rooms = {
                number: room
                for number, room in self.rooms(part, need, wishes, strict, within)
                if model in (None, number)
            }
            plans = {number: plan(room, need, self._topology, wishes, places) for number, room in rooms.items()}
            while options := [(self._order(one, number), one) for number, one in plans.items() if one is not None]:
                (*_, best), chosen = min(options, key=lambda option: option[0])
                if strict and not wishes.device_required and chosen.size < need.wished:
                    break  # more members count for more than near devices
                members, found = self._claim_rows(part, chosen, wishes, first, now)
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

    def rooms(
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

    def _claim_rows(
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
        if not several_devices(wishes, part):
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


def several_devices(wishes: Wishes, part: Part) -> bool:
    """Whether a level within the node matters to the members of the part."""
    return asks_for_neighbours(wishes, part.job.milli_per_member)


def _corrected(room: Room, found: dict[int, int]) -> Room:
    fits = room.fits.copy()
    for row, count in found.items():
        fits[room.row == row] = count
    return replace(room, fits=fits)
