"""`berth profiles`: what is imported, and what is said of workloads that nobody measured."""

import json
from pathlib import Path

from tests.unit.berth.cli.conftest import Berth
from tests.unit.berth.cli.golden import assert_golden


async def test_import_says_what_it_took_and_what_it_left(berth: Berth, tmp_path: Path) -> None:
    (tmp_path / "sweep.csv").write_bytes(b"x" * 3_000_000)
    outcome = await berth("profiles", "import", "sweep.csv", "--accelerator", "V100", "--source", "us")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        "sweep.csv: read as zeus, 3 profiles: 2 new or changed, 1 as before\n"
        "  took: 3000000 bytes of us on V100\n"
        "  left out: 1 row: too old\n"
    )


async def test_import_of_no_file_is_misuse(berth: Berth) -> None:
    assert (await berth("profiles", "import", "absent.csv")).code == 2
    assert (await berth("profiles", "import", ".", "--format", "xlsx")).code == 2


async def test_predictions_are_told_with_their_interval_and_way(berth: Berth) -> None:
    outcome = await berth("profiles", "predict", "resnet50-train", "--devices", "8", "--batch-size", "64")
    assert (outcome.code, outcome.err) == (0, "nothing can be said of SN40L: not like enough\n")
    assert_golden("profiles-predict", outcome.out)
    outcome = await berth("profiles", "predict", "resnet50-train", "-o", "json")
    assert [one["basis"] for one in json.loads(outcome.out)["predictions"]] == [
        "measured",
        "interpolated: devices between 4 and 16",
        "transferred from H100-SXM, H200",
    ]


async def test_an_unknown_workload_is_met_with_the_nearest_names(berth: Berth) -> None:
    for command in ("show", "compare", "predict"):
        outcome = await berth("profiles", command, "resnet")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "error: workload: 'resnet': no profile of it; did you mean resnet50-train?\n"


async def test_what_was_learnt_is_shown_before_there_is_a_profile(berth: Berth) -> None:
    outcome = await berth("profiles", "show", "learnt-only")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("learnt-only: no profile yet\n\nLearnt from running jobs")
    assert "4 throttled, 1 outlier" in outcome.out
    outcome = await berth("profiles", "show", "learnt-only", "--accelerator", "L4")
    assert outcome.code == 1


async def test_a_picture_that_cannot_be_written_is_refused_before_the_table(berth: Berth) -> None:
    outcome = await berth("profiles", "roofline", "resnet50-train", "--out", "absent/x.svg")
    assert (outcome.code, outcome.out) == (2, "")
    assert "out    absent/x.svg  cannot be written: name a file in a folder that exists" in outcome.err


async def test_a_target_to_measure_that_is_not_there_is_met_with_those_that_are(berth: Berth) -> None:
    for target, near in (("matmull", "matmul"), ("absent/", "matmul"), ("cpy", "copy")):
        outcome = await berth("profiles", "bench", target, "--dry-run")
        assert (outcome.code, outcome.out) == (2, "")
        assert f"target  {target}" in outcome.err
        assert f"no such built-in one, file, package or command; did you mean {near}?" in outcome.err
