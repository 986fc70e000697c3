"""The contract's messages at the edge, our own dataclasses inside."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from berth.catalogue import Accelerator
from berth.errors import InvalidInput
from berth.outbox import OutgoingRecord
from berth.topics import PROFILES_CHANGED, cloud_event_headers
from berth.v1 import profiles_pb2 as pb
from profile_store.domain.prediction.library import Prediction
from profile_store.domain.prediction.roofline import Work
from profile_store.domain.profile import Profile, ProfileKey, configuration_of

__all__ = ["accelerator_message", "prediction_message", "profile_from", "profile_message", "records", "work_from"]

TEXTS = ("task", "precision", "software_stack", "throughput_unit", "source", "model", "settings")
FIGURES = (
    "throughput",
    "latency_p50_seconds",
    "latency_p99_seconds",
    "memory_bytes",
    "power_watts",
    "peak_power_watts",
    "price_per_hour",
    "relative_uncertainty",
    "batch_size",
    "concurrency",
    "request_rate",
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "input_tokens",
    "output_tokens",
    "power_limit_watts",
    "latency_mean_seconds",
    "latency_p90_seconds",
    "latency_p95_seconds",
    "first_token_p50_seconds",
    "first_token_p99_seconds",
    "token_p50_seconds",
    "token_p99_seconds",
    "energy_joules_per_unit",
    "stream_throughput",
    "operations",
    "bytes_moved",
    "busy_seconds",
    "latency_p99_high_seconds",
)


def profile_message(profile: Profile) -> pb.Profile:
    message = pb.Profile(
        workload=profile.key.workload,
        accelerator=profile.key.accelerator,
        devices=profile.key.devices,
        co_located_with=profile.key.co_located_with,
        configuration=profile.key.configuration,
        low_confidence=profile.low_confidence,
        samples=profile.samples,
        version=profile.version,
        operations_by_precision=dict(profile.operations_by_precision),
        **{field: getattr(profile, field) for field in TEXTS + FIGURES},
    )
    message.provenance = pb.Provenance.ValueType(profile.provenance)
    if profile.measured_at is not None:
        message.measured_at.FromDatetime(profile.measured_at)
    return message


def profile_from(message: pb.Profile) -> Profile:
    """Not validated. Version and configuration are the store's to give and are not read."""
    given = {field.name for field, _ in message.ListFields()}
    fields: dict[str, Any] = {field: getattr(message, field) for field in TEXTS}
    # An optional field that is present is listed, even where it is zero.
    fields |= {field: getattr(message, field) for field in FIGURES if field in given}
    return Profile(
        key=ProfileKey(message.workload, message.accelerator, message.devices, message.co_located_with),
        provenance=int(message.provenance),
        samples=message.samples,
        low_confidence=message.low_confidence,
        operations_by_precision=tuple(sorted(message.operations_by_precision.items())),
        measured_at=_moment(message.measured_at) if message.HasField("measured_at") else None,
        **fields,
    )


def prediction_message(prediction: Prediction) -> pb.Prediction:
    """Its configuration is the one that it would have in the store."""
    profile = prediction.profile
    named = replace(profile, key=replace(profile.key, configuration=configuration_of(profile)))
    return pb.Prediction(
        profile=profile_message(named),
        throughput_low=prediction.low,
        throughput_high=prediction.high,
        basis=prediction.basis,
        figures=[
            pb.Figure(
                name=one.name,
                value=one.value,
                low=one.low,
                high=one.high,
                provenance=pb.Provenance.ValueType(one.way),
                basis=one.basis,
            )
            for one in prediction.figures
        ],
    )


def work_from(message: pb.ProgramAnalysis) -> Work:
    """Not validated."""
    return Work(
        operations=message.operations if message.HasField("operations") else None,
        bytes_moved=message.bytes_moved if message.HasField("bytes_moved") else None,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        by_precision=dict(message.operations_by_precision),
    )


def accelerator_message(entry: Accelerator) -> pb.Accelerator:
    return pb.Accelerator(
        name=entry.name,
        vendor=entry.vendor,
        device_class=entry.device_class,
        stack=entry.stack,
        memory_bytes=entry.memory_bytes,
        memory_bandwidth=entry.memory_bandwidth,
        peaks=[
            pb.Peak(precision=peak.precision, tera_operations=peak.tera_operations, sparse=peak.sparse)
            for peak in entry.peaks
        ],
        tdp_watts=entry.tdp_watts,
        link_bandwidth=entry.link_bandwidth,
        scale_up_size=entry.scale_up_size,
        price_per_hour=entry.price_per_hour,
        price_source=entry.price_source,
        confidence=entry.confidence,
        sources=entry.sources,
        aliases=entry.aliases,
        note=entry.note,
    )


def records(profiles: Iterable[Profile]) -> list[OutgoingRecord]:
    """One record of profiles.changed for each; its id is the key and the version, the same when repeated."""
    return [
        OutgoingRecord(
            PROFILES_CHANGED,
            str(profile.key).encode(),
            profile_message(profile).SerializeToString(),
            cloud_event_headers(
                event_id=f"{profile.key}@{profile.version}",
                event_type="berth.v1.Profile",
                source="profile-store",
            ),
        )
        for profile in profiles
    ]


def _moment(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput.of("measured_at", f"{stamp.seconds}s", "a time between the year 2000 and now") from error
