"""jobs.lifecycle and telemetry.devices at the edge: spans of work, and what devices say of their heat."""

from collections.abc import Callable
from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from berth.errors import InvalidInput
from berth.v1 import binding_pb2, profiles_pb2, telemetry_pb2
from profile_store.domain.learning import Estimate, Latencies, Reason, Run, Span
from profile_store.domain.profile import Profile, ProfileKey, Provenance
from profile_store.domain.throttling import Reported, ThrottleWatch
from profile_store.domain.validation import Catalogue, known_accelerator, validate

__all__ = ["heard", "learnt_message", "observed", "span_of"]


def observed(value: bytes) -> binding_pb2.JobLifecycle | None:
    """None: it is about something else, or unreadable, which the engine puts aside."""
    try:
        record = binding_pb2.JobLifecycle.FromString(value)
    except DecodeError:
        return None
    return record if record.event == binding_pb2.LIFECYCLE_EVENT_OBSERVED else None


def span_of(
    record: binding_pb2.JobLifecycle, catalogue: Catalogue, watch: ThrottleWatch, now: Callable[[], datetime]
) -> Span:
    """Checked as a profile that is put or imported is. Raises InvalidInput."""
    told = record.observation
    if not told.seconds > 0:
        raise InvalidInput.of("observation.seconds", told.seconds, "seconds of work, above 0")
    if record.version < 1 or not record.job_id:
        raise InvalidInput.of("version", record.version, "observations of a job's attempt count from 1")
    start, end = _moment("from", getattr(told, "from")), _moment("to", told.to)
    if end < start:
        raise InvalidInput.of("observation.to", end.isoformat(), "not before `from`")
    trial = Profile(
        key=ProfileKey(told.workload, told.accelerator, told.devices),
        provenance=Provenance.OBSERVED,
        source="running jobs",
        precision=told.precision,
        software_stack=told.software_stack,
        batch_size=told.batch_size if told.HasField("batch_size") else None,
        throughput=told.units / told.seconds,
        throughput_unit=f"{told.unit}/s",
        latency_p50_seconds=told.latency_p50_seconds if told.HasField("latency_p50_seconds") else None,
        latency_p90_seconds=told.latency_p90_seconds if told.HasField("latency_p90_seconds") else None,
        latency_p99_seconds=told.latency_p99_seconds if told.HasField("latency_p99_seconds") else None,
        measured_at=end,
    )
    (sound,) = validate([trial], catalogue, now=now())
    tdp = known_accelerator(catalogue, told.accelerator).tdp_watts
    return Span(
        run=Run(record.job_id, record.attempt),
        sequence=record.version,
        key=sound.key,
        units=told.units,
        unit=told.unit,
        seconds=told.seconds,
        at=end,
        watched=watch.during(told.device_ids, start.timestamp(), end.timestamp(), tdp),
        whole=told.members_counted == told.members,
        alone=not told.shared,
        batch_size=sound.batch_size,
        precision=sound.precision,
        software_stack=sound.software_stack,
        latencies=Latencies(*(getattr(sound, field) for field in Latencies.FIELDS)),
    )


def heard(value: bytes) -> tuple[float, list[Reported]]:
    """When telemetry of a node was received, seconds since the epoch, and what its devices said. Raises DecodeError."""
    record = telemetry_pb2.NodeTelemetry.FromString(value)
    return record.received_at.ToNanoseconds() / 1e9, [
        Reported(
            sample.device_id,
            sample.throttle_bits if sample.HasField("throttle_bits") else None,
            sample.power_limit_watts if sample.HasField("power_limit_watts") else None,
        )
        for sample in record.devices
    ]


def learnt_message(key: ProfileKey, estimate: Estimate) -> profiles_pb2.Learnt:
    message = profiles_pb2.Learnt(
        workload=key.workload,
        accelerator=key.accelerator,
        devices=key.devices,
        configuration=key.configuration,
        spans=estimate.learnt,
        spans_unwatched=estimate.unwatched,
        attempts=estimate.runs,
        set_aside=[
            profiles_pb2.SetAside(reason=reason.value, spans=estimate.set_aside[reason])
            for reason in Reason
            if estimate.set_aside.get(reason)
        ],
    )
    if estimate.known:
        message.throughput = estimate.throughput
        message.throughput_unit = f"{estimate.unit}/s"
        message.relative_uncertainty = estimate.relative_uncertainty
    if estimate.last_at is not None:
        message.last_span_at.FromDatetime(estimate.last_at)
    return message


def _moment(field: str, stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput.of(f"observation.{field}", f"{stamp.seconds}s", "a time between 2000 and now") from error
