"""Jobs that can be checkpointed take turns: who is stopped for whom, and what nobody has to fear."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain import snapshot
from placement_engine.domain.attained import takes_turns
from placement_engine.domain.engine import Engine
from placement_engine.domain.model import CycleResult, Job, Node, Preemption, PreemptionKind, Profile, Queue, Quota
from placement_engine.domain.policy import Policy
from placement_engine.domain.rounds import PATIENCE_SECONDS, Rounds
from tests.unit.placement_engine.domain.builders import a_job, a_node

ROUND = 360.0
POLICY = Policy(round_seconds=ROUND, reservation_after_seconds=0.0, plan_retry_seconds=0.0)
SPEEDS = (Profile("w", "FAST", 1, throughput=4.0), Profile("w", "SLOW", 1, throughput=1.0))


def in_turns(job_id: str, **changes: Any) -> Job:
    return a_job(job_id, **({"preemptible": True, "checkpoint_seconds": 60.0} | changes))


@dataclass(slots=True)
class Runner:
    """The real engine, a cycle every `step` seconds. Work is done at speed 1; `lasts`: seconds of it by job. Who is
    stopped waits again `stopping` seconds later."""

    engine: Engine
    lasts: dict[str, float] = field(default_factory=dict)
    step: float = 60.0
    stopping: float = 0.0
    now: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    stops: list[tuple[float, Preemption]] = field(default_factory=list)
    waits_since: dict[str, float] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    leaving: list[tuple[float, str]] = field(default_factory=list)

    def submit(self, *jobs: Job) -> "Runner":
        for job in jobs:
            job = replace(job, submitted_at=self.now)
            self.jobs[job.job_id] = job
            self.waits_since[job.job_id] = self.now
            self.engine.submit(job)
        return self

    def run(self, until: float) -> "Runner":
        while self.now < until:
            self.cycle()
            self.now += self.step
            self._end()
        self.cycle()
        return self

    def cycle(self) -> None:
        for _ in range(50):
            self._leave()
            result = self.engine.cycle(self.now)
            self._take(result)
            if not result.decisions and not result.preemptions:
                return
        raise AssertionError(f"no rest at {self.now}")

    def _take(self, result: CycleResult) -> None:
        for decision in result.decisions:
            job_id = decision.job_id
            assert len(decision.members) == self.jobs[job_id].replicas, "half a gang"
            self.engine.started(job_id, decision.attempt, self.now)
            waited = self.now - self.waits_since.pop(job_id)
            self.longest[job_id] = max(self.longest.get(job_id, 0.0), waited)
        for one in result.preemptions:
            assert self.jobs[one.job_id].preemptible, "who is not preemptible was stopped"
            self.stops.append((self.now, one))
            self.leaving.append((self.now + self.stopping, one.job_id))

    def _leave(self) -> None:
        for at, job_id in [one for one in self.leaving if one[0] <= self.now]:
            self.leaving.remove((at, job_id))
            claim = self.engine.holds(job_id)
            if claim is None:
                continue
            ran = self.now - (claim.started_at or self.now)
            self.done[job_id] += int(ran - math.fmod(ran, claim.job.checkpoint_seconds or ran or 1.0))
            self.engine.release(job_id, self.now)
            self.waits_since[job_id] = self.now
            self.jobs[job_id] = replace(self.jobs[job_id], attempt=claim.job.attempt + 1)
            self.engine.submit(self.jobs[job_id])

    def _end(self) -> None:
        for job_id in sorted(self.jobs):
            claim = self.engine.holds(job_id)
            if claim is None or claim.started_at is None or job_id in self.ended:
                continue
            if self.done[job_id] + self.now - claim.started_at >= self.lasts.get(job_id, math.inf):
                self.ended[job_id] = self.now
                self.engine.release(job_id, self.now)

    def runs(self) -> dict[str, str]:
        """Model by job."""
        claims = {job_id: self.engine.holds(job_id) for job_id in sorted(self.jobs)}
        return {job_id: one.members[0].devices[0].model for job_id, one in claims.items() if one is not None}


def a_runner(*nodes: Node, policy: Policy = POLICY, profiles: Iterable[Profile] = SPEEDS, **changes: Any) -> Runner:
    engine = Engine(policy)
    engine.set_profiles(profiles)
    for node in nodes:
        engine.apply_node(node)
    return Runner(engine, **changes)


@pytest.mark.parametrize(
    ("changes", "turns"),
    [
        ({}, True),
        ({"replicas": 4}, True),
        ({"preemptible": False}, False),
        ({"checkpoint_seconds": None}, False),
        ({"devices": 0, "device_milli": 500}, False),
        ({"max_devices": 2}, False),
        ({"replicas": 4, "min_replicas": 2}, False),
        ({"deadline": 1e9}, False),
        ({"latency_target_seconds": 1.0}, False),
    ],
)
def test_who_takes_turns(changes: dict[str, Any], turns: bool) -> None:
    assert takes_turns(in_turns("j", **changes)) is turns


def test_without_rounds_a_job_keeps_its_place() -> None:
    runner = a_runner(a_node(devices=1), policy=replace(POLICY, round_seconds=0.0))
    runner.submit(in_turns("a")).run(ROUND)
    runner.submit(in_turns("b")).run(10 * 3600)
    assert runner.runs() == {"a": "H100"}
    assert runner.stops == []


def test_equal_jobs_share_a_device_in_long_turns_and_lose_no_more_than_since_the_checkpoint() -> None:
    runner = a_runner(a_node(devices=1))
    runner.submit(in_turns("a"), in_turns("b")).run(24 * 3600)
    assert {one.kind for _, one in runner.stops} == {PreemptionKind.ROUND}
    assert all(one.work_lost_seconds < 60.0 for _, one in runner.stops)
    # Ping-pong: whoever took a place keeps it for much longer than a round, and what both got is about the same.
    times = [at for at, _ in runner.stops]
    assert 2 <= len(times) <= 24
    assert min(np.diff(times)) >= 4 * ROUND
    assert max(runner.longest.values()) <= PATIENCE_SECONDS + 2 * ROUND


def test_a_stop_keeps_the_place_for_who_takes_it() -> None:
    runner = a_runner(a_node(devices=1), stopping=120.0)
    runner.submit(in_turns("a"), in_turns("b"))
    while not runner.stops:
        runner.run(runner.now + 60)
    at, stop = runner.stops[0]
    runner.submit(in_turns("c", preemptible=False, checkpoint_seconds=None))
    assert (stop.job_id, stop.for_job_id, stop.message) == ("a", "b", "its round is over: its place goes to b")
    rejection = runner.engine.explain("b", at)
    assert rejection is not None
    assert rejection.reasons[0].code == "PREEMPTING"
    assert rejection.nominated == ("n1",)
    runner.run(at + 180)
    assert runner.runs() == {"b": "H100"}


def test_who_waits_for_its_turn_is_told() -> None:
    runner = a_runner(a_node(devices=1))
    runner.submit(in_turns("a")).run(60)
    runner.submit(in_turns("b")).run(120)
    rejection = runner.engine.explain("b", runner.now)
    assert rejection is not None
    assert rejection.reasons[0].code == "NOT_ITS_TURN"
    assert rejection.reasons[0].numbers["round_ends_in_seconds"] == 240.0


def test_a_job_goes_on_where_it_is_faster_once_that_is_free() -> None:
    runner = a_runner(a_node("f", 1, "FAST"), a_node("s", 1, "SLOW"), lasts={"a": 1000.0})
    runner.submit(in_turns("a", workload="w", preemptible=False), in_turns("b", workload="w")).run(900)
    assert runner.runs() == {"a": "FAST", "b": "SLOW"}
    runner.run(2000)
    assert runner.runs() == {"b": "FAST"}
    assert [one.message for _, one in runner.stops] == [
        "goes on on FAST, where its work is worth more; the place is kept"
    ]


def test_the_fast_kind_goes_to_the_one_that_gains_by_it() -> None:
    profiles = (*SPEEDS, Profile("v", "FAST", 1, throughput=1.0), Profile("v", "SLOW", 1, throughput=0.95))
    runner = a_runner(a_node("f", 1, "FAST"), a_node("s", 1, "SLOW"), profiles=profiles)
    runner.submit(in_turns("v", workload="v")).run(60)
    runner.submit(in_turns("w", workload="w")).run(2 * ROUND)
    assert runner.runs() == {"v": "SLOW", "w": "FAST"}


def test_a_higher_priority_goes_first_and_a_lower_one_never_takes_its_place() -> None:
    runner = a_runner(a_node(devices=2))
    runner.submit(*(in_turns(f"high{i}", priority=1) for i in range(2)), *(in_turns(f"low{i}") for i in range(4)))
    runner.run(24 * 3600)
    assert sorted(runner.runs()) == ["high0", "high1"]
    assert runner.stops == []


def test_one_that_takes_no_turns_makes_room_when_it_has_waited_too_long_and_stays() -> None:
    runner = a_runner(a_node(devices=2))
    runner.submit(*(in_turns(f"a{i}") for i in range(6))).run(ROUND)
    runner.submit(a_job("n", devices=2)).run(PATIENCE_SECONDS + 3 * ROUND)
    assert runner.longest["n"] <= PATIENCE_SECONDS + 2 * ROUND
    runner.run(40 * 3600)
    assert runner.runs() == {"n": "H100"}


def test_a_member_of_a_whole_node_gets_it_though_small_ones_sit_on_every_node() -> None:
    runner = a_runner(*(a_node(f"n{i}", 2) for i in range(3)))
    runner.submit(*(in_turns(f"a{i}") for i in range(9))).run(ROUND)
    runner.submit(in_turns("whole", devices=2)).run(24 * 3600)
    assert runner.longest["whole"] <= PATIENCE_SECONDS + 2 * ROUND


def test_queues_share_a_round_by_weight_whatever_an_hour_of_their_work_is_worth() -> None:
    runner = a_runner(a_node(devices=8), policy=replace(POLICY, usage_half_life_seconds=0.0))
    runner.engine.set_queues([Queue("a", weight=3.0), Queue("b")])
    runner.submit(*(in_turns(f"a{i:02d}", queue="a") for i in range(20))).run(ROUND)
    runner.submit(*(in_turns(f"b{i:02d}", queue="b") for i in range(20))).run(3 * ROUND)
    assert Counter(job_id[0] for job_id in runner.runs()) == {"a": 6, "b": 2}


def test_a_round_stays_within_the_quotas() -> None:
    runner = a_runner(a_node(devices=4))
    runner.engine.set_queues([Queue("a", quotas=(Quota("", 3000, 0),)), Queue("b", quotas=(Quota("", 1000, 0),))])
    runner.submit(*(in_turns(f"a{i}", queue="a") for i in range(6)), *(in_turns(f"b{i}", queue="b") for i in range(6)))
    for _ in range(60):
        runner.run(runner.now + 2 * ROUND)
        assert Counter(job_id[0] for job_id in runner.runs()) == {"a": 3, "b": 1}


def test_protected_run_time_holds() -> None:
    runner = a_runner(a_node(devices=1), policy=replace(POLICY, protected_seconds=5 * 3600.0))
    runner.submit(in_turns("a"), in_turns("b")).run(5 * 3600 - 60)
    assert runner.stops == []


def test_what_a_job_has_received_is_read_back_from_its_claim() -> None:
    """An old job's index has fallen; the engine that takes over still knows that it is old."""
    before = a_runner(a_node(devices=2))
    before.submit(in_turns("old"), in_turns("new")).run(3 * 3600)
    after = Engine(POLICY)
    after.apply_node(a_node(devices=2))
    for job_id in ("old", "new"):
        claim = before.engine.holds(job_id)
        assert claim is not None
        after.restore(replace(claim, started_at=0.0 if job_id == "old" else before.now))
    for passed in range(5):
        after.cycle(before.now + passed * ROUND)
    accounts = after._rounds._attained._accounts
    assert [accounts[job_id].told for job_id in ("old", "new")] == [before.now + 4 * ROUND, 4 * ROUND]


def test_a_snapshot_between_rounds_goes_on_the_same() -> None:
    runner = a_runner(
        a_node("f", 2, "FAST"), a_node("s", 2, "SLOW"), lasts={f"j{i}": 4000.0 * (i + 1) for i in range(8)}
    )
    runner.submit(*(in_turns(f"j{i}", workload="w", replicas=1 + i % 2) for i in range(8))).run(5000)
    copy = snapshot.load(snapshot.from_bytes(snapshot.to_bytes(snapshot.dump(runner.engine, runner.now))))
    assert copy.state_digest() == runner.engine.state_digest()
    for now in np.arange(runner.now, runner.now + 8 * 3600, 300.0).tolist():
        first, second = runner.engine.cycle(now), copy.cycle(now)
        assert repr(first) == repr(second)
        for engine in (runner.engine, copy):
            for decision in first.decisions:
                engine.started(decision.job_id, decision.attempt, now)
            for one in first.preemptions:
                job = engine.holds(one.job_id).job  # type: ignore[union-attr]
                engine.release(one.job_id, now)
                engine.submit(replace(job, attempt=job.attempt + 1))
    assert snapshot.to_bytes(snapshot.dump(copy, 0.0)) == snapshot.to_bytes(
        snapshot.dump(snapshot.load(snapshot.dump(copy, 0.0)), 0.0)
    )


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[float, Job, float]]:
    """When each job comes, the job, and for how long it works."""
    found = []
    for number in range(draw(st.integers(2, 14))):
        turns = draw(st.integers(0, 3)) > 0
        job = a_job(
            f"j{number:02d}",
            devices=draw(st.sampled_from([1, 1, 2])),
            replicas=draw(st.sampled_from([1, 1, 2, 3])),
            queue=draw(st.sampled_from(["a", "b"])),
            priority=draw(st.sampled_from([0, 0, 0, 1])),
            workload=draw(st.sampled_from(["w", ""])),
            preemptible=turns,
            checkpoint_seconds=60.0 if turns else draw(st.sampled_from([None, 60.0])),
        )
        found.append((draw(st.integers(0, 10)) * 600.0, job, draw(st.sampled_from([600.0, 3600.0, 20_000.0]))))
    return sorted(found, key=lambda one: one[0])


@settings(max_examples=25, deadline=None)
@given(streams(), st.sampled_from([0.0, 90.0]), st.sampled_from([(4, 4), (6, 2), (8, 0)]))
def test_whatever_comes_no_half_gang_no_ping_pong_and_nobody_waits_for_ever(
    stream: list[tuple[float, Job, float]], stopping: float, sizes: tuple[int, int]
) -> None:
    fleet = zip(("FAST", "SLOW"), sizes, strict=True)
    nodes = [a_node(model.lower(), size, model) for model, size in fleet if size]
    runner = a_runner(*nodes, lasts={job.job_id: seconds for _, job, seconds in stream}, stopping=stopping, step=120.0)
    for at, job, _ in stream:
        runner.run(at)
        runner.submit(job)
    runner.run(max(at for at, _, _ in stream) + 60 * 3600)
    # Whoever fits on the fleet at all ends: the true work of all is less than the time there was.
    fits = {job.job_id for _, job, _ in stream if any(size // job.devices >= job.replicas for size in sizes)}
    assert set(runner.ended) == fits
    taken: dict[tuple[str, str], float] = {}
    last: dict[str, float] = {}
    for at, one in runner.stops:
        if one.kind is not PreemptionKind.ROUND:
            continue
        # Nobody is stopped twice within half a round, nor soon by the one whose place it took.
        assert at - last.get(one.job_id, -math.inf) >= ROUND / 2
        assert at - taken.get((one.for_job_id, one.job_id), -math.inf) >= ROUND or one.for_job_id == one.job_id
        last[one.job_id] = at
        taken[one.job_id, one.for_job_id] = at


def test_overdue_jobs_for_which_there_is_no_room_do_not_keep_others_from_theirs() -> None:
    runner = a_runner(a_node("n1", 1), a_node("n2", 1))
    runner.submit(*(in_turns(f"a{i}") for i in range(4))).run(ROUND)
    # Room for two on one node there never is.
    runner.submit(*(a_job(f"big{i:02d}", devices=2) for i in range(40))).run(2 * ROUND)
    runner.submit(a_job("small")).run(PATIENCE_SECONDS + 20 * ROUND)
    assert "small" in runner.runs()


def test_no_room_is_made_of_what_a_queue_would_take_back_at_once() -> None:
    runner = a_runner(a_node(devices=1))
    runner.engine.set_queues([Queue("a", quotas=(Quota("", 1000),)), Queue("b")])
    runner.submit(in_turns("x", queue="a")).run(60)
    runner.submit(a_job("n", queue="b", preemptible=True)).run(PATIENCE_SECONDS + 20 * ROUND)
    assert runner.stops == []
    # What it borrowed it gives.
    runner.engine.set_queues([Queue("a", quotas=(Quota("", 0),)), Queue("b")])
    runner.run(runner.now + 5 * ROUND)
    assert runner.runs() == {"n": "H100"}


def test_the_patience_of_one_that_comes_back_counts_from_when_it_ran() -> None:
    runner = a_runner(a_node(devices=1))
    came = runner.now
    runner.submit(a_job("n")).run(PATIENCE_SECONDS + 3600)
    # It failed, say, and waits again.
    runner.engine.release("n", runner.now)
    failed_at = runner.now
    runner.submit(in_turns("a")).run(runner.now + 60)
    runner.engine.submit(replace(runner.jobs["n"], submitted_at=came, attempt=2))
    runner.waits_since["n"] = runner.now
    runner.run(failed_at + PATIENCE_SECONDS - 2 * ROUND)
    assert runner.stops == []
    runner.run(failed_at + PATIENCE_SECONDS + 5 * ROUND)
    assert runner.runs() == {"n": "H100"}


def test_a_stop_that_could_not_be_committed_is_planned_again_at_the_next_end() -> None:
    runner = a_runner(a_node(devices=1), stopping=600.0)
    runner.submit(in_turns("a"), in_turns("b"))
    while not runner.stops:
        runner.run(runner.now + 60)
    at, stop = runner.stops[0]
    runner.leaving.clear()
    runner.engine.undo_preemption(stop.job_id, stop.attempt)
    runner.run(at + ROUND)
    assert [when for when, _ in runner.stops] == [at, at + ROUND]


def full(*jobs: Job) -> tuple[Runner, Rounds, int]:
    """These wait for the one device, which another has: the runner, its rounds, and the device's model."""
    runner = a_runner(a_node(devices=1), lasts={"x": 600.0})
    runner.submit(a_job("x")).run(60)
    runner.submit(*jobs).run(540)
    return runner, runner.engine._rounds, runner.engine._fleet.models.names.index("H100")


def test_who_once_did_not_fit_is_tried_where_nothing_else_is_left() -> None:
    runner, rounds, model = full(in_turns("a"))
    rounds._unfit["a"] = [model]
    runner.run(600)
    assert runner.runs() == {"a": "H100"}


def test_who_did_not_fit_does_not_hide_the_one_behind_it() -> None:
    runner, rounds, model = full(in_turns("a"), in_turns("b"))
    rounds._kinds["a"] = model
    rounds._mark("a")
    assert rounds.missed(["a"])
    runner.engine.release("x", 600.0)
    decisions = runner.engine.cycle(600.0).decisions
    assert [decision.job_id for decision in decisions] == ["b"]
