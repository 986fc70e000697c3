"""`berth simulate gavel`, as typed, and its first figures on the real data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from placement_engine.simulation.gavel.policies import Setting
from placement_engine.simulation.gavel.replay import Row, replay
from placement_engine.simulation.gavel.trace import Cluster, read_jobs, read_throughputs

RATES = {
    "fast": {"('x', 1)": {"null": 1.0, "('x', 1)": [0.9, 0.9]}, "('x', 2)": {"null": 2.0}},
    "slow": {"('x', 1)": {"null": 0.5}, "('x', 2)": {"null": 0.9}},
}
JOBS = "job,arrival_s,job_type,scale_factor,total_steps\n0,0,x,1,900\n1,10,x,1,900\n2,20,x,1,90\n"
COLUMNS = [
    "policy", "mean_jct_hours", "p99_jct_hours", "makespan_hours", "utilisation", "worst_finish_time_fairness"
]  # fmt: skip


def berth(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "berth.cli.main", "simulate", "gavel", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "rates.json").write_text(json.dumps(RATES))
    (tmp_path / "jobs.csv").write_text(JOBS)
    return [
        "--throughputs", str(tmp_path / "rates.json"), "--jobs", str(tmp_path / "jobs.csv"),
        "--cluster", "fast=1,slow=1", "--window", "0-2",
    ]  # fmt: skip


def test_json_has_a_row_for_each_policy_and_the_same_bytes_twice(files: list[str]) -> None:
    policies = ["berth", "max_min_fairness", "las", "allox", "fifo", "berth-known-durations"]
    done = berth(*files, "--policy", ",".join(policies), "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert list(found) == ["rows"]
    assert [list(row) for row in found["rows"]] == [COLUMNS] * len(policies)
    assert [row["policy"] for row in found["rows"]] == policies
    assert berth(*files, "--policy", ",".join(policies), "-o", "json").stdout == done.stdout


def test_the_table_is_aligned(files: list[str]) -> None:
    done = berth(*files, "--policy", "berth,max_min_fairness", "--share-devices", "--round", "60")
    assert done.returncode == 0
    header, *rows = done.stdout.splitlines()
    assert header.split("  ")[0] == "POLICY"
    assert [row.split()[0] for row in rows] == ["berth", "max_min_fairness"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cluster", "fast"), ("--cluster", "fast=0"), ("--cluster", "fast=1,fast=2"), ("--cluster", "tpu=1"),
        ("--round", "0"), ("--round", "nan"), ("--window", "2-1"), ("--window", "0-3"), ("--window", "x"),
        ("--policy", "gavel"),
    ],
)  # fmt: skip
def test_misuse_is_refused_with_field_and_value(files: list[str], option: str, value: str) -> None:
    done = berth(*files, option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr
    assert value.split(",")[-1].split("=")[0] in done.stderr


def test_a_policy_that_cannot_do_what_is_asked_is_refused(files: list[str], tmp_path: Path) -> None:
    done = berth(*files, "--policy", "las", "--share-devices")
    assert (done.returncode, "--share-devices" in done.stderr) == (2, True)
    (tmp_path / "jobs.csv").write_text(JOBS.replace("1,10,x,1", "1,10,x,2"))
    done = berth(*files, "--policy", "allox", "--cluster", "fast=2")
    assert (done.returncode, "one device" in done.stderr) == (2, True)


def test_help_says_who_knows_durations() -> None:
    done = berth("--help")
    assert done.returncode == 0
    assert "Only allox and berth-known-durations" in " ".join(done.stdout.split())


def row(data_folder: Path, jobs: str, policy: str, *, share: bool = False) -> Row:
    cluster = Cluster(("v100", "p100", "k80"), (36, 36, 36))
    rates = read_throughputs(data_folder / "gavel" / "simulation_throughputs.json", cluster)
    workload = read_jobs(data_folder / "gavel" / "jobs" / f"{jobs}.csv", rates, cluster)
    return replay(workload, Setting(rates, cluster, 360.0, share), policy, (50, 99))


@pytest.mark.parametrize(
    ("jobs", "policy", "share", "mean", "fairness"),
    [
        ("single_5.2_seed0", "berth", False, 14.118, 0.845),
        ("single_5.2_seed0", "berth", True, 14.116, 0.845),
        ("single_5.2_seed0", "max_min_fairness", False, 15.325, 2.463),
        ("single_5.2_seed0", "allox", False, 14.996, 2.463),
        ("multi_2.4_seed0", "berth", False, 13.028, 0.871),
    ],
)
def test_the_first_jobs_of_the_real_data_fare_as_recorded(
    data_folder: Path, jobs: str, policy: str, share: bool, mean: float, fairness: float
) -> None:
    found = row(data_folder, jobs, policy, share=share)
    assert (found.mean_jct_hours, found.worst_finish_time_fairness) == pytest.approx((mean, fairness), rel=0.02)
