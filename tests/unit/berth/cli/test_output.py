"""What each command prints, to the letter."""

import json

import pytest
import yaml

from berth.cli.units import duration
from tests.unit.berth.cli.conftest import Berth, FakeSystem
from tests.unit.berth.cli.golden import assert_golden

COMMANDS = {
    "get-jobs": ("get", "jobs"),
    "get-jobs-wide": ("get", "jobs", "-o", "wide"),
    "get-jobs-json": ("get", "jobs", "train-1", "-o", "json"),
    "get-jobs-name": ("get", "jo", "-o", "name"),
    "get-nodes": ("get", "nodes"),
    "get-nodes-wide": ("get", "no", "-o", "wide"),
    "get-devices": ("get", "devices"),
    "get-queues": ("get", "queues", "-o", "wide"),
    "get-queues-yaml": ("get", "queue", "research", "-o", "yaml"),
    "get-decisions": ("get", "decisions", "-o", "wide"),
    "get-advice": ("get", "advice"),
    "whatif": ("whatif", "--remove-nodes", "node-b"),
    "describe-job": ("describe", "job", "train-1"),
    "describe-node": ("describe", "node", "node-a"),
    "describe-queue": ("describe", "queue", "research"),
    "explain-placed": ("explain", "train-1"),
    "explain-waiting": ("explain", "vision/serve"),
    "top-nodes": ("top", "nodes"),
    "top-devices": ("top", "devices", "--sort", "heat"),
    "trace": ("trace", "train-1"),
    "profiles": ("profiles", "list"),
    "profiles-show": ("profiles", "show", "resnet50-train"),
    "profiles-compare": ("profiles", "compare", "resnet50-train"),
    "profiles-help": ("profiles", "--help"),
    "accelerators": ("profiles", "accelerators", "H100-SXM", "T4"),
    "audit": ("audit",),
    "help": ("--help",),
    "get-help": ("get", "--help"),
}


@pytest.mark.parametrize("name", COMMANDS)
async def test_output_is_golden(berth: Berth, name: str) -> None:
    outcome = await berth(*COMMANDS[name])
    assert (outcome.code, outcome.err) == (0, "")
    assert_golden(name, outcome.out)


async def test_every_page_of_jobs_is_listed_in_machine_formats(berth: Berth) -> None:
    listed = json.loads((await berth("get", "jobs", "-o", "json")).out)
    assert [job["spec"]["name"] for job in listed["items"]] == ["train-1", "serve", "broken"]
    assert yaml.safe_load((await berth("get", "jobs", "-o", "yaml")).out) == listed


async def test_logs_keep_the_streams_apart(berth: Berth) -> None:
    outcome = await berth("logs", "train-1")
    assert (outcome.code, outcome.out, outcome.err) == (0, "out of job00001\n", "err\n")


async def test_broken_invariants_fail_the_audit(berth: Berth, system: FakeSystem) -> None:
    from berth.v1 import placement_pb2

    system.placement.violations = [
        placement_pb2.Violation(invariant="capacity", subject="node-a/0", message="1500 of 1000 used")
    ]
    outcome = await berth("audit")
    assert outcome.code == 1
    assert "capacity   node-a/0  1500 of 1000 used" in outcome.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_script(berth: Berth, shell: str) -> None:
    outcome = await berth("completion", shell)
    assert outcome.code == 0
    assert "_BERTH_COMPLETE" in outcome.out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0s"), (4.2e-6, "4.2us"), (0.00099, "990us"), (0.0009996, "1ms"), (0.00123, "1.23ms"),
     (0.25, "250ms"), (0.9996, "1.0s"), (3.2, "3.2s"), (9.96, "10s"), (190, "3m10s"), (8000, "2h13m")],
)  # fmt: skip
def test_a_duration_under_a_second_keeps_three_digits(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
