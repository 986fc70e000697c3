"""The throughput table and the job file."""

import json
from pathlib import Path

import numpy as np
import pytest

from berth.errors import InvalidInput
from placement_engine.simulation.gavel.trace import Cluster, read_jobs, read_throughputs
from tests.unit.placement_engine.simulation.gavel.builders import table

CLUSTER = Cluster(("a", "b"), (2, 1))
RATES = {
    "b": {"('y', 2)": {"null": 3.0}},
    "a": {
        "('x', 1)": {"null": 1.0, "('x', 1)": [0.6, 0.6], "('y', 1)": [0.5, 0.0]},
        "('y', 1)": {"null": 2.0, "('x', 1)": [0.0, 0.5]},
        "('y', 2)": {"null": 4},
    },
    "other": {},
}
HEADER = "job,arrival_s,job_type,scale_factor,total_steps\n"


def rates(folder: Path, content: object) -> Path:
    path = folder / "rates.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def jobs(folder: Path, text: str) -> Path:
    path = folder / "jobs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rates_are_by_shape_and_kind_and_a_pair_that_stands_still_is_none(tmp_path: Path) -> None:
    found = read_throughputs(rates(tmp_path, RATES), CLUSTER)
    assert found.shapes == (("x", 1), ("y", 1), ("y", 2))
    assert found.alone.tolist() == [[1.0, 0.0], [2.0, 0.0], [4.0, 3.0]]
    expected = np.zeros((3, 3, 2))
    expected[0, 0, 0] = 0.6
    assert found.paired.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("content", "field", "value"),
    [
        ("{", "rates.json", "Expecting"),
        ([], "rates.json", "list"),
        ({"a": {}}, "--cluster", "b"),
        ({"a": {"x": {"null": 1}}, "b": {}}, "rates.json job type", "x"),
        ({"a": {"('x', 1)": {}}, "b": {}}, "rates.json a ('x', 1)", ""),
        ({"a": {"('x', 1)": {"null": -1}}, "b": {}}, "rates.json a ('x', 1)", "-1"),
        ({"a": {"('x', 1)": {"null": 1, "('x', 1)": [1]}}, "b": {}}, "rates.json a ('x', 1) ('x', 1)", "[1]"),
    ],
)
def test_bad_rates_are_named(tmp_path: Path, content: object, field: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_throughputs(rates(tmp_path, content), CLUSTER)
    (error,) = caught.value.errors
    assert error.field == field
    assert error.value.startswith(value)


def test_jobs_are_read_in_order(tmp_path: Path) -> None:
    known = table({("x", 1): (1.0, 0.0), ("y", 2): (4.0, 3.0)})
    found = read_jobs(jobs(tmp_path, HEADER + "0,0.5,y,2,10\n1,0.5,x,1,2.5\n"), known, CLUSTER)
    assert [found.arrival.tolist(), found.shape.tolist(), found.scale.tolist(), found.steps.tolist()] == [
        [0.5, 0.5], [1, 0], [2, 1], [10.0, 2.5]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("job,arrival_s\n", "jobs.csv:1", "job_type,scale_factor,total_steps"),
        (HEADER, "jobs.csv", ""),
        (HEADER + "1,0,x,1,1\n", "jobs.csv:2 job", "1"),
        (HEADER + "0,-1,x,1,1\n", "jobs.csv:2 arrival_s", "-1"),
        (HEADER + "0,9,x,1,1\n1,8,x,1,1\n", "jobs.csv:3 arrival_s", "8"),
        (HEADER + "0,0,x,0,1\n", "jobs.csv:2 scale_factor", "0"),
        (HEADER + "0,0,q,1,1\n", "jobs.csv:2 job_type", "q"),
        (HEADER + "0,0,w,4,1\n", "jobs.csv:2 job_type", "w"),
        (HEADER + "0,0,x,1,0\n", "jobs.csv:2 total_steps", "0"),
        (HEADER + "0,0,x,1,nan\n", "jobs.csv:2 total_steps", "nan"),
        (HEADER + "0,0,x,1\n", "jobs.csv:2 total_steps", ""),
    ],
)
def test_a_bad_job_is_named_with_line_and_value(tmp_path: Path, text: str, field: str, value: str) -> None:
    known = table({("x", 1): (1.0, 0.0), ("w", 4): (1.0, 1.0)})
    with pytest.raises(InvalidInput) as caught:
        read_jobs(jobs(tmp_path, text), known, CLUSTER)
    assert [(error.field, error.value) for error in caught.value.errors] == [(field, value)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_throughputs(tmp_path / "none", CLUSTER)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_jobs(tmp_path / "none", table({("x", 1): (1.0, 1.0)}), CLUSTER)
