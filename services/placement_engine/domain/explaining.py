"""Why a job waits: each filter's share of the fleet, with numbers, and the smallest changes that would help.

A node counts for the first filter that excludes it (a node of several models: for the filter its last
model got to). A device on an excluded node counts for the first filter that it failed itself, else for
the one that excluded its node.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from placement_engine.domain.asks import make_ask
from placement_engine.domain.columns import ABSENT, BLOCKED, FREE, HEATING, HOT, Bools, Ints
from placement_engine.domain.filters.held import Held
from placement_engine.domain.filters.taints import barring
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.gang_reasons import Demand, GangReasons
from placement_engine.domain.model import Job, Queue, Reason, Remedy, RemedyKind
from placement_engine.domain.models import CPU_CLASS
from placement_engine.domain.node_constraints import Taint
from placement_engine.domain.outlook import TooLate
from placement_engine.domain.plugins import RowFilter
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.domain.remedies import wider_nodes
from placement_engine.domain.reserve import members_per_row
from placement_engine.domain.shapes import Ask, jobs_of, own_ask, shapes_of
from placement_engine.domain.tables import Pipeline
from placement_engine.domain.topology import Topology

PASSES = 127
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Trace:
    """Per row the position of the filter that excluded it (PASSES: none), and devices per filter."""

    verdict: Ints
    blame: Ints
    """Per device (slots, rows) of an excluded row the filter it counts for, else -1."""
    fits: Ints
    """Members each row could take now."""
    most_devices: int
    """Most usable devices on one node that fails for their number alone."""
    usable: Bools
    """Devices that pass every filter: (slots, rows)."""


class Explainer:
    def __init__(self, fleet: Fleet, policy: Policy, pipeline: Pipeline, topology: Topology) -> None:
        self._fleet = fleet
        self._gangs = GangReasons(fleet, topology)
        self._policy = policy
        self._pipeline = pipeline
        self.filters: tuple[RowFilter, ...] = (*pipeline.row_filters, *pipeline.device_filters)
        """In the order in which they are asked: `Trace.verdict` is a position among them."""

    def reasons(self, job: Job, ask: Ask) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
        """(reasons, the largest first; remedies) of the fleet as it is. No reasons: the job would fit."""
        asks = [own_ask(make_ask(self._fleet, shape), ask) for shape in shapes_of(job)] if job.groups else [ask]
        traces = [self.trace(own, one.replicas) for own, one in zip(asks, jobs_of(job), strict=True)]
        demands = [Demand(own, trace.fits, trace.usable) for own, trace in zip(asks, traces, strict=True)]
        short = self._gangs.shortfall(job, demands)
        if short is None:
            return (), ()
        own, trace = asks[short.part], traces[short.part]
        late = () if ask.too_late is None else (deadline_cannot_be_met(ask.too_late, self._fleet.models.names),)
        reasons = (*late, *short.reasons, *self._filter_reasons(own, trace))
        return reasons, (*short.remedies, *self._remedies(job, demands, short.part, trace))

    def trace(self, ask: Ask, limit: int, *, without: Collection[type] = ()) -> Trace:
        """`limit`: most members that a row is asked for. `without`: filters, by class, that are left out."""
        fleet, pipeline = self._fleet, self._pipeline
        view = fleet.columns.view()
        live = fleet.columns.node[: fleet.columns.rows] >= 0
        verdict = np.full(view.model.shape[0], PASSES, dtype=np.intp)
        for position, plugin in enumerate(pipeline.row_filters):
            if type(plugin) in without:
                continue
            verdict[(verdict == PASSES) & ~plugin.passes(view, ask)] = position
        present = view.devices(FREE) > ABSENT
        slots = ask.shape.slots
        failed = np.full(present.shape, PASSES, dtype=np.int8)
        usable = present.copy()
        if ask.shape.needs_devices:
            for position, device_plugin in enumerate(pipeline.device_filters, len(pipeline.row_filters)):
                if type(device_plugin) in without:
                    continue
                passes = device_plugin.passes(view, ask)
                failed[usable & ~passes] = position
                usable &= passes
                verdict[(verdict == PASSES) & (usable.sum(axis=0) < slots)] = position
        excluded = live & (verdict != PASSES)
        blame = np.where((failed == PASSES) | (verdict < len(pipeline.row_filters)), verdict, failed)
        blame[~(present & excluded)] = -1
        fits = np.where(verdict == PASSES, members_per_row(view, usable, ask, limit), 0)
        short = usable.sum(axis=0)[excluded & (verdict >= len(pipeline.row_filters))]
        verdict[~live] = -1
        return Trace(
            verdict=verdict,
            blame=blame,
            fits=np.where(live, fits, 0),
            most_devices=int(short.max()) if short.shape[0] else 0,
            usable=usable,
        )

    def _filter_reasons(self, ask: Ask, trace: Trace) -> list[Reason]:
        columns = self._fleet.columns
        of_node = np.full(len(self._fleet.names), -1, dtype=np.intp)
        live = trace.verdict >= 0
        np.maximum.at(of_node, columns.node[: columns.rows][live], trace.verdict[live])
        nodes = np.bincount(of_node[(of_node >= 0) & (of_node != PASSES)], minlength=len(self.filters))
        reasons = []
        devices = np.bincount(trace.blame[trace.blame >= 0], minlength=len(self.filters))
        for position, plugin in enumerate(self.filters):
            if not nodes[position] and not devices[position]:
                continue
            rows = np.flatnonzero(trace.verdict == position)
            if rows.shape[0] == 0:
                # Only some devices failed here: their nodes were excluded by another filter.
                rows = np.flatnonzero((trace.blame == position).any(axis=0))
            message, numbers = plugin.describe(columns.view(rows), ask)
            if isinstance(plugin, Held):
                message += self.held_by(rows)
            reasons.append(
                Reason(plugin.name, plugin.code, int(nodes[position]), int(devices[position]), message, numbers)
            )
        return sorted(reasons, key=lambda r: (-r.nodes, -r.devices, r.plugin, r.code))

    def held_by(self, rows: Ints) -> str:
        """Who has devices of these rows, the most first: names are not in the columns."""
        counts: Counter[str] = Counter()
        for row in rows.tolist():
            counts.update(one.device.held_by for one in self._fleet.by_row[row][1].devices if one.device.held_by)
        named = [f"{who} ({count})" for who, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        return f": {', '.join(named[:MOST_NAMED])}{more}"

    # -- remedies --------------------------------------------------------------------------------

    def _remedies(self, job: Job, demands: list[Demand], part: int, trace: Trace) -> list[str]:
        ask = demands[part].ask
        shape, found = ask.shape, list[str]()
        if shape.whole > 1 and 0 < trace.most_devices < shape.whole:
            found.append(f"a replica with {trace.most_devices} instead of {shape.whole} devices would fit now")
        if shape.needs_devices and (shape.models or shape.classes or shape.stacks):
            names = self._free_models(job, demands, part)
            if names:
                found.append("it would fit now on " + ", ".join(names[:MOST_NAMED]))
        found += self._free_nodes(job, demands, part)
        heat = self.heat_remedy(ask)
        if heat is not None:
            found.append(heat.message)
        return found

    def _free_nodes(self, job: Job, demands: list[Demand], part: int) -> list[str]:
        """What of the constraints on nodes alone keeps the whole job away."""
        ask, found = demands[part].ask, list[str]()
        for wider, message, subjects in wider_nodes(ask.shape.nodes, self.barring(ask), self.excluded(ask)):
            if len(subjects) > 1 and found:
                continue  # where one taint will do, all of them are no news
            other = own_ask(make_ask(self._fleet, replace(ask.shape, nodes=wider)), ask)
            trace = self.trace(other, jobs_of(job)[part].replicas)
            there = Demand(other, trace.fits, trace.usable)
            if self._gangs.fits(job, [*demands[:part], there, *demands[part + 1 :]]):
                found.append(message)
        return found

    def barring(self, ask: Ask) -> list[tuple[Taint, int]]:
        """Taints that keep the ask off nodes that its selector allows, with how many of them: the most first."""
        return barring(self._selected_nodes(ask), ask)

    def excluded(self, ask: Ask) -> int:
        """Nodes that its selector excludes."""
        return len(self._fleet.nodes) - int(self._selected_nodes(ask).shape[0])

    def _selected_nodes(self, ask: Ask) -> Ints:
        nodes = np.array(sorted(facts.number for facts in self._fleet.nodes.values()), dtype=np.intp)
        selected = ask.reach.selected
        return nodes if selected is None else nodes[selected.take(nodes, mode="clip")]

    def _free_models(self, job: Job, demands: list[Demand], part: int) -> list[str]:
        """Other accelerators that would hold the whole job now."""
        ask = demands[part].ask
        wider = make_ask(self._fleet, replace(ask.shape, models=(), classes=(), stacks=()))
        trace = self.trace(wider, jobs_of(job)[part].replicas)
        models = self._fleet.columns.model[: self._fleet.columns.rows]
        names = []
        for model in np.unique(models[trace.fits > 0]).tolist():
            there = Demand(wider, np.where(models == model, trace.fits, 0), trace.usable)
            if not ask.allowed[model] and self._gangs.fits(job, [*demands[:part], there, *demands[part + 1 :]]):
                names.append(self._fleet.models.names[model] or "a device without a model")
        return sorted(set(names))

    def heat_remedy(self, ask: Ask) -> Remedy | None:
        """How many devices that would match are too hot, and when they return. None: none is."""
        if not ask.shape.needs_devices:
            return None
        columns, rows = self._fleet.columns, self._fleet.columns.rows
        live = (columns.node[:rows] >= 0) & ask.allowed.take(columns.model[:rows])
        hot = (
            live
            & (columns.device[FREE, :, :rows] > ABSENT)
            & ((columns.device[BLOCKED, :, :rows].astype(np.intp) & (HOT | HEATING)) > 0)
        )
        if self._policy.unknown_heat is UnknownPolicy.REFUSE:  # refused too, but it does not wait for cooling
            hot &= self._measured(hot)
        count = int(hot.sum())
        if not count:
            return None
        slots, at = np.nonzero(hot)
        first = np.lexsort((slots, self._fleet.rank()[at]))[:MOST_NAMED].tolist()
        names = [self._device_name(int(at[one]), int(slots[one])) for one in first]
        limit = self._policy.heat_floor_celsius + self._policy.heat_hysteresis_celsius
        message = f"{count} matching devices return when their margin is back at {limit:g} degrees: "
        return Remedy(
            kind=RemedyKind.HEAT,
            message=message + ", ".join(names) + (", ..." if count > MOST_NAMED else ""),
            numbers={"devices": float(count), "margin_celsius": limit},
            subjects=tuple(names),
        )

    def _measured(self, devices: Bools) -> Bools:
        known = np.zeros_like(devices)
        for slot, row in zip(*(one.tolist() for one in np.nonzero(devices)), strict=True):
            known[slot, row] = self._fleet.by_row[row][1].devices[slot].margin is not None
        return known

    def _device_name(self, row: int, slot: int) -> str:
        facts, row_facts = self._fleet.by_row[row]
        return f"{facts.node.name}/{row_facts.devices[slot].device.index}"

    def other_kinds(self, ask: Ask) -> list[str]:
        """Accelerators of the fleet that the ask does not accept, by name; a CPU is none."""
        models = self._fleet.models
        return sorted(
            {
                models.names[m]
                for m in range(1, len(models))
                if models.counts[m] > 0
                and models.names[m]
                and not (m < len(ask.allowed) and ask.allowed[m])
                and models.classes[m].casefold() != CPU_CLASS.casefold()
            }
        )

    def levels(self) -> list[str]:
        """Topology levels of the fleet, the tightest (most domains) first."""
        names: dict[str, set[str]] = {}
        for facts in self._fleet.nodes.values():
            for level, domain in facts.node.topology.items():
                names.setdefault(level, set()).add(domain)
        return sorted(names, key=lambda level: (-len(names[level]), level))


def limit_reason(queue: Queue, used_milli: int, asked_milli: int) -> tuple[Reason, str]:
    limit = queue.device_limit or 0
    used, asked = used_milli / 1000, asked_milli / 1000
    reason = Reason(
        plugin="QueueLimit",
        code="QUEUE_DEVICE_LIMIT",
        nodes=0,
        devices=0,
        message=f"queue {queue.name!r} uses {used:g} of its {limit} devices, the job asks for {asked:g} more",
        numbers={"device_limit": float(limit), "devices_used": used, "devices_asked": asked},
    )
    if asked > limit:
        return reason, f"queue {queue.name!r} needs a device_limit of {asked:g} or more"
    return reason, f"{used + asked - limit:g} devices of queue {queue.name!r} must be released first"


def deadline_passed(job: Job, now: float) -> Reason:
    late = now - (job.deadline or now)
    return Reason(
        plugin="Deadline",
        code="DEADLINE_PASSED",
        nodes=0,
        devices=0,
        message=f"the deadline passed {late:.0f} s ago",
        numbers={"late_seconds": late},
    )


def deadline_cannot_be_met(best: TooLate, names: list[str]) -> Reason:
    where = f"{best.devices} x {names[best.model]}" if best.devices else f"a share of {names[best.model]}"
    return Reason(
        plugin="Deadline",
        code="DEADLINE_CANNOT_BE_MET",
        nodes=0,
        devices=0,
        message=f"started now it would end {best.late_seconds:.0f} s after its deadline at best, on {where}",
        numbers={"best_end": best.end, "late_seconds": best.late_seconds, "devices": float(best.devices)},
    )


def backing_off(job: Job, now: float) -> Reason:
    wait = job.not_before - now
    return Reason(
        plugin="Backoff",
        code="BACKING_OFF",
        nodes=0,
        devices=0,
        message=f"tried again in {wait:.1f} s",
        numbers={"wait_seconds": wait},
    )


def holds_claims(job: Job) -> Reason:
    return Reason(
        plugin="Claims",
        code="HOLDS_CLAIMS",
        nodes=0,
        devices=0,
        message="an earlier attempt still holds its claims",
    )
