"""Reservation and backfill: the reserved start, who may use what is reserved, and what each is told."""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement_engine.domain.columns import CPU, HOST_MEMORY, NODE_WATTS
from placement_engine.domain.engine import Engine
from placement_engine.domain.model import CycleResult, Decision, Job, Profile, Rejection
from placement_engine.domain.policy import Policy
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, an_engine, placed
from tests.unit.placement_engine.domain.virtual_clock import VirtualClock

EAGER = Policy(
    reservation_after_seconds=0,
    plan_retry_seconds=0,
    forecasts_per_cycle=1000,
    backfill_tries=1000,
    reasons_max_age_seconds=0,
)


def a_blocked_gang(*, replicas: int = 2, policy: Policy = EAGER) -> Engine:
    """Two nodes of eight: four devices run for 100 s, eight for 200 s; a gang of `replicas` x 8 waits."""
    engine = an_engine(a_node("n1"), a_node("n2"), policy=policy)
    assert placed(engine, a_job("short", devices=4, expected_duration_seconds=100.0)) == {"short": ["n1"]}
    assert placed(engine, a_job("long", devices=8, expected_duration_seconds=200.0)) == {"long": ["n2"]}
    assert placed(engine, a_job("gang", devices=8, replicas=replicas, submitted_at=1.0)) == {}
    return engine


def reason(engine: Engine, job_id: str, now: float = NOW) -> dict[str, str]:
    rejection = engine.explain(job_id, now)
    assert isinstance(rejection, Rejection)
    return {r.code: r.message for r in rejection.reasons}


def test_a_blocked_gang_is_told_when_it_starts_and_after_whom() -> None:
    engine = a_blocked_gang()
    rejection = engine.explain("gang", NOW)
    assert rejection is not None
    first = rejection.reasons[0]
    assert (first.plugin, first.code) == ("Reservation", "RESERVED")
    assert first.message == "starts in about 200 s, after jobs short, long"
    assert first.numbers == {"jobs_before": 2.0, "devices": 16.0, "starts_in_seconds": 200.0}
    assert rejection.summary == "waits: starts in about 200 s, after jobs short, long"


def test_a_far_start_is_told_in_days_and_after_a_job_by_its_name() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    first = a_job("7f3b", name="tenant/serve", devices=8, expected_duration_seconds=2591831.0)
    assert placed(engine, first) == {"7f3b": ["n1"]}
    assert placed(engine, a_job("late", devices=8, submitted_at=1.0)) == {}
    assert reason(engine, "late")["RESERVED"] == "starts in about 30 days, after job tenant/serve"


def test_who_may_use_what_is_reserved() -> None:
    table: dict[str, tuple[dict[str, Any], bool]] = {
        "ends before": ({"expected_duration_seconds": 199.0}, True),
        "ends at the start": ({"expected_duration_seconds": 200.0}, True),
        "would delay it": ({"expected_duration_seconds": 201.0}, False),
        "of unknown duration": ({}, False),
        "higher priority goes first": ({"priority": 1}, True),
    }
    for case, (facts, may) in table.items():
        engine = a_blocked_gang()
        assert placed(engine, a_job("w", devices=4, submitted_at=2.0, **facts)) == ({"w": ["n1"]} if may else {}), case


def test_the_upper_end_of_an_uncertain_duration_counts() -> None:
    for uncertainty, may in ((0.1, True), (0.5, False)):
        engine = a_blocked_gang()
        engine.put_profile(Profile("w", "H100", 4, 1.0, relative_uncertainty=uncertainty))
        job = a_job("w", devices=4, submitted_at=2.0, workload="w", expected_duration_seconds=150.0)
        assert bool(placed(engine, job)) is may


def test_what_is_not_reserved_is_for_everyone() -> None:
    engine = a_blocked_gang()
    engine.apply_node(a_node("n3", 4))
    assert placed(engine, a_job("w", devices=4, submitted_at=2.0)) == {"w": ["n3"]}


def test_one_that_is_held_back_is_told_for_whom_and_what_would_help() -> None:
    engine = a_blocked_gang()
    assert placed(engine, a_job("w", devices=2, submitted_at=2.0)) == {}
    rejection = engine.explain("w", NOW)
    assert rejection is not None
    first = rejection.reasons[0]
    assert (first.plugin, first.code) == ("Reservation", "HELD_FOR_RESERVATION")
    assert first.message == "would delay the start of job gang in about 200 s"
    assert first.numbers == {"reserved_start_in_seconds": 200.0}
    assert rejection.remedies[0] == "declare an expected_duration below 200 s to be backfilled"
    dry = engine.dry_run(a_job("v", devices=2), NOW)
    assert isinstance(dry, Rejection)
    assert dry.reasons[0].code == "HELD_FOR_RESERVATION"
    assert isinstance(engine.dry_run(a_job("v", devices=2, expected_duration_seconds=9.0), NOW), Decision)


def test_the_rejections_of_a_cycle_carry_both() -> None:
    engine = a_blocked_gang()
    engine.submit(a_job("w", devices=2, submitted_at=2.0))
    engine.submit(a_job("later", devices=8, submitted_at=3.0))
    told = {r.job_id: [reason.code for reason in r.reasons] for r in engine.cycle(NOW + 5).rejections}
    assert told["w"][0] == "HELD_FOR_RESERVATION"
    assert "RESERVED" not in told["later"]
    engine.withdraw("gang")
    told = {r.job_id: [reason.code for reason in r.reasons] for r in engine.cycle(NOW + 6).rejections}
    assert told["later"][0] == "RESERVED", "the promise is news"


def test_host_resources_are_reserved_too() -> None:
    engine = an_engine(a_node("n1", 8, cpu_milli=8000), policy=EAGER)
    placed(engine, a_job("r", devices=4, cpu_milli=4000, expected_duration_seconds=100.0))
    placed(engine, a_job("w", devices=5, cpu_milli=7000, submitted_at=1.0))
    assert placed(engine, a_job("cpu", devices=0, cpu_milli=2000, submitted_at=2.0)) == {}
    assert placed(engine, a_job("small", devices=0, cpu_milli=1000, submitted_at=2.0)) == {"small": ["n1"]}


def test_only_what_the_reserved_start_needs_beyond_what_ends_is_kept() -> None:
    engine = an_engine(a_node("n1", 8, cpu_milli=8000, memory_bytes=8 * GIB), policy=EAGER)
    placed(engine, a_job("r", devices=4, cpu_milli=4000, memory_bytes=4 * GIB, expected_duration_seconds=100.0))
    placed(engine, a_job("w", devices=6, cpu_milli=4000, memory_bytes=4 * GIB, submitted_at=1.0))
    waits = a_job("other", devices=2, cpu_milli=4000, memory_bytes=4 * GIB, submitted_at=2.0)
    assert placed(engine, waits) == {"other": ["n1"]}


def test_what_ends_covers_the_members_of_a_gang_once() -> None:
    """Two members of 400 thousandths and 3 CPU wait for one job that holds 500 and 4: 300 and 2 are kept."""
    for milli, cpu, may in ((200, 2000, True), (300, 0, False), (100, 3000, False)):
        engine = an_engine(a_node("n1", 1, cpu_milli=8000), policy=EAGER)
        placed(engine, a_job("r", device_milli=500, cpu_milli=4000, expected_duration_seconds=100.0))
        placed(engine, a_job("w", device_milli=400, cpu_milli=3000, replicas=2, submitted_at=1.0))
        long = a_job("long", device_milli=milli, cpu_milli=cpu, submitted_at=2.0)
        assert bool(placed(engine, long)) is may, (milli, cpu)


def test_no_reservation_before_the_wait_that_the_policy_asks_nor_without_a_forecast() -> None:
    engine = a_blocked_gang(policy=Policy(reservation_after_seconds=2000))
    assert placed(engine, a_job("w", devices=4, submitted_at=2.0)) == {"w": ["n1"]}
    engine = a_blocked_gang(policy=Policy(reservations=0))
    assert placed(engine, a_job("w", devices=4, submitted_at=2.0)) == {"w": ["n1"]}
    engine = a_blocked_gang(replicas=3)
    assert placed(engine, a_job("w", devices=4, submitted_at=2.0)) == {"w": ["n1"]}, "it would never start"


def test_how_far_down_the_queue_a_start_is_looked_for_does_not_depend_on_what_is_remembered() -> None:
    """A planner that takes over decides as the one before: what is known already counts as looked at."""
    queue = [
        a_job("never", devices=8, submitted_at=1.0),
        a_job("soon", devices=4, submitted_at=2.0),
        a_job("backfill", devices=2, submitted_at=3.0),
    ]
    for looked_at, backfilled in ((1, {"backfill": ["n1"]}), (2, {})):
        for remembers in (False, True):
            engine = an_engine(a_node("n1"), policy=replace(EAGER, forecasts_per_cycle=looked_at))
            placed(engine, a_job("endless", devices=4), a_job("short", devices=2, expected_duration_seconds=100.0))
            if remembers:
                assert placed(engine, queue[0]) == {}
            assert placed(engine, *queue) == backfilled, (looked_at, remembers)


def test_a_start_that_misses_the_deadline_is_not_reserved() -> None:
    engine = an_engine(a_node("n1"), policy=EAGER)
    engine.put_profile(Profile("t", "H100", 8, 1.0))
    placed(engine, a_job("r", devices=4, expected_duration_seconds=100.0))
    late = a_job("l", devices=8, workload="t", expected_duration_seconds=60.0, deadline=NOW + 150, submitted_at=1.0)
    placed(engine, late)
    assert "RESERVED" not in reason(engine, "l")


def test_a_cycle_leaves_no_booking_in_the_columns() -> None:
    engine = a_blocked_gang(policy=replace(EAGER, usage_half_life_seconds=0))
    fleet = engine._fleet

    def held() -> tuple[bytes, bytes, list[tuple[str, list[tuple[str, int]]]]]:
        hosts = fleet.columns.row[[CPU, HOST_MEMORY, NODE_WATTS]]
        return fleet.columns.device.tobytes(), hosts.tobytes(), sorted((n, sorted(h)) for n, h in fleet.held.items())

    before = held()
    for now in (NOW, NOW + 1, NOW + 150):
        engine.cycle(now)
        engine.explain("gang", now)
        engine.dry_run(a_job("x"), now)
        assert held() == before


@st.composite
def streams(draw: st.DrawFn) -> list[Job]:
    made = []
    at = 0.0
    for number in range(draw(st.integers(2, 14))):
        at += draw(st.sampled_from((0.0, 3.0, 10.0)))
        fraction = draw(st.integers(0, 4)) == 0
        made.append(
            a_job(
                f"j{number:02d}",
                devices=0 if fraction else draw(st.sampled_from((1, 1, 2, 4))),
                device_milli=draw(st.sampled_from((300, 500))) if fraction else 0,
                replicas=draw(st.sampled_from((1, 1, 1, 2, 3))),
                cpu_milli=draw(st.sampled_from((0, 1000, 2000))),
                expected_duration_seconds=draw(st.sampled_from((5.0, 20.0, 50.0, 200.0))),
                submitted_at=at,
            )
        )
    return made


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(jobs=streams(), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_no_backfilled_job_delays_the_reserved_start(jobs: list[Job], sizes: list[int]) -> None:
    """Jobs end as they declared, and none comes before the reserved one: its start never moves later."""
    nodes = [a_node(f"n{i}", size, cpu_milli=4000) for i, size in enumerate(sizes)]
    engine = an_engine(*nodes, policy=EAGER)
    promised: dict[str, float] = {}

    def check(now: float, result: CycleResult) -> None:
        for job_id, booking in engine._bookings.reservations.items():
            assert booking.at <= promised.get(job_id, booking.at), job_id
            promised[job_id] = booking.at

    clock = VirtualClock(engine, jobs, after_cycle=check).run()
    started = {job_id: at for at, job_id in clock.placed}
    for job_id, at in promised.items():
        assert started[job_id] <= at, job_id
    fits = an_engine(*nodes)
    for job in jobs:
        assert (job.job_id in started) == (not isinstance(fits.dry_run(job, 0.0), Rejection)), "no starvation"
