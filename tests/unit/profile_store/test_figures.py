"""What a prediction says beside throughput, and what follows from a program's analysis alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import catalogue
from berth.errors import InvalidInput
from berth.models.artefact import Analysis
from berth.models.roofline import FROM_PEAKS
from berth.models.roofline import estimate as models_estimate
from profile_store.domain.prediction.analysis import checked
from profile_store.domain.prediction.figures import QUANTITIES, Figure
from profile_store.domain.prediction.library import Prediction
from profile_store.domain.prediction.question import Question, forecast, kept_questions, to_keep
from profile_store.domain.prediction.roofline import LAUNCH, OTHER_LAUNCH, Work
from profile_store.domain.profile import Profile, Provenance
from profile_store.domain.validation import validate
from profile_store.handlers import ProfileStore
from tests.benchmarks.bench_profiles import load, load_zeus, measure, measure_roofline
from tests.unit.profile_store.builders import NOW, ProfilesInMemory, a_profile

ENTRIES = catalogue.load()
WORK = Work(operations=1e12, bytes_moved=1e9, memory_bytes=4_000_000_000, by_precision={"bf16": 1e12})


def asked(profiles: list[Profile], **question: Any) -> dict[str, Prediction]:
    found = forecast(checked(Question(workload="bert", **question)), profiles, ENTRIES)
    assert found is not None
    return {one.profile.key.accelerator: one for one in found.predictions}


def figures(prediction: Prediction) -> dict[str, Figure]:
    return {one.name: one for one in prediction.figures}


def test_an_analysis_alone_speaks_for_every_accelerator_with_peaks() -> None:
    answers = asked([], work=WORK, batch_size=8)
    known = {entry.name for entry in ENTRIES if entry.peak("bf16") and entry.memory_bandwidth}
    assert set(answers) == known
    seconds = 1e12 / (989e12 * 0.45) + 5e-5
    one = answers["H100-SXM"]
    assert (one.profile.provenance, one.basis) == (Provenance.ROOFLINE, "roofline: compute bound")
    assert one.profile.throughput == pytest.approx(8 / seconds)
    assert one.profile.throughput_unit == "queries/s"
    said = figures(one)
    assert {name: figure.value for name, figure in said.items()} == pytest.approx(
        {
            "latency_mean_seconds": seconds,
            "latency_p99_seconds": 1.5 * seconds,
            "memory_bytes": 4e9,
            "dollars_per_million_units": 2.95 / 3600 * seconds / 8 * 1e6,
        }
    )
    # The engine hears the same, with the end of the interval that a latency target must hold for.
    assert one.profile.latency_p99_seconds == said["latency_p99_seconds"].value
    assert one.profile.latency_p99_high_seconds == said["latency_p99_seconds"].high
    assert one.profile.memory_bytes == 4_000_000_000
    assert (one.profile.operations, one.profile.bytes_moved) == (1e12, 1e9)
    validate([each.profile for each in answers.values()], catalogue, now=NOW)


def test_precision_and_launch_count() -> None:
    wide, narrow = (asked([], work=replace(WORK, by_precision={name: 1e12})) for name in ("bf16", "fp8"))
    h100 = [(one["H100-SXM"].profile.throughput or 0.0) for one in (wide, narrow)]
    assert h100[1] / h100[0] == pytest.approx(1979 / 989, rel=0.05)
    assert "A100-80-SXM" in wide
    assert "A100-80-SXM" not in narrow
    # What is not told apart runs as most does; fp32 on matrix units at half.
    mixed = asked([], work=replace(WORK, by_precision={"fp32": 2e11, "bf16": 6e11}))["H100-SXM"]
    assert 1 / (mixed.profile.throughput or 0.0) == pytest.approx((8e11 + 2 * 2e11) / (989e12 * 0.45) + 5e-5)
    tiny = asked([], work=Work(1e6, 1e3))["H100-SXM"]
    assert tiny.basis == "roofline: launch bound"
    assert 1 / (tiny.profile.throughput or 0.0) == pytest.approx(5e-5, rel=1e-2)


def test_one_measurement_corrects_all_others_and_narrows_their_interval() -> None:
    before = asked([], work=WORK)
    kept = list(to_keep(list(before.values())))
    speed = 0.5 * (before["H100-SXM"].profile.throughput or 0.0)
    seen = a_profile("bert", "H100-SXM", throughput=speed, throughput_unit="queries/s", precision="bf16")
    after = asked([*kept, seen])
    assert after["H100-SXM"].basis == "measured"
    for name in ("L4", "MI300X", "Gaudi3", "TPU-v5p"):
        old, new = before[name], after[name]
        assert new.profile.throughput == pytest.approx(0.5 * (old.profile.throughput or 0.0), rel=1e-6), name
        assert new.profile.provenance == Provenance.TRANSFERRED
        assert "as on H100-SXM, which reached 0.50 of it" in new.basis
        assert (new.high or 0) / (new.low or 1) < (old.high or 0) / (old.low or 1)
    # One class carries less far into another.
    width = {name: math.log((one.high or 1) / (one.profile.throughput or 1)) for name, one in after.items() if one.high}
    assert width["L4"] < width["Gaudi3"]


def test_a_kept_analysis_remembers_every_precision() -> None:
    shares = {"bf16": 6e11, "fp32": 2e11, "fp8": 1e11}
    direct = asked([], work=replace(WORK, operations=9e11, by_precision=shares))
    kept = list(to_keep(list(direct.values())))
    assert {one.operations_by_precision for one in kept} == {tuple(sorted(shares.items()))}
    validate(kept, catalogue, now=NOW)
    again = asked(kept)
    assert again.keys() == direct.keys()
    for name, one in direct.items():
        assert again[name].profile.throughput == pytest.approx(one.profile.throughput), name
        assert again[name].basis == one.basis
    # Asked for at another precision it is all of that.
    whole = asked(kept, precision="fp8")["H100-SXM"]
    assert 1 / (whole.profile.throughput or 0.0) == pytest.approx(9e11 / (1979e12 * 0.45) + 5e-5)


def test_how_well_a_cpu_computes_says_nothing_of_how_soon_a_kernel_starts_elsewhere() -> None:
    small = replace(WORK, operations=1e9, bytes_moved=1e7, by_precision={"bf16": 1e9})
    roofs = [
        a_profile("berth-matmul-bf16", "EPYC", throughput=100.0, throughput_unit="steps/s", precision="bf16",
                  operations=1e9),
        a_profile("berth-copy", "EPYC", throughput=100.0, throughput_unit="steps/s", bytes_moved=1e9),
    ]  # fmt: skip
    seen = a_profile("bert", "EPYC", throughput=30.0, throughput_unit="queries/s", precision="bf16")
    before, after = asked(roofs, work=small), asked([*roofs, seen], work=small)
    assert before["B200"].basis == "roofline: launch bound"
    assert after["B200"].profile.throughput == before["B200"].profile.throughput
    # Work that is bound alike is corrected, if less surely.
    assert "as on EPYC" in asked([*roofs, replace(seen, throughput=0.03)], work=WORK)["B200"].basis


def test_what_was_learnt_counts_as_what_was_measured() -> None:
    kept = list(to_keep(list(asked([], work=WORK).values())))
    seen = a_profile("bert", "L4", throughput=9.0, throughput_unit="queries/s", precision="bf16")
    measured, observed = (asked([*kept, replace(seen, provenance=way)]) for way in (Provenance.MEASURED, 6))
    assert measured["H200"].profile.throughput == observed["H200"].profile.throughput


def test_no_measurement_makes_a_chip_faster_than_its_data_sheet() -> None:
    """A profile 40 times over its own peak says that the analysis is not of what was run: nothing is learnt of it."""
    sheet = {entry.name: 1.0 / (entry.peak("fp16") or math.inf) for entry in ENTRIES}
    seen = a_profile("bert", "H100-SXM", throughput=40 / sheet["H100-SXM"], throughput_unit="queries/s",
                     precision="bf16")  # fmt: skip
    absurd, bare = (asked(profiles, work=WORK)["H200"] for profiles in ([seen], []))
    assert absurd.profile.throughput == bare.profile.throughput
    assert absurd.basis == (
        "roofline: compute bound; not as on H100-SXM: faster than its data sheet, so it ran something else"
    )
    assert (absurd.high or 0) / (absurd.low or 1) == pytest.approx((bare.high or 0) / (bare.low or 1))
    # Just under the data sheet there: believed, but no other is carried over its own.
    seen = replace(seen, throughput=1 / (sheet["H100-SXM"] + 1e-6))
    near = asked([seen], work=WORK)
    for name in ("H200", "MI300X"):
        assert (near[name].profile.throughput or 0.0) <= 1 / sheet[name] * (1 + 1e-9), name
        assert "as on H100-SXM, which reached" in near[name].basis


def test_a_batch_is_no_more_work_than_was_analysed() -> None:
    """64 rows are not the operations of one: a batch that nobody analysed is not predicted by a roofline."""
    one = a_profile("bert", "A100-80-SXM", throughput=100.0, throughput_unit="queries/s", precision="bf16",
                    batch_size=1, operations=1e12, bytes_moved=1e9)  # fmt: skip
    assert "TPU-v5e" in asked([one])
    assert "TPU-v5e" not in asked([one], batch_size=64)
    assert "TPU-v5e" in asked([one], batch_size=64, work=WORK)
    # Nor does a run at 64 tell what one row is slowed by.
    many = replace(one, batch_size=64, operations=None, bytes_moved=None)
    assert asked([many], batch_size=1, work=WORK)["TPU-v5e"].profile.provenance == Provenance.ROOFLINE
    assert not asked([many], work=WORK).get("TPU-v5e"), "the workload runs at 64, the analysis is of one row"
    # Nor is what was kept at one batch the work of another.
    kept = list(to_keep(list(asked([], work=WORK, batch_size=8).values())))
    assert "H200" in asked(kept)
    found = forecast(Question(workload="bert", batch_size=64), kept, ENTRIES)
    assert found is not None
    assert not found.predictions
    assert "nor are operations and bytes of that batch size known" in found.unknown[0]


def test_a_measured_roof_speaks_where_the_catalogue_has_none() -> None:
    roofs = [
        a_profile("berth-matmul-fp32", "CPU", throughput=100.0, throughput_unit="steps/s", precision="fp32",
                  operations=2e9, bytes_moved=1e7),
        a_profile("berth-copy", "CPU", throughput=10.0, throughput_unit="steps/s", operations=1e7, bytes_moved=1e9),
    ]  # fmt: skip
    assert "CPU" not in asked([], work=Work(1e9, 1e6, by_precision={"fp32": 1e9}))
    answer = asked(roofs, work=Work(1e9, 1e6, by_precision={"fp32": 1e9}))["CPU"]
    assert 1 / (answer.profile.throughput or 0.0) == pytest.approx(1e9 / (0.9 * 2e11) + 2e-5)


def test_a_small_part_at_another_precision_does_not_hide_the_whole() -> None:
    """A transformer's norms run at fp32: where bf16 alone was measured, they are priced at the widest roof there."""

    def of(narrow: float, **shares: float) -> dict[str, Prediction]:
        roofs = [
            a_profile("berth-matmul-bf16", "CPU", throughput=100.0, throughput_unit="steps/s", precision="bf16",
                      operations=2e9, bytes_moved=1e7),
            a_profile("berth-copy", "CPU", throughput=10.0, throughput_unit="steps/s", operations=1e7, bytes_moved=1e9),
        ]  # fmt: skip
        return asked(roofs, work=Work(narrow + sum(shares.values()), 1e6, by_precision={"bf16": narrow, **shares}))

    answer = of(963e6, fp32=3.5e6)["CPU"]
    assert answer.basis == (
        "roofline: compute bound (fp32, under 5% of the operations, as fast as bf16 measured there)"
    )
    assert 1 / (answer.profile.throughput or 0.0) == pytest.approx(966.5e6 / (2e11 * 0.9) + 2e-5, rel=1e-6)
    assert "CPU" not in of(963e6, fp32=96e6)
    # Units before TF32 take 16 bits alone: there the same part is left out.
    left_out = of(963e9, fp32=3.5e9)["V100-32"]
    assert (
        left_out.basis
        == "roofline: compute bound (fp32, under 5% of the operations, left out: no peak of theirs is known)"
    )
    assert 1 / (left_out.profile.throughput or 0.0) == pytest.approx(963e9 / (125e12 * 0.45) + 5e-5)
    assert "V100-32" not in of(963e9, fp32=96e9)
    assert "CPU" not in of(963e6, fp32=30e6, int32=30e6), "small parts are weighed together"
    assert "CPU" not in of(963e6, fp64=3.5e6), "double precision may take a hundred times as long"


@pytest.mark.parametrize("precision", [name for name in FROM_PEAKS if name != "fp64"])
def test_the_store_and_the_models_analysis_price_every_precision_by_one_rule(precision: str) -> None:
    """A launch apart: the store adds it."""
    count = 1e15
    answers = asked([], work=Work(count, 1e6, by_precision={precision: count}))
    expected = {
        entry.name: estimate.seconds
        for entry in ENTRIES
        if (estimate := models_estimate(Analysis(count, 1e6, {precision: count}), entry)) is not None
    }
    launches = {entry.name: LAUNCH.get(entry.device_class, OTHER_LAUNCH) for entry in ENTRIES}
    seconds = {name: 1 / (one.profile.throughput or 0.0) - launches[name] for name, one in answers.items()}
    # What is not known to run there at all (`runs_at`) is not answered; else both know the same accelerators.
    assert set(seconds) <= set(expected)
    assert seconds == pytest.approx({name: expected[name] for name in seconds})
    if precision in ("fp16", "bf16", "fp32"):
        assert set(seconds) == set(expected)
        assert ("V100-32" in seconds) == (precision != "fp32")


def test_what_does_not_fit_is_said() -> None:
    found = forecast(checked(Question(workload="bert", work=replace(WORK, memory_bytes=90_000_000_000))), [], ENTRIES)
    assert found is not None
    assert "H100-SXM" not in {one.profile.key.accelerator for one in found.predictions}
    assert any("H100-SXM" in said and "more memory" in said for said in found.unknown)


@pytest.mark.parametrize(
    ("work", "field", "remedy"),
    [
        (Work(0.0, 1e9), "analysis.operations", "above 0"),
        (Work(1e9, -1.0), "analysis.bytes_moved", "above 0"),
        (Work(math.nan, 1e9), "analysis.operations", "above 0"),
        (Work(1e40, 1e9), "analysis.operations", "up to 1e+30"),
        (Work(), "analysis.operations", "give operations"),
        (Work(1e9, 1e9, 0), "analysis.memory_bytes", "above 0"),
        (Work(1e9, 1e9, None, {"bp16": 1e9}), "analysis.operations_by_precision[bp16]", "did you mean"),
        (Work(1e9, 1e9, None, {"bf16": 2e9}), "analysis.operations_by_precision", "at most all operations"),
        (Work(1e9, 1e9, None, {"bf16": math.inf}), "analysis.operations_by_precision[bf16]", "a number from 0"),
    ],
)
def test_an_analysis_that_cannot_be_true_is_refused(work: Work, field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(Question(workload="bert", work=work))
    assert next((one.field, remedy in one.remedy) for one in refused.value.errors) == (field, True)


def test_latency_follows_from_throughput_only_where_concurrency_is_known() -> None:
    plain = a_profile("bert", "H100-SXM", throughput=100.0, throughput_unit="queries/s")
    assert "latency_mean_seconds" not in figures(asked([plain])["H100-SXM"])
    mean = figures(asked([replace(plain, concurrency=4)])["H100-SXM"])["latency_mean_seconds"]
    assert (mean.value, mean.basis) == (pytest.approx(0.04), "throughput with 4 in flight")
    # A sample's batch is no request, and tokens of unknown number are no answer.
    for unit in ("samples/s", "tokens/s"):
        other = replace(plain, concurrency=4, throughput_unit=unit)
        assert "latency_mean_seconds" not in figures(asked([other])["H100-SXM"])


def test_a_rooflines_call_is_a_latency_only_where_one_call_is_at_a_time() -> None:
    """An analysis alone is one call with nothing beside it; what was run with nobody knows how many is not."""
    assert "latency_p99_seconds" in figures(asked([], work=WORK)["H200"])
    seen = a_profile("bert", "H100-SXM", throughput=50.0, throughput_unit="queries/s", precision="bf16",
                     operations=1e12, bytes_moved=1e9)  # fmt: skip
    for question in ({}, {"work": WORK}):
        transferred = asked([seen], **question)["H200"]
        assert "latency_mean_seconds" not in figures(transferred)
        assert transferred.profile.latency_p99_seconds is None
    alone = figures(asked([replace(seen, concurrency=1)])["H200"])
    assert alone["latency_mean_seconds"].basis == "one call at a time"


def test_figures_are_interpolated_like_throughput() -> None:
    profiles = [
        a_profile("bert", "L4", throughput=100.0 * n, batch_size=n, latency_p50_seconds=0.01 * n,
                  latency_p99_seconds=0.02 * n, memory_bytes=10**9 * n, power_watts=10.0 * n)
        for n in (1, 4)
    ]  # fmt: skip
    answer = asked(profiles, accelerator="L4", batch_size=2)["L4"]
    said = figures(answer)
    for name, value in (("latency_p50_seconds", 0.02), ("latency_p99_seconds", 0.04), ("memory_bytes", 2e9),
                        ("power_watts", 20.0)):  # fmt: skip
        assert said[name].value == pytest.approx(value)
        assert said[name].basis == "interpolated: batch size between 1 and 4"
        assert (said[name].low or 0) < value < (said[name].high or 0)
    assert said["energy_joules_per_unit"].value == pytest.approx(20.0 / 200.0)
    assert answer.profile.power_watts == pytest.approx(20.0)


def test_power_is_told_by_the_tdp_where_enough_others_were_measured() -> None:
    others = [a_profile(f"w{n}", "H100-SXM", power_watts=700 * 0.6) for n in range(8)]
    said = figures(asked([*others, a_profile("bert", "L4")], accelerator="L4")["L4"])
    assert (said["power_watts"].value, said["power_watts"].way) == (pytest.approx(72 * 0.6), Provenance.TRANSFERRED)
    assert said["power_watts"].basis == "60% of the TDP, as 8 other runs drew"
    assert "power_watts" not in figures(asked([*others[1:], a_profile("bert", "L4")], accelerator="L4")["L4"])


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(1e-3, 10), st.floats(1e-3, 10), st.floats(1, 72)), min_size=2,
             max_size=6, unique_by=lambda row: row[0]),
    st.integers(1, 64),
)  # fmt: skip
def test_whatever_is_predicted_can_be_kept(rows: list[tuple[int, float, float, float]], batch: int) -> None:
    profiles = [
        a_profile("bert", "L4", batch_size=n, latency_p50_seconds=min(a, b), latency_p99_seconds=max(a, b),
                  power_watts=watts, peak_power_watts=72.0)
        for n, a, b, watts in rows
    ]  # fmt: skip
    validate(to_keep(list(asked(profiles, accelerator="L4", batch_size=batch).values())), catalogue, now=NOW)


def test_what_one_stream_sees_is_never_the_systems_speed() -> None:
    stream = a_profile("bert", "Groq-LPU-v1", throughput=None, throughput_unit="", stream_throughput=500.0)
    system = a_profile("bert", "H100-SXM", throughput=40.0, throughput_unit="tokens/s")
    alone = forecast(Question(workload="bert"), [stream], ENTRIES)
    assert alone is not None
    assert alone.predictions == ()
    both = asked([stream, system])
    assert "Groq-LPU-v1" not in both
    assert both == asked([system])
    # Published beside a throughput it changes nothing either.
    assert {name: one.profile.throughput for name, one in asked([replace(system, stream_throughput=9e5)]).items()} == {
        name: one.profile.throughput for name, one in both.items()
    }


async def test_kept_predictions_are_made_anew_when_something_was_measured() -> None:
    memory = ProfilesInMemory()
    due: list[str] = []
    store = ProfileStore(profiles=memory, catalogue=catalogue, now=lambda: NOW, measured=due.extend)
    await store.predict(Question(workload="bert", work=WORK), keep=True)
    kept = {key: one for key, one in memory.rows.items() if key.workload == "bert"}
    assert {one.provenance for one in kept.values()} == {Provenance.ROOFLINE}
    assert len(kept_questions(list(kept.values()))) == 1
    half = 0.5 * next(one.throughput or 0.0 for key, one in kept.items() if key.accelerator == "L4")
    await store.put([a_profile("bert", "L4", throughput=half, throughput_unit="queries/s", precision="bf16",
                               concurrency=1)])  # fmt: skip
    assert due == ["bert"]
    # That of the L4 too: it was kept of another configuration than the measured one.
    assert await store.renew(due) == len(kept)
    assert await store.renew(due) == 0
    for key, one in kept.items():
        assert memory.rows[key].throughput == pytest.approx(0.5 * (one.throughput or 0.0)), key
    assert await store.renew(["nobody asked"]) == 0


def test_figures_of_real_runs_left_out_in_turn(data_folder: Path) -> None:
    """Medians and coverage that docs/adr/0032 states."""
    splitwise = load(data_folder, "splitwise")
    # A few of the sweeps: all of them take minutes, and the benchmark has them.
    sweeps = [one for one in load_zeus(data_folder) if one.key.accelerator == "P100" and one.key.workload[0] in "is"]
    zeus = tuple(sweeps)
    for data, name in (
        (splitwise, "first_token_p50_seconds"),
        (splitwise, "token_p50_seconds"),
        (zeus, "power_watts"),
    ):
        measured = measure(data, QUANTITIES[name], transfers=data is splitwise, known_there=(0, 1))
        assert measured["interpolated"].median <= 0.05, name
        for way in measured.keys() - {"extrapolated"}:
            assert measured[way].median <= 0.10, (name, way)
            assert measured[way].coverage >= 0.85, (name, way)
    roofline = measure_roofline(splitwise)
    assert roofline["roofline, corrected: token"].median <= 0.15
    assert roofline["roofline, corrected: prompt"].coverage >= 0.9
