"""What queues own, and who may take what from whom."""

import pytest

from placement_engine.domain.entitlement import entitled, may_take_from
from placement_engine.domain.model import Queue, Quota, Reclaim
from placement_engine.domain.queues import Queues
from tests.unit.placement_engine.domain.builders import a_job
from tests.unit.placement_engine.domain.queue_builders import H100, K80, L4, a_tree, hold, totals_of, with_peaks


def h100(devices: int) -> tuple[Quota, ...]:
    return (Quota("H100", devices * 1000),)


def owed(tree: Queues, queue: str, devices: int, model: int = H100) -> bool:
    return entitled(tree, totals_of(tree), queue, {model: devices * 1000})


def takes(tree: Queues, for_queue: str, victim: str, devices: int, model: int = H100, **priorities: int) -> bool:
    return may_take_from(tree, totals_of(tree), victim, for_queue, {model: devices * 1000}, **priorities)


def most(tree: Queues, queue: str, model: int = H100) -> int:
    """Most whole devices that the queue is entitled to beyond what it has."""
    return max((n for n in range(1, 40) if owed(tree, queue, n, model)), default=0)


def test_a_quota_is_owned_and_what_is_borrowed_is_not() -> None:
    tree = a_tree(Queue("a", quotas=h100(5)), Queue("b", quotas=h100(3)))
    hold(tree, "b", devices=6)
    assert (most(tree, "a"), most(tree, "b")) == (5, 0)
    assert [takes(tree, "a", "b", n) for n in (1, 3, 4)] == [True, True, False]
    assert not takes(tree, "b", "a", 1)
    hold(tree, "a", devices=3)
    assert most(tree, "a") == 2


def test_queues_without_quotas_own_their_weighted_share() -> None:
    tree = a_tree(Queue("a", weight=3.0), Queue("b"), Queue("idle", weight=9.0), l4=0)
    hold(tree, "b", devices=8)
    assert most(tree, "a") == 6
    assert [takes(tree, "a", "b", n) for n in (6, 7)] == [True, False]
    tree.add(a_job(queue="idle"))
    assert (most(tree, "a"), most(tree, "idle")) == (1, 7)
    assert [takes(tree, "a", "b", n) for n in (7, 8)] == [True, False]


def test_queues_without_quotas_share_what_the_others_quotas_leave() -> None:
    tree = a_tree(Queue("a", quotas=h100(4)), Queue("b"), Queue("c"), l4=0)
    hold(tree, "b", devices=7)
    hold(tree, "c", devices=1)
    assert (most(tree, "a"), most(tree, "b"), most(tree, "c")) == (4, 0, 1)
    assert [takes(tree, "a", "b", n) for n in (5, 6)] == [True, False]
    assert not takes(tree, "a", "c", 1)


def test_shares_are_held_at_every_level() -> None:
    tree = a_tree(Queue("org"), Queue("x", "org"), Queue("y", "org"), Queue("solo"), l4=0)
    hold(tree, "y", devices=3)
    tree.add(a_job(queue="x"))
    tree.add(a_job("s", queue="solo"))
    assert (most(tree, "x"), most(tree, "solo")) == (1, 4)
    assert takes(tree, "x", "y", 1)
    assert not takes(tree, "x", "y", 2)
    assert not takes(tree, "solo", "y", 1), "org holds less than its half"
    hold(tree, "y", devices=3)
    assert (most(tree, "x"), most(tree, "solo")) == (0, 4)
    assert [takes(tree, "solo", "y", n) for n in (2, 3)] == [True, False]


def test_within_a_side_only_who_holds_too_much_gives() -> None:
    tree = a_tree(Queue("org"), Queue("x", "org"), Queue("y", "org"), Queue("solo"), l4=0)
    hold(tree, "x", devices=2)
    hold(tree, "y", devices=6)
    assert not takes(tree, "solo", "x", 1)
    assert takes(tree, "solo", "y", 4)


def test_what_a_parent_owns_is_its_childrens_by_weight_and_its_own_jobs_come_last() -> None:
    tree = a_tree(Queue("org", quotas=h100(6)), Queue("x", "org", weight=2.0), Queue("y", "org"), Queue("z"))
    hold(tree, "org", devices=6)
    tree.add(a_job(queue="y"))
    assert not owed(tree, "x", 1), "org holds all that it owns"
    asked = {H100: 4000}
    assert entitled(tree, totals_of(tree), "x", asked, against="org"), "but within org that is no matter"
    assert not entitled(tree, totals_of(tree), "x", asked, against="z")
    assert not entitled(tree, totals_of(tree), "x", {H100: 5000}, against="y")
    hold(tree, "org", devices=4, sign=-1)
    assert (most(tree, "x"), most(tree, "y"), most(tree, "org")) == (4, 4, 0)
    assert takes(tree, "x", "org", 2)
    assert not takes(tree, "org", "x", 1)


def test_old_devices_are_worth_less() -> None:
    """Half of the pool's worth is one of the new devices, or all of the old and most of a new one."""
    tree = with_peaks(a_tree(Queue("a"), Queue("b"), h100=2, l4=0, k80=8), h100=100.0, k80=1.0)
    hold(tree, "b", H100, 2)
    tree.add(a_job(queue="a"))
    assert (most(tree, "a", H100), most(tree, "a", K80)) == (1, 39)
    assert [takes(tree, "a", "b", n) for n in (1, 2)] == [False, False]
    hold(tree, "b", K80, 8)
    assert [takes(tree, "a", "b", n) for n in (1, 2)] == [True, False]
    assert takes(tree, "a", "b", 8, K80)


def test_only_the_kind_that_is_taken_counts() -> None:
    tree = a_tree(Queue("a", quotas=h100(8)), Queue("b", quotas=(Quota("L4", 4000),)))
    hold(tree, "a", L4, 3)
    hold(tree, "b", H100, 3)
    assert takes(tree, "a", "b", 3, H100)
    assert takes(tree, "b", "a", 3, L4)
    assert not takes(tree, "a", "b", 1, L4)
    assert (most(tree, "a", H100), most(tree, "b", L4)) == (8, 4)


@pytest.mark.parametrize(
    ("reclaim", "victim", "mine", "expected"),
    [
        (Reclaim.ANY, 9, 0, True),
        (Reclaim.LOWER_PRIORITY, 0, 1, True),
        (Reclaim.LOWER_PRIORITY, 1, 1, False),
        (Reclaim.NEVER, 0, 9, False),
    ],
)
def test_the_reclaim_policy_of_who_asks_is_kept(reclaim: Reclaim, victim: int, mine: int, expected: bool) -> None:
    tree = a_tree(Queue("a", quotas=h100(5), reclaim=reclaim), Queue("b", reclaim=Reclaim.NEVER))
    hold(tree, "b", devices=8)
    assert takes(tree, "a", "b", 1, victim_priority=victim, for_priority=mine) is expected


def test_nothing_is_taken_within_a_queue_nor_for_or_from_a_job_without_devices() -> None:
    tree = a_tree(Queue("a"), Queue("b"))
    hold(tree, "b", devices=8)
    assert not takes(tree, "b", "b", 1)
    assert not entitled(tree, totals_of(tree), "a", {})
    assert not may_take_from(tree, totals_of(tree), "b", "a", {H100: 0})
