"""What is expected of a workload on an accelerator: which source speaks, and how sure it is."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement_engine.domain import scaling
from placement_engine.domain.estimates import Estimate, Estimator
from placement_engine.domain.model import Accelerator, Character, Objective, Profile, Provenance
from placement_engine.domain.outlook import Outlook, counts_between
from placement_engine.domain.roofline import ASSUMED_RATES, ClassRates, Roofline, peak_tflops
from tests.unit.placement_engine.domain.builders import GIB

H100 = Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0, 2.95, 1979.0, 1979.0)
A100 = Accelerator("A100", "GPU", "CUDA", 80 * GIB, 2.039e12, 312.0, 400.0, 1.84, None, 624.0)
WAFER = Accelerator("Wafer", "WAFER", "Cerebras", 44 * 10**9, 2.1e16, 125_000.0, 23_000.0)
XEON = Accelerator("Xeon", "CPU", "oneDNN", None, 8.45e11, 100.0, 500.0)
DENSE = Character(operations=1e18, bytes_moved=1e14)


def an_estimator(*profiles: Profile, catalogue: tuple[Accelerator, ...] = (H100, A100, WAFER, XEON)) -> Estimator:
    estimator = Estimator(risk_aversion=0.2)
    estimator.set_catalogue(catalogue)
    estimator.set_profiles(profiles)
    return estimator


def measured(accelerator: str, speeds: Mapping[int, float], **facts: Any) -> list[Profile]:
    return [Profile("w", accelerator, count, speed, **facts) for count, speed in speeds.items()]


# -- over the number of devices ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "devices", "value"),
    [
        pytest.param({1: 10.0, 4: 40.0}, 4, 40.0, id="measured"),
        pytest.param({1: 10.0, 4: 40.0}, 2, 20.0, id="between, linear work"),
        pytest.param({1: 10.0, 4: 20.0}, 2, 10 * 2**0.5, id="between, by power law"),
        pytest.param({1: 10.0}, 4, 10 * 4**0.85, id="one count alone"),
        pytest.param({8: 80.0}, 2, 80 / 4**0.85, id="below one count alone"),
        pytest.param({1: 10.0, 2: 20.0}, 8, 20 * 4 ** (0.9 * 0.95), id="beyond linear work: never linear"),
        pytest.param({1: 10.0, 4: 20.0}, 16, 20 * 4 ** (0.9 * 0.5), id="beyond: its own exponent, falling"),
        pytest.param({1: 10.0, 2: 8.0}, 4, 8.0, id="beyond work that slows down: no slower still"),
        pytest.param({2: 10.0, 4: 14.142135623730951}, 1, 10 / 2**0.5, id="below"),
    ],
)
def test_speed_over_devices(points: dict[int, float], devices: int, value: float) -> None:
    assert scaling.at_count(points, devices) == pytest.approx(value)


@pytest.mark.parametrize(
    ("counts", "devices", "spread"),
    [((1, 4), 4, 0.0), ((1, 4), 2, 0.1), ((1, 4), 16, 0.2), ((1,), 2, 0.15), ((8,), 1, 0.45)],
)
def test_uncertainty_grows_with_the_distance_to_a_measured_count(
    counts: tuple[int, ...], devices: int, spread: float
) -> None:
    assert scaling.uncertainty(counts, devices) == pytest.approx(spread)


@given(
    st.dictionaries(st.sampled_from((1, 2, 4, 8, 16)), st.floats(0.1, 1e4), min_size=1),
    st.integers(17, 64),
    st.integers(1, 8),
)
def test_beyond_the_counts_more_devices_never_slow_and_never_gain_more_than_linearly(
    points: dict[int, float], devices: int, factor: int
) -> None:
    one, more = scaling.at_count(points, devices), scaling.at_count(points, devices * factor)
    assert one * (1 - 1e-9) <= more <= one * factor * (1 + 1e-9)


# -- which source speaks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profiles", "model", "devices", "provenance", "spread", "basis"),
    [
        (measured("H100", {1: 9.0, 4: 30.0}), "H100", 4, Provenance.MEASURED, 0.05, "measured"),
        (
            measured("H100", {1: 9.0, 4: 30.0}, relative_uncertainty=0.1),
            "H100",
            2,
            Provenance.INTERPOLATED,
            0.2,
            "interpolated from 1 and 4 devices",
        ),
        (
            measured("H100", {1: 9.0, 4: 30.0}),
            "H100",
            8,
            Provenance.INTERPOLATED,
            0.15,
            "extrapolated from 1 to 4 devices",
        ),
        (measured("H100", {1: 9.0}), "H100", 2, Provenance.INTERPOLATED, 0.2, "extrapolated from 1 device"),
        (
            measured("H100", {8: 9.0}, provenance=Provenance.DECLARED),
            "H100",
            4,
            Provenance.DECLARED,
            0.45,
            "extrapolated from 8 devices",
        ),
        (
            measured("H100", {1: 9.0}),
            "A100",
            1,
            Provenance.TRANSFERRED,
            0.4,
            "by roofline from H100, which has a profile",
        ),
        (
            measured("H100", {1: 9.0}),
            "Xeon",
            1,
            Provenance.TRANSFERRED,
            0.75,
            "by roofline from H100, which has a profile",
        ),
        ([], "H100", 1, Provenance.ROOFLINE, 0.75, "by roofline: nothing is known of the work, no profile of 'w'"),
        ([], "nobody's", 1, Provenance.UNKNOWN, None, ""),
    ],
)
def test_the_best_source_speaks_and_says_how_sure_it_is(
    profiles: list[Profile], model: str, devices: int, provenance: Provenance, spread: float | None, basis: str
) -> None:
    found = an_estimator(*profiles).estimate("w", model, devices)
    assert (found.provenance, found.basis) == (provenance, basis)
    assert found.relative_uncertainty == pytest.approx(spread)


def test_the_better_provenance_wins_and_worse_points_are_not_mixed_in() -> None:
    declared = Profile("w", "H100", 1, 99.0, provenance=Provenance.DECLARED)
    estimator = an_estimator(Profile("w", "H100", 1, 10.0), declared, Profile("w", "H100", 2, 20.0))
    assert estimator.estimate("w", "H100", 1).speed == 10.0
    estimator.put_profile(Profile("w", "H100", 2, 500.0, provenance=Provenance.ROOFLINE))
    found = estimator.estimate("w", "H100", 2)
    assert (found.provenance, found.speed) == (Provenance.INTERPOLATED, pytest.approx(10 * 2**0.85))


def test_what_was_observed_and_what_was_measured_are_points_of_one_curve() -> None:
    observed = measured("H100", {1: 8.0}, provenance=Provenance.OBSERVED, relative_uncertainty=0.04)
    estimator = an_estimator(*observed, *measured("H100", {4: 32.0}))
    here = estimator.estimate("w", "H100", 1)
    assert (here.speed, here.provenance, here.relative_uncertainty) == (8.0, Provenance.OBSERVED, 0.04)
    assert here.basis == "observed"
    assert estimator.estimate("w", "H100", 4).speed == 32.0
    assert estimator.estimate("w", "H100", 2).speed == pytest.approx(16.0)


def test_an_observation_says_speed_alone_and_takes_no_limit_away() -> None:
    elsewhere = Profile("w", "A100", 1, 5.0, memory_bytes=30 * GIB, power_watts=300.0)
    estimator = an_estimator(elsewhere, *measured("H100", {1: 8.0}, provenance=Provenance.OBSERVED))
    here = estimator.estimate("w", "H100", 1)
    assert (here.memory_bytes, here.watts) == (30 * GIB, 700.0)


def test_a_profile_wins_over_the_works_character() -> None:
    found = an_estimator(Profile("w", "H100", 1, 10.0)).estimate("w", "H100", 1, DENSE)
    assert (found.provenance, found.speed) == (Provenance.MEASURED, 10.0)
    assert found.roofline is not None


def test_a_transfer_without_character_goes_by_the_lesser_difference_from_the_most_like_accelerator() -> None:
    slower = Accelerator("T4", "GPU", memory_bandwidth=3.2e11, dense_fp16_tflops=65.0)
    estimator = an_estimator(
        Profile("w", "H100", 1, 100.0, memory_bytes=60 * GIB),
        Profile("w", "T4", 1, 1.0, memory_bytes=12 * GIB),
        catalogue=(H100, A100, slower),
    )
    found = estimator.estimate("w", "A100", 1)
    assert found.speed == pytest.approx(100 * 2.039 / 3.35), "by bandwidth 0.61, by peak 0.32"
    assert (found.watts, found.memory_bytes, found.latency_seconds) == (400.0, 12 * GIB, None)


@given(st.floats(1, 1e3), st.floats(1, 1e3), st.floats(1e11, 1e13), st.floats(1e11, 1e13))
def test_a_transfer_there_and_back_is_one(peak: float, other: float, bandwidth: float, another: float) -> None:
    chips = (Accelerator("a", "GPU", "", None, bandwidth, peak), Accelerator("b", "GPU", "", None, another, other))
    there = an_estimator(Profile("w", "a", 1, 1.0), catalogue=chips).estimate("w", "b", 1).speed
    back = an_estimator(Profile("w", "b", 1, 1.0), catalogue=chips).estimate("w", "a", 1).speed
    assert (there or 0) * (back or 0) == pytest.approx(1.0)


def test_a_transfer_with_character_takes_the_ratio_of_the_works_own_rooflines() -> None:
    streaming = Character(operations=1e12, bytes_moved=1e15)
    found = an_estimator(Profile("w", "H100", 1, 100.0)).estimate("w", "A100", 1, streaming)
    assert found.speed == pytest.approx(100 * 2.039 / 3.35), "memory bound on both"
    assert found.provenance is Provenance.TRANSFERRED


@pytest.mark.parametrize("character", [None, DENSE])
def test_a_bare_roofline_is_not_compared_with_measured_speeds(character: Character | None) -> None:
    estimator = an_estimator(Profile("w", "not in the catalogue", 1, 5.0))
    assert estimator.estimate("w", "not in the catalogue", 1, character).speed == 5.0
    assert estimator.estimate("w", "H100", 1, character).provenance is Provenance.UNKNOWN


def test_memory_latency_and_power_follow_the_count() -> None:
    estimator = an_estimator(
        Profile("w", "H100", 2, 20.0, 0.4, 70 * GIB, 600.0, 650.0),
        Profile("w", "H100", 8, 60.0, 0.1, 30 * GIB, 500.0, 640.0),
    )
    told = {n: estimator.estimate("w", "H100", n) for n in (1, 2, 4, 6, 8, 16)}
    assert {n: e.memory_bytes and e.memory_bytes // GIB for n, e in told.items()} == {
        1: 70,
        2: 70,
        4: 70,
        6: 70,
        8: 30,
        16: 30,
    }
    assert [told[n].latency_seconds for n in (2, 4, 8, 16)] == pytest.approx([0.4, 0.2, 0.1, 0.1])
    assert (told[1].latency_seconds or 0) > 0.4
    assert [told[n].watts for n in (1, 2, 8, 16)] == [600.0, 600.0, 500.0, 500.0]


@pytest.mark.parametrize("provenance", [Provenance.TRANSFERRED, Provenance.INTERPOLATED, Provenance.ROOFLINE])
def test_a_kept_prediction_leaves_memory_and_power_guarded_as_they_were_without_it(provenance: Provenance) -> None:
    """Predictions say nothing of either, and nothing must not count as none."""
    known = Profile("w", "A100", 1, 10.0, memory_bytes=60 * GIB, power_watts=300.0, peak_power_watts=390.0)
    estimator = an_estimator(known)
    before = estimator.estimate("w", "H100", 1)
    estimator.put_profile(Profile("w", "H100", 1, 17.0, provenance=provenance))
    after = estimator.estimate("w", "H100", 1)
    assert (after.provenance, after.speed) == (provenance, 17.0)
    assert (after.memory_bytes, after.watts, after.peak_watts) == (60 * GIB, 700.0, 700.0)
    assert (after.memory_bytes, after.watts, after.peak_watts) == (before.memory_bytes, before.watts, before.peak_watts)


def test_a_prediction_is_filled_from_the_same_accelerator_first() -> None:
    declared = Profile("w", "H100", 2, 30.0, None, 50 * GIB, None, 500.0, provenance=Provenance.DECLARED)
    elsewhere = Profile("w", "A100", 1, 10.0, memory_bytes=60 * GIB)
    predicted = Profile("w", "H100", 1, 17.0, provenance=Provenance.INTERPOLATED)
    found = an_estimator(declared, elsewhere, predicted).estimate("w", "H100", 1)
    assert (found.memory_bytes, found.watts, found.peak_watts) == (50 * GIB, 500.0, 500.0)
    told = Profile("w", "H100", 1, 17.0, None, 20 * GIB, 200.0, provenance=Provenance.INTERPOLATED)
    found = an_estimator(declared, elsewhere, told).estimate("w", "H100", 1)
    assert (found.memory_bytes, found.watts, found.peak_watts) == (20 * GIB, 200.0, 200.0)


def test_what_a_measurement_or_a_declaration_does_not_say_stays_unknown() -> None:
    for provenance in (Provenance.MEASURED, Provenance.DECLARED):
        found = an_estimator(Profile("w", "H100", 1, 10.0, provenance=provenance)).estimate("w", "H100", 1)
        assert (found.memory_bytes, found.watts, found.peak_watts) == (None, None, None)


# -- roofline ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "accelerator", "seconds", "by"),
    [
        (Character(1e18, 1e12), H100, 1e18 / (989e12 * 0.45), "compute"),
        (Character(1e12, 1e15), H100, 1e15 / (3.35e12 * 0.75), "memory"),
        (Character(1e18, 0.0, precision="fp8"), H100, 1e18 / (1979e12 * 0.45), "compute"),
        (Character(1e18, 0.0, precision="int8"), A100, 1e18 / (624e12 * 0.45), "compute"),
        (Character(1e18, 0.0, precision="fp8"), A100, 1e18 / (312e12 * 0.45), "compute"),
        (Character(1e15, 0.0, dense_fraction=0.0), H100, 1e15 / (3.35e12 * 0.1 / 8), "irregular"),
        (Character(1e15, 0.0, dense_fraction=0.0), WAFER, 1e15 / 5e9, "irregular"),
    ],
)
def test_the_roofline_of_work(work: Character, accelerator: Accelerator, seconds: float, by: str) -> None:
    bound = Roofline().bound(work, accelerator)
    assert bound is not None
    assert (bound.seconds, bound.by) == (pytest.approx(seconds), by)


@pytest.mark.parametrize(
    ("work", "accelerator"),
    [
        pytest.param(DENSE, Accelerator("x", "GPU", memory_bandwidth=1e12), id="peak"),
        pytest.param(DENSE, Accelerator("x", "GPU", dense_fp16_tflops=100.0), id="bandwidth"),
        pytest.param(Character(1e12, 0.0, 0.5), Accelerator("x", "GPU", dense_fp16_tflops=9.0), id="irregular rate"),
        pytest.param(Character(1e12, 0.0, precision="fp64"), H100, id="peak at a precision nobody lists"),
        pytest.param(Character(0.0, 0.0), H100, id="no work"),
    ],
)
def test_what_the_catalogue_does_not_know_is_unknown_not_fast(work: Character, accelerator: Accelerator) -> None:
    assert Roofline().bound(work, accelerator) is None
    found = an_estimator(catalogue=(accelerator,)).estimate("", accelerator.name, 1, work)
    assert (found.speed, found.provenance) == (None, Provenance.UNKNOWN)


def test_an_irregular_estimate_is_the_least_sure() -> None:
    spreads = [
        bound.relative_uncertainty
        for part in (1.0, 0.9, 0.0)
        if (bound := Roofline().bound(Character(1e18, 0.0, part), H100))
    ]
    assert spreads == sorted(spreads)
    assert (spreads[0], spreads[-1]) == (0.5, 1.0)


def test_class_rates_can_be_overridden_one_class_at_a_time() -> None:
    better = Roofline((ClassRates("WAFER", 0.5, 0.5, 1.0, 1e15),))
    work = Character(1e15, 0.0, dense_fraction=0.0)
    default, other = Roofline().bound(work, WAFER), better.bound(work, WAFER)
    assert default is not None
    assert other is not None
    assert other.seconds == pytest.approx(default.seconds * 5e9 / 1e15)
    assert better.bound(work, H100) == Roofline().bound(work, H100)
    with pytest.raises(ValueError, match="compute must be in"):
        ClassRates("GPU", 1.5, 0.5, 0.5, 1.0)


characters = st.builds(
    Character,
    st.floats(1e9, 1e21),
    st.floats(0, 1e18),
    st.floats(0, 1),
    st.sampled_from(("fp16", "fp8", "int8")),
)
chips = st.builds(
    Accelerator,
    name=st.just("chip"),
    device_class=st.sampled_from([one.device_class for one in ASSUMED_RATES]),
    memory_bandwidth=st.floats(1e10, 1e17),
    dense_fp16_tflops=st.floats(1, 1e6),
)


@given(characters, chips, st.floats(1, 100))
def test_more_work_is_never_faster(work: Character, chip: Accelerator, factor: float) -> None:
    more = Character(work.operations * factor, work.bytes_moved * factor, work.dense_fraction, work.precision)
    few, many = Roofline().bound(work, chip), Roofline().bound(more, chip)
    assert few is not None
    assert many is not None
    assert many.seconds >= few.seconds * (1 - 1e-9)
    assert many.seconds == pytest.approx(few.seconds * factor), "seconds are of the whole work"


@given(characters, chips, st.floats(1, 10), st.floats(1, 10))
def test_a_better_chip_of_a_class_is_never_slower(
    work: Character, chip: Accelerator, peak: float, bandwidth: float
) -> None:
    better = Accelerator(
        "better",
        chip.device_class,
        memory_bandwidth=(chip.memory_bandwidth or 0) * bandwidth,
        dense_fp16_tflops=(chip.dense_fp16_tflops or 0) * peak,
    )
    slow, fast = Roofline().bound(work, chip), Roofline().bound(work, better)
    assert slow is not None
    assert fast is not None
    assert fast.seconds <= slow.seconds * (1 + 1e-9)


@given(characters, chips, st.integers(1, 7))
def test_more_devices_are_faster_but_cost_more(work: Character, chip: Accelerator, doublings: int) -> None:
    estimator = an_estimator(catalogue=(chip,))
    one, many = (estimator.estimate("", "chip", n, work).roofline for n in (1, 2**doublings))
    assert one is not None
    assert many is not None
    assert one.seconds / 2**doublings < many.seconds < one.seconds
    assert many.relative_uncertainty > one.relative_uncertainty


def test_a_profile_says_a_latency_and_no_call_of_the_character() -> None:
    call = Character(1e13, 1e9, calls=1.0)
    estimator = an_estimator(Profile("w", "H100", 1, 10.0))
    bare, profiled, transferred = (
        estimator.estimate(workload, name, 1, call).latency_seconds
        for workload, name in (("", H100.name), ("w", H100.name), ("w", A100.name))
    )
    assert bare == pytest.approx(1.5 * 1e13 / (989e12 * 0.45))
    assert (profiled, transferred) == (None, None)


@pytest.mark.parametrize("calls", [1.0, 100.0])
def test_more_devices_answer_more_calls_and_none_sooner(calls: float) -> None:
    """A gang's devices are counted together: eight of one member, or of eight members with one."""
    work = Character(calls * 1e13, calls * 1e9, calls=calls)
    one, eight = (an_estimator().estimate("", H100.name, devices, work) for devices in (1, 8))
    assert one.latency_seconds == eight.latency_seconds == pytest.approx(1.5 * 1e13 / (989e12 * 0.45))
    assert one.latest_seconds == eight.latest_seconds == pytest.approx(1.5 * (one.latency_seconds or 0.0))
    assert (eight.speed or 0.0) > 5 * (one.speed or 0.0)


@pytest.mark.parametrize(
    ("precision", "tera"),
    [("fp16", 989.0), ("BF16", 989.0), ("fp8", 1979.0), ("fp4", 1979.0), ("int8", 1979.0), ("fp32", None)],
)
def test_peaks_by_precision(precision: str, tera: float | None) -> None:
    assert peak_tflops(H100, precision) == tera


# -- objective -----------------------------------------------------------------------------------


def an_estimate(speed: float | None = 1.0, spread: float | None = 0.0, **facts: Any) -> Estimate:
    known: dict[str, Any] = {
        "latency_seconds": None,
        "memory_bytes": None,
        "watts": 100.0,
        "peak_watts": None,
        "price_per_hour": 1.0,
        "provenance": Provenance.MEASURED,
    }
    return Estimate(speed=speed, relative_uncertainty=spread, **(known | facts))


@pytest.mark.parametrize(
    ("objective", "options", "values"),
    [
        pytest.param(
            Objective.COST,
            [(an_estimate(2.0), 2), (an_estimate(1.5, price_per_hour=1.6), 1)],
            [1.0, 15 / 16],
            id="cost",
        ),
        pytest.param(Objective.TIME, [(an_estimate(2.0), 2), (an_estimate(1.5), 1)], [1.0, 0.75], id="time"),
        pytest.param(
            Objective.ENERGY, [(an_estimate(2.0), 2), (an_estimate(1.5, watts=50.0), 1)], [1 / 3, 1], id="energy"
        ),
        pytest.param(
            Objective.LATENCY,
            [(an_estimate(latency_seconds=0.2), 1), (an_estimate(9.0), 1), (an_estimate(latency_seconds=0.1), 1)],
            [0.5, None, 1.0],
            id="latency",
        ),
        pytest.param(
            Objective.LATENCY, [(an_estimate(1.0), 1), (an_estimate(2.0), 1)], [0.5, 1.0], id="no latency: speed"
        ),
        pytest.param(
            Objective.COST, [(an_estimate(price_per_hour=None), 1), (an_estimate(), 1)], [None, 1.0], id="no price"
        ),
        pytest.param(
            Objective.TIME,
            [(an_estimate(1.05, 0.5), 1), (an_estimate(1.0, 0.05), 1)],
            [1.05 * 1.01 / 1.1, 1.0],
            id="a hair",
        ),
        pytest.param(
            Objective.TIME, [(an_estimate(2.0, 0.5), 1), (an_estimate(1.0, 0.05), 1)], [1.0, 1.1 / 2.02], id="by far"
        ),
    ],
)
def test_values_compare_jobs_not_devices(
    objective: Objective, options: list[tuple[Estimate, int]], values: list[float | None]
) -> None:
    assert an_estimator().objective_values(objective, options) == [v and pytest.approx(v) for v in values]


# -- candidate counts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "known", "counts"),
    [
        (2, 2, (1, 2, 4), (2,)),
        (1, 4, (), (1, 2, 4)),
        (1, 6, (3,), (1, 2, 3, 4, 6)),
        (3, 7, (1, 8), (3, 4, 7)),
        (1, 256, (), (1, 2, 8, 32, 128, 256)),
        (1, 256, (5, 6, 7), (1, 5, 6, 7, 16, 256)),
        (1, 64, tuple(range(1, 65)), (1, 9, 25, 40, 56, 64)),
    ],
)
def test_candidate_counts(least: int, most: int, known: tuple[int, ...], counts: tuple[int, ...]) -> None:
    found = counts_between(least, most, known)
    assert len(found) <= 6
    assert found == counts


def test_numbers_of_devices_by_the_best_that_each_offers() -> None:
    options = {(1, 1): an_estimate(), (2, 1): an_estimate(), (2, 2): an_estimate(), (4, 1): an_estimate()}
    values = {(2, 1): 0.7, (2, 2): 1.0, (4, 1): 0.7}
    outlook = Outlook(options, values, least=1, impossible=frozenset({(2, 2)}))
    assert outlook.most_worth() == [(0.7, 2), (0.7, 4), (0.5, 1)], "the best first, then the least; unknown is neutral"
