"""What a Node object says of a node of the fleet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from berth.errors import InvalidInput
from berth.kubernetes import names
from berth.kubernetes.devices import AdvertisedDevices, DeviceResources
from berth.kubernetes.quantities import milli_at_most, units_at_most
from telemetry_ingest.domain.inventory import CORDON_PREFIX, DeviceRecord, TaintRecord

__all__ = ["NodeFacts", "device_id", "facts_of", "resource_of"]

# Labels that change with each look of their writer, and say nothing of the node.
RESTLESS_LABELS = frozenset({"nvidia.com/gfd.timestamp", "habana.ai/hfd.timestamp"})
# Taints that only repeat a cordon or a condition, which are told as such.
REPEATING_TAINTS = frozenset(
    f"node.kubernetes.io/{name}"
    for name in (
        "unschedulable", "not-ready", "unreachable", "memory-pressure", "disk-pressure", "pid-pressure",
        "network-unavailable",
    )
)  # fmt: skip
BAD_WHEN_TRUE = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
# Label to level, the most telling first; `topology.berth.dev/<level>` goes before all of them.
TOPOLOGY_LABELS = (
    ("topology.kubernetes.io/region", "region"),
    ("topology.kubernetes.io/zone", "zone"),
    ("nvidia.com/gpu.clique", "scale-up"),
    ("cloud.google.com/gce-topology-block", "block"),
    ("cloud.google.com/gce-topology-subblock", "rack"),
    ("topology.k8s.aws/network-node-layer-2", "block"),
    ("topology.k8s.aws/network-node-layer-3", "rack"),
    ("cloud.provider.com/topology-block", "block"),
    ("cloud.provider.com/topology-rack", "rack"),
)
# A node pool of several TPU hosts is one slice, joined by its interconnect.
TRITON_ADDRESS = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
TPU_TOPOLOGY, TPU_SLICE = "cloud.google.com/gke-tpu-topology", "cloud.google.com/gke-nodepool"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node as the cluster has it. `cordon_reason`: "" where it takes work. `problems`: what could not be read.
    `triton`: the address of its Triton server, by its annotation.

    `devices` are all that the node has; the last `unavailable[resource]` of a resource's are not allocatable.
    """

    name: str
    pool: str = "default"
    cpu_milli: int = 0
    memory_bytes: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    topology: tuple[tuple[str, str], ...] = ()
    taints: tuple[TaintRecord, ...] = ()
    cordon_reason: str = ""
    boot_id: str = ""
    devices: tuple[DeviceRecord, ...] = ()
    unavailable: tuple[tuple[str, int], ...] = ()
    allocatable: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    triton: str = ""


def facts_of(node: Mapping[str, Any], resources: DeviceResources) -> NodeFacts:
    """Of a Node, the API's JSON. What cannot be read of it is left out and named among the problems."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    name = str(metadata["name"])
    labels: dict[str, str] = {
        key: str(value) for key, value in (metadata.get("labels") or {}).items() if key not in RESTLESS_LABELS
    }
    allocatable = {key: str(value) for key, value in (status.get("allocatable") or {}).items()}
    problems: list[str] = []

    def amount(read: Any, resource: str) -> int:
        try:
            return max(0, int(read(f"status.allocatable.{resource}", allocatable.get(resource, "0"))))
        except InvalidInput as error:
            problems.append(str(error))
            return 0

    triton = str((metadata.get("annotations") or {}).get(names.TRITON, "")).strip().rstrip("/")
    if triton and not TRITON_ADDRESS.fullmatch(triton):
        problem = InvalidInput.of(f"annotation {names.TRITON}", triton, "write an address such as http://10.0.0.7:8000")
        problems.append(str(problem))
        triton = ""
    present = {one.resource: one for one in resources.devices_of(node)}
    # A device that its plugin finds unhealthy is in the capacity still, and cannot be had.
    whole = {**node, "status": {**status, "allocatable": {**allocatable, **(status.get("capacity") or {})}}}
    advertised = [
        max(one, present.get(one.resource, one), key=lambda each: each.count) for one in resources.devices_of(whole)
    ]
    unavailable = tuple(
        (one.resource, missing)
        for one in advertised
        if (missing := one.count - (present[one.resource].count if one.resource in present else 0)) > 0
    )
    return NodeFacts(
        name=name,
        pool=labels.get(names.POOL) or "default",
        cpu_milli=amount(milli_at_most, "cpu"),
        memory_bytes=amount(units_at_most, "memory"),
        labels=tuple(sorted(labels.items())),
        topology=_topology(labels),
        taints=_taints(spec.get("taints") or ()),
        cordon_reason=_cordon(spec, status),
        boot_id=str((status.get("nodeInfo") or {}).get("bootID", "")),
        devices=tuple(device for one in advertised for device in _devices(name, one)),
        unavailable=unavailable,
        allocatable=tuple(sorted(allocatable.items())),
        problems=tuple(problems),
        triton=triton,
    )


def device_id(node: str, resource: str, index: int) -> str:
    """Stable: a plugin hands out devices by number, and which of them a pod gets the kubelet decides."""
    return f"{node}/{resource.replace('/', '-')}/{index}"


def resource_of(identity: str) -> str:
    """The middle of a `device_id`, as `device_id` writes it; "" for another identity."""
    parts = identity.split("/")
    return parts[1] if len(parts) == 3 else ""


def _devices(node: str, advertised: AdvertisedDevices) -> list[DeviceRecord]:
    return [
        DeviceRecord(
            device_id=device_id(node, advertised.resource, index),
            index=index,
            model=advertised.model,
            device_class=advertised.device_class,
            stack=advertised.stack,
            memory_bytes=advertised.memory_bytes,
            reported_model=advertised.reported_model,
            partition=advertised.partition,
        )
        for index in range(advertised.count)
    ]


def _topology(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    found = {
        key.removeprefix(names.TOPOLOGY_PREFIX): value
        for key, value in labels.items()
        if key.startswith(names.TOPOLOGY_PREFIX) and value
    }
    for label, level in TOPOLOGY_LABELS:
        if labels.get(label):
            found.setdefault(level, labels[label])
    if TPU_TOPOLOGY in labels and labels.get(TPU_SLICE):
        found.setdefault("scale-up", labels[TPU_SLICE])
    return tuple(sorted(found.items()))


def _taints(taints: Sequence[Mapping[str, Any]]) -> tuple[TaintRecord, ...]:
    return tuple(
        sorted(
            TaintRecord(str(one.get("key", "")), str(one.get("value") or ""), str(one.get("effect", "")))
            for one in taints
            if one.get("key") not in REPEATING_TAINTS
        )
    )


def _cordon(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    conditions = {str(one.get("type")): one for one in status.get("conditions") or ()}
    reasons = []
    if spec.get("unschedulable"):
        reasons.append("cordoned (spec.unschedulable)")
    ready = conditions.get("Ready")
    if ready is None or ready.get("status") != "True":
        said = (ready or {}).get("reason") or ("no Ready condition yet" if ready is None else ready.get("status"))
        reasons.append(f"not ready ({said})")
    for name in BAD_WHEN_TRUE:
        condition = conditions.get(name)
        if condition is not None and condition.get("status") == "True":
            reasons.append(f"{name} ({condition.get('reason') or 'True'})")
    return CORDON_PREFIX + ", ".join(reasons) if reasons else ""
