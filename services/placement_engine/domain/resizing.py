"""Growing: a running elastic gang gets more of the members that it wishes for, of what nobody who waits could use.

A gang grows when it has run for `Policy.grow_after_seconds` with the members that it has, gives none up and is not
being stopped. Steps of one member (of one group where it has groups) go to the gang that would be served first if it
waited: priority, what stays within its queue's own before what borrows, the standing of its queue, submit time, id;
so gangs of one standing grow in turn. New members are placed as the others were: on the same model, in the required
domain, near those that run where a level is preferred, within device limits and quotas, on what is free beside what is
kept for others.

Jobs that wait go first: a device that one of them may have by its model, its constraints, its quota and its limit is
not given to a gang that runs, whatever the priorities, unless the job asks for more of the model than the fleet has.
So growing takes nothing from anybody. Members are taken away only for a job that waits (`preemption`); until it is
placed it waits, and what was freed is no gang's to grow into: that the same state grows and shrinks in turn is
impossible.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from placement_engine.domain.columns import Bools, Ints
from placement_engine.domain.device_counts import held_shape
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.held import model_at
from placement_engine.domain.model import WHOLE_DEVICE, Claim, Job, Member, Reason, Resize
from placement_engine.domain.part_claims import Part, PartClaims
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.quotas import least_milli, within_nominal, within_quota
from placement_engine.domain.readouts import GangSize
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.shapes import Ask, Reach, Shape, shapes_of
from placement_engine.domain.spreading import Need
from placement_engine.domain.surplus import (
    Opening,
    is_elastic,
    least_of,
    openings,
    staying,
    wished_of,
    worked_until,
)
from placement_engine.domain.tables import EXCLUDED, Pipeline, Tables
from placement_engine.domain.topology import NODE, Topology, Wishes, wishes_of

MOST_STEPS = 128
"""Most steps in a cycle, over all gangs: the others grow in the next."""

Rank = tuple[int, bool, tuple[float, ...], float, str]


class Resizer:
    """Grows the gangs of one engine. `claims`, `ending` and `leaving` are the engine's own; `member_milli`: thousandths
    of devices of a member; `put` takes a gang's claim anew, and charges it."""

    def __init__(
        self,
        fleet: Fleet,
        tables: Tables,
        pipeline: Pipeline,
        topology: Topology,
        bookings: Bookings,
        queues: Queues,
        policy: Policy,
        *,
        claims: Mapping[str, Claim],
        ending: set[str],
        leaving: Mapping[str, Claim],
        member_milli: Callable[[Job], int],
        put: Callable[[Claim], None],
    ) -> None:
        self._fleet = fleet
        self._tables = tables
        self._topology = topology
        self._bookings = bookings
        self._queues = queues
        self._policy = policy
        self._claims = claims
        self._ending = ending
        self._leaving = leaving
        self._member_milli = member_milli
        self._put = put
        self._parts = PartClaims(fleet, policy, pipeline, topology)
        self._before: dict[str, Claim] = {}
        """Claims of those that grew in the last cycle, as they were before."""

    def grow(self, now: float, totals: Totals) -> tuple[Resize, ...]:
        """Within a cycle, when all who wait had their turn: members are claimed at once."""
        self._before = {}
        if not self._policy.resize_gangs:
            return ()
        gangs = {job_id: claim for job_id, claim in self._claims.items() if self._why_not(claim, now) is None}
        if not gangs:
            return ()
        free = ~self._wanted(now)
        added: dict[str, list[Member]] = {}
        full: set[tuple[Shape, int]] = set()
        ranked, steps = self._ranked(gangs, totals), MOST_STEPS
        while ranked and steps:
            job_id = min(ranked, key=lambda one: ranked[one])
            members = self._step(self._claims[job_id], free, full, now)
            if not members:
                del ranked[job_id]
                continue
            steps -= 1
            added.setdefault(job_id, []).extend(members)
            if len(self._claims[job_id].members) == wished_of(gangs[job_id].job):
                del ranked[job_id]
            ranked = self._ranked(ranked, totals)  # what one holds moves its queue, and all in it
        self._before = {job_id: gangs[job_id] for job_id in added}
        return tuple(self._resize(self._claims[job_id], added[job_id]) for job_id in added)

    def undo(self, claim: Claim, added: tuple[Member, ...]) -> None:
        """The gang has not got these members: its claim is what it was before the last cycle."""
        before = self._before.pop(claim.job.job_id, None)
        if not added or before is None:
            return
        self._fleet.let_go_all(claim.job.job_id, added)
        self._put(replace(before, started_at=claim.started_at))

    def waits_for_time(self, now: float) -> bool:
        """Whether a gang may grow later for no other reason than that time passes."""
        if not self._policy.resize_gangs:
            return False
        known = (self._why_not(claim, now) for claim in self._claims.values())
        return any(why is not None and why.code == "GROWS_LATER" for why in known)

    def size(self, job_id: str, now: float, totals: Totals) -> GangSize | None:
        """How many members an elastic gang that runs has, and what stands in the way of more; None: it is none."""
        claim = self._claims.get(job_id)
        if claim is None or not is_elastic(claim.job):
            return None
        held = len(staying(claim, self._leaving))
        least, wished = least_of(claim.job), wished_of(claim.job)
        why = self._why_not(claim, now)
        if why is None:
            wanted = self._wanted(now)
            why = self._in_the_way(claim, wanted)
        words = f"holds {held} of {wished} wished members, at least {least}"
        summary = words if why is None or not why.message else f"{words}: {why.message}"
        return GangSize(job_id, held, least, wished, len(claim.members) - held, why, summary)

    # -- who may grow ----------------------------------------------------------------------------

    def _why_not(self, claim: Claim, now: float) -> Reason | None:
        """Why the gang itself does not grow now, whatever is free; None: it may."""
        job_id = claim.job.job_id
        if not is_elastic(claim.job) or len(claim.members) >= wished_of(claim.job):
            return _reason("WHOLE", "")
        if not self._policy.resize_gangs:
            return _reason("RESIZING_OFF", "gangs keep their size here (policy resize_gangs)")
        if job_id in self._ending:
            return _reason("ENDING", "it is being stopped")
        if len(staying(claim, self._leaving)) < len(claim.members):
            return _reason("SHRINKING", "it gives members up")
        if claim.started_at is None:
            return _reason("NOT_STARTED", "it has not started yet")
        since = max(claim.started_at, claim.resized_at or claim.started_at)
        wait = since + self._policy.grow_after_seconds - now
        if wait > 0:
            numbers = {"wait_seconds": wait}
            return _reason("GROWS_LATER", f"it may grow in {wait:.0f} s, if there is room then", numbers)
        return None

    def _ranked(self, job_ids: Iterable[str], totals: Totals) -> dict[str, Rank]:
        """The least goes first: as jobs that wait are ordered, for one more step."""
        standing: dict[str, tuple[float, ...]] = {}
        ranked: dict[str, Rank] = {}
        for job_id in job_ids:
            job = self._claims[job_id].job
            if job.queue not in standing:
                path = self._queues.path(job.queue)
                standing[job.queue] = tuple(self._queues.standing(name, totals) for name in path)
            borrows = self._borrows(self._claims[job_id])
            ranked[job_id] = -job.priority, borrows, standing[job.queue], job.submitted_at, job_id
        return ranked

    def _borrows(self, claim: Claim) -> bool:
        """Whether the next members would be beyond what the queue owns."""
        quotas = self._queues.quotas
        if not quotas.limits(claim.job.queue):
            return True
        steps = (replace(one.of.job, replicas=one.count, min_replicas=0) for one in openings(claim))
        return not any(within_nominal(quotas.needs(step)) for step in steps)

    # -- what nobody waits for -------------------------------------------------------------------

    def _wanted(self, now: float) -> Bools:
        """By row, whether a job that waits, or will when its back-off is over, may have something there."""
        columns = self._fleet.columns
        wanted = np.zeros(columns.rows, dtype=np.bool_)
        seen: set[tuple[object, ...]] = set()
        for job in self._queues.jobs.values():
            shapes = shapes_of(job)
            key = job.queue, shapes, job.replicas, job.min_replicas, job.groups
            if key in seen or (job.deadline is not None and now > job.deadline):
                continue
            seen.add(key)
            least = sum(self._least(job))
            if least and self._queues.limit_hit(job.queue, least) is not None:
                continue
            # Who asks for its queue's own wants it also while others hold what it is to come from.
            own = within_nominal(self._queues.quotas.needs(job))
            may = None if own else self._queues.quotas.mask(job)
            for shape in shapes:
                wanted |= self._usable(job, within_quota(self._tables.get(shape).ask, may))
        return wanted

    def _least(self, job: Job) -> Iterator[int]:
        if job.groups:
            yield sum(g.min_replicas * (g.devices * WHOLE_DEVICE + g.device_milli) for g in job.groups)
        else:
            yield (job.min_replicas or job.replicas) * self._member_milli(job)

    def _usable(self, job: Job, ask: Ask) -> Bools:
        columns, models = self._fleet.columns, self._fleet.models
        there = np.zeros(len(models), dtype=np.bool_)
        for number in range(len(models)):
            enough = not ask.shape.needs_devices or least_milli(job, models, number) <= (
                models.counts[number] * WHOLE_DEVICE
            )
            there[number] = enough and (not ask.shape.needs_devices or bool(ask.allowed[number] & ask.in_time[number]))
        rows = there.take(columns.model[: columns.rows])
        if ask.executor_bit:
            executors = columns.executors[: columns.rows]
            rows &= (executors & ask.executor_bit) != 0 if ask.executor_bit > 0 else executors < 0
        return rows & _reached(ask.reach, columns.node[: columns.rows])

    # -- a step ----------------------------------------------------------------------------------

    def _step(self, claim: Claim, free: Bools, full: set[tuple[Shape, int]], now: float) -> tuple[Member, ...]:
        """One more member, or group of them, on rows that are `free` to take; (): there is none. `full`: shapes, by
        model, for a member of which nothing is free any more in this cycle."""
        return next(filter(None, (self._fill(claim, one, free, full, now) for one in openings(claim))), ())

    def _fill(
        self, claim: Claim, opening: Opening, free: Bools, full: set[tuple[Shape, int]], now: float
    ) -> tuple[Member, ...]:
        if self._limits(opening) is not None:
            return ()
        ask, wishes = self._ask(claim, opening), wishes_of(claim.job)
        inside = replace(wishes, required="", preferred=tuple(filter(None, (*wishes.preferred, wishes.required))))
        table, model = self._tables.get(ask.shape), self._model(claim, opening.of.name)
        need = Need(opening.count, opening.count, opening.of.need.group_size)
        part = Part(opening.of.name, opening.of.job, ask, table, need)
        able = table.score > EXCLUDED
        if model:
            able &= self._fleet.columns.model[: able.shape[0]] == model
        if (ask.shape, model) in full or not (free & able).any():
            full.add((ask.shape, model))
            return ()
        for rows in self._rows_near(claim, free & able):
            if not rows.any():
                continue
            with self._fleet.power_domains_later():
                claimed = self._parts.claim(part, need, inside, opening.first, now, rows, model)
            if claimed is not None:
                members = tuple(sorted((*claim.members, *claimed.members), key=lambda member: member.member))
                self._put(replace(claim, members=members, resized_at=now, worked=worked_until(claim, now)))
                self._bookings.resized()
                return claimed.members
        return ()

    def _limits(self, opening: Opening) -> Reason | None:
        """The device limit of a queue that these members would break."""
        milli = opening.count * self._member_milli(opening.of.job)
        queue = self._queues.limit_hit(opening.of.job.queue, milli) if milli else None
        if queue is None:
            return None
        return _reason("QUEUE_DEVICE_LIMIT", f"queue {queue.name!r} may hold no more than {queue.device_limit} devices")

    def _ask(self, claim: Claim, opening: Opening) -> Ask:
        """What a member asks for, as those that run, where the queue's quotas leave room for so many more."""
        shape = shapes_of(claim.job)[opening.of.index]
        if shape.flexible:
            shape = held_shape(shape, claim.members[0])
        step = replace(opening.of.job, replicas=opening.count, min_replicas=0)
        if shape.flexible:
            step = replace(step, devices=shape.whole)
        return within_quota(self._tables.get(shape).ask, self._queues.quotas.mask(step))

    def _model(self, claim: Claim, name: str) -> int:
        """Number of the model that the members of that shape run on; 0 where they need no devices, -1: not known."""
        member = next((member for member in claim.members if member.group == name), None)
        devices = member.devices if member is not None else ()
        if member is None or not devices:
            return 0 if member is not None else -1
        model = model_at(self._fleet, member.node, devices[0].device_id)
        return -1 if model is None else model

    def _rows_near(self, claim: Claim, free: Bools) -> tuple[Bools, ...]:
        """Of the rows that the gang may grow into, those of the tightest domain that it sits in first, then ever
        looser ones. (): it is not known where it sits."""
        wishes, held = wishes_of(claim.job), self._rows_held(claim)
        if held is None:
            return ()
        names = self._topology.chain(wishes.named) if wishes.named else (NODE,)
        levels = [self._same_domain(name, held) & free for name in names]
        if not wishes.required:
            return (*levels, free)
        inside = self._same_domain(wishes.required, held) & free
        return (*(rows & inside for rows in levels), inside)

    def _rows_held(self, claim: Claim) -> list[int] | None:
        found: list[int] = []
        for member in claim.members:
            facts = self._fleet.nodes.get(member.node)
            if facts is None or not facts.rows:
                return None
            found += [row.row for row in facts.rows]
        return found

    def _same_domain(self, level: str, held: list[int]) -> Bools:
        domain = self._topology.level(level).domain[: self._fleet.columns.rows]
        return np.isin(domain, domain[held])

    def _in_the_way(self, claim: Claim, wanted: Bools) -> Reason | None:
        """Of a gang that may grow: a limit, a quota, jobs that wait, or no room; None: it grows next."""
        found = [self._against(claim, one, wanted) for one in openings(claim)]
        return None if None in found else found[0]

    def _against(self, claim: Claim, opening: Opening, wanted: Bools) -> Reason | None:
        limit = self._limits(opening)
        if limit is not None:
            return limit
        ask, model = self._ask(claim, opening), self._model(claim, opening.of.name)
        if model < 0 or not (found := self._rows_near(claim, np.ones_like(wanted))):
            return _reason("NODE_UNKNOWN", "a node that it sits on is not known")
        if model and not ask.in_time[model]:
            message = f"queue {claim.job.queue!r} has no room in its quotas for more"
            return _reason("QUEUE_QUOTA_EXCEEDED", message)
        table = self._tables.get(ask.shape)
        able = (table.score > EXCLUDED) & found[-1]
        if model:
            able &= self._fleet.columns.model[: wanted.shape[0]] == model
        if not able.any():
            where = "" if not self._required(claim.job) else f" in its {self._required(claim.job)}"
            return _reason("NO_ROOM", f"nothing that it could grow into is free{where}")
        if not (able & ~wanted).any():
            return _reason("WANTED_BY_OTHERS", "what is free could serve jobs that wait: they go first")
        return None

    def _required(self, job: Job) -> str:
        wishes: Wishes = wishes_of(job)
        return wishes.required

    def _resize(self, claim: Claim, added: list[Member]) -> Resize:
        size, wished = len(claim.members), wished_of(claim.job)
        return Resize(
            job_id=claim.job.job_id,
            attempt=claim.job.attempt,
            size=size,
            wished=wished,
            added=tuple(added),
            message=f"grows to {size} of {wished} wished members",
        )


def _reached(reach: Reach, node: Ints) -> Bools:
    """By row, whether the constraints admit its node; `node` is its number, below 0 for none."""
    admitted: Bools = node >= 0
    if reach.selected is not None:
        admitted &= reach.selected[np.clip(node, 0, len(reach.selected) - 1)]
    if reach.barred is not None:
        admitted &= reach.barred[np.clip(node, 0, len(reach.barred) - 1)] < 0
    return admitted


def _reason(code: str, message: str, numbers: Mapping[str, float] | None = None) -> Reason:
    return Reason("Resize", code, 0, 0, message, numbers or {})
