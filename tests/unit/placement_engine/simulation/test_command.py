"""`berth simulate`, as typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NODES = "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,2,P100\nb,96000,262144,8,G2\n"
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,4000,8,1,500\nb,4000,8,1,1000\nc,4000,8,2,1000\n"


def berth(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "berth.cli.main", "simulate", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "pods.csv").write_text(PODS)
    return ["--nodes", str(tmp_path / "nodes.csv"), "--pods", str(tmp_path / "pods.csv")]


def test_json_has_every_row_and_the_means(files: list[str]) -> None:
    arguments = ["--seeds", "1-2,5", "--policy", "berth,pwr", "--arrival", "1.3,0.5", "-o", "json"]
    done = berth("openb", *files, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [(row["policy"], row["seed"], row["arrival"]) for row in found["rows"]] == [
        (policy, seed, arrival) for policy in ("berth", "pwr") for seed in (1, 2, 5) for arrival in (0.5, 1.3)
    ]
    assert set(found["rows"][0]) == {
        "policy", "seed", "arrival", "allocation_percent", "failed_pods", "power_kw", "decisions_per_second",
        "failed_cpu_pods",
    }  # fmt: skip
    assert [(row["policy"], row["arrival"]) for row in found["mean"]] == [
        ("berth", 0.5), ("berth", 1.3), ("pwr", 0.5), ("pwr", 1.3)
    ]  # fmt: skip
    assert set(found["mean"][0]) == {"policy", "arrival", "allocation_percent", "power_kw"}


def test_the_table_is_aligned_and_has_the_means(files: list[str]) -> None:
    done = berth("openb", *files, "--policy", "bestfit")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0].split("  ")[0] == "POLICY"
    assert lines[1].startswith("bestfit  42    1.00")
    assert lines[3] == "mean of the seeds"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seeds", "5-1"),
        ("--seeds", "x"),
        ("--policy", "best"),
        ("--arrival", "1.4"),
        ("--arrival", "nan"),
        ("--variant", "multigpu101"),
        ("--variant-seed", "-1"),
    ],
)
def test_misuse_is_refused_with_field_and_value(files: list[str], option: str, value: str) -> None:
    done = berth("openb", *files, option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr
    assert value in done.stderr


def test_a_variant_replays_other_tasks_and_the_same_seed_the_same(files: list[str]) -> None:
    def failed(*variant: str) -> list[int]:
        arguments = ["--policy", "bestfit", "--arrival", "1.3", "--seeds", "1-3", "-o", "json", *variant]
        return [row["failed_pods"] for row in json.loads(berth("openb", *files, *arguments).stdout)["rows"]]

    several = failed("--variant", "multigpu100", "--variant-seed", "3")
    # Seven tasks of two for ten devices: five find a place.
    assert several == [2, 2, 2] == failed("--variant", "multigpu100", "--variant-seed", "3")
    assert failed() != several


def test_help_is_the_simulation_s_own() -> None:
    done = berth("openb", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: berth simulate openb [OPTIONS]")
