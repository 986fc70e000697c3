"""What if: the running system as it is and changed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.errors import InvalidInput
from placement_engine.domain import snapshot
from placement_engine.domain.engine import Engine
from placement_engine.domain.journal import Recorder
from placement_engine.domain.model import Accelerator, PowerDomain, Profile, Queue
from placement_engine.domain.situation import Situation
from placement_engine.simulation.clock import build
from placement_engine.simulation.whatif.compare import Changes, JobComparison, changed, compare
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, a_sample
from tests.unit.placement_engine.simulation.golden import assert_golden
from tests.unit.placement_engine.simulation.test_command import berth


def the_system() -> Engine:
    """A node that is busy until NOW + 100, one that nobody hears of any more, and two jobs that wait."""
    engine = Recorder()
    engine.set_accelerators([Accelerator("H100-SXM", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0, 3.0)])
    engine.set_profiles([Profile("w", "H100-SXM", 1, 5.0, power_watts=600.0, price_per_hour=4.0)])
    engine.set_power_domains([PowerDomain("rack", "r", 100_000.0)])
    engine.set_queues([Queue("q", device_limit=4), Queue("p")])
    for name, heard in (("n1", NOW), ("silent", NOW - 1000)):
        engine.apply_node(a_node(name, 4, model="H100-SXM", rack="r", telemetry_exempt=False))
        engine.apply_sample(
            a_sample(
                name, *({"power_watts": 650.0, "memory_used_bytes": 70 * GIB, "margin_celsius": 30.0},) * 4, at=heard
            )
        )
    first = a_job("run", devices=4, queue="q", attempt=1, submitted_at=NOW - 50, expected_duration_seconds=100.0)
    engine.apply_sample(a_sample("n1", *({"memory_used_bytes": 0, "margin_celsius": 30.0},) * 4, at=NOW))
    engine.submit(first)
    engine.cycle(NOW)
    engine.started("run", 1, NOW)
    engine.apply_sample(
        a_sample(
            "n1", *({"power_watts": 690.0, "memory_used_bytes": 75 * GIB, "margin_celsius": 25.0},) * 4, at=NOW + 10
        )
    )
    engine.submit(a_job("next", devices=4, queue="q", attempt=1, submitted_at=NOW, expected_duration_seconds=50.0))
    engine.submit(a_job("small", devices=1, queue="p", attempt=1, workload="w", submitted_at=NOW + 1))
    engine.cycle(NOW + 10)
    return engine


def the_situation() -> Situation:
    return the_system().situation(NOW + 10)


def rows(found: Any) -> list[tuple[Any, ...]]:
    return [
        (
            j.job_id,
            j.base_start_seconds,
            j.base_end_seconds,
            j.changed_start_seconds,
            j.changed_end_seconds,
            j.changed_nodes,
        )
        for j in found.jobs
    ]


def test_the_situation_runs_forward_without_telemetry_to_come() -> None:
    situation = the_situation()
    assert {node.name: (node.schedulable, node.cordon_reason) for node in situation.nodes} == {
        "n1": (True, ""),
        "silent": (False, "telemetry is 1010 s old"),
    }
    draws = {(s.node, s.power_watts, d.power_watts, d.memory_used_bytes) for s in situation.samples for d in s.devices}
    assert draws == {("n1", None, None, None), ("silent", None, None, 70 * GIB)}, "what our own work takes ends with it"
    assert situation.ends == {"run": NOW + 100}
    assert [job.job_id for job in situation.waiting] == ["next", "small"]
    again = build(situation)
    assert again.holds("run") == situation.running[0]
    assert again.situation(NOW + 10) == situation, "a situation of a situation is the same"


def test_nothing_changed_is_no_difference() -> None:
    found = compare(the_situation(), Changes())
    assert found.base == found.changed
    assert not any(job.differs for job in found.jobs)
    assert rows(found) == [
        ("run", -10.0, 90.0, -10.0, 90.0, ("n1",)),
        ("next", 90.0, 140.0, 90.0, 140.0, ("n1",)),
        ("small", 140.0, 3740.0, 140.0, 3740.0, ("n1",)),
    ]
    assert found.notes == (
        "1 jobs declare no duration: 3600 s is taken for each",
        "heat, errors and throttling stay as they were last heard",
    )
    # 4 devices for 90 and 50 s at the catalogue's price, 1 for an hour at the profile's.
    assert found.base.cost_dollars == pytest.approx(4 * 140 / 3600 * 3.0 + 4.0)
    assert found.base.energy_joules == pytest.approx(4 * 140 * 700 + 3600 * 600)


def test_a_node_more() -> None:
    found = compare(the_situation(), Changes(add_nodes=(a_node("more", 4, model="H100-SXM"),)), default_seconds=60.0)
    assert rows(found)[1:] == [
        ("next", 90.0, 140.0, 90.0, 140.0, ("n1",)),
        ("small", 140.0, 200.0, 0.0, 60.0, ("more",)),
    ], "`next` is held by the limit of its queue"


def test_a_node_less_takes_its_work_with_it() -> None:
    changes = Changes(remove_nodes=("n1",), add_nodes=(a_node("other", 4, model="H100-SXM"),))
    found = compare(the_situation(), changes, default_seconds=60.0)
    # `run` begins anew and has lost what it did. Then its queue has had its part: `small`, of another, goes first.
    assert [row[0:1] + row[3:] for row in rows(found)] == [
        ("run", -10.0, 100.0, ("other",)),
        ("next", 160.0, 210.0, ("other",)),
        ("small", 100.0, 160.0, ("other",)),
    ]
    assert found.changed.lost_device_seconds == 40.0


def test_another_quota_another_price_another_policy_and_more_work() -> None:
    more = a_node("more", 4, model="H100-SXM")
    base = the_situation()
    base = replace(base, nodes=(*base.nodes, replace(more, telemetry_exempt=True)))
    found = compare(base, Changes(queues=(Queue("q", device_limit=8),)), default_seconds=60.0)
    assert rows(found)[1][3] == 0.0
    found = compare(base, Changes(prices={"h100-sxm": 0.0}))
    assert (found.base.cost_dollars, found.changed.cost_dollars) == (pytest.approx(4 * 140 / 3600 * 3.0 + 4.0), 0.0)
    found = compare(the_situation(), Changes(policy={"heat_floor_celsius": "50"}))
    assert found.changed.jobs_waiting == 2, "nothing is so cool"
    found = compare(base, Changes(jobs=(a_job("new", devices=4, priority=9, expected_duration_seconds=30.0),)))
    assert rows(found)[-1][0:4] == ("new", None, None, 0.0)


def test_changes_replace_by_name_and_keep_the_rest() -> None:
    base = the_situation()
    situation, facts = changed(base, Changes(add_nodes=(a_node("n1", 8, model="H100-SXM"),), queues=(Queue("r"),)))
    assert [(node.name, len(node.devices), node.telemetry_exempt) for node in situation.nodes] == [
        ("n1", 8, True),
        ("silent", 4, True),
    ]
    assert [queue.name for queue in situation.queues] == ["p", "q", "r"]
    assert facts == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (Changes(remove_nodes=("nowhere",)), "remove_nodes"),
        (Changes(prices={"H1OO": 1.0}), "prices"),
        (Changes(prices={"H100-SXM": -1.0}), "prices"),
        (Changes(queues=(Queue("x", parent="nowhere"),)), "queues"),
        (Changes(policy={"fairness": "1"}), "policy.fairness"),
    ],
)
def test_a_change_that_is_none_is_refused(changes: Changes, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        compare(the_situation(), changes)
    assert refused.value.errors[0].field == field


def test_a_job_differs_by_time_or_place() -> None:
    same = JobComparison("j", "j", 1.0, 2.0, ("a",), 1.0, 2.0, ("a",))
    assert not same.differs
    assert replace(same, changed_nodes=("b",)).differs
    assert replace(same, changed_end_seconds=None).differs


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "a.snapshot").write_bytes(snapshot.to_bytes(snapshot.dump(the_system(), NOW + 10)))
    (tmp_path / "nodes.yaml").write_text(
        "nodes: [{name: more, devices: {model: H100-SXM, count: 4}, cpu: 8, memory: 8Gi}]"
    )
    (tmp_path / "queues.yaml").write_text("queues: [{name: q, device_limit: 8}]")
    (tmp_path / "jobs.yaml").write_text("name: new\ndevices: 2\nexpected_duration: 30s\n")
    return tmp_path


def test_the_command_compares_a_snapshot_with_its_changes(files: Path) -> None:
    arguments = [
        "--snapshot", str(files / "a.snapshot"), "--add-nodes", str(files / "nodes.yaml"), "--remove-nodes", "silent",
        "--queues", str(files / "queues.yaml"), "--prices", "H100-SXM=2.5", "--policy", "weights.heat=2",
        "--jobs", str(files / "jobs.yaml"), "--default-duration", "5m",
    ]  # fmt: skip
    done = berth("whatif", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert_golden("whatif", done.stdout)
    told = json.loads(berth("whatif", *arguments, "-o", "json").stdout)
    assert list(told) == ["base", "changed", "jobs", "notes"]
    assert {job["job_id"] for job in told["jobs"]} == {"run", "next", "small", "new"}
    assert [event["job"] for event in told["changed"]["events"] if event["event"] == "start"] == [
        "new",
        "next",
        "small",
    ] or told


def test_the_command_compares_a_scenario_too(files: Path) -> None:
    (files / "s.yaml").write_text(
        "nodes: [{name: n, devices: {model: L4, count: 1}}]\njobs: [{name: a, devices: 1, count: 2, duration: 1h}]"
    )
    more = files / "more.yaml"
    more.write_text("nodes: [{name: m, devices: {model: L4, count: 1}}]")
    done = berth("whatif", "--scenario", str(files / "s.yaml"), "--add-nodes", str(more), "-o", "json")
    told = json.loads(done.stdout)
    assert (told["base"]["makespan_seconds"], told["changed"]["makespan_seconds"]) == (7200.0, 3600.0)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--snapshot", "x", "--scenario", "y"],
        ["--snapshot", "missing"],
        ["--prices", "L4"],
        ["--default-duration", "long"],
    ],
)
def test_misuse_is_refused(files: Path, arguments: list[str]) -> None:
    if arguments and arguments[0] not in ("--snapshot",):
        arguments = ["--snapshot", str(files / "a.snapshot"), *arguments]
    done = berth("whatif", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error" in done.stderr
