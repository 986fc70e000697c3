"""Heat by forecast, lasting throttling and errors: who takes no new work, for how long, and what is proposed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Advice, AdviceKind, Move, PowerDomain
from placement_engine.domain.policy import Policy
from placement_engine.domain.telemetry import HeatTrend
from tests.unit.placement_engine.domain.builders import (
    NOW,
    a_device,
    a_job,
    a_node,
    a_sample,
    an_engine,
    placed,
    why,
)

POLICY = Policy(heat_floor_celsius=5, heat_hysteresis_celsius=3, heat_forecast_seconds=30, heat_slope_seconds=30)


def live_node(name: str = "n1", devices: int = 1, **changes: Any):
    return a_node(name, devices, telemetry_exempt=False, **changes)


def takes_work(engine: Engine, at: float) -> bool:
    return type(engine.dry_run(a_job("probe"), at)).__name__ == "Decision"


def hear(engine: Engine, *devices: dict[str, Any], at: float, node: str = "n1") -> None:
    engine.apply_sample(a_sample(node, *devices, at=NOW + at))


def blocked(engine: Engine, index: int = 0, at: float = 0.0, node: str = "n1") -> str:
    view = engine.node_view(node, NOW + at)
    assert view is not None
    return view.devices[index].blocked


# -- forecast --------------------------------------------------------------------------------------


def t4_like(engine: Engine) -> dict[float, bool]:
    """A T4 slows down at 93 degrees; here it heats up by one degree a sample, from 73 on, and stays at 92."""
    taken = {}
    for number, celsius in enumerate([*range(73, 93), 92, 92]):
        at = 5.0 * number
        hear(engine, {"slowdown_celsius": 93.0, "temperature_celsius": float(celsius)}, at=at)
        taken[93.0 - celsius] = takes_work(engine, NOW + at)
    return taken


def test_a_device_that_heats_up_gets_no_more_before_it_is_at_the_floor() -> None:
    taken = t4_like(an_engine(live_node(), policy=POLICY))
    last = min(margin for margin, fits in taken.items() if fits)
    assert last > POLICY.heat_floor_celsius + 2
    assert all(fits == (margin >= last) for margin, fits in taken.items()), "once closed it stays closed"
    without = t4_like(an_engine(live_node(), policy=Policy(heat_floor_celsius=5, heat_forecast_seconds=0)))
    assert min(margin for margin, fits in without.items() if fits) == 5.0


def test_the_reason_tells_margin_slope_and_forecast() -> None:
    engine = an_engine(live_node(), policy=POLICY)
    for number in range(12):
        hear(engine, {"margin_celsius": 20.0 - number}, at=5.0 * number)
    engine.submit(a_job())
    engine.cycle(NOW + 55)
    rejection = engine.explain("j1", NOW + 55)
    assert rejection is not None
    (reason,) = rejection.reasons
    assert (reason.plugin, reason.code) == ("HeatMargin", "HEAT_MARGIN_FORECAST_BELOW_FLOOR")
    numbers = {name: round(value, 2) for name, value in reason.numbers.items()}
    assert numbers == {
        "devices_heating": 1.0,
        "margin_celsius": 9.0,
        "slope_celsius_per_second": -0.16,
        "forecast_celsius": 4.1,
        "forecast_seconds": 30.0,
        "floor_celsius": 5.0,
        "resume_celsius": 8.0,
    }
    assert blocked(engine) == "heats up: margin 9.0 degrees, -0.16 a second, 4.1 in 30 s, takes work from 8"
    view = engine.node_view("n1", NOW)
    assert view is not None
    assert view.devices[0].margin_celsius == 9.0
    assert round(view.devices[0].forecast_celsius or 0, 2) == 4.1


def test_a_flicker_of_a_degree_closes_nothing() -> None:
    engine = an_engine(live_node(), policy=POLICY)
    for number in range(60):
        hear(engine, {"margin_celsius": 9.0 - number % 2}, at=float(number))
        assert takes_work(engine, NOW + number)


def test_no_slope_is_read_across_a_gap_or_from_silence() -> None:
    trend = HeatTrend()
    trend.add(30.0, NOW, POLICY)
    assert (trend.slope, trend.forecast(POLICY)) == (None, 30.0), "one sample tells no slope"
    trend.add(6.0, NOW + 61, POLICY)
    assert (trend.slope, trend.forecast(POLICY)) == (None, 6.0), "nor do two across a gap"
    trend.add(6.0, NOW + 61, POLICY)
    assert trend.slope is None, "nor two of one time"
    engine = an_engine(live_node(), policy=POLICY)
    hear(engine, {"margin_celsius": 30.0}, at=0)
    hear(engine, {}, at=5)
    hear(engine, {"margin_celsius": 30.0}, at=10)
    assert takes_work(engine, NOW + 10), "a sample without a sensor is no zero"


def test_cooling_never_raises_the_forecast_above_the_margin() -> None:
    trend = HeatTrend()
    for number in range(5):
        trend.add(2.0 + number, NOW + 5 * number, POLICY)
    assert trend.slope is not None
    assert trend.slope > 0
    assert trend.forecast(POLICY) == 6.0


margins = st.lists(st.tuples(st.floats(0.5, 90), st.floats(-5, 60)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(trace=margins)
def test_heat_opens_and_closes_only_at_the_ends_of_its_band(trace) -> None:
    """Between floor and floor + hysteresis of the forecast nothing changes, and the margin alone never opens."""
    engine = an_engine(live_node(), policy=Policy(fresh_seconds=1e6, degraded_seconds=1e6, unschedulable_seconds=1e6))
    policy, at, was = Policy(), NOW, True
    for step, margin in trace:
        at += step
        engine.apply_sample(a_sample("n1", {"margin_celsius": margin}, at=at))
        view = engine.node_view("n1", at)
        assert view is not None
        forecast = view.devices[0].forecast_celsius
        assert forecast is not None
        assert forecast <= margin
        now = takes_work(engine, at)
        floor, back = policy.heat_floor_celsius, policy.heat_floor_celsius + policy.heat_hysteresis_celsius
        if floor <= forecast < back:
            assert now == was
        else:
            assert now == (forecast >= back)
        was = now


# -- spreading -------------------------------------------------------------------------------------


def test_among_equals_the_cooler_rack_comes_first() -> None:
    nodes = [live_node(f"n{i}", rack="r1" if i < 2 else "r2") for i in range(4)]
    engine = an_engine(*nodes)
    for name, margin in (("n0", 40.0), ("n1", 10.0), ("n2", 40.0), ("n3", 30.0)):
        hear(engine, {"margin_celsius": margin}, node=name, at=0)
    assert placed(engine, a_job("a"), a_job("b")) == {"a": ["n2"], "b": ["n0"]}, "n0 shares its rack with a hot node"


def test_among_equals_the_rack_with_more_power_left_comes_first() -> None:
    engine = an_engine(a_node("n1", 2, rack="r1"), a_node("n2", 2, rack="r2"))
    engine.set_power_domains([PowerDomain("rack", "r1", 2000.0), PowerDomain("rack", "r2", 2000.0)])
    hear(engine, {}, {}, at=0, node="n1")
    engine.apply_sample(a_sample("n1", at=NOW + 1, power_watts=900.0))
    assert placed(engine, a_job("a"), now=NOW + 1) == {"a": ["n2"]}


def test_packing_outweighs_a_cooler_rack() -> None:
    engine = an_engine(live_node("n1", 8, rack="r1"), live_node("n2", 8, rack="r2"), live_node("n3", 8, rack="r1"))
    hear(engine, *({"margin_celsius": 30.0} for _ in range(8)), node="n1", at=0)
    hear(engine, *({"margin_celsius": 30.0} for _ in range(8)), node="n2", at=0)
    hear(engine, *({"margin_celsius": 6.0} for _ in range(8)), node="n3", at=0)
    placed(engine, a_job("a", models=("H100",), devices=7))
    engine.release("a")
    placed(engine, a_job("b", devices=2))
    first = engine.holds("b")
    assert first is not None
    assert first.members[0].node == "n2", "equal but for the rack"
    placed(engine, a_job("c", devices=2))
    second = engine.holds("c")
    assert second is not None
    assert second.members[0].node == "n2", "and then the begun node"


# -- throttling and errors -------------------------------------------------------------------------


def cordons(engine: Engine, at: float) -> list[str]:
    return [one.message for one in engine.cycle(NOW + at).advice if one.kind is AdviceKind.CORDON]


def test_throttling_cordons_only_once_it_lasted() -> None:
    engine = an_engine(live_node(), policy=Policy(sustained_throttle_seconds=60, cordon_clear_seconds=100))
    for at in (0, 30, 59):
        hear(engine, {"throttle_bits": 0x40}, at=at)
        assert cordons(engine, at) == []
        assert blocked(engine) == "throttled: reasons 0x40"
    hear(engine, {"throttle_bits": 0x40}, at=60)
    assert cordons(engine, 60) == [
        "device 0 of n1 takes no new work: throttled for 60 s, reasons 0x40; 0 jobs run there"
    ]
    assert cordons(engine, 60) == [], "told once"
    hear(engine, {"throttle_bits": 0}, at=70)
    assert why(engine, a_job(), NOW + 70) == {"DEVICE_CORDONED": (1, 1)}
    assert blocked(engine) == "cordoned: throttled for 60 s, reasons 0x40"
    hear(engine, {"throttle_bits": 0}, at=120)
    assert not takes_work(engine, NOW + 120)
    hear(engine, {"throttle_bits": 0}, at=170)
    assert takes_work(engine, NOW + 170)


@pytest.mark.parametrize(
    "trace",
    [
        ((0, 0x40), (30, 0), (40, 0x40), (90, 0x40)),  # it stopped between
        ((0, 0x40), (70, 0x40), (120, 0x40)),  # nobody knows what was in the gap
        ((0, 0x4), (40, 0x4), (80, 0x4)),  # a software power cap is none
    ],
)
def test_throttling_that_did_not_last_cordons_nothing(trace) -> None:
    engine = an_engine(live_node(), policy=Policy(sustained_throttle_seconds=60))
    for at, bits in trace:
        hear(engine, {"throttle_bits": bits}, at=at)
    assert cordons(engine, trace[-1][0]) == []


@pytest.mark.parametrize("code", [13, 31, 43, 45, 11, 25, 137])
def test_a_fault_of_the_program_takes_no_device_out_of_service(code) -> None:
    engine = an_engine(live_node())
    hear(engine, {"error_code": code}, at=0)
    assert takes_work(engine, NOW)
    assert cordons(engine, 0) == []


@pytest.mark.parametrize("code", [48, 64, 74, 79, 95, 119, 140, 999])
def test_a_fault_of_the_device_cordons_it_at_once(code) -> None:
    engine = an_engine(live_node())
    hear(engine, {"error_code": code}, at=0)
    assert why(engine, a_job()) == {"DEVICE_UNHEALTHY": (1, 1)}
    assert blocked(engine).startswith(f"cordoned: error {code}")


def test_worn_memory_only_makes_others_preferred() -> None:
    engine = an_engine(live_node("n1"), live_node("n2"))
    hear(engine, {"error_code": 63, "margin_celsius": 40.0}, node="n1", at=0)
    hear(engine, {"error_code": 0, "margin_celsius": 40.0}, node="n2", at=0)
    assert placed(engine, a_job("a"), a_job("b")) == {"a": ["n2"], "b": ["n1"]}


def test_another_vendors_code_has_no_catalogue_and_is_a_fault() -> None:
    device = a_device("n1", 0, "MI300X", stack="ROCm")
    engine = an_engine(a_node("n1", [device], telemetry_exempt=False))
    hear(engine, {"error_code": 13}, at=0)
    assert blocked(engine) == "cordoned: error 13"


@pytest.mark.parametrize(
    ("fault", "silence", "well"),
    [
        ({"error_code": 79}, {"error_code": 13}, {"error_code": 0}),
        ({"error_code": 79}, {}, {"error_code": 0}),
        ({"healthy": False}, {}, {"healthy": True}),
        ({"healthy": False}, {"error_code": 0}, {"healthy": True, "error_code": 0}),
    ],
)
def test_only_stated_health_lifts_a_cordon(fault, silence, well) -> None:
    engine = an_engine(live_node(), policy=Policy(cordon_clear_seconds=50))
    hear(engine, fault, at=0)
    for at in (10, 60, 110):
        hear(engine, silence, at=at)
        assert not takes_work(engine, NOW + at)
    for at, fits in ((120, False), (160, False), (170, True)):
        hear(engine, well, at=at)
        assert takes_work(engine, NOW + at) == fits
    assert cordons(engine, 170) == [], "well again before anybody looked: nothing to tell"


def test_a_gap_starts_the_time_of_recovery_anew() -> None:
    engine = an_engine(live_node(), policy=Policy(cordon_clear_seconds=50))
    hear(engine, {"healthy": False}, at=0)
    hear(engine, {"healthy": True}, at=10)
    hear(engine, {"healthy": True}, at=100)
    assert not takes_work(engine, NOW + 100)
    hear(engine, {"healthy": True}, at=150)
    assert takes_work(engine, NOW + 150)


def test_an_operator_who_uncordons_the_node_lifts_its_devices_cordons() -> None:
    engine = an_engine(live_node())
    hear(engine, {"error_code": 79}, at=0)
    hear(engine, {"error_code": 0}, at=5)
    assert blocked(engine) == "cordoned: error 79, fell off the bus"
    engine.apply_node(live_node(cpu_milli=1))
    assert blocked(engine) == "cordoned: error 79, fell off the bus", "another change of the node lifts nothing"
    engine.apply_node(live_node(schedulable=False))
    engine.apply_node(live_node())
    assert takes_work(engine, NOW + 5)


def test_the_state_of_a_cordon_is_in_the_digest_and_comes_back_from_telemetry() -> None:
    policy = Policy(sustained_throttle_seconds=10)
    engine, restarted = an_engine(live_node(), policy=policy), an_engine(live_node(), policy=policy)
    before = engine.state_digest()
    for at in (0, 10, 20):
        hear(engine, {"throttle_bits": 0x8}, at=at)
    assert engine.state_digest() != before
    for at in (10, 20):
        hear(restarted, {"throttle_bits": 0x8}, at=at)
    assert blocked(restarted) == "cordoned: throttled for 10 s, reasons 0x8"


# -- proposals -------------------------------------------------------------------------------------


def test_a_cordon_proposes_where_each_job_on_the_device_could_go() -> None:
    engine = an_engine(live_node("n1", 2), live_node("n2", 2, schedulable=True))
    placed(engine, a_job("a", device_milli=400), a_job("b", device_milli=400), a_job("far", devices=1))
    engine.apply_node(live_node("n2", 2))
    before_jobs = {j: engine.holds(j) for j in ("a", "b", "far")}
    node = before_jobs["a"].members[0].node if before_jobs["a"] else ""
    sick = before_jobs["a"].members[0].devices[0].index if before_jobs["a"] else 0
    assert (node, sick) == ("n1", 0)
    hear(engine, {"error_code": 48}, {}, at=0)
    before = engine.state_digest()
    advice = engine.cycle(NOW).advice
    assert [(one.kind, one.subject) for one in advice] == [
        (AdviceKind.CORDON, "n1/0"),
        (AdviceKind.MIGRATE, "a"),
        (AdviceKind.MIGRATE, "b"),
    ]
    assert advice[0].message == (
        "device 0 of n1 takes no new work: error 48, uncorrectable memory error; 2 jobs run there"
    )
    assert dict(advice[0].numbers) == {"jobs": 2.0, "code": 48.0, "throttled_seconds": 0.0}
    assert advice[1] == Advice(
        AdviceKind.MIGRATE,
        "a",
        "sits on cordoned device n1/0; it could go to n2 (n2/0)",
        (Move("a", ("n1",), ("n2",)),),
        {"members": 1.0, "preemptible": 0.0},
    )
    assert engine.state_digest() == before, "nothing was moved"
    assert {j: engine.holds(j) for j in before_jobs} == before_jobs
    assert engine.cycle(NOW + 1).advice == ()


def test_a_job_that_fits_nowhere_else_is_told_so() -> None:
    engine = an_engine(live_node("n1", 2))
    placed(engine, a_job("a", devices=2))
    hear(engine, {}, {"healthy": False}, at=0)
    assert [(one.subject, one.message, one.moves) for one in engine.cycle(NOW).advice] == [
        ("n1/1", "device 1 of n1 takes no new work: unhealthy; 1 jobs run there", ()),
        ("a", "sits on cordoned device n1/1; it fits nowhere else now", ()),
    ]


def test_a_gang_is_proposed_whole() -> None:
    engine = an_engine(*(live_node(f"n{i}", 1) for i in range(3)))
    placed(engine, a_job("g", devices=1, replicas=2))
    hear(engine, {"error_code": 79}, node="n0", at=0)
    (cordon, migrate) = engine.cycle(NOW).advice
    assert cordon.subject == "n0/0"
    assert migrate.moves == (Move("g", ("n0", "n1"), ("n1", "n2")),)


def test_many_jobs_are_proposed_over_several_cycles() -> None:
    engine = an_engine(live_node("n1", 1), live_node("n2", 1, schedulable=False))
    placed(engine, *(a_job(f"j{i:02d}", device_milli=50) for i in range(20)))
    hear(engine, {"error_code": 79}, at=0)
    counts = [sum(one.kind is AdviceKind.MIGRATE for one in engine.cycle(NOW + at).advice) for at in range(3)]
    assert counts == [16, 4, 0]


# -- verdicts for others ---------------------------------------------------------------------------


def test_verdicts_name_faults_lasting_throttling_and_heat_and_whom_nobody_heard_of() -> None:
    engine = an_engine(live_node("n1", 6), policy=Policy(sustained_throttle_seconds=10))
    well = {"margin_celsius": 40.0, "throttle_bits": 0, "error_code": 0}
    for at in (0.0, 12.0):
        hear(
            engine, {**well, "error_code": 79}, {**well, "healthy": False}, {**well, "throttle_bits": 0x40},
            {**well, "margin_celsius": 1.0}, well, at=at,
        )  # fmt: skip
    verdicts = engine.device_verdicts()
    assert [(one.device_id, one.kind.value, one.code, one.message) for one in verdicts.found] == [
        ("n1/0", "faulty", 79, "error 79, fell off the bus"),
        ("n1/1", "faulty", 0, "unhealthy"),
        ("n1/2", "throttled", 0, "throttled for 12 s, reasons 0x40"),
        ("n1/3", "hot", 0, "too little heat margin"),
    ]
    assert verdicts.unheard == {"n1/5"}
