"""What must hold after any history of events: capacity, gangs, exact undo, and a cache that changes nothing."""

import random
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import (
    Accelerator,
    Character,
    Claim,
    Decision,
    Job,
    Objective,
    Partition,
    PowerDomain,
    Profile,
    Queue,
    Quota,
)
from placement_engine.domain.policy import Policy
from placement_engine.domain.shapes import Shape
from placement_engine.domain.tables import Table, Tables
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_device, a_job, a_node, a_sample, an_engine

MODELS = ("H100", "L4", "MI300X")
PARTITIONS = (
    Partition("1g.10gb", 1, 1, tuple(range(7)), 10 * GIB),
    Partition("3g.40gb", 3, 4, (0, 4), 40 * GIB),
)
NODES = tuple(f"n{i}" for i in range(6))


class Forgetful(Tables):
    """Scores the whole fleet anew for every question: what the cache is compared with."""

    def get(self, shape: Shape) -> Table:
        self.forget()
        return super().get(shape)


def uncached(engine: Engine) -> Engine:
    engine._tables = engine._bookings._tables = engine._preemptor._tables = Forgetful(
        engine._fleet, engine._policy, engine._pipeline
    )
    return engine


@st.composite
def nodes(draw: st.DrawFn, name: str, exempt: bool | None = None) -> Any:
    count = draw(st.integers(0, 4))
    mixed = draw(st.booleans())
    first, second = draw(st.sampled_from(MODELS)), draw(st.sampled_from(MODELS))
    cut = draw(st.booleans())
    devices = [a_device(name, i, second if mixed and i % 2 else first, partitionable=cut) for i in range(count)]
    return a_node(
        name,
        devices,
        rack=draw(st.sampled_from(("", "r0", "r1"))),
        cpu_milli=draw(st.sampled_from((2000, 8000))),
        memory_bytes=draw(st.sampled_from((8, 64))) * GIB,
        power_cap_watts=draw(st.sampled_from((None, 1500.0))),
        schedulable=draw(st.integers(0, 5)) > 0,
        telemetry_exempt=draw(st.booleans()) if exempt is None else exempt,
    )


@st.composite
def jobs(draw: st.DrawFn, job_id: str) -> Job:
    whole = draw(st.sampled_from((0, 0, 1, 2, 3)))
    milli = 0 if whole else draw(st.sampled_from((0, 0, 200, 500, 700)))
    divided = not whole and not milli
    return a_job(
        job_id,
        devices=whole,
        max_devices=draw(st.sampled_from((0, whole + 2))) if whole else 0,
        device_milli=milli,
        device_share_bytes=draw(st.sampled_from((0, 10 * GIB, 30 * GIB))) if divided else 0,
        partition=draw(st.sampled_from(("", "1g.10gb", "3g.40gb"))) if divided else "",
        replicas=draw(st.sampled_from((1, 1, 1, 2, 3))),
        queue=draw(st.sampled_from(("a", "b", "c"))),
        priority=draw(st.integers(0, 1)),
        cpu_milli=draw(st.sampled_from((0, 500, 1500))),
        memory_bytes=draw(st.sampled_from((0, GIB))),
        device_memory_bytes=draw(st.sampled_from((0, 30 * GIB))),
        models=draw(st.sampled_from(((), (), ("H100",)))),
        workload=draw(st.sampled_from(("", "w"))),
        character=draw(st.sampled_from((None, Character(1e16, 1e13), Character(1e13, 1e13, 0.1)))),
        latency_target_seconds=draw(st.sampled_from((None, None, 0.105))),
        objective=draw(st.sampled_from(list(Objective))),
        topology_level=draw(st.sampled_from(("", "rack"))),
        topology_required=draw(st.booleans()),
        deadline=draw(st.sampled_from((None, None, NOW + 90))),
        expected_duration_seconds=draw(st.sampled_from((None, 60.0))),
        submitted_at=float(draw(st.integers(0, 5))),
    )


@st.composite
def device_facts(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "memory_used_bytes": draw(st.sampled_from((None, 0, 40 * GIB, 70 * GIB))),
        "margin_celsius": draw(st.sampled_from((None, 3.0, 7.0, 30.0))),
        "power_watts": draw(st.sampled_from((None, 60.0, 500.0))),
        "throttle_bits": draw(st.sampled_from((None, 0, 4, 8))),
        "error_code": draw(st.sampled_from((None, 0, 0, 79))),
        "healthy": draw(st.sampled_from((None, None, True, False))),
    }


class TwoEngines(RuleBasedStateMachine):
    """The same events to an engine with its cache and to one without."""

    def __init__(self) -> None:
        super().__init__()
        policy = Policy(reasons_max_age_seconds=0)
        self.cached, self.plain = Engine(policy), uncached(Engine(policy))
        self.jobs: dict[str, Job] = {}
        self.now = NOW

    def both(self, call: Any) -> Any:
        first, second = call(self.cached), call(self.plain)
        assert first == second
        return first

    @initialize()
    def catalogue(self) -> None:
        self.both(
            lambda e: e.set_accelerators(
                [
                    Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0, 2.95, PARTITIONS),
                    Accelerator("L4", "GPU", "CUDA", 24 * GIB, 0.3e12, 121.0, 72.0),
                ]
            )
        )
        quotas = (Quota("H100", 2000, 1000, 500), Quota("GPU", 4000))
        queues = [Queue("a", weight=2.0, quotas=quotas), Queue("b", device_limit=3), Queue("c", quotas=quotas[:1])]
        self.both(lambda e: e.set_queues(queues))

    @rule(data=st.data(), name=st.sampled_from(NODES))
    def node(self, data: st.DataObject, name: str) -> None:
        node = data.draw(nodes(name))
        self.both(lambda e: e.apply_node(node))

    @rule(name=st.sampled_from(NODES))
    def node_leaves(self, name: str) -> None:
        self.both(lambda e: e.remove_node(name))

    @rule(name=st.sampled_from(NODES), facts=st.lists(device_facts(), max_size=4), age=st.integers(-5, 5))
    def sample(self, name: str, facts: list[dict[str, Any]], age: int) -> None:
        sample = a_sample(name, *facts, at=self.now - age)
        self.both(lambda e: e.apply_sample(sample))

    @rule(cap=st.sampled_from((None, 900.0, 4000.0)))
    def power(self, cap: float | None) -> None:
        domains = [] if cap is None else [PowerDomain("rack", "r0", cap), PowerDomain("rack", "r1", 2 * cap)]
        self.both(lambda e: e.set_power_domains(domains))

    @rule(model=st.sampled_from(MODELS), devices=st.sampled_from((1, 2)), speed=st.sampled_from((1.0, 3.0)))
    def profile(self, model: str, devices: int, speed: float) -> None:
        profile = Profile("w", model, devices, speed, 0.1, 20 * GIB // devices, 100.0, 200.0, 2.0)
        self.both(lambda e: e.put_profile(profile))

    @rule(data=st.data(), count=st.integers(1, 4))
    def submit(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            job = data.draw(jobs(f"j{len(self.jobs):03d}"))
            self.jobs[job.job_id] = job
            self.both(lambda e, job=job: e.submit(job))

    @rule(data=st.data())
    def withdraw_or_release(self, data: st.DataObject) -> None:
        if self.jobs:
            job_id = data.draw(st.sampled_from(sorted(self.jobs)))
            self.both(lambda e: (e.withdraw(job_id), e.release(job_id)))

    @rule(wait=st.sampled_from((0.0, 1.0, 65.0, 130.0)), limit=st.sampled_from((None, 1, 2)))
    def cycle(self, wait: float, limit: int | None) -> None:
        self.now += wait
        result = self.both(lambda e: e.cycle(self.now, limit))
        for decision in result.decisions:
            assert len(decision.members) == self.jobs[decision.job_id].replicas

    @rule()
    def cycle_and_undo(self) -> None:
        before = self.cached.state_digest()
        result = self.both(lambda e: e.cycle(self.now))
        for preemption in result.preemptions:
            self.both(lambda e, p=preemption: e.undo_preemption(p.job_id, p.attempt))
        for decision in reversed(result.decisions):
            self.both(lambda e, d=decision: e.undo(d.job_id, d.attempt))
        assert self.cached.state_digest() == before

    @rule(data=st.data())
    def dry_run(self, data: st.DataObject) -> None:
        job = data.draw(jobs("dry"))
        before = self.cached.state_digest()
        self.both(lambda e: e.dry_run(job, self.now))
        assert self.cached.state_digest() == before

    @rule(data=st.data())
    def claims_from_the_ledger(self, data: st.DataObject) -> None:
        """A claim that is restored while it is held changes nothing that decides."""
        held = [c for j in sorted(self.jobs) if (c := self.cached.holds(j)) is not None]
        if held:
            claim = data.draw(st.sampled_from(held))
            self.both(lambda e: e.restore(claim))

    @invariant()
    def same_state(self) -> None:
        assert self.cached.state_digest() == self.plain.state_digest()

    @invariant()
    def columns_follow_from_facts(self) -> None:
        """Writing every column anew finds nothing to write."""
        fleet = self.cached._fleet
        clock = fleet.columns.clock
        fleet.rewrite()
        assert fleet.columns.clock == clock

    @invariant()
    def no_device_over_capacity(self) -> None:
        used: Counter[str] = Counter()
        for job_id, job in self.jobs.items():
            claim = self.cached.holds(job_id)
            if claim is None:
                continue
            assert len(claim.members) == job.replicas, "a gang is whole"
            assert len({d.model for m in claim.members for d in m.devices}) <= 1
            for member in claim.members:
                divided = bool(job.device_milli or job.device_share_bytes or job.partition)
                least = job.devices or int(divided)
                assert least <= len(member.devices) <= max(least, job.max_devices)
                assert len(member.devices) == len(claim.members[0].devices), "all members get one count"
                if job.devices or job.device_milli:
                    assert all(d.milli == (1000 if job.devices else job.device_milli) for d in member.devices)
                used.update({d.device_id: d.milli for d in member.devices})
        assert all(milli <= 1000 for milli in used.values()), used
        usage = {u.name: u.used_milli for u in self.cached.queue_usage()}
        assert sum(usage.values()) == sum(used.values())
        assert usage.get("b", 0) <= 3000
        for account in [account for one in self.cached.queue_usage() for account in one.quotas]:
            assert 0 <= account.used <= (3000 if account.accelerator == "H100" else 4000)


TwoEngines.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTwoEngines = TwoEngines.TestCase


def fits_naively(engine: Engine, job: Job) -> bool:
    """One member on one node, from the read-outs alone."""
    for name in engine.node_names():
        view = engine.node_view(name, NOW)
        assert view is not None
        node = view.node
        if not node.schedulable:
            continue
        if job.cpu_milli and node.cpu_milli - view.used_cpu_milli < job.cpu_milli:
            continue
        if job.memory_bytes and node.memory_bytes - view.used_memory_bytes < job.memory_bytes:
            continue
        if not job.milli_per_member:
            return True
        for model in {d.device.model for d in view.devices}:
            if job.models and model not in job.models:
                continue
            left = [1000 - d.used_milli for d in view.devices if d.device.model == model]
            need = 1000 if job.devices else job.device_milli
            if sum(1 for milli in left if milli >= need) >= max(1, job.devices):
                return True
    return False


fleets = st.tuples(*(nodes(name, exempt=True) for name in NODES))
batches = st.integers(1, 25).flatmap(lambda n: st.tuples(*(jobs(f"j{i:03d}") for i in range(n))))


def plain(job: Job) -> Job:
    """Without what the naive check does not know: gangs, memory of devices, deadlines."""
    return a_job(
        job.job_id,
        devices=job.devices,
        device_milli=job.device_milli,
        cpu_milli=job.cpu_milli,
        memory_bytes=job.memory_bytes,
        models=job.models,
        queue=job.queue,
        priority=job.priority,
    )


@settings(max_examples=80, deadline=None)
@given(fleet=fleets, batch=batches)
def test_what_waits_does_not_fit(fleet: Any, batch: Any) -> None:
    engine = an_engine(*fleet)
    for job in batch:
        engine.submit(plain(job))
    engine.cycle(NOW)
    for job in batch:
        if engine.is_waiting(job.job_id):
            assert not fits_naively(engine, job)
            rejection = engine.explain(job.job_id, NOW)
            assert rejection is not None
            assert sum(r.nodes for r in rejection.reasons) == rejection.nodes_considered == len(NODES)
            assert sum(r.devices for r in rejection.reasons) == sum(len(n.devices) for n in fleet)


@settings(max_examples=60, deadline=None)
@given(fleet=fleets, batch=batches, seed=st.integers(0, 2**16))
def test_an_engine_rebuilt_from_the_ledger_decides_the_same(fleet: Any, batch: Any, seed: int) -> None:
    """After a crash: nodes and jobs come in another order, claims from the ledger.

    Forecasts that may be kept for a while though claims changed (`plan_retry_seconds`) are made anew by the new one.
    """
    policy = Policy(plan_retry_seconds=0.0)
    engine = an_engine(*fleet, policy=policy)
    half = len(batch) // 2
    for job in batch[:half]:
        engine.submit(job)
    placed = {d.job_id: d for d in engine.cycle(NOW).decisions}
    shuffle = random.Random(seed).sample
    rebuilt = an_engine(*shuffle(fleet, len(fleet)), policy=policy)
    for job in shuffle(batch[:half], half):
        if job.job_id in placed:
            rebuilt.restore(Claim(job, placed[job.job_id].members, placed_at=NOW))
        else:
            rebuilt.submit(job)
    assert rebuilt.state_digest() == engine.state_digest()
    for one in (engine, rebuilt):
        for job in batch[half:]:
            one.submit(job)
    assert _where(rebuilt.cycle(NOW).decisions) == _where(engine.cycle(NOW).decisions)


def _where(decisions: tuple[Decision, ...]) -> list[Any]:
    return [(d.job_id, d.members, d.candidates[0]) for d in decisions]


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.sampled_from((1.0, 2.0, 3.0)), min_size=2, max_size=4), devices=st.sampled_from((8, 24)))
def test_no_queue_is_more_than_a_job_ahead_of_its_share(weights: list[float], devices: int) -> None:
    engine = an_engine(a_node("n1", devices, cpu_milli=0, memory_bytes=0))
    engine.set_queues([Queue(f"q{i}", weight=w) for i, w in enumerate(weights)])
    for i in range(len(weights)):
        for j in range(devices):
            engine.submit(a_job(f"{i}-{j}", queue=f"q{i}"))
    won = Counter(d.job_id.split("-")[0] for d in engine.cycle(NOW).decisions)
    assert sum(won.values()) == devices
    for i, weight in enumerate(weights):
        assert abs(won[str(i)] - devices * weight / sum(weights)) <= len(weights)
        for j, other in enumerate(weights):
            # The last job of i was given while i was not ahead of j.
            assert (won[str(i)] - 1) / weight <= won[str(j)] / other
