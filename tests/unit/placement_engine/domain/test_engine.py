"""The cycle: order, gangs, claims, reasons, read-outs."""

from dataclasses import replace
from typing import Any

import pytest

from placement_engine.domain.model import (
    Accelerator,
    Claim,
    Decision,
    DeviceClaim,
    Member,
    Objective,
    Profile,
    Provenance,
    Queue,
    Rejection,
)
from placement_engine.domain.policy import Policy, Weights
from placement_engine.domain.readouts import MatchingCapacity, QueueUsage
from tests.unit.placement_engine.domain.builders import (
    GIB,
    NOW,
    a_device,
    a_job,
    a_node,
    a_sample,
    an_engine,
    device_ids,
    placed,
    why,
)

# -- scores ----------------------------------------------------------------------------------------


def test_a_fraction_fills_the_device_that_it_fits_best() -> None:
    engine = an_engine(a_node("n1", 2), a_node("n2", 2))
    placed(engine, a_job("a", device_milli=300))
    placed(engine, a_job("b", device_milli=800))
    placed(engine, a_job("c", device_milli=200))
    assert device_ids(engine, "c") == device_ids(engine, "b")
    placed(engine, a_job("d", device_milli=700))
    assert device_ids(engine, "d") == device_ids(engine, "a")


def test_small_jobs_keep_an_empty_node_empty() -> None:
    engine = an_engine(a_node("n1", 8), a_node("n2", 8))
    nodes = placed(engine, *(a_job(str(i), devices=2) for i in range(4)))
    assert len({name for names in nodes.values() for name in names}) == 1
    assert len(placed(engine, a_job("big", devices=8))) == 1


def test_jobs_without_devices_go_to_nodes_without_devices_first() -> None:
    engine = an_engine(a_node("a-gpu", 8), a_node("z-cpu", 0))
    assert placed(engine, a_job("j1", devices=0, cpu_milli=64_000)) == {"j1": ["z-cpu"]}
    assert placed(engine, a_job("j2", devices=0, cpu_milli=1000)) == {"j2": ["a-gpu"]}


def test_rare_models_are_kept_for_who_names_them() -> None:
    engine = an_engine(
        a_node("a-rare", 1, "H200"), a_node("b", 4, "H100"), policy=Policy(weights=Weights(fragmentation=1))
    )
    engine.submit(a_job("fill", devices=3))
    engine.cycle(NOW)
    assert placed(engine, a_job("any")) == {"any": ["b"]}
    assert placed(engine, a_job("named", models=("H200",))) == {"named": ["a-rare"]}


@pytest.mark.parametrize(
    ("objective", "node"),
    [(Objective.TIME, "h100"), (Objective.COST, "l4"), (Objective.ENERGY, "l4"), (Objective.LATENCY, "h100")],
)
def test_the_objective_picks_the_accelerator_by_profile(objective, node) -> None:
    engine = an_engine(a_node("h100", 1, "H100"), a_node("l4", 1, "L4"))
    engine.set_profiles(
        [
            Profile("w", "H100", 1, 10.0, 0.1, power_watts=700, price_per_hour=3.0),
            Profile("w", "L4", 1, 5.0, 0.2, power_watts=70, price_per_hour=0.5),
        ]
    )
    assert placed(engine, a_job(workload="w", objective=objective)) == {"j1": [node]}


def test_a_decision_tells_terms_next_best_and_what_to_expect() -> None:
    engine = an_engine(a_node("n1", 1, "H100"), a_node("n2", 2, "L4"), a_node("n3", 0))
    engine.set_profiles(
        [
            Profile("w", "H100", 1, 10.0, 0.1, power_watts=700.0, price_per_hour=3.6),
            Profile("w", "L4", 1, 5.0, 0.2, power_watts=70.0, price_per_hour=3.6, relative_uncertainty=0.1),
        ]
    )
    engine.submit(
        a_job(workload="w", models=("L4", "H100"), expected_duration_seconds=100.0, objective=Objective.ENERGY)
    )
    (decision,) = engine.cycle(NOW).decisions
    assert [c.node for c in decision.candidates] == ["n2", "n1"]
    chosen = decision.candidates[0]
    assert chosen.score == pytest.approx(sum(t.value * t.weight for t in chosen.terms))
    assert [t.plugin for t in chosen.terms] == ["Objective", "Fragmentation", "Heat", "Power", "Freshness"]
    expected = decision.expectation
    assert (expected.accelerator, expected.devices, expected.provenance) == ("L4", 1, Provenance.MEASURED)
    assert expected.duration_seconds == pytest.approx(200.0)
    assert expected.cost_dollars == pytest.approx(0.2)
    assert expected.energy_joules == pytest.approx(14_000.0)
    assert expected.relative_uncertainty == 0.1


def test_a_profile_of_another_accelerator_is_transferred_by_roofline() -> None:
    engine = an_engine(a_node("a", 1, "slow"), a_node("b", 1, "fast"))
    engine.set_accelerators(
        [
            Accelerator("slow", dense_fp16_tflops=100.0, memory_bandwidth=1e12),
            Accelerator("fast", dense_fp16_tflops=400.0, memory_bandwidth=2e12),
        ]
    )
    engine.put_profile(Profile("w", "slow", 1, 10.0))
    engine.submit(a_job(workload="w", objective=Objective.TIME, expected_duration_seconds=10.0))
    (decision,) = engine.cycle(NOW).decisions
    assert decision.members[0].node == "b"
    assert decision.expectation.provenance is Provenance.TRANSFERRED
    # Twice the time, less what the transfer's uncertainty of 0.4 costs against the profile's 0.05.
    assert decision.candidates[1].terms[0].value == pytest.approx(0.5 * 1.08 / 1.01), "bandwidth bounds the gain to 2"


def test_cooler_fresher_nodes_first() -> None:
    nodes = [a_node(n, 1, telemetry_exempt=False) for n in ("a", "b", "c")]
    engine = an_engine(*nodes)
    engine.apply_sample(a_sample("a", {"margin_celsius": 10.0}))
    engine.apply_sample(a_sample("b", {"margin_celsius": 40.0}))
    engine.apply_sample(a_sample("c", {"margin_celsius": 40.0}, at=NOW - 50))
    order = [placed(engine, a_job(str(i)))[str(i)][0] for i in range(3)]
    assert order[0] == "b"
    assert set(order[1:]) == {"a", "c"}


@pytest.mark.parametrize(("age", "value"), [(30, 1.0), (31, 0.6), (60, 0.6), (61, 0.3), (120, 0.3)])
def test_older_telemetry_costs_score(age, value) -> None:
    engine = an_engine(a_node("a", 1, telemetry_exempt=False))
    engine.apply_sample(a_sample("a", {}, at=NOW - age))
    decision = engine.dry_run(a_job(), NOW)
    assert isinstance(decision, Decision)
    (term,) = (t for t in decision.candidates[0].terms if t.plugin == "Freshness")
    assert term.value == pytest.approx(value)


def test_ties_go_by_node_name_whatever_the_order_of_arrival() -> None:
    names = ["n3", "n1", "n2"]
    for order in (names, names[::-1]):
        assert placed(an_engine(*(a_node(n, 1) for n in order)), a_job()) == {"j1": ["n1"]}


# -- gangs -----------------------------------------------------------------------------------------


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    engine = an_engine(a_node("n1", 8), a_node("n2", 8))
    gang = a_job(devices=4, replicas=5)
    engine.submit(gang)
    before = engine.state_digest()
    assert engine.cycle(NOW).decisions == ()
    assert engine.state_digest() == before
    engine.apply_node(a_node("n3", 4))
    (decision,) = engine.cycle(NOW).decisions
    assert sorted(m.node for m in decision.members) == ["n1", "n1", "n2", "n2", "n3"]
    assert [m.member for m in decision.members] == [0, 1, 2, 3, 4]


def test_a_gang_does_not_mix_models() -> None:
    engine = an_engine(a_node("n1", 4, "H100"), a_node("n2", 8, "L4"))
    assert why(engine, a_job(devices=1, replicas=9)) == {"GANG_TOO_LARGE_NOW": (0, 0)}
    engine.withdraw("j1")
    assert placed(engine, a_job("j2", devices=1, replicas=6)) == {"j2": ["n2"] * 6}


def test_a_required_level_is_one_domain_the_tightest_that_holds_all() -> None:
    engine = an_engine(
        *(a_node(f"big{i}", 8, rack="big") for i in range(4)),
        *(a_node(f"fit{i}", 8, rack="fit") for i in range(2)),
        *(a_node(f"no{i}", 8, rack=f"no{i}") for i in range(3)),
    )
    gang: dict[str, Any] = {"devices": 8, "topology_level": "rack", "topology_required": True}
    assert placed(engine, a_job("a", replicas=2, **gang)) == {"a": ["fit0", "fit1"]}
    assert why(engine, a_job("b", replicas=5, **gang)) == {"TOPOLOGY_DOMAIN_TOO_SMALL": (0, 0), "DEVICES_BUSY": (2, 16)}
    rejection = engine.explain("b", NOW)
    assert rejection is not None
    assert rejection.remedies == (
        "it would fit now if one rack were preferred, not required",
        "4 of 5 replicas would fit now",
        "a replica with 4 instead of 8 devices would fit now",
    )


def test_a_preferred_level_falls_back_to_few_domains() -> None:
    engine = an_engine(
        *(a_node(f"a{i}", 8, rack="a") for i in range(2)),
        *(a_node(f"b{i}", 8, rack="b") for i in range(3)),
    )
    nodes = placed(engine, a_job("j", devices=8, replicas=4, topology_level="rack"))["j"]
    assert sorted(nodes) == ["a0", "b0", "b1", "b2"]


def test_a_gang_sits_on_few_nodes() -> None:
    engine = an_engine(*(a_node(f"n{i}", 4) for i in range(4)))
    assert len(set(placed(engine, a_job(devices=1, replicas=8))["j1"])) == 2


def test_a_gang_of_fractions_shares_devices() -> None:
    engine = an_engine(a_node("n1", 2))
    placed(engine, a_job(device_milli=300, replicas=6))
    assert sorted(d for member in device_ids(engine, "j1") for d in member) == ["n1/0"] * 3 + ["n1/1"] * 3
    assert why(engine, a_job("k", device_milli=300)) == {"DEVICES_BUSY": (1, 2)}


def test_a_gang_without_devices() -> None:
    engine = an_engine(a_node("n1", 0, cpu_milli=4000), a_node("n2", 1, cpu_milli=2000))
    assert placed(engine, a_job(devices=0, cpu_milli=2000, replicas=3)) == {"j1": ["n1", "n1", "n2"]}


# -- queue order -----------------------------------------------------------------------------------


def order_of(engine, *jobs) -> list[str]:
    for job in jobs:
        engine.submit(job)
    return [d.job_id for d in engine.cycle(NOW).decisions]


def test_priority_then_share_then_time_then_id() -> None:
    engine = an_engine(a_node(devices=8))
    engine.set_queues([Queue("a"), Queue("b")])
    assert order_of(
        engine,
        a_job("a3", queue="a", submitted_at=3.0),
        a_job("a1", queue="a", submitted_at=1.0),
        a_job("b9", queue="b", submitted_at=9.0),
        a_job("b8", queue="b", submitted_at=9.0),
        a_job("urgent", queue="a", submitted_at=99.0, priority=1),
    ) == ["urgent", "b8", "a1", "b9", "a3"]


def test_weights_share_the_pool() -> None:
    engine = an_engine(a_node(devices=8))
    engine.set_queues([Queue("a", weight=3.0), Queue("b", weight=1.0)])
    jobs = [a_job(f"{q}{i}", queue=q) for q in "ab" for i in range(8)]
    won = order_of(engine, *jobs)
    assert sum(1 for job_id in won if job_id[0] == "a") == 6


def test_shares_go_down_the_tree() -> None:
    engine = an_engine(a_node(devices=8))
    engine.set_queues([Queue("org"), Queue("x", "org"), Queue("y", "org"), Queue("solo")])
    jobs = [a_job(f"{q}{i}", queue=q) for q in ("x", "y", "solo") for i in range(8)]
    won = order_of(engine, *jobs)
    assert [sum(1 for j in won if j.startswith(q)) for q in ("x", "y", "solo")] == [2, 2, 4]


def test_a_job_that_does_not_fit_blocks_nobody() -> None:
    engine = an_engine(a_node(devices=2))
    assert order_of(engine, a_job("big", devices=4, priority=9), a_job("small")) == ["small"]


def test_a_queues_device_limit_counts_its_children() -> None:
    engine = an_engine(a_node(devices=8))
    engine.set_queues([Queue("org", device_limit=2), Queue("x", "org"), Queue("y", "org")])
    won = order_of(engine, *(a_job(f"{q}{i}", queue=q) for q in "xy" for i in range(3)))
    assert sorted(job_id[0] for job_id in won) == ["x", "y"]
    rejection = engine.explain("x1", NOW)
    assert rejection is not None
    assert [r.code for r in rejection.reasons] == ["QUEUE_DEVICE_LIMIT"]
    assert rejection.reasons[0].numbers == {"device_limit": 2.0, "devices_used": 2.0, "devices_asked": 1.0}
    engine.release(won[0])
    assert len(engine.cycle(NOW).decisions) == 1


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        ([Queue("a", "b")], "parent 'b' is not a queue"),
        ([Queue("a", "b"), Queue("b", "a")], "loop"),
        ([Queue("a", weight=0.0)], "weight must be above 0"),
        ([Queue("")], "name must not be empty"),
    ],
)
def test_a_broken_tree_of_queues_is_refused_and_changes_nothing(queues, message) -> None:
    engine = an_engine(a_node())
    before = engine.state_digest()
    with pytest.raises(ValueError, match=message):
        engine.set_queues(queues)
    assert engine.state_digest() == before


def test_usage_follows_when_the_tree_of_queues_changes() -> None:
    engine = an_engine(a_node(devices=8, cpu_milli=1000, memory_bytes=0))
    engine.set_queues([Queue("x")])
    placed(engine, a_job("j", queue="x", devices=2))
    engine.submit(a_job("k", queue="x", devices=9))
    engine.set_queues([Queue("org", weight=2.0), Queue("x", "org", device_limit=4)])
    assert engine.queue_usage() == (
        QueueUsage("org", "", 2.0, None, 2000, 0, 0, 1, 1, 0.125),
        QueueUsage("x", "org", 1.0, 4, 2000, 0, 0, 1, 1, 0.25),
    )
    engine.release("j")
    assert [u.used_milli for u in engine.queue_usage()] == [0, 0]


# -- claims ----------------------------------------------------------------------------------------


def test_undo_brings_everything_back() -> None:
    engine = an_engine(a_node(devices=8))
    engine.submit(a_job(devices=2, replicas=3, attempt=1))
    before = engine.state_digest()
    first = engine.cycle(NOW).decisions
    assert engine.state_digest() != before
    engine.undo("j1", 0)
    assert engine.holds("j1") is not None, "another attempt's undo is ignored"
    engine.undo("j1", 1)
    assert engine.state_digest() == before
    assert engine.cycle(NOW).decisions == first


def test_dry_run_changes_nothing_and_agrees_with_the_cycle() -> None:
    engine = an_engine(a_node(devices=8), a_node("n2", 4))
    before = engine.state_digest()
    dry = engine.dry_run(a_job(devices=3, replicas=3), NOW)
    assert engine.state_digest() == before
    engine.submit(a_job(devices=3, replicas=3))
    assert engine.cycle(NOW).decisions == (dry,)
    assert isinstance(engine.dry_run(a_job("k", devices=8), NOW), Rejection)
    assert not engine.is_waiting("k")


def restored(job_id: str, node: str, device: str, milli: int = 1000) -> Claim:
    member = Member(0, node, (DeviceClaim(device, 0, milli, 0, "H100"),), 1000, 0)
    return Claim(a_job(job_id), (member,))


def test_a_claim_restored_for_an_unknown_node_counts_once_the_node_comes() -> None:
    engine = an_engine()
    engine.restore(restored("old", "n1", "n1/0"))
    engine.apply_node(a_node(devices=1))
    assert why(engine, a_job("new")) == {"DEVICES_BUSY": (1, 1)}
    engine.release("old")
    assert placed(engine) == {"new": ["n1"]}


def test_claims_over_capacity_are_truth_and_nothing_is_added_to_them() -> None:
    engine = an_engine(a_node(devices=1))
    empty = engine.state_digest()
    engine.restore(restored("a", "n1", "n1/0", 700))
    engine.restore(restored("b", "n1", "n1/0", 700))
    view = engine.node_view("n1", NOW)
    assert view is not None
    assert (view.devices[0].used_milli, view.devices[0].job_ids) == (1400, ("a", "b"))
    assert why(engine, a_job("c", device_milli=1)) == {"DEVICES_BUSY": (1, 1)}
    for job_id in "abc":
        engine.release(job_id)
        engine.withdraw(job_id)
    assert engine.state_digest() == empty


def test_restore_takes_the_job_out_of_the_queue_and_replaces_what_it_held() -> None:
    engine = an_engine(a_node(devices=2))
    engine.submit(a_job("a"))
    engine.restore(restored("a", "n1", "n1/0"))
    engine.restore(restored("a", "n1", "n1/1"))
    assert not engine.is_waiting("a")
    assert device_ids(engine, "a") == [["n1/1"]]
    assert len(placed(engine, a_job("b"), a_job("c"))) == 1


def test_claims_outlive_a_node_that_leaves_and_comes_back_under_another_index() -> None:
    engine = an_engine(a_node(devices=2))
    placed(engine, a_job("a"))
    (held,) = device_ids(engine, "a")
    engine.remove_node("n1")
    assert engine.node_names() == []
    swapped = [replace(a_device("n1", i), index=1 - i) for i in range(2)]
    engine.apply_node(a_node("n1", swapped))
    placed(engine, a_job("b"))
    assert device_ids(engine, "b") != [held]
    assert why(engine, a_job("c")) == {"DEVICES_BUSY": (1, 2)}


def test_a_device_that_vanishes_takes_no_work_and_keeps_its_claim() -> None:
    engine = an_engine(a_node(devices=2))
    placed(engine, a_job("a"))
    (held,) = device_ids(engine, "a")
    gone = [replace(a_device("n1", i), present=f"n1/{i}" not in held) for i in range(2)]
    engine.apply_node(a_node("n1", gone))
    view = engine.node_view("n1", NOW)
    assert view is not None
    assert [(d.blocked, d.used_milli) for d in view.devices if d.device.device_id in held] == [("gone", 1000)]
    assert len(placed(engine, a_job("b"), a_job("c"))) == 1


def test_a_newer_attempt_waits_until_the_older_ones_claims_are_released() -> None:
    engine = an_engine(a_node())
    placed(engine, a_job("a"))
    engine.submit(a_job("a"))
    assert not engine.is_waiting("a"), "the attempt that holds claims does not wait"
    assert "HOLDS_CLAIMS" in why(engine, a_job("a", attempt=1))
    engine.release("a")
    assert [d.attempt for d in engine.cycle(NOW).decisions] == [1]


def test_an_older_attempt_does_not_replace_a_newer_one() -> None:
    engine = an_engine(a_node())
    engine.submit(a_job("a", attempt=2))
    engine.submit(a_job("a", attempt=1))
    assert [d.attempt for d in engine.cycle(NOW).decisions] == [2]


def test_back_off() -> None:
    engine = an_engine(a_node())
    engine.submit(a_job(not_before=NOW + 5))
    assert engine.cycle(NOW).decisions == ()
    rejection = engine.explain("j1", NOW)
    assert rejection is not None
    assert [r.code for r in rejection.reasons] == ["BACKING_OFF"]
    assert len(engine.cycle(NOW + 5).decisions) == 1


def test_other_pools_are_ignored() -> None:
    engine = an_engine(a_node("n1"), a_node("n2", pool="other"))
    assert list(engine.node_names()) == ["n1"]
    engine.submit(a_job(pool="other"))
    assert engine.waiting() == 0
    engine.apply_node(a_node("n1", pool="other"))
    assert list(engine.node_names()) == []


def test_a_sample_before_its_node_is_kept() -> None:
    engine = an_engine()
    engine.apply_sample(a_sample("n1", {"error_code": 79}))
    engine.apply_node(a_node(devices=1, telemetry_exempt=False))
    assert why(engine, a_job()) == {"DEVICE_UNHEALTHY": (1, 1)}


# -- reasons ---------------------------------------------------------------------------------------


def test_rejections_are_given_out_once_until_their_codes_change() -> None:
    engine = an_engine(a_node(devices=1), policy=Policy(reasons_max_age_seconds=0))
    engine.submit(a_job("a", devices=2))
    engine.submit(a_job("b", devices=2))
    assert [(r.job_id, r.queue_position) for r in engine.cycle(NOW).rejections] == [("a", 1), ("b", 2)]
    assert engine.cycle(NOW).rejections == ()
    engine.submit(a_job("c", devices=2))
    assert [(r.job_id, r.queue_position) for r in engine.cycle(NOW).rejections] == [("c", 3)]
    engine.apply_node(a_node(devices=2, schedulable=False))
    assert {r.job_id: r.reasons[0].code for r in engine.cycle(NOW).rejections} == dict.fromkeys("abc", "NODE_CORDONED")


def test_reasons_cover_the_whole_fleet() -> None:
    engine = an_engine(
        a_node("a", 2, "L4"),
        a_node("b", 0),
        a_node("c", 8, schedulable=False),
        a_node("d", 4),
        a_node("e", 8, cpu_milli=10),
    )
    rejection = engine.dry_run(a_job(devices=8, models=("H100",), cpu_milli=1000), NOW)
    assert isinstance(rejection, Rejection)
    assert [(r.plugin, r.code, r.nodes, r.devices) for r in rejection.reasons] == [
        ("Accelerator", "ACCELERATOR_MISMATCH", 2, 2),
        ("HostResources", "HOST_RESOURCES_SHORT", 1, 8),
        ("Pool", "NODE_CORDONED", 1, 8),
        ("Capacity", "DEVICES_BUSY", 1, 4),
    ]
    assert sum(r.nodes for r in rejection.reasons) == rejection.nodes_considered == 5
    assert rejection.summary == "waits: needs 1 CPU and 0 GiB; the most left is 0.01 CPU, and 512.0 GiB (1 of 5 nodes)"


def test_devices_count_for_the_filter_that_they_failed_themselves() -> None:
    """Three devices: one busy, one too small, one that would do; two are needed."""
    small = a_device("n1", 2, memory_bytes=10 * GIB)
    engine = an_engine(a_node("n1", [a_device("n1", 0), a_device("n1", 1), small]))
    engine.restore(restored("busy", "n1", "n1/0"))
    engine.restore(restored("busy too", "n1", "n1/1"))
    assert why(engine, a_job(devices=2, device_memory_bytes=60 * GIB)) == {
        "DEVICES_BUSY": (1, 2),
        "DEVICE_MEMORY_SHORT": (0, 1),
    }


def test_a_remedy_names_another_free_model() -> None:
    engine = an_engine(a_node("a", 1, "H100"), a_node("b", 1, "L4"))
    placed(engine, a_job("first", models=("H100",)))
    rejection = engine.dry_run(a_job(models=("H100",)), NOW)
    assert isinstance(rejection, Rejection)
    assert rejection.remedies == ("it would fit now on L4",)


def test_an_empty_pool_says_so() -> None:
    engine = an_engine()
    engine.submit(a_job())
    (rejection,) = engine.cycle(NOW).rejections
    assert rejection.summary == "waits: pool 'default' has no nodes"


def test_explain_knows_only_waiting_jobs() -> None:
    engine = an_engine(a_node())
    engine.submit(a_job())
    rejection = engine.explain("j1", NOW)
    assert rejection is not None
    assert (rejection.reasons, rejection.summary) == ((), "would fit now: waits for its turn")
    engine.cycle(NOW)
    assert engine.explain("j1", NOW) is None


# -- read-outs -------------------------------------------------------------------------------------


def test_a_node_view_tells_what_blocks_each_device() -> None:
    engine = an_engine(a_node(devices=5, telemetry_exempt=False))
    engine.apply_sample(
        a_sample(
            "n1",
            {"margin_celsius": 2.0},
            {"throttle_bits": 0x40},
            {"error_code": 79},
            {"healthy": False},
            {"margin_celsius": 30.0},
        )
    )
    placed(engine, a_job(device_milli=250, device_memory_bytes=GIB, cpu_milli=500))
    view = engine.node_view("n1", NOW + 3)
    assert view is not None
    assert [d.blocked for d in view.devices] == [
        "heat margin 2.0 degrees, takes work from 8",
        "throttled: reasons 0x40",
        "cordoned: error 79, fell off the bus",
        "cordoned: unhealthy",
        "",
    ]
    last = view.devices[4]
    assert (last.used_milli, last.claimed_memory_bytes, last.job_ids, last.age_seconds) == (250, GIB, ("j1",), 3.0)
    assert (view.used_cpu_milli, view.devices_free, view.age_seconds) == (500, 0, 3.0)
    assert engine.node_view("nobody", NOW) is None


def test_matching_capacity_refuses_gangs_larger_than_the_pool() -> None:
    engine = an_engine(a_node("a", 8), a_node("b", 4, schedulable=False), a_node("c", 2, "L4"), a_node("d", 0))
    placed(engine, a_job("busy", devices=8))
    assert engine.matching_capacity(a_job(devices=2, replicas=99)) == MatchingCapacity(14, 6, 14, 4)
    # The number of members asked for changes nothing: the answer is kept for every job of the shape.
    assert engine.matching_capacity(a_job(devices=2)) == MatchingCapacity(14, 6, 14, 4)
    assert engine.matching_capacity(a_job(models=("TPU",))) == MatchingCapacity(0, 0, 14, 4)
    assert engine.matching_capacity(a_job(device_milli=500, replicas=99, models=("L4",))) == MatchingCapacity(
        2, 4, 14, 4
    )
    assert engine.matching_capacity(a_job(devices=0, cpu_milli=64_000, replicas=9)).members == 4


def test_limit_of_decisions() -> None:
    engine = an_engine(a_node(devices=8))
    for i in range(5):
        engine.submit(a_job(str(i)))
    assert [len(engine.cycle(NOW, limit=2).decisions) for _ in range(4)] == [2, 2, 1, 0]
    assert isinstance(engine.dry_run(a_job("x"), NOW), Decision)


def test_policy_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="ages must rise"):
        Policy(fresh_seconds=90)
    with pytest.raises(ValueError, match="power_alpha"):
        Policy(power_alpha=0)


def test_the_next_best_are_others_than_the_chosen_and_in_order() -> None:
    engine = an_engine(*(a_node(f"n{index}", devices=2 + index) for index in range(6)))
    engine.submit(a_job("gang", replicas=2, devices=3))
    (decision,) = engine.cycle(NOW).decisions
    chosen, others = decision.candidates[0].node, [one.node for one in decision.candidates[1:]]
    scores = [one.score for one in decision.candidates[1:]]
    assert chosen == decision.members[0].node
    assert others
    assert not set(others) & {member.node for member in decision.members}
    assert scores == sorted(scores, reverse=True)
