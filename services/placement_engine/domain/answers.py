"""What an engine answers between its cycles: where a job would go, why it waits, what there is. Changes nothing.

What a question and the cycle have in common stands here too: what keeps a job from being placed whatever the
fleet, what it asks for, and how a decision or a rejection is told.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from placement_engine.domain import verdicts, views
from placement_engine.domain.asks import with_deadline
from placement_engine.domain.device_counts import best_shape
from placement_engine.domain.explaining import backing_off, deadline_passed, holds_claims, limit_reason
from placement_engine.domain.forecast import Start
from placement_engine.domain.gang_reasons import not_together
from placement_engine.domain.gangs import as_placed, sizes
from placement_engine.domain.intake import Intake, Why
from placement_engine.domain.model import Claim, Decision, Job, Member, Rejection, ScoreTerm
from placement_engine.domain.prospects import Prospects
from placement_engine.domain.quota_accounts import quota_exceeded
from placement_engine.domain.quotas import within_quota
from placement_engine.domain.readouts import DeviceVerdicts, GangSize, MatchingCapacity, NodeView, QueueUsage
from placement_engine.domain.reserve import Reservation
from placement_engine.domain.scores.objective import cautions
from placement_engine.domain.shapes import Ask, Shape, lead_job, least_milli, shape_of
from placement_engine.domain.situation import Situation, situation_of
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.survey import Survey, kept_for_others, same_everywhere
from placement_engine.domain.tables import Table


class Answers(Intake):
    """Questions about the fleet, the queues and the claims of one pool."""

    # -- what a job may have, and how it is told -------------------------------------------------

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

    def _ask_for_room(self, job: Job, now: float) -> Ask:
        """What a waiting job asks for now, at the best size for it."""
        return self._ask(self._tables.get(self._sized(job, shape_of(job), now)), job, now)

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

    def _over_quota(self, job: Job, ask: Ask) -> Why | None:
        return quota_exceeded(self._queues, self._totals, job, ask)

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

    # -- questions -------------------------------------------------------------------------------

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
            blocked=lambda job, at: job.not_before > at or self._gate(job, at) is not None,
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

    def gang_size(self, job_id: str, now: float) -> GangSize | None:
        """How many of its wished members an elastic gang that runs has, and why not more; None: it is none."""
        if job_id not in self._claims:
            return None
        self._fleet.age(now)
        with self._bookings.as_of_last_cycle(""):
            return self._resizer.size(job_id, now, self._totals)

    def grows_with_time(self, now: float) -> bool:
        """Whether a gang that runs may get more members for no other reason than that time passes."""
        return self._resizer.waits_for_time(now)

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
        return views.digest(
            self._fleet, self._queues, self._claims, (*kept, *sorted(self._ending), *sorted(self._leaving))
        )
