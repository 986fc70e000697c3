"""Which accelerator and how many: the objective over both, constraints with uncertainty, and what is told of it."""

from typing import Any

import pytest

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import (
    Accelerator,
    Character,
    Decision,
    Objective,
    Profile,
    Provenance,
    Queue,
    Rejection,
)
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import likeness_of
from placement_engine.domain.readouts import MatchingCapacity
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_device, a_job, a_node, an_engine, placed, why

CATALOGUE = (
    Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0, 2.95, 1979.0, 1979.0),
    Accelerator("A100", "GPU", "CUDA", 80 * GIB, 2.039e12, 312.0, 400.0, 1.84),
    Accelerator("MI300X", "GPU", "ROCm", 192 * GIB, 5.3e12, 1307.0, 750.0, 4.0),
    Accelerator("Wafer", "WAFER", "Cerebras", 44 * GIB, 2.1e16, 125_000.0, 23_000.0, 2.0),
    Accelerator("Xeon", "CPU", "oneDNN", 512 * GIB, 8.45e11, 100.0, 500.0, 1.0),
)


def a_fleet(*nodes: Any, profiles: tuple[Profile, ...] = (), policy: Policy | None = None) -> Engine:
    engine = an_engine(*nodes, policy=policy)
    engine.set_accelerators(CATALOGUE)
    engine.set_profiles(profiles)
    return engine


def decided(engine: Engine, **job: Any) -> Decision:
    engine.submit(a_job(**job))
    (decision,) = engine.cycle(NOW).decisions
    return decision


def chosen(decision: Decision) -> tuple[int, str]:
    expected = decision.expectation
    assert all(len(member.devices) == decision.candidates[0].devices for member in decision.members)
    return expected.devices, expected.accelerator


# -- two A100 or one H100 ------------------------------------------------------------------------


def a100s_and_an_h100(a100_price: float = 1.84) -> Engine:
    """One A100 has too little memory; two do 19 units a second at 380 W each, one H100 does 16 at 650 W."""
    return a_fleet(
        a_node("a", 4, "A100"),
        a_node("h", 1, "H100"),
        profiles=(
            Profile("w", "A100", 1, 10.0, 0.20, 100 * GIB, 380.0, price_per_hour=a100_price),
            Profile("w", "A100", 2, 19.0, 0.12, 52 * GIB, 380.0, price_per_hour=a100_price),
            Profile("w", "H100", 1, 16.0, 0.10, 70 * GIB, 650.0),
        ),
    )


@pytest.mark.parametrize(
    ("objective", "a100_price", "choice", "detail"),
    [
        (Objective.COST, 1.84, (1, "H100"), "1 device, $2.95: 100% of the best cost; measured, ±5%"),
        (Objective.COST, 1.50, (2, "A100"), "2 devices, $2.53: 100% of the best cost; measured, ±5%"),
        (Objective.TIME, 1.84, (2, "A100"), "2 devices, 3032 s: 100% of the best time; measured, ±5%"),
        (Objective.ENERGY, 1.84, (2, "A100"), "2 devices, 0.64 kWh: 100% of the best energy; measured, ±5%"),
        (Objective.LATENCY, 1.84, (1, "H100"), "1 device, p99 0.1 s: 100% of the best latency; measured, ±5%"),
    ],
)
def test_the_objective_picks_kind_and_count(
    objective: Objective, a100_price: float, choice: tuple[int, str], detail: str
) -> None:
    engine = a100s_and_an_h100(a100_price)
    job: dict[str, Any] = {"workload": "w", "devices": 1, "max_devices": 2, "expected_duration_seconds": 3600.0}
    decision = decided(engine, objective=objective, **job)
    assert chosen(decision) == choice
    (term,) = (t for t in decision.candidates[0].terms if t.plugin == "Objective")
    assert term.detail == detail


def test_the_summary_tells_what_other_counts_would_have_been() -> None:
    decision = decided(a100s_and_an_h100(), workload="w", devices=1, max_devices=2, objective=Objective.TIME)
    assert decision.summary.endswith("; 2 x A100 has 100% of the best time, else 1 x H100 84%")
    assert [(c.node, c.devices) for c in decision.candidates] == [("a", 2)]


def test_it_never_waits_for_a_better_count() -> None:
    engine = a100s_and_an_h100()
    assert placed(engine, a_job("taken", models=("H100",))) == {"taken": ["h"]}
    decision = decided(engine, workload="w", devices=1, max_devices=2, objective=Objective.COST)
    assert chosen(decision) == (2, "A100")
    assert decision.summary.endswith("; 2 x A100 has 95% of the best cost, else 1 x H100 100%")


def test_of_counts_that_are_worth_the_same_the_least_is_taken() -> None:
    profiles = (
        Profile("w", "A100", 1, 10.0),
        Profile("w", "A100", 2, 20.0),
        Profile("w", "H100", 1, 50.0, None, 100 * GIB),
        Profile("w", "H100", 2, 100.0, None, 50 * GIB),
    )
    engine = a_fleet(a_node("a", 4, "A100"), a_node("h", 2, "H100"), profiles=profiles)
    assert placed(engine, a_job("taken", devices=2, models=("H100",))) == {"taken": ["h"]}
    assert chosen(decided(engine, workload="w", max_devices=2, objective=Objective.COST)) == (1, "A100")


def test_a_job_that_leaves_nothing_open_gets_what_it_asks_for() -> None:
    assert chosen(decided(a100s_and_an_h100(), workload="w", devices=1, objective=Objective.TIME)) == (1, "H100")
    both = decided(a100s_and_an_h100(), workload="w", devices=2, objective=Objective.TIME)
    assert chosen(both) == (2, "A100")


def test_without_a_profile_or_character_the_least_count_is_taken() -> None:
    decision = decided(a_fleet(a_node("a", 8, "A100")), devices=2, max_devices=8)
    assert chosen(decision) == (2, "A100")


def test_members_of_a_gang_all_get_the_count() -> None:
    engine = a_fleet(a_node("a", 8, "A100"), profiles=(Profile("w", "A100", 2, 10.0), Profile("w", "A100", 4, 19.0)))
    decision = decided(engine, workload="w", replicas=2, devices=1, max_devices=3, objective=Objective.TIME)
    assert [len(member.devices) for member in decision.members] == [3, 3]
    assert decision.expectation.devices == 6


def test_limits_of_queues_bound_the_count() -> None:
    engine = a_fleet(a_node("a", 8, "A100"), profiles=(Profile("w", "A100", 1, 10.0),))
    engine.set_queues([Queue("default", device_limit=5)])
    job: dict[str, Any] = {"workload": "w", "devices": 1, "max_devices": 8, "objective": Objective.TIME}
    assert chosen(decided(engine, job_id="first", **job)) == (4, "A100")
    assert engine.queue_usage()[0].used_milli == 4000
    assert chosen(decided(engine, job_id="second", **job)) == (1, "A100")
    assert set(why(engine, a_job("third", **job))) >= {"QUEUE_DEVICE_LIMIT"}
    engine.release("first")
    assert engine.queue_usage()[0].used_milli == 1000


def test_undo_makes_it_wait_again_with_its_count_open() -> None:
    engine = a100s_and_an_h100()
    job = a_job(workload="w", max_devices=2, objective=Objective.TIME)
    engine.submit(job)
    before = engine.state_digest()
    assert chosen(engine.cycle(NOW).decisions[0]) == (2, "A100")
    engine.undo("j1", 0)
    assert engine.state_digest() == before
    assert likeness_of(job) != likeness_of(a_job(workload="w", objective=Objective.TIME))
    assert likeness_of(job) == likeness_of(a_job("other", workload="w", max_devices=2, objective=Objective.TIME))


def test_a_dry_run_agrees_and_a_restored_claim_draws_the_same() -> None:
    profiles = (Profile("w", "A100", 1, 10.0, power_watts=390.0), Profile("w", "A100", 2, 19.0, power_watts=200.0))

    def fleet() -> Engine:
        return a_fleet(a_node("a", 4, "A100", power_cap_watts=820.0, telemetry_exempt=False), profiles=profiles)

    engine, again = fleet(), fleet()
    job: dict[str, Any] = {"workload": "w", "max_devices": 2, "objective": Objective.TIME}
    tried = engine.dry_run(a_job("j1", **job), NOW)
    assert tried == decided(engine, **job)
    claim = engine.holds("j1")
    assert claim is not None
    again.restore(claim)
    for one in (engine, again):
        assert placed(one, a_job("j2", **job)) == {"j2": ["a"]}, "twice two devices at 200 W are 800 W"
        assert placed(one, a_job("j3", **job)) == {}


# -- memory --------------------------------------------------------------------------------------


def test_large_memory_work_goes_where_it_fits_whatever_the_price() -> None:
    nodes = (a_node("h", 8, "H100"), a_node("m", 8, "MI300X", device={"memory_bytes": 192 * GIB, "stack": "ROCm"}))
    job: dict[str, Any] = {"device_memory_bytes": 150 * GIB, "character": Character(1e18, 1e15)}
    assert chosen(decided(a_fleet(*nodes), **job)) == (1, "MI300X")
    assert set(why(a_fleet(nodes[0]), a_job(**job))) == {"DEVICE_MEMORY_SHORT"}


def test_memory_of_a_profile_is_per_device_and_falls_with_the_count() -> None:
    profiles = (Profile("w", "H100", 1, 10.0, None, 150 * GIB), Profile("w", "H100", 2, 19.0, None, 76 * GIB))
    engine = a_fleet(a_node("h", 8, "H100"), profiles=profiles)
    decision = decided(engine, workload="w", max_devices=4, objective=Objective.COST)
    assert chosen(decision) == (2, "H100")
    assert {claim.memory_bytes for claim in decision.members[0].devices} == {76 * GIB}
    assert set(why(engine, a_job("one", workload="w"))) == {"DEVICES_BUSY", "DEVICE_MEMORY_SHORT"}
    assert engine.matching_capacity(a_job(workload="w", max_devices=4)) == MatchingCapacity(8, 4, 8, 1)


def test_where_nothing_fits_the_least_count_that_could_do_is_explained() -> None:
    profiles = (Profile("w", "H100", 1, 10.0, None, 150 * GIB), Profile("w", "H100", 2, 19.0, None, 76 * GIB))
    engine = a_fleet(a_node("h", 2, "H100"), profiles=profiles)
    placed(engine, a_job("first"))
    assert why(engine, a_job("j1", workload="w", max_devices=2)) == {"DEVICES_BUSY": (1, 2)}


def test_where_several_counts_could_do_the_least_is_explained() -> None:
    engine = a_fleet(a_node("h", 4, "H100"), profiles=(Profile("w", "H100", 2, 19.0), Profile("w", "H100", 4, 36.0)))
    placed(engine, a_job("taken", devices=3))
    engine.submit(a_job(workload="w", devices=2, max_devices=4, objective=Objective.TIME))
    told = engine.explain("j1", NOW)
    assert isinstance(told, Rejection)
    assert told.remedies == ("a replica with 1 instead of 2 devices would fit now",)


def test_a_device_larger_than_the_catalogue_says_still_keeps_its_latency_target() -> None:
    profiles = (Profile("w", "H100", 1, 10.0, 0.9, 100 * GIB),)
    engine = a_fleet(a_node("h", 1, "H100", device={"memory_bytes": 192 * GIB}), profiles=profiles)
    assert set(why(engine, a_job(workload="w", latency_target_seconds=0.5))) == {"LATENCY_TARGET_MISSED"}
    assert placed(engine, a_job("any", workload="w")) == {"any": ["h"]}


def test_a_missed_latency_target_is_told_with_the_best_that_is_known() -> None:
    profiles = (Profile("w", "H100", 1, 10.0, 0.9, GIB), Profile("w", "L4", 1, 10.0, 2.0, GIB))
    engine = a_fleet(a_node("h", 1, "H100"), a_node("l", 1, "L4"), profiles=profiles)
    engine.submit(a_job(workload="w", latency_target_seconds=0.5))
    told = engine.explain("j1", NOW)
    assert isinstance(told, Rejection)
    missed = next(one for one in told.reasons if one.code == "LATENCY_TARGET_MISSED")
    assert missed.message == ("p99 latency is above the target of 0.5 s: at best 0.945 s, its spread included, on H100")
    assert missed.numbers["best_p99_seconds"] == pytest.approx(0.945)


def test_a_latency_target_is_held_against_the_roofline_of_one_call() -> None:
    """1e13 operations take 22 ms on an H100 and 71 ms on an A100; a p99 is taken at 1.5 of that, up to half more."""
    old = a_fleet(a_node("a", 1, "A100"))
    call = Character(1e13, 1e9, calls=1.0)
    assert set(why(old, a_job("one", character=call, latency_target_seconds=0.1))) == {"LATENCY_TARGET_MISSED"}
    # Who does not say what one call is, is not kept away: what is unknown excludes nothing.
    assert placed(old, a_job("work", character=Character(1e13, 1e9), latency_target_seconds=0.1)) == {"work": ["a"]}
    both = a_fleet(a_node("h", 1, "H100"), a_node("a", 1, "A100"))
    decision = decided(both, character=call, latency_target_seconds=0.1, objective=Objective.COST)
    assert decision.expectation.accelerator == "H100"
    assert decision.expectation.latency_seconds == pytest.approx(1.5 * 1e13 / (989e12 * 0.45))
    # Ten calls take ten times as long, and each as long as before.
    ten = Character(1e14, 1e10, calls=10.0)
    fast = a_fleet(a_node("h", 1, "H100"))
    assert placed(fast, a_job("ten", character=ten, latency_target_seconds=0.1)) == {"ten": ["h"]}
    # Nor does one call get faster by devices that hold a copy each, of one member or of several.
    for gang in ({"devices": 8}, {"replicas": 8}):
        job = a_job("eight", character=call, latency_target_seconds=0.1, **gang)
        assert set(why(a_fleet(a_node("a", 8, "A100")), job)) == {"LATENCY_TARGET_MISSED"}
        assert placed(a_fleet(a_node("h", 8, "H100")), job)["eight"]


# -- roofline ------------------------------------------------------------------------------------


def a_mixed_fleet() -> Engine:
    return a_fleet(
        a_node("gpu", 1, "H100"),
        a_node("wafer", [a_device("wafer", 0, "Wafer", device_class="WAFER", stack="Cerebras")]),
        a_node("cpu", [a_device("cpu", 0, "Xeon", device_class="CPU", stack="oneDNN")]),
    )


@pytest.mark.parametrize(
    ("character", "objective", "choice"),
    [
        (Character(1e20, 1e14), Objective.TIME, "Wafer"),
        (Character(1e18, 1e14, dense_fraction=0.1), Objective.TIME, "H100"),
        (Character(1e18, 1e14, dense_fraction=0.1), Objective.COST, "Xeon"),
        (Character(1e18, 1e14, dense_fraction=0.0), Objective.ENERGY, "Xeon"),
    ],
)
def test_sparse_work_is_not_sent_to_a_wide_dense_chip(character: Character, objective: Objective, choice: str) -> None:
    job: dict[str, Any] = {"character": character, "objective": objective, "classes": ("GPU", "WAFER", "CPU")}
    assert decided(a_mixed_fleet(), **job).expectation.accelerator == choice


def test_a_decision_by_roofline_says_so_and_has_a_duration_of_its_own() -> None:
    engine = a_fleet(a_node("h", 8, "H100"))
    decision = decided(engine, workload="w", character=Character(1e15, 1e16), objective=Objective.COST)
    expected = decision.expectation
    seconds = 1e16 / (3.35e12 * 0.75)
    assert (expected.provenance, expected.relative_uncertainty) == (Provenance.ROOFLINE, 0.5)
    assert expected.duration_seconds == pytest.approx(seconds)
    assert expected.cost_dollars == pytest.approx(2.95 * seconds / 3600)
    assert expected.energy_joules == pytest.approx(700 * seconds)
    assert decision.summary.endswith("; by roofline: memory bound, no profile of 'w', ±50%")
    (term,) = (t for t in decision.candidates[0].terms if t.plugin == "Objective")
    assert term.detail == "$3.26: 100% of the best cost; by roofline: memory bound, no profile of 'w', ±50%"


def test_a_profile_ranks_and_the_character_gives_the_seconds() -> None:
    engine = a_fleet(
        a_node("h", 1, "H100"),
        a_node("a", 1, "A100"),
        profiles=(Profile("w", "H100", 1, 10.0), Profile("w", "A100", 1, 20.0)),
    )
    decision = decided(engine, workload="w", character=Character(1e18, 1e12), objective=Objective.TIME)
    assert chosen(decision) == (1, "A100"), "the profile says that it is faster, whatever the peaks"
    assert decision.expectation.duration_seconds == pytest.approx(1e18 / (312e12 * 0.45))
    assert decision.expectation.provenance is Provenance.ROOFLINE, "of the seconds"
    declared = decided(engine, job_id="d", workload="w", models=("H100",), expected_duration_seconds=60.0)
    assert declared.expectation.duration_seconds == pytest.approx(60.0)
    assert declared.expectation.provenance is Provenance.MEASURED


def test_a_wild_guess_does_not_beat_a_measurement_by_a_hair() -> None:
    profiles = (Profile("w", "H100", 1, 10.0, price_per_hour=2.0),)
    guess = Accelerator("Guess", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0, 1.95)
    nodes = (a_node("g", 1, "Guess"), a_node("h", 1, "H100"))
    for aversion, choice in ((0.2, "H100"), (0.0, "Guess")):
        engine = a_fleet(*nodes, profiles=profiles, policy=Policy(risk_aversion=aversion))
        engine.set_accelerators((*CATALOGUE, guess))
        assert decided(engine, workload="w", objective=Objective.COST).expectation.accelerator == choice


# -- constraints ---------------------------------------------------------------------------------

SCALES = (
    Profile("w", "H100", 1, 10.0, 0.30),
    Profile("w", "H100", 2, 19.0, 0.20),
    Profile("w", "H100", 4, 36.0, 0.10),
)


def test_a_deadline_is_met_with_more_devices() -> None:
    job: dict[str, Any] = {"workload": "w", "max_devices": 4, "expected_duration_seconds": 3600.0}
    engine = a_fleet(a_node("h", 8, "H100"), profiles=SCALES)
    for seconds, count in ((4000, 1), (2000, 2), (1100, 4)):
        decision = decided(engine, job_id=str(count), deadline=NOW + seconds, **job)
        assert chosen(decision) == (count, "H100")
        assert "deadline" not in decision.summary


def test_only_where_no_upper_end_meets_the_deadline_the_mean_is_taken_and_that_is_said() -> None:
    job: dict[str, Any] = {"workload": "w", "expected_duration_seconds": 1000.0, "deadline": NOW + 1020}
    engine = a_fleet(a_node("h", 2, "H100"), profiles=SCALES)
    decision = decided(engine, **job)
    assert decision.summary.endswith("; only the mean estimate meets its deadline")
    # A faster number of devices meets it surely: then the slower one is not taken, also while that is busy.
    waiting = a_job("sure", max_devices=2, **job)
    assert why(engine, waiting) == {"DEVICES_BUSY": (1, 2)}
    engine.release("j1")
    assert [chosen(d) for d in engine.cycle(NOW).decisions] == [(2, "H100")]


def test_a_deadline_that_nothing_meets_names_the_best_end() -> None:
    engine = a_fleet(a_node("h", 8, "H100"), profiles=SCALES)
    job = a_job(workload="w", max_devices=4, expected_duration_seconds=3600.0, deadline=NOW + 700)
    assert set(why(engine, job)) == {"DEADLINE_CANNOT_BE_MET", "DEADLINE_NOT_MET"}
    told = engine.explain("j1", NOW)
    assert isinstance(told, Rejection)
    first = told.reasons[0]
    assert first.message == "started now it would end 300 s after its deadline at best, on 4 x H100"
    assert dict(first.numbers) == {"best_end": NOW + 1000, "late_seconds": pytest.approx(300), "devices": 4.0}


def test_an_accelerator_of_which_nothing_is_known_may_still_meet_the_deadline() -> None:
    engine = a_fleet(a_node("h", 1, "H100"), a_node("x", 1, "nobody's"), profiles=SCALES)
    job: dict[str, Any] = {"workload": "w", "expected_duration_seconds": 1000.0, "deadline": NOW + 500}
    assert set(why(engine, a_job("j2", devices=1, models=("H100",), **job))) >= {"DEADLINE_CANNOT_BE_MET"}
    engine.withdraw("j2")
    assert placed(engine, a_job("j1", **job)) == {"j1": ["x"]}
    assert set(why(engine, a_job("j3", **job))) == {"DEADLINE_NOT_MET", "DEVICES_BUSY", "RESERVED"}


def test_an_accelerator_that_lacks_the_memory_does_not_stand_for_a_surer_choice() -> None:
    engine = a_fleet(
        a_node("h", 1, "H100"),
        a_node("m", 1, "MI300X", device={"memory_bytes": 192 * GIB}),
        profiles=(Profile("w", "H100", 1, 20.0, None, 100 * GIB), Profile("w", "MI300X", 1, 10.0, None, 100 * GIB)),
    )
    job: dict[str, Any] = {"workload": "w", "expected_duration_seconds": 500.0, "deadline": NOW + 1020}
    assert chosen(decided(engine, **job)) == (1, "MI300X"), "1,000 s by the mean; 500 s is not to be had"


def test_an_accelerator_that_misses_the_latency_target_does_not_stand_for_a_surer_deadline() -> None:
    profiles = (Profile("w", "H100", 1, 20.0, 0.9), Profile("w", "A100", 1, 10.0, 0.1))
    engine = a_fleet(a_node("h", 1, "H100"), a_node("a", 1, "A100"), profiles=profiles)
    job: dict[str, Any] = {"workload": "w", "expected_duration_seconds": 500.0, "deadline": NOW + 1020}
    decision = decided(engine, latency_target_seconds=0.5, **job)
    assert chosen(decision) == (1, "A100")
    assert decision.summary.endswith("; only the mean estimate meets its deadline")


def test_nothing_is_said_of_a_latency_that_nobody_knows() -> None:
    engine = a_fleet(a_node("x", 1, "nobody's"), a_node("h", 1, "H100"), profiles=SCALES)
    assert placed(engine, a_job("taken", models=("H100",))) == {"taken": ["h"]}
    decision = decided(engine, workload="w", latency_target_seconds=0.301)
    assert decision.members[0].node == "x"
    assert "mean" not in decision.summary


@pytest.mark.parametrize(("target", "count", "cautious"), [(0.32, 1, False), (0.22, 2, False), (0.101, 4, True)])
def test_a_latency_target_holds_for_the_upper_end_too(target: float, count: int, cautious: bool) -> None:
    engine = a_fleet(a_node("h", 8, "H100"), profiles=SCALES)
    decision = decided(engine, workload="w", max_devices=4, latency_target_seconds=target)
    assert chosen(decision) == (count, "H100")
    assert decision.summary.endswith("; only the mean estimate meets its latency target") is cautious
