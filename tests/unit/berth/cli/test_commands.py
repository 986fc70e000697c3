"""What each command does, and how it fails."""

from pathlib import Path

import pytest

from berth.embedded.context import Context
from berth.v1 import jobs_pb2
from tests.unit.berth.cli.conftest import Berth, FakeSystem, run_cli


async def test_submit_runs_a_command_of_one_core(berth: Berth, system: FakeSystem) -> None:
    outcome = await berth(
        "submit", "--kind", "training", "--name", "mine", "-e", "A=1", "--", "python", "train.py", "-o"
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "job/mine pending\n"
    spec = system.placement.placed[0].spec
    assert list(spec.command.argv) == ["python", "train.py", "-o"]
    assert dict(spec.command.environment) == {"A": "1"}
    assert (spec.kind, spec.resources.cpu_milli, spec.executor) == (jobs_pb2.JOB_KIND_TRAINING, 1000, "process")


async def test_submit_makes_a_name_from_the_command(berth: Berth, system: FakeSystem) -> None:
    assert (await berth("submit", "--", "python", "Train_Model.py")).code == 0
    assert system.placement.placed[0].spec.name.startswith("python-train-model-")


async def test_submit_reads_every_job_of_a_file_and_flags_go_first(
    berth: Berth, system: FakeSystem, tmp_path: Path
) -> None:
    (tmp_path / "jobs.yaml").write_text("name: a\ncpu: 1\n---\nname: b\ndevices: 2\npriority: 1\n")
    assert (await berth("submit", "-f", "jobs.yaml", "--priority", "7")).code == 0
    placed = [(one.spec.name, one.spec.priority) for one in system.placement.placed]
    assert placed == [("a", 7), ("b", 7)]


async def test_submit_dry_run_says_where_it_would_go(berth: Berth, system: FakeSystem) -> None:
    outcome = await berth("submit", "--dry-run", "-f", "-", stdin="{name: a, cpu: 1}")
    assert outcome.code == 0
    assert "would go to node-a" in outcome.out
    assert system.placement.placed[0].dry_run


async def test_examples_are_valid(berth: Berth, system: FakeSystem) -> None:
    examples = Path(__file__).parents[4] / "examples"
    for name in ("finetune.yaml", "serve.yaml", "batch.yaml"):
        outcome = await berth("submit", "-f", str(examples / name))
        assert (outcome.code, outcome.err) == (0, "")
    assert [one.spec.name for one in system.placement.placed] == ["finetune-8b", "serve-8b", "hello-batch", "count"]
    assert (await berth("apply", "--dry-run", "-f", str(examples / "fleet.yaml"))).code == 0


async def test_apply_declares_queues_pools_and_nodes(berth: Berth, system: FakeSystem, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(
        "queues: [{name: q, weight: 2}]\npools: [{name: default}]\n"
        "nodes: [{name: n, devices: [{model: H100-SXM, count: 1}, {model: T4}], cpu: 4, memory: 8Gi}]\n"
    )
    outcome = await berth("apply", "-f", "fleet.yaml")
    assert outcome.out == "pool/default applied\nqueue/q applied\nnode/n applied\n"
    assert [(queue.name, queue.weight) for queue in system.placement.queues] == [("q", 2.0)]
    node = system.telemetry.nodes[0]
    assert [(one.device_id, one.index, one.model) for one in node.devices] == [("n/0", 0, "H100-SXM"), ("n/1", 1, "T4")]
    assert (node.cpu_milli, node.memory_bytes, node.telemetry_exempt) == (4000, 8 * 2**30, True)


async def test_wait_follows_a_job_to_its_end(berth: Berth, system: FakeSystem) -> None:
    system.placement.finish_watched = True
    outcome = await berth("wait", "train-1", "--for=finished")
    assert (outcome.code, outcome.out) == (0, "job/train-1 succeeded\n")


async def test_wait_for_bound_is_over_at_once_for_a_running_job(berth: Berth) -> None:
    assert (await berth("wait", "train-1", "--for=bound")).out == "job/train-1 running\n"


async def test_wait_fails_when_the_job_failed_and_when_time_runs_out(berth: Berth) -> None:
    failed = await berth("wait", "broken")
    assert (failed.code, failed.out) == (1, "job/broken failed: exit code 1\n")
    late = await berth("wait", "vision/serve", "--timeout", "300ms")
    assert (late.code, late.out) == (1, "")
    assert "not finished within 300ms" in late.err


async def test_cancel_goes_on_after_an_unknown_job(berth: Berth) -> None:
    outcome = await berth("cancel", "nope", "train-1")
    assert (outcome.code, outcome.out) == (1, "job/train-1 cancelled\n")
    assert "error: job: 'nope': not known" in outcome.err


REFUSED = {
    "field": (("submit", "--name", "a", "--queue", "nope", "--", "true"), 2, ["queue", "nope", "unknown queue"]),
    "local": (("submit", "--name", "A_b", "--cpu", "x", "--", "true"), 2, ["cpu", "x", "500m, 4, 40Gi"]),
    "kind": (("get", "pods"), 2, ["no kind 'pods'", "jobs, nodes, devices, queues, decisions"]),
    "typo": (("gett", "jobs"), 2, ["Did you mean 'get'?"]),
    "state": (("get", "jobs", "--state", "lost"), 2, ["state", "lost", "pending, placed"]),
    "both": (("submit", "-f", "x.yaml", "--", "true"), 2, ["give one of -f FILE"]),
    "file": (("submit", "-f", "missing.yaml"), 2, ["missing.yaml", "No such file"]),
    "job": (("explain", "nope"), 1, ["job: 'nope': not known"]),
    "node": (("describe", "node", "nope"), 1, ["no node nope", "berth get nodes"]),
    "key": (("token", "me", "--key", "short"), 2, ["BERTH_AUTH_KEY", "openssl rand -hex 32"]),
    "option": (("get", "jobs", "-o", "xml"), 2, ["'xml' is not one of"]),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals_name_value_and_remedy(berth: Berth, name: str) -> None:
    arguments, code, expected = REFUSED[name]
    outcome = await berth(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    for text in expected:
        assert text in outcome.err
    assert "Traceback" not in outcome.err


async def test_every_error_of_a_declaration_is_told_at_once(berth: Berth, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "queue: []\nqueues: [{name: q, weight: 0}, {wight: 1}]\nnodes: [{name: n, devices: {model: H10O-SXM}}]\n"
    )
    outcome = await berth("apply", "-f", "f.yaml")
    assert outcome.code == 2
    for text in ("did you mean 'queues'?", "queues[0].weight", "queues[1].name", "nearest: H100-SXM"):
        assert text in outcome.err


async def test_without_a_system_it_says_how_to_start_one(tmp_path: Path) -> None:
    outcome = await run_cli(("get", "jobs"), context_file=tmp_path / "none.json", folder=tmp_path)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: no Berth is running here: start one with `berth dev`")


async def test_a_system_that_has_ended_is_told_from_one_that_runs(tmp_path: Path) -> None:
    stale = tmp_path / "context.json"
    # Process 1 runs, but did not start then: the id was given to another process since.
    Context({"placement_engine": "127.0.0.1:1"}, pid=1, pid_started=12.0).save(stale)
    outcome = await run_cli(("get", "jobs"), context_file=stale, folder=tmp_path)
    assert outcome.code == 1
    assert "no Berth is running here" in outcome.err


async def test_a_system_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    silent = tmp_path / "context.json"
    Context({"placement_engine": "127.0.0.1:1"}).save(silent)
    outcome = await run_cli(("get", "jobs"), context_file=silent, folder=tmp_path)
    assert outcome.code == 1
    assert "is it still running?" in outcome.err
    assert "Traceback" not in outcome.err


async def test_debug_snapshot_writes_the_parts_to_a_file(berth: Berth, tmp_path: Path) -> None:
    outcome = await berth("debug", "snapshot", "--pool", "lab")
    assert (outcome.code, outcome.out) == (0, "berth-lab.snapshot: 17 bytes\n")
    assert (tmp_path / "berth-lab.snapshot").read_bytes() == b"a snapshot of lab"
    assert (await berth("debug", "snapshot", "--out", "x")).code == 0
    assert (tmp_path / "x").read_bytes() == b"a snapshot of default"


async def test_whatif_sends_what_is_to_be_other(berth: Berth, system: FakeSystem, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        "queues: [{name: q, quotas: [{devices: 4}]}]\nnodes: [{name: n, devices: {model: H100-SXM, count: 2}}]\n"
    )
    (tmp_path / "job.yaml").write_text("{name: extra, devices: 1}\n")
    outcome = await berth(
        "whatif", "-f", "more.yaml", "--remove-nodes", "a, b", "--policy", "heat_floor_celsius=8",
        "--price", "H100-SXM=2.1", "--jobs", "job.yaml", "--default-duration", "30m",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    asked = system.placement.asked
    assert ([q.name for q in asked.queues], [n.name for n in asked.add_nodes]) == (["q"], ["n"])
    assert (list(asked.remove_nodes), dict(asked.policy)) == (["a", "b"], {"heat_floor_celsius": "8"})
    assert (dict(asked.prices), [j.name for j in asked.jobs]) == ({"H100-SXM": 2.1}, ["extra"])
    assert (asked.default_duration_seconds, asked.pool) == (1800, "default")
    wrong = await berth("whatif", "--price", "H100-SXM")
    assert (wrong.code, "NAME=VALUE" in wrong.err) == (2, True)


async def test_a_pending_job_points_to_its_explanation(berth: Berth) -> None:
    outcome = await berth("describe", "vision/serve")
    assert outcome.code == 0
    assert "Why it waits:  `berth explain vision/serve` says" in outcome.out
    assert "berth explain" not in (await berth("describe", "job", "train-1")).out
    assert (await berth("describe", "job")).code == 2
