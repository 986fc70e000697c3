"""Each filter lets through what it should, and says why not with its code and counts."""

from typing import Any

import pytest

from placement_engine.domain.model import Accelerator, PowerDomain, Profile
from placement_engine.domain.policy import Policy, UnknownPolicy
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


def live_node(name: str = "n1", devices: int = 1, **changes):
    return a_node(name, devices, telemetry_exempt=False, **changes)


@pytest.mark.parametrize(
    ("node", "job", "code"),
    [
        (a_node(schedulable=False), a_job(), "NODE_CORDONED"),
        (a_node(executors=("process",)), a_job(executor="kubernetes"), "EXECUTOR_MISSING"),
        (a_node(), a_job(models=("A100",)), "ACCELERATOR_MISMATCH"),
        (a_node(), a_job(classes=("LPU",)), "ACCELERATOR_MISMATCH"),
        (a_node(), a_job(stacks=("ROCm",)), "ACCELERATOR_MISMATCH"),
        (a_node(), a_job(devices=9), "DEVICES_BUSY"),
        (a_node(), a_job(cpu_milli=64_001), "HOST_RESOURCES_SHORT"),
        (a_node(), a_job(memory_bytes=512 * GIB + 1), "HOST_RESOURCES_SHORT"),
        (a_node(), a_job(device_memory_bytes=80 * GIB + 1), "DEVICE_MEMORY_SHORT"),
    ],
)
def test_excludes_the_whole_node_with_its_code(node, job, code) -> None:
    assert why(an_engine(node), job) == {code: (1, 8)}


@pytest.mark.parametrize(
    "job",
    [
        a_job(executor="simulated"),
        a_job(models=("A100", "h100")),
        a_job(classes=("gpu",), stacks=("cuda",)),
        a_job(devices=8, cpu_milli=64_000, memory_bytes=512 * GIB, device_memory_bytes=80 * GIB),
        a_job(devices=0, device_milli=999),
        a_job(devices=0, cpu_milli=1),
    ],
)
def test_lets_through_what_just_fits(job) -> None:
    assert placed(an_engine(a_node()), job) == {"j1": ["n1"]}


def test_a_cpu_takes_device_work_only_when_named() -> None:
    cpu = a_node("n1", [a_device("n1", 0, "EPYC", device_class="CPU", stack="oneDNN")])
    assert why(an_engine(cpu), a_job()) == {"ACCELERATOR_MISMATCH": (1, 1)}
    assert placed(an_engine(cpu), a_job(classes=("CPU",))) == {"j1": ["n1"]}
    assert placed(an_engine(cpu), a_job(models=("EPYC",))) == {"j1": ["n1"]}


def test_a_node_of_two_models_takes_a_member_on_one_of_them() -> None:
    devices = [a_device("n1", i, "H100") for i in range(2)] + [a_device("n1", i, "L4") for i in (2, 3, 4)]
    engine = an_engine(a_node("n1", devices))
    assert why(engine, a_job("four", devices=4)) == {"DEVICES_BUSY": (1, 5)}
    engine.withdraw("four")
    placed(engine, a_job("three", devices=3))
    assert device_ids(engine, "three") == [["n1/2", "n1/3", "n1/4"]]


def test_a_fraction_needs_one_device_with_all_of_it() -> None:
    engine = an_engine(a_node(devices=2))
    placed(engine, a_job("a", device_milli=600), a_job("b", device_milli=600))
    assert why(engine, a_job("c", device_milli=500)) == {"DEVICES_BUSY": (1, 2)}


def test_a_whole_device_must_be_entirely_free() -> None:
    engine = an_engine(a_node(devices=1))
    placed(engine, a_job("a", device_milli=1))
    assert why(engine, a_job("b", devices=1)) == {"DEVICES_BUSY": (1, 1)}


def test_memory_that_others_use_is_taken() -> None:
    engine = an_engine(live_node())
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 30 * GIB}))
    job = a_job(device_milli=500, device_memory_bytes=51 * GIB)
    assert why(engine, job) == {"DEVICE_MEMORY_SHORT": (1, 1)}
    assert placed(engine, a_job("small", device_milli=500, device_memory_bytes=50 * GIB)) == {"small": ["n1"]}


def test_own_use_is_not_taken_for_that_of_others() -> None:
    engine = an_engine(live_node())
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 0}))
    placed(engine, a_job("a", device_milli=500, device_memory_bytes=40 * GIB))
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 40 * GIB}, at=NOW + 1))
    assert placed(engine, a_job("b", device_milli=500, device_memory_bytes=40 * GIB)) == {"b": ["n1"]}


def test_memory_is_free_again_as_soon_as_its_claim_is_released() -> None:
    """The last sample still shows the use of the job that is gone."""
    engine = an_engine(live_node())
    placed(engine, a_job("a", device_memory_bytes=70 * GIB))
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 72 * GIB}))
    engine.release("a")
    assert placed(engine, a_job("b", device_memory_bytes=78 * GIB)) == {"b": ["n1"]}


def test_a_claim_without_declared_memory_uses_its_share() -> None:
    engine = an_engine(live_node())
    placed(engine, a_job("a", device_milli=500))
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 35 * GIB}))
    assert why(engine, a_job("b", device_milli=500, device_memory_bytes=41 * GIB)) == {"DEVICE_MEMORY_SHORT": (1, 1)}
    assert placed(engine, a_job("c", device_milli=500, device_memory_bytes=40 * GIB)) == {"c": ["n1"]}


def test_memory_of_unknown_size_refuses_only_who_asks_for_some() -> None:
    engine = an_engine(a_node(devices=1, device={"memory_bytes": None}))
    assert why(engine, a_job("a", device_memory_bytes=1)) == {"DEVICE_MEMORY_SHORT": (1, 1)}
    assert placed(engine, a_job("b")) == {"b": ["n1"]}


def test_heat_blocks_below_the_floor_until_floor_plus_hysteresis() -> None:
    engine = an_engine(
        live_node(), policy=Policy(heat_floor_celsius=5, heat_hysteresis_celsius=3, heat_forecast_seconds=0)
    )
    seen = []
    for at, margin in enumerate((5.0, 4.9, 5.0, 7.9, 8.0, 5.0)):
        engine.apply_sample(a_sample("n1", {"margin_celsius": margin}, at=NOW + at))
        seen.append(engine.dry_run(a_job(), NOW + at).__class__.__name__)
    assert seen == ["Decision", "Rejection", "Rejection", "Rejection", "Decision", "Decision"]


def test_heat_counts_devices_and_says_which_return() -> None:
    engine = an_engine(live_node(devices=2))
    engine.apply_sample(a_sample("n1", {"margin_celsius": 1.0}, {"margin_celsius": 40.0}))
    job = a_job(devices=2)
    assert why(engine, job) == {"HEAT_MARGIN_BELOW_FLOOR": (1, 2)}
    rejection = engine.explain("j1", NOW)
    assert rejection is not None
    assert rejection.reasons[0].numbers == {"devices_hot": 1.0, "floor_celsius": 5.0, "resume_celsius": 8.0}
    assert rejection.remedies == (
        "a replica with 1 instead of 2 devices would fit now",
        "1 matching devices return when their margin is back at 8 degrees: n1/0",
    )


@pytest.mark.parametrize(
    ("policy", "fits"), [(UnknownPolicy.ALLOW, 1), (UnknownPolicy.PENALISE, 1), (UnknownPolicy.REFUSE, 0)]
)
def test_unknown_heat_follows_the_policy(policy, fits) -> None:
    engine = an_engine(live_node(), policy=Policy(unknown_heat=policy))
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 1}))
    assert len(placed(engine, a_job())) == fits


def test_a_hot_device_that_loses_its_sensor_stays_hot() -> None:
    engine = an_engine(live_node())
    engine.apply_sample(a_sample("n1", {"margin_celsius": 1.0}))
    engine.apply_sample(a_sample("n1", {}, at=NOW + 1))
    assert why(engine, a_job(), NOW + 1) == {"HEAT_MARGIN_BELOW_FLOOR": (1, 1)}


@pytest.mark.parametrize(("bits", "fits"), [(0x0, 1), (0x4, 1), (0x8, 0), (0x20, 0), (0x40, 0), (0x80, 0), (0x103, 1)])
def test_throttle_bits(bits, fits) -> None:
    engine = an_engine(live_node())
    engine.apply_sample(a_sample("n1", {"throttle_bits": bits}))
    assert len(placed(engine, a_job())) == fits


@pytest.mark.parametrize(
    ("facts", "fits"),
    [
        ({"healthy": False}, 0),
        ({"healthy": True}, 1),
        ({"healthy": None}, 1),
        ({"error_code": 79}, 0),
        ({"error_code": 0}, 1),
    ],
)
def test_health_blocks_only_stated_faults(facts, fits) -> None:
    engine = an_engine(live_node())
    engine.apply_sample(a_sample("n1", facts))
    assert len(placed(engine, a_job())) == fits


def test_telemetry_ages_by_receive_time() -> None:
    engine = an_engine(live_node(), policy=Policy(unschedulable_seconds=120))
    engine.apply_sample(a_sample("n1", {}, at=NOW))
    assert why(engine, a_job(), NOW + 120.5) == {"TELEMETRY_STALE": (1, 1)}
    engine.apply_sample(a_sample("n1", {}, at=NOW - 500))
    assert engine.cycle(NOW + 121).decisions == ()
    assert len(engine.cycle(NOW + 120).decisions) == 1


def test_a_clock_that_runs_backwards_makes_no_negative_age() -> None:
    engine = an_engine(live_node())
    engine.apply_sample(a_sample("n1", {}, at=NOW))
    view = engine.node_view("n1", NOW - 100)
    assert view is not None
    assert (view.age_seconds, view.devices[0].age_seconds) == (0.0, 0.0)
    assert placed(engine, a_job(), now=NOW - 100) == {"j1": ["n1"]}


@pytest.mark.parametrize(("policy", "fits"), [(UnknownPolicy.PENALISE, 1), (UnknownPolicy.REFUSE, 0)])
def test_a_node_never_heard_of_follows_the_policy(policy, fits) -> None:
    assert len(placed(an_engine(live_node(), policy=Policy(unknown_telemetry=policy)), a_job())) == fits


def test_a_device_its_node_no_longer_names_goes_stale() -> None:
    engine = an_engine(live_node(devices=2))
    engine.apply_sample(a_sample("n1", {}, {}, at=NOW))
    engine.apply_sample(a_sample("n1", {}, at=NOW + 121))
    assert why(engine, a_job(devices=2), NOW + 121) == {"DEVICE_TELEMETRY_STALE": (1, 2)}


def catalogue(engine, tdp: float = 700.0) -> None:
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, tdp, 2.95)])


def test_power_of_a_device_counts_what_draws_there() -> None:
    engine = an_engine(live_node(device={"power_limit_watts": 700.0}))
    catalogue(engine)
    engine.apply_sample(a_sample("n1", {"power_watts": 400.0}))
    assert why(engine, a_job()) == {"DEVICE_POWER_SHORT": (1, 1)}
    engine = an_engine(live_node(device={"power_limit_watts": 700.0}))
    catalogue(engine)
    engine.apply_sample(a_sample("n1", {"power_watts": 70.0}))
    assert placed(engine, a_job()) == {"j1": ["n1"]}, "an idle device's draw is part of the job's peak"


def test_power_of_a_node_counts_claims_that_telemetry_does_not_show_yet() -> None:
    engine = an_engine(a_node(power_cap_watts=1500.0))
    catalogue(engine)
    assert len(placed(engine, a_job("a"), a_job("b"), a_job("c"))) == 2
    assert why(engine, a_job("c")) == {"NODE_POWER_SHORT": (1, 8)}
    engine.release("a")
    assert len(engine.cycle(NOW).decisions) == 1


def test_power_of_a_rack_is_shared_by_its_nodes() -> None:
    engine = an_engine(a_node("n1", rack="r1"), a_node("n2", rack="r1"), a_node("n3", rack="r2"))
    catalogue(engine)
    engine.set_power_domains([PowerDomain("rack", "r1", 1500.0), PowerDomain("rack", "r2", 100.0)])
    assert len(placed(engine, *(a_job(str(i), devices=1) for i in range(5)))) == 2
    assert why(engine, a_job("4")) == {"NODE_POWER_SHORT": (3, 24)}


def test_power_of_a_node_counts_every_device_of_a_member() -> None:
    engine = an_engine(a_node(power_cap_watts=1500.0))
    catalogue(engine)
    assert why(engine, a_job("three", devices=3)) == {"NODE_POWER_SHORT": (1, 8)}
    assert placed(engine, a_job("two", devices=2)) == {"two": ["n1"]}


def test_a_gang_that_only_together_breaks_a_racks_budget_leaves_nothing_claimed() -> None:
    engine = an_engine(*(a_node(f"n{i}", 1, rack="r1") for i in range(3)))
    catalogue(engine)
    engine.set_power_domains([PowerDomain("rack", "r1", 1500.0)])
    gang = a_job(devices=1, replicas=3)
    engine.submit(gang)
    before = engine.state_digest()
    assert why(engine, gang) == {"SHARED_POWER_SHORT": (0, 0)}
    assert engine.state_digest() == before
    assert len(placed(engine, a_job("two", devices=1, replicas=2))["two"]) == 2


def test_a_claims_draw_stops_counting_once_telemetry_shows_it() -> None:
    engine = an_engine(live_node(devices=2, power_cap_watts=1000.0), policy=Policy(power_settle_seconds=60))
    catalogue(engine)
    placed(engine, a_job("a"))
    job = a_job("b")
    engine.apply_sample(a_sample("n1", {"power_watts": 200.0}, {"power_watts": 0.0}, at=NOW + 59))
    assert why(engine, job, NOW + 59) == {"NODE_POWER_SHORT": (1, 2)}
    engine.apply_sample(a_sample("n1", {"power_watts": 200.0}, {"power_watts": 0.0}, at=NOW + 60))
    assert len(engine.cycle(NOW + 60).decisions) == 1


def test_a_job_whose_peak_nobody_knows_is_not_refused() -> None:
    assert placed(an_engine(a_node(power_cap_watts=1.0)), a_job()) == {"j1": ["n1"]}


def test_a_profile_tells_peak_and_memory() -> None:
    engine = an_engine(a_node(power_cap_watts=1500.0))
    catalogue(engine)
    engine.put_profile(Profile("llama", "H100", 1, 10.0, None, 90 * GIB, 300.0, 320.0))
    assert why(engine, a_job(workload="llama")) == {"DEVICE_MEMORY_SHORT": (1, 8)}
    engine.put_profile(Profile("llama", "H100", 1, 10.0, None, 60 * GIB, 300.0, 320.0))
    assert len(placed(engine, *(a_job(str(i), workload="llama") for i in range(6)))) == 4


def test_a_latency_target_that_a_profile_misses() -> None:
    engine = an_engine(a_node("n1", 1, "H100"), a_node("n2", 1, "L4"))
    engine.set_profiles([Profile("chat", "L4", 1, 5.0, 0.9), Profile("chat", "H100", 1, 5.0, 0.1)])
    assert placed(engine, a_job("a", workload="chat", latency_target_seconds=0.5)) == {"a": ["n1"]}
    assert why(engine, a_job("b", workload="chat", latency_target_seconds=0.5)) == {
        "DEVICES_BUSY": (1, 1),
        "LATENCY_TARGET_MISSED": (1, 1),
    }


def test_a_deadline_leaves_only_accelerators_that_are_fast_enough() -> None:
    engine = an_engine(a_node("n1", 1, "H100"), a_node("n2", 1, "L4"))
    engine.set_profiles([Profile("train", "L4", 1, 1.0), Profile("train", "H100", 1, 10.0)])
    job: dict[str, Any] = {"workload": "train", "expected_duration_seconds": 60.0}
    assert placed(engine, a_job("a", deadline=NOW + 100, **job)) == {"a": ["n1"]}
    late = a_job("b", deadline=NOW + 100, **job)
    assert why(engine, late) == {"DEADLINE_NOT_MET": (1, 1), "DEVICES_BUSY": (1, 1)}
    assert placed(engine, a_job("c", deadline=NOW + 601, **job)) == {"c": ["n2"]}


def test_a_deadline_in_the_past_is_its_own_reason() -> None:
    assert "DEADLINE_PASSED" in why(an_engine(a_node()), a_job(deadline=NOW - 1))
