"""Scenarios as files: the examples to the letter, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from berth.errors import InvalidInput
from placement_engine.domain.model import Node, NodeSample, Objective
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.policies import parse_policy, service_policy
from placement_engine.simulation.clock import Clock
from placement_engine.simulation.gang.report import as_text, clock_text, report, short
from placement_engine.simulation.gang.scenario import Scenario, read_scenario, scenario_from
from tests.unit.placement_engine.simulation.golden import assert_golden
from tests.unit.placement_engine.simulation.test_command import berth

EXAMPLES = sorted((Path(__file__).parents[4] / "examples" / "scenarios").glob("*.yaml"))


def run(scenario: Scenario) -> Any:
    clock = Clock(scenario.situation, scenario.arrivals, scenario.facts, default_seconds=scenario.default_seconds)
    return clock.run(float("inf") if scenario.end is None else scenario.end)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_come_out_as_ever(path: Path) -> None:
    assert_golden(path.stem, as_text(run(read_scenario(path))) + "\n")


def test_json_prints_every_start_and_end() -> None:
    path = next(path for path in EXAMPLES if path.stem == "topology")
    done = berth("gang", "--scenario", str(path), "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told == json.loads(json.dumps(report(run(read_scenario(path)))))
    assert list(told) == ["events", "jobs", "waiting", "outcome"]
    assert told["events"][0] == {
        "at_seconds": 0.0, "event": "start", "job": "single-a", "attempt": 1, "queue": "default", "replicas": 1,
        "devices": 4.0, "accelerator": "H100-SXM", "nodes": ["a-1"], "note": "",
    }  # fmt: skip
    ends = {event["job"] for event in told["events"] if event["event"] == "end"}
    assert ends == {"single-a", "near", "within", "anywhere"}


def test_a_service_refuses_to_resize_running_gangs() -> None:
    with pytest.raises(InvalidInput, match=r"policy\.resize_gangs.*does not carry out"):
        service_policy({"resize_gangs": True}, Policy())
    assert service_policy({"grow_after_seconds": 5}, Policy()) == Policy(grow_after_seconds=5.0)


def a_scenario(text: str) -> Scenario:
    return scenario_from(yaml.safe_load(text))


NODES = "nodes: [{name: n, count: 2, devices: {model: L4, count: 2}, cpu: 8, memory: 64Gi}]\n"


def test_a_scenario_is_read_whole() -> None:
    told = a_scenario(
        NODES
        + """
start: 2026-12-01T08:00:00Z
horizon: 8h
default_duration: 10m
policy: {heat_floor_celsius: 7, unknown_heat: refuse, weights: {heat: 2}}
queues: [{name: q, weight: 2}]
pools: [{name: default, power_domains: [{level: rack, name: r, cap_watts: 100}]}]
profiles: [{workload: w, accelerator: L4, throughput: 3, power_watts: 70}]
jobs:
  - {name: a, queue: q, devices: 1, at: 10m, duration: 1h, count: 2, every: 30s, objective: time}
  - {name: b, cpu: 1}
events:
  - {at: 2h, node: n-1, state: uncordon}
  - {at: 1h, node: n-1, state: cordon, devices: [1], error_code: 79}
  - {at: 3h, node: n-2, state: down}
"""
    )
    situation, start = told.situation, 1796112000.0
    assert (situation.now, told.end, told.default_seconds) == (start, start + 8 * 3600, 600.0)
    assert [node.name for node in situation.nodes] == ["n-1", "n-2"]
    assert situation.policy.weights.heat == 2.0
    assert (situation.policy.heat_floor_celsius, situation.policy.unknown_heat) == (7.0, UnknownPolicy.REFUSE)
    assert [(d.level, d.cap_watts) for d in situation.power_domains] == [("rack", 100.0)]
    assert [(p.accelerator, p.throughput, p.devices) for p in situation.profiles] == [("L4", 3.0, 1)]
    assert [(a.at - start, a.job.job_id, a.job.queue, a.seconds) for a in told.arrivals] == [
        (600.0, "a-1", "q", 3600.0),
        (630.0, "a-2", "q", 3600.0),
        (0.0, "b", "default", None),
    ]
    assert told.arrivals[0].job.objective is Objective.TIME
    cordon, sample, uncordon, down = told.facts
    assert isinstance(cordon.fact, Node)
    assert isinstance(uncordon.fact, Node)
    assert isinstance(sample.fact, NodeSample)
    assert (cordon.at - start, cordon.fact.schedulable, uncordon.fact.schedulable) == (3600.0, False, True)
    assert [(d.device_id, d.error_code) for d in sample.fact.devices] == [("n-1/1", 79)]
    assert (down.at - start, down.fact) == (3 * 3600.0, "n-2")


@pytest.mark.parametrize(
    ("text", "field", "remedy"),
    [
        ("jbos: []", "jbos", "did you mean 'jobs'"),
        ("jobs: {}\nnodes: {a: 1}", "nodes", "a list"),
        (NODES + "jobs: [{name: a, devices: 1, at: soon}]", "jobs[0].at", "duration"),
        (NODES + "jobs: [{name: a, devics: 1}]", "jobs[0].devics", "did you mean 'devices'"),
        (NODES + "jobs: [{name: a, devices: 1}, {name: a, cpu: 1}]", "jobs[1].name", "another job"),
        (NODES + "jobs: [{name: a, devices: 1, count: 0}]", "jobs[0].count", "whole number"),
        (NODES + "events: [{at: 1h, node: m, state: down}]", "events[0].node", "n-1, n-2"),
        (NODES + "events: [{at: 1h, node: n-1, state: off}]", "events[0].state", "up, down"),
        (NODES + "events: [{at: 1h, node: n-1}]", "events[0]", "margin_celsius"),
        (NODES + "events: [{at: 1h, node: n-1, devices: [5], margin_celsius: 1}]", "events[0].devices", "no device"),
        (NODES + "events: [{at: 1h, node: n-1, margin: 1}]", "events[0].margin", "margin_celsius"),
        (NODES + "policy: {heat_flor_celsius: 1}", "policy.heat_flor_celsius", "did you mean 'heat_floor_celsius'"),
        (NODES + "policy: {unknown_heat: maybe}", "policy.unknown_heat", "allow, penalise, refuse"),
        (NODES + "policy: {fresh_seconds: 1000}", "policy", "must rise"),
        (NODES + "profiles: [{workload: w, accelerator: H1}]", "profiles[0]", "catalogue"),
        ("nodes: [{name: n, devices: {model: H1}}]", "nodes[0].devices.model", "catalogue"),
        (NODES + "start: noon", "start", "RFC 3339"),
    ],
)
def test_what_is_wrong_is_refused_with_field_and_remedy(text: str, field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        a_scenario(text)
    found = {error.field: error.remedy for error in refused.value.errors}
    assert field in found
    assert remedy in found[field]


def test_a_policy_is_changed_field_by_field() -> None:
    base = parse_policy({"weights.heat": "3", "max_jobs_per_cycle": "7"})
    changed = parse_policy({"weights.power": 2.5, "heat_floor_celsius": "6"}, base)
    assert (changed.weights.heat, changed.weights.power) == (3.0, 2.5)
    assert (changed.max_jobs_per_cycle, changed.heat_floor_celsius) == (7, 6.0)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- 1\n")
    for name in ("a.yaml", "missing.yaml"):
        done = berth("gang", "--scenario", str(tmp_path / name))
        assert (done.returncode, done.stdout) == (2, "")
        assert "file" in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0:00:00"), (3725, "1:02:05"), (90061.5, "1d 01:01:01.5"), (-60, "-0:01:00"), (0.04, "0:00:00")],
)
def test_times_are_shown_as_clocks(seconds: float | None, text: str) -> None:
    assert clock_text(seconds) == text


def test_nodes_are_shown_once_with_their_members() -> None:
    assert short(["a", "a", "b"]) == "a x2, b"
    assert short(list("abcdef")) == "a, b, c, d, +2"
