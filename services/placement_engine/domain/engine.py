"""The placement core: events in, decisions out.

No I/O, no clock, no randomness: the same events give the same decisions. Time is handed in, in
seconds since the epoch. An engine plans one pool; nodes and jobs of other pools are ignored.
`cycle` is where placing happens, in numbered steps.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from placement_engine.domain import verdicts, views
from placement_engine.domain.advising import Adviser
from placement_engine.domain.asks import with_deadline
from placement_engine.domain.defragment import Defragmenter
from placement_engine.domain.device_counts import best_shape, held_shape
from placement_engine.domain.elastic import LimitedReserver
from placement_engine.domain.explaining import (
    Explainer,
    backing_off,
    deadline_passed,
    holds_claims,
    limit_reason,
)
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.forecast import Ends, Start
from placement_engine.domain.gang_reasons import not_together
from placement_engine.domain.gangs import Gangs, as_placed, sizes
from placement_engine.domain.hosting import Hosting
from placement_engine.domain.model import (
    WHOLE_DEVICE,
    Accelerator,
    Advice,
    Claim,
    CycleResult,
    Decision,
    Job,
    Member,
    Node,
    NodeSample,
    PowerDomain,
    Preemption,
    Profile,
    Queue,
    Reason,
    Rejection,
    ScoreTerm,
)
from placement_engine.domain.policy import Policy
from placement_engine.domain.preemption import Preemptor
from placement_engine.domain.prospects import Prospects
from placement_engine.domain.queues import Group, PastUse, Queues, Totals
from placement_engine.domain.quota_accounts import quota_exceeded
from placement_engine.domain.quotas import within_quota
from placement_engine.domain.readouts import DeviceVerdicts, MatchingCapacity, NodeView, QueueUsage
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.reserve import Reservation
from placement_engine.domain.rounds import Rounds
from placement_engine.domain.scores.objective import cautions
from placement_engine.domain.shapes import (
    Ask,
    Shape,
    gang_of,
    lead_job,
    least_milli,
    shape_of,
    shapes_of,
)
from placement_engine.domain.sharing import most_milli
from placement_engine.domain.situation import Situation, situation_of
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.survey import Survey, Surveyor, kept_for_others, same_everywhere
from placement_engine.domain.tables import Pipeline, Table, Tables
from placement_engine.domain.topology import Topology

Why = tuple[tuple[Reason, ...], tuple[str, ...]]
"""Reasons and remedies."""


class Engine:
    """Fleet, queues and claims of one pool, and the cycle that places jobs."""

    def __init__(self, policy: Policy = Policy(), pool: str = "default") -> None:  # noqa: B008
        self._policy = policy
        self._pool = pool
        self._fleet = Fleet(policy)
        self._hosting = Hosting(self._fleet, policy)
        self._pipeline = Pipeline(policy, self._hosting)
        self._tables = Tables(self._fleet, policy, self._pipeline)
        topology = Topology(self._fleet)
        gangs = Gangs(self._fleet, policy, self._pipeline, topology, self._table_of)
        self._queues = Queues(self._fleet.models, policy.usage_half_life_seconds)
        self._reserver = LimitedReserver(self._fleet, policy, gangs.reserve, self._queues, self._member_milli)
        self._adviser = Adviser(self._fleet, self._tables, self._reserver)
        self._explainer = Explainer(self._fleet, policy, self._pipeline, topology)
        self._surveyor = Surveyor(self._fleet, self._explainer)
        self._claims: dict[str, Claim] = {}
        self._ending: set[str] = set()
        self._ends = Ends(self._fleet)
        self._bookings = Bookings(
            self._fleet,
            self._tables,
            self._reserver,
            self._ends,
            policy,
            claims=self._claims,
            ending=self._ending,
        )
        self._preemptor = Preemptor(
            self._fleet,
            self._tables,
            self._reserver,
            self._bookings,
            self._queues,
            policy,
            claims=self._claims,
            ending=self._ending,
            charge=self._charge,
        )
        self._defragmenter = Defragmenter(
            self._fleet,
            self._tables,
            self._reserver,
            self._bookings,
            policy,
            claims=self._claims,
            ending=self._ending,
        )
        self._rounds = Rounds(
            self._fleet,
            self._tables,
            self._reserver,
            self._bookings,
            self._queues,
            self._preemptor,
            policy,
            claims=self._claims,
            ending=self._ending,
            charge=self._charge,
            ask_of=self._ask_for_room,
            barred=self._is_barred,
        )
        self._totals = Totals()
        self._why: dict[Shape, tuple[float, tuple[object, ...], Why]] = {}

    def _table_of(self, shape: Shape) -> Table:
        return self._tables.get(shape)

    # -- facts -----------------------------------------------------------------------------------

    def apply_node(self, node: Node) -> None:
        """Adds or replaces a node. A node of another pool is removed here if it was known."""
        self.remove_node(node.name, keep_columns=node.pool == self._pool)
        if node.pool != self._pool:
            return
        self._fleet.apply_node(node)
        self._count_totals(node, 1)

    def remove_node(self, name: str, *, keep_columns: bool = False) -> None:
        """Forgets a node; claims on it stay until released. Unknown names are ignored."""
        facts = self._fleet.nodes.get(name)
        if facts is None:
            return
        self._count_totals(facts.node, -1)
        if not keep_columns:
            self._fleet.remove_node(name)

    def _count_totals(self, node: Node, sign: int) -> None:
        self._totals.devices += sign * 1000 * sum(1 for d in node.devices if d.present)
        self._totals.cpu += sign * node.cpu_milli
        self._totals.memory += sign * node.memory_bytes

    def apply_sample(self, sample: NodeSample) -> None:
        """Takes a node's telemetry; one received before the last is dropped. Unknown nodes: kept for later."""
        self._fleet.apply_sample(sample)

    def set_power_domains(self, domains: Iterable[PowerDomain]) -> None:
        """Replaces the power budgets above the node."""
        self._fleet.set_power_domains(domains)

    def set_queues(self, queues: Iterable[Queue]) -> None:
        """Replaces the tree of queues. ValueError names a queue whose parent is unknown or a loop."""
        self._queues.set_queues(queues)

    def set_profiles(self, profiles: Iterable[Profile]) -> None:
        """Replaces all profiles."""
        self._fleet.models.estimator.set_profiles(profiles)
        self._tables.forget()
        self._queues.reprice()
        self._ends.forget()

    def put_profile(self, profile: Profile) -> None:
        """Adds or replaces the profile of (workload, accelerator, devices)."""
        self._fleet.models.estimator.put_profile(profile)
        self._tables.forget(profile.workload)
        self._queues.reprice()
        self._ends.forget()

    def set_accelerators(self, accelerators: Iterable[Accelerator]) -> None:
        """Replaces the catalogue. To be set before claims are restored: their expected draw is read from it."""
        self._fleet.models.estimator.set_catalogue(accelerators)
        self._fleet.rewrite()
        self._tables.forget()
        self._queues.reprice()
        self._ends.forget()

    # -- jobs ------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Makes a job wait. The same id replaces the waiting one if its attempt is not older. A job
        that holds claims is left alone, unless the attempt is newer: then it waits, but is not placed
        before those claims are released."""
        if job.pool != self._pool:
            return
        waiting, claim = self._queues.jobs.get(job.job_id), self._claims.get(job.job_id)
        if waiting is not None and waiting.attempt > job.attempt:
            return
        if claim is not None and claim.job.attempt >= job.attempt:
            return
        if waiting is None and claim is None and not self._rounds.knows(job.job_id):
            self._hosting.observe(job)
        self._queues.add(job)
        self._rounds.came(job)

    def withdraw(self, job_id: str) -> None:
        """Forgets a waiting job. Claims are left alone; unknown ids are ignored."""
        self._queues.discard(job_id)

    def release(self, job_id: str, now: float | None = None) -> None:
        """Frees what a job holds: it has ended. Unknown ids are ignored. `now`: when it ended, for the past use
        of its queue; None: it is taken to have ended at the last cycle."""
        if (claim := self._claims.get(job_id)) is not None:
            self._rounds.released(claim, now)
        self._free(job_id, ended=True, now=now)

    def _free(self, job_id: str, *, ended: bool, now: float | None = None) -> None:
        claim = self._claims.pop(job_id, None)
        if claim is not None:
            self._fleet.let_go_all(job_id, claim.members, ended=ended)
            self._ends.drop(job_id)
            self._ending.discard(job_id)
            before = self._queues.shares_with(claim.job.queue, self._totals) if now is not None else {}
            self._charge(claim, -1)
            if now is not None:
                self._queues.ended(before, now, self._totals)

    def restore(self, claim: Claim) -> None:
        """Takes a claim from the ledger as truth: also for an unknown node and over capacity. The job
        no longer waits, unless with a newer attempt; a claim that was known for it is replaced."""
        job_id = claim.job.job_id
        waiting = self._queues.jobs.get(job_id)
        if waiting is not None and waiting.attempt <= claim.job.attempt:
            self._queues.discard(job_id)
        if waiting is None and job_id not in self._claims:
            self._hosting.observe(claim.job)
        self._free(job_id, ended=False)
        names = [group.name for group in claim.job.groups] or [""]
        shapes = dict(zip(names, shapes_of(claim.job), strict=True))
        estimator = self._fleet.models.estimator
        for member in claim.members:
            shape = held_shape(shapes.get(member.group) or shape_of(claim.job), member)
            model = member.devices[0].model if member.devices else ""
            estimate = estimator.estimate(shape.workload, model, shape.gang_devices, shape.character)
            part = member.devices[0].milli / WHOLE_DEVICE if member.devices else 0.0
            peak = math.ceil((estimate.peak_watts or 0.0) * part)
            # When it was claimed is not known: the first sample is taken to show it.
            self._fleet.hold(job_id, member, float("-inf"), peak, part)
        self._claims[job_id] = claim
        self._rounds.restored(claim)
        self._ends.put(claim)
        self._charge(claim, 1)

    def started(self, job_id: str, attempt: int, at: float) -> None:
        """The attempt that holds claims runs since `at`. Ignored for any other attempt."""
        claim = self._claims.get(job_id)
        if claim is not None and claim.job.attempt == attempt and claim.started_at != at:
            self._claims[job_id] = replace(claim, started_at=at)
            self._ends.put(self._claims[job_id])

    def ending(self, job_id: str) -> None:
        """The claims of this job are being released: it was told to stop. Ignored if it holds nothing."""
        if job_id in self._claims:
            self._ending.add(job_id)

    def undo_preemption(self, job_id: str, attempt: int) -> None:
        """Takes back a preemption that could not be committed: the job runs on, what was kept in its place
        is not kept. Ignored if that attempt holds nothing."""
        claim = self._claims.get(job_id)
        if claim is not None and claim.job.attempt == attempt and job_id in self._ending:
            self._ending.discard(job_id)
            self._bookings.stays(job_id)

    def undo(self, job_id: str, attempt: int) -> None:
        """Takes back a decision that could not be committed: claims freed, the job waits again.
        Ignored if that attempt holds nothing."""
        claim = self._claims.get(job_id)
        if claim is None or claim.job.attempt != attempt:
            return
        self._free(job_id, ended=False)
        self._bookings.not_placed(job_id)
        if job_id not in self._queues.jobs:
            self._queues.add(claim.job)
        self._rounds.undone(claim.job)

    def _charge(self, claim: Claim, sign: int) -> None:
        self._preemptor.count(claim.job, sign)
        devices: dict[str, int] = {}
        cpu = memory = 0
        for member in claim.members:
            cpu += member.cpu_milli
            memory += member.memory_bytes
            for device in member.devices:
                devices[device.model] = devices.get(device.model, 0) + device.milli
        self._queues.charge(claim.job, devices, cpu, memory, sign)

    def usage_history(self) -> tuple[PastUse, ...]:
        """Past use of every queue: to be kept, and given to `restore_usage` of the next engine."""
        return self._queues.usage_history()

    def restore_usage(self, history: Iterable[PastUse]) -> None:
        """Takes the past use of queues as it was kept. From its time to the next cycle, what is held counts."""
        self._queues.restore_usage(history)

    # -- planning --------------------------------------------------------------------------------

    def cycle(self, now: float, limit: int | None = None) -> CycleResult:
        """Places waiting jobs, at most `limit` (or the policy's) decisions. Claims are taken at once.

        `rejections` holds jobs whose reasons are new or whose reason codes changed; `explain` tells
        the present reasons of any waiting job.
        """
        limit = self._policy.max_jobs_per_cycle if limit is None else limit
        decisions: list[Decision] = []
        rejections: list[Rejection] = []
        preemptions: list[Preemption] = []
        considered = 0
        # 1. Drain: facts were applied as they came; what time alone changes is applied here.
        self._fleet.age(now)
        self._queues.wake(now)
        self._queues.advance(now, self._totals)
        self._hosting.review()
        advice = list(self._adviser.advise(self._claims, now))
        self._preemptor.begin(now)
        self._defragmenter.begin(self._queues.jobs)
        with self._bookings.cycle(self._queues.jobs):
            # 2. Order the queue: whose turn it is, where a round ends; priority, weighted fair share, submit time, id.
            preemptions += self._rounds.plan(self._totals, now)
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
                    found = None
                    if not self._rounds.waits_for_its_place(job.job_id):
                        found = self._bookings.place(job, self._rounds.narrowed(job, ask), table, now)
                    missed = found is None and self._rounds.missed(place[2] for place in group.order)
                    if missed and self._preemptor.may_stop_others(job):
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
                        preemptions.extend(stopped)
                        rejections.extend(self._tell_one(group, job, why, now, bool(stopped)))
                        turn.fits(group)
                        continue
                else:
                    self._bookings.drop(job.job_id)  # what may not start keeps no place
                # Backfill: jobs alike are passed over, others behind them may fit.
                rejections.extend(self._tell(group, why, now))
                turn.skip(group)
            self._rounds.finish()
        # 8. Publish.
        return CycleResult(tuple(decisions), tuple(rejections), considered, tuple(preemptions), tuple(advice))

    def _gate(self, job: Job, now: float) -> Why | None:
        """What keeps a job from being placed, whatever the fleet."""
        why = self._barred(job, now)
        if why is None and (not_its_turn := self._rounds.waits(job, now)) is not None:
            return (not_its_turn,), ()
        return why

    def _barred(self, job: Job, now: float) -> Why | None:
        """The same, but for the rounds."""
        if job.job_id in self._claims:
            return (holds_claims(job),), ()
        if job.deadline is not None and now > job.deadline:
            return (deadline_passed(job, now),), ("submit it again with a later deadline",)
        asked = least_milli(job, self._member_milli)
        queue = self._queues.limit_hit(job.queue, asked) if asked else None
        if queue is None:
            return None
        usage = self._queues.usage.get(queue.name)
        reason, remedy = limit_reason(queue, usage.devices if usage else 0, asked)
        return (reason,), (remedy,)

    def _is_barred(self, job: Job, now: float) -> bool:
        return job.not_before > now or self._barred(job, now) is not None

    def _member_milli(self, job: Job) -> int:
        """Thousandths of devices of a member; of a share or partition the most it may come to, by the model."""
        milli = job.milli_per_member
        if milli or not (job.device_share_bytes or job.partition):
            return milli
        return most_milli(self._tables.get(shape_of(job)).ask)

    def _ask(self, table: Table, job: Job, now: float) -> Ask:
        """What the shape asks for, on accelerators that hold the deadline and on which a quota leaves room."""
        shape = table.ask.shape
        asked = replace(job, devices=shape.whole) if shape.flexible else job
        return within_quota(with_deadline(self._fleet, table.ask, job, now), self._queues.quotas.mask(asked))

    def _sized(self, job: Job, shape: Shape, now: float) -> Shape:
        """The shape, at the best number of devices where the job leaves that open."""
        if not shape.flexible:
            return shape
        with self._bookings.without((job.job_id,)):
            return best_shape(
                job,
                shape,
                now,
                fleet=self._fleet,
                tables=self._tables,
                reserver=self._reserver,
                ask=lambda table: self._ask(table, job, now),
                admitted=lambda larger: self._gate(larger, now) is None,
            )

    def _make_room(self, job: Job, table: Table, now: float, advice: list[Advice]) -> tuple[Preemption, ...] | None:
        """Who is stopped for a job that does not fit, by preemption or else by moves; None: no place is kept."""
        # Without its queue's quotas: who is stopped may free what the queue is short of.
        ask = self._rounds.narrowed(job, with_deadline(self._fleet, table.ask, job, now))
        stopped = self._preemptor.preempt(job, ask, self._totals, now)
        if stopped is None and self._defragmenter.may_look(job, now) and not self._over_quota(job, ask):
            moves = self._defragmenter.propose(job, ask, self._preemptor.by_harm(now), now)
            if moves is not None:
                advice.append(moves[0])
                stopped = moves[1] or None
        return stopped

    def _ask_for_room(self, job: Job, now: float) -> Ask:
        """What a waiting job asks for now, at the best size for it."""
        return self._ask(self._tables.get(self._sized(job, shape_of(job), now)), job, now)

    def _is_blocked(self, job: Job, now: float) -> bool:
        return job.not_before > now or self._gate(job, now) is not None

    def _over_quota(self, job: Job, ask: Ask) -> Why | None:
        return quota_exceeded(self._queues, self._totals, job, ask)

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

    def _decision(self, job: Job, ask: Ask, table: Table, reservation: Reservation) -> Decision:
        fleet, by_row, members = self._fleet, self._fleet.by_row, reservation.members
        taken = {member.node for member in members} if len(members) > 1 else (members[0].node,)
        others = [one for one in reservation.others if by_row[one[0]][0].node.name not in taken]
        others.sort(key=lambda one: -one[1])
        candidates = [
            table.candidate(row, score, by_row[row], self._pipeline, fleet, job)
            for row, score in ((reservation.row, reservation.score), *others)
        ]
        if reservation.tightness is not None:
            chosen, weight = candidates[0], self._policy.weights.topology
            term = ScoreTerm("Topology", reservation.tightness, weight, "1 is one node, one domain")
            score = chosen.score + weight * reservation.tightness
            candidates[0] = replace(chosen, score=score, terms=(*chosen.terms, term))
        model = by_row[reservation.row][1].model
        where = members[0].node
        if len(members) > 1:
            where = f"{len({member.node for member in members})} nodes, first {where}"
        expected = table.expectation(self._fleet, lead_job(job), model)
        if job.replicas > 1 or job.groups:
            expected = as_placed(expected, job, members)
        size = sizes(job, members) if job.replicas > 1 or job.groups else "on "
        best = f"best of {len(self._fleet.nodes)} nodes, score {candidates[0].score:.2f}"
        return Decision(
            job_id=job.job_id,
            attempt=job.attempt,
            members=members,
            candidates=tuple(candidates),
            expectation=expected,
            nodes_considered=len(self._fleet.nodes),
            summary="; ".join(
                (f"placed {size}{where}: {best}", *table.remarks(self._fleet, model), *cautions(ask, model))
            ),
        )

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

    def _rejection(self, job: Job, why: Why, now: float) -> Rejection:
        reasons, remedies = why
        reasons = self._bookings.promise(job.job_id, now) + reasons
        nodes = len(self._fleet.nodes)
        if not nodes:
            summary = f"waits: pool {self._pool!r} has no nodes"
        elif not reasons:
            summary = "would fit now: waits for its turn"
        else:
            # What the job itself did not choose says more.
            first = next((one for one in reasons if one.code != "ACCELERATOR_MISMATCH"), reasons[0])
            share = f" ({first.nodes} of {nodes} nodes)" if first.nodes else ""
            summary = f"waits: {first.message}{share}"
        return Rejection(
            job_id=job.job_id,
            attempt=job.attempt,
            reasons=reasons,
            remedies=remedies,
            nodes_considered=nodes,
            queue_position=self._queues.position(job),
            summary=summary,
        )

    def dry_run(
        self, job: Job, now: float, *, beside: Mapping[str, tuple[Member, ...]] | None = None
    ) -> Decision | Rejection:
        """Where the job would go now, alone, beside what is kept for others. Changes nothing.

        `beside`: members that are supposed to sit where they say as well, by a name for each group of them.
        """
        if beside:
            with Supposition(self._fleet, self._tables, self._reserver) as supposed:
                for name, members in beside.items():
                    supposed.hold(name, members)
                return self.dry_run(job, now)
        self._fleet.age(now)
        why = self._gate(job, now)
        if why is not None:
            return self._rejection(job, why, now)
        with self._bookings.as_of_last_cycle(job.job_id):
            table = self._tables.get(self._sized(job, shape_of(job), now))
            ask = self._ask(table, job, now)
            found = self._bookings.place(job, ask, table, now)
            if found is None:
                held, how = self._bookings.held_back(job, ask, now)
                reasons, remedies = self._over_quota(job, ask) or self._explainer.reasons(job, ask)
                return self._rejection(job, (held + (reasons or (not_together(job),)), how + remedies), now)
            self._fleet.let_go_all(job.job_id, found[1].members)
            return self._decision(job, ask, *found)

    def survey(self, job: Job, nodes: Collection[str], now: float) -> Survey:
        """What each of these nodes says to one member of the job now, beside what is kept for others. Changes
        nothing."""
        self._fleet.age(now)
        why = self._gate(job, now)
        if why is not None:
            return same_everywhere(nodes, why[0][0], curable=False)
        with self._bookings.as_of_last_cycle(job.job_id), self._bookings.without(self._bookings.yielding_to(job)):
            table = self._tables.get(self._sized(job, shape_of(job), now))
            ask = self._ask(table, job, now)
            over = self._over_quota(job, ask)
            if over is not None:
                return same_everywhere(nodes, over[0][0], curable=False)
            found = self._surveyor.survey(table, ask, nodes)
            kept = self._bookings.kept_on(found.refusals)
        if not kept:
            return found
        return kept_for_others(found, self._surveyor.survey(self._tables.get(ask.shape), ask, kept), kept)

    def member_on(self, job: Job, node: str, now: float) -> Member | None:
        """One member of the job on that node, its devices chosen; None: `survey` tells why not. Changes nothing."""
        if not self.survey(job, (node,), now).scores:
            return None
        with self._bookings.as_of_last_cycle(job.job_id), self._bookings.without(self._bookings.yielding_to(job)):
            table = self._tables.get(self._sized(job, shape_of(job), now))
            return self._surveyor.member(table, self._ask(table, job, now), node)

    def explain(self, job_id: str, now: float) -> Rejection | None:
        """Why a waiting job waits, over the whole fleet. None: it is not waiting. A job that would
        fit now has no reasons, and its summary says so."""
        job = self._queues.jobs.get(job_id)
        if job is None:
            return None
        self._fleet.age(now)
        gate = self._gate(job, now)
        if gate is None and job.not_before > now:
            gate = (backing_off(job, now),), ()
        with self._bookings.as_of_last_cycle(job_id):
            table = self._tables.get(self._sized(job, shape_of(job), now))
            ask = self._ask(table, job, now)
            gate = gate or self._over_quota(job, ask)
            if gate is not None:
                ask = with_deadline(self._fleet, table.ask, job, now)  # what the fleet says apart from quotas
            held, how = self._bookings.held_back(job, ask, now)
            reasons, remedies = self._explainer.reasons(job, ask)
        reasons, remedies = held + reasons, how + remedies
        if gate is not None:
            reasons, remedies = gate[0] + reasons, gate[1] + remedies
        elif not reasons and not isinstance(self.dry_run(job, now), Decision):
            reasons = (not_together(job),)
        rejection = self._rejection(job, (reasons, remedies), now)
        if (kept := self._bookings.nominations.get(job_id)) is not None:
            rejection = replace(rejection, nominated=tuple(member.node for member in kept.members))
        booking = self._bookings.reservations.get(job_id)
        booked = Start(booking.at, booking.members, tuple(booking.after)) if booking is not None else None
        return self._prospects().of(rejection, job, ask, now, limits=gate, booked=booked, advice=how)

    def _prospects(self) -> Prospects:
        return Prospects(
            self._fleet,
            self._tables,
            self._reserver,
            self._ends,
            self._queues,
            self._totals,
            self._explainer,
            name_of=lambda job_id: self._claims[job_id].job.name or job_id if job_id in self._claims else job_id,
            dry_run=self.dry_run,
            ask_of=self._ask_for_room,
            blocked=self._is_blocked,
            charge=self._charge,
        )

    # -- read-outs -------------------------------------------------------------------------------

    @property
    def pool(self) -> str:
        return self._pool

    def waiting(self) -> int:
        """Number of waiting jobs."""
        return len(self._queues.jobs)

    def is_waiting(self, job_id: str) -> bool:
        return job_id in self._queues.jobs

    def holds(self, job_id: str) -> Claim | None:
        """What a job holds, or None."""
        return self._claims.get(job_id)

    def node_names(self) -> Sequence[str]:
        """Names of known nodes, sorted."""
        return sorted(self._fleet.nodes)

    def node_view(self, name: str, now: float) -> NodeView | None:
        """A node and its devices, or None if unknown."""
        return views.node_view(self._fleet, self._policy, name, now)

    def queue_usage(self) -> tuple[QueueUsage, ...]:
        """Every known queue, by name; a queue that only jobs name is listed too."""
        return views.queue_usage(self._queues, self._totals)

    def device_verdicts(self) -> DeviceVerdicts:
        """Devices that take no new work for heat or a fault."""
        return verdicts.device_verdicts(self._fleet)

    def matching_capacity(
        self, job: Job, without: Collection[str] = (), *, where_it_may: bool = False
    ) -> MatchingCapacity:
        """What could ever match the job, by model, class, stack and executor, claims not counted. `where_it_may`: by
        its conditions on nodes and their taints too."""
        return views.matching_capacity(self._fleet, job, without, where_it_may=where_it_may)

    def situation(self, now: float) -> Situation:
        """Facts, work and rules as they are, to run forward elsewhere."""
        return situation_of(
            self._fleet, self._queues, self._claims, self._ends, policy=self._policy, pool=self._pool, now=now
        )

    def state_digest(self) -> bytes:
        """A hash of all facts and columns, free of caches and of the order of arrival."""
        kept = [repr(self._bookings.nominations[job_id]) for job_id in sorted(self._bookings.nominations)]
        return views.digest(self._fleet, self._queues, self._claims, (*kept, *sorted(self._ending)))
