"""A Node object as a node of the fleet."""

import pytest

from berth.kubernetes.devices import DeviceResources
from telemetry_ingest.domain.inventory import DeviceRecord, TaintRecord
from telemetry_ingest.domain.kubernetes.nodes import NodeFacts, device_id, facts_of, resource_of
from tests.unit.telemetry_ingest.kubernetes.builders import READY, a_node

RESOURCES = DeviceResources()


def test_all_that_is_read_of_a_node() -> None:
    node = a_node(
        resources={"nvidia.com/gpu": "2", "pods": "110"},
        allocatable={"cpu": "63500m", "memory": "500Gi", "nvidia.com/gpu": "1"},
        labels={
            "berth.dev/pool": "vision",
            "topology.kubernetes.io/zone": "z1",
            "topology.berth.dev/rack": "r7",
            "cloud.provider.com/topology-rack": "other",
            "nvidia.com/gpu.clique": "c1",
            "nvidia.com/gpu.product": "NVIDIA-L4",
            "nvidia.com/gfd.timestamp": "1764040000",
        },
        taints=[
            {"key": "team", "value": "vision", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        ],
    )
    device = DeviceRecord("", 0, "L4", "GPU", "CUDA", 24_000_000_000, reported_model="NVIDIA-L4")
    assert facts_of(node, RESOURCES) == NodeFacts(
        name="n1",
        pool="vision",
        cpu_milli=63_500,
        memory_bytes=500 << 30,
        pod_limit=110,
        labels=(
            ("berth.dev/pool", "vision"),
            ("cloud.provider.com/topology-rack", "other"),
            ("nvidia.com/gpu.clique", "c1"),
            ("nvidia.com/gpu.product", "NVIDIA-L4"),
            ("topology.berth.dev/rack", "r7"),
            ("topology.kubernetes.io/zone", "z1"),
        ),
        topology=(("rack", "r7"), ("scale-up", "c1"), ("zone", "z1")),
        taints=(TaintRecord("team", "vision", "NoSchedule"),),
        cordon_reason="",
        boot_id="b1",
        devices=tuple(
            DeviceRecord(
                f"n1/nvidia.com-gpu/{index}",
                index,
                "L4",
                "GPU",
                "CUDA",
                device.memory_bytes,
                reported_model="NVIDIA-L4",
            )
            for index in range(2)
        ),
        unavailable=(("nvidia.com/gpu", 1),),
        allocatable=(("cpu", "63500m"), ("memory", "500Gi"), ("nvidia.com/gpu", "1"), ("pods", "110")),
    )


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (a_node(), ""),
        (a_node(unschedulable=True), "Kubernetes: cordoned (spec.unschedulable)"),
        (a_node(conditions=()), "Kubernetes: not ready (no Ready condition yet)"),
        (
            a_node(conditions=({**READY, "status": "Unknown", "reason": "NodeStatusUnknown"},)),
            "Kubernetes: not ready (NodeStatusUnknown)",
        ),
        (a_node(conditions=({"type": "Ready", "status": "False"},)), "Kubernetes: not ready (False)"),
        (
            a_node(
                conditions=(
                    READY,
                    {"type": "MemoryPressure", "status": "True", "reason": "KubeletHasInsufficientMemory"},
                    {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
                    {"type": "PIDPressure", "status": "Unknown"},
                ),
                unschedulable=True,
            ),
            "Kubernetes: cordoned (spec.unschedulable), MemoryPressure (KubeletHasInsufficientMemory), "
            "NetworkUnavailable (NoRouteCreated)",
        ),
    ],
)
def test_why_a_node_takes_no_work(node: dict[str, object], reason: str) -> None:
    assert facts_of(node, RESOURCES).cordon_reason == reason


def test_a_tpu_slice_of_several_hosts_is_one_scale_up_domain() -> None:
    labels = {"cloud.google.com/gke-tpu-topology": "4x4", "cloud.google.com/gke-nodepool": "slice-3"}
    assert facts_of(a_node(labels=labels), RESOURCES).topology == (("scale-up", "slice-3"),)


def test_what_cannot_be_read_is_named_and_costs_only_itself() -> None:
    facts = facts_of(a_node(resources={"cpu": "lots", "nvidia.com/gpu": "1"}), RESOURCES)
    assert (facts.cpu_milli, facts.memory_bytes, len(facts.devices)) == (0, 512 << 30, 1)
    (problem,) = facts.problems
    assert problem.startswith("status.allocatable.cpu: 'lots'")


def test_a_plugin_that_went_away_leaves_its_devices_to_nobody() -> None:
    facts = facts_of(a_node(resources={"amd.com/gpu": "2"}, allocatable={"amd.com/gpu": "0"}), RESOURCES)
    assert (len(facts.devices), facts.unavailable) == (2, (("amd.com/gpu", 2),))


def test_names_of_devices_tell_their_resource() -> None:
    assert resource_of(device_id("n1", "nvidia.com/gpu", 3)) == "nvidia.com-gpu"
    assert resource_of("GPU-7d3f") == ""
