"""Which accelerator takes a program, with the reason where it does not."""

from dataclasses import replace

import pytest

from berth import catalogue
from berth.models import roofline
from berth.models.artefact import Analysis, Artefact
from berth.models.support import fits_none, pinned_calls, supports

EVERYWHERE = ("cpu", "cuda", "rocm", "tpu")
SMALL = Analysis(1e9, 1e7, {"bf16": 1e9}, 10**6, 10**3, 10**3, 10**6)


def made(
    platforms: tuple[str, ...] = EVERYWHERE,
    calls: tuple[str, ...] = (),
    analysis: Analysis | None = SMALL,
    format: str = "jax-export",
) -> Artefact:
    return Artefact(
        "chat", format, "0" * 64, 1, platforms=platforms, custom_calls=dict.fromkeys(calls, 1), analysis=analysis
    )


def entry(name: str) -> catalogue.Accelerator:
    found = catalogue.by_name(name)
    assert found is not None
    return found


def test_one_artefact_is_taken_by_every_stack_of_openxla_and_no_other() -> None:
    taking = {one.stack for one in catalogue.load() if not supports(made(), one)}
    assert taking == {"CUDA", "ROCm", "XLA", "oneDNN"}
    assert supports(made(), entry("Gaudi3")) == (
        "no OpenXLA plugin is built in for SynapseAI (Gaudi3): give an operator's command backend for SynapseAI",
    )


@pytest.mark.parametrize(
    ("call", "taking"),
    [
        ("lapack_spotrf_ffi", {"oneDNN"}),
        ("cusolver_potrf_ffi", {"CUDA"}),
        ("hipsolver_potrf_ffi", {"ROCm"}),
        ("tpu_custom_call", {"XLA"}),
        ("__gpu$xla.gpu.triton", {"CUDA", "ROCm"}),
        ("Sharding", {"CUDA", "ROCm", "XLA", "oneDNN"}),
        ("annotate_device_placement", {"CUDA", "ROCm", "XLA", "oneDNN"}),
    ],
)
def test_a_pinned_call_is_taken_where_it_is_at_home_only(call: str, taking: set[str]) -> None:
    artefact = made(platforms=(), calls=(call,), format="stablehlo")
    assert {one.stack for one in catalogue.load() if not supports(artefact, one)} == taking
    for name in ("H100-SXM", "MI300X", "TPU-v5e", "EPYC"):
        reasons = supports(artefact, entry(name))
        assert not reasons or call in reasons[0]


def test_a_call_in_the_part_of_another_platform_is_no_reason() -> None:
    both = made(calls=("lapack_spotrf_ffi", "cusolver_potrf_ffi", "hipsolver_potrf_ffi"))
    assert supports(both, entry("TPU-v5e")) == ()
    assert pinned_calls(made(platforms=("cuda",), calls=("lapack_spotrf_ffi",)), "cuda") == ("lapack_spotrf_ffi",)


def test_an_artefact_of_one_platform_says_which_is_missing() -> None:
    assert supports(made(platforms=("cuda",)), entry("MI300X")) == (
        "chat was lowered for cuda, not for rocm (MI300X): export it for rocm too",
    )


def test_a_model_larger_than_the_device_says_both_sizes() -> None:
    large = Analysis(1e9, 1e7, {"bf16": 1e9}, 10**11, 10**3, 10**3, 10**6)
    assert supports(made(analysis=large), entry("H100-SXM")) == (
        "chat needs 120 GB with headroom, H100-SXM has 80 GB: take a smaller batch or precision, or a larger device",
    )
    assert supports(made(analysis=large), entry("MI300X")) == ()
    assert not fits_none(made(analysis=large), catalogue.load())
    vast = Analysis(1e9, 1e7, {"bf16": 1e9}, 10**15, 1, 1, 1)
    assert fits_none(made(analysis=vast), catalogue.load())


def test_each_accelerator_is_judged_by_its_own_platforms_part() -> None:
    vast = Analysis(1e9, 1e7, {"bf16": 1e9}, 10**15, 1, 1, 1)
    artefact = replace(made(), by_platform={"cpu": SMALL, "cuda": vast, "rocm": SMALL, "tpu": SMALL})
    assert "with headroom" in supports(artefact, entry("H100-SXM"))[0]
    assert supports(artefact, entry("MI300X")) == ()


def test_a_precision_that_the_chip_lacks_is_named() -> None:
    eight = Analysis(1e9, 1e7, {"fp8": 1e9}, 1, 1, 1, 1)
    assert supports(made(analysis=eight), entry("A100-80-SXM")) == (
        "chat computes in fp8, for which A100-80-SXM has no units: export it in bf16",
    )
    assert supports(made(analysis=eight), entry("H100-SXM")) == ()


def test_a_narrow_precision_is_said_to_be_widened_where_no_peak_of_its_own_is_known() -> None:
    four = Analysis(1e9, 1e7, {"fp4": 1e8, "int4": 1e8, "fp8": 1e8, "fp32": 7e8})
    assert roofline.widened(four, entry("H100-SXM")) == {"fp4": "fp8", "int4": "int8"}
    assert roofline.widened(four, entry("V100-32")) == {"fp4": "fp16", "int4": "fp16", "fp8": "fp16"}
    assert roofline.widened(four, entry("A10")) == {}
    assert roofline.widened(None, entry("H100-SXM")) == {}


@pytest.mark.parametrize(
    ("name", "precision", "part"),
    [
        ("H100-SXM", "fp32", 0.5),
        ("H100-SXM", "fp64", 1 / 32),
        ("H100-SXM", "int64", 0.25),
        ("H100-SXM", "int16", 1.0),
        ("V100-32", "fp16", 1.0),
        ("V100-32", "fp32", None),
        ("T4", "fp64", None),
        ("P100", "int64", None),
        ("L4", "fp32", 0.5),
        ("L4", "fp64", None),
        ("TPU-v5e", "fp64", None),
        ("H100-SXM", "int3", None),
    ],
)
def test_a_peak_stands_in_only_where_the_units_do_that_work(name: str, precision: str, part: float | None) -> None:
    base = entry(name).peak("fp16")
    assert base is not None
    assert roofline.peak(entry(name), precision) == (None if part is None else pytest.approx(base * part))


def test_a_small_share_without_a_peak_leaves_the_estimate_known() -> None:
    norms, products = ({"bf16": 1e12 - wide, "fp32": wide} for wide in (1e10, 1e11))
    assert roofline.estimate(Analysis(1e12, 1e6, norms), entry("V100-32")) is not None
    assert roofline.estimate(Analysis(1e12, 1e6, products), entry("V100-32")) is None
    together = {"bf16": 0.94e12, "fp32": 3e10, "int32": 3e10}
    assert roofline.estimate(Analysis(1e12, 1e6, together), entry("V100-32")) is None, (
        "small parts are weighed together"
    )
    assert roofline.estimate(Analysis(1e12, 1e6, {"bf16": 0.99e12, "fp64": 1e10}), entry("T4")) is None


def test_the_exceptions_name_accelerators_of_the_catalogue() -> None:
    names = {one.name for one in catalogue.load()}
    assert names > roofline._BEFORE_TF32 | roofline._WITHOUT_FP64


def test_the_estimate_is_the_slower_of_compute_and_memory() -> None:
    computing = Analysis(1e15, 1e9, {"bf16": 1e15})
    moving = Analysis(1e9, 1e12, {"bf16": 1e9})
    first, second = (roofline.estimate(one, entry("H100-SXM")) for one in (computing, moving))
    assert first == roofline.Estimate(pytest.approx(1e15 / (989e12 * 0.45)), "compute")
    assert second == roofline.Estimate(pytest.approx(1e12 / (3.35e12 * 0.75)), "memory")
    assert roofline.estimate(computing, entry("EPYC")) is None
    assert roofline.estimate(Analysis(None, None), entry("H100-SXM")) is None
    halves = Analysis(2e15, 1e9, {"bf16": 1e15, "fp8": 1e15})
    mixed = roofline.estimate(halves, entry("H100-SXM"))
    assert mixed is not None
    assert mixed.seconds == pytest.approx((1e15 / 989e12 + 1e15 / 1979e12) / 0.45)


def test_the_parts_of_the_data_sheet_are_those_that_placement_assumes() -> None:
    from placement_engine.domain.roofline import ASSUMED_RATES

    parts = {one.device_class: (one.compute, one.streaming) for one in ASSUMED_RATES}
    ours = {name: (roofline.COMPUTE[name], roofline.STREAMING[name]) for name in roofline.COMPUTE}
    assert {**ours, "": roofline.DEFAULT} == parts


def test_the_same_artefact_is_taken_by_cuda_rocm_and_tpu_and_a_pinned_one_is_not() -> None:
    """Real artefacts: the example for every platform, and a Cholesky factor that was lowered for a CPU alone."""
    import jax.numpy as jnp

    from berth.models import formats
    from tests.unit.berth.models.builders import exported, shape, transformer

    example = formats.read(transformer().content, "example", "example")
    factor = exported(jnp.linalg.cholesky, shape(8, 8))
    pinned = formats.read(bytes(factor.mlir_module_serialized), "factor", "factor")
    for name in ("H100-SXM", "MI300X", "TPU-v5e"):
        assert supports(example, entry(name)) == ()
        assert "lapack_spotrf_ffi, which only cpu has" in supports(pinned, entry(name))[0]
    assert supports(pinned, entry("EPYC")) == ()
    both = exported(jnp.linalg.cholesky, shape(8, 8), platforms=("cpu", "cuda", "tpu"))
    everywhere = formats.read(bytes(both.serialize()), "factor", "factor")
    assert len(everywhere.custom_calls) >= 2
    assert supports(everywhere, entry("TPU-v5e")) == ()
    assert "not for rocm" in supports(everywhere, entry("MI300X"))[0]
