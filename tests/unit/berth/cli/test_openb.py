"""The openb trace as nodes and jobs, and the report over a replay."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.cli.commands.load import summarise
from berth.cli.demo_mix import demo_jobs
from berth.cli.openb import percentile, read_nodes, read_pods
from berth.errors import InvalidInput
from berth.jobs import parse_document
from berth.v1 import jobs_pb2
from tests.unit.berth.cli.fakes import make_job

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn-0,64000,262144,2,V100M32\nn-1,8000,1024,0,\n"
PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n"
    "p-0,12000,16384,1,1000,,LS\np-1,6000,12288,1,460,T4|V100M16,LS\np-2,88000,327680,8,1000,G2,BE\np-3,20000,1,0,0,,LS\n"
)


@pytest.fixture
def trace(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "pods.csv").write_text(PODS)
    return tmp_path / "nodes.csv", tmp_path / "pods.csv"


def test_nodes_are_static_and_simulated(trace: tuple[Path, Path]) -> None:
    nodes = read_nodes(trace[0])
    assert [(one.name, one.cpu_milli, one.memory_bytes) for one in nodes] == [
        ("n-0", 64000, 262144 * 2**20),
        ("n-1", 8000, 2**30),
    ]
    assert [(one.device_id, one.model) for one in nodes[0].devices] == [("n-0/0", "V100-32"), ("n-0/1", "V100-32")]
    assert all(one.telemetry_exempt and one.schedulable and list(one.executors) == ["simulated"] for one in nodes)


def test_pods_become_valid_jobs(trace: tuple[Path, Path]) -> None:
    specs = read_pods(trace[1], tenant="t", hold_seconds=2.5)
    asked = [(one.name, one.resources.devices, one.resources.device_milli) for one in specs]
    assert asked == [("p-0", 1, 0), ("p-1", 0, 460), ("p-2", 8, 0), ("p-3", 0, 0)]
    assert list(specs[1].accelerators.models) == ["T4", "V100-16"]
    assert specs[0].expected_duration.ToMilliseconds() == 2500
    assert len(read_pods(trace[1], tenant="t", limit=2)) == 2


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (NODES.replace("V100M32", "V1OO"), "model"),
        (NODES.replace("64000", "many"), "cpu_milli"),
        (NODES.replace("64000", "-1"), "cpu_milli"),
        ("name,x\n", "nodes.csv"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(trace: tuple[Path, Path], text: str, field: str) -> None:
    trace[0].write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_nodes(trace[0])
    assert field in refused.value.errors[0].field


def test_the_real_trace_is_read_whole(data_folder: Path) -> None:
    nodes = read_nodes(data_folder / "openb" / "nodes.csv")
    specs = read_pods(data_folder / "openb" / "pods_default.csv", tenant="t")
    assert (len(nodes), sum(len(node.devices) for node in nodes), len(specs)) == (1213, 6212, 8152)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_percentile_is_the_smallest_value_that_covers_the_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


def test_the_report_counts_what_was_lost() -> None:
    jobs = [
        make_job({"name": "a", "cpu": 1}, jobs_pb2.JOB_STATE_SUCCEEDED, number=1),
        make_job({"name": "b", "cpu": 1}, jobs_pb2.JOB_STATE_PENDING, number=2),
    ]
    report = summarise(
        tenant="t", nodes=1, published=3, publish_seconds=1.5, jobs=jobs, seconds=9.0, violations=[], resident_bytes={}
    )
    assert (report.accepted, report.lost, report.bound, report.publish_rate) == (2, 1, 1, 2.0)
    assert report.states == {"pending": 1, "succeeded": 1}
    assert report.submit_to_bound_p50 == pytest.approx(2.5)


def test_the_demonstration_is_200_valid_jobs_of_every_kind_and_way() -> None:
    jobs = demo_jobs()
    specs = [parse_document(job.document) for job in jobs]
    assert (len(specs), len({spec.name for spec in specs})) == (200, 200)
    assert {spec.kind for spec in specs} == {1, 2, 3}
    assert {job.through for job in jobs} == {"protobuf", "json", "grpc"}
    assert sum(spec.executor == "process" for spec in specs) == 10
    assert jobs == demo_jobs()
