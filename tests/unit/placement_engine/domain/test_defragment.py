"""A few moves that make a waiting job fit: proposed, or done where policy and jobs allow it."""

from dataclasses import replace
from typing import Any

import pytest

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Advice, AdviceKind, Job, Move, Preemption, PreemptionKind
from placement_engine.domain.policy import DefragmentPolicy, Policy
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, an_engine
from tests.unit.placement_engine.domain.test_preemption import EAGER, a_victim, run_on, submit
from tests.unit.placement_engine.domain.virtual_clock import VirtualClock

PROPOSE = replace(EAGER, defragment_after_seconds=0)
ACT = replace(PROPOSE, defragment=DefragmentPolicy.ACT)
WAITS = a_job("w", devices=8)


def half_full(policy: Policy, **changes: Any) -> Engine:
    """Two nodes of eight with four devices taken on each."""
    engine = an_engine(a_node("n1"), a_node("n2"), policy=policy)
    run_on(engine, "n1", a_victim("a", ran=100.0, **changes))
    run_on(engine, "n2", a_victim("b", ran=50.0, **changes))
    return engine


def test_the_cheapest_move_is_proposed_and_nobody_is_stopped() -> None:
    engine = half_full(PROPOSE, preemptible=False)
    result = submit(engine, WAITS)
    assert (result.decisions, result.preemptions) == ((), ())
    assert result.advice == (
        Advice(
            kind=AdviceKind.DEFRAGMENT,
            subject="w",
            message="moving b to other nodes would make job w fit on n2",
            moves=(Move("b", ("n2",), ("n1",)),),
            numbers={"moves": 1.0, "work_lost_seconds": 200.0},
        ),
    )


def test_where_the_policy_says_so_preemptible_jobs_are_moved_and_every_place_is_kept() -> None:
    engine = half_full(ACT)
    result = submit(engine, WAITS)
    message = "moves, so that w fits; its new place is kept"
    assert result.preemptions == (Preemption("b", 0, "w", PreemptionKind.DEFRAGMENT, 200.0, message),)
    assert result.advice[0].message == "moves b to other nodes makes job w fit on n2"
    for second in (1, 2):
        again = submit(engine, a_job("thief", devices=4, submitted_at=1.0), now=NOW + second)
        assert (again.decisions, again.preemptions, again.advice) == ((), (), ())
    claim = engine.holds("b")
    assert claim is not None
    engine.release("b")
    engine.submit(replace(claim.job, attempt=1))
    after = {d.job_id: d.members[0].node for d in engine.cycle(NOW + 3).decisions}
    assert after == {"b": "n1", "w": "n2"}


@pytest.mark.parametrize(("facts"), [{"preemptible": False}, {"priority": 1}])
def test_what_may_not_be_moved_is_proposed(facts: dict[str, Any]) -> None:
    engine = half_full(ACT, **facts)
    result = submit(engine, WAITS)
    assert result.preemptions == ()
    assert [advice.moves for advice in result.advice] == [(Move("b", ("n2",), ("n1",)),)]


@pytest.mark.parametrize(
    ("case", "policy", "waits"),
    [
        ("off", replace(PROPOSE, defragment=DefragmentPolicy.OFF), WAITS),
        ("has not waited long enough", replace(PROPOSE, defragment_after_seconds=NOW + 1), WAITS),
        ("no moves would do", PROPOSE, a_job("w", devices=8, replicas=2)),
        ("too many moves", replace(PROPOSE, defragment_moves=0), WAITS),
    ],
)
def test_nothing_is_proposed(case: str, policy: Policy, waits: Job) -> None:
    assert submit(half_full(policy), waits).advice == (), case


def test_nothing_is_proposed_where_the_moved_would_find_no_place() -> None:
    engine = half_full(PROPOSE)
    run_on(engine, "n1", a_victim("c", ran=70.0, devices=2), first=4)
    moves = submit(engine, WAITS).advice
    assert moves == (), "b does not fit beside a and c, nor a beside b with c"
    engine.apply_node(a_node("n3", 2, schedulable=True))
    assert [m.job_id for m in engine.cycle(NOW + 1).advice[0].moves] == ["c", "a"]


def test_the_largest_go_where_the_cheapest_would_be_too_many() -> None:
    nodes = a_node("n1"), a_node("n2", 4, executors=("other",))
    engine = an_engine(*nodes, policy=replace(PROPOSE, defragment_moves=1))
    for i in range(4):
        run_on(engine, "n1", a_victim(f"small{i}", ran=1.0 + i, devices=1), first=i)
    run_on(engine, "n1", a_victim("large", ran=9.0, devices=4), first=4)
    result = submit(engine, a_job("w", devices=4, executor="simulated"))
    assert [move.job_id for move in result.advice[0].moves] == ["large"]


def test_it_is_looked_for_at_most_once_in_the_time_the_policy_says() -> None:
    engine = half_full(replace(PROPOSE, defragment_after_seconds=60.0))
    assert len(submit(engine, WAITS).advice) == 1
    assert engine.cycle(NOW + 59).advice == ()
    assert len(engine.cycle(NOW + 60).advice) == 1


def test_moves_on_a_virtual_clock_let_the_gang_start_and_lose_nobody() -> None:
    engine = an_engine(*(a_node(f"n{i}", 4) for i in range(3)), policy=ACT)
    jobs = [a_job(f"s{i}", devices=3, preemptible=True, submitted_at=0.0) for i in range(3)]
    jobs += [a_job(f"f{i}", devices=1, preemptible=True, submitted_at=1.0) for i in range(3)]
    jobs += [a_job("gang", devices=4, submitted_at=10.0)]
    lasts = {"s0": 20.0, "s1": 20.0, "s2": 500.0, "f0": 500.0, "f1": 500.0, "f2": 500.0, "gang": 50.0}
    clock = VirtualClock(engine, jobs, lasts, stopping=2.0).run()
    assert [(at, p.job_id) for at, p in clock.preempted if p.kind is PreemptionKind.DEFRAGMENT]
    assert {job_id for _, job_id in clock.ended} == {job.job_id for job in jobs}
    assert {job_id: at for at, job_id in clock.placed}["gang"] == 22.0
