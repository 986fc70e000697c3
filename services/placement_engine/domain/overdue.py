"""Room for those that have waited too long and that no round could place: none starves.

Jobs that take no turns are in no plan of a round, and some that do are in none that fits. Once such a job has waited
for `PATIENCE_SECONDS` it takes the place of those that take turns, at a round's end, the least harm first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from placement_engine.domain.attained import takes_turns
from placement_engine.domain.entitlement import keeps_its_quotas
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.held import Milli, add_milli, model_at
from placement_engine.domain.model import Claim, Job, Preemption, PreemptionKind
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import Queues
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.round_changes import stop_for
from placement_engine.domain.shapes import Ask
from placement_engine.domain.tables import Tables
from placement_engine.domain.victims import Victim, find_plan, work_lost

__all__ = ["PATIENCE_SECONDS", "Overdue", "Room"]

PATIENCE_SECONDS = 6 * 3600.0
"""A job that has waited so long goes first, the longest-waiting before the others."""
OVERDUE_A_ROUND = 8
"""Most jobs for which room is made at the end of one round."""
TRIED_A_ROUND = 2 * OVERDUE_A_ROUND
"""Most for which that is tried: one try is a search over all that run."""


@dataclass(frozen=True, slots=True)
class Room:
    """`kinds`: the models of the places that are kept for jobs that take turns, by job."""

    stopped: tuple[Preemption, ...]
    kinds: Mapping[str, int]


class Overdue:
    """Of one engine. `claims` and `ending` are the engine's own; `ask_of` and `barred` say what a waiting job asks for
    now and whether something keeps it whatever the fleet."""

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
        ask_of: Callable[[Job, float], Ask],
        barred: Callable[[Job, float], bool],
    ) -> None:
        self._fleet, self._tables, self._reserver = fleet, tables, reserver
        self._bookings, self._queues, self._policy = bookings, queues, policy
        self._claims, self._ending = claims, ending
        self._ask_of, self._barred = ask_of, barred
        self.left_out: set[str] = set()
        """Jobs that take turns, are overdue, and found no place in the last plan."""
        self._waits_since: dict[str, float] = {}
        """Jobs that take no turns and have held something: since when they do not. For those that come back."""
        self._tries = 0
        self._tried: dict[str, int] = {}
        """Which try was the last to make room for a job, in vain: the others are tried before it is again."""

    def released(self, job_id: str, at: float) -> None:
        """A job that takes no turns holds nothing since `at`."""
        self._waits_since[job_id] = at

    def make_room(self, running: list[Claim], turns: Mapping[str, float], now: float) -> Room:
        """Who is stopped for whom. `running`: those that may be; `turns`: seconds that those have waited that take
        turns. Nobody goes before one of these that has waited longer and may yet be placed."""
        # One that is not back by the next round is not expected any more.
        self._waits_since = {
            job_id: since
            for job_id, since in self._waits_since.items()
            if job_id in self._queues.jobs or job_id in self._claims or now - since <= self._policy.round_seconds
        }
        longest = max((seconds for one, seconds in turns.items() if one not in self.left_out), default=0.0)
        late = {
            job_id: job
            for job_id, job in self._queues.jobs.items()
            if self._waited(job, turns, now) >= max(PATIENCE_SECONDS, longest)
            and (job_id in self.left_out or not takes_turns(job))
            and job_id not in self._bookings.nominations
            and job_id not in self._claims
            and not self._barred(job, now)
        }
        self._tried = {job_id: turn for job_id, turn in self._tried.items() if job_id in late}
        longest_first = {one: (-self._waited(job, turns, now), one) for one, job in late.items()}
        order = sorted(late, key=longest_first.__getitem__)
        # Whoever was tried in vain lets all others be tried before it is again.
        order.sort(key=lambda one: self._tried.get(one, 0))
        stopped: list[Preemption] = []
        kinds: dict[str, int] = {}
        helped = 0
        for job_id in sorted(order[:TRIED_A_ROUND], key=longest_first.__getitem__):
            if helped == OVERDUE_A_ROUND:
                break
            self._tries += 1
            self._tried[job_id] = self._tries
            made = self._make_room_for(late[job_id], running, kinds, now)
            helped += bool(made)
            stopped += made
        return Room(tuple(stopped), kinds)

    def _waited(self, job: Job, turns: Mapping[str, float], now: float) -> float:
        """Seconds since a job that waits came or last held something."""
        if job.job_id in turns:
            return turns[job.job_id]
        return now - max(job.submitted_at, self._waits_since.get(job.job_id, job.submitted_at))

    def _make_room_for(self, job: Job, running: list[Claim], kinds: dict[str, int], now: float) -> list[Preemption]:
        """Those that are stopped, none where nothing helps; the place is kept, its model in `kinds`."""
        candidates = [
            Victim(claim, work_lost(claim, now), PreemptionKind.ROUND)
            for claim in running
            if claim.job.priority <= job.priority and claim.job.job_id not in self._ending
        ]
        ask = self._ask_of(job, now)
        with self._bookings.without(self._bookings.yielding_to(job)), self._bookings.in_full():
            plan = find_plan(
                self._fleet,
                self._tables,
                self._reserver,
                self._policy,
                job=job,
                ask=ask,
                now=now,
                candidates=sorted(candidates, key=lambda victim: victim.harm),
                ending={},
                allow=lambda victim, chosen: self._may_go(victim, chosen, job),
            )
        if plan is None or not plan.victims:
            return []
        victims = tuple(victim.job_id for victim in plan.victims)
        self._ending.update(victims)
        if takes_turns(job) and (devices := plan.members[0].devices):
            model = model_at(self._fleet, plan.members[0].node, devices[0].device_id)
            if model is not None:
                kinds[job.job_id] = model
        self._bookings.nominate(job, ask, plan.members, victims, now)
        return [stop_for(victim.claim, job, "", now) for victim in plan.victims]

    def _may_go(self, victim: Victim, chosen: list[Victim], job: Job) -> bool:
        """Whether the victim's queue keeps what it has a quota of: it would take that back at once."""
        queue = victim.claim.job.queue
        if queue == job.queue:
            return True
        top = self._queues.path(queue)[0]
        on_their_way = (self._claims[job_id] for job_id in self._ending if job_id in self._claims)
        freed: Milli = {}
        for claim in (*on_their_way, *(one.claim for one in chosen), victim.claim):
            if self._queues.path(claim.job.queue)[0] == top:
                add_milli(self._fleet, freed, claim.members)
        return keeps_its_quotas(self._queues, queue, job.queue, freed)
