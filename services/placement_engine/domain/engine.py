"""The placement core: events in, decisions out.

No I/O, no clock, no randomness: the same events give the same decisions. Time is handed in, in
seconds since the epoch. An engine plans one pool; nodes and jobs of other pools are ignored.
`cycle` is where placing happens, in numbered steps.
"""

from placement_engine.domain.answers import Answers
from placement_engine.domain.asks import with_deadline
from placement_engine.domain.gang_reasons import not_together
from placement_engine.domain.intake import Why
from placement_engine.domain.model import Advice, Claim, CycleResult, Decision, Job, Preemption, Rejection, Resize
from placement_engine.domain.queues import Group
from placement_engine.domain.reserve import Reservation
from placement_engine.domain.shapes import Ask, gang_of
from placement_engine.domain.tables import Table

Stops = tuple[Preemption | Resize, ...]


class Engine(Answers):
    """Fleet, queues and claims of one pool, and the cycle that places jobs."""

    def cycle(self, now: float, limit: int | None = None) -> CycleResult:
        """Places waiting jobs, at most `limit` (or the policy's) decisions. Claims are taken at once.

        `rejections` holds jobs whose reasons are new or whose reason codes changed; `explain` tells
        the present reasons of any waiting job.
        """
        limit = self._policy.max_jobs_per_cycle if limit is None else limit
        decisions: list[Decision] = []
        rejections: list[Rejection] = []
        stops: list[Preemption | Resize] = []
        considered = 0
        # 1. Drain: facts were applied as they came; what time alone changes is applied here.
        self._fleet.age(now)
        self._queues.wake(now)
        self._queues.advance(now, self._totals)
        self._hosting.review()
        advice = list(self._adviser.advise(self._claims, now))
        self._preemptor.begin(now)
        self._defragmenter.begin(self._queues.jobs)
        with self._bookings.cycle(self._queues.jobs, now):
            # 2. Order the queue: whose turn it is, where a round ends; priority, weighted fair share, submit time, id.
            stops += self._rounds.plan(self._totals, now)
            turn = self._queues.turn(self._totals)
            while len(decisions) < limit and (head := turn.next()) is not None:
                job, group = head
                considered += 1
                why = self._gate(job, now)
                if why is None:
                    # 3. Filter and 4. score, on the rows that changed since this shape was last asked for.
                    table = self._tables.get(self._sized(job, group.likeness.shape, now))
                    ask = self._ask(table, job, now)
                    # 5. Reserve: a gang whole or not at all, beside what is kept for others.
                    found, waits = None, self._rounds.waits_for_its_place(job.job_id)
                    if not waits:
                        found = self._bookings.place(job, self._rounds.narrowed(job, ask), table, now)
                    missed = found is None and self._rounds.missed(place[2] for place in group.order)
                    if missed and not waits and self._preemptor.may_stop_others(job):
                        missed, found = False, self._bookings.place(job, ask, table, now)
                    if found is not None:
                        # 6. Commit: the job leaves the queue and its queue is charged.
                        decisions.append(self._commit(job, ask, *found, now))
                        turn.fits(group)
                        continue
                    # 7. Or make room: who is stopped leaves a place that is kept for the job until they are gone.
                    stopped = None if missed else self._make_room(job, table, now, advice)
                    why = self._blocked(job, group, ask, now)
                    if stopped is not None:
                        stops.extend(stopped)
                        rejections.extend(self._tell_one(group, job, why, now, bool(stopped)))
                        turn.fits(group)
                        continue
                else:
                    self._bookings.drop(job.job_id)  # what may not start keeps no place
                # Backfill: jobs alike are passed over, others behind them may fit.
                rejections.extend(self._tell(group, why, now))
                turn.skip(group)
            # 8. Grow: what nobody who waits could use goes to gangs that run with fewer members than they wish for.
            resizes = (*(one for one in stops if isinstance(one, Resize)), *self._resizer.grow(now, self._totals))
            self._rounds.finish()
        # 9. Publish.
        preemptions = tuple(one for one in stops if isinstance(one, Preemption))
        return CycleResult(tuple(decisions), tuple(rejections), considered, preemptions, tuple(advice), resizes)

    def _make_room(self, job: Job, table: Table, now: float, advice: list[Advice]) -> Stops | None:
        """Who is stopped for a job that does not fit, by preemption or else by moves; None: no place is kept."""
        # Without its queue's quotas: who is stopped may free what the queue is short of.
        ask = self._rounds.narrowed(job, with_deadline(self._fleet, table.ask, job, now))
        stopped: Stops | None = self._preemptor.preempt(job, ask, self._totals, now)
        if stopped is None and self._defragmenter.may_look(job, now) and not self._over_quota(job, ask):
            moves = self._defragmenter.propose(job, ask, self._preemptor.by_harm(now), now)
            if moves is not None:
                advice.append(moves[0])
                stopped = moves[1] or None
        return stopped

    def _blocked(self, job: Job, group: Group, ask: Ask, now: float) -> Why:
        """Keeps a start for a job that does not fit, where it is its turn; and says why it waits."""
        quota = self._over_quota(job, ask)
        if quota is not None:
            return quota
        with self._bookings.without((job.job_id,)):
            held, how = self._bookings.held_back(job, ask, now)
            reasons, remedies = self._reasons(job, ask, now)
        if self._bookings.reserve(job, ask, now):
            group.untold.add(job.job_id)
        return held + reasons, how + remedies

    def _commit(self, job: Job, ask: Ask, table: Table, reservation: Reservation, now: float) -> Decision:
        self._queues.discard(job.job_id)
        claim = Claim(job, reservation.members, placed_at=now)
        self._claims[job.job_id] = claim
        self._ends.put(claim)
        self._bookings.placed(job, claim.members)
        self._preemptor.placed(job.job_id)
        self._rounds.placed(job.job_id)
        self._charge(claim, 1)
        return self._decision(job, ask, table, reservation)

    def _reasons(self, job: Job, ask: Ask, now: float) -> Why:
        """Reasons over the whole fleet, at most so old as the policy says."""
        key = (gang_of(job), ask.in_time.tobytes())
        known = self._why.get(ask.shape)
        if known is not None and known[1] == key and 0 <= now - known[0] < self._policy.reasons_max_age_seconds:
            return known[2]
        why = self._explainer.reasons(job, ask)
        if not why[0]:
            why = (not_together(job),), ()
        if len(self._why) > 1024:
            self._why.clear()
        self._why[ask.shape] = (now, key, why)
        return why

    def _tell(self, group: Group, why: Why, now: float) -> list[Rejection]:
        """Rejections for those of the group who have not heard these reasons yet."""
        codes = tuple(sorted(reason.code for reason in why[0]))
        ids = [place[2] for place in group.order] if codes != group.told else sorted(group.untold)
        group.told = codes
        group.untold.clear()
        return [self._rejection(self._queues.jobs[job_id], why, now) for job_id in ids]

    def _tell_one(self, group: Group, job: Job, why: Why, now: float, news: bool) -> list[Rejection]:
        """The rejection of a job whose place is kept, where there is news of it."""
        if not news and job.job_id not in group.untold:
            return []
        group.untold.discard(job.job_id)
        return [self._rejection(job, why, now)]
