"""Quotas: who may take how much of what, and what a job that must wait for them is told."""

import pytest

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Accelerator, Queue, Quota, Rejection
from placement_engine.domain.readouts import QuotaUsage
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, an_engine, placed, why
from tests.unit.placement_engine.domain.queue_builders import H100, K80, L4, a_tree, hold, rooms


def owns(
    devices: float, accelerator: str = "H100", borrow: float | None = None, lend: float | None = None
) -> tuple[Quota, ...]:
    limits = [None if one is None else int(one * 1000) for one in (borrow, lend)]
    return (Quota(accelerator, int(devices * 1000), *limits),)


# -- room ------------------------------------------------------------------------------------------


def test_a_queue_takes_its_own_and_what_its_siblings_leave() -> None:
    tree = a_tree(Queue("a", quotas=owns(6)), Queue("b", quotas=owns(2)))
    assert rooms(tree) == {"a": 8, "b": 8}
    hold(tree, "a", devices=3)
    assert rooms(tree) == {"a": 5, "b": 5}
    hold(tree, "b", devices=5)
    assert rooms(tree) == {"a": 0, "b": 0}
    hold(tree, "b", devices=4, sign=-1)
    assert rooms(tree) == {"a": 4, "b": 4}


def test_borrowing_and_lending_limits() -> None:
    tree = a_tree(Queue("a", quotas=owns(6, lend=2)), Queue("b", quotas=owns(2, borrow=1)), Queue("c", quotas=owns(0)))
    assert rooms(tree) == {"a": 8, "b": 3, "c": 4}
    hold(tree, "c", devices=3)
    assert rooms(tree) == {"a": 5, "b": 1, "c": 1}
    hold(tree, "a", devices=5)
    assert rooms(tree) == {"a": 0, "b": 0, "c": 0}
    hold(tree, "c", devices=3, sign=-1)
    assert rooms(tree) == {"a": 3, "b": 3, "c": 3}


def test_a_borrowing_limit_of_none_isolates_and_a_lending_limit_of_none_keeps_all() -> None:
    tree = a_tree(Queue("a", quotas=owns(6, borrow=0)), Queue("b", quotas=owns(2, lend=0)))
    assert rooms(tree) == {"a": 6, "b": 8}


def test_what_a_parent_owns_beyond_its_childrens_quotas_is_shared_by_them() -> None:
    tree = a_tree(
        Queue("org", quotas=owns(6)), Queue("x", "org", quotas=owns(2)), Queue("y", "org"), Queue("z", quotas=owns(2))
    )
    assert rooms(tree) == {"org": 8, "x": 8, "y": 8, "z": 8}
    hold(tree, "y", devices=7)
    assert rooms(tree) == {"org": 1, "x": 1, "y": 1, "z": 1}


def test_children_that_own_more_than_their_parent_count() -> None:
    tree = a_tree(Queue("org", quotas=owns(1, borrow=0)), Queue("x", "org", quotas=owns(3)))
    assert rooms(tree) == {"org": 3, "x": 3}


def test_limits_hold_at_every_level() -> None:
    """org borrows one at most, whoever of its children asks; it lends two, whatever they would."""
    tree = a_tree(
        Queue("org", quotas=owns(4, borrow=1, lend=2)),
        Queue("x", "org", quotas=owns(2)),
        Queue("y", "org", quotas=owns(2, lend=1)),
        Queue("z", quotas=owns(4)),
    )
    assert rooms(tree) == {"org": 4, "x": 4, "y": 5, "z": 6}
    hold(tree, "z", devices=5)
    assert rooms(tree) == {"org": 2, "x": 2, "y": 3, "z": 1}
    hold(tree, "x", devices=2)
    assert rooms(tree) == {"org": 0, "x": 0, "y": 1, "z": 0}


def test_a_queue_without_a_quota_on_its_path_is_not_limited_and_takes_nothing_from_the_ledger() -> None:
    tree = a_tree(Queue("a", quotas=owns(2)), Queue("free"), Queue("org"), Queue("x", "org", quotas=owns(1)))
    hold(tree, "free", devices=8)
    hold(tree, "nobody", devices=8)
    hold(tree, "org", devices=8)
    assert rooms(tree) == {"a": 3, "free": None, "org": None, "x": 3}
    assert rooms(tree, L4) == dict.fromkeys(("a", "free", "org", "x"))


def test_a_device_counts_for_its_name_its_class_and_for_every_device() -> None:
    quotas = owns(2, "h100", borrow=0) + owns(5, "gpu") + owns(6, "")
    tree = a_tree(Queue("a", quotas=quotas), k80=4)
    assert [rooms(tree, m)["a"] for m in (H100, L4, K80)] == [2, 5, 5]
    hold(tree, "a", L4, 4)
    assert [rooms(tree, m)["a"] for m in (H100, L4, K80)] == [1, 1, 1]
    hold(tree, "a", H100, 1)
    assert [rooms(tree, m)["a"] for m in (H100, L4, K80)] == [0, 0, 0]


def test_quotas_that_change_find_what_is_held() -> None:
    tree = a_tree()
    hold(tree, "a", devices=5)
    tree.set_queues([Queue("a", quotas=owns(2)), Queue("b", quotas=owns(4))])
    assert rooms(tree) == {"a": 1, "b": 1}
    tree.set_queues([Queue("a", quotas=owns(2, borrow=1)), Queue("b", quotas=owns(4))])
    assert rooms(tree) == {"a": 0, "b": 1}
    tree.set_queues([Queue("org", quotas=owns(4)), Queue("a", "org"), Queue("b", "org", quotas=owns(4, lend=0))])
    assert rooms(tree) == {"a": 0, "b": 4, "org": 0}


def test_a_class_that_becomes_known_later_counts_what_is_held_already() -> None:
    tree = a_tree(Queue("a", quotas=owns(4, "TPU")))
    tree.charge(a_job(queue="a"), {"v5e": 3000}, 0, 0, 1)
    assert tree.quotas.room("a", "v5e") is None
    tree.models.estimator.set_catalogue([Accelerator("v5e", "TPU")])
    tree.reprice()
    tree.refresh()
    assert tree.quotas.room("a", "v5e") == 1000


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ((Quota("H100", -1),), r"queue 'a': quota for 'H100': milli must not be negative, got -1; write 0 or more"),
        ((Quota("", 1, -2),), r"quota for 'every device': borrowing_limit must not be negative, got -2; write 0 for"),
        ((Quota("L4", 1, 0, -3),), r"lending_limit must not be negative, got -3"),
        ((Quota("GPU", 1), Quota("gpu", 2)), r"queue 'a': quota for 'gpu' is given twice; keep one of them"),
    ],
)
def test_bad_quotas_are_refused_and_change_nothing(quotas: tuple[Quota, ...], message: str) -> None:
    engine = an_engine(a_node())
    before = engine.state_digest()
    with pytest.raises(ValueError, match=message):
        engine.set_queues([Queue("a", quotas=quotas)])
    assert engine.state_digest() == before
    engine.set_queues([Queue("a", quotas=owns(1, "no such accelerator")), Queue("b", "a", quotas=owns(9, "it"))])


# -- accounts --------------------------------------------------------------------------------------


def account(engine: Engine) -> dict[str, tuple[QuotaUsage, ...]]:
    return {usage.name: usage.quotas for usage in engine.queue_usage()}


def test_accounts_tell_what_is_used_borrowed_lent_and_could_be_borrowed() -> None:
    engine = an_engine(a_node(devices=8), a_node("n2", 2, "L4"))
    engine.set_queues(
        [Queue("a", quotas=owns(4)), Queue("b", quotas=owns(2)), Queue("c", quotas=owns(2, borrow=3)), Queue("d")]
    )
    placed(engine, a_job("c", queue="c", devices=4, models=("H100",)), a_job("d", queue="d", models=("L4",)))
    assert account(engine) == {
        "a": (QuotaUsage("H100", 4000, 0, 0, 1333, 0),),
        "b": (QuotaUsage("H100", 2000, 0, 0, 666, 2000),),
        "c": (QuotaUsage("H100", 2000, 4000, 2000, 0, 1000),),
        "d": (),
    }
    engine.release("c")
    assert [(one.used, one.borrowed, one.lent) for (one,) in list(account(engine).values())[:3]] == [(0, 0, 0)] * 3


# -- decisions -------------------------------------------------------------------------------------


def two_queues(*, borrow: float | None = None) -> Engine:
    engine = an_engine(a_node(devices=8))
    engine.set_queues([Queue("a", quotas=owns(5)), Queue("b", quotas=owns(3, borrow=borrow))])
    return engine


def test_two_queues_borrow_and_give_back() -> None:
    engine = two_queues()
    jobs = [a_job(f"b{i}", queue="b") for i in range(8)]
    assert sorted(placed(engine, *jobs)) == [f"b{i}" for i in range(8)]
    waits = {"QUEUE_QUOTA_EXCEEDED": (0, 0), "DEVICES_BUSY": (1, 8), "PREEMPTING": (0, 0)}
    assert why(engine, a_job("a0", queue="a")) == waits
    engine.release("b0")
    assert placed(engine, a_job("b8", queue="b")) == {"a0": ["n1"]}


def test_a_quota_holds_though_devices_are_free() -> None:
    engine = two_queues(borrow=1)
    won = placed(engine, *(a_job(f"b{i}", queue="b", submitted_at=float(i)) for i in range(6)))
    assert sorted(won) == ["b0", "b1", "b2", "b3"]
    rejection = engine.explain("b4", NOW)
    assert rejection is not None
    assert [(r.plugin, r.code, dict(r.numbers)) for r in rejection.reasons] == [
        (
            "QueueQuota",
            "QUEUE_QUOTA_EXCEEDED",
            {"nominal": 3.0, "used": 4.0, "borrowed": 1.0, "lendable": 0.0, "asked": 1.0},
        )
    ]
    assert rejection.summary == (
        "waits: queue 'b' owns 3 H100, uses 4 (1 borrowed) and may take 0 now (0 lent by others), the job asks for 1"
    )
    assert rejection.remedies == ("queue 'b' needs a borrowing_limit of 2 H100 or more",)
    assert engine.dry_run(a_job("b9", queue="b"), NOW).remedies == rejection.remedies
    assert placed(engine, a_job("a0", queue="a", devices=4)) == {"a0": ["n1"]}


def test_a_gang_is_counted_whole_and_an_elastic_one_by_its_least() -> None:
    engine = two_queues(borrow=1)
    assert why(engine, a_job("gang", queue="b", replicas=5)) == {"QUEUE_QUOTA_EXCEEDED": (0, 0)}
    engine.withdraw("gang")
    mask = engine._queues.quotas.mask
    assert mask(a_job(queue="b", replicas=5)).tolist() == [True, False]
    assert mask(a_job(queue="b", replicas=5, min_replicas=4)) is None
    assert mask(a_job(queue="b", devices=0, cpu_milli=1)) is None


def test_where_one_kind_is_used_up_another_is_taken() -> None:
    engine = an_engine(a_node("big", 4), a_node("small", 4, "L4"))
    engine.set_queues([Queue("a", quotas=owns(1, borrow=0) + owns(2, "L4", borrow=0))])
    won = placed(engine, *(a_job(f"j{i}", queue="a", submitted_at=float(i)) for i in range(4)))
    assert sorted(node for (node,) in won.values()) == ["big", "small", "small"]
    rejection = engine.explain("j3", NOW)
    assert isinstance(rejection, Rejection)
    assert rejection.reasons[0].code == "QUEUE_QUOTA_EXCEEDED"
    engine.release("j0")
    free = engine.dry_run(a_job("k", queue="a", models=("L4",)), NOW)
    assert isinstance(free, Rejection)
    assert free.remedies == (
        "another kind: H100 has 1 within quota",
        "1 L4 of queue 'a' must be released first",
    )


def test_a_kind_without_room_is_no_answer_though_its_devices_are_free() -> None:
    """H100 are free but not to be taken, L4 are to be taken but busy."""
    engine = an_engine(a_node("big", 4), a_node("small", 1, "L4"))
    engine.set_queues([Queue("a", quotas=owns(0, borrow=0))])
    assert placed(engine, a_job("j0", queue="a")) == {"j0": ["small"]}
    assert why(engine, a_job("j1", queue="a")) == {"DEVICES_BUSY": (1, 1), "QUEUE_QUOTA_EXCEEDED": (1, 4)}


def test_a_kind_that_left_the_fleet_is_nothing_of_ones_own() -> None:
    """Else its owner would take what is left before those who own that."""
    engine = an_engine(a_node("n1", 1, "L4"), a_node("n2", 1))
    engine.set_queues([Queue("l4", quotas=owns(1, "L4")), Queue("h100", quotas=owns(1))])
    engine.remove_node("n2")
    engine.submit(a_job("b", device_milli=500, queue="h100"))
    for i in range(3):
        engine.submit(a_job(f"o{i}", device_milli=200, queue="l4", submitted_at=float(i)))
    assert [d.job_id for d in engine.cycle(NOW).decisions] == ["o0", "o1", "o2"]


def test_what_others_borrow_is_named_as_reclaimable() -> None:
    engine = two_queues()
    placed(engine, *(a_job(f"b{i}", queue="b") for i in range(6)))
    rejection = engine.dry_run(a_job("a0", queue="a", devices=4), NOW)
    assert isinstance(rejection, Rejection)
    assert rejection.remedies == (
        "3 H100 of queue 'b', which borrows them, are reclaimable",
        "2 H100 that queues with quotas hold must be released first",
    )
    rejection = engine.dry_run(a_job("a0", queue="a", devices=9), NOW)
    assert isinstance(rejection, Rejection)
    assert rejection.remedies == ("queue 'a' needs a quota of 6 H100 or more",)


def test_jobs_alike_hear_one_answer_and_others_behind_them_are_tried() -> None:
    engine = two_queues(borrow=0)
    jobs = [a_job(f"big{i}", queue="b", devices=4, submitted_at=0.0) for i in range(3)]
    small = a_job("small", queue="b", devices=2, submitted_at=1.0)
    for job in (*jobs, small):
        engine.submit(job)
    result = engine.cycle(NOW)
    assert [d.job_id for d in result.decisions] == ["small"]
    assert result.considered == 2
    assert {r.job_id for r in result.rejections} == {"big0", "big1", "big2"}
