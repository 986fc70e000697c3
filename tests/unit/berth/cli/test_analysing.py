"""Which batch a program's analysis is of."""

import json
from pathlib import Path

import pytest

from berth.cli.analysing import analysis_from, batch_of, program_of, read_analysis
from berth.errors import InvalidInput

FIXED = """module { func.func public @main(%a: tensor<4x512xf32>) -> tensor<4x512xf32> {
 %0 = stablehlo.tanh %a : tensor<4x512xf32>
 return %0 : tensor<4x512xf32> } }"""


@pytest.mark.parametrize(
    ("shapes", "asked", "batch"),
    [
        pytest.param([(8, 512)], None, 8, id="its own"),
        pytest.param([(8, 512), (8,), ()], None, 8, id="all agree, a scalar has none"),
        pytest.param([(8, 512), (512, 64)], None, None, id="which are rows is unknown"),
        pytest.param([(8, 512), (512, 64)], 8, 8, id="one of them, as asked"),
        pytest.param([(None, 512)], 16, 16, id="free: as asked"),
        pytest.param([(None, 512)], None, None, id="free and unsaid"),
        pytest.param([()], 1, 1, id="no rows"),
        pytest.param([()], None, None, id="no rows and unsaid"),
    ],
)
def test_the_batch_is_the_first_dimension_of_the_inputs(
    shapes: list[tuple[int | None, ...]], asked: int | None, batch: int | None
) -> None:
    assert batch_of(shapes, asked) == batch


def test_a_batch_size_that_the_program_is_not_made_for_is_refused(tmp_path: Path) -> None:
    """Its work would stay that of 4 rows, and its throughput be told of 64."""
    model = tmp_path / "fixed.mlir"
    model.write_text(FIXED)
    workload, analysis, batch = program_of(None, None, str(model), None)
    assert (workload, batch) == ("fixed", 4)
    assert analysis is not None
    assert analysis.operations > 0
    with pytest.raises(InvalidInput, match=r"batch.*64.*leave it out"):
        program_of(None, None, str(model), 64)


def test_a_written_analysis_says_its_batch_by_its_inputs(tmp_path: Path) -> None:
    file = tmp_path / "analysis.json"
    analysis = {"operations": 1e9, "bytes_moved": 1e6}
    file.write_text(json.dumps({"model": {"inputs": [{"shape": [4, 512]}], "analysis": analysis}}))
    assert program_of("w", file, None, None)[2] == 4
    with pytest.raises(InvalidInput, match="the program is fixed at 4"):
        program_of("w", file, None, 64)
    # By hand, and with nothing that tells: the caller's word.
    for document in (analysis, {"inputs": ["x", {"shape": "?"}], "analysis": analysis}):
        file.write_text(json.dumps(document))
        assert [program_of("w", file, None, asked)[2] for asked in (None, 64)] == [None, 64]


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "x" * 10_000])
def test_what_is_no_finite_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"analysis\.operations") as caught:
        analysis_from({"operations": value})
    assert len(caught.value.errors[0].value) < 200


def test_a_file_with_a_number_beyond_a_float_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"operations": 1, "by_precision": {"fp16": 1' + "0" * 400 + "}}")
    with pytest.raises(InvalidInput, match="by_precision"):
        read_analysis(tmp_path / "a.json", None)
