"""Rounds: who of the jobs that can be checkpointed runs next, and on which kind, is planned anew again and again.

At the end of a round (`Policy.round_seconds`) all jobs that take turns (`attained.takes_turns`), those that run and
those that wait, contend for the devices that are free or that one of them has. What a round of a job is worth on a
kind is its service index (`service_index`) times its speed there; `round_shares` finds the plan within priorities,
queues and quotas. A plan costs: one that runs counts for more where it is, by the least gain and by the work that a
stop would lose. Who loses its place, or goes on elsewhere, is stopped as for any preemption; a nomination keeps the
place for the one who takes it (`round_changes`).

Between two ends nobody is stopped: what becomes free goes to those that wait by the same rule, a kind for each.
A job that takes turns and is in no plan waits for its turn (`waits`); all others are placed as without rounds. Of those
nobody is ever stopped here, and one that has waited for `PATIENCE_SECONDS` makes room for itself at a round's end.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from placement_engine.domain.attained import Attained, takes_turns
from placement_engine.domain.columns import BLOCKED, FREE, Ints
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.held import model_at
from placement_engine.domain.model import WHOLE_DEVICE, Claim, Job, Preemption, Reason
from placement_engine.domain.overdue import PATIENCE_SECONDS, Overdue
from placement_engine.domain.policy import Policy
from placement_engine.domain.preemption import Preemptor
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.round_assignment import WAITS, overdue
from placement_engine.domain.round_changes import Changes
from placement_engine.domain.round_shares import Contenders, share_out
from placement_engine.domain.shapes import Ask, Shape
from placement_engine.domain.tables import EXCLUDED, Tables
from placement_engine.domain.victims import work_lost

__all__ = ["KEPT_ROUNDS", "LEAST_GAIN", "PATIENCE_SECONDS", "Rounds"]

KEPT_ROUNDS = 4
"""Where nobody came or ended and nothing became free, a plan is kept for so many rounds."""
LEAST_RUN = 0.5
"""Part of a round that a job has run at least before it is stopped: starting takes time of its own."""
LEAST_GAIN = 0.05
"""A change must gain this part of what it ends, beside the work that is lost."""
SLACK_SECONDS = 1e-3

NOT_THEIR_TURN, IN_TURN = 1, 2
"""Marks that set waiting jobs apart in their queue: `Queues.mark`. Above them, one for each kind."""


class Rounds:
    """Of one engine. `claims` and `ending` are its own; `charge` counts a claim to its queue or takes it back;
    `ask_of` and `barred` say what a waiting job asks for now and whether something keeps it whatever the fleet."""

    def __init__(
        self,
        fleet: Fleet,
        tables: Tables,
        reserver: Reserver,
        bookings: Bookings,
        queues: Queues,
        preemptor: Preemptor,
        policy: Policy,
        *,
        claims: Mapping[str, Claim],
        ending: set[str],
        charge: Callable[[Claim, int], None],
        ask_of: Callable[[Job, float], Ask],
        barred: Callable[[Job, float], bool],
    ) -> None:
        self._fleet, self._tables, self._reserver = fleet, tables, reserver
        self._bookings, self._queues, self._preemptor = bookings, queues, preemptor
        self._policy = policy
        self._claims, self._ending = claims, ending
        self._charge = charge
        self._attained = Attained(fleet, tables)
        self._changes = Changes(fleet, tables, reserver, bookings, self._attained, ending)
        self._overdue = Overdue(
            fleet,
            tables,
            reserver,
            bookings,
            queues,
            policy,
            claims=claims,
            ending=ending,
            ask_of=ask_of,
            barred=barred,
        )
        self._ends_at: float | None = None
        self._rounds_kept = 0
        self._planned_at: tuple[int, tuple[int, ...]] = -1, ()
        """What had happened and what was free when the present plan was made."""
        self._kinds: dict[str, int] = {}
        """Waiting jobs whose turn it is, and on which model."""
        self._unfit: dict[str, list[int]] = {}
        """Models on which a waiting job did not fit though the count of devices said so: others are tried first."""
        self._missed: set[str] = set()
        """Jobs that the present cycle, or else the last, found not to fit on their kind."""
        self._looked_at: tuple[tuple[int, ...], int, int] = (), -1, -1
        """What was free, how many waited and what had happened when it was looked last who might go."""
        self._at_once: list[str] = []
        """Jobs for which the present cycle, or else the last, keeps a place that is free already."""
        self._seen_at = float("-inf")
        """When the last cycle was."""

    @property
    def on(self) -> bool:
        return self._policy.round_seconds > 0

    def knows(self, job_id: str) -> bool:
        """Whether the job was here before: it was stopped."""
        return self._attained.knows(job_id)

    def came(self, job: Job) -> None:
        """A job waits now, for the first time or again."""
        if self.on and takes_turns(job):
            self._attained.came(job)
            self._mark(job.job_id)

    def restored(self, claim: Claim) -> None:
        """A claim was read back."""
        if self.on:
            self._attained.came(claim.job)

    def released(self, claim: Claim, at: float | None) -> None:
        """What the job held is free since `at`; None: since the last cycle."""
        if self.on:
            if not takes_turns(claim.job):
                self._overdue.released(claim.job.job_id, self._seen_at if at is None else at)
            self._attained.released(claim, at, told_to_stop=claim.job.job_id in self._ending)

    # -- for the cycle ---------------------------------------------------------------------------

    def waits(self, job: Job, now: float) -> Reason | None:
        """Why a waiting job that takes turns is not placed now; None: it may be."""
        if not self.on or job.job_id in self._kinds or self._queues.jobs.get(job.job_id) is not job:
            return None
        # What priority or its queue entitle a job to it takes by preemption, whatever the round says.
        if not takes_turns(job) or job.job_id in self._bookings.nominations or self._preemptor.may_stop_others(job):
            return None
        ends_in = max(0.0, (self._ends_at or now) - now)
        message = "others go first in this round, by what an hour of their work is worth"
        return Reason("Rounds", "NOT_ITS_TURN", 0, 0, message, {"round_ends_in_seconds": ends_in})

    def narrowed(self, job: Job, ask: Ask) -> Ask:
        """The ask on the kind that the round gives the job."""
        model = self._kinds.get(job.job_id)
        if model is None:
            return ask
        only = np.zeros_like(ask.in_time)
        only[model] = ask.in_time[model]
        return replace(ask, in_time=only)

    def placed(self, job_id: str) -> None:
        self._kinds.pop(job_id, None)
        self._unfit.pop(job_id, None)

    def waits_for_its_place(self, job_id: str) -> bool:
        """Whether a round gave the job a place that others are still to leave: it takes no other meanwhile."""
        booking = self._bookings.nominations.get(job_id) if job_id in self._kinds else None
        return booking is not None and any(one in self._ending for one in booking.after)

    def finish(self) -> None:
        """The cycle is over. What was kept for jobs that wait for nobody was kept against those behind them only."""
        for job_id in self._at_once:
            self._bookings.drop(job_id)

    def undone(self, job: Job) -> None:
        """The placement could not be committed, the job waits again: a place that was kept for that cycle only is not
        kept."""
        self.came(job)
        if job.job_id in self._at_once:
            self._bookings.drop(job.job_id)

    def stop_undone(self) -> None:
        """A stop could not be committed: the next end of a round plans anew, though nothing has happened."""
        self._planned_at = -1, ()

    def missed(self, job_ids: Iterable[str]) -> bool:
        """These jobs alike, of which one was tried, do not fit on their kind, though there are devices enough: what is
        free goes to others then. False: what the round gave them is not the matter."""
        if not self._kinds:
            return False
        missed = [one for one in job_ids if one in self._kinds and one not in self._bookings.nominations]
        for one in missed:
            self._unfit.setdefault(one, []).append(self._kinds.pop(one))
        if missed:
            self._missed.update(missed)
            self._looked_at = (), -1, -1
        return bool(missed)

    def plan(self, totals: Totals, now: float) -> list[Preemption]:
        """Once in a cycle, before the queue is walked: whom a new round stops. Sets whose turn it is."""
        if not self.on:
            return []
        self._at_once.clear()
        self._seen_at = now
        self._attained.settle(now, self._queues.jobs, self._claims)
        self._kinds = {
            job_id: model
            for job_id, model in self._kinds.items()
            if job_id in self._queues.jobs or job_id in self._ending
        }
        stopped: list[Preemption] = []
        if self._is_over(now):
            stopped = self._next_round(totals, now)
        self._fill(totals, now)
        # Those that missed are no more of the group that is tried: passed over, they would hide those behind them.
        for job_id in (*sorted(self._missed), *self._kinds, *self._bookings.nominations):
            self._mark(job_id)
        self._missed.clear()
        return stopped

    def _mark(self, job_id: str) -> None:
        job = self._queues.jobs.get(job_id)
        if job is not None and takes_turns(job):
            kept = job_id in self._bookings.nominations
            in_turn = kept or job_id in self._kinds
            mark = IN_TURN + 2 * self._kinds.get(job_id, 0) + kept if in_turn else NOT_THEIR_TURN
            self._queues.mark(job_id, mark)

    def _is_over(self, now: float) -> bool:
        length, end = self._policy.round_seconds, self._ends_at
        if end is not None and end - 2 * length < now < end - SLACK_SECONDS:
            return False
        late = end is None or not end - 2 * length < now < end + length - SLACK_SECONDS
        self._ends_at = now + length if late or end is None else end + length
        self._looked_at = (), -1, -1
        self._rounds_kept += 1
        planned_at = self._attained.news, self._free_whole()
        if planned_at == self._planned_at and self._rounds_kept < KEPT_ROUNDS:
            return False
        self._planned_at, self._rounds_kept = planned_at, 0
        return True

    # -- a new round -----------------------------------------------------------------------------

    def _next_round(self, totals: Totals, now: float) -> list[Preemption]:
        self._attained.review((self._queues.jobs, self._claims))
        self._unfit = {job_id: models for job_id, models in self._unfit.items() if job_id in self._queues.jobs}
        for job_id in [one for one in self._kinds if one not in self._bookings.nominations]:
            del self._kinds[job_id]
            self._mark(job_id)
        late = self._waiting(now)
        turns = zip(late, self._attained.waited([job.job_id for job in late], now).tolist(), strict=True)
        room = self._overdue.make_room(self._running(now), {job.job_id: seconds for job, seconds in turns}, now)
        stopped = list(room.stopped)
        self._kinds.update(room.kinds)
        running, waiting = self._running(now), self._waiting(now)
        if not running and not waiting:
            return stopped
        contenders = self._contenders(running, waiting, now)
        models = contenders.sits
        capacity = self._free(contenders.jobs)
        held = models != WAITS
        np.add.at(capacity, models[held], contenders.scale[held])
        kind = share_out(contenders, capacity, self._queues, totals, self._fleet.models.names, running, self._charge)
        changes = self._changes.carry_out(contenders, running, kind, now)
        stopped += changes.stopped
        self._kinds.update(changes.kinds)
        self._at_once += changes.at_once
        overdue_ids = [contenders.jobs[at].job_id for at in np.flatnonzero(contenders.overdue >= 0).tolist()]
        self._overdue.left_out = {job_id for job_id in overdue_ids if job_id not in self._kinds}
        return stopped

    def _running(self, now: float) -> list[Claim]:
        """Jobs that take turns, and have run for long enough to be stopped now."""
        least = LEAST_RUN * self._policy.round_seconds - SLACK_SECONDS
        found = [
            claim
            for job_id, claim in self._claims.items()
            if claim.started_at is not None
            and now - claim.started_at >= least
            and claim.stoppable
            and takes_turns(claim.job)
            and self._attained.knows(job_id)
            and job_id not in self._ending
            and job_id not in self._queues.jobs
            and not self._preemptor.is_protected(claim, now)
            and self._model_of(claim) != WAITS
        ]
        return sorted(found, key=lambda claim: claim.job.job_id)

    def _model_of(self, claim: Claim) -> int:
        """The model that the job sits on, -1: on several, or on what is not known any more."""
        found = {
            model_at(self._fleet, member.node, one.device_id) for member in claim.members for one in member.devices
        }
        model = found.pop() if len(found) == 1 else None
        return WAITS if model is None else model

    def _waiting(self, now: float) -> list[Job]:
        """Jobs that wait for their turn."""
        found = [
            job
            for job_id, job in self._queues.jobs.items()
            if job.not_before <= now
            and takes_turns(job)
            and self._attained.knows(job_id)
            and job_id not in self._claims
            and job_id not in self._kinds
            and job_id not in self._bookings.nominations
        ]
        return sorted(found, key=lambda job: job.job_id)

    def _contenders(self, running: list[Claim], waiting: list[Job], now: float) -> Contenders:
        """Those that run and then those that wait."""
        jobs = [*(claim.job for claim in running), *waiting]
        ids = [job.job_id for job in jobs]
        worth = self._attained.worth(
            [*((claim.job, claim) for claim in running), *((job, None) for job in waiting)], now
        )
        value = worth[:, None] * self._attained.speed_of(ids)
        models = np.array([*(self._model_of(claim) for claim in running), *(WAITS for _ in waiting)], dtype=np.int64)
        horizon = KEPT_ROUNDS * self._policy.round_seconds
        scale = np.array([job.replicas * job.devices for job in jobs], dtype=np.int64)
        for at, claim in enumerate(running):
            lost = work_lost(claim, now) / scale[at]
            value[at, models[at]] *= 1.0 + LEAST_GAIN + lost / horizon
        rank = np.full(len(jobs), -1, dtype=np.int64)
        late = len(running) + overdue(self._attained.waited([job.job_id for job in waiting], now), PATIENCE_SECONDS)
        rank[late] = np.arange(late.size)
        return Contenders(tuple(jobs), value, scale, models, rank)

    def _free(self, jobs: Iterable[Job]) -> Ints:
        """Devices of each model that one of these jobs, at least, may take now."""
        columns = self._fleet.columns
        usable = np.zeros((columns.device.shape[1], columns.rows), dtype=np.bool_)
        for shape in dict.fromkeys(self._attained.shape_of(job.job_id) for job in jobs):
            table = self._tables.get(shape)
            usable |= table.usable & (table.score != EXCLUDED)
        counts = np.bincount(
            columns.model[: columns.rows].astype(np.int64), usable.sum(axis=0), minlength=len(self._fleet.models)
        )
        return counts.astype(np.int64)

    # -- between two ends ------------------------------------------------------------------------

    def _fill(self, totals: Totals, now: float) -> None:
        """What is free goes to those that wait, a kind for each."""
        free = self._free_whole()
        looked_at = free, len(self._queues.jobs), self._attained.news
        if looked_at == self._looked_at or not any(free):
            return
        self._looked_at = looked_at
        waiting = self._waiting(now)
        if not waiting:
            return
        capacity = self._free(waiting)
        for job_id, model in self._kinds.items():
            if job_id in self._queues.jobs and job_id not in self._bookings.nominations:
                capacity[model] -= self._attained.shape_of(job_id).gang_devices
        contenders = self._contenders([], waiting, now)
        self._strike_out(contenders)
        kind = share_out(
            contenders, capacity.clip(min=0), self._queues, totals, self._fleet.models.names, (), self._charge
        )
        for at in np.flatnonzero(kind != WAITS).tolist():
            self._kinds[waiting[at].job_id] = int(kind[at])

    def _strike_out(self, contenders: Contenders) -> None:
        """Sets to 0 what a job is worth where there is no room for its members now, and where it did not fit before;
        once that is everywhere, it is tried anew: after others, where it did not fit just now."""
        columns = self._fleet.columns
        model = columns.model[: columns.rows].astype(np.int64)
        room: dict[Shape, Ints] = {}
        for at, job in enumerate(contenders.jobs):
            shape = self._attained.shape_of(job.job_id)
            if shape not in room:
                table = self._tables.get(shape)
                members = table.usable.sum(axis=0) // shape.whole
                members[table.score == EXCLUDED] = 0
                room[shape] = np.bincount(model, members, minlength=len(self._fleet.models)).astype(np.int64)
            value = contenders.value[at]
            value[room[shape] < job.replicas] = 0.0
            if job.job_id in self._unfit:
                before = value.copy()
                value[self._unfit[job.job_id]] = 0.0
                if not value.any():
                    del self._unfit[job.job_id]
                    if job.job_id not in self._missed:
                        value[:] = before

    def _free_whole(self) -> tuple[int, ...]:
        """Devices of each model that are free and take new work."""
        columns = self._fleet.columns
        whole = (columns.device[FREE, :, : columns.rows] >= WHOLE_DEVICE) & (
            columns.device[BLOCKED, :, : columns.rows] == 0
        )
        counts = np.bincount(columns.model[: columns.rows].astype(np.int64), whole.sum(axis=0))
        return tuple(counts.astype(np.int64).tolist())
