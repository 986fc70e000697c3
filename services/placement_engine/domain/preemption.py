"""Which running jobs are stopped for one that does not fit: by priority, and by what its queue owns.

Who may be stopped:
- by priority: jobs of strictly lower priority that are preemptible, in any queue;
- by reclaim: jobs of queues that hold more than they own, if the waiting job's queue is entitled to what it
  asks (`entitlement`). Preemptible jobs go first. One that is not preemptible is stopped only where a queue
  above it has quotas, so that what it borrowed was borrowed knowingly: that is the price of borrowing.
Nobody is stopped within the protected seconds of its start, nor what nobody here can stop (`Claim.stoppable`). A job
is stopped whole, with all its members; but before anybody is, the same rights are tried on what gangs can do without
(`surplus`), where the policy has it so.
Whom of them: `victims`. Until they are gone a nomination keeps their place (`reservations`).

Why it comes to rest. By priority a preemption exchanges lower for strictly higher: a job is stopped by
priority at most once for each arrival or restart of one above it, and chains run upwards only. By reclaim
the one who takes stays within what its queue owns and the one who loses stays at or above it: what queues
hold beyond what they own falls with each reclaim, and the same is not taken back. Priority goes first: a
reclaim does not stop a job of higher priority than the one it is done for.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from placement_engine.domain.columns import Bools
from placement_engine.domain.entitlement import entitled, may_take_from
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.held import Milli, add_milli, model_at
from placement_engine.domain.model import Claim, Job, Member, Preemption, PreemptionKind, Resize
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.quotas import least_milli
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask
from placement_engine.domain.surplus import part_key, part_of, staying, surplus, wished_of
from placement_engine.domain.tables import Tables
from placement_engine.domain.victims import Allow, Plan, Victim, disjoint, find_plan, work_lost


class Preemptor:
    """Plans preemptions for one engine. `claims`, `ending` and `leaving` are the engine's own; `charge` counts a claim
    to its queue (1) or takes it back (-1)."""

    def __init__(
        self,
        fleet: Fleet,
        tables: Tables,
        reserver: Reserver,
        bookings: Bookings,
        queues: Queues,
        policy: Policy,
        *,
        claims: Mapping[str, Claim],
        ending: set[str],
        leaving: dict[str, Claim],
        charge: Callable[[Claim, int], None],
    ) -> None:
        self._fleet = fleet
        self._tables = tables
        self._reserver = reserver
        self._bookings = bookings
        self._queues = queues
        self._policy = policy
        self._claims = claims
        self._ending = ending
        self._leaving = leaving
        self._charge = charge
        self._plans_left = 0
        self._not_before: dict[str, tuple[float, Job]] = {}
        self._order: list[Victim] = []
        self._ordered_at = float("-inf")
        self._candidates: list[Victim] = []
        self._surplus: list[Victim] = []
        self._sifted = -1
        """How many were being stopped when the candidates were sifted in this cycle; -1: not yet."""
        self._placed: set[str] = set()
        """In this cycle: none of them is stopped in it."""
        self._preemptible: Counter[int] = Counter()

    def begin(self, now: float) -> None:
        """A cycle begins."""
        if not 0 <= now - self._ordered_at < self._policy.plan_retry_seconds:
            self._order = []
        self._plans_left = self._policy.preemptions_per_cycle
        self._sifted = -1
        self._placed.clear()
        self._not_before = {j: known for j, known in self._not_before.items() if j in self._queues.jobs}

    def placed(self, job_id: str) -> None:
        """The present cycle has placed the job."""
        self._placed.add(job_id)

    def may_stop_others(self, job: Job) -> bool:
        """Whether lower priority, or what its queue owns, could make room for the job at all."""
        lowest = min(self._preemptible, default=None)
        return (lowest is not None and lowest < job.priority) or self._quotas()

    def count(self, job: Job, sign: int) -> None:
        """A job starts (1) or ends (-1) to hold claims."""
        if job.preemptible:
            self._preemptible[job.priority] += sign
            if not self._preemptible[job.priority]:
                del self._preemptible[job.priority]

    def preempt(self, job: Job, ask: Ask, totals: Totals, now: float) -> tuple[Preemption | Resize, ...] | None:
        """Stops who must be stopped, and keeps the place for the job. (): all that it needs is on its way
        already. None: nothing can be freed for it."""
        if job.job_id in self._bookings.nominations:
            return ()
        until, tried = self._not_before.get(job.job_id, (float("-inf"), job))
        if self._plans_left <= 0 or (now < until and tried == job):
            return None
        plan = self._plan(job, ask, totals, now)
        if plan is None:
            self._not_before[job.job_id] = now + self._policy.plan_retry_seconds, job
            return None
        stopped = tuple(_preemption(victim, job, now) for victim in plan.victims if victim.whole)
        ids = {one.job_id for one in stopped}
        on_their_way = self._on_their_way().items()
        gone = [key for key, claim in on_their_way if claim.job.job_id not in ids and _overlap(claim, plan)]
        parts = [victim for victim in plan.victims if not victim.whole]
        leaving = {part_key(v.job_id, m.member): part_of(v.claim, (m,)) for v in parts for m in v.claim.members}
        self._bookings.nominate(job, ask, plan.members, (*(one.job_id for one in stopped), *leaving, *gone), now)
        self._ending.update(ids)
        self._leaving.update(leaving)
        return (*stopped, *self._shrunk(parts, job, now))

    def _on_their_way(self) -> dict[str, Claim]:
        """By key, what is being stopped or given up: jobs, and members of gangs that run on."""
        found = {job_id: self._claims[job_id] for job_id in sorted(self._ending)}
        for key in sorted(self._leaving):
            if self._leaving[key].job.job_id not in found:
                found[key] = self._leaving[key]
        return found

    def _shrunk(self, parts: list[Victim], job: Job, now: float) -> tuple[Resize, ...]:
        """One for each gang."""
        by_gang: dict[str, list[Victim]] = {}
        for part in parts:
            by_gang.setdefault(part.job_id, []).append(part)
        return tuple(
            _resize(self._claims[job_id], of_gang, staying(self._claims[job_id], self._leaving), job, now)
            for job_id, of_gang in sorted(by_gang.items())
        )

    def _plan(self, job: Job, ask: Ask, totals: Totals, now: float) -> Plan | None:
        """By priority alone if that does, else with reclaim too."""
        lowest = min(self._preemptible, default=None)
        nothing_leaves = not self._ending and not self._leaving
        if nothing_leaves and (lowest is None or lowest > job.priority) and not self._quotas():
            return None
        if ask.shape.needs_devices and not bool((ask.allowed & ask.in_time).any()):
            return None  # a quota or the deadline leaves no accelerator
        self._plans_left -= 1
        by_priority = not nothing_leaves or (lowest is not None and lowest < job.priority)
        entitlement = None if by_priority else self._entitlement(job, ask, totals)
        if entitlement is not None and not entitlement:
            return None  # it may stop nobody: nobody is put in order for it
        for victims in self._in_turn(now):
            if by_priority:
                lower = [v for v in victims if v.claim.job.priority < job.priority and v.claim.job.preemptible]
                if (plan := self._find(job, ask, now, lower, _anyone, {})) is not None:
                    return plan
            if entitlement is None:
                entitlement = self._entitlement(job, ask, totals)
            if entitlement:
                owned = replace(ask, in_time=ask.in_time & np.logical_or.reduce(list(entitlement.values())))
                candidates, allow = self._reclaim(job, victims, entitlement, totals)
                if (plan := self._find(job, owned, now, candidates, allow, entitlement)) is not None:
                    return plan
        return None

    def _in_turn(self, now: float) -> Iterator[list[Victim]]:
        """Whom the rights are tried on: what gangs can do without, then all; all at once where there is no such."""
        spared = self.spared(now) if self._policy.resize_gangs else []
        if spared:
            yield spared
        yield [*spared, *self.by_harm(now)] if spared else self.by_harm(now)

    def _quotas(self) -> bool:
        return any(queue.quotas for queue in self._queues.known.values())

    def _find(
        self,
        job: Job,
        ask: Ask,
        now: float,
        candidates: list[Victim],
        allow: Allow,
        entitlement: Mapping[str, Bools],
    ) -> Plan | None:
        if not candidates and not self._ending and not self._leaving:
            return None
        with self._bookings.without(self._bookings.yielding_to(job)), self._bookings.in_full():
            return find_plan(
                self._fleet,
                self._tables,
                self._reserver,
                self._policy,
                job=job,
                ask=ask,
                now=now,
                candidates=candidates,
                ending=self._on_their_way(),
                allow=allow,
                accept=lambda plan: self._accepted(job, plan, entitlement),
            )

    def by_harm(self, now: float) -> list[Victim]:
        """All running jobs that nothing protects, the least harm first; put in order once in a while only."""
        if not self._order:
            self._ordered_at = now
            victims = (Victim(claim, work_lost(claim, now), PreemptionKind.PRIORITY) for claim in self._claims.values())
            self._order = sorted(victims, key=lambda victim: victim.harm)
        leaving = len(self._ending) + len(self._leaving)
        if self._sifted != leaving:
            self._sifted = leaving
            self._candidates = [
                victim
                for victim in self._order
                if victim.claim.stoppable
                and victim.job_id not in self._ending
                and victim.job_id not in self._placed
                and self._claims.get(victim.job_id) is victim.claim
                and not self.is_protected(victim.claim, now)
            ]
            self._surplus = self._parts(now) if self._policy.resize_gangs else []
        return self._candidates

    def spared(self, now: float) -> list[Victim]:
        """What running gangs can do without, of those that nothing protects, the least harm first."""
        self.by_harm(now)
        return self._surplus

    def _parts(self, now: float) -> list[Victim]:
        found = []
        for victim in self._candidates:
            for members in surplus(victim.claim, self._leaving):
                part = part_of(victim.claim, members)
                found.append(Victim(part, work_lost(part, now), victim.kind, victim.claim))
        return sorted(found, key=lambda part: part.harm)

    def is_protected(self, claim: Claim, now: float) -> bool:
        """Whether it has not run for as long as the policy or its queue promise."""
        if claim.started_at is None:
            return False
        queue = self._queues.known.get(claim.job.queue)
        seconds = max(self._policy.protected_seconds, queue.protected_seconds if queue else 0.0)
        return now - claim.started_at < seconds

    # -- reclaim ---------------------------------------------------------------------------------

    def _entitlement(self, job: Job, ask: Ask, totals: Totals) -> dict[str, Bools]:
        """By queue that holds something, the models of which the job's queue owns what it asks, as far as that
        queue is concerned; without those of which it owns nothing. What is on its way to others of the queue
        counts as theirs."""
        models = self._fleet.models
        top = self._queues.path(job.queue)[0]
        pending: Milli = {}
        for booking in self._bookings.nominations.values():
            if booking.job.job_id != job.job_id and self._queues.path(booking.job.queue)[0] == top:
                add_milli(self._fleet, pending, booking.members)
        wanted = []
        for m in np.flatnonzero(ask.in_time & ask.allowed).tolist():
            asked = least_milli(job, models, m) if models.counts[m] > 0 else 0
            if asked > 0:
                wanted.append((m, pending | {m: pending.get(m, 0) + asked}))
        found = {}
        for queue in sorted({claim.job.queue for claim in self._claims.values()} - {job.queue}):
            mine = np.zeros_like(ask.in_time)
            for m, milli in wanted:
                mine[m] = entitled(self._queues, totals, job.queue, milli, against=queue)
            if bool(mine.any()):
                found[queue] = mine
        return found

    def _accepted(self, job: Job, plan: Plan, entitlement: Mapping[str, Bools]) -> bool:
        """Whether each reclaim is of what the queue is entitled to, and its quotas hold the job afterwards."""
        models = {
            model
            for member in plan.members
            for claim in member.devices
            if (model := model_at(self._fleet, member.node, claim.device_id)) is not None
        }
        reclaimed = (v.claim.job.queue for v in plan.victims if v.kind is PreemptionKind.RECLAIM)
        if not all(entitlement[queue][m] for queue in reclaimed for m in models):
            return False
        if not self._queues.quotas.limits(job.queue):
            return True
        gone = [*(victim.claim for victim in plan.victims), *self._on_their_way().values()]
        for claim in gone:
            self._charge(claim, -1)
        may = self._queues.quotas.mask(job)
        for claim in gone:
            self._charge(claim, 1)
        return may is None or all(may[m] for m in models)

    def _reclaim(
        self, job: Job, victims: list[Victim], entitlement: Mapping[str, Bools], totals: Totals
    ) -> tuple[list[Victim], Allow]:
        """Candidates, with those of lower priority among them, and the rule by which they add up."""
        leaving: dict[str, Milli] = {}
        for claim in self._on_their_way().values():
            add_milli(self._fleet, leaving.setdefault(self._queues.path(claim.job.queue)[0], {}), claim.members)

        def allow(victim: Victim, chosen: list[Victim]) -> bool:
            if victim.kind is PreemptionKind.PRIORITY:
                return True
            other = victim.claim.job
            top = self._queues.path(other.queue)[0]
            freed = dict(leaving.get(top, {}))
            for one in disjoint((*chosen, victim)):
                if self._queues.path(one.claim.job.queue)[0] == top:
                    add_milli(self._fleet, freed, one.claim.members)
            return may_take_from(
                self._queues,
                totals,
                other.queue,
                job.queue,
                freed,
                victim_priority=other.priority,
                for_priority=job.priority,
            )

        candidates = []
        known: dict[tuple[str, int, tuple[tuple[int, int], ...]], bool] = {}
        for victim in victims:
            other = victim.claim.job
            if other.preemptible and other.priority < job.priority:
                candidates.append(victim)
            elif (
                other.queue in entitlement
                and other.priority <= job.priority
                and (other.preemptible or self._has_quota(other.queue))
            ):
                reclaimed = replace(victim, kind=PreemptionKind.RECLAIM)
                frees: Milli = {}
                add_milli(self._fleet, frees, victim.claim.members)
                key = other.queue, other.priority, tuple(sorted(frees.items()))
                if key not in known:
                    known[key] = allow(reclaimed, [])
                if known[key]:
                    candidates.append(reclaimed)
        return candidates, allow

    def _has_quota(self, queue: str) -> bool:
        known = self._queues.known
        return any(known[at].quotas for at in self._queues.path(queue) if at in known)


def _anyone(victim: Victim, chosen: list[Victim]) -> bool:
    return True


def _overlap(claim: Claim, plan: Plan) -> bool:
    nodes = {member.node for member in plan.members}
    return any(member.node in nodes for member in claim.members)


def _resize(claim: Claim, parts: list[Victim], left: tuple[Member, ...], job: Job, now: float) -> Resize:
    removed = sorted((member for part in parts for member in part.claim.members), key=lambda member: member.member)
    why = _preemption(parts[0], job, now).message
    return Resize(
        job_id=claim.job.job_id,
        attempt=claim.job.attempt,
        size=len(left),
        wished=wished_of(claim.job),
        removed=tuple(removed),
        for_job_id=job.job_id,
        kind=parts[0].kind,
        work_lost_seconds=sum(work_lost(part.claim, now) for part in parts),
        message=f"runs on with {len(left)} of {wished_of(claim.job)} members: {why}",
    )


def _preemption(victim: Victim, job: Job, now: float) -> Preemption:
    name = job.name or job.job_id
    if victim.kind is PreemptionKind.RECLAIM:
        message = f"queue {job.queue!r} takes back for {name} what {victim.claim.job.queue!r} holds beyond its own"
    else:
        message = f"makes room for {name} of priority {job.priority}, its own is {victim.claim.job.priority}"
    lost = work_lost(victim.claim, now)
    return Preemption(victim.job_id, victim.claim.job.attempt, job.job_id, victim.kind, lost, message)
