"""Any order of events: sizes, capacity and quotas hold, and by time alone no state of the fleet comes back."""

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Claim, CycleResult, Job, MemberGroup, Queue, Quota, Reclaim
from placement_engine.domain.policy import Policy
from tests.simulation.sizes import bounds
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, an_engine

POLICY = Policy(resize_gangs=True, grow_after_seconds=20.0, plan_retry_seconds=0.0, reservation_after_seconds=0.0)
State = tuple[tuple[tuple[str, tuple[tuple[int, str], ...]], ...], tuple[str, ...]]


class Gangs(RuleBasedStateMachine):
    """Gangs and plain jobs of two queues with quotas, and one without, on three nodes of four devices."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.serial = 0
        self.jobs: dict[str, Job] = {}
        self.claims: dict[str, Claim] = {}
        """Held, in books of the test's own."""
        self.leaving: dict[str, set[int]] = {}
        self.ending: set[str] = set()
        self.queues: dict[str, Queue] = {}
        self.engine: Engine = an_engine()

    @initialize(
        owned=st.lists(st.integers(0, 8), min_size=2, max_size=2),
        borrow=st.sampled_from((None, 0, 2000)),
        reclaim=st.sampled_from(Reclaim),
        limit=st.sampled_from((None, None, 5)),
    )
    def set_up(self, owned: list[int], borrow: int | None, reclaim: Reclaim, limit: int | None) -> None:
        nodes = [a_node(f"n{number}", 4, rack=f"r{number // 2}") for number in range(3)]
        self.engine = an_engine(*nodes, policy=POLICY)
        self.queues = {
            name: Queue(name, quotas=(Quota("", 1000 * own, borrowing_limit=borrow),), reclaim=reclaim)
            for name, own in zip(("a", "b"), owned, strict=True)
        } | {"c": Queue("c", device_limit=limit)}
        self.engine.set_queues(self.queues.values())

    # -- events ----------------------------------------------------------------------------------

    @rule(
        queue=st.sampled_from("abc"),
        wished=st.integers(2, 8),
        short=st.integers(0, 6),
        priority=st.integers(0, 2),
        group=st.sampled_from((0, 0, 2)),
        near=st.booleans(),
        preemptible=st.booleans(),
    )
    def a_gang_comes(
        self, queue: str, wished: int, short: int, priority: int, group: int, near: bool, preemptible: bool
    ) -> None:
        job = a_job(
            f"g{self.serial}", queue=queue, replicas=wished, min_replicas=max(1, wished - short), priority=priority,
            group_size=group, group_level="node" if group else "", preemptible=preemptible,
            topology_level="rack" if near else "", topology_required=near, submitted_at=self.now,
        )  # fmt: skip
        self._submit(job)

    @rule(queue=st.sampled_from("abc"), wished=st.integers(2, 6), least=st.integers(1, 2), near=st.booleans())
    def a_leader_with_workers_comes(self, queue: str, wished: int, least: int, near: bool) -> None:
        groups = (MemberGroup("leader", cpu_milli=1000), MemberGroup("worker", wished, least, devices=1))
        job = a_job(
            f"l{self.serial}", queue=queue, devices=0, replicas=1 + wished, groups=groups, preemptible=True,
            topology_level="rack" if near else "", topology_required=near, submitted_at=self.now,
        )  # fmt: skip
        self._submit(job)

    @rule(queue=st.sampled_from("abc"), devices=st.integers(1, 4), priority=st.integers(0, 3))
    def a_job_comes(self, queue: str, devices: int, priority: int) -> None:
        job = a_job(f"j{self.serial}", queue=queue, devices=devices, priority=priority, submitted_at=self.now)
        self._submit(replace(job, preemptible=priority == 0))

    def _submit(self, job: Job) -> None:
        self.serial += 1
        self.jobs[job.job_id] = job
        self.engine.submit(job)
        self._cycle()

    @rule(pick=st.randoms(use_true_random=False))
    def one_ends(self, pick: object) -> None:
        if self.claims:
            job_id = sorted(self.claims)[self.serial * 7 % len(self.claims)]
            self._release(job_id)
            self._cycle()

    @rule()
    def one_is_withdrawn(self) -> None:
        waiting = sorted(job_id for job_id in self.jobs if self.engine.is_waiting(job_id))
        if waiting:
            self.engine.withdraw(waiting[0])
            self._cycle()

    @rule()
    def all_start(self) -> None:
        for job_id, claim in sorted(self.claims.items()):
            if claim.started_at is None:
                self.engine.started(job_id, claim.job.attempt, self.now)
                self.claims[job_id] = replace(claim, started_at=self.now)

    @rule(count=st.integers(1, 2))
    def members_leave(self, count: int) -> None:
        for job_id in sorted(self.leaving):
            self._leave(job_id, sorted(self.leaving[job_id])[:count])

    @rule()
    def a_planner_takes_over(self) -> None:
        again = an_engine(*(a_node(f"n{number}", 4, rack=f"r{number // 2}") for number in range(3)), policy=POLICY)
        again.set_queues(self.queues.values())
        for job_id, claim in sorted(self.claims.items()):
            again.restore(claim)
            again.leaving(job_id, self.leaving.get(job_id, ()))
            if job_id in self.ending:
                again.ending(job_id)
        for job_id, job in self.jobs.items():
            if self.engine.is_waiting(job_id):
                again.submit(job)
        self.engine = again

    @rule()
    def a_cycle_is_not_committed(self) -> None:
        before = {job_id: self.engine.holds(job_id) for job_id in self.jobs}
        result = self.engine.cycle(self.now)
        for resize in reversed(result.resizes):
            self.engine.undo_resize(resize)
        for preemption in result.preemptions:
            self.engine.undo_preemption(preemption.job_id, preemption.attempt)
        for decision in reversed(result.decisions):
            self.engine.undo(decision.job_id, decision.attempt)
        assert before == {job_id: self.engine.holds(job_id) for job_id in self.jobs}

    @rule()
    def time_passes_and_nothing_comes(self) -> None:
        """All that is told to leave leaves; who was stopped does not come again. What was the case once and has
        changed is never the case again."""
        seen: list[State] = []
        for _ in range(14):
            self.now += 11.0
            self.all_start()
            self._cycle()
            for job_id in sorted(self.leaving):
                self._leave(job_id, sorted(self.leaving[job_id]))
            for job_id in sorted(self.ending):
                self._release(job_id)
            state = self._state()
            if not seen or seen[-1] != state:
                assert state not in seen, f"the same state came back: {state}"
                seen.append(state)
        assert len(seen) < 12, "it does not come to rest"

    # -- books -----------------------------------------------------------------------------------

    def _state(self) -> State:
        held = tuple(
            (job_id, tuple((m.member, d.device_id) for m in claim.members for d in m.devices))
            for job_id, claim in sorted(self.claims.items())
        )
        return held, tuple(sorted(job_id for job_id in self.jobs if self.engine.is_waiting(job_id)))

    def _release(self, job_id: str) -> None:
        self.engine.release(job_id)
        del self.claims[job_id]
        self.ending.discard(job_id)
        self.leaving.pop(job_id, None)

    def _leave(self, job_id: str, members: list[int]) -> None:
        claim = self.claims[job_id]
        self.engine.members_gone(job_id, claim.job.attempt, members, self.now)
        left = tuple(member for member in claim.members if member.member not in members)
        held = self.engine.holds(job_id)
        assert held is not None
        assert held.members == left
        self.claims[job_id] = held
        self.leaving[job_id] -= set(members)
        if not self.leaving[job_id]:
            del self.leaving[job_id]

    def _cycle(self) -> None:
        result: CycleResult = self.engine.cycle(self.now)
        for decision in result.decisions:
            claim = self.engine.holds(decision.job_id)
            assert claim is not None
            self.claims[decision.job_id] = claim
        for preemption in result.preemptions:
            self.ending.add(preemption.job_id)
        for resize in result.resizes:
            if resize.removed:
                self.leaving.setdefault(resize.job_id, set()).update(m.member for m in resize.removed)
                continue
            before, claim = self.claims[resize.job_id], self.engine.holds(resize.job_id)
            assert claim is not None
            assert before.started_at is not None
            assert set(claim.members) == {*before.members, *resize.added}
            assert self.now - max(before.started_at, before.resized_at or 0.0) >= POLICY.grow_after_seconds
            self.claims[resize.job_id] = claim
            self._within_limits(claim.job.queue)

    def _within_limits(self, name: str) -> None:
        """No queue grows past what it may hold."""
        queue, used = self.queues[name], self._used(name)
        if queue.device_limit is not None:
            assert used <= 1000 * queue.device_limit
        for quota in queue.quotas:
            owned = sum(q.milli for one in self.queues.values() for q in one.quotas)
            assert self._used("a") + self._used("b") <= owned
            if quota.borrowing_limit is not None:
                assert used <= quota.milli + quota.borrowing_limit

    def _used(self, name: str) -> int:
        return sum(
            device.milli
            for claim in self.claims.values()
            if claim.job.queue == name
            for member in claim.members
            for device in member.devices
        )

    @invariant()
    def the_books_agree(self) -> None:
        for job_id in self.jobs:
            claim = self.engine.holds(job_id)
            assert (claim is None) == (job_id not in self.claims)
            assert claim is None or claim.members == self.claims[job_id].members

    @invariant()
    def nobody_is_too_small_or_too_large(self) -> None:
        for job_id, claim in self.claims.items():
            leaving = self.leaving.get(job_id, set())
            for name, (least, wished) in bounds(claim.job).items():
                staying = sum(1 for m in claim.members if m.group == name and m.member not in leaving)
                assert job_id in self.ending or least <= staying <= wished, f"{job_id}: {staying} of {least}"

    @invariant()
    def no_device_is_held_twice(self) -> None:
        devices = [d.device_id for c in self.claims.values() for m in c.members for d in m.devices]
        assert len(devices) == len(set(devices))


Gangs.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestGangs = Gangs.TestCase
