"""The two files of the openb trace."""

from pathlib import Path

import pytest

from berth.errors import InvalidInput
from placement_engine.simulation.openb.trace import Node, TaskClass, Workload, read_nodes, read_pods

NODES = "sn,cpu_milli,memory_mib,gpu,model\n"
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_nodes_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, NODES + "b,64000,262144,2,P100\na,8000,1024,0,\n")
    assert read_nodes(path) == (Node("b", 64_000, 262_144, 2, "P100"), Node("a", 8_000, 1_024, 0, ""))


def test_tasks_are_classes_sorted_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, PODS + "z,4000,8,1,500,\nb,4000,8,0,0,T4\na,4000,8,8,1000,V100M32|T4\nc,4000,8,1,500,\n")
    cpu, share, whole = (
        TaskClass(4000, 8, 0, 0, ()),
        TaskClass(4000, 8, 1, 500, ()),
        TaskClass(4000, 8, 8, 1000, ("T4", "V100M32")),
    )
    assert read_pods(path) == Workload((cpu, share, whole), (0.25, 0.5, 0.25), (2, 0, 1, 1))


def test_a_file_without_the_optional_column_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1,2,1,1000\n")
    assert read_pods(path).classes == (TaskClass(1, 2, 1, 1000, ()),)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("sn,cpu_milli\n", "trace.csv:1", "memory_mib,gpu,model"),
        (NODES + "a,1,1,1,T4\nb,x,1,1,T4\n", "trace.csv:3 cpu_milli", "x"),
        (NODES + "a,1,-1,1,T4\n", "trace.csv:2 memory_mib", "-1"),
        (NODES + "a,1,1,9,T4\n", "trace.csv:2 gpu", "9"),
        (NODES + "a,1,1,1,\n", "trace.csv:2 model", ""),
        (NODES + "a,1,1,1,T4\na,1,1,1,T4\n", "trace.csv:3 sn", "a"),
        (NODES + "a,1,1\n", "trace.csv:2 gpu", ""),
        (NODES + "a,1,1,0,\n", "trace.csv", ""),
    ],
)
def test_a_bad_node_is_named_with_line_and_value(tmp_path: Path, text: str, field: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_nodes(written(tmp_path, text))
    assert [(error.field, error.value) for error in caught.value.errors] == [(field, value)]


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (PODS + "a,1,1,1,1001,\n", "trace.csv:2 gpu_milli", "1001"),
        (PODS + "a,1,1,1,0,\n", "trace.csv:2 gpu_milli", "0"),
        (PODS + "a,1,1,2,500,\n", "trace.csv:2 gpu_milli", "500"),
        (PODS + "a,1,1,9,1000,\n", "trace.csv:2 num_gpu", "9"),
        (PODS + "a,1,1,1,1000,\na,1,1,1,1000,\n", "trace.csv:3 name", "a"),
        (PODS + "a,1,1.5,1,1000,\n", "trace.csv:2 memory_mib", "1.5"),
        (PODS + "a,1,1,0,0,\n", "trace.csv", ""),
    ],
)
def test_a_bad_task_is_named_with_line_and_value(tmp_path: Path, text: str, field: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_pods(written(tmp_path, text))
    assert [(error.field, error.value) for error in caught.value.errors] == [(field, value)]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_nodes(tmp_path / "none.csv")
