"""What would admit a waiting job, the smallest change first, and when it is expected to start."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Queue, Rejection, RemedyKind
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.domain.queue_forecast import jobs_ahead
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, a_sample, an_engine, placed
from tests.unit.placement_engine.domain.test_properties import batches, fleets


def explained(engine: Engine, job_id: str, now: float = NOW) -> Rejection:
    rejection = engine.explain(job_id, now)
    assert rejection is not None
    assert rejection.remedies == tuple(change.message for change in rejection.changes)
    return rejection


def changes(engine: Engine, job: Any, now: float = NOW) -> list[tuple[Any, ...]]:
    engine.submit(job)
    return [(c.kind, dict(c.numbers), c.subjects) for c in explained(engine, job.job_id, now).changes]


def test_fewer_devices_are_the_most_that_fit() -> None:
    engine = an_engine(a_node("n1", 8), a_node("n2", 8))
    placed(engine, a_job("x", devices=3), a_job("y", devices=6))
    assert changes(engine, a_job("j", devices=8)) == [
        (RemedyKind.FEWER_DEVICES, {"devices": 5.0, "devices_asked": 8.0}, ())
    ]


def test_a_share_gets_smaller_in_steps() -> None:
    engine = an_engine(a_node("n1", 1))
    placed(engine, a_job("x", device_milli=650))
    assert changes(engine, a_job("j", device_milli=700)) == [
        (RemedyKind.FEWER_DEVICES, {"devices": 0.35, "devices_asked": 0.7}, ())
    ]


def test_what_keeps_the_size_comes_before_what_is_given_up_and_less_before_more() -> None:
    engine = an_engine(
        *(a_node(f"a{i}", 4, rack="ra") for i in range(3)),
        a_node("b", 4, rack="rb"),
        *(a_node(f"c{i}", 4, model="L4", rack="rc") for i in range(4)),
    )
    gang = a_job("g", replicas=4, devices=4, models=("H100",), topology_level="rack", topology_required=True)
    assert changes(engine, gang) == [
        (RemedyKind.LOOSER_TOPOLOGY, {}, ("rack",)),
        (RemedyKind.OTHER_KIND, {}, ("L4",)),
        (RemedyKind.FEWER_REPLICAS, {"replicas": 3.0, "replicas_asked": 4.0}, ()),
        (RemedyKind.FEWER_DEVICES, {"devices": 2.0, "devices_asked": 4.0}, ()),
    ]


def test_a_looser_level_is_named_before_none() -> None:
    def node(name: str, rack: str) -> Any:
        return replace(a_node(name, 4), topology={"rack": rack, "zone": "z"})

    engine = an_engine(node("a", "ra"), node("b", "rb"))
    engine.submit(a_job("g", replicas=2, devices=4, topology_level="rack", topology_required=True))
    assert explained(engine, "g").remedies[:2] == (
        "it would fit now within one zone",
        "it would fit now if one rack were preferred, not required",
    )


def test_an_elastic_gang_is_told_by_what_it_needs_at_least() -> None:
    engine = an_engine(a_node("n1", 2))
    told = changes(engine, a_job("g", replicas=8, min_replicas=8, devices=1))
    assert told == [(RemedyKind.FEWER_REPLICAS, {"replicas": 2.0, "replicas_asked": 8.0}, ())]


def test_a_huge_gang_is_told_what_its_reasons_count() -> None:
    engine = an_engine(a_node("n1", 3))
    engine.submit(a_job("g", replicas=5000, models=("H100",)))
    assert explained(engine, "g").remedies == ("3 of 5000 replicas would fit now",)


def test_a_limit_of_the_queue_says_what_would_do() -> None:
    engine = an_engine(a_node("n1", 8))
    engine.set_queues([Queue("q", device_limit=4)])
    placed(engine, a_job("x", devices=3, queue="q"))
    told = changes(engine, a_job("j", devices=2, queue="q"))
    assert [(kind, subjects) for kind, _, subjects in told] == [
        (RemedyKind.FEWER_DEVICES, ()),
        (RemedyKind.QUOTA, ("q",)),
    ]


def test_hot_devices_are_counted_and_named_in_order() -> None:
    engine = an_engine(*(a_node(name, 2, telemetry_exempt=False) for name in ("n2", "n1", "n3")))
    for name in ("n1", "n2", "n3"):
        engine.apply_sample(a_sample(name, {"margin_celsius": 2.0}, {"margin_celsius": 40.0 if name == "n3" else 1.0}))
    told = changes(engine, a_job("j", devices=2))
    assert told[-1] == (RemedyKind.HEAT, {"devices": 5.0, "margin_celsius": 8.0}, ("n1/0", "n1/1", "n2/0"))


def test_a_device_of_unknown_heat_does_not_wait_for_cooling() -> None:
    engine = an_engine(a_node("n1", 3, telemetry_exempt=False), policy=Policy(unknown_heat=UnknownPolicy.REFUSE))
    engine.apply_sample(a_sample("n1", {"margin_celsius": 2.0}, {}))
    told = changes(engine, a_job("j", devices=1))
    assert told == [(RemedyKind.HEAT, {"devices": 1.0, "margin_celsius": 8.0}, ("n1/0",))]


# -- expected start ------------------------------------------------------------------------------


def running(engine: Engine, **jobs: tuple[int, float]) -> None:
    """Jobs of so many devices that end after so many seconds."""
    told = [a_job(name, devices=n, expected_duration_seconds=s) for name, (n, s) in jobs.items()]
    assert len(placed(engine, *told)) == len(jobs)


def expected(engine: Engine, job: Any) -> tuple[float | None, bool, tuple[str, ...]]:
    engine.submit(job)
    found = explained(engine, job.job_id)
    start = None if found.expected_start is None else found.expected_start - NOW
    return start, found.expected_start_at_least, found.expected_start_after


def test_the_first_in_line_starts_when_enough_has_ended() -> None:
    engine = an_engine(a_node("n1", 8))
    running(engine, a=(2, 300.0), b=(2, 100.0), c=(4, 900.0))
    assert expected(engine, a_job("j", devices=4)) == (300.0, False, ("b", "a"))
    assert engine.explain("j", NOW).changes[-1] == replace(  # type: ignore[union-attr]
        engine.explain("j", NOW).changes[-1],  # type: ignore[union-attr]
        kind=RemedyKind.AFTER_JOB_ENDS,
        message="it would fit once b, a end, expected in 300 s",
        numbers={"seconds": 300.0, "jobs": 2.0},
        subjects=("b", "a"),
    )


def test_jobs_ahead_take_their_devices_first_and_give_them_back_after_their_duration() -> None:
    engine = an_engine(a_node("n1", 4))
    running(engine, a=(4, 100.0))
    engine.submit(a_job("first", devices=4, priority=2, expected_duration_seconds=50.0))
    engine.submit(a_job("second", devices=2, priority=1, expected_duration_seconds=500.0))
    assert expected(engine, a_job("j", devices=2)) == (150.0, False, ("a",))
    # Nobody knows when j will end, so the devices it takes do not come back.
    assert expected(engine, a_job("k", devices=4, priority=-1)) == (None, False, ())


def test_a_job_that_ends_nobody_knows_when_is_waited_for_in_vain() -> None:
    engine = an_engine(a_node("n1", 4))
    placed(engine, a_job("a", devices=4))
    assert expected(engine, a_job("j", devices=2)) == (None, False, ())


def test_what_fits_now_starts_now() -> None:
    engine = an_engine(a_node("n1", 4))
    assert expected(engine, a_job("j", devices=2)) == (0.0, False, ())


def test_more_jobs_ahead_than_are_simulated_make_it_at_least() -> None:
    engine = an_engine(a_node("n1", 1))
    running(engine, a=(1, 100.0))
    for number in range(70):
        engine.submit(a_job(f"f{number:02d}", priority=1, expected_duration_seconds=10.0))
    start, at_least, _ = expected(engine, a_job("j"))
    assert at_least
    assert start == 100.0 + 64 * 10.0


def test_who_stands_ahead() -> None:
    engine = an_engine(a_node("n1", 8))
    engine.set_queues([Queue("a"), Queue("b")])
    placed(engine, a_job("run", devices=8, queue="a"))
    for name, queue, priority, at in (
        ("a1", "a", 0, 1.0),
        ("a2", "a", 1, 9.0),
        ("b1", "b", 0, 5.0),
        ("b2", "b", -1, 1.0),
        ("me", "a", 0, 2.0),
        ("a3", "a", 0, 3.0),
    ):
        engine.submit(a_job(name, queue=queue, priority=priority, submitted_at=at))
    ahead, more = jobs_ahead(engine._queues, engine._totals, engine._queues.jobs["me"])
    assert ([job.job_id for job in ahead], more) == (["a2", "b1", "a1"], False)
    ahead, more = jobs_ahead(engine._queues, engine._totals, engine._queues.jobs["me"], 2)
    assert ([job.job_id for job in ahead], more) == (["a2", "b1"], True)


@settings(max_examples=60, deadline=None)
@given(fleet=fleets, batch=batches, data=st.data())
def test_to_explain_leaves_no_trace(fleet: Any, batch: Any, data: st.DataObject) -> None:
    engine = an_engine(*fleet)
    engine.set_queues([Queue("a"), Queue("b", device_limit=3)])
    for job in batch:
        engine.submit(job)
    engine.cycle(NOW)
    waiting = [job.job_id for job in batch if engine.is_waiting(job.job_id)]
    if not waiting:
        return
    before = engine.state_digest()
    job_id = data.draw(st.sampled_from(waiting))
    told = engine.explain(job_id, NOW + 1)
    assert engine.state_digest() == before
    assert engine.explain(job_id, NOW + 1) == told
    assert told is not None
    assert told.expected_start is None or told.expected_start >= NOW + 1


@settings(max_examples=60, deadline=None)
@given(fleet=fleets, batch=batches)
def test_every_change_of_size_admits_the_job(fleet: Any, batch: Any) -> None:
    engine = an_engine(*fleet)
    for job in batch:
        engine.submit(job)
    engine.cycle(NOW)
    for job in batch:
        told = engine.explain(job.job_id, NOW)
        for change in told.changes if told is not None else ():
            if change.kind is RemedyKind.FEWER_REPLICAS:
                varied = replace(job, replicas=round(change.numbers["replicas"]), min_replicas=0)
            elif change.kind is RemedyKind.FEWER_DEVICES and job.devices:
                varied = replace(job, devices=round(change.numbers["devices"]))
            elif change.kind is RemedyKind.OTHER_KIND:
                varied = replace(job, models=change.subjects[:1], classes=(), stacks=())
            else:
                continue
            assert not isinstance(engine.dry_run(varied, NOW), Rejection), change


@pytest.mark.parametrize("devices", [2, 3])
def test_the_changes_in_a_cycle_s_rejections_are_not_searched_for(devices: int) -> None:
    """A cycle says reasons; the search is for the one who asks."""
    engine = an_engine(a_node("n1", 1))
    engine.submit(a_job("j", devices=devices))
    (rejection,) = engine.cycle(NOW).rejections
    assert (rejection.changes, rejection.expected_start) == ((), None)
    assert rejection.reasons
