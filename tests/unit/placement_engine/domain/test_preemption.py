"""Who is stopped for whom: by priority and by reclaim, least harm first, and that it comes to rest."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import (
    Accelerator,
    Claim,
    CycleResult,
    Decision,
    Job,
    Node,
    Preemption,
    PreemptionKind,
    Queue,
    Quota,
)
from placement_engine.domain.policy import DefragmentPolicy, Policy
from placement_engine.domain.preemption import Preemptor
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.victims import in_words, told_to
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, a_sample, an_engine, placed
from tests.unit.placement_engine.domain.virtual_clock import VirtualClock

EAGER = Policy(
    reservation_after_seconds=0,
    plan_retry_seconds=0,
    forecasts_per_cycle=1000,
    backfill_tries=1000,
    preemptions_per_cycle=1000,
    reasons_max_age_seconds=0,
)


def a_victim(job_id: str, *, ran: float | None = None, **changes: Any) -> Job:
    """Preemptible; `ran` seconds at NOW, None: placed, not started."""
    return a_job(job_id, **({"preemptible": True, "devices": 4, "name": f"{'' if ran is None else ran}"} | changes))


def run_on(engine: Engine, node: str, job: Job, first: int = 0) -> None:
    """Puts the job on the node's devices from `first` on, as the ledger would say."""
    facts = engine._fleet.nodes[node].node
    from placement_engine.domain.model import DeviceClaim, Member

    devices = tuple(
        DeviceClaim(d.device_id, d.index, job.device_milli or 1000, 0, d.model)
        for d in facts.devices[first : first + (job.devices or 1)]
    )
    began = float(job.name) if job.name else None
    claim = Claim(
        replace(job, name=""),
        (Member(0, node, devices, job.cpu_milli, job.memory_bytes),),
        placed_at=NOW - 1000,
        started_at=None if began is None else NOW - began,
    )
    engine.restore(claim)


def stopped(result: CycleResult) -> dict[str, str]:
    return {p.job_id: p.for_job_id for p in result.preemptions}


def submit(engine: Engine, *jobs: Job, now: float = NOW) -> CycleResult:
    for job in jobs:
        engine.submit(job)
    return engine.cycle(now)


# -- by priority -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("victim", "preemptor", "stops"),
    [
        ({"priority": 0}, {"priority": 1}, True),
        ({"priority": 1}, {"priority": 1}, False),
        ({"priority": 2}, {"priority": 1}, False),
        ({"priority": 0, "preemptible": False}, {"priority": 1}, False),
        ({"priority": 0, "devices": 8}, {"priority": 1, "devices": 9}, False),
        ({"priority": 0}, {"priority": 1, "models": ("L4",)}, False),
        ({"priority": 0, "queue": "other"}, {"priority": 1}, True),
    ],
)
def test_who_is_stopped_by_priority(victim: dict[str, Any], preemptor: dict[str, Any], stops: bool) -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", **({"devices": 8} | victim)))
    result = submit(engine, a_job("p", **({"devices": 4} | preemptor)))
    assert stopped(result) == ({"v": "p"} if stops else {})
    if stops:
        assert result.preemptions[0].kind is PreemptionKind.PRIORITY


def test_the_place_is_kept_until_the_victim_is_gone_and_then_taken() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", ran=100.0, devices=6))
    result = submit(engine, a_job("p", devices=8, priority=5))
    assert result.preemptions == (
        Preemption("v", 0, "p", PreemptionKind.PRIORITY, 600.0, "makes room for p of priority 5, its own is 0"),
    )
    told = {r.job_id: r.reasons[0] for r in result.rejections}["p"]
    assert (told.plugin, told.code, told.message) == (
        "Preemption",
        "PREEMPTING",
        "is given the devices of job v, being stopped: 600 device-seconds of work are lost",
    )
    assert told.numbers == {"jobs_before": 1.0, "devices": 8.0, "work_lost_seconds": 600.0}
    assert told_to(result.preemptions[0]) == (
        "makes room for p of priority 5, its own is 0; 600 device-seconds of work are lost"
    )
    later = submit(engine, a_job("same", devices=2, priority=5, submitted_at=9.0), a_job("low", devices=1), now=NOW + 1)
    assert (later.decisions, later.preemptions) == ((), ()), "the free devices are kept, nobody is stopped twice"
    reasons = engine.explain("low", NOW + 1)
    assert reasons is not None
    assert reasons.reasons[0].code == "HELD_FOR_NOMINATION"
    engine.release("v")
    engine.submit(a_victim("v", attempt=1))
    after = engine.cycle(NOW + 3)
    assert [d.job_id for d in after.decisions] == ["p"]
    assert after.preemptions == ()


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (0.0, ""),
        (0.9, ""),
        (7199.0, "7199 device-seconds of work are lost"),
        (9000.0, "2.5 device-hours of work are lost"),
    ],
)
def test_what_is_lost_in_words(lost: float, words: str) -> None:
    assert in_words(lost) == words


def test_a_higher_priority_passes_over_a_nomination() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", devices=6))
    submit(engine, a_job("p", devices=8, priority=5))
    result = submit(engine, a_job("above", devices=2, priority=6), now=NOW + 1)
    assert [d.job_id for d in result.decisions] == ["above"]
    engine.release("v")
    assert engine.cycle(NOW + 2).decisions == ()
    engine.release("above")
    assert [d.job_id for d in engine.cycle(NOW + 3).decisions] == ["p"]


def test_least_harm_first() -> None:
    """Each row: two jobs of four devices; which of them a job of four devices stops."""
    often = {"checkpoint_seconds": 30.0}
    table: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("less work lost", {"ran": 100.0}, {"ran": 50.0}, "b"),
        ("not started yet", {"ran": 1.0}, {"ran": None}, "b"),
        ("since its checkpoint", {"ran": 100.0}, {"ran": 1030.0, "checkpoint_seconds": 60.0}, "b"),
        ("then the lower priority", {"ran": 10.0, "priority": 1}, {"ran": 10.0, "priority": 0}, "b"),
        ("then the younger", {"ran": 60.0, **often}, {"ran": 30.0, **often}, "b"),
        ("then the name", {"ran": 10.0}, {"ran": 10.0}, "a"),
    ]
    for case, first, second, expected in table:
        engine = an_engine(a_node("n1"), policy=EAGER)
        run_on(engine, "n1", a_victim("a", **first))
        run_on(engine, "n1", a_victim("b", **second), first=4)
        assert stopped(submit(engine, a_job("p", devices=4, priority=2))) == {expected: "p"}, case


def test_victims_that_sit_together_rather_than_the_cheapest_anywhere() -> None:
    engine = an_engine(*(a_node(f"n{i}", 4) for i in range(4)), policy=EAGER)
    for i in range(3):
        run_on(engine, f"n{i}", a_victim(f"cheap{i}", ran=1.0, devices=1))
        run_on(engine, f"n{i}", a_victim(f"dear{i}", ran=1000.0, devices=3), first=1)
    for i in range(4):
        run_on(engine, "n3", a_victim(f"fair{i}", ran=30.0 + i, devices=1), first=i)
    assert stopped(submit(engine, a_job("p", devices=4, priority=1))) == {f"fair{i}": "p" for i in range(4)}


def test_no_victim_that_is_not_needed() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    for i in range(4):
        run_on(engine, "n1", a_victim(f"small{i}", ran=float(i + 1), devices=1), first=i)
    run_on(engine, "n1", a_victim("large", ran=10.0, devices=4), first=4)
    assert stopped(submit(engine, a_job("p", devices=4, priority=1))) == {f"small{i}": "p" for i in range(4)}
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("small", ran=1.0, devices=1))
    run_on(engine, "n1", a_victim("large", ran=10.0, devices=7), first=1)
    assert stopped(submit(engine, a_job("p", devices=7, priority=1))) == {"large": "p"}


def test_a_gang_is_stopped_whole_and_a_gang_may_preempt() -> None:
    engine = an_engine(a_node("n1"), a_node("n2"), policy=EAGER)
    assert placed(engine, a_job("gang", devices=8, replicas=2, preemptible=True))
    result = submit(engine, a_job("p", devices=1, priority=1))
    assert stopped(result) == {"gang": "p"}
    engine.release("gang")
    assert [d.job_id for d in engine.cycle(NOW).decisions] == ["p"]
    nodes = [a_node(f"n{i}", rack=f"r{i // 2}") for i in range(4)]
    engine = an_engine(*nodes, policy=EAGER)
    for i in range(4):
        run_on(engine, f"n{i}", a_victim(f"v{i}", ran=10.0 * (1 + abs(i - 1)), devices=8))
    wide = a_job("w", devices=8, replicas=2, priority=1, topology_level="rack", topology_required=True)
    assert stopped(submit(engine, wide)) == {"v0": "w", "v1": "w"}, "v1 and v2 are cheaper but in two racks"


def test_protected_seconds_of_policy_and_queue() -> None:
    for policy_seconds, queue_seconds, stops in (
        (0.0, 0.0, True),
        (31.0, 0.0, False),
        (0.0, 31.0, False),
        (30.0, 30.0, True),
    ):
        engine = an_engine(a_node("n1"), policy=replace(EAGER, protected_seconds=policy_seconds))
        engine.set_queues([Queue("q", protected_seconds=queue_seconds)])
        run_on(engine, "n1", a_victim("v", ran=30.0, devices=8, queue="q"))
        assert bool(stopped(submit(engine, a_job("p", priority=1)))) is stops


def test_each_of_many_alike_gets_its_place_in_one_cycle() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    for i in range(8):
        run_on(engine, "n1", a_victim(f"v{i}", ran=10.0 + i, devices=1), first=i)
    result = submit(engine, *(a_job(f"p{i}", priority=1) for i in range(3)))
    assert stopped(result) == {"v0": "p0", "v1": "p1", "v2": "p2"}
    for i in range(3):
        engine.release(f"v{i}")
    assert {d.job_id: d.members[0].devices[0].index for d in engine.cycle(NOW).decisions} == {"p0": 0, "p1": 1, "p2": 2}


def test_a_place_that_is_on_its_way_already_needs_no_victim() -> None:
    """Also after a restart: the ledger says who is being stopped, for whom it was is found again."""
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", ran=10.0))
    run_on(engine, "n1", a_victim("other", ran=1.0), first=4)
    engine.ending("v")
    result = submit(engine, a_job("p", devices=4, priority=1))
    assert result.preemptions == ()
    engine.release("v")
    assert [d.job_id for d in engine.cycle(NOW).decisions] == ["p"]


def test_a_preemption_that_could_not_be_committed_is_taken_back() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", devices=8))
    engine.submit(a_job("p", priority=1))
    before = engine.state_digest()
    assert stopped(engine.cycle(NOW)) == {"v": "p"}
    assert engine.state_digest() != before
    engine.undo_preemption("v", 1)
    assert engine.state_digest() != before, "another attempt"
    engine.undo_preemption("v", 0)
    assert engine.state_digest() == before
    assert stopped(engine.cycle(NOW + 1)) == {"v": "p"}


def test_a_placement_that_could_not_be_committed_keeps_the_place_that_was_freed_for_it() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", devices=8))
    assert stopped(submit(engine, a_job("p", devices=8, priority=1))) == {"v": "p"}
    engine.release("v")
    before = engine.state_digest()
    assert [d.job_id for d in engine.cycle(NOW + 1).decisions] == ["p"]
    engine.undo("p", 0)
    assert engine.state_digest() == before
    earlier = a_job("q", devices=4, priority=1, submitted_at=-1.0)
    assert [d.job_id for d in submit(engine, earlier, now=NOW + 2).decisions] == ["p"]


def test_a_preemptor_that_is_withdrawn_or_placed_leaves_its_nomination() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", devices=6))
    submit(engine, a_job("p", devices=4, priority=1))
    engine.withdraw("p")
    assert [d.job_id for d in submit(engine, a_job("low", devices=2), now=NOW + 1).decisions] == ["low"]
    engine = an_engine(a_node("n1"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", devices=6))
    submit(engine, a_job("p", devices=4, priority=1))
    engine.apply_node(a_node("n2"))
    assert [d.members[0].node for d in engine.cycle(NOW + 1).decisions] == ["n2"]
    assert [d.job_id for d in submit(engine, a_job("low", devices=2), now=NOW + 2).decisions] == ["low"]


def test_a_place_where_the_job_does_not_fit_after_all_is_given_up_in_time() -> None:
    engine = an_engine(a_node("n1"), a_node("n2"), policy=EAGER)
    run_on(engine, "n1", a_victim("v", ran=1.0, devices=8))
    run_on(engine, "n2", a_victim("w", ran=9.0, devices=8))
    assert stopped(submit(engine, a_job("p", devices=8, priority=1))) == {"v": "p"}
    engine.apply_node(a_node("n1", schedulable=False))
    engine.release("v")
    assert engine.cycle(NOW + 1).preemptions == ()
    assert engine.cycle(NOW + 60).preemptions == (), "its work may be slow to leave telemetry"
    assert stopped(engine.cycle(NOW + 61)) == {"w": "p"}


def test_it_is_given_up_in_time_also_behind_a_job_alike_that_is_tried_first() -> None:
    """The job whose place it is is passed over with those alike: nobody asked whether it still fits."""
    policy = replace(EAGER, nomination_seconds=60.0)
    node = a_node("n1", 2)
    engine = an_engine(node, policy=policy)
    run_on(engine, "n1", a_victim("v", devices=1))
    assert stopped(submit(engine, a_job("p", devices=2, priority=1, submitted_at=NOW))) == {"v": "p"}
    engine.release("v")
    engine.apply_node(replace(node, devices=(node.devices[0], replace(node.devices[1], present=False))))
    engine.submit(a_job("first", devices=2, priority=1, submitted_at=NOW - 1))
    assert submit(engine, a_job("small", devices=1), now=NOW + 1).decisions == ()
    assert [d.job_id for d in engine.cycle(NOW + 62).decisions] == ["small"]


def test_nobody_is_preempted_where_the_policy_says_so() -> None:
    engine = an_engine(a_node("n1"), policy=replace(EAGER, preemptions_per_cycle=0))
    run_on(engine, "n1", a_victim("v", devices=8))
    assert submit(engine, a_job("p", priority=1)).preemptions == ()


def test_host_resources_alone_may_be_what_is_freed() -> None:
    engine = an_engine(a_node("n1", cpu_milli=8000), policy=EAGER)
    run_on(engine, "n1", a_victim("v", devices=1, cpu_milli=8000))
    assert stopped(submit(engine, a_job("p", devices=1, cpu_milli=4000, priority=1))) == {"v": "p"}
    engine = an_engine(a_node("n1", 0, cpu_milli=8000), policy=EAGER)
    engine.submit(a_job("v", devices=0, cpu_milli=8000, preemptible=True))
    engine.cycle(NOW)
    assert stopped(submit(engine, a_job("p", devices=0, cpu_milli=4000, priority=1))) == {"v": "p"}


# -- by reclaim --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "other", "facts", "stops"),
    [
        ({}, {}, {"preemptible": True}, True),
        ({}, {}, {"preemptible": False}, False),
        ({}, {"quotas": (Quota("", 4000),)}, {"preemptible": False}, True),
        ({}, {}, {"preemptible": True, "priority": 1}, False),
        ({"weight": 0.2}, {}, {"preemptible": True}, False),
    ],
)
def test_who_is_stopped_by_reclaim(
    mine: dict[str, Any], other: dict[str, Any], facts: dict[str, Any], stops: bool
) -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    engine.set_queues([Queue("mine", **mine), Queue("other", **other)])
    for i in range(4):
        run_on(engine, "n1", a_victim(f"v{i}", ran=10.0 + i, devices=2, queue="other", **facts), first=2 * i)
    result = submit(engine, a_job("p", devices=4, queue="mine"))
    assert stopped(result) == ({"v0": "p", "v1": "p"} if stops else {})
    if stops:
        assert {p.kind for p in result.preemptions} == {PreemptionKind.RECLAIM}
        assert result.preemptions[0].message == "queue 'mine' takes back for p what 'other' holds beyond its own"


@pytest.mark.parametrize("quotas", [(), (Quota("", 4000),)])
@pytest.mark.parametrize("preemptible", [True, False])
def test_what_nobody_here_can_stop_is_in_no_plan(preemptible: bool, quotas: tuple[Quota, ...]) -> None:
    """Such as a pod that another scheduler bound: the plan would never come about, and who is in it beside it would be
    stopped for nothing."""
    engine = an_engine(a_node("n1"), policy=EAGER)
    engine.set_queues([Queue("mine"), Queue("other", quotas=quotas)])
    run_on(engine, "n1", a_victim("bound", queue="other", preemptible=preemptible))
    bound = engine.holds("bound")
    assert bound is not None
    engine.restore(replace(bound, stoppable=False))
    run_on(engine, "n1", a_victim("v", ran=10.0, queue="other"), first=4)
    assert stopped(submit(engine, a_job("p", devices=8, priority=1, queue="mine"))) == {}
    engine.withdraw("p")
    assert stopped(submit(engine, a_job("q", devices=4, priority=1, queue="mine"), now=NOW + 1)) == {"v": "q"}


def test_what_a_cycle_places_it_does_not_stop() -> None:
    """Where the one who owns what all can use comes last, it takes back in the next cycle."""
    engine = an_engine(a_node("n1", 1, model="L4"), a_node("n2", 1, schedulable=False), policy=EAGER)
    engine.set_queues([Queue("l4", quotas=(Quota("L4", 1000),)), Queue("h100", quotas=(Quota("H100", 1000),))])
    owners = [a_job(f"o{i}", device_milli=200, queue="l4", submitted_at=float(i)) for i in range(3)]
    result = submit(engine, a_job("b", device_milli=500, queue="h100"), *owners)
    assert [d.job_id for d in result.decisions] == ["b", "o0", "o1"]
    assert not result.preemptions
    assert stopped(engine.cycle(NOW + 1)) == {"b": "o2"}


def test_reclaim_leaves_the_other_what_it_owns_and_is_not_taken_back() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    engine.set_queues([Queue("mine"), Queue("other")])
    jobs = [a_victim(f"v{i}", devices=1, queue="other") for i in range(8)]
    assert len(placed(engine, *jobs)) == 8
    result = submit(engine, *(a_job(f"p{i}", queue="mine", submitted_at=1.0, preemptible=True) for i in range(8)))
    assert len(result.preemptions) == 4, "each owns four of eight"
    for p in result.preemptions:
        engine.release(p.job_id)
        engine.submit(replace(jobs[int(p.job_id[1:])], attempt=1))
    result = engine.cycle(NOW + 1)
    assert Counter(d.job_id[0] for d in result.decisions) == {"p": 4}
    for second in range(2, 6):
        result = engine.cycle(NOW + second)
        assert (result.decisions, result.preemptions) == ((), ())


def test_nobody_is_brought_below_what_it_owns_by_many_small_victims() -> None:
    engine = an_engine(a_node("n1", 9), policy=EAGER)
    engine.set_queues([Queue("mine"), Queue("cheap"), Queue("dear")])
    for i in range(9):
        queue, ran = ("cheap", 1.0 + i) if i < 5 else ("dear", 100.0 + i)
        run_on(engine, "n1", a_victim(f"{queue}{i}", ran=ran, devices=1, queue=queue), first=i)
    result = submit(engine, a_job("p", devices=3, queue="mine"))
    assert stopped(result) == {"cheap0": "p", "cheap1": "p", "dear5": "p"}, "each of three queues owns three"


def test_what_quotas_forbid_is_not_kept_and_what_was_borrowed_is_taken_back_though_devices_are_free() -> None:
    """Where a job is short of quota only, nothing but the end of who borrowed helps."""
    engine = an_engine(a_node("n1"), policy=EAGER)
    engine.set_queues([Queue("a", quotas=(Quota("H100", 2000),)), Queue("b", quotas=(Quota("H100", 0),))])
    run_on(engine, "n1", a_victim("v", devices=1, queue="b"))
    run_on(engine, "n1", a_victim("w", devices=1, queue="b"), first=1)
    assert stopped(submit(engine, a_job("mine", devices=1, queue="a"))) == {"v": "mine"}
    engine = an_engine(a_node("n1"), policy=EAGER)
    engine.set_queues([Queue("none", quotas=(Quota("H100", 0, borrowing_limit=0),))])
    run_on(engine, "n1", a_victim("ends", devices=1, priority=-1))
    assert stopped(submit(engine, a_job("never", devices=4, priority=1, queue="none"))) == {}
    assert [d.job_id for d in submit(engine, a_job("low", devices=7), now=NOW + 5).decisions] == ["low"]


def test_the_preemptible_go_first() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    engine.set_queues([Queue("mine"), Queue("other", quotas=(Quota("", 4000),))])
    run_on(engine, "n1", a_victim("bound", ran=1.0, queue="other", preemptible=False))
    run_on(engine, "n1", a_victim("free", ran=999.0, queue="other"), first=4)
    assert stopped(submit(engine, a_job("p", devices=4, queue="mine"))) == {"free": "p"}


# -- whatever comes ----------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn, queues: tuple[str, ...] = ("a",), reclaim: bool = False) -> list[Job]:
    made, at = [], 0.0
    for number in range(draw(st.integers(1, 16))):
        at += draw(st.sampled_from((0.0, 2.0, 10.0)))
        fraction = draw(st.integers(0, 3)) == 0
        made.append(
            a_job(
                f"j{number:02d}",
                devices=0 if fraction else draw(st.sampled_from((1, 1, 2, 4))),
                device_milli=draw(st.sampled_from((300, 600))) if fraction else 0,
                replicas=draw(st.sampled_from((1, 1, 1, 2, 3))),
                cpu_milli=draw(st.sampled_from((0, 0, 1000))),
                memory_bytes=draw(st.sampled_from((0, GIB))),
                priority=draw(st.integers(0, 3)),
                queue=draw(st.sampled_from(queues)),
                preemptible=draw(st.integers(0, 3)) > 0,
                checkpoint_seconds=draw(st.sampled_from((None, 7.0))),
                expected_duration_seconds=draw(st.sampled_from((None, 5.0, 40.0))),
                submitted_at=at,
            )
        )
    return made


def fleet_of(sizes: list[int]) -> list[Node]:
    return [a_node(f"n{i}", size, cpu_milli=4000) for i, size in enumerate(sizes)]


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def check_preemptions(engine: Engine, before: dict[str, Claim], leaving: set[str], result: CycleResult) -> None:
    """Of one cycle: gangs whole, nobody over capacity, priorities kept, and without any one victim no fit."""
    used: Counter[str] = Counter()
    for job_id in {*before, *(d.job_id for d in result.decisions)}:
        claim = engine.holds(job_id)
        assert claim is not None
        assert len(claim.members) == claim.job.replicas
        used.update({d.device_id: 0 for m in claim.members for d in m.devices})
        for member in claim.members:
            for device in member.devices:
                used[device.device_id] += device.milli
    assert all(milli <= 1000 for milli in used.values())
    for p in result.preemptions:
        victim, winner = before[p.job_id].job, engine._queues.jobs[p.for_job_id]
        assert p.job_id not in leaving, "told once"
        if p.kind is PreemptionKind.PRIORITY:
            assert victim.preemptible
            assert victim.priority < winner.priority
        else:
            assert victim.priority <= winner.priority


def is_minimal(engine: Engine, result: CycleResult, leaving: set[str], now: float) -> bool:
    """For a cycle with one preemptor: with all victims gone it fits beside what is kept for others, with any one
    of them left it does not."""
    victims = [p.job_id for p in result.preemptions]
    job = engine._queues.jobs[result.preemptions[0].for_job_id]
    table = engine._tables.get(engine._queues._group[job.job_id].likeness.shape)
    kept, parts = engine._bookings, (engine._fleet, engine._tables, engine._reserver)
    with kept.as_of_last_cycle(job.job_id), kept.in_full(), Supposition(*parts) as suppose:
        for job_id in sorted({*leaving, *victims}):
            claim = engine.holds(job_id)
            assert claim is not None
            suppose.end(claim)
        if suppose.placement(job, table.ask, now) is None:
            return False
        for job_id in victims:
            suppose.resume(job_id)
            if suppose.placement(job, table.ask, now) is not None:
                return False
            claim = engine.holds(job_id)
            assert claim is not None
            suppose.end(claim)
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(jobs=streams(), sizes=sizes, stopping=st.sampled_from((0.0, 3.0)))
def test_priorities_hold_whatever_comes(jobs: list[Job], sizes: list[int], stopping: float) -> None:
    engine = an_engine(*fleet_of(sizes), policy=EAGER)
    leaving: set[str] = set()
    before: dict[str, Claim] = {}

    def check(now: float, result: CycleResult) -> None:
        gone = {j for j in leaving if (c := engine.holds(j)) is None or c is not before.get(j)}
        leaving.difference_update(gone)
        known = {j.job_id: c for j in jobs if (c := engine.holds(j.job_id)) is not None}
        placed_now = {d.job_id for d in result.decisions}
        check_preemptions(engine, {j: c for j, c in known.items() if j not in placed_now}, leaving, result)
        if len({p.for_job_id for p in result.preemptions}) == 1 and not result.decisions and not leaving:
            assert is_minimal(engine, result, leaving, now)
        leaving.update(p.job_id for p in result.preemptions)
        before.clear()
        before.update(known)
        if not leaving and not result.decisions:
            no_inversion(engine, jobs, now)

    lasts = {j.job_id: j.expected_duration_seconds or 30.0 for j in jobs}
    clock = VirtualClock(engine, jobs, lasts, stopping, after_cycle=check).run(most=2000)
    above: Counter[str] = Counter()
    for job in jobs:
        above[job.job_id] = sum(1 for other in jobs if other.priority > job.priority)
    starts = Counter(job_id for _, job_id in clock.placed)
    stops = Counter(p.job_id for _, p in clock.preempted)
    by_priority = {j.job_id: j.priority for j in jobs}
    for job_id, count in stops.items():
        bound = sum(starts[other] + stops[other] for other in starts if by_priority[other] > by_priority[job_id])
        assert count <= bound, "at most once for each arrival or restart above it"
        assert count == 0 or above[job_id]


def no_inversion(engine: Engine, jobs: list[Job], now: float) -> None:
    """No job waits that would fit if all preemptible jobs below it were gone."""
    for job in jobs:
        if not engine.is_waiting(job.job_id):
            continue
        lower = [
            claim
            for other in jobs
            if (claim := engine.holds(other.job_id)) and other.preemptible and other.priority < job.priority
        ]
        kept = engine._bookings
        with kept.as_of_last_cycle(job.job_id), kept.in_full():
            table = engine._tables.get(engine._queues._group[job.job_id].likeness.shape)
            with Supposition(engine._fleet, engine._tables, engine._reserver) as suppose:
                for claim in lower:
                    suppose.end(claim)
                assert suppose.placement(job, table.ask, now) is None, job.job_id


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    jobs=streams(queues=("a", "b", "c")),
    sizes=sizes,
    stopping=st.sampled_from((0.0, 3.0)),
    quotas=st.lists(st.sampled_from((None, 1000, 2000)), min_size=3, max_size=3),
    weights=st.lists(st.sampled_from((1.0, 2.0)), min_size=3, max_size=3),
)
def test_reclaims_come_to_rest(
    jobs: list[Job], sizes: list[int], stopping: float, quotas: list[int | None], weights: list[float]
) -> None:
    engine = an_engine(*fleet_of(sizes), policy=EAGER)
    queues = [
        Queue(name, weight=weight, quotas=() if quota is None else (Quota("", quota),))
        for name, weight, quota in zip("abc", weights, quotas, strict=True)
    ]
    engine.set_queues(queues)
    by_id = {job.job_id: job for job in jobs}
    clock = VirtualClock(engine, jobs, {j.job_id: j.expected_duration_seconds or 30.0 for j in jobs}, stopping)
    clock.run(most=3000)
    pairs = [(p.for_job_id, p.job_id, at) for at, p in clock.preempted if p.kind is PreemptionKind.RECLAIM]
    for winner, loser, _ in pairs:
        assert by_id[winner].queue != by_id[loser].queue
    at_once = Counter((winner, loser, at) for winner, loser, at in pairs)
    assert not [pair for pair in at_once if at_once[pair[1], pair[0], pair[2]]], "none takes back at once"
    ended = {job_id for _, job_id in clock.ended}
    alone = an_engine(*fleet_of(sizes))
    alone.set_queues(queues)
    for job in jobs:
        assert (job.job_id in ended) == isinstance(alone.dry_run(replace(job, attempt=0), 0.0), Decision), (
            "no starvation"
        )


def test_a_victim_that_has_just_started_is_not_protected_by_the_step_in_its_nodes_draw() -> None:
    """The mean and the spread of a node's draw still show the work that is to be taken out."""
    node = a_node("n1", 8, device={"power_limit_watts": 700.0}, power_cap_watts=10_200.0, telemetry_exempt=False)
    engine = an_engine(node, policy=EAGER)
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0)])

    def heard(at: float, watts: float) -> None:
        devices = [{"power_watts": watts, "margin_celsius": 40.0} for _ in range(8)]
        engine.apply_sample(a_sample("n1", *devices, at=at, power_watts=8 * watts + 800))

    for second in range(5):
        heard(NOW + second, 90.0)
    assert placed(engine, a_job("soft", devices=8, preemptible=True), now=NOW + 5) == {"soft": ["n1"]}
    engine.started("soft", 0, NOW + 5)
    heard(NOW + 6, 690.0)
    engine.submit(a_job("urgent", devices=8, priority=10))
    (preemption,) = engine.cycle(NOW + 7).preemptions
    assert (preemption.job_id, preemption.for_job_id) == ("soft", "urgent")
    engine.release("soft", NOW + 8)
    heard(NOW + 10, 90.0)
    assert [d.job_id for d in engine.cycle(NOW + 11).decisions] == ["urgent"]


def test_nothing_is_kept_for_a_job_that_may_not_start_any_more() -> None:
    engine = an_engine(a_node("n1", 8), policy=EAGER)
    placed(engine, a_job("soft", devices=8, preemptible=True))
    engine.started("soft", 0, NOW)
    engine.submit(a_job("urgent", devices=8, priority=10, deadline=NOW + 10))
    assert [p.job_id for p in engine.cycle(NOW + 1).preemptions] == ["soft"]
    engine.release("soft", NOW + 20)
    assert placed(engine, a_job("other", devices=8), now=NOW + 20) == {"other": ["n1"]}


@pytest.mark.parametrize(
    ("priority", "waiting", "quotas", "put_in_order"),
    [(0, 0, (), False), (1, 0, (), False), (0, 1, (), True), (0, 0, (Quota("", 8000),), True)],
)
def test_nobody_is_put_in_order_for_a_job_that_may_stop_nobody(
    monkeypatch: pytest.MonkeyPatch, priority: int, waiting: int, quotas: tuple[Quota, ...], put_in_order: bool
) -> None:
    """It is a sort over all that runs, in each cycle, and on a full fleet of one priority somebody always waits."""
    calls = []
    by_harm = Preemptor.by_harm
    monkeypatch.setattr(Preemptor, "by_harm", lambda self, now: calls.append(now) or by_harm(self, now))
    engine = an_engine(a_node("n1"), policy=replace(EAGER, defragment=DefragmentPolicy.OFF))
    engine.set_queues([Queue("mine", quotas=quotas), Queue("theirs")])
    run_on(engine, "n1", a_victim("v", ran=100.0, devices=8, priority=priority, queue="theirs"))
    assert submit(engine, a_job("p", devices=5, priority=waiting, queue="mine")).decisions == ()
    assert bool(calls) is put_in_order
