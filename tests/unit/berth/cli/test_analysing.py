"""A program's analysis as a command's arguments give it."""

from pathlib import Path

import pytest

from berth.cli.analysing import analysis_from, read_analysis
from berth.errors import InvalidInput


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "x" * 10_000])
def test_what_is_no_finite_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"analysis\.operations") as caught:
        analysis_from({"operations": value})
    assert len(caught.value.errors[0].value) < 200


def test_a_file_with_a_number_beyond_a_float_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"operations": 1, "by_precision": {"fp16": 1' + "0" * 400 + "}}")
    with pytest.raises(InvalidInput, match="by_precision"):
        read_analysis(tmp_path / "a.json")
