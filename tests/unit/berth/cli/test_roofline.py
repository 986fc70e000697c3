"""The roofline of a workload: its table to the letter, and a picture that names every accelerator."""

import hashlib
import itertools
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.cli.commands.profiles_roofline import work_of_call
from berth.cli.roofline_picture import draw, spread
from berth.cli.rooflines import Picture, calls_of, foremost, picture_of, table
from berth.v1 import profiles_pb2 as pb

MEASURED, ROOFLINE = pb.PROVENANCE_MEASURED, pb.PROVENANCE_ROOFLINE


def a_prediction(accelerator: str, throughput: float, provenance: int = ROOFLINE, devices: int = 1) -> pb.Prediction:
    profile = pb.Profile(accelerator=accelerator, devices=devices, throughput=throughput, throughput_unit="steps/s")
    profile.provenance = pb.Provenance.ValueType(provenance)
    made = pb.Prediction(profile=profile)
    if provenance == ROOFLINE:
        made.throughput_low, made.throughput_high = throughput / 2, throughput * 2
    return made


PREDICTIONS = [a_prediction("H100-SXM", 100.0), a_prediction("L4", 20.0, MEASURED), a_prediction("K80", 1.0)]


def a_picture(*wanted: str, precision: str = "bf16") -> Picture:
    return picture_of("small", precision, 1e12, 1e10, PREDICTIONS, [], wanted)


def measured_roofs() -> list[pb.Profile]:
    plain = {"accelerator": "CPU", "devices": 1, "throughput": 10.0, "provenance": MEASURED}
    return [
        pb.Profile(workload="berth-matmul-fp32", operations=5e9, **plain),
        pb.Profile(workload="berth-copy", bytes_moved=1e9, **plain),
    ]


def test_the_table_is_all_that_is_known() -> None:
    assert table(a_picture("H100-SXM", "L4", "K80", "TPU-v6e")) == [
        "small at bf16: 100 FLOP/byte",
        "",
        "ACCELERATOR  PEAK TFLOP/S  TB/S  RIDGE  BOUND BY  ROOF TFLOP/S  ATTAINED  90 % WITHIN  OF ROOF  HOW",
        "H100-SXM              989  3.35    295  memory             335       100    50 to 200      30%  predicted",
        "L4                    121   0.3    403  memory              30        20            -      67%  measured",
        "left out, no peak at this precision or no bandwidth known: K80, TPU-v6e",
        "`berth profiles bench matmul --precision bf16` and `berth profiles bench copy` on such a machine measure its "
        "roof",
    ]


def test_the_peak_is_that_of_the_precision() -> None:
    peaks = {name: a_picture("H100-SXM", precision=name).roofs[0].peak for name in ("bf16", "fp8", "int8", "fp32")}
    assert peaks == {"bf16": 989, "fp8": 1979, "int8": 1979, "fp32": 494.5}
    assert a_picture("V100-32", precision="fp32").roofs == (), "its matrix units take 16 bits alone"
    assert a_picture("A100-80-SXM", precision="fp8").left_out == ("A100-80-SXM",)


def test_the_work_is_that_of_the_batch_that_is_told() -> None:
    """Of a profile at batch 1 and one at 64, whichever is listed first."""
    plain: dict[str, Any] = {"workload": "w", "accelerator": "H100-SXM", "devices": 1, "throughput_unit": "samples/s"}
    one = pb.Profile(throughput=500.0, batch_size=1, operations=1e9, bytes_moved=1e8, **plain)
    many = pb.Profile(throughput=9000.0, batch_size=64, operations=6.4e10, bytes_moved=2e8, **plain)
    for own in ([one, many], [many, one]):
        assert work_of_call(None, None, [many], own) == (6.4e10, 2e8, 64)
        assert work_of_call(None, 1, [one], own) == (1e9, 1e8, 1)
        unsaid = pb.Profile(batch_size=64, **plain)
        assert work_of_call(None, None, [unsaid], own) == (6.4e10, 2e8, 64)
    assert work_of_call(None, None, [], []) is None
    given = pb.ProgramAnalysis(operations=5.0, bytes_moved=2.0)
    assert work_of_call(given, 8, [many], [one]) == (5.0, 2.0, 8)
    both = [pb.Prediction(profile=each) for each in (one, many)]
    (point,) = picture_of("w", "bf16", 6.4e10, 2e8, both, [], batch=64).points
    assert point.tflops == pytest.approx(9.0), "batch 1 has another intensity: no point of this picture"


def test_a_roof_that_was_measured_stands_in_for_a_data_sheet() -> None:
    (roof,) = picture_of("small", "fp32", 1e9, 1e8, [], measured_roofs(), ["CPU"]).roofs
    assert (roof.peak, roof.bandwidth, roof.measured) == (0.05, 1e10, True)
    assert picture_of("small", "fp32", 1e9, 1e8, [], [], ["CPU"]).roofs == ()


def test_a_precision_that_was_not_measured_is_as_fast_as_fp32_there() -> None:
    (roof,) = picture_of("small", "bf16", 1e9, 1e8, [], measured_roofs(), ["CPU"]).roofs
    assert (roof.peak, roof.remark) == (0.05, "bf16 as fast as fp32 measured there")
    assert "CPU: bf16 as fast as fp32 measured there" in table(picture_of("small", "bf16", 1e9, 1e8, [],
                                                                          measured_roofs(), ["CPU"]))  # fmt: skip
    assert picture_of("small", "fp64", 1e9, 1e8, [], measured_roofs(), ["CPU"]).roofs == ()


def test_a_measured_roof_is_no_lower_than_what_was_attained_under_it() -> None:
    seen = [a_prediction("CPU", 110.0, MEASURED)]
    (roof,) = picture_of("small", "fp32", 1e9, 1e8, seen, measured_roofs(), ["CPU"]).roofs
    assert roof.at(10.0) == pytest.approx(0.11)
    assert roof.remark == "raised to what the workload attained there"
    (roof,) = picture_of("small", "fp32", 1e9, 1e8, [a_prediction("CPU", 110.0)], measured_roofs(), ["CPU"]).roofs
    assert roof.peak == 0.05


def test_a_picture_keeps_what_was_measured_and_the_best_of_each_vendor() -> None:
    predictions = [*PREDICTIONS, a_prediction("CPU", 0.01)]
    whole = picture_of("small", "bf16", 1e12, 1e10, predictions, measured_roofs())
    drawn = foremost(whole)
    names = {roof.name for roof in drawn.roofs}
    assert len(names) == 8
    assert {"CPU", "L4"} <= names
    assert len({roof.vendor for roof in drawn.roofs}) >= 6
    assert drawn.undrawn == len(whole.roofs) - 8
    assert {point.accelerator for point in drawn.points} == {point.accelerator for point in whole.points} & names
    assert f"{drawn.undrawn} more accelerators are not drawn" in "".join(ET.fromstring(draw(drawn, "svg")).itertext())
    assert foremost(drawn) is drawn


@pytest.mark.parametrize(
    ("unit", "batch", "tokens", "calls"),
    [("steps/s", 8, None, 64.0), ("queries/s", 8, None, 8.0), ("tokens/s", 8, 4, 2.0), ("tokens/s", 8, None, None),
     ("epochs/s", 8, None, None)],
)  # fmt: skip
def test_units_become_calls_where_their_number_is_known(
    unit: str, batch: int, tokens: int | None, calls: float | None
) -> None:
    profile = pb.Profile(throughput=64.0, throughput_unit=unit, batch_size=batch, output_tokens=tokens)
    assert calls_of(profile) == calls


def test_the_picture_names_every_accelerator_and_those_left_out() -> None:
    picture = a_picture()
    assert len(picture.roofs) > 20
    drawn = draw(picture, "svg")
    root = ET.fromstring(drawn)
    words = "".join(root.itertext())
    lines = {element.get("id") for element in root.iter()}
    for roof in picture.roofs:
        assert roof.name in words
        assert f"roof-{roof.name}" in lines
    for name in picture.left_out:
        assert name in words
    assert "100 FLOP/byte" in words
    assert "TFLOP/s" in words
    assert "Data sheets: " in words


def test_the_same_figures_are_the_same_bytes() -> None:
    for form in ("svg", "png"):
        first, second = (hashlib.sha256(draw(a_picture("H100-SXM", "L4"), form)).hexdigest() for _ in range(2))
        assert first == second
    assert draw(a_picture("L4"), "png").startswith(b"\x89PNG")


@given(st.lists(st.floats(0.02, 0.98), min_size=1, max_size=20))
def test_labels_stand_apart_in_their_order(heights: list[float]) -> None:
    placed = spread(heights, 0.036, 0.02, 0.98)
    ordered = [place for _, place in sorted(zip(heights, placed, strict=True))]
    assert all(b - a >= 0.036 - 1e-9 for a, b in itertools.pairwise(sorted(placed)))
    assert ordered == sorted(placed)
    assert min(placed) >= 0.02 - 1e-9
    assert max(placed) <= 0.98 + 1e-9
