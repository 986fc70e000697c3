"""Protobuf at the edge: decisions in, what is told out."""

import re

from google.protobuf.message import DecodeError

from berth.errors import FieldError, InvalidInput
from berth.kafka import Record
from berth.outbox import OutgoingRecord
from berth.topics import BINDINGS_SETTLED, JOBS_LIFECYCLE, cloud_event_headers
from berth.v1 import binding_pb2 as pb
from berth.v1.jobs_pb2 import JobSpec
from binder.domain.attempt import Attempt, AttemptId, Event, Lifecycle, LifecycleKind, Outcome, Settled, State
from binder.domain.intake import BindCommand, Command, ReleaseCommand
from binder.domain.report import Speed
from binder.domain.work import Assignment, DeviceClaim, Member, Model, PodReference, Work
from binder.domain.work import Command as RunCommand

__all__ = ["Undecodable", "attempt_message", "command_of", "observed", "outgoing", "work_of"]

SOURCE = "berth/binder"
WHOLE_DEVICE = 1000

# A job id is part of a folder's name.
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_OUTCOMES = {
    Outcome.BOUND: pb.BIND_OUTCOME_BOUND,
    Outcome.FAILED: pb.BIND_OUTCOME_FAILED,
    Outcome.UNKNOWN: pb.BIND_OUTCOME_UNKNOWN,
}
_KINDS = {
    LifecycleKind.STARTED: pb.LIFECYCLE_EVENT_STARTED,
    LifecycleKind.SUCCEEDED: pb.LIFECYCLE_EVENT_SUCCEEDED,
    LifecycleKind.FAILED: pb.LIFECYCLE_EVENT_FAILED,
    LifecycleKind.RELEASED: pb.LIFECYCLE_EVENT_RELEASED,
}
_STATES: "dict[State, pb.AttemptState.ValueType]" = {
    State.INTENT: pb.ATTEMPT_STATE_INTENT,
    State.UNKNOWN: pb.ATTEMPT_STATE_UNKNOWN,
    State.BOUND: pb.ATTEMPT_STATE_BOUND,
    State.RUNNING: pb.ATTEMPT_STATE_RUNNING,
    State.SUCCEEDED: pb.ATTEMPT_STATE_SUCCEEDED,
    State.FAILED: pb.ATTEMPT_STATE_FAILED,
    State.RELEASED: pb.ATTEMPT_STATE_RELEASED,
}


class Undecodable(Exception):
    """The bytes are no PlacementDecided."""


def command_of(record: Record) -> Command:
    """Raises Undecodable, or InvalidInput naming every field that is wrong."""
    try:
        decided = pb.PlacementDecided.FromString(record.value)
    except DecodeError as error:
        raise Undecodable(f"value: {len(record.value)} bytes: not a berth.v1.PlacementDecided: {error}") from error
    errors = []
    if _JOB_ID.fullmatch(decided.job_id) is None:
        remedy = "write 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        errors.append(FieldError("job_id", decided.job_id, remedy))
    if decided.attempt < 1:
        errors.append(FieldError("attempt", str(decided.attempt), "attempts count from 1"))
    action = decided.WhichOneof("action")
    if action is None:
        errors.append(FieldError("action", "", "give bind or release"))
    if action == "bind":
        members = sorted(member.member for member in decided.bind.members)
        if not members or members != list(range(len(members))):
            errors.append(
                FieldError("bind.members", str(members[:20]), "number the members 0, 1, 2, ..., at least one")
            )
    if errors:
        raise InvalidInput(errors)
    attempt_id = AttemptId(decided.job_id, decided.attempt)
    decided_at = decided.decided_at.ToNanoseconds() / 1e9 if decided.HasField("decided_at") else record.timestamp
    traceparent = record.header("traceparent")
    if action == "release":
        return ReleaseCommand(attempt_id, decided.version, decided.release.reason, decided_at, traceparent)
    spec = decided.bind.spec
    by_payload = {"command": "process", "kubernetes": "kubernetes", "model": "triton"}.get(
        spec.WhichOneof("payload") or "", "simulated"
    )
    return BindCommand(
        id=attempt_id,
        version=decided.version,
        executor=decided.bind.executor or spec.executor or by_payload,
        tenant=spec.tenant or "default",
        members=len(decided.bind.members),
        bind=decided.bind.SerializeToString(),
        decided_at=decided_at,
        traceparent=traceparent,
    )


def work_of(bind: bytes) -> Work:
    """What a stored Bind asks for; no members where a Release came first."""
    message = pb.Bind.FromString(bind)
    spec = message.spec
    command = None
    if spec.HasField("command"):
        command = RunCommand(tuple(spec.command.argv), dict(spec.command.environment), spec.command.working_directory)
    members = [
        Member(
            member=member.member,
            node=member.node,
            devices=tuple(
                DeviceClaim(claim.device_id, claim.index, claim.milli, claim.model, claim.partition)
                for claim in member.devices
            ),
            cpu_milli=member.cpu_milli,
            memory_bytes=member.memory_bytes,
        )
        for member in message.members
    ]
    expected = spec.expected_duration.ToNanoseconds() / 1e9 if spec.HasField("expected_duration") else None
    return Work(
        members=tuple(sorted(members, key=lambda member: member.member)),
        command=command,
        manifest=spec.kubernetes.manifest if spec.HasField("kubernetes") else "",
        model=_model_of(spec) if spec.HasField("model") else None,
        expected_seconds=expected,
        pods=tuple(PodReference(one.namespace, one.name, one.uid) for one in spec.kubernetes.pods),
        workload=spec.workload,
    )


def _model_of(spec: JobSpec) -> Model:
    model = spec.model
    return Model(
        uri=model.uri,
        name=model.name or spec.name,
        digest=model.digest.lower(),
        max_batch_size=model.max_batch_size,
        instances=model.instances or 1,
        parameters=dict(model.parameters),
    )


def outgoing(attempt: Attempt, event: Event) -> OutgoingRecord:
    """The record that tells `event` of `attempt`, keyed by job id."""
    topic, event_type, value = _settled(attempt, event) if isinstance(event, Settled) else _lifecycle(attempt, event)
    headers = cloud_event_headers(
        event_id=f"{attempt.id}.{event.version}",
        event_type=event_type,
        source=SOURCE,
        traceparent=attempt.traceparent,
    )
    return OutgoingRecord(topic, attempt.id.job_id.encode(), value, headers)


def _settled(attempt: Attempt, event: Settled) -> tuple[str, str, bytes]:
    message = pb.BindingSettled(
        job_id=attempt.id.job_id,
        attempt=attempt.id.attempt,
        version=event.version,
        outcome=_OUTCOMES[event.outcome],
        message=event.message,
        retryable=event.retryable,
    )
    message.settled_at.FromNanoseconds(int(event.at * 1e9))
    return BINDINGS_SETTLED, "berth.v1.BindingSettled", message.SerializeToString()


def _lifecycle(attempt: Attempt, event: Lifecycle) -> tuple[str, str, bytes]:
    message = pb.JobLifecycle(
        job_id=attempt.id.job_id,
        attempt=attempt.id.attempt,
        version=event.version,
        event=_KINDS[event.kind],
        message=event.message,
        exit_code=event.exit_code,
        endpoints=event.endpoints,
    )
    message.occurred_at.FromNanoseconds(int(event.at * 1e9))
    return JOBS_LIFECYCLE, "berth.v1.JobLifecycle", message.SerializeToString()


def observed(assignment: Assignment, speed: Speed, sequence: int, span: tuple[float, float]) -> OutgoingRecord | None:
    """The record that tells `speed` as the attempt's observation number `sequence`; `span` in seconds since the
    epoch. None: it has no device, or devices of several models, so that it is nobody's speed."""
    attempt, members = assignment.attempt, assignment.work.members
    claims = [claim for member in members for claim in member.devices]
    models = {claim.model for claim in claims}
    if len(models) != 1 or "" in models:
        return None
    message = pb.JobLifecycle(
        job_id=attempt.id.job_id, attempt=attempt.id.attempt, version=sequence, event=pb.LIFECYCLE_EVENT_OBSERVED
    )
    message.occurred_at.FromNanoseconds(int(span[1] * 1e9))
    told = message.observation
    told.workload, told.accelerator, told.devices = assignment.work.workload, models.pop(), len(claims)
    told.device_ids.extend(claim.device_id for claim in claims)
    told.nodes.extend(sorted({member.node for member in members}))
    told.units, told.unit, told.seconds, told.source = speed.units, speed.unit, speed.seconds, speed.source
    told.precision, told.software_stack = speed.precision, speed.software_stack
    for name in ("batch_size", "latency_p50_seconds", "latency_p90_seconds", "latency_p99_seconds"):
        if (value := getattr(speed, name)) is not None:
            setattr(told, name, value)
    getattr(told, "from").FromNanoseconds(int(span[0] * 1e9))
    told.to.FromNanoseconds(int(span[1] * 1e9))
    told.members, told.members_counted = len(members), speed.members_counted
    told.shared = any(claim.milli < WHOLE_DEVICE or claim.partition for claim in claims)
    headers = cloud_event_headers(
        event_id=f"{attempt.id}.observed.{sequence}",
        event_type="berth.v1.JobLifecycle",
        source=SOURCE,
        traceparent=attempt.traceparent,
    )
    return OutgoingRecord(JOBS_LIFECYCLE, attempt.id.job_id.encode(), message.SerializeToString(), headers)


def attempt_message(attempt: Attempt) -> pb.Attempt:
    message = pb.Attempt(
        job_id=attempt.id.job_id,
        attempt=attempt.id.attempt,
        state=_STATES[attempt.state],
        executor=attempt.executor,
        message=attempt.message,
    )
    message.intended_at.FromNanoseconds(int(attempt.intended_at * 1e9))
    settled_at = attempt.bound_at if attempt.bound_at is not None else attempt.ended_at
    if settled_at is not None:
        message.settled_at.FromNanoseconds(int(settled_at * 1e9))
    return message
