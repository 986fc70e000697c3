"""Power at device, node, rack and row at once: measured draw, its spread, and what is claimed but not yet seen."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Accelerator, PowerDomain, Profile
from placement_engine.domain.policy import Policy
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, a_sample, an_engine, placed, why

LIMIT, PEAK, IDLE = 700.0, 600.0, 70.0


def a_powered_engine(*nodes: Any, policy: Policy | None = None) -> Engine:
    engine = an_engine(*nodes, policy=policy)
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, LIMIT, 2.95)])
    engine.put_profile(Profile("w", "H100", 1, 10.0, None, GIB, 500.0, PEAK))
    return engine


def a_live_node(name: str, devices: int = 2, rack: str = "r1", row: str = "a", **changes: Any):
    return a_node(
        name,
        devices,
        telemetry_exempt=False,
        topology={"rack": rack, "row": row},
        device={"power_limit_watts": LIMIT},
        **changes,
    )


def hear(engine: Engine, node: str, *watts: float | None, at: float = 0.0, total: float | None = None) -> None:
    devices = tuple({} if one is None else {"power_watts": one} for one in watts)
    engine.apply_sample(a_sample(node, *devices, at=NOW + at, power_watts=total))


def totals(engine: Engine) -> dict[str, float]:
    """Counted draw of every node and domain, W."""
    fleet = engine._fleet
    found = {name: float(facts.total_watts) for name, facts in fleet.nodes.items()}
    return found | {f"{level} {name}": float(one.draw) for (level, name), one in fleet.power_domains().items()}


def a_job_of(job_id: str, **changes: Any):
    return a_job(job_id, workload="w", **changes)


def test_each_level_alone_can_be_the_one_that_refuses() -> None:
    def refused(job: Any, cap: float = 1e6, rack: float = 1e6, row: float = 1e6, draw: float = IDLE) -> dict[str, Any]:
        engine = a_powered_engine(a_live_node("n1", power_cap_watts=cap))
        engine.set_power_domains([PowerDomain("rack", "r1", rack), PowerDomain("row", "a", row)])
        hear(engine, "n1", draw, draw)
        return {} if placed(engine, job) else why(engine, job)

    two = a_job_of("two", devices=2)
    assert refused(two) == {}
    assert refused(two, draw=300.0) == {"DEVICE_POWER_SHORT": (1, 2)}
    # Two idle devices draw 140 W, the job adds 2 x (600 - 70).
    assert refused(two, cap=1199.0) == {"NODE_POWER_SHORT": (1, 2)}
    assert refused(two, cap=1200.0) == {}
    assert refused(two, rack=1199.0) == {"NODE_POWER_SHORT": (1, 2)}
    assert refused(two, row=1199.0) == {"NODE_POWER_SHORT": (1, 2)}
    assert refused(two, rack=1202.0, row=1202.0) == {}


def test_the_whole_state_of_all_levels_through_a_jobs_life() -> None:
    engine = a_powered_engine(
        a_live_node("n1"), a_live_node("n2"), a_live_node("n3", rack="r2"), policy=Policy(power_settle_seconds=60)
    )
    engine.set_power_domains(
        [PowerDomain("rack", "r1", 3000.0), PowerDomain("rack", "r2", 3000.0), PowerDomain("row", "a", 5000.0)]
    )
    for name in ("n1", "n2", "n3"):
        hear(engine, name, IDLE, IDLE, total=300.0)
    idle = {"n1": 300.0, "n2": 300.0, "n3": 300.0, "rack r1": 600.0, "rack r2": 300.0, "row a": 900.0}
    assert totals(engine) == idle
    assert placed(engine, a_job_of("a", devices=2)) == {"a": ["n3"]}, "the rack with more room"
    more = 2 * (PEAK - IDLE)
    claimed = idle | {"n3": 300 + more, "rack r2": 300 + more, "row a": 900 + more}
    assert totals(engine) == claimed
    hear(engine, "n3", IDLE, IDLE, at=59, total=300.0)
    assert totals(engine) == claimed, "telemetry of before the start does not tell"
    for at in range(60, 400, 10):
        hear(engine, "n3", 500.0, 480.0, at=at, total=1150.0)
    working = totals(engine)
    assert working["n3"] in range(1150, 1160), "now the measured draw counts, and no longer the expected one"
    assert working == idle | {"n3": working["n3"], "rack r2": working["n3"], "row a": 600 + working["n3"]}
    engine.release("a")
    assert totals(engine) == working, "until telemetry tells otherwise"
    hear(engine, "n3", IDLE, IDLE, at=401, total=300.0)
    assert totals(engine) == idle, "the average starts anew: its step down is no spread"


def test_a_device_takes_the_next_job_with_the_first_sample_after_the_last() -> None:
    engine = a_powered_engine(a_live_node("n1", 1))
    placed(engine, a_job_of("a"))
    for at in range(60, 200, 10):
        hear(engine, "n1", 580.0, at=at)
    engine.release("a")
    assert why(engine, a_job_of("b"), NOW + 200) == {"DEVICE_POWER_SHORT": (1, 1)}, "it still seems to draw 580 W"
    hear(engine, "n1", 575.0, at=201)
    assert engine.cycle(NOW + 201).decisions == (), "measured before the end, received after it"
    hear(engine, "n1", IDLE, at=206)
    assert [one.job_id for one in engine.cycle(NOW + 206).decisions] == ["b"]


def test_a_spread_of_draw_counts_with_its_deviations() -> None:
    engine = a_powered_engine(a_live_node("n1"), policy=Policy(power_sigma=2.0, power_alpha=0.5))
    for number in range(20):
        hear(engine, "n1", None, None, at=number, total=500.0 + 100 * (number % 2))
    steady = a_powered_engine(a_live_node("n1"), policy=Policy(power_sigma=0.0, power_alpha=0.5))
    for number in range(20):
        hear(steady, "n1", None, None, at=number, total=500.0 + 100 * (number % 2))
    assert totals(steady)["n1"] in range(560, 570)
    assert totals(engine)["n1"] in range(640, 680)


def test_a_draw_that_nothing_measures_stays_the_expected_one() -> None:
    """A node whose telemetry has no power metric (TPUs, virtual GPUs): unknown is not zero."""
    engine = a_powered_engine(a_live_node("n1", 4, power_cap_watts=1300.0))
    assert len(placed(engine, *(a_job_of(str(i)) for i in range(4)))) == 2
    for at in (61, 200):
        engine.apply_sample(a_sample("n1", {}, {}, {}, {}, at=NOW + at))
        assert engine.cycle(NOW + at).decisions == ()
    assert totals(engine)["n1"] == 2 * PEAK


def test_a_node_that_once_told_its_draw_and_now_does_not_has_not_shown_the_claim() -> None:
    engine = a_powered_engine(a_live_node("n1", 1))
    hear(engine, "n1", IDLE, at=0, total=300.0)
    placed(engine, a_job_of("a"))
    hear(engine, "n1", None, at=100)
    assert totals(engine)["n1"] == 300 + PEAK - IDLE
    hear(engine, "n1", None, at=110, total=300.0)
    assert totals(engine)["n1"] == 300


def test_what_only_the_node_measures_still_counts_for_the_device() -> None:
    engine = a_powered_engine(a_live_node("n1", 1))
    placed(engine, a_job_of("a", device_milli=900))
    hear(engine, "n1", None, at=100, total=800.0)
    assert totals(engine)["n1"] == 800.0
    device = engine._fleet.nodes["n1"].devices["n1/0"]
    assert (device.pending_watts, engine._fleet.nodes["n1"].pending_watts) == (540, 0)


def test_a_fraction_on_a_device_in_use_counts_in_full() -> None:
    """Only an idle device's own draw is part of a job's peak; the filter must not promise it for a busy one."""
    engine = a_powered_engine(a_live_node("n1", 2, power_cap_watts=690.0))
    hear(engine, "n1", IDLE, IDLE)
    placed(engine, *(a_job_of(str(i), device_milli=500) for i in range(3)))
    assert totals(engine)["n1"] <= 690.0


def test_devices_that_idle_at_different_draws_never_add_up_to_more_than_was_checked() -> None:
    engine = a_powered_engine(a_live_node("n1", 2, power_cap_watts=730.0))
    hear(engine, "n1", 10.0, 150.0)
    for number in range(2):
        placed(engine, a_job_of(str(number)))
        assert totals(engine)["n1"] <= 730.0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 3), st.sampled_from((0, 250, 500)), st.sampled_from(("w", ""))),
        st.tuples(st.just("gang"), st.integers(2, 4), st.just(0), st.just("w")),
        st.tuples(st.just("hear"), st.integers(0, 5), st.integers(10, 700), st.booleans()),
        st.tuples(st.just("release"), st.integers(0, 40), st.just(0), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps=steps, caps=st.tuples(*(st.integers(1200, 6000) for _ in range(4))))
def test_no_placement_breaks_a_budget_of_any_level(steps, caps) -> None:
    nodes = [a_live_node(f"n{i}", 3, rack=f"r{i // 2}", row=f"{i // 4}", power_cap_watts=caps[0]) for i in range(6)]
    engine = a_powered_engine(*nodes)
    engine.set_power_domains(
        [
            *(PowerDomain("rack", f"r{i}", float(caps[1 + i % 2])) for i in range(3)),
            *(PowerDomain("row", f"{i}", float(caps[3])) for i in range(2)),
        ]
    )
    fleet, at = engine._fleet, NOW
    for serial, (kind, number, much, what) in enumerate(steps):
        at += 7
        if kind == "hear":
            watts = {"power_watts": float(much)}
            total = 3.2 * much if what else None
            engine.apply_sample(a_sample(f"n{number}", watts, {"power_watts": 40.0}, {}, at=at, power_watts=total))
        elif kind == "release":
            engine.release(f"j{number:02d}")
        else:
            whole = 0 if much else number if kind == "submit" else 1
            replicas = number if kind == "gang" else 1
            engine.submit(a_job(f"j{serial:02d}", devices=whole, device_milli=much, replicas=replicas, workload=what))
        before = totals(engine)
        engine.cycle(at)
        for name, watts in totals(engine).items():
            if watts > before[name]:
                level, _, domain = name.rpartition(" ")
                cap = fleet.power_domains()[level, domain].cap if level else fleet.nodes[name].node.power_cap_watts
                assert watts <= cap, name
        for name, facts in fleet.nodes.items():
            assert sum(d.pending_watts for d in facts.devices.values()) >= 0
            assert facts.pending_watts >= 0, name
    for serial in range(len(steps)):
        engine.release(f"j{serial:02d}")
    assert all(facts.pending_watts == 0 for facts in fleet.nodes.values())
    assert all(d.pending_watts == 0 for facts in fleet.nodes.values() for d in facts.devices.values())
    for (level, domain), one in fleet.power_domains().items():
        inside = [f.total_watts for f in fleet.nodes.values() if f.node.topology.get(level) == domain]
        assert one.draw == sum(inside)
