"""A pod that another scheduler places: only what Berth is to judge of it becomes the job."""

from typing import Any

import pytest

from berth.errors import InvalidInput
from berth.jobs import validate
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.pods.beside import job_beside
from berth.v1 import jobs_pb2 as pb

RESOURCES = DeviceResources({"example.com/wafer": "Cerebras-WSE-3"})


def a_pod(requests: dict[str, str], *, metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "resources": {"requests": requests, "limits": dict(requests)}}
    named = {"name": "p", "namespace": "team", "uid": "u", **(metadata or {})}
    return {"metadata": named, "spec": {"containers": [container], **spec}}


def test_what_the_other_scheduler_looks_at_itself_refuses_nothing() -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}
    pod = a_pod(
        {"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": "4", "hugepages-2Mi": "4Mi", "example.com/fpga": "1"},
        metadata={"labels": {"kueue.x-k8s.io/queue-name": "theirs", "berth.dev/workload": "resnet"}},
        affinity={"podAntiAffinity": required},
        resourceClaims=[{"name": "nic", "resourceClaimName": "a-nic"}],
        topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    )
    made = job_beside(pod, RESOURCES)
    assert validate(made).executor == "kubernetes"
    made.idempotency_key = ""
    assert made == pb.JobSpec(
        name="p", tenant="team", replicas=1, workload="resnet", kind=pb.JOB_KIND_BATCH, executor="kubernetes",
        preemptible=True, labels={"berth.dev/source": "pods"}, kubernetes=pb.KubernetesPayload(manifest="kind: Pod"),
        resources=pb.Resources(devices=4, cpu_milli=2000, memory_bytes=2**30),
        accelerators=pb.AcceleratorSelector(stacks=["CUDA"]),
    )  # fmt: skip
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "theirs"  # the pod itself is left alone


def test_what_berth_judges_is_read_and_refused_as_everywhere() -> None:
    made = job_beside(a_pod({"example.com/wafer": "1"}, nodeSelector={"a": "b"}), RESOURCES)
    assert (made.resources.devices, list(made.accelerators.models)) == (1, ["Cerebras-WSE-3"])
    assert [one.key for one in made.nodes.required[0].requirements] == ["a"]
    for pod, words in (
        (a_pod({"aws.amazon.com/neuroncore": "1"}), "ask for whole devices with aws.amazon.com/neuron"),
        (a_pod({"nvidia.com/gpu": "x"}), "nvidia.com/gpu: 'x': write a Kubernetes quantity"),
        (a_pod({}, metadata={"annotations": {"berth.dev/objective": "fast"}}), "'fast': write one of"),
    ):
        with pytest.raises(InvalidInput, match=words):
            job_beside(pod, RESOURCES)


def test_a_pod_of_a_template_has_no_name_yet() -> None:
    pod = a_pod({"cpu": "1"})
    pod["metadata"] = {"generateName": "worker-"}
    assert job_beside(pod, RESOURCES).name == "worker-x"
