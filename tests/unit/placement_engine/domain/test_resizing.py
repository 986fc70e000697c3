"""Gangs that grow and shrink while they run: who gives, who gets, and that it comes to rest."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from placement_engine.domain.encoding import Reader, Writer
from placement_engine.domain.engine import Engine
from placement_engine.domain.journal import Journal, Recorder, replay
from placement_engine.domain.model import (
    Claim,
    CycleResult,
    Job,
    MemberGroup,
    Node,
    PreemptionKind,
    Queue,
    Quota,
    Reclaim,
    Resize,
)
from placement_engine.domain.policy import Policy
from placement_engine.domain.surplus import is_elastic, openings, surplus, worked_until
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, an_engine, device_ids

RESIZING = Policy(
    resize_gangs=True, grow_after_seconds=60.0, reservation_after_seconds=1e9, usage_half_life_seconds=0.0
)
LATER = NOW + 100.0


def a_gang(job_id: str = "gang", least: int = 2, wished: int = 6, **changes: Any) -> Job:
    facts: dict[str, Any] = {"devices": 1, "preemptible": True, "replicas": wished, "min_replicas": least}
    return a_job(job_id, **(facts | changes))


def running(*nodes: Node, jobs: Sequence[Job], policy: Policy = RESIZING, queues: Sequence[Queue] = ()) -> Engine:
    """The jobs are placed one after the other at NOW, and started."""
    engine = an_engine(*nodes, policy=policy)
    engine.set_queues(queues)
    for job in jobs:
        engine.submit(job)
        engine.cycle(NOW)
        claim = engine.holds(job.job_id)
        assert claim is not None, f"{job.job_id} was not placed"
        engine.started(job.job_id, job.attempt, NOW)
    return engine


def arrive(engine: Engine, *jobs: Job, now: float = LATER) -> CycleResult:
    for job in jobs:
        engine.submit(job)
    return engine.cycle(now)


def told(result: CycleResult) -> list[tuple[str, list[int], list[int], int]]:
    """(job, numbers added, numbers removed, size) of each resize."""
    return [
        (one.job_id, [m.member for m in one.added], [m.member for m in one.removed], one.size) for one in result.resizes
    ]


def sizes(engine: Engine, *job_ids: str) -> list[int]:
    return [len(claim.members) for job_id in job_ids if (claim := engine.holds(job_id)) is not None]


def gone(engine: Engine, result: CycleResult, now: float = LATER) -> None:
    """What was told to leave has left."""
    for one in result.resizes:
        engine.members_gone(one.job_id, one.attempt, [member.member for member in one.removed], now)


# -- shrinking ---------------------------------------------------------------------------------------


def test_surplus_goes_before_anybody_is_stopped() -> None:
    """`cheap` has just started, so stopping it would lose nothing: the gang's surplus goes all the same."""
    engine = running(a_node(devices=8), jobs=[a_gang(), a_job("cheap", devices=2, preemptible=True)])
    engine.started("cheap", 0, LATER)
    result = arrive(engine, a_job("high", devices=2, priority=5))
    assert result.preemptions == ()
    assert told(result) == [("gang", [], [4, 5], 4)]
    (resize,) = result.resizes
    assert (resize.for_job_id, resize.kind, resize.wished) == ("high", PreemptionKind.PRIORITY, 6)
    assert resize.work_lost_seconds == 200.0
    assert resize.message == "runs on with 4 of 6 members: makes room for high of priority 5, its own is 0"
    # Until they are gone they hold what they hold, and the place is kept.
    assert sizes(engine, "gang") == [6]
    assert arrive(engine, a_job("next", devices=1, priority=4)).decisions == ()
    gone(engine, result)
    assert sizes(engine, "gang") == [4]
    assert [one.job_id for one in engine.cycle(LATER).decisions] == ["high"]


@pytest.mark.parametrize(
    ("asked", "removed", "stopped"),
    [
        (1, [5], []),
        (4, [2, 3, 4, 5], []),
        (5, [], ["gang"]),  # more than the surplus: it is stopped whole, not left below its least
        (6, [], ["gang"]),
    ],
)
def test_no_more_goes_than_is_needed_and_never_below_the_least(
    asked: int, removed: list[int], stopped: list[str]
) -> None:
    engine = running(a_node(devices=6), jobs=[a_gang()])
    result = arrive(engine, a_job("high", devices=asked, priority=1))
    assert [number for one in result.resizes for number in [m.member for m in one.removed]] == removed
    assert [one.job_id for one in result.preemptions] == stopped


def test_only_the_members_that_sit_where_they_are_needed_go() -> None:
    engine = running(a_node("n1", 2), a_node("n2", 2), a_node("n3", 2), jobs=[a_gang()])
    claim = engine.holds("gang")
    assert claim is not None
    node = claim.members[3].node
    result = arrive(engine, a_job("high", devices=2, priority=1))
    (resize,) = result.resizes
    assert len({member.node for member in resize.removed}) == 1
    assert claim.members[0].node not in {member.node for member in resize.removed}
    gone(engine, result)
    assert [m.member for m in engine.holds("gang").members] in ([0, 1, 4, 5], [0, 1, 2, 3])  # type: ignore[union-attr]
    assert node in {member.node for member in claim.members}


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({"preemptible": False}, RESIZING),
        ({"priority": 1}, RESIZING),
        ({}, replace(RESIZING, protected_seconds=1000.0)),
        ({"min_replicas": 6}, RESIZING),
    ],
    ids=["not-preemptible", "not-lower", "protected", "not-elastic"],
)
def test_the_rights_are_those_of_stopping(changes: dict[str, Any], policy: Policy) -> None:
    engine = running(a_node(devices=6), jobs=[a_gang(**changes)], policy=policy)
    assert arrive(engine, a_job("high", priority=1)).resizes == ()


def test_without_the_policy_nothing_is_resized() -> None:
    engine = running(a_node(devices=6), jobs=[a_gang()], policy=replace(RESIZING, resize_gangs=False))
    result = arrive(engine, a_job("high", priority=1))
    assert (result.resizes, [one.job_id for one in result.preemptions]) == ((), ["gang"])
    engine.release("gang")
    engine.submit(a_gang("again"))
    assert engine.cycle(LATER + 500).resizes == ()


QUEUES = (Queue("mine", quotas=(Quota("", 4000),)), Queue("theirs", quotas=(Quota("", 4000),)))


def test_what_was_borrowed_is_taken_back_from_the_surplus() -> None:
    engine = running(a_node(devices=8), jobs=[a_gang(wished=8, queue="theirs")], queues=QUEUES)
    result = arrive(engine, a_job("own", devices=3, queue="mine"))
    assert told(result) == [("gang", [], [5, 6, 7], 5)]
    assert result.resizes[0].kind is PreemptionKind.RECLAIM
    gone(engine, result)
    assert [one.job_id for one in engine.cycle(LATER).decisions] == ["own"]


def test_no_more_is_taken_back_than_was_borrowed() -> None:
    engine = running(a_node(devices=8), jobs=[a_gang(wished=8, queue="theirs")], queues=QUEUES)
    assert arrive(engine, a_job("own", devices=5, queue="mine")).resizes == ()


def test_groups_go_whole() -> None:
    nodes = [a_node(f"n{n}", 2) for n in range(4)]
    gang = a_gang(wished=8, least=3, group_size=2, group_level="node")
    engine = running(*nodes, jobs=[gang])
    result = arrive(engine, a_job("high", devices=1, priority=1))
    ((_, _, removed, size),) = told(result)
    assert (len(removed), size) == (2, 6)
    assert removed[0] % 2 == 0
    gone(engine, result)
    # The least is rounded up to whole groups: four.
    result = arrive(engine, *(a_job(f"high-{n}", devices=2, priority=1) for n in range(3)), now=LATER + 1)
    assert min(one.size for one in result.resizes) == 4


def test_two_who_need_room_take_of_one_gang_in_one_cycle() -> None:
    engine = running(a_node(devices=6), jobs=[a_gang()])
    result = arrive(engine, a_job("a", priority=2), a_job("b", devices=2, priority=1))
    assert [(r.for_job_id, r.size) for r in result.resizes] == [("a", 5), ("b", 3)]
    gone(engine, result)
    assert sorted(one.job_id for one in engine.cycle(LATER).decisions) == ["a", "b"]
    assert sizes(engine, "gang") == [3]


def test_a_gang_that_gives_members_may_still_be_stopped_whole() -> None:
    engine = running(a_node(devices=6), jobs=[a_gang()])
    first = arrive(engine, a_job("a", priority=1))
    assert told(first) == [("gang", [], [5], 5)]
    result = arrive(engine, a_job("b", devices=5, priority=2), now=LATER + 2)
    assert [one.job_id for one in result.preemptions] == ["gang"]
    engine.release("gang", LATER + 3)
    assert engine._leaving == {}
    assert {one.job_id for one in engine.cycle(LATER + 3).decisions} == {"a", "b"}


def test_a_resize_that_is_taken_back_leaves_nothing_behind() -> None:
    engine = running(a_node(devices=6), jobs=[a_gang()])
    engine.submit(a_job("high", devices=2, priority=1))
    before = engine.state_digest()
    result = engine.cycle(LATER)
    assert engine.state_digest() != before
    for one in result.resizes:
        engine.undo_resize(one)
    assert engine.state_digest() == before


def test_a_restart_knows_who_leaves() -> None:
    engine = running(a_node(devices=6), jobs=[a_gang()])
    arrive(engine, a_job("high", devices=2, priority=1))
    again = an_engine(a_node(devices=6), policy=RESIZING)
    claim = engine.holds("gang")
    assert claim is not None
    again.restore(claim)
    again.leaving("gang", [4, 5])
    result = arrive(again, a_job("high", devices=2, priority=1), now=LATER + 1)
    assert (result.decisions, result.resizes, result.preemptions) == ((), (), ())
    again.members_gone("gang", 0, [4, 5], LATER + 1)
    assert [one.job_id for one in again.cycle(LATER + 1).decisions] == ["high"]
    assert sizes(again, "gang") == [4]


def test_members_that_were_not_told_do_not_leave() -> None:
    engine = running(a_node(devices=6), jobs=[a_gang()])
    engine.members_gone("gang", 0, [5], LATER)
    engine.members_gone("gang", 7, [5], LATER)
    engine.members_gone("nobody", 0, [5], LATER)
    assert sizes(engine, "gang") == [6]


# -- growing -----------------------------------------------------------------------------------------


def a_short_gang(*more: Job, queues: Sequence[Queue] = (), policy: Policy = RESIZING, **changes: Any) -> Engine:
    """On eight devices a gang that wishes for six has two: `full` had the others, and has ended."""
    engine = running(
        a_node(devices=8), jobs=[a_job("full", devices=6), a_gang(**changes), *more], queues=queues, policy=policy
    )
    engine.release("full", NOW)
    return engine


def test_it_grows_to_its_wish_once_it_has_run_for_a_while() -> None:
    engine = a_short_gang()
    assert sizes(engine, "gang") == [2]
    assert engine.cycle(NOW + 59).resizes == ()
    assert engine.grows_with_time(NOW + 59)
    result = engine.cycle(NOW + 60)
    assert told(result) == [("gang", [2, 3, 4, 5], [], 6)]
    assert result.resizes[0].message == "grows to 6 of 6 wished members"
    assert sizes(engine, "gang") == [6]
    taken = [one for (one,) in device_ids(engine, "gang")]
    assert len(set(taken)) == 6
    assert engine.cycle(NOW + 600).resizes == ()
    assert not engine.grows_with_time(NOW + 600)


def test_one_that_has_not_started_does_not_grow() -> None:
    engine = an_engine(a_node(devices=8), policy=RESIZING)
    arrive(engine, a_job("full", devices=6), now=NOW)
    arrive(engine, a_gang(), now=NOW)
    engine.release("full", NOW)
    assert engine.cycle(LATER).resizes == ()
    assert engine.gang_size("gang", LATER).why.code == "NOT_STARTED"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("waits", "grows"),
    [
        ({"devices": 7}, 0),  # does not fit, and wants what is free
        ({"devices": 9}, 4),  # the fleet has not so many
        ({"devices": 1, "models": ("L4",)}, 4),  # wants others
        ({"devices": 7, "priority": -5}, 0),  # whatever its priority
        ({"devices": 7, "not_before": LATER + 5}, 0),  # comes back soon
        ({"devices": 7, "deadline": NOW}, 4),  # too late for it
        ({"devices": 7, "queue": "small"}, 4),  # its queue may not have it
        ({"replicas": 7, "devices": 1}, 0),
    ],
)
def test_who_waits_goes_first(waits: dict[str, Any], grows: int) -> None:
    engine = a_short_gang(queues=[Queue("default"), Queue("small", device_limit=1)])
    result = arrive(engine, a_job("waits", **waits))
    assert result.decisions == ()
    assert sum(len(one.added) for one in result.resizes) == grows
    size = engine.gang_size("gang", LATER)
    assert size is not None
    if not grows:
        assert size.why is not None
        assert size.why.code == "WANTED_BY_OTHERS"
        assert size.summary == (
            "holds 2 of 6 wished members, at least 2: what is free could serve jobs that wait: they go first"
        )


@pytest.mark.parametrize(("asked", "grows"), [(4, 0), (5, 2)], ids=["its-own", "beyond-its-own"])
def test_who_waits_for_its_queues_own_goes_first_though_others_hold_it(asked: int, grows: int) -> None:
    """`mine` never takes back, and `theirs` has borrowed: what becomes free is not borrowed on top."""
    queues = (replace(QUEUES[0], reclaim=Reclaim.NEVER), QUEUES[1])
    jobs = [a_job("full", devices=2, queue="mine"), a_gang(wished=8, queue="theirs")]
    engine = running(a_node(devices=8), jobs=jobs, queues=queues)
    engine.release("full", NOW)
    result = arrive(engine, a_job("own", devices=asked, queue="mine"))
    assert sum(len(one.added) for one in result.resizes) == grows
    assert sizes(engine, "gang") == [6 + grows]


def test_gangs_of_one_standing_grow_in_turn_and_by_weight() -> None:
    queues = [Queue("a"), Queue("b"), Queue("c", weight=2.0)]
    jobs = [a_job("full", devices=6), *(a_gang(name, queue=name, wished=8) for name in "abc")]
    engine = running(a_node(devices=14), jobs=jobs[:1], queues=queues)
    for job in jobs[1:]:
        engine.submit(replace(job, replicas=2, min_replicas=2))
    engine.cycle(NOW)
    for job in jobs[1:]:
        claim = engine.holds(job.job_id)
        assert claim is not None
        engine.restore(replace(claim, job=job, started_at=NOW))
    engine.release("full", NOW)
    engine.cycle(LATER)
    assert sizes(engine, "a", "b", "c") == [4, 4, 6]


def test_higher_priority_grows_first() -> None:
    jobs = [a_gang(), a_gang("high", wished=8, priority=1)]
    engine = running(a_node(devices=10), jobs=[replace(job, replicas=2) for job in jobs])
    for job in jobs:
        claim = engine.holds(job.job_id)
        assert claim is not None
        engine.restore(replace(claim, job=job))
    engine.cycle(LATER)
    assert sizes(engine, "gang", "high") == [2, 8]


@pytest.mark.parametrize(
    ("queues", "size", "code"),
    [
        ([Queue("default", device_limit=4)], 4, "QUEUE_DEVICE_LIMIT"),
        ([Queue("default", quotas=(Quota("", 3000),))], 3, "QUEUE_QUOTA_EXCEEDED"),
        ([Queue("default", quotas=(Quota("", 3000, borrowing_limit=1000),)), Queue("o", quotas=(Quota("", 5000),))], 4,
         "QUEUE_QUOTA_EXCEEDED"),
        ([], 6, "WHOLE"),
    ],
)  # fmt: skip
def test_limits_and_quotas_hold(queues: list[Queue], size: int, code: str) -> None:
    engine = running(a_node(devices=8), jobs=[a_job("full", devices=6, queue="other"), a_gang()], queues=[])
    engine.set_queues(queues)
    engine.release("full", NOW)
    engine.cycle(LATER)
    assert sizes(engine, "gang") == [size]
    known = engine.gang_size("gang", LATER + 100)
    assert known is not None
    assert known.why is not None
    assert (known.members, known.why.code) == (size, code)


def test_it_stays_on_its_model_and_in_its_domain() -> None:
    nodes = [
        a_node("a1", 4, rack="a"),
        a_node("a2", 4, model="L4", rack="a"),
        a_node("a3", 1, rack="a"),
        a_node("b1", 8, rack="b"),
    ]
    engine = an_engine(*nodes, policy=RESIZING)
    full = [a_job(f"full-{n}", devices=devices) for n, devices in enumerate((8, 2))]
    for job in full:
        arrive(engine, job, now=NOW)
    gang = a_gang(topology_level="rack", topology_required=True, models=("H100",))
    arrive(engine, gang, now=NOW)
    engine.started("gang", 0, NOW)
    claim = engine.holds("gang")
    assert claim is not None
    assert {member.node for member in claim.members} <= {"a1", "a3"}
    for job in full:
        engine.release(job.job_id, NOW)
    engine.cycle(LATER)
    claim = engine.holds("gang")
    assert claim is not None
    assert len(claim.members) == 5  # all of its model in its rack, and none of the free ones elsewhere
    assert {member.node for member in claim.members} == {"a1", "a3"}
    size = engine.gang_size("gang", LATER + 100)
    assert size is not None
    assert size.summary == (
        "holds 5 of 6 wished members, at least 2: nothing that it could grow into is free in its rack"
    )


def test_it_grows_where_it_sits_first() -> None:
    """Without being asked for a level: on the nodes it has, though another is as good."""
    engine = an_engine(a_node("n1", 8), a_node("n2", 8), policy=RESIZING)
    arrive(engine, a_gang(wished=2), now=NOW)
    claim = engine.holds("gang")
    assert claim is not None
    engine.restore(replace(claim, job=a_gang(wished=6), started_at=NOW))
    engine.cycle(LATER)
    assert {member.node for member in engine.holds("gang").members} == {claim.members[0].node}  # type: ignore[union-attr]


def test_groups_come_whole() -> None:
    gang = a_gang(wished=7, least=2, group_size=2, group_level="node")
    engine = an_engine(*(a_node(f"n{n}", 3) for n in range(3)), policy=RESIZING)
    full = [a_job(f"full-{n}", devices=n) for n in (3, 3, 1)]
    for number, job in enumerate(full):
        arrive(engine, replace(job, job_id=f"full-{number}"), now=NOW)
    arrive(engine, gang, now=NOW)
    engine.started("gang", 0, NOW)
    assert sizes(engine, "gang") == [2]
    for number in range(3):
        engine.release(f"full-{number}", NOW)
    engine.cycle(LATER)
    claim = engine.holds("gang")
    assert claim is not None
    # Three groups on three nodes, and the odd last member beside one of them.
    assert [member.member for member in claim.members] == list(range(7))
    for start in (0, 2, 4):
        assert len({member.node for member in claim.members[start : start + 2]}) == 1


def test_new_members_take_the_lowest_free_numbers() -> None:
    engine = running(a_node("n1", 2), a_node("n2", 2), a_node("n3", 2), jobs=[a_gang()])
    engine.leaving("gang", [2, 3])
    engine.members_gone("gang", 0, [2, 3], NOW + 10)
    assert told(engine.cycle(LATER)) == [("gang", [2, 3], [], 6)]
    claim = engine.holds("gang")
    assert claim is not None
    assert [member.member for member in claim.members] == [0, 1, 2, 3, 4, 5]


def test_growth_that_is_taken_back_leaves_nothing_behind() -> None:
    engine = a_short_gang()
    before = engine.state_digest()
    result = engine.cycle(LATER)
    assert told(result) == [("gang", [2, 3, 4, 5], [], 6)]
    assert engine.state_digest() != before
    for one in result.resizes:
        engine.undo_resize(one)
    assert engine.state_digest() == before
    assert told(engine.cycle(LATER)) == [("gang", [2, 3, 4, 5], [], 6)]


# -- rest --------------------------------------------------------------------------------------------


def test_it_does_not_go_to_and_fro_between_the_same_two() -> None:
    """A job takes members and never fits, for its node is cordoned meanwhile: the gang does not grow back while it
    waits, and nothing is taken a second time."""
    engine = running(a_node("n1", 4), a_node("n2", 2), jobs=[a_gang()])
    high = a_job("high", devices=2, priority=1)
    seen: list[Resize] = []
    for second in range(0, 1200, 20):
        result = arrive(engine, *([high] if second == 0 else []), now=LATER + second)
        seen += result.resizes
        gone(engine, result, LATER + second)
        if second == 0:
            (resize,) = result.resizes
            node = next(n for n in (a_node("n1", 4), a_node("n2", 2)) if n.name == resize.removed[0].node)
            engine.apply_node(replace(node, schedulable=False))
    added = [one for one in seen if one.added]
    assert added == []
    assert len(seen) <= 2


def test_a_growing_gang_gives_way_once_and_grows_again_only_when_the_other_has_ended() -> None:
    engine = a_short_gang()
    assert told(engine.cycle(LATER)) == [("gang", [2, 3, 4, 5], [], 6)]
    result = arrive(engine, a_job("high", devices=4, priority=1), now=LATER + 1)
    assert told(result) == [("gang", [], [4, 5], 4)]  # two devices were free
    gone(engine, result, LATER + 1)
    assert [one.job_id for one in engine.cycle(LATER + 1).decisions] == ["high"]
    for second in range(2, 300, 10):
        assert engine.cycle(LATER + second).resizes == ()
    engine.release("high", LATER + 300)
    assert told(engine.cycle(LATER + 301)) == [("gang", [4, 5], [], 6)]


# -- pure parts --------------------------------------------------------------------------------------


def claim_of(job: Job, numbers: Sequence[int]) -> Claim:
    engine = an_engine(a_node(devices=16))
    engine.submit(replace(job, min_replicas=0))
    members = engine.cycle(NOW).decisions[0].members
    return Claim(job, tuple(members[number] for number in numbers), placed_at=NOW)


@pytest.mark.parametrize(
    ("size", "numbers", "units"),
    [
        (0, range(6), [(2,), (3,), (4,), (5,)]),
        (0, (0, 3, 5), [(5,)]),
        (0, (0, 1), []),
        (2, range(6), [(2, 3), (4, 5)]),
        (4, range(6), [(4, 5)]),
    ],
)
def test_units_of_the_surplus(size: int, numbers: Sequence[int], units: list[tuple[int, ...]]) -> None:
    job = a_gang(group_size=size, group_level="node" if size else "")
    found = surplus(claim_of(job, numbers), {})
    assert [tuple(member.member for member in unit) for unit in found] == units


@pytest.mark.parametrize(
    ("wished", "size", "taken", "following"),
    [
        (6, 0, (0, 1), [(2, 1)]),
        (6, 0, (0, 2), [(1, 1)]),
        (6, 0, range(6), []),
        (7, 2, (0, 1, 4, 5), [(2, 2)]),
        (7, 2, range(6), [(6, 1)]),
    ],
)
def test_numbers_of_those_who_join(
    wished: int, size: int, taken: Sequence[int], following: list[tuple[int, int]]
) -> None:
    job = a_gang(wished=wished, group_size=size, group_level="node" if size else "")
    assert [(one.first, one.count) for one in openings(claim_of(job, taken))] == following


def test_work_done_counts_by_member() -> None:
    claim = replace(claim_of(a_gang(), (0, 1)), started_at=NOW + 10)
    assert worked_until(claim, NOW + 20) == 20.0
    assert worked_until(replace(claim, worked=100.0, resized_at=NOW + 15), NOW + 20) == 110.0


def test_the_expected_end_follows_the_size() -> None:
    """600 s for six members: two do it in 1800 s; six from the 100th second on have 3400 member-seconds left."""
    engine = a_short_gang(expected_duration_seconds=600.0)
    assert engine._ends.of("gang", NOW) == NOW + 1800
    engine.cycle(LATER)
    assert engine._ends.of("gang", LATER) == pytest.approx(LATER + (3600 - 200) / 6)


def test_a_gang_of_a_fixed_size_has_no_size_to_tell() -> None:
    engine = running(a_node(devices=8), jobs=[a_job("one", replicas=2, devices=1)])
    assert engine.gang_size("one", LATER) is None
    assert engine.gang_size("nobody", LATER) is None


# -- several shapes ----------------------------------------------------------------------------------


def a_led_gang(**changes: Any) -> Job:
    groups = (
        MemberGroup("leader", 1, 1, cpu_milli=1000),
        MemberGroup("worker", 5, 2, devices=1),
        MemberGroup("store", 2, 1, cpu_milli=2000),
    )
    return a_job("led", devices=0, replicas=8, groups=groups, preemptible=True, **changes)


def groups_of(engine: Engine, job_id: str = "led") -> list[tuple[int, str]]:
    claim = engine.holds(job_id)
    assert claim is not None
    return [(member.member, member.group) for member in claim.members]


def test_workers_come_and_go_beside_their_leader() -> None:
    engine = running(a_node(devices=6), jobs=[a_job("full", devices=3), a_led_gang()])
    # The work is told by the workers, who are the lead: three of five take five thirds of the time.
    assert groups_of(engine) == [
        (0, "leader"), (1, "worker"), (2, "worker"), (3, "worker"), (4, "store"), (5, "store"),
    ]  # fmt: skip
    engine.release("full", NOW)
    result = engine.cycle(LATER)
    assert told(result) == [("led", [6, 7], [], 8)]
    assert [(member.group, len(member.devices)) for member in result.resizes[0].added] == [("worker", 1), ("worker", 1)]
    assert worked_until(engine.holds("led"), LATER + 10) == 3 * 100.0 + 5 * 10.0  # type: ignore[arg-type]
    # All above two workers and one store may go: of devices three.
    result = arrive(engine, a_job("high", devices=4, priority=1), now=LATER + 1)
    assert told(result) == [("led", [], [3, 6, 7], 5)]
    gone(engine, result, LATER + 1)
    assert [one.job_id for one in engine.cycle(LATER + 1).decisions] == ["high"]
    assert groups_of(engine) == [(0, "leader"), (1, "worker"), (2, "worker"), (4, "store"), (5, "store")]
    size = engine.gang_size("led", LATER + 100)
    assert size is not None
    assert (size.members, size.least, size.wished) == (5, 4, 8)
    assert size.summary.endswith("nothing that it could grow into is free")


def test_several_shapes_in_groups_keep_their_size() -> None:
    job = a_led_gang(group_size=2, group_level="node")
    assert not is_elastic(job)
    assert is_elastic(replace(job, group_size=0, group_level=""))


@pytest.mark.parametrize(
    ("owned", "least", "group_size", "placed_size"),
    [(1, 1, 2, 1), (2, 1, 2, 2), (3, 1, 2, 2), (5, 1, 2, 4), (7, 1, 2, 7), (5, 5, 2, 5), (6, 5, 2, 6), (6, 5, 4, 5)],
)
@pytest.mark.parametrize("by", ["quota", "limit"])
def test_a_queue_cuts_a_gang_to_whole_groups_or_its_very_minimum(
    owned: int, least: int, group_size: int, placed_size: int, by: str
) -> None:
    """The minimum is what admits it: cut to less than that, it waited for ever and was told of a power budget."""
    engine = an_engine(a_node(devices=8))
    engine.set_queues([owning(owned, by)])
    engine.submit(a_gang(wished=7, least=least, group_size=group_size, group_level="node"))
    assert [len(one.members) for one in engine.cycle(NOW).decisions] == [placed_size]


@pytest.mark.parametrize(("by", "code"), [("quota", "QUEUE_QUOTA_EXCEEDED"), ("limit", "QUEUE_DEVICE_LIMIT")])
def test_a_gang_in_groups_that_its_queue_has_no_room_for_is_told_so(by: str, code: str) -> None:
    engine = an_engine(a_node(devices=8))
    engine.set_queues([owning(4, by)])
    engine.submit(a_gang(wished=7, least=5, group_size=2, group_level="node"))
    assert engine.cycle(NOW).decisions == ()
    rejection = engine.explain("gang", NOW)
    assert rejection is not None
    assert [one.code for one in rejection.reasons] == [code]


def test_a_gang_that_can_be_resized_is_placed_in_whole_groups() -> None:
    engine = an_engine(a_node(devices=8), policy=RESIZING)
    engine.set_queues([owning(5, "limit")])
    engine.submit(a_gang(wished=7, least=3, group_size=2, group_level="node"))
    assert [len(one.members) for one in engine.cycle(NOW).decisions] == [4]


def owning(devices: int, by: str) -> Queue:
    if by == "quota":
        return Queue("default", quotas=(Quota("", 1000 * devices),))
    return Queue("default", device_limit=devices)


def test_resizes_are_replayed_byte_for_byte() -> None:
    """From a picture taken while members leave, and through JSON."""
    recorder = Recorder(RESIZING, limit=8)
    recorder.apply_node(a_node(devices=8))
    for job in (a_job("full", devices=6), a_gang()):
        recorder.submit(job)
        recorder.cycle(NOW)
        recorder.started(job.job_id, 0, NOW)
    recorder.release("full", NOW)
    seen = [recorder.cycle(LATER)]
    recorder.submit(a_job("high", devices=4, priority=1))
    seen.append(recorder.cycle(LATER + 1))
    for second in range(2, 6):
        seen.append(recorder.cycle(LATER + second))
    recorder.members_gone("gang", 0, [4, 5], LATER + 6)
    seen.append(recorder.cycle(LATER + 6))
    assert [told(one) for one in seen if one.resizes] == [[("gang", [2, 3, 4, 5], [], 6)], [("gang", [], [4, 5], 4)]]
    writer = Writer()
    written = json.loads(json.dumps({"journal": recorder.journal.write(writer), **writer.tables()}))
    reader = Reader(written)
    done = replay(Journal.read(written["journal"], reader))
    assert done.equal, done.difference
    assert done.engine.state_digest() == recorder.state_digest()
    assert sizes(done.engine, "gang", "high") == [4, 1]
