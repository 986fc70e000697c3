"""What an engine is told: facts of the fleet, its rules and profiles, and the jobs that come and go.

Events are taken as they come, in any order; what they mean for scores is found when somebody asks.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

from placement_engine.domain.advising import Adviser
from placement_engine.domain.defragment import Defragmenter
from placement_engine.domain.device_counts import held_shape
from placement_engine.domain.elastic import LimitedReserver
from placement_engine.domain.explaining import Explainer
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.forecast import Ends
from placement_engine.domain.gangs import Gangs
from placement_engine.domain.hosting import Hosting
from placement_engine.domain.model import (
    WHOLE_DEVICE,
    Accelerator,
    Claim,
    Job,
    Node,
    NodeSample,
    PowerDomain,
    Profile,
    Queue,
    Reason,
    Resize,
)
from placement_engine.domain.policy import Policy
from placement_engine.domain.preemption import Preemptor
from placement_engine.domain.queues import PastUse, Queues, Totals
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.resizing import Resizer
from placement_engine.domain.rounds import Rounds
from placement_engine.domain.shapes import Ask, Shape, shape_of, shapes_of
from placement_engine.domain.sharing import most_milli
from placement_engine.domain.surplus import part_key, part_of, worked_until
from placement_engine.domain.survey import Surveyor
from placement_engine.domain.tables import Pipeline, Table, Tables
from placement_engine.domain.topology import Topology

Why = tuple[tuple[Reason, ...], tuple[str, ...]]
"""Reasons and remedies."""


class Intake:
    """The parts of an engine, and the events that change them."""

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
        self._leaving: dict[str, Claim] = {}
        """Members that gangs give up, by `surplus.part_key`; they are still in the claims of their jobs."""
        self._ends = Ends(self._fleet)
        self._bookings = Bookings(
            self._fleet,
            self._tables,
            self._reserver,
            self._ends,
            policy,
            claims=self._claims,
            ending=self._ending,
            leaving=self._leaving,
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
            leaving=self._leaving,
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
        self._resizer = Resizer(
            self._fleet,
            self._tables,
            self._pipeline,
            topology,
            self._bookings,
            self._queues,
            policy,
            claims=self._claims,
            ending=self._ending,
            leaving=self._leaving,
            member_milli=self._member_milli,
            put=self._resized,
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

    def _ask_for_room(self, job: Job, now: float) -> Ask:
        """What a waiting job asks for now: see `Answers`."""
        raise NotImplementedError

    def _is_barred(self, job: Job, now: float) -> bool:
        """Whether something keeps a job from being placed, whatever the fleet: see `Answers`."""
        raise NotImplementedError

    def _table_of(self, shape: Shape) -> Table:
        return self._tables.get(shape)

    def _member_milli(self, job: Job) -> int:
        """Thousandths of devices of a member; of a share or partition the most it may come to, by the model."""
        milli = job.milli_per_member
        if milli or not (job.device_share_bytes or job.partition):
            return milli
        return most_milli(self._tables.get(shape_of(job)).ask)

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
            if self._leaving:
                for member in claim.members:
                    self._leaving.pop(part_key(job_id, member.member), None)
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

    def leaving(self, job_id: str, members: Collection[int]) -> None:
        """These members of a gang are being released: it was told to run on without them. Ignored where they hold
        nothing."""
        claim = self._claims.get(job_id)
        for member in claim.members if claim is not None else ():
            if claim is not None and member.member in members:
                self._leaving[part_key(job_id, member.member)] = part_of(claim, (member,))

    def members_gone(self, job_id: str, attempt: int, members: Collection[int], now: float) -> None:
        """Frees what these members of a gang held: they have left, and it runs on since `now`. Ignored for another
        attempt, and for members that were not told to leave."""
        claim = self._claims.get(job_id)
        if claim is None or claim.job.attempt != attempt:
            return
        keys = {member.member: part_key(job_id, member.member) for member in claim.members}
        gone = tuple(m for m in claim.members if m.member in members and keys[m.member] in self._leaving)
        if not gone:
            return
        for member in gone:
            del self._leaving[keys[member.member]]
        left = tuple(member for member in claim.members if member not in gone)
        before = self._queues.shares_with(claim.job.queue, self._totals)
        self._fleet.let_go_all(job_id, gone, ended=True)
        self._resized(replace(claim, members=left, resized_at=now, worked=worked_until(claim, now)))
        self._queues.ended(before, now, self._totals)

    def undo_resize(self, resize: Resize) -> None:
        """Takes back a resize that could not be committed: the gang has the members that it had. Ignored if that
        attempt holds nothing."""
        claim = self._claims.get(resize.job_id)
        if claim is None or claim.job.attempt != resize.attempt:
            return
        for member in resize.removed:
            key = part_key(resize.job_id, member.member)
            if self._leaving.pop(key, None) is not None:
                self._bookings.stays(key)
        self._resizer.undo(claim, resize.added)

    def _resized(self, claim: Claim) -> None:
        """A gang has other members than before: what they hold is in the fleet already."""
        job_id = claim.job.job_id
        self._charge(self._claims[job_id], -1)
        self._claims[job_id] = claim
        self._charge(claim, 1)
        self._ends.put(claim)

    def undo_preemption(self, job_id: str, attempt: int) -> None:
        """Takes back a preemption that could not be committed: the job runs on, what was kept in its place
        is not kept. Ignored if that attempt holds nothing."""
        claim = self._claims.get(job_id)
        if claim is not None and claim.job.attempt == attempt and job_id in self._ending:
            self._ending.discard(job_id)
            self._bookings.stays(job_id)
            self._rounds.stop_undone()

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
