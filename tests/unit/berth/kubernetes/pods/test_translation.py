"""Pods become job specs: compared whole."""

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.jobs import validate
from berth.v1 import jobs_pb2 as pb
from tests.unit.berth.kubernetes.pods.builders import a_gang, a_member, a_pod, make, spec_of


def shown(spec: pb.JobSpec) -> str:
    return text_format.MessageToString(spec)


def test_a_plain_pod_is_a_job_of_one_member() -> None:
    spec = spec_of(a_pod("web", requests={"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "2"}, priority=7))
    key = spec.idempotency_key
    assert key.startswith("uid-web.")
    assert shown(spec) == shown(
        pb.JobSpec(
            name="web", tenant="team", priority=7, kind=pb.JOB_KIND_BATCH, replicas=1, preemptible=True,
            resources=pb.Resources(devices=2, cpu_milli=500, memory_bytes=2**30),
            accelerators=pb.AcceleratorSelector(stacks=["CUDA"]), executor="kubernetes",
            kubernetes=pb.KubernetesPayload(pods=[pb.PodReference(namespace="team", name="web", uid="uid-web")]),
            labels={"berth.dev/source": "pods"}, idempotency_key=key,
        )
    )  # fmt: skip
    validate(spec)


def test_annotations_say_what_is_wished() -> None:
    wishes = {
        "queue": "research", "tenant": "vision", "pool": "west", "workload": "llama", "objective": "Energy",
        "kind": "training", "accelerators": "H100-SXM, gpu", "topology": "node", "required-topology": "rack",
        "deadline": "2100-01-01T00:00:00Z", "expected-duration": "2h", "latency-target": "200ms",
        "checkpoint-interval": "10m", "preemptible": "false", "device-memory": "40Gi",
    }  # fmt: skip
    spec = spec_of(
        a_pod(requests={"nvidia.com/gpu": "1"}, annotations={f"berth.dev/{key}": text for key, text in wishes.items()})
    )
    wanted = pb.JobSpec(
        name="p", tenant="vision", queue="research", pool="west", workload="llama", objective=pb.OBJECTIVE_ENERGY,
        kind=pb.JOB_KIND_TRAINING, replicas=1, executor="kubernetes", labels={"berth.dev/source": "pods"},
        resources=pb.Resources(devices=1, device_memory_bytes=40 * 2**30),
        accelerators=pb.AcceleratorSelector(models=["H100-SXM"], classes=["GPU"], stacks=["CUDA"]),
        topology=pb.TopologyWish(level="rack", required=True, preferred_level="node"),
        kubernetes=pb.KubernetesPayload(pods=[pb.PodReference(namespace="team", name="p", uid="uid-p")]),
        idempotency_key=spec.idempotency_key,
    )  # fmt: skip
    wanted.deadline.FromJsonString("2100-01-01T00:00:00Z")
    wanted.expected_duration.FromSeconds(7200)
    wanted.latency_target.FromMilliseconds(200)
    wanted.checkpoint_interval.FromSeconds(600)
    assert shown(spec) == shown(wanted)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"annotations": {"berth.dev/queue": "a"}, "labels": {"kueue.x-k8s.io/queue-name": "b"}}, "a"),
        ({"labels": {"berth.dev/queue": "a", "kueue.x-k8s.io/queue-name": "b"}}, "a"),
        ({"labels": {"kueue.x-k8s.io/queue-name": "b"}}, "b"),
        ({}, ""),
    ],
)
def test_the_queue_is_berths_own_word_or_kueues(fields: dict[str, Any], wanted: str) -> None:
    assert spec_of(a_pod(**fields)).queue == wanted


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (
            {"annotations": {"berth.dev/objective": "cheap"}},
            "metadata.annotations[berth.dev/objective]: 'cheap': write one of: cost, time, latency, energy",
        ),
        (
            {"annotations": {"berth.dev/expected-duration": "long"}},
            "metadata.annotations[berth.dev/expected-duration]: 'long': write a duration",
        ),
        ({"annotations": {"berth.dev/preemptible": "maybe"}}, "'maybe': write true or false"),
        ({"requests": {"cpu": "much"}}, "spec.containers[0].resources.requests.cpu: 'much'"),
        ({"requests": {"example.com/foo": "1"}}, "spec.containers.resources.example.com/foo: '1': is no device"),
        ({"requests": {"nvidia.com/gpu": "1", "amd.com/gpu": "1"}}, "a pod takes devices of one kind"),
        ({"requests": {"nvidia.com/mig-1g.10gb": "2"}}, "a pod takes one partition"),
        ({"requests": {"hugepages-2Mi": "2Mi"}}, "hugepages-2Mi: 'asked for': Berth does not count it"),
        (
            {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}},
            "spec.podAntiAffinity: 'given': is not looked at",
        ),
        ({"topologySpreadConstraints": [{"maxSkew": 1}]}, "spec.topologySpreadConstraints: 'given'"),
        ({"resourceClaims": [{"name": "a"}]}, "spec.resourceClaims: 'given'"),
    ],
)
def test_what_cannot_be_is_refused_with_field_value_and_remedy(fields: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        spec_of(a_pod(**fields))
    assert wanted in str(caught.value)


def test_what_is_not_looked_at_is_noted() -> None:
    job = make(
        [
            a_pod(
                annotations={"berth.dev/ignore": "topologySpreadConstraints", "berth.dev/objektive": "cost"},
                topologySpreadConstraints=[{"maxSkew": 1}],
                volumes=[{"persistentVolumeClaim": {"claimName": "data"}}],
                preemptionPolicy="Never",
                requests={"cpu": "1", "ephemeral-storage": "1Gi"},
            )
        ],
        None,
        0,
    )
    assert [note.partition(":")[0] for note in job.notes] == [
        "metadata.annotations[berth.dev/objektive]",
        "topologySpreadConstraints",
        "ephemeral-storage",
        "volumes",
        "preemptionPolicy",
    ]


def test_node_selector_and_required_affinity_hold_together() -> None:
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
        {},
    ]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    tolerations = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, {"key": "x", "value": "y"}]
    spec = spec_of(a_pod(nodeSelector={"disk": "ssd"}, affinity=affinity, tolerations=tolerations))
    ssd = pb.NodeRequirement(key="disk", operator="In", values=["ssd"])
    assert spec.nodes == pb.NodeConstraints(
        required=[
            pb.NodeTerm(requirements=[ssd, pb.NodeRequirement(key="zone", operator="In", values=["a", "b"])]),
            pb.NodeTerm(requirements=[ssd, pb.NodeRequirement(key="metadata.name", operator="In", values=["n1"])]),
        ],
        tolerations=[
            pb.Toleration(key="gpu", operator="Exists", effect="NoSchedule"),
            pb.Toleration(key="x", operator="Equal", value="y"),
        ],
    )


def test_affinity_whose_terms_are_all_empty_matches_no_node() -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}
    (term,) = spec_of(a_pod(affinity=affinity)).nodes.required
    assert list(term.requirements) == [pb.NodeRequirement(key="metadata.name", operator="DoesNotExist")]


def test_a_gang_of_one_shape_has_replicas_in_order() -> None:
    labels = "batch.kubernetes.io/job-completion-index"
    pods = [a_member(f"w-{index}", labels={labels: str(index)}) for index in (10, 2, 1)]
    spec = spec_of(
        *pods, gang=a_gang(2, priority=5, schedulingConstraints={"topology": [{"key": "x/rack"}]}), minimum=2
    )
    assert [one.name for one in spec.kubernetes.pods] == ["w-1", "w-2", "w-10"]
    assert (spec.name, spec.replicas, spec.min_replicas, spec.priority) == ("ring", 3, 2, 5)
    assert (spec.topology.level, spec.topology.required) == ("rack", True)
    assert spec.idempotency_key.startswith("uid-ring.")
    validate(spec)


def test_a_leader_and_its_workers_are_groups_and_pods_follow_them() -> None:
    role = "training.kubeflow.org/replica-type"
    pods = [
        *(a_member(f"w-{index}", labels={role: "Worker"}, requests={"amd.com/gpu": "8"}) for index in range(4)),
        a_member("m", labels={role: "Master"}, requests={"cpu": "4"}),
    ]
    spec = spec_of(*pods, gang=a_gang(4), minimum=4)
    assert [one.name for one in spec.kubernetes.pods] == ["m", "w-0", "w-1", "w-2", "w-3"]
    assert [(g.name, g.replicas, g.min_replicas, g.resources.devices) for g in spec.member_groups] == [
        ("master", 1, 0, 0),
        ("worker", 4, 3, 8),
    ]
    validate(spec)


def test_names_are_labels_and_long_ones_are_told_apart() -> None:
    short, long = "a" * 63, "a" * 80
    assert spec_of(a_pod(short)).name == short
    first, second = spec_of(a_pod(long)).name, spec_of(a_pod(long + "b")).name
    assert len(first) == 63
    assert first != second


@given(st.permutations(range(5)), st.integers(1, 5))
def test_the_order_of_pods_changes_nothing(order: list[int], minimum: int) -> None:
    shapes = [{"cpu": "1"}, {"cpu": "2"}, {"nvidia.com/gpu": "1"}]
    pods = [a_member(f"p{index}", requests=shapes[index % 3]) for index in range(5)]
    gang = a_gang(minimum)
    spec = spec_of(*(pods[index] for index in order), gang=gang, minimum=minimum)
    assert shown(spec) == shown(spec_of(*pods, gang=gang, minimum=minimum))
    # The fewest that will do add up to the gang's minimum, or to one of each shape where that is more.
    assert sum(g.min_replicas or g.replicas for g in spec.member_groups) == max(minimum, 3)
    validate(spec)


@given(st.integers(-(2**31), 2**31 - 1))
def test_any_priority_is_one_that_berth_takes(priority: int) -> None:
    spec = spec_of(a_pod(priority=priority))
    assert spec.priority == max(-1_000_000, min(1_000_000, priority))
    validate(spec)


def test_what_berth_and_others_write_on_a_pod_is_no_other_wish() -> None:
    bare = a_pod()
    touched = a_pod(annotations={"berth.dev/job": "j", "note": "x"}, labels={"team": "a"})
    touched["metadata"]["resourceVersion"] = "9"
    assert spec_of(bare) == spec_of(touched)
    assert spec_of(bare).idempotency_key != spec_of(a_pod(requests={"cpu": "2"})).idempotency_key
