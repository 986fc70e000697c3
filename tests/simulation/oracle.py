"""What must hold of every decision, kept apart from the core: its own books, in plain dictionaries.

The oracle is told the same events as the core and checks each result of a cycle against its own books, in the
order of the decisions. It knows the rules, not the core's way of keeping them.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from placement_engine.domain.model import (
    Claim,
    CycleResult,
    Decision,
    DeviceClaim,
    Job,
    Member,
    MemberGroup,
    Node,
    NodeSample,
    Preemption,
    PreemptionKind,
    Queue,
    Quota,
    Reclaim,
    Resize,
)
from placement_engine.domain.node_constraints import NodeConstraints
from placement_engine.domain.policy import Policy
from tests.simulation import sizes
from tests.simulation.broken import require
from tests.simulation.health import Health

__all__ = ["Oracle"]


@dataclass(slots=True)
class Oracle:
    """`held`: what each job holds; `ending`: those of them that were told to stop, and for whom; `leaving`: members
    of others that were told to leave."""

    policy: Policy
    nodes: dict[str, Node] = field(default_factory=dict)
    samples: dict[str, NodeSample] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    waiting: dict[str, Job] = field(default_factory=dict)
    held: dict[str, Claim] = field(default_factory=dict)
    ending: dict[str, str] = field(default_factory=dict)
    leaving: dict[str, set[int]] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    reclaimed: dict[str, int] = field(default_factory=dict)
    placements: Counter[tuple[str, int]] = field(default_factory=Counter)
    stopped: Counter[tuple[str, int]] = field(default_factory=Counter)

    # -- events ----------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        self.waiting[job.job_id] = job

    def release(self, job_id: str) -> Job | None:
        """Gives the job that held something."""
        claim = self.held.pop(job_id, None)
        self.ending.pop(job_id, None)
        self.leaving.pop(job_id, None)
        return None if claim is None else claim.job

    def started(self, job_id: str, at: float) -> None:
        self.held[job_id] = replace(self.held[job_id], started_at=at)

    def members_gone(self, job_id: str, members: list[int], now: float) -> None:
        """Members that were told to leave have left."""
        claim = self.held[job_id]
        left = tuple(member for member in claim.members if member.member not in members)
        self.held[job_id] = replace(claim, members=left, resized_at=now)
        self.leaving[job_id] -= set(members)
        if not self.leaving[job_id]:
            del self.leaving[job_id]

    def hear(self, sample: NodeSample) -> None:
        self.samples[sample.node] = sample
        for reading in sample.devices:
            self.health.setdefault(reading.device_id, Health()).hear(reading, sample.received_at, self.policy)

    def node_changed(self, node: Node) -> None:
        """An operator who takes a node into service again lifts the cordons of its devices."""
        if node.schedulable and not self.nodes[node.name].schedulable:
            for device in node.devices:
                if device.device_id in self.health:
                    self.health[device.device_id].faulty = False
        self.nodes[node.name] = node

    def restarted(self) -> None:
        """A new core knows the last sample of each node, and nothing of what was before."""
        self.health = {}
        for name in sorted(self.samples):
            self.hear(self.samples[name])

    # -- checks ----------------------------------------------------------------------------------

    def check(self, result: CycleResult, now: float) -> None:
        for decision in result.decisions:
            self._decision(decision, now)
        placed = {decision.job_id for decision in result.decisions}
        for preemption in result.preemptions:
            require(preemption.job_id not in placed, f"{preemption.job_id} is placed and stopped in one cycle")
            self._preemption(preemption, now, {one.job_id for one in result.preemptions}, placed)
        for resize in result.resizes:
            require(resize.job_id not in placed, f"{resize.job_id} is placed and resized in one cycle")
            if resize.removed:
                # Who gave members first may have been stopped whole for another in the same cycle.
                stopped = {one.job_id for one in result.preemptions}
                require(
                    resize.job_id not in self.ending or resize.job_id in stopped, f"{resize.job_id} is being stopped"
                )
                self._shrinks(resize, now)
            else:
                self._grows(resize, now)

    def _shrinks(self, resize: Resize, now: float) -> None:
        claim, winner = self.held.get(resize.job_id), self.waiting.get(resize.for_job_id)
        where = f"{resize.job_id} gives members to {resize.for_job_id}"
        require(claim is not None, f"{where}, and holds nothing")
        require(winner is not None, f"{where}, which does not wait")
        assert claim is not None
        assert winner is not None
        require(self.policy.resize_gangs, f"{where}, against the policy")
        require(resize.attempt == claim.job.attempt, f"{where}, of another attempt")
        leaving = self.leaving.setdefault(resize.job_id, set())
        numbers = {member.member for member in resize.removed}
        require(not numbers & leaving, f"{where}: {sorted(numbers & leaving)} leave already")
        known = {member.member: member for member in claim.members}
        require(all(known.get(m.member) == m for m in resize.removed), f"{where}: members that it has not")
        leaving |= numbers
        left = tuple(member for member in claim.members if member.member not in leaving)
        require(len(left) == resize.size, f"{where}: {len(left)} are left, not {resize.size}")
        sizes.check(claim.job, left, where)
        part = replace(claim, members=resize.removed)
        self._right_to(resize.kind, part, winner, now, where)
        require(not self.is_protected(claim, now), f"{where} in its protected time")

    def _grows(self, resize: Resize, now: float) -> None:
        claim, where = self.held.get(resize.job_id), f"{resize.job_id} grows"
        require(claim is not None, f"{where}, and holds nothing")
        assert claim is not None
        require(self.policy.resize_gangs, f"{where}, against the policy")
        require(bool(resize.added), f"{where} by nothing")
        require(resize.attempt == claim.job.attempt, f"{where}, of another attempt")
        require(resize.job_id not in self.ending and resize.job_id not in self.leaving, f"{where} while it gives up")
        require(claim.started_at is not None, f"{where} before it has started")
        since = max(claim.started_at or 0.0, claim.resized_at or 0.0)
        require(now - since >= self.policy.grow_after_seconds, f"{where} {now - since:g} s after its last change")
        members = tuple(sorted((*claim.members, *resize.added), key=lambda member: member.member))
        require(len(members) == resize.size, f"{where}: {len(members)} members, not {resize.size}")
        sizes.check(claim.job, members, where)
        sizes.check_together(claim.job, members, self._domain, where)
        for member in resize.added:
            groups = claim.job.groups or (the_group_of(claim.job),)
            self._shape(claim.job, next(one for one in groups if one.name == member.group), member)
            self._member(claim.job, member, now)
        self.held[resize.job_id] = replace(claim, members=members, resized_at=now)
        self._capacity()
        self._beside_others(resize.added)
        self._quotas(claim.job)

    def _decision(self, decision: Decision, now: float) -> None:
        job = self.waiting.pop(decision.job_id, None)
        require(job is not None, f"{decision.job_id} was placed and does not wait")
        assert job is not None
        require(decision.attempt == job.attempt, f"{job.job_id}: attempt {decision.attempt}, not {job.attempt}")
        require(job.job_id not in self.held, f"{job.job_id} is placed while it holds an earlier attempt's devices")
        require(job.not_before <= now, f"{job.job_id} is placed during its back-off")
        require(job.deadline is None or now <= job.deadline, f"{job.job_id} is placed after its deadline")
        self.placements[job.job_id, job.attempt] += 1
        require(self.placements[job.job_id, job.attempt] == 1, f"{job.job_id} is placed twice in one attempt")
        self._gang(job, decision.members)
        for member in decision.members:
            self._member(job, member, now)
        self.held[job.job_id] = Claim(job, decision.members, placed_at=now)
        self._capacity()
        self._beside_others(decision.members)
        self._quotas(job)

    def _gang(self, job: Job, members: tuple[Member, ...]) -> None:
        """Whole or not at all: each group between its minimum and its wish, on one model, in its domain."""
        require([m.member for m in members] == list(range(len(members))), f"{job.job_id}: members are not numbered")
        groups = job.groups or (the_group_of(job),)
        by_group = {group.name: [m for m in members if m.group == group.name] for group in groups}
        require(sum(map(len, by_group.values())) == len(members), f"{job.job_id}: members of unknown groups")
        for group in groups:
            found = by_group[group.name]
            fewest = group.min_replicas or group.replicas
            require(
                fewest <= len(found) <= group.replicas,
                f"{job.job_id}: {len(found)} members of {group.name!r}, asked for {fewest} to {group.replicas}",
            )
            models = {claim.model for member in found for claim in member.devices}
            require(len(models) <= 1, f"{job.job_id}: {group.name!r} on several models: {sorted(models)}")
            for member in found:
                self._shape(job, group, member)
        if job.topology_required and job.topology_level not in ("", "numa", "link"):
            domains = {self._domain(member.node, job.topology_level) for member in members}
            # One node is in one domain of any level, declared or not.
            require(
                len({member.node for member in members}) == 1 or (len(domains) == 1 and "" not in domains),
                f"{job.job_id}: {job.topology_level} is required, it got {sorted(domains)}",
            )
        if job.group_size and job.group_level not in ("numa", "link"):
            for start in range(0, len(members), job.group_size):
                part = members[start : start + job.group_size]
                domains = {self._domain(member.node, job.group_level) for member in part}
                require(len(domains) == 1, f"{job.job_id}: members {start}.. lie in {sorted(domains)}")

    def _domain(self, node: str, level: str) -> str:
        return node if level == "node" else self.nodes[node].topology.get(level, "")

    def _shape(self, job: Job, group: MemberGroup, member: Member) -> None:
        where = f"{job.job_id}/{member.member}"
        require(member.cpu_milli == group.cpu_milli, f"{where}: cpu {member.cpu_milli}")
        require(member.memory_bytes == group.memory_bytes, f"{where}: memory {member.memory_bytes}")
        claims = member.devices
        require(len({claim.device_id for claim in claims}) == len(claims), f"{where}: a device twice")
        if group.devices:
            most = max(group.devices, job.max_devices)
            require(group.devices <= len(claims) <= most, f"{where}: {len(claims)} devices")
            require(all(claim.milli == 1000 for claim in claims), f"{where}: not whole devices")
        elif group.device_milli or group.device_share_bytes or group.partition:
            require(len(claims) == 1, f"{where}: a share on {len(claims)} devices")
            (claim,) = claims
            require(claim.partition == group.partition, f"{where}: partition {claim.partition!r}")
            if group.device_milli:
                require(claim.milli == group.device_milli, f"{where}: {claim.milli} milli")
            if group.device_share_bytes:
                require(claim.memory_bytes >= group.device_share_bytes, f"{where}: {claim.memory_bytes} bytes")
            require(0 < claim.milli <= 1000, f"{where}: {claim.milli} milli")
        else:
            require(not claims, f"{where}: devices nobody asked for")

    def _member(self, job: Job, member: Member, now: float) -> None:
        """The node and its devices could take work at that moment."""
        where = f"{job.job_id} on {member.node}"
        node = self.nodes.get(member.node)
        require(node is not None, f"{where}: no such node")
        assert node is not None
        require(node.schedulable, f"{where}: cordoned")
        require(not job.executor or job.executor in node.executors, f"{where}: executor {job.executor!r}")
        own = next((g.nodes for g in job.groups if g.name == member.group), None)
        require(may_sit(job.nodes if own is None else own, node), f"{where}: its constraints forbid the node")
        sample = self.samples.get(member.node)
        if not node.telemetry_exempt and sample is not None:
            age = now - sample.received_at
            require(age <= self.policy.unschedulable_seconds, f"{where}: telemetry is {age:g} s old")
        devices = {device.device_id: device for device in node.devices}
        for claim in member.devices:
            device = devices.get(claim.device_id)
            require(device is not None and device.present, f"{where}: {claim.device_id} is not there")
            assert device is not None
            require(not device.held_by, f"{where}: {claim.device_id} is held by {device.held_by}")
            require(device.model == claim.model, f"{where}: {claim.device_id} is no {claim.model}")
            group = next((g for g in job.groups if g.name == member.group), None)
            models = (group.models if group and group.models else job.models) or (device.model,)
            require(device.model in models, f"{where}: {device.model} was not asked for")
            share = group.device_share_bytes if group else job.device_share_bytes
            if share and device.memory_bytes:
                part = claim.milli * device.memory_bytes
                require(part >= 1000 * share, f"{where}: {claim.milli} milli are less than {share} bytes")
                require(part < 1000 * share + device.memory_bytes, f"{where}: {claim.milli} milli for {share} bytes")
            health = self.health.get(claim.device_id)
            against = health.why_not() if health else ""
            require(not against, f"{where}: {claim.device_id} is {against}")

    def _capacity(self) -> None:
        milli: Counter[str] = Counter()
        cpu: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        slices: Counter[tuple[str, int]] = Counter()
        kinds: dict[str, set[str]] = {}
        for claim in self.held.values():
            for member in claim.members:
                cpu[member.node] += member.cpu_milli
                memory[member.node] += member.memory_bytes
                for device in member.devices:
                    milli[device.device_id] += device.milli
                    kinds.setdefault(device.device_id, set()).add("partition" if device.partition else "share")
                    slices.update((device.device_id, slice_) for slice_ in slices_of(device))
        for device_id, used in milli.items():
            require(used <= 1000, f"{device_id}: {used} of 1000 claimed")
            require(len(kinds[device_id]) == 1, f"{device_id}: partitioned and shared at once")
        for (device_id, slice_), count in slices.items():
            require(count == 1, f"{device_id}: memory slice {slice_} claimed {count} times")
        for name, node in self.nodes.items():
            if any(member.node == name for claim in self.held.values() for member in claim.members):
                require(cpu[name] <= max(node.cpu_milli, 0) or not cpu[name], f"{name}: cpu {cpu[name]}")
                require(memory[name] <= node.memory_bytes or not memory[name], f"{name}: memory {memory[name]}")

    def _beside_others(self, members: tuple[Member, ...]) -> None:
        """What is new fits beside what work outside Berth has by now; what runs may be crowded by those who came."""
        for name in {member.node for member in members}:
            node = self.nodes[name]
            there = [m for claim in self.held.values() for m in claim.members if m.node == name]
            if node.pod_limit is not None:
                pods = len(there) + node.pods_elsewhere
                require(pods <= node.pod_limit, f"{name}: {pods} pods with those of others, {node.pod_limit} allowed")
            if any(member.cpu_milli for member in members if member.node == name):
                cpu = sum(member.cpu_milli for member in there) + node.cpu_milli_elsewhere
                require(cpu <= node.cpu_milli, f"{name}: cpu {cpu} with what others have")
            if any(member.memory_bytes for member in members if member.node == name):
                memory = sum(member.memory_bytes for member in there) + node.memory_bytes_elsewhere
                require(memory <= node.memory_bytes, f"{name}: memory {memory} with what others have")

    # -- queues ----------------------------------------------------------------------------------

    def path(self, name: str) -> list[str]:
        path = [name]
        while (queue := self.queues.get(path[-1])) is not None and queue.parent:
            path.append(queue.parent)
        return path

    def used(self, queue: str, accelerator: str) -> int:
        """Milli that the subtree of a queue holds of an accelerator: a model, a class, or "" for all."""
        return sum(
            self.milli(claim, accelerator) for claim in self.held.values() if queue in self.path(claim.job.queue)
        )

    def milli(self, claim: Claim, accelerator: str) -> int:
        return sum(
            device.milli
            for member in claim.members
            for device in member.devices
            if accelerator in ("", device.model, self.classes[device.device_id])
        )

    def _quotas(self, job: Job) -> None:
        """After a placement no queue of the path holds more than its limit, or than it owns and may borrow."""
        for name in self.path(job.queue):
            queue = self.queues.get(name)
            if queue is None:
                continue
            if queue.device_limit is not None:
                used = self.used(name, "")
                require(used <= 1000 * queue.device_limit, f"queue {name}: {used} milli, limit {queue.device_limit}")
            for quota in queue.quotas:
                self._quota(queue, quota)

    def _quota(self, queue: Queue, quota: Quota) -> None:
        """Quotas sit on leaves in these histories: together they own the sum, and each may lend and borrow of it."""
        used = self.used(queue.name, quota.accelerator)
        owners = [
            (one.name, q) for one in self.queues.values() for q in one.quotas if q.accelerator == quota.accelerator
        ]
        owned = sum(q.milli for _, q in owners)
        if quota.borrowing_limit is not None:
            most = quota.milli + quota.borrowing_limit
            require(used <= most, f"queue {queue.name}: {used} milli of {quota.accelerator!r}, at most {most}")
        for name, q in owners:
            others = sum(self.used(other, quota.accelerator) for other, _ in owners if other != name)
            kept = 0 if q.lending_limit is None else max(0, q.milli - q.lending_limit)
            require(
                others <= owned - kept,
                f"queue {queue.name}: siblings of {name} hold {others} milli of {quota.accelerator!r}, {name} keeps "
                f"{kept} of {owned} to itself",
            )
            everything = others + self.used(name, quota.accelerator)
            require(everything <= owned, f"queue {queue.name}: {everything} of {owned} of {quota.accelerator!r}")

    # -- preemption ------------------------------------------------------------------------------

    def _preemption(self, preemption: Preemption, now: float, stopped: set[str], placed: set[str]) -> None:
        """`stopped`, `placed`: all who are in the same cycle."""
        victim, winner = self.held.get(preemption.job_id), self.waiting.get(preemption.for_job_id)
        where = f"{preemption.job_id} is stopped for {preemption.for_job_id}"
        require(victim is not None, f"{where}, and holds nothing")
        assert victim is not None
        if preemption.kind is PreemptionKind.ROUND and preemption.for_job_id in self.held:
            winner = self.held[preemption.for_job_id].job  # which goes on elsewhere, and is stopped for that itself
            # Or its place went on to one of higher priority in the same cycle, and it found another.
            went_on = preemption.for_job_id in placed and any(
                one.priority > winner.priority for one in self.waiting.values()
            )
            require(preemption.for_job_id in stopped or went_on, f"{where}, which stays where it is")
        require(winner is not None, f"{where}, which does not wait")
        assert winner is not None
        require(preemption.job_id not in self.ending, f"{where}, and was told already")
        require(preemption.attempt == victim.job.attempt, f"{where}, of another attempt")
        self._right_to(preemption.kind, victim, winner, now, where)
        require(not self.is_protected(victim, now), f"{where} in its protected time")
        self.ending[preemption.job_id] = preemption.for_job_id
        self.stopped[preemption.job_id, preemption.attempt] += 1
        require(self.stopped[preemption.job_id, preemption.attempt] == 1, f"{where}, a second time in one attempt")

    def _right_to(self, kind: PreemptionKind | None, victim: Claim, winner: Job, now: float, where: str) -> None:
        if kind is PreemptionKind.PRIORITY:
            require(victim.job.priority < winner.priority, f"{where}, which has no higher priority")
            require(victim.job.preemptible, f"{where}, and is not preemptible")
        elif kind is PreemptionKind.ROUND:
            self._round(victim, winner, now, where)
        else:
            self._reclaim(victim, winner, where)

    def _round(self, victim: Claim, winner: Job, now: float, where: str) -> None:
        """Who takes turns goes at the end of a round, for one that matters no less, with its work saved."""
        job, length = victim.job, self.policy.round_seconds
        require(length > 0, f"{where}, and there are no rounds")
        require(job.preemptible and bool(job.checkpoint_seconds), f"{where}, and cannot go on where it was")
        require(job.deadline is None and job.latency_target_seconds is None, f"{where}, and has promised a time")
        require(bool(job.devices) and not job.groups, f"{where}, and is of several shapes or of no whole device")
        require(job.max_devices <= job.devices, f"{where}, and its number of devices is open")
        require((job.min_replicas or job.replicas) == job.replicas, f"{where}, and is elastic")
        require(job.priority <= winner.priority, f"{where}, which has a lower priority")
        require(
            victim.started_at is not None and now - victim.started_at >= 0.49 * length,
            f"{where}, since {victim.started_at}, within half a round of {length} s",
        )
        if winner.queue != job.queue and not (winner.preemptible and winner.checkpoint_seconds):
            # It takes no turns: no plan weighed the two, room was made for it.
            gone = [self.held[job_id] for job_id in (*self.ending, job.job_id) if job_id in self.held]
            for name in self.path(job.queue):
                for quota in self.queues[name].quotas if name not in self.path(winner.queue) else ():
                    of_it = [claim for claim in gone if name in self.path(claim.job.queue)]
                    left = self.used(name, quota.accelerator) - sum(self.milli(c, quota.accelerator) for c in of_it)
                    if self.milli(victim, quota.accelerator):
                        require(left >= quota.milli, f"{where}: {name} is left {left} of its own {quota.milli} milli")

    def is_protected(self, claim: Claim, now: float) -> bool:
        """Protection counts from the start of its work: what was placed and does not run yet loses nothing."""
        queue = self.queues.get(claim.job.queue)
        seconds = max(self.policy.protected_seconds, queue.protected_seconds if queue else 0.0)
        return claim.started_at is not None and now - claim.started_at < seconds

    def _reclaim(self, victim: Claim, winner: Job, where: str) -> None:
        """A queue takes back what it owns, of what the other holds beyond its own."""
        mine, theirs = self.queues[winner.queue], self.queues[victim.job.queue]
        require(winner.priority >= victim.job.priority, f"{where}, which has a lower priority")
        require(mine is not theirs, f"{where}, of the same queue")
        require(mine.reclaim is not Reclaim.NEVER, f"{where}, whose queue never takes back")
        if mine.reclaim is Reclaim.LOWER_PRIORITY:
            require(victim.job.priority < winner.priority, f"{where}, whose queue takes back from lower ones")
        quotas = any(self.queues[name].quotas for name in self.path(theirs.name))
        require(victim.job.preemptible or quotas, f"{where}, is not preemptible and borrowed nothing knowingly")
        for quota in mine.quotas:
            if self.milli(victim, quota.accelerator) and not winner.groups:
                least = 1000 * winner.devices * (winner.min_replicas or winner.replicas)
                used = self.used(mine.name, quota.accelerator) + least
                require(used <= quota.milli, f"{where}: {mine.name} would have {used} of its {quota.milli} milli")
        if len(victim.members) == len(self.held[victim.job.job_id].members):
            self.reclaimed[victim.job.job_id] = victim.job.attempt
        for quota in theirs.quotas:
            gone = [
                claim
                if self.reclaimed.get(job_id) == claim.job.attempt
                else replace(claim, members=tuple(m for m in claim.members if m.member in self.leaving.get(job_id, ())))
                for job_id, claim in self.held.items()
                if claim.job.queue == theirs.name
            ]
            left = self.used(theirs.name, quota.accelerator) - sum(self.milli(one, quota.accelerator) for one in gone)
            if self.milli(victim, quota.accelerator):
                require(left >= quota.milli, f"{where}: {theirs.name} is left {left} of its own {quota.milli} milli")


def may_sit(constraints: NodeConstraints, node: Node) -> bool:
    """Only of what histories ask: In and DoesNotExist, tolerations with Exists."""

    def met(key: str, operator: str, values: tuple[str, ...]) -> bool:
        value = {**node.labels, "metadata.name": node.name}.get(key)
        return value in values if operator == "In" else value is None

    tolerated = {one.key for one in constraints.tolerations}
    kept_off = [t.key for t in node.taints if t.effect != "PreferNoSchedule"]
    return all(key in tolerated or "" in tolerated for key in kept_off) and (
        not constraints.required
        or any(all(met(one.key, one.operator, one.values) for one in term) for term in constraints.required)
    )


def the_group_of(job: Job) -> MemberGroup:
    """A gang of one shape as a group without a name."""
    return MemberGroup(
        name="",
        replicas=job.replicas,
        min_replicas=job.min_replicas,
        devices=job.devices,
        device_milli=job.device_milli,
        device_share_bytes=job.device_share_bytes,
        partition=job.partition,
        cpu_milli=job.cpu_milli,
        memory_bytes=job.memory_bytes,
    )


MEMORY_SLICES = {"1g.10gb": 1, "1g.20gb": 2, "2g.20gb": 2, "3g.40gb": 4, "4g.40gb": 4, "7g.80gb": 8}


def slices_of(claim: DeviceClaim) -> range:
    """Memory slices of an 80 GB device that a partition takes (NVIDIA MIG user guide)."""
    if not claim.partition:
        return range(0)
    return range(claim.partition_start, claim.partition_start + MEMORY_SLICES[claim.partition])
