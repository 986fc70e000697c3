"""Validation: what cannot be true is refused with field, value and remedy; what is sound is kept as it is."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from profile_store.domain.profile import Profile, ProfileKey, Provenance, best_fitting, configuration_of, rank
from profile_store.domain.validation import validate
from tests.unit.profile_store.builders import NOW, a_profile


def refused(*profiles: Profile) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidInput) as caught:
        validate(profiles, catalogue, now=NOW)
    return caught.value.errors


def test_a_sound_profile_comes_back_as_it_is() -> None:
    profile = a_profile(
        latency_p50_seconds=0.1,
        latency_p99_seconds=0.4,
        memory_bytes=60 * 2**30,
        power_watts=500.0,
        peak_power_watts=690.0,
        price_per_hour=0.0,
        relative_uncertainty=0.0,
        measured_at=NOW - timedelta(days=3),
        samples=12,
    )
    assert validate([profile], catalogue, now=NOW) == (profile,)


def test_an_alias_is_stored_under_the_catalogue_name() -> None:
    (stored,) = validate([a_profile(accelerator="v100")], catalogue, now=NOW)
    assert stored.key == ProfileKey("bert", "V100-16", 1)


def test_keys_are_in_order_and_equal_repeats_collapse() -> None:
    stored = validate([a_profile("b"), a_profile("a", devices=2), a_profile("a"), a_profile("b")], catalogue, now=NOW)
    assert [str(one.key) for one in stored] == ["a|H100-SXM|1|", "a|H100-SXM|2|", "b|H100-SXM|1|"]


def test_one_key_with_two_figures_is_refused() -> None:
    errors = refused(a_profile(), a_profile(throughput=99.0))
    assert [(one.field, one.value) for one in errors] == [("profiles[1].key", "bert|H100-SXM|1|")]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"throughput": math.nan}, "throughput"),
        ({"throughput": math.inf}, "throughput"),
        ({"throughput": -1.0}, "throughput"),
        ({"throughput": 0.0}, "throughput"),
        ({"throughput": 1e13}, "throughput"),
        ({"throughput_unit": "furlongs/s"}, "throughput_unit"),
        ({"throughput": None, "power_watts": 90.0}, "throughput_unit"),
        ({"throughput": None, "throughput_unit": ""}, "throughput"),
        ({"latency_p50_seconds": -0.1}, "latency_p50_seconds"),
        ({"latency_p99_seconds": 1e6}, "latency_p99_seconds"),
        ({"latency_p50_seconds": 2.0, "latency_p99_seconds": 1.0}, "latency_p99_seconds"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"memory_bytes": 90 * 10**9}, "memory_bytes"),
        ({"power_watts": math.nan}, "power_watts"),
        ({"power_watts": 1401.0}, "power_watts"),
        ({"power_watts": 600.0, "peak_power_watts": 500.0}, "peak_power_watts"),
        ({"price_per_hour": -1.0}, "price_per_hour"),
        ({"relative_uncertainty": 11.0}, "relative_uncertainty"),
        ({"provenance": 0}, "provenance"),
        ({"provenance": 7}, "provenance"),
        ({"source": " "}, "source"),
        ({"source": "x" * 501}, "source"),
        ({"precision": "fp\x0016"}, "precision"),
        ({"samples": -1}, "samples"),
        ({"measured_at": NOW + timedelta(days=2)}, "measured_at"),
        ({"measured_at": datetime(1969, 7, 20, tzinfo=UTC)}, "measured_at"),
        ({"key": ProfileKey("", "L4", 1)}, "workload"),
        ({"key": ProfileKey("a|b", "L4", 1)}, "workload"),
        ({"key": ProfileKey("a\nb", "L4", 1)}, "workload"),
        ({"key": ProfileKey(" a", "L4", 1)}, "workload"),
        ({"key": ProfileKey("\ud800", "L4", 1)}, "workload"),
        ({"key": ProfileKey("a", "L4", 0)}, "devices"),
        ({"key": ProfileKey("a", "L4", -8)}, "devices"),
        ({"key": ProfileKey("a", "L4", 10**7)}, "devices"),
        ({"key": ProfileKey("a", "L4", 1, "b|c")}, "co_located_with"),
    ],
)
def test_what_cannot_be_true_is_refused(changes: dict[str, Any], field: str) -> None:
    (error,) = refused(a_profile(**changes))
    assert error.field == field
    assert error.remedy
    str(error).encode()


def test_a_vendor_gigabyte_may_be_a_binary_one() -> None:
    assert validate([a_profile(memory_bytes=80 * 2**30)], catalogue, now=NOW)


def test_an_unknown_accelerator_is_refused_with_the_nearest_names() -> None:
    (error,) = refused(a_profile(accelerator="H100-SXN"))
    assert (error.field, error.value) == ("accelerator", "H100-SXN")
    assert "did you mean H100-SXM" in error.remedy


def test_every_error_is_told_at_once_with_its_place() -> None:
    errors = refused(a_profile(), a_profile("b", throughput=-1.0, samples=-1), a_profile("c", source=""))
    assert [one.field for one in errors] == [
        "profiles[1].throughput",
        "profiles[1].samples",
        "profiles[2].source",
    ]


def test_errors_are_counted_to_twenty() -> None:
    assert len(refused(*(a_profile(f"w{n}", source="") for n in range(50)))) == 20


def test_ranking_puts_the_fastest_first_and_the_unknown_last() -> None:
    fast, slow = a_profile("w", "H100-SXM", throughput=9.0), a_profile("w", "L4", throughput=1.0)
    quick = a_profile("w", "L40S", throughput=None, throughput_unit="", latency_p99_seconds=0.1)
    lazy = a_profile("w", "T4", throughput=None, throughput_unit="", latency_p99_seconds=0.9)
    blank = a_profile("w", "A10", throughput=None, throughput_unit="", power_watts=90.0)
    assert rank([blank, lazy, slow, quick, fast]) == (fast, slow, quick, lazy, blank)


figures = st.none() | st.floats() | st.floats(0, 1e4)


@given(
    st.text(max_size=8),
    st.sampled_from(["L4", "MI300X", "CPU", "H10", ""]) | st.text(max_size=6),
    st.integers(-3, 3),
    figures,
    figures,
    figures,
    st.none() | st.integers(-5, 10**15),
    st.integers(-1, 7),
)
def test_anything_is_either_refused_or_can_be_true(
    workload: str,
    accelerator: str,
    devices: int,
    throughput: float | None,
    p99: float | None,
    watts: float | None,
    memory: int | None,
    provenance: int,
) -> None:
    given_profile = a_profile(
        workload,
        accelerator,
        devices,
        throughput=throughput,
        latency_p99_seconds=p99,
        power_watts=watts,
        memory_bytes=memory,
        provenance=provenance,
    )
    try:
        (stored,) = validate([given_profile], catalogue, now=NOW)
    except InvalidInput as error:
        str(error).encode()
        return
    for figure in (stored.throughput, stored.latency_p99_seconds, stored.power_watts, stored.memory_bytes):
        assert figure is None or (math.isfinite(figure) and figure > 0)
    assert stored.key.devices >= 1
    assert stored.provenance in tuple(Provenance)
    assert catalogue.by_name(stored.key.accelerator) is not None


def test_a_configuration_has_one_spelling() -> None:
    profile = a_profile(
        precision="fp8", batch_size=64, request_rate=2.5, tensor_parallel=1, power_limit_watts=300.0, settings="a=b"
    )
    assert configuration_of(profile) == "precision=fp8 batch=64 rate=2.5 tp=1 cap=300 a=b"
    assert configuration_of(a_profile()) == ""
    stream = a_profile(throughput=None, throughput_unit="", stream_throughput=500.0)
    assert configuration_of(stream) == "one-stream"
    # What a provider publishes of one stream stands apart from a system's throughput, and is marked.
    stored = validate([stream, a_profile()], catalogue, now=NOW)
    assert [(one.throughput, one.low_confidence) for one in stored] == [(100.0, False), (None, True)]


def test_the_surest_and_then_the_fastest_configuration_speaks() -> None:
    slow, fast = a_profile(batch_size=1), a_profile(batch_size=8, throughput=300.0)
    unsure = a_profile(batch_size=16, throughput=900.0, low_confidence=True)
    guessed = a_profile(batch_size=32, throughput=800.0, provenance=Provenance.TRANSFERRED)
    declared = a_profile(batch_size=64, throughput=700.0, provenance=Provenance.DECLARED)
    elsewhere = a_profile(accelerator="L4")
    stored = validate([slow, fast, unsure, guessed, declared, elsewhere], catalogue, now=NOW)
    assert [(one.key.accelerator, one.batch_size) for one in best_fitting(stored)] == [("H100-SXM", 8), ("L4", None)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"tensor_parallel": 4}, "devices"),
        ({"settings": "a|b"}, "settings"),
        ({"stream_throughput": math.nan}, "stream_throughput"),
        ({"energy_joules_per_unit": -1.0}, "energy_joules_per_unit"),
        ({"latency_p90_seconds": 2.0, "latency_p95_seconds": 1.0}, "latency_p95_seconds"),
        ({"first_token_p50_seconds": 2.0, "first_token_p99_seconds": 1.0}, "first_token_p99_seconds"),
        ({"operations": 1e31}, "operations"),
        ({"operations": 1e9, "operations_by_precision": (("bf16", math.nan),)}, "operations_by_precision[bf16]"),
        ({"operations": 1e9, "operations_by_precision": (("bf16", 2e9),)}, "operations_by_precision"),
        ({"operations_by_precision": (("bf16", 2e9),)}, "operations_by_precision"),
        ({"operations": 1e9, "operations_by_precision": (("", 1e9),)}, "operations_by_precision[]"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, Any], field: str) -> None:
    (error,) = refused(a_profile(**changes))
    assert error.field == field
