"""Protobuf at the edge, domain messages inside."""

from collections.abc import Iterable
from typing import Any

from berth.catalogue import Accelerator as CatalogueEntry
from berth.v1 import binding_pb2, fleet_pb2, jobs_pb2, placement_pb2, profiles_pb2, telemetry_pb2
from placement_engine.domain import model
from placement_engine.domain.job_state import Event, EventKind, JobRow, refused_still
from placement_engine.domain.node_constraints import NAME_KEY, NodeConstraints, NodeRequirement, Taint, Toleration
from placement_engine.domain.readouts import DeviceView, NodeView
from placement_engine.simulation.whatif.compare import Changes, Comparison

_KINDS = {
    jobs_pb2.JOB_KIND_TRAINING: model.JobKind.TRAINING,
    jobs_pb2.JOB_KIND_INFERENCE: model.JobKind.INFERENCE,
}
_OBJECTIVES = {
    jobs_pb2.OBJECTIVE_TIME: model.Objective.TIME,
    jobs_pb2.OBJECTIVE_LATENCY: model.Objective.LATENCY,
    jobs_pb2.OBJECTIVE_ENERGY: model.Objective.ENERGY,
}
_PROVENANCE = {
    model.Provenance.OBSERVED: profiles_pb2.PROVENANCE_OBSERVED,
    model.Provenance.MEASURED: profiles_pb2.PROVENANCE_MEASURED,
    model.Provenance.INTERPOLATED: profiles_pb2.PROVENANCE_INTERPOLATED,
    model.Provenance.TRANSFERRED: profiles_pb2.PROVENANCE_TRANSFERRED,
    model.Provenance.ROOFLINE: profiles_pb2.PROVENANCE_ROOFLINE,
    model.Provenance.DECLARED: profiles_pb2.PROVENANCE_DECLARED,
    model.Provenance.UNKNOWN: profiles_pb2.PROVENANCE_UNSPECIFIED,
}
_PROVENANCE_BACK = {value: key for key, value in _PROVENANCE.items()}
_RECLAIM = {
    fleet_pb2.RECLAIM_LOWER_PRIORITY: model.Reclaim.LOWER_PRIORITY,
    fleet_pb2.RECLAIM_NEVER: model.Reclaim.NEVER,
}
_SAMPLE_FIELDS = tuple(
    field.name for field in telemetry_pb2.DeviceSample.DESCRIPTOR.fields if field.name != "device_id"
)


def optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def seconds(message: Any, field: str) -> float | None:
    """A Timestamp or Duration field in seconds, None where it is absent."""
    return getattr(message, field).ToNanoseconds() / 1e9 if message.HasField(field) else None


def job_from_spec(
    spec: jobs_pb2.JobSpec, *, job_id: str, submitted_at: float, attempt: int, not_before: float = 0.0
) -> model.Job:
    resources = spec.resources
    return model.Job(
        job_id=job_id,
        name=spec.name,
        tenant=spec.tenant,
        queue=spec.queue,
        pool=spec.pool,
        priority=spec.priority,
        kind=_KINDS.get(spec.kind, model.JobKind.BATCH),
        replicas=spec.replicas,
        devices=resources.devices,
        device_milli=resources.device_milli,
        device_memory_bytes=resources.device_memory_bytes,
        cpu_milli=resources.cpu_milli,
        memory_bytes=resources.memory_bytes,
        models=tuple(spec.accelerators.models),
        classes=tuple(spec.accelerators.classes),
        stacks=tuple(spec.accelerators.stacks),
        traits=tuple(sorted(spec.accelerators.traits)),
        workload=spec.workload,
        objective=_OBJECTIVES.get(spec.objective, model.Objective.COST),
        deadline=seconds(spec, "deadline"),
        latency_target_seconds=seconds(spec, "latency_target"),
        topology_level=spec.topology.level,
        topology_required=spec.topology.required,
        preemptible=spec.preemptible,
        expected_duration_seconds=seconds(spec, "expected_duration"),
        executor=spec.executor,
        submitted_at=submitted_at,
        attempt=attempt,
        not_before=not_before,
        min_replicas=spec.min_replicas,
        max_devices=resources.max_devices,
        device_share_bytes=resources.device_share_bytes,
        partition=resources.partition,
        groups=tuple(member_group(one) for one in spec.member_groups),
        preferred_level=spec.topology.preferred_level,
        group_size=spec.topology.group_size,
        group_level=spec.topology.group_level,
        character=character(spec.character) if spec.HasField("character") else None,
        checkpoint_seconds=seconds(spec, "checkpoint_interval"),
        nodes=node_constraints(spec.nodes),
    )


def member_group(group: jobs_pb2.MemberGroup) -> model.MemberGroup:
    resources, accelerators = group.resources, group.accelerators
    return model.MemberGroup(
        name=group.name,
        replicas=group.replicas,
        min_replicas=group.min_replicas or group.replicas,
        devices=resources.devices,
        device_milli=resources.device_milli,
        device_share_bytes=resources.device_share_bytes,
        partition=resources.partition,
        device_memory_bytes=resources.device_memory_bytes,
        cpu_milli=resources.cpu_milli,
        memory_bytes=resources.memory_bytes,
        models=tuple(accelerators.models),
        classes=tuple(accelerators.classes),
        stacks=tuple(accelerators.stacks),
        nodes=node_constraints(group.nodes) if group.HasField("nodes") else None,
        traits=tuple(sorted(accelerators.traits)),
    )


def character(record: jobs_pb2.WorkloadCharacter) -> model.Character:
    return model.Character(
        operations=record.operations,
        bytes_moved=record.bytes_moved,
        dense_fraction=record.dense_fraction if record.HasField("dense_fraction") else 1.0,
        precision=record.precision or "fp16",
        calls=record.calls if record.HasField("calls") else None,
    )


def waiting_job(row: JobRow, now: float) -> model.Job:
    """The job as the core plans it: its next attempt, away from nodes that refused it not long before `now`."""
    return job_from_spec(
        away_from(jobs_pb2.JobSpec.FromString(row.spec), refused_still(row, now)),
        job_id=row.job_id,
        submitted_at=row.accepted_at,
        attempt=row.attempt + 1,
        not_before=row.not_before,
    )


def away_from(spec: jobs_pb2.JobSpec, nodes: Iterable[str]) -> jobs_pb2.JobSpec:
    """The spec with these nodes left out, also for member groups that have conditions of their own."""
    names = sorted(nodes)
    if names:
        own = [group.nodes for group in spec.member_groups if group.HasField("nodes")]
        for constraints in (spec.nodes, *own):
            if not constraints.required:
                constraints.required.add()
            for term in constraints.required:
                term.requirements.add(key=NAME_KEY, operator="NotIn", values=names)
    return spec


def held_claim(row: JobRow) -> model.Claim:
    job = job_from_spec(
        jobs_pb2.JobSpec.FromString(row.spec), job_id=row.job_id, submitted_at=row.accepted_at, attempt=row.attempt
    )
    return model.Claim(
        job=job,
        members=members_from(placement_pb2.Decision.FromString(row.members).members),
        placed_at=row.placed_at,
        started_at=row.started_at,
    )


def members_from(members: Iterable[jobs_pb2.MemberPlacement]) -> tuple[model.Member, ...]:
    return tuple(
        model.Member(
            member=one.member,
            node=one.node,
            devices=tuple(
                model.DeviceClaim(
                    d.device_id, d.index, d.milli, d.memory_bytes, d.model, d.partition, d.partition_start
                )
                for d in one.devices
            ),
            cpu_milli=one.cpu_milli,
            memory_bytes=one.memory_bytes,
            group=one.group,
        )
        for one in members
    )


def members_to(members: Iterable[model.Member]) -> list[jobs_pb2.MemberPlacement]:
    return [
        jobs_pb2.MemberPlacement(
            member=one.member,
            node=one.node,
            devices=[
                jobs_pb2.DeviceClaim(
                    device_id=d.device_id,
                    index=d.index,
                    milli=d.milli,
                    memory_bytes=d.memory_bytes,
                    model=d.model,
                    partition=d.partition,
                    partition_start=d.partition_start,
                )
                for d in one.devices
            ],
            cpu_milli=one.cpu_milli,
            memory_bytes=one.memory_bytes,
            group=one.group,
        )
        for one in members
    ]


def node_from(record: fleet_pb2.Node) -> model.Node:
    return model.Node(
        name=record.name,
        pool=record.pool or "default",
        devices=tuple(
            model.Device(
                device_id=d.device_id,
                index=d.index,
                model=d.model,
                device_class=d.device_class,
                stack=d.stack,
                memory_bytes=d.memory_bytes or None,
                power_limit_watts=d.power_limit_watts or None,
                present=d.present,
                topology=dict(d.topology),
                partitionable=d.partitionable,
                held_by=d.held_by,
                partition=d.partition,
                traits=tuple(d.traits),
            )
            for d in record.devices
        ),
        cpu_milli=record.cpu_milli,
        memory_bytes=record.memory_bytes,
        topology=dict(record.topology),
        labels=dict(record.labels),
        power_cap_watts=record.power_cap_watts or None,
        executors=tuple(record.executors),
        schedulable=record.schedulable and not record.removed,
        cordon_reason=record.cordon_reason,
        telemetry_exempt=record.telemetry_exempt,
        taints=tuple(Taint(one.key, one.value, one.effect) for one in record.taints),
        cpu_milli_elsewhere=record.cpu_milli_elsewhere,
        memory_bytes_elsewhere=record.memory_bytes_elsewhere,
        pod_limit=optional(record, "pod_limit"),
        pods_elsewhere=record.pods_elsewhere,
    )


def node_constraints(record: jobs_pb2.NodeConstraints) -> NodeConstraints:
    return NodeConstraints(
        required=tuple(
            tuple(NodeRequirement(one.key, one.operator, tuple(one.values)) for one in term.requirements)
            for term in record.required
        ),
        tolerations=tuple(Toleration(one.key, one.operator, one.value, one.effect) for one in record.tolerations),
    )


def sample_from(record: telemetry_pb2.NodeTelemetry) -> model.NodeSample:
    return model.NodeSample(
        node=record.node,
        received_at=record.received_at.ToNanoseconds() / 1e9,
        devices=tuple(
            model.DeviceSample(d.device_id, **{field: optional(d, field) for field in _SAMPLE_FIELDS})
            for d in record.devices
        ),
        power_watts=optional(record, "node_power_watts"),
        cpu_utilisation=optional(record, "cpu_utilisation"),
        memory_used_bytes=optional(record, "memory_used_bytes"),
    )


def sample_to(sample: model.DeviceSample) -> telemetry_pb2.DeviceSample:
    known = {field: getattr(sample, field) for field in _SAMPLE_FIELDS if getattr(sample, field) is not None}
    return telemetry_pb2.DeviceSample(device_id=sample.device_id, **known)


def profile_from(record: profiles_pb2.Profile) -> model.Profile:
    return model.Profile(
        workload=record.workload,
        accelerator=record.accelerator,
        devices=record.devices,
        throughput=optional(record, "throughput"),
        latency_p99_seconds=optional(record, "latency_p99_seconds"),
        latency_p99_high_seconds=optional(record, "latency_p99_high_seconds"),
        memory_bytes=optional(record, "memory_bytes"),
        power_watts=optional(record, "power_watts"),
        peak_power_watts=optional(record, "peak_power_watts"),
        price_per_hour=optional(record, "price_per_hour"),
        provenance=_PROVENANCE_BACK.get(record.provenance, model.Provenance.UNKNOWN),
        relative_uncertainty=optional(record, "relative_uncertainty"),
    )


def accelerator_from(entry: CatalogueEntry) -> model.Accelerator:
    return model.Accelerator(
        name=entry.name,
        device_class=entry.device_class,
        stack=entry.stack,
        memory_bytes=entry.memory_bytes,
        memory_bandwidth=entry.memory_bandwidth,
        dense_fp16_tflops=entry.peak("fp16"),
        tdp_watts=entry.tdp_watts,
        price_per_hour=entry.price_per_hour,
        dense_fp8_tflops=entry.peak("fp8"),
        dense_int8_tops=entry.peak("int8"),
        idle_watts=entry.idle_watts,
        partitions=tuple(
            model.Partition(one.name, one.compute_slices, one.memory_slices, one.starts, one.memory_bytes or 0)
            for one in entry.partitions
        ),
    )


def queue_from(record: fleet_pb2.Queue) -> model.Queue:
    return model.Queue(
        name=record.name,
        parent=record.parent,
        weight=record.weight or 1.0,
        tenants=tuple(record.tenants),
        device_limit=record.device_limit or None,
        quotas=tuple(
            model.Quota(
                accelerator=one.accelerator,
                milli=round(one.devices * 1000),
                borrowing_limit=_milli(one, "borrowing_limit"),
                lending_limit=_milli(one, "lending_limit"),
            )
            for one in record.quotas
        ),
        reclaim=_RECLAIM.get(record.reclaim, model.Reclaim.ANY),
        protected_seconds=record.protected_seconds,
    )


def _milli(record: fleet_pb2.Quota, field: str) -> int | None:
    value = optional(record, field)
    return None if value is None else round(value * 1000)


def job_to(row: JobRow) -> jobs_pb2.Job:
    job = jobs_pb2.Job(
        job_id=row.job_id,
        state=int(row.state),  # type: ignore[arg-type]
        message=row.message,
        attempt=row.attempt,
        version=row.version,
        traceparent=row.traceparent,
        preemptions=row.preemptions,
        endpoints=row.endpoints,
    )
    job.spec.ParseFromString(row.spec)
    for field in ("submitted_at", "accepted_at", "placed_at", "bound_at", "started_at", "finished_at"):
        moment = getattr(row, field)
        if moment is not None:
            getattr(job, field).FromNanoseconds(int(moment * 1e9))
    if row.members:
        job.members.extend(placement_pb2.Decision.FromString(row.members).members)
    return job


def explanation_of_decision(decision: model.Decision, now: float) -> placement_pb2.Explanation:
    expected = decision.expectation
    expectation = placement_pb2.Expectation(
        accelerator=expected.accelerator, devices=expected.devices, provenance=_PROVENANCE[expected.provenance]
    )
    for field in ("duration_seconds", "cost_dollars", "energy_joules", "latency_seconds", "relative_uncertainty"):
        if getattr(expected, field) is not None:
            setattr(expectation, field, getattr(expected, field))
    explanation = placement_pb2.Explanation(
        job_id=decision.job_id,
        state=jobs_pb2.JOB_STATE_PLACED,
        summary=decision.summary,
        candidates=[
            placement_pb2.Candidate(
                node=one.node,
                accelerator=one.accelerator,
                score=one.score,
                terms=[
                    placement_pb2.ScoreTerm(plugin=t.plugin, value=t.value, weight=t.weight, detail=t.detail)
                    for t in one.terms
                ],
            )
            for one in decision.candidates
        ],
        expectation=expectation,
        nodes_considered=decision.nodes_considered,
    )
    explanation.evaluated_at.FromNanoseconds(int(now * 1e9))
    return explanation


def explanation_of_rejection(rejection: model.Rejection, now: float) -> placement_pb2.Explanation:
    explanation = placement_pb2.Explanation(
        job_id=rejection.job_id,
        state=jobs_pb2.JOB_STATE_PENDING,
        summary=rejection.summary,
        reasons=[
            placement_pb2.Reason(
                plugin=one.plugin,
                code=one.code,
                nodes=one.nodes,
                devices=one.devices,
                message=one.message,
                numbers=dict(one.numbers),
            )
            for one in rejection.reasons
        ],
        remedies=rejection.remedies,
        nodes_considered=rejection.nodes_considered,
        queue_position=rejection.queue_position,
        changes=[
            placement_pb2.Remedy(
                kind=one.kind.value, message=one.message, numbers=dict(one.numbers), subjects=one.subjects
            )
            for one in rejection.changes
        ],
        expected_start_at_least=rejection.expected_start_at_least,
        expected_after=rejection.expected_start_after,
        nominated_nodes=rejection.nominated,
    )
    if rejection.expected_start is not None:
        explanation.expected_start.FromNanoseconds(int(rejection.expected_start * 1e9))
    explanation.evaluated_at.FromNanoseconds(int(now * 1e9))
    return explanation


def advice_to(advice: model.Advice, given_at: float, pool: str) -> placement_pb2.Advice:
    record = placement_pb2.Advice(
        kind=advice.kind.value,
        subject=advice.subject,
        message=advice.message,
        moves=[
            placement_pb2.Move(job_id=move.job_id, sources=move.sources, targets=move.targets) for move in advice.moves
        ],
        numbers=dict(advice.numbers),
        pool=pool,
    )
    record.given_at.FromNanoseconds(int(given_at * 1e9))
    return record


def changes_from(request: placement_pb2.WhatIfRequest, jobs: Iterable[jobs_pb2.JobSpec], now: float) -> Changes:
    """`jobs`: validated."""
    return Changes(
        add_nodes=tuple(node_from(one) for one in request.add_nodes),
        remove_nodes=tuple(request.remove_nodes),
        queues=tuple(queue_from(one) for one in request.queues),
        policy=dict(request.policy),
        prices=dict(request.prices),
        jobs=tuple(job_from_spec(one, job_id=f"new/{one.name}", submitted_at=now, attempt=1) for one in jobs),
    )


def comparison_to(found: Comparison) -> placement_pb2.WhatIfResponse:
    response = placement_pb2.WhatIfResponse(notes=found.notes)
    for target, outcome in ((response.base, found.base), (response.changed, found.changed)):
        for field in placement_pb2.Outcome.DESCRIPTOR.fields:
            value = getattr(outcome, field.name)
            if value is not None:
                setattr(target, field.name, value)
    for job in found.jobs:
        row = response.jobs.add(
            job_id=job.job_id, name=job.name, base_nodes=job.base_nodes, changed_nodes=job.changed_nodes
        )
        for field_name in ("base_start_seconds", "base_end_seconds", "changed_start_seconds", "changed_end_seconds"):
            value = getattr(job, field_name)
            if value is not None:
                setattr(row, field_name, value)
    return response


def device_status(view: DeviceView, node: str, record: fleet_pb2.Device) -> placement_pb2.DeviceStatus:
    status = placement_pb2.DeviceStatus(
        device=record,
        node=node,
        used_milli=view.used_milli,
        claimed_memory_bytes=view.claimed_memory_bytes,
        blocked=view.blocked,
        job_ids=view.job_ids,
    )
    if view.sample is not None:
        status.sample.CopyFrom(sample_to(view.sample))
        if view.margin_celsius is not None:
            status.sample.margin_celsius = view.margin_celsius
    for field in ("age_seconds", "forecast_celsius", "free_slices"):
        value = getattr(view, field)
        if value is not None:
            setattr(status, field, value)
    return status


def node_status(view: NodeView, record: fleet_pb2.Node, *, with_devices: bool) -> placement_pb2.NodeStatus:
    status = placement_pb2.NodeStatus(
        node=record,
        used_cpu_milli=view.used_cpu_milli,
        used_memory_bytes=view.used_memory_bytes,
        used_pods=view.used_pods,
        devices_free=view.devices_free,
    )
    if view.age_seconds is not None:
        status.age_seconds = view.age_seconds
    if view.sample is not None:
        for target, source in (
            ("power_watts", view.sample.power_watts),
            ("cpu_utilisation", view.sample.cpu_utilisation),
            ("memory_used_bytes", view.sample.memory_used_bytes),
        ):
            if source is not None:
                setattr(status, target, source)
    if with_devices:
        by_id = {device.device_id: device for device in record.devices}
        status.devices.extend(
            device_status(one, record.name, by_id.get(one.device.device_id, fleet_pb2.Device())) for one in view.devices
        )
    return status


_OUTCOMES = {
    binding_pb2.BIND_OUTCOME_BOUND: EventKind.BOUND,
    binding_pb2.BIND_OUTCOME_FAILED: EventKind.BIND_FAILED,
    binding_pb2.BIND_OUTCOME_UNKNOWN: EventKind.BIND_UNKNOWN,
}
_EVENTS = {
    binding_pb2.LIFECYCLE_EVENT_STARTED: EventKind.STARTED,
    binding_pb2.LIFECYCLE_EVENT_SUCCEEDED: EventKind.SUCCEEDED,
    binding_pb2.LIFECYCLE_EVENT_FAILED: EventKind.FAILED,
    binding_pb2.LIFECYCLE_EVENT_RELEASED: EventKind.RELEASED,
}


def settled_event(value: bytes) -> Event:
    """Raises DecodeError for broken bytes, ValueError for an unknown outcome."""
    record = binding_pb2.BindingSettled.FromString(value)
    if record.outcome not in _OUTCOMES:
        raise ValueError(f"outcome: {record.outcome}: known: 1 bound, 2 failed, 3 unknown")
    return Event(
        kind=_OUTCOMES[record.outcome],
        job_id=record.job_id,
        attempt=record.attempt,
        version=record.version,
        at=record.settled_at.ToNanoseconds() / 1e9,
        message=record.message,
        retryable=record.retryable,
    )


def lifecycle_event(value: bytes) -> Event | None:
    """None: it says how fast a job is, nothing of its state. Raises DecodeError for broken bytes, ValueError for an
    unknown event."""
    record = binding_pb2.JobLifecycle.FromString(value)
    if record.event == binding_pb2.LIFECYCLE_EVENT_OBSERVED:
        return None
    if record.event not in _EVENTS:
        raise ValueError(f"event: {record.event}: known: 1 started, 2 succeeded, 3 failed, 4 released")
    return Event(
        kind=_EVENTS[record.event],
        job_id=record.job_id,
        attempt=record.attempt,
        version=record.version,
        at=record.occurred_at.ToNanoseconds() / 1e9,
        message=record.message,
        endpoints=tuple(record.endpoints),
    )
