"""Compact builders: a test states only what it is about."""

from collections.abc import Iterable, Mapping
from typing import Any

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Device, DeviceSample, Job, Node, NodeSample, Rejection
from placement_engine.domain.policy import Policy

GIB = 2**30
NOW = 1_000.0


def a_device(node: str, index: int, model: str = "H100", **changes: Any) -> Device:
    facts = {"device_class": "GPU", "stack": "CUDA", "memory_bytes": 80 * GIB} | changes
    return Device(device_id=f"{node}/{index}", index=index, model=model, **facts)


def a_node(
    name: str = "n1",
    devices: int | Iterable[Device] = 8,
    model: str = "H100",
    rack: str = "",
    device: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Node:
    """Telemetry-exempt unless told otherwise, so that a test without samples sees fresh nodes."""
    if isinstance(devices, int):
        devices = [a_device(name, i, model, **(device or {})) for i in range(devices)]
    facts: dict[str, Any] = {"cpu_milli": 64_000, "memory_bytes": 512 * GIB, "telemetry_exempt": True}
    if rack:
        facts["topology"] = {"rack": rack}
    return Node(name=name, devices=tuple(devices), **(facts | changes))


def a_job(job_id: str = "j1", **changes: Any) -> Job:
    if not {"devices", "device_milli", "device_share_bytes", "partition"} & changes.keys():
        changes["devices"] = 1
    return Job(job_id=job_id, **changes)


def a_sample(node: str, *devices: Mapping[str, Any], at: float = NOW, **changes: Any) -> NodeSample:
    """One mapping a device, in index order; `a_sample("n1", {}, {"error_code": 48})`."""
    samples = tuple(DeviceSample(device_id=f"{node}/{i}", **facts) for i, facts in enumerate(devices))
    return NodeSample(node=node, received_at=at, devices=samples, **changes)


def an_engine(*nodes: Node, policy: Policy | None = None) -> Engine:
    engine = Engine(policy or Policy())
    for node in nodes:
        engine.apply_node(node)
    return engine


def placed(engine: Engine, *jobs: Job, now: float = NOW) -> dict[str, list[str]]:
    """Submits and runs one cycle: nodes of each placed job, in member order."""
    for job in jobs:
        engine.submit(job)
    return {d.job_id: [m.node for m in d.members] for d in engine.cycle(now).decisions}


def why(engine: Engine, job: Job, now: float = NOW) -> dict[str, tuple[int, int]]:
    """Reason codes of a job that waits, with the nodes and devices each excludes."""
    if not engine.is_waiting(job.job_id):
        engine.submit(job)
    assert engine.cycle(now).decisions == ()
    rejection = engine.explain(job.job_id, now)
    assert isinstance(rejection, Rejection)
    return {reason.code: (reason.nodes, reason.devices) for reason in rejection.reasons}


def device_ids(engine: Engine, job_id: str) -> list[list[str]]:
    claim = engine.holds(job_id)
    assert claim is not None
    return [[d.device_id for d in member.devices] for member in claim.members]
