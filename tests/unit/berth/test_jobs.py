"""Job documents: what a person writes, and every error with field, value and remedy."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.jobs import parse_document, parse_duration, parse_quantity, parse_text, spec_digest, validate
from berth.v1 import jobs_pb2 as pb

FULL = """
name: finetune-7b
tenant: research
queue: research
priority: 10
kind: training
replicas: 8
devices: 4
device_memory: 40Gi
cpu: 500m
memory: 64Gi
accelerators: {models: [H100-SXM], classes: [GPU], stacks: [CUDA]}
workload: llama-8b-finetune
objective: time
deadline: 2099-12-01T18:00:00Z
latency_target: 200ms
topology: {level: rack, required: true}
preemptible: true
expected_duration: 1h30m
command: [python, train.py]
environment: {SEED: 1}
labels: {team: vision}
"""


SHAPES = """
name: pretrain
members:
  - {name: leader, cpu: 4, memory: 8Gi}
  - {name: worker, replicas: 4, min_replicas: 2, devices: 8, device_memory: 40Gi, accelerators: {classes: [GPU]}}
topology: {level: block, required: true, preferred_level: rack, group_size: 5, group_level: scale-up}
character: {operations: 1e18, bytes_moved: 2e15, dense_fraction: 0.25, precision: fp8, calls: 1000}
checkpoint_interval: 10m
"""


def test_a_gang_of_several_shapes_with_its_groups_and_character() -> None:
    expected = pb.JobSpec(
        name="pretrain", tenant="default", queue="default", pool="default", idempotency_key="pretrain",
        kind=pb.JOB_KIND_BATCH, objective=pb.OBJECTIVE_COST, replicas=5, accelerators=pb.AcceleratorSelector(),
        member_groups=[
            pb.MemberGroup(
                name="leader", replicas=1, resources=pb.Resources(cpu_milli=4000, memory_bytes=8 * 2**30),
                accelerators=pb.AcceleratorSelector(),
            ),
            pb.MemberGroup(
                name="worker", replicas=4, min_replicas=2, accelerators=pb.AcceleratorSelector(classes=["GPU"]),
                resources=pb.Resources(devices=8, device_memory_bytes=40 * 2**30),
            ),
        ],
        topology=pb.TopologyWish(
            level="block", required=True, preferred_level="rack", group_size=5, group_level="scale-up"
        ),
        character=pb.WorkloadCharacter(
            operations=1e18, bytes_moved=2e15, dense_fraction=0.25, precision="fp8", calls=1000
        ),
    )  # fmt: skip
    expected.checkpoint_interval.FromSeconds(600)
    assert parse_text(SHAPES) == expected
    assert validate(validate(expected)) == expected


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ({"min_replicas": 9}, "min_replicas", "1 to 1"),
        ({"max_devices": 1, "devices": 2}, "max_devices", "at least"),
        ({"max_devices": 2, "devices": 0, "cpu": 1}, "max_devices", "at least"),
        ({"partition": "1g.10gb"}, "partition", "either"),
        ({"partition": "1g 10gb", "devices": 0}, "partition", "1g.10gb"),
        ({"device_memory_share": "20Gi"}, "device_memory_share", "either"),
        ({"device_memory_share": "-1"}, "device_memory_share", "suffix"),
        ({"members": 3, "devices": None}, "members", "list"),
        ({"members": [{"name": "a", "cpu": 1}]}, "devices", "each entry"),
        ({"members": [{"name": "a"}], "devices": None}, "members[0].devices", "ask for something"),
        ({"members": [{"name": "a", "gpus": 1}], "devices": None}, "members[0].gpus", "unknown field"),
        ({"members": [{"name": "a", "cpu": "x"}], "devices": None}, "members[0].cpu", "suffix"),
        (
            {"members": [{"name": "a", "devices": 1, "max_devices": 2}], "devices": None},
            "members[0].max_devices",
            "leave it out",
        ),
        ({"members": [{"name": "a", "cpu": 1}] * 2, "devices": None}, "members[1].name", "another name"),
        (
            {"members": [{"name": "a", "cpu": 1, "accelerators": {"classes": ["X"]}}], "devices": None},
            "members[0].accelerators.classes",
            "GPU",
        ),
        ({"topology": {"level": "rack", "preferred_level": "zone"}}, "topology.preferred_level", "tighter"),
        ({"topology": {"level": "rack", "group_size": 4}}, "topology.group_size", "divides"),
        ({"topology": {"level": "rack", "group_size": 1}}, "topology.group_level", "together"),
        ({"topology": {"required": True}}, "topology.level", "rack"),
        ({"topology": {"levl": "rack"}}, "topology.levl", "did you mean 'level'"),
        ({"topology": {"level": "rack", "group_size": "x"}}, "topology.group_size", "whole number"),
        ({"character": {"operations": -1, "bytes_moved": 1}}, "character.operations", "finite"),
        ({"character": {"operations": "much"}}, "character.operations", "number"),
        ({"character": {"dense_fraction": 0.5}}, "character.operations", "both"),
        ({"character": {"operations": 1, "dense_fraction": 2}}, "character.dense_fraction", "0 to 1"),
        ({"character": {"operations": 1, "precision": "fp99"}}, "character.precision", "fp16"),
        ({"character": {"operations": 1, "calls": 0}}, "character.calls", "above 0"),
        ({"checkpoint_interval": "-1m"}, "checkpoint_interval", "duration"),
    ],
)
def test_each_mistake_in_a_shape_names_field_and_remedy(change: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document({"name": "j", "devices": 1} | change)
    found = {error.field: error.remedy for error in caught.value.errors}
    assert field in found
    assert remedy in found[field]


def test_every_field_of_a_full_document() -> None:
    expected = pb.JobSpec(
        name="finetune-7b", tenant="research", queue="research", priority=10, kind=pb.JOB_KIND_TRAINING, replicas=8,
        resources=pb.Resources(devices=4, device_memory_bytes=40 * 2**30, cpu_milli=500, memory_bytes=64 * 2**30),
        accelerators=pb.AcceleratorSelector(models=["H100-SXM"], classes=["GPU"], stacks=["CUDA"]),
        workload="llama-8b-finetune", objective=pb.OBJECTIVE_TIME,
        topology=pb.TopologyWish(level="rack", required=True),
        preemptible=True, executor="process", labels={"team": "vision"}, pool="default",
        idempotency_key="finetune-7b",
        command=pb.CommandPayload(argv=["python", "train.py"], environment={"SEED": "1"}),
    )  # fmt: skip
    expected.deadline.FromDatetime(datetime(2099, 12, 1, 18, tzinfo=UTC))
    expected.latency_target.FromMilliseconds(200)
    expected.expected_duration.FromSeconds(5400)
    assert parse_text(FULL) == expected
    assert parse_document(json.loads(json.dumps(yaml.safe_load(FULL), default=str))) == expected


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ({"name": None}, "name", "1 to 63"),
        ({"name": "UPPER"}, "name", "1 to 63"),
        ({"devces": 1}, "devces", "did you mean 'devices'?"),
        ({"replicas": 0}, "replicas", "1 to"),
        ({"replicas": -3}, "replicas", "1 to"),
        ({"replicas": 1.5}, "replicas", "whole number"),
        ({"replicas": 2**40}, "replicas", "whole number"),
        ({"devices": -1}, "devices", "0 to"),
        ({"devices": True}, "devices", "whole number"),
        ({"device_fraction": 1.5, "devices": 0}, "device_fraction", "share"),
        ({"device_fraction": 0.5}, "device_fraction", "either"),
        ({"devices": 0}, "devices", "ask for something"),
        ({"cpu": "four"}, "cpu", "40Gi"),
        ({"memory": "-1"}, "memory", "40Gi"),
        ({"memory": float("nan")}, "memory", "0 to"),
        ({"kind": "traning"}, "kind", "training"),
        ({"objective": 7}, "objective", "cost"),
        ({"deadline": "tomorrow"}, "deadline", "RFC 3339"),
        ({"latency_target": 0}, "latency_target", "above 0"),
        ({"expected_duration": "soon"}, "expected_duration", "1h30m"),
        ({"topology": {"level": "shelf"}}, "topology.level", "rack"),
        ({"topology": {"levle": "rack"}}, "topology.levle", "did you mean 'level'?"),
        ({"accelerators": {"classes": ["TOASTER"]}}, "accelerators.classes", "GPU"),
        ({"accelerators": ["H100-SXM"]}, "accelerators", "mapping"),
        ({"executor": "slurm"}, "executor", "process"),
        ({"executor": "process"}, "command", "needs a command"),
        ({"command": "python train.py"}, "command", "list"),
        ({"command": ["a"], "model": {"uri": "x"}}, "model", "one payload"),
        ({"preemptible": "yes"}, "preemptible", "true or false"),
        ({"priority": 10**7}, "priority", "-1000000"),
    ],
)
def test_each_mistake_names_field_and_remedy(change: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_document({"name": "a", "devices": 1, **change})
    found = {error.field: error.remedy for error in raised.value.errors}
    assert remedy in found[field]


def test_all_errors_come_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_document({"name": "a", "replicas": "x", "cpu": "y", "kind": "z", "w": 1})
    assert {error.field for error in raised.value.errors} == {"replicas", "cpu", "kind", "w"}


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "a: [", "", "!!python/object:os.system {}"])
def test_what_is_no_job_document(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_text(text)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(ANYTHING, st.sampled_from(sorted(yaml.safe_load(FULL))))
def test_no_value_of_any_field_breaks_the_parser(value: Any, field: str) -> None:
    document = {**yaml.safe_load(FULL), field: value}
    try:
        spec = parse_document(document)
    except InvalidInput:
        return
    assert validate(spec) == spec


@given(st.integers(0, 10**9), st.sampled_from(["", "Ki", "Mi", "Gi", "k", "M", "G"]))
def test_quantities(number: int, suffix: str) -> None:
    scale = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}[suffix]
    assert parse_quantity("memory", f"{number}{suffix}") == number * scale


@given(st.integers(0, 100), st.integers(0, 59), st.integers(1, 59))
def test_durations(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration("d", f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_the_digest_tells_payloads_apart_and_is_stable() -> None:
    one = parse_document({"name": "a", "devices": 1, "labels": {"x": "1", "y": "2"}})
    same = parse_document({"name": "a", "devices": 1, "labels": {"y": "2", "x": "1"}})
    other = parse_document({"name": "a", "devices": 2})
    assert spec_digest(one) == spec_digest(same) != spec_digest(other)


def of_pods(*pods: tuple[str, str, str], replicas: int, manifest: str = "") -> pb.JobSpec:
    references = [pb.PodReference(namespace=space, name=name, uid=uid) for space, name, uid in pods]
    payload = pb.KubernetesPayload(pods=references, manifest=manifest)
    return pb.JobSpec(name="a", replicas=replicas, resources=pb.Resources(cpu_milli=1), kubernetes=payload)


A, B = ("default", "a", "u1"), ("default", "b", "u2")


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (of_pods(A, replicas=2), "kubernetes.pods: '1 pods': name one pod for each of the 2 replicas"),
        (of_pods(A, B, replicas=1), "kubernetes.pods: '2 pods': name one pod for each of the 1 replicas"),
        (of_pods(A, A, replicas=2), "kubernetes.pods[1].uid: 'u1': name each pod once"),
        (of_pods(("default", "a", ""), replicas=1), "kubernetes.pods[0].uid: '': write the pod's metadata.uid"),
        (of_pods(A, replicas=1, manifest="kind: Pod"), "kubernetes: '1 pods and a manifest': give `pods`"),
        (of_pods(replicas=1), "kubernetes: '0 pods and no manifest': give `pods`"),
        (
            pb.JobSpec(name="a", replicas=1, resources=pb.Resources(cpu_milli=1), executor="kubernetes"),
            "kubernetes: '0 pods and no manifest': give `pods`",
        ),
    ],
)
def test_pods_that_do_not_make_a_job_are_refused(spec: pb.JobSpec, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(spec)
    assert named in str(caught.value)


def test_a_job_of_pods_is_carried_out_by_kubernetes() -> None:
    assert validate(of_pods(A, B, replicas=2)).executor == "kubernetes"


def test_a_manifest_is_a_text_or_a_mapping() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"hostNetwork": True, "containers": [{"name": "a"}]}}
    for manifest in (yaml.safe_dump(pod), pod):
        spec = parse_document({"name": "a", "cpu": 1, "kubernetes": {"manifest": manifest}})
        assert yaml.safe_load(spec.kubernetes.manifest) == pod


def test_a_date_in_a_manifest_is_a_text() -> None:
    text = "{name: a, cpu: 1, kubernetes: {manifest: {metadata: {annotations: {on: 2026-01-02}}}}}"
    assert "2026-01-02" in parse_text(text).kubernetes.manifest


def test_a_model_with_all_its_fields() -> None:
    spec = parse_text(
        """
        {name: served, kind: inference, cpu: 1, model: {uri: "file:///models/m", name: small, digest: %s,
         max_batch_size: 4, instances: 2, parameters: {team: a, level: 3}}}
        """
        % ("A" * 64)
    )
    assert spec.executor == "triton"
    assert spec.model == pb.ModelPayload(
        uri="file:///models/m", name="small", digest="a" * 64, max_batch_size=4, instances=2,
        parameters={"team": "a", "level": "3"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "field", "remedy"),
    [
        ({}, "model.uri", "write the path"),
        ({"uri": "s3://b/m"}, "model.uri", "write a path"),
        ({"uri": "m", "name": "../m"}, "model.name", "letters, digits"),
        ({"uri": "m", "digest": "abc"}, "model.digest", "64 characters"),
        ({"uri": "m", "max_batch_size": -1}, "model.max_batch_size", "0 to 65536"),
        ({"uri": "m", "instances": 5000}, "model.instances", "0 to 64"),
        ({"uri": "m", "instances": "many"}, "model.instances", "whole number"),
        ({"uri": "m", "instance": 2}, "model.instance", "did you mean 'instances'"),
        ({"uri": "m", "parameters": 3}, "model.parameters", "write a mapping"),
    ],
)
def test_a_wrong_model_names_the_field(model: dict[str, object], field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document({"name": "j", "cpu": 1, "model": model})
    assert [error.field for error in caught.value.errors] == [field]
    assert remedy in caught.value.errors[0].remedy


def test_the_executor_triton_needs_a_model() -> None:
    with pytest.raises(InvalidInput, match="serves a model"):
        parse_document({"name": "j", "cpu": 1, "executor": "triton"})


def test_a_duration_may_be_microseconds_and_an_unknown_unit_is_met_with_those_there_are() -> None:
    assert parse_duration("latency_target", "1us") == 1e-6
    with pytest.raises(InvalidInput, match="units are us, ms, s, m, h, d"):
        parse_duration("latency_target", "1ns")
