"""Shares in normalised units, the past with decay, and who is next."""

import math

import pytest

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Accelerator, Profile, Queue, Quota
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import PastUse, Queues, Totals
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, an_engine, placed
from tests.unit.placement_engine.domain.queue_builders import H100, K80, L4, a_tree, hold, totals_of, with_peaks


def profile(tree: Queues, workload: str, **speeds: float) -> None:
    for name, speed in speeds.items():
        tree.models.estimator.put_profile(Profile(workload, name.upper(), 1, speed))
    tree.reprice()
    tree.refresh()


def shares(tree: Queues) -> dict[str, float]:
    return {name: round(tree.share(name, totals_of(tree)), 6) for name in sorted(tree.usage)}


# -- normalised units ------------------------------------------------------------------------------


def test_where_nothing_is_known_devices_count_alike() -> None:
    tree = a_tree(Queue("a"), Queue("b"), h100=2, k80=2, l4=0)
    hold(tree, "a", H100, 2)
    hold(tree, "b", K80, 2)
    assert shares(tree) == {"a": 0.5, "b": 0.5}


def test_two_old_devices_do_not_count_as_two_new_ones() -> None:
    tree = with_peaks(a_tree(Queue("a"), Queue("b"), h100=2, k80=2, l4=0), h100=1000.0, k80=10.0)
    hold(tree, "a", H100, 2)
    hold(tree, "b", K80, 2)
    assert shares(tree) == {"a": round(2000 / 2020, 6), "b": round(20 / 2020, 6)}


def test_devices_count_by_what_they_achieve_on_the_queues_own_work() -> None:
    """b's work runs half as fast on an L4 as on an H100, a's hardly at all."""
    tree = a_tree(Queue("a"), Queue("b"), h100=4, l4=4)
    profile(tree, "dense", h100=100.0, l4=1.0)
    profile(tree, "sparse", h100=10.0, l4=5.0)
    for queue, workload in (("a", "dense"), ("b", "sparse")):
        hold(tree, queue, L4, 4, workload)
    tree.refresh()
    assert dict(tree.units_of("a")) == {"h100": 1000, "l4": 10}
    assert dict(tree.units_of("b")) == {"h100": 1000, "l4": 500}
    assert shares(tree) == {"a": round(40 / 4040, 6), "b": round(2000 / 6000, 6)}


def test_units_are_the_mean_of_waiting_and_running_work_by_devices() -> None:
    tree = a_tree(Queue("org"), Queue("a", "org"), Queue("b", "org"), h100=4, l4=4)
    profile(tree, "dense", h100=100.0, l4=10.0)
    profile(tree, "sparse", h100=10.0, l4=10.0)
    hold(tree, "a", L4, 3, "dense")
    tree.add(a_job("w", queue="b", workload="sparse", devices=1))
    tree.refresh()
    assert [tree.units_of(q)["l4"] for q in ("a", "b", "org")] == [100, 1000, 325]
    tree.discard("w")
    tree.refresh()
    assert [tree.units_of(q)["l4"] for q in ("a", "org")] == [100, 100]


def test_a_charge_is_undone_whatever_happened_to_the_units() -> None:
    tree = a_tree(Queue("org"), Queue("a", "org"))
    profile(tree, "w", h100=100.0, l4=10.0)
    hold(tree, "a", L4, 2, "w")
    hold(tree, "a", H100, 0.5, "w")
    tree.refresh()
    hold(tree, "a", L4, 1, "w")
    hold(tree, "a", L4, 1, "w", sign=-1)
    assert [tree.usage[name].normal for name in ("org", "a")] == [2000 * 100 + 500 * 1000] * 2
    profile(tree, "w", h100=100.0, l4=90.0)
    hold(tree, "a", L4, 2, "w", sign=-1)
    hold(tree, "a", H100, 0.5, "w", sign=-1)
    tree.refresh()
    assert {name: (u.devices, u.normal, u.jobs, u.models) for name, u in tree.usage.items()} == dict.fromkeys(
        ("org", "a"), (0, 0, 0, {})
    )
    assert tree.own == {}


def test_the_dominant_resource_is_the_share() -> None:
    tree = a_tree(Queue("a", weight=2.0), h100=8, l4=0)
    tree.charge(a_job(queue="a"), {"H100": 1000}, 300, 10, 1)
    totals = Totals(devices=8000, cpu=1000, memory=1000)
    assert tree.share("a", totals) == 0.15
    tree.charge(a_job(queue="a"), {"H100": 2000}, 0, 0, 1)
    assert tree.share("a", totals) == 0.1875


def test_normalised_shares_decide_who_is_next() -> None:
    """Each has had one job: the queue that got the slow device is owed the next."""
    engine = an_engine(a_node("new", 2), a_node("old", 2, "K80"))
    engine.set_accelerators([Accelerator("H100", dense_fp16_tflops=1000.0), Accelerator("K80", dense_fp16_tflops=10.0)])
    engine.set_queues([Queue("a"), Queue("b")])
    placed(engine, a_job("a0", queue="a", models=("H100",)), a_job("b0", queue="b", models=("K80",)))
    for job in (a_job("a1", queue="a", submitted_at=1.0), a_job("b1", queue="b", submitted_at=2.0)):
        engine.submit(job)
    assert [d.job_id for d in engine.cycle(NOW).decisions] == ["b1", "a1"]


# -- the past --------------------------------------------------------------------------------------

HALF_LIFE = 100.0


def past(engine: Engine) -> dict[str, float]:
    return {usage.name: round(usage.past_share, 9) for usage in engine.queue_usage() if usage.past_share}


def an_engine_with_a_past(weight: float = 1.0) -> Engine:
    """Queue a held half of the pool for one half-life: a quarter of the mean that decays."""
    engine = an_engine(a_node(devices=4), policy=Policy(usage_half_life_seconds=HALF_LIFE))
    engine.set_queues([Queue("a", weight=weight), Queue("b")])
    placed(engine, a_job("a0", queue="a", devices=2))
    engine.cycle(NOW + HALF_LIFE)
    return engine


def test_past_use_grows_while_held_and_halves_in_a_half_life() -> None:
    engine = an_engine_with_a_past()
    assert past(engine) == {"a": 0.25}
    engine.release("a0", NOW + HALF_LIFE)
    engine.cycle(NOW + 2 * HALF_LIFE)
    assert past(engine) == {"a": 0.125}
    engine.cycle(NOW + 1.0)
    assert past(engine) == {"a": 0.125}, "time does not go back"
    engine.cycle(NOW + 100 * HALF_LIFE)
    assert past(engine) == {}
    assert past(an_engine_with_a_past(weight=2.0)) == {"a": 0.125}


@pytest.mark.parametrize("steps", [1, 7])
def test_it_does_not_matter_how_often_it_is_counted(steps: int) -> None:
    engine = an_engine(a_node(devices=4), policy=Policy(usage_half_life_seconds=HALF_LIFE))
    placed(engine, a_job("a0", queue="a", devices=1))
    for step in range(1, steps + 1):
        engine.cycle(NOW + 50.0 * step / steps)
    assert past(engine) == {"a": round(0.25 * (1 - 2**-0.5), 9)}


def test_what_a_job_held_until_it_ended_is_counted_between_cycles() -> None:
    engine = an_engine_with_a_past()
    engine.release("a0", NOW + 1.5 * HALF_LIFE)
    engine.cycle(NOW + 2 * HALF_LIFE)
    kept = math.sqrt(0.5)
    assert past(engine) == {"a": round((0.25 * kept + 0.5 * (1 - kept)) * kept, 9)}


def test_past_use_decides_who_is_next_until_it_has_decayed() -> None:
    engine = an_engine_with_a_past()
    engine.release("a0", NOW + HALF_LIFE)
    jobs = [a_job("a1", queue="a", submitted_at=1.0), a_job("b1", queue="b", submitted_at=2.0)]
    for job in jobs:
        engine.submit(job)
    first = engine.cycle(NOW + HALF_LIFE, limit=1).decisions[0]
    assert first.job_id == "b1"
    engine.undo("b1", first.attempt)
    assert engine.cycle(NOW + 50 * HALF_LIFE, limit=1).decisions[0].job_id == "a1"


def test_without_a_half_life_only_the_present_counts() -> None:
    engine = an_engine(a_node(devices=4), policy=Policy(usage_half_life_seconds=0))
    placed(engine, a_job("a0", queue="a", devices=2))
    engine.cycle(NOW + 1000)
    assert past(engine) == {}
    assert engine.usage_history() == ()
    with pytest.raises(ValueError, match="usage_half_life_seconds must not be negative, got -1"):
        Policy(usage_half_life_seconds=-1)


def test_the_past_survives_a_restart() -> None:
    first = an_engine_with_a_past()
    claim, history = first.holds("a0"), first.usage_history()
    assert history == (PastUse("a", 0.25, NOW + HALF_LIFE),)
    second = an_engine(a_node(devices=4), policy=Policy(usage_half_life_seconds=HALF_LIFE))
    second.set_queues([Queue("a"), Queue("b")])
    assert claim is not None
    second.restore(claim)
    assert second.state_digest() != first.state_digest()
    second.restore_usage(history)
    assert second.state_digest() == first.state_digest()
    for engine in (first, second):
        engine.cycle(NOW + 3 * HALF_LIFE)
    assert second.state_digest() == first.state_digest()
    assert past(second) == {"a": round(0.25 / 4 + 0.5 * 3 / 4, 9)}


def test_a_history_that_is_none_is_refused_and_changes_nothing() -> None:
    engine = an_engine_with_a_past()
    before = engine.state_digest()
    for share, at in ((-1.0, NOW), (math.nan, NOW), (0.5, math.inf)):
        with pytest.raises(ValueError, match="past use of queue 'a'"):
            engine.restore_usage([PastUse("a", share, at)])
    assert engine.state_digest() == before
    engine.restore_usage([PastUse("a", 0.4, NOW), PastUse("b", 0.4, NOW + HALF_LIFE)])
    assert past(engine) == {"a": 0.2, "b": 0.4}


# -- who is next -----------------------------------------------------------------------------------


def turns(tree: Queues, *, place: bool = False) -> list[str]:
    """Order in which waiting jobs are tried; with `place` each is charged, else none fits."""
    totals, order = totals_of(tree), []
    tree.wake(0.0)
    turn = tree.turn(totals)
    while (head := turn.next()) is not None:
        job, group = head
        order.append(job.job_id)
        if place:
            tree.discard(job.job_id)
            tree.charge(job, {"H100": job.milli_per_member}, 0, 0, 1)
            turn.fits(group)
        else:
            turn.skip(group)
    return order


def waiting(tree: Queues, *jobs: tuple[str, str, int, float]) -> None:
    for job_id, queue, priority, at in jobs:
        tree.add(a_job(job_id, queue=queue, priority=priority, submitted_at=at, device_memory_bytes=int(at) * GIB))


def test_priority_goes_through_the_whole_tree_then_standing_then_time() -> None:
    tree = a_tree(Queue("org"), Queue("x", "org"), Queue("y", "org"), Queue("solo"))
    waiting(tree, ("x5", "x", 0, 5), ("y4", "y", 0, 4), ("y9", "y", 7, 9), ("s6", "solo", 0, 6), ("o8", "org", 0, 8))
    assert turns(tree) == ["y9", "y4", "x5", "s6", "o8"]
    hold(tree, "y", devices=1)
    assert turns(tree) == ["y9", "s6", "x5", "o8", "y4"]
    assert turns(tree, place=True) == ["y9", "s6", "x5", "o8", "y4"]
    assert tree.jobs == {}


def test_what_is_within_its_queues_quota_goes_before_what_borrows_or_has_none() -> None:
    """By shares alone e would have each device that is free, for ever: org's other child holds so much."""
    one = (Quota("H100", 1000),)
    tree = a_tree(Queue("e", quotas=one), Queue("org"), Queue("d", "org", quotas=one), Queue("f", "org"), h100=5)
    hold(tree, "e")
    hold(tree, "f", devices=3)
    waiting(tree, ("e1", "e", 0, 1), ("f2", "f", 0, 2), ("d3", "d", 0, 3), ("d4", "d", 0, 4), ("f9", "f", 5, 9))
    assert turns(tree, place=True) == ["f9", "d3", "e1", "d4", "f2"]


def test_a_queues_own_jobs_are_one_more_child() -> None:
    tree = a_tree(Queue("org"), Queue("x", "org"))
    waiting(tree, *((f"{q}{i}", q, 0, float(i)) for q in ("org", "x") for i in range(3)))
    assert turns(tree, place=True) == ["org0", "x0", "org1", "x1", "org2", "x2"]


def test_each_placement_moves_the_turn() -> None:
    tree = a_tree(Queue("a", weight=2.0), Queue("b"))
    waiting(tree, *((f"{q}{i}", q, 0, float(i)) for q in "ab" for i in range(4)))
    assert turns(tree, place=True) == ["a0", "b0", "a1", "b1", "a2", "a3", "b2", "b3"]
