"""A few moves that make a waiting job fit: running jobs that would fit elsewhere, now.

A plan takes at most `Policy.defragment_moves` running jobs out, the least harm first (or, where that finds
none, the largest first, which needs the fewest), places the waiting job, then each of them again beside it;
it holds only if all of them find a place. It is proposed as advice. Where the policy says "act" and all of
them are preemptible and of no higher priority they are stopped, with a place kept for the waiting job and
for each of them.
A job is looked at once it has waited `defragment_after_seconds`, at most once in that time, and no two within a
tenth of it.
"""

from collections.abc import Mapping
from dataclasses import replace

from placement_engine.domain.asks import with_deadline
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Advice, AdviceKind, Claim, Job, Member, Move, Preemption, PreemptionKind
from placement_engine.domain.policy import DefragmentPolicy, Policy
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask, shape_of
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.tables import Tables
from placement_engine.domain.victims import Plan, Victim, find_plan

PACE = 0.1
"""Jobs are looked at this part of `defragment_after_seconds` apart."""

Places = tuple[tuple[Victim, tuple[Member, ...]], ...]
"""Running jobs with where they would sit."""


class Defragmenter:
    """Plans moves for one engine. `claims` and `ending` are the engine's own."""

    def __init__(
        self,
        fleet: Fleet,
        tables: Tables,
        reserver: Reserver,
        bookings: Bookings,
        policy: Policy,
        *,
        claims: Mapping[str, Claim],
        ending: set[str],
    ) -> None:
        self._fleet = fleet
        self._tables = tables
        self._reserver = reserver
        self._bookings = bookings
        self._policy = policy
        self._claims = claims
        self._ending = ending
        self._looked_at: dict[str, float] = {}
        self._next = float("-inf")

    def begin(self, waiting: Mapping[str, Job]) -> None:
        """A cycle begins."""
        self._looked_at = {job_id: at for job_id, at in self._looked_at.items() if job_id in waiting}

    def propose(
        self, job: Job, ask: Ask, running: list[Victim], now: float
    ) -> tuple[Advice, tuple[Preemption, ...]] | None:
        """Moves of `running` (in order of harm) that make the job fit, and who is stopped for them now."""
        self._next = now + PACE * self._policy.defragment_after_seconds
        self._looked_at[job.job_id] = now
        willing = [v for v in running if v.claim.job.preemptible and v.claim.job.priority <= job.priority]
        acts = self._policy.defragment is DefragmentPolicy.ACT
        found = self._plan(job, ask, willing, now) if acts else None
        if found is None:
            acts = False
            found = self._plan(job, ask, running, now)
        if found is None:
            return None
        plan, places = found
        if acts:
            self._act(job, ask, plan, places, now)
        stopped = tuple(_preemption(victim, job) for victim in plan.victims) if acts else ()
        return _advice(job, plan, places, acts), stopped

    def may_look(self, job: Job, now: float) -> bool:
        """Whether it is time to look for moves for this job."""
        pause = self._policy.defragment_after_seconds
        since = self._looked_at.get(job.job_id, float("-inf"))
        if self._policy.defragment is DefragmentPolicy.OFF or now < self._next:
            return False
        return now - job.submitted_at >= pause and now - since >= pause

    def _plan(self, job: Job, ask: Ask, running: list[Victim], now: float) -> tuple[Plan, Places] | None:
        found: dict[tuple[str, ...], Places] = {}

        def accept(plan: Plan) -> bool:
            places = self._places(job, plan, now)
            if places is not None:
                found[tuple(victim.job_id for victim in plan.victims)] = places
            return places is not None

        largest = sorted(running, key=lambda victim: (-_milli(victim.claim), victim.harm))
        with self._bookings.in_full():
            for candidates in (running, largest):
                plan = find_plan(
                    self._fleet,
                    self._tables,
                    self._reserver,
                    self._policy,
                    job=job,
                    ask=ask,
                    now=now,
                    candidates=candidates,
                    ending={},
                    allow=lambda _, chosen: len(chosen) < self._policy.defragment_moves,
                    accept=accept,
                )
                if plan is not None and plan.victims:
                    return plan, found[tuple(victim.job_id for victim in plan.victims)]
        return None

    def _places(self, job: Job, plan: Plan, now: float) -> Places | None:
        """Where the victims go once the job is placed; None: not all of them have a place."""
        places: list[tuple[Victim, tuple[Member, ...]]] = []
        with Supposition(self._fleet, self._tables, self._reserver) as suppose:
            for victim in plan.victims:
                suppose.end(victim.claim)
            suppose.hold(job.job_id, plan.members)
            for victim in sorted(plan.victims, key=lambda v: (-_milli(v.claim), v.job_id)):
                ask = self._ask(victim.claim.job, now)
                members = suppose.placement(victim.claim.job, ask, now)
                if members is None:
                    return None
                suppose.hold(victim.job_id, members)
                places.append((victim, members))
        return tuple(sorted(places, key=lambda place: place[0].harm))

    def _ask(self, job: Job, now: float) -> Ask:
        return with_deadline(self._fleet, self._tables.get(shape_of(job)).ask, job, now)

    def _act(self, job: Job, ask: Ask, plan: Plan, places: Places, now: float) -> None:
        after = tuple(victim.job_id for victim in plan.victims)
        self._ending.update(after)
        for victim, members in places:
            moved = replace(victim.claim.job, attempt=victim.claim.job.attempt + 1)
            self._bookings.nominate(moved, self._ask(moved, now), members, (), now)
        self._bookings.nominate(job, ask, plan.members, after, now)


def _milli(claim: Claim) -> int:
    return sum(device.milli for member in claim.members for device in member.devices)


def _nodes(members: tuple[Member, ...]) -> tuple[str, ...]:
    return tuple(member.node for member in members)


def _preemption(victim: Victim, job: Job) -> Preemption:
    return Preemption(
        job_id=victim.job_id,
        attempt=victim.claim.job.attempt,
        for_job_id=job.job_id,
        kind=PreemptionKind.DEFRAGMENT,
        work_lost_seconds=victim.lost,
        message=f"moves, so that {job.name or job.job_id} fits; its new place is kept",
    )


def _advice(job: Job, plan: Plan, places: Places, acts: bool) -> Advice:
    names = ", ".join(victim.job_id for victim in plan.victims)
    where = ", ".join(sorted(set(_nodes(plan.members)))[:3])
    verb = "moves" if acts else "moving"
    message = (
        f"{verb} {names} to other nodes {'makes' if acts else 'would make'} job {job.name or job.job_id} fit on {where}"
    )
    return Advice(
        kind=AdviceKind.DEFRAGMENT,
        subject=job.job_id,
        message=message,
        moves=tuple(Move(v.job_id, _nodes(v.claim.members), _nodes(members)) for v, members in places),
        numbers={"moves": float(len(places)), "work_lost_seconds": sum(victim.lost for victim in plan.victims)},
    )
