"""How jobs, nodes, devices, queues and decisions are shown as rows."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from berth.cli import units
from berth.cli.output import Column, Kind
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2

__all__ = [
    "ADVICE",
    "DECISION",
    "DEVICE",
    "JOB",
    "NODE",
    "PROFILE",
    "QUEUE",
    "devices_text",
    "job_state",
    "quota_text",
    "short_list",
]

NAMES_SHOWN = 2


def job_state(state: int) -> str:
    """JOB_STATE_RUNNING -> "Running"."""
    return jobs_pb2.JobState.Name(state).removeprefix("JOB_STATE_").title()  # type: ignore[arg-type]


def short_list(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    if not names:
        return units.UNKNOWN
    shown = ",".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown},+{len(names) - NAMES_SHOWN}"


def devices_text(spec: jobs_pb2.JobSpec) -> str:
    """ "8x4" is a gang of 8 members with 4 devices each; "6-8x4" an elastic one; "1x0.5" half a device; "1x2-4" from
    two to four devices; "1x20Gi" a share stated as memory; "1x1g.10gb" a partition; "1x0+4x8" two shapes."""
    if spec.member_groups:
        return "+".join(_shape_text(one.replicas, one.min_replicas, one.resources) for one in spec.member_groups)
    return _shape_text(spec.replicas, spec.min_replicas, spec.resources)


def _shape_text(replicas: int, fewest: int, asked: jobs_pb2.Resources) -> str:
    members = f"{fewest}-{replicas}" if fewest and fewest != replicas else f"{replicas}"
    if asked.partition:
        return f"{members}x{asked.partition}"
    if asked.device_share_bytes:
        return f"{members}x{units.bytes_of(asked.device_share_bytes)}"
    if asked.device_milli:
        return f"{members}x{asked.device_milli / 1000:g}"
    return f"{members}x{asked.devices}" + (f"-{asked.max_devices}" if asked.max_devices > asked.devices else "")


def _models(job: jobs_pb2.Job) -> str:
    counted = Counter(claim.model or "?" for member in job.members for claim in member.devices)
    return ",".join(sorted(counted)) or units.UNKNOWN


def _nodes(job: Any) -> str:
    return short_list(list(dict.fromkeys(member.node for member in job.members)))


def _wait(job: jobs_pb2.Job) -> str:
    submitted, bound = units.seconds_of(job, "submitted_at"), units.seconds_of(job, "bound_at")
    return units.UNKNOWN if submitted is None or bound is None else units.duration(max(0.0, bound - submitted))


def _enum(message: Any, field: str, prefix: str) -> str:
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[getattr(message, field)].name
    return str(value).removeprefix(prefix).lower()


def job_reference(job: jobs_pb2.Job) -> str:
    """How the job is named on the command line: its name, after its tenant where that is not the default."""
    return job.spec.name if job.spec.tenant in ("", "default") else f"{job.spec.tenant}/{job.spec.name}"


JOB: Kind[jobs_pb2.Job] = Kind(
    "job", "jobs", job_reference,
    (
        Column("NAME", lambda job: job.spec.name),
        Column("TENANT", lambda job: job.spec.tenant, wide=True),
        Column("QUEUE", lambda job: job.spec.queue),
        Column("KIND", lambda job: _enum(job.spec, "kind", "JOB_KIND_")),
        Column("STATE", lambda job: job_state(job.state)),
        Column("DEVICES", lambda job: devices_text(job.spec), right=True),
        Column("ACCELERATOR", _models),
        Column("NODES", _nodes),
        Column("TO BOUND", _wait, right=True),
        Column("AGE", lambda job: units.age(job, "submitted_at"), right=True),
        Column("PRIORITY", lambda job: str(job.spec.priority), wide=True, right=True),
        Column("OBJECTIVE", lambda job: _enum(job.spec, "objective", "OBJECTIVE_"), wide=True),
        Column("ATTEMPT", lambda job: str(job.attempt), wide=True, right=True),
        Column("PREEMPTED", lambda job: str(job.preemptions), wide=True, right=True),
        Column("ENDPOINTS", lambda job: short_list(list(job.endpoints)), wide=True),
        Column("ID", lambda job: job.job_id, wide=True),
        Column("MESSAGE", lambda job: job.message, wide=True),
    ),
)  # fmt: skip


def _node_models(status: placement_pb2.NodeStatus) -> str:
    counted = Counter(device.model or device.reported_model or "?" for device in status.node.devices)
    return ",".join(f"{count}x{model}" for model, count in sorted(counted.items())) or units.UNKNOWN


def _node_state(status: placement_pb2.NodeStatus) -> str:
    if status.node.removed:
        return "Removed"
    return "Ready" if status.node.schedulable else "Cordoned"


def optional(message: Any, field: str) -> Any:
    """The value, or None where it is unknown."""
    return getattr(message, field) if message.HasField(field) else None


def _of(used: str, whole: str) -> str:
    return f"{used}/{whole}"


def _cpu(status: placement_pb2.NodeStatus) -> str:
    return _of(units.cores(status.used_cpu_milli), units.cores(status.node.cpu_milli))


def _host_memory(status: placement_pb2.NodeStatus) -> str:
    return _of(units.bytes_of(status.used_memory_bytes), units.bytes_of(status.node.memory_bytes))


def _topology(status: placement_pb2.NodeStatus) -> str:
    return ",".join(f"{level}={status.node.topology[level]}" for level in sorted(status.node.topology))


NODE: Kind[placement_pb2.NodeStatus] = Kind(
    "node", "nodes", lambda status: status.node.name,
    (
        Column("NAME", lambda status: status.node.name),
        Column("STATE", _node_state),
        Column("POOL", lambda status: status.node.pool),
        Column("DEVICES", _node_models),
        Column("FREE", lambda status: str(status.devices_free), right=True),
        Column("CPU", _cpu, right=True),
        Column("MEMORY", _host_memory, right=True),
        Column("POWER", lambda status: units.watts(optional(status, "power_watts")), right=True),
        Column("HEARD", lambda status: units.duration(optional(status, "age_seconds")), right=True),
        Column("TOPOLOGY", _topology, wide=True),
        Column("EXECUTORS", lambda status: ",".join(status.node.executors), wide=True),
        Column("REASON", lambda status: status.node.cordon_reason, wide=True),
    ),
)  # fmt: skip


def _device_model(status: placement_pb2.DeviceStatus) -> str:
    device = status.device
    return (device.model or device.reported_model or "?") + (f"/{device.partition}" if device.partition else "")


def _device_state(status: placement_pb2.DeviceStatus) -> str:
    if not status.device.present:
        return "Gone"
    return status.blocked or "Ready"


def _sample(status: placement_pb2.DeviceStatus, field: str) -> Any:
    return optional(status.sample, field) if status.HasField("sample") else None


def _memory(status: placement_pb2.DeviceStatus) -> str:
    total = _sample(status, "memory_total_bytes") or status.device.memory_bytes or None
    return _of(units.bytes_of(_sample(status, "memory_used_bytes")), units.bytes_of(total))


DEVICE: Kind[placement_pb2.DeviceStatus] = Kind(
    "device", "devices", lambda status: status.device.device_id,
    (
        Column("NODE", lambda status: status.node),
        Column("INDEX", lambda status: str(status.device.index), right=True),
        Column("MODEL", _device_model),
        Column("STATE", _device_state),
        Column("CLAIMED", lambda status: units.percent(status.used_milli / 1000), right=True),
        Column("MEMORY", _memory, right=True),
        Column("HEAT", lambda status: units.celsius(_sample(status, "temperature_celsius")), right=True),
        Column("POWER", lambda status: units.watts(_sample(status, "power_watts")), right=True),
        Column("BUSY", lambda status: units.percent(_sample(status, "utilisation")), right=True),
        Column("HEARD", lambda status: units.duration(optional(status, "age_seconds")), right=True),
        Column("STACK", lambda status: status.device.stack, wide=True),
        Column("JOBS", lambda status: short_list(list(status.job_ids)), wide=True),
        Column("ID", lambda status: status.device.device_id, wide=True),
    ),
)  # fmt: skip


def quota_text(queue: fleet_pb2.Queue) -> str:
    """ "16 H100-SXM,24 GPU": what the queue owns."""
    return ",".join(f"{one.devices:g} {one.accelerator or 'any'}" for one in queue.quotas) or units.UNKNOWN


def _in_quota(field: str) -> Callable[[fleet_pb2.Queue], str]:
    """ "3 H100-SXM,0 GPU": of each accelerator on which a quota limits the queue."""

    def text(queue: fleet_pb2.Queue) -> str:
        return ",".join(f"{getattr(one, field):g} {one.accelerator or 'any'}" for one in queue.quota_use)

    return lambda queue: text(queue) or units.UNKNOWN


QUEUE: Kind[fleet_pb2.Queue] = Kind(
    "queue", "queues", lambda queue: queue.name,
    (
        Column("NAME", lambda queue: queue.name),
        Column("PARENT", lambda queue: queue.parent or units.UNKNOWN),
        Column("WEIGHT", lambda queue: f"{queue.weight:g}", right=True),
        Column("PENDING", lambda queue: str(queue.pending_jobs), right=True),
        Column("RUNNING", lambda queue: str(queue.running_jobs), right=True),
        Column("DEVICES", lambda queue: f"{queue.devices_in_use:g}", right=True),
        Column("SHARE", lambda queue: f"{queue.share:.2f}", right=True),
        Column("QUOTA", quota_text),
        Column("BORROWED", lambda queue: f"{queue.devices_borrowed:g}" if queue.quotas else units.UNKNOWN, right=True),
        Column("LIMIT", lambda queue: str(queue.device_limit or units.UNKNOWN), right=True),
        Column("USED", _in_quota("used"), wide=True),
        Column("LENT", _in_quota("lent"), wide=True),
        Column("BORROWABLE", _in_quota("borrowable"), wide=True),
        Column("TENANTS", lambda queue: ",".join(queue.tenants) or "any", wide=True),
    ),
)  # fmt: skip

ADVICE: Kind[placement_pb2.Advice] = Kind(
    "advice", "advice", lambda advice: f"{advice.kind}/{advice.subject}",
    (
        Column("KIND", lambda advice: advice.kind),
        Column("SUBJECT", lambda advice: advice.subject),
        Column("AGE", lambda advice: units.age(advice, "given_at"), right=True),
        Column("MOVES", lambda advice: short_list([move.job_id for move in advice.moves])),
        Column("MESSAGE", lambda advice: advice.message),
        Column("POOL", lambda advice: advice.pool, wide=True),
    ),
)  # fmt: skip

DECISION: Kind[placement_pb2.Decision] = Kind(
    "decision", "decisions", lambda decision: f"{decision.job_id}.{decision.attempt}",
    (
        Column("SEQUENCE", lambda decision: str(decision.sequence), right=True),
        Column("JOB", lambda decision: decision.job_name),
        Column("ATTEMPT", lambda decision: str(decision.attempt), right=True),
        Column("QUEUE", lambda decision: decision.queue),
        Column("NODES", _nodes),
        Column("DEVICES", lambda decision: str(sum(len(member.devices) for member in decision.members)), right=True),
        Column("AGE", lambda decision: units.age(decision, "decided_at"), right=True),
        Column("EPOCH", lambda decision: str(decision.epoch), wide=True, right=True),
        Column("TENANT", lambda decision: decision.tenant, wide=True),
        Column("JOB ID", lambda decision: decision.job_id, wide=True),
    ),
)  # fmt: skip


def _rate(profile: Any) -> str:
    value = optional(profile, "throughput")
    return (
        units.UNKNOWN if value is None else f"{value:,.{0 if value >= 100 else 2}f} {profile.throughput_unit}".rstrip()
    )


def _profile_name(profile: Any) -> str:
    plain = f"{profile.workload}@{profile.accelerator}x{profile.devices}"
    return f"{plain}[{profile.configuration}]" if profile.configuration else plain


PROFILE: Kind[Any] = Kind(
    "profile", "profiles", _profile_name,
    (
        Column("WORKLOAD", lambda profile: profile.workload),
        Column("ACCELERATOR", lambda profile: profile.accelerator),
        Column("DEVICES", lambda profile: str(profile.devices), right=True),
        Column("RUN AS", lambda profile: profile.configuration or units.UNKNOWN),
        Column("THROUGHPUT", _rate, right=True),
        Column("P99", lambda profile: units.duration(optional(profile, "latency_p99_seconds")), right=True),
        Column("POWER", lambda profile: units.watts(optional(profile, "power_watts")), right=True),
        Column("PROVENANCE", lambda profile: _enum(profile, "provenance", "PROVENANCE_")),
        Column("WITH", lambda profile: profile.co_located_with or units.UNKNOWN, wide=True),
        Column("SOURCE", lambda profile: profile.source, wide=True),
    ),
)  # fmt: skip
