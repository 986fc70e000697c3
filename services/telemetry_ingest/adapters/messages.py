"""Protobuf at the edge: records and readings to messages and back."""

import math
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from berth.errors import FieldError, InvalidInput
from berth.v1 import fleet_pb2, telemetry_pb2
from telemetry_ingest.domain.board import NodeSnapshot, SourceReading
from telemetry_ingest.domain.inventory import DeviceRecord, NodeRecord, TaintRecord
from telemetry_ingest.domain.model import DeviceReading, NodeReading
from telemetry_ingest.domain.targets import NODE_NAME

__all__ = ["node_message", "node_record", "reading_of", "stamp", "telemetry_message"]

_SAMPLE_FIELDS = tuple(
    field.name for field in telemetry_pb2.DeviceSample.DESCRIPTOR.fields if field.name != "device_id"
)


def stamp(seconds: float) -> Timestamp:
    whole = math.floor(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _seconds(value: Timestamp) -> float:
    return value.seconds + value.nanos / 1e9


def node_message(record: NodeRecord) -> fleet_pb2.Node:
    return fleet_pb2.Node(
        name=record.name,
        pool=record.pool,
        devices=[
            fleet_pb2.Device(
                device_id=device.device_id,
                index=device.index,
                model=device.model,
                device_class=device.device_class,
                stack=device.stack,
                memory_bytes=device.memory_bytes,
                power_limit_watts=device.power_limit_watts,
                present=device.present,
                reported_model=device.reported_model,
                topology=dict(device.topology),
                partitionable=device.partitionable,
                held_by=device.held_by,
                partition=device.partition,
                traits=device.traits,
            )
            for device in record.devices
        ],
        cpu_milli=record.cpu_milli,
        memory_bytes=record.memory_bytes,
        topology=dict(record.topology),
        labels=dict(record.labels),
        power_cap_watts=record.power_cap_watts,
        executors=record.executors,
        schedulable=record.schedulable,
        cordon_reason=record.cordon_reason,
        boot_id=record.boot_id,
        version=record.version,
        updated_at=stamp(record.updated_at),
        telemetry_exempt=record.telemetry_exempt,
        removed=record.removed,
        taints=[fleet_pb2.Taint(key=one.key, value=one.value, effect=one.effect) for one in record.taints],
        cpu_milli_elsewhere=record.cpu_milli_elsewhere,
        memory_bytes_elsewhere=record.memory_bytes_elsewhere,
        pod_limit=record.pod_limit,
        pods_elsewhere=record.pods_elsewhere,
    )


def node_record(message: fleet_pb2.Node, origin: str) -> NodeRecord:
    """Raises InvalidInput with every error of the message."""
    errors: list[FieldError] = []

    def check(sound: bool, field: str, value: object, remedy: str) -> None:
        if not sound:
            errors.append(FieldError(f"node {message.name!r}: {field}", str(value), remedy))

    check(
        NODE_NAME.fullmatch(message.name) is not None,
        "name",
        message.name,
        "write a name of letters, digits, dots and dashes, at most 253 characters",
    )
    check(message.cpu_milli >= 0, "cpu_milli", message.cpu_milli, "write at least 0")
    check(message.pod_limit >= 0, "pod_limit", message.pod_limit, "write at least 0, or leave it out for no limit")
    check(message.memory_bytes >= 0, "memory_bytes", message.memory_bytes, "write at least 0")
    check(
        math.isfinite(message.power_cap_watts) and message.power_cap_watts >= 0,
        "power_cap_watts",
        message.power_cap_watts,
        "write at least 0; 0 for no budget",
    )
    identities: set[str] = set()
    for position, device in enumerate(message.devices):
        where = f"devices[{position}]"
        check(0 < len(device.device_id) <= 256, f"{where}.device_id", device.device_id, "write 1 to 256 characters")
        check(
            device.device_id not in identities, f"{where}.device_id", device.device_id, "stands twice; ids are unique"
        )
        identities.add(device.device_id)
        check(device.index >= 0, f"{where}.index", device.index, "write at least 0")
        check(device.memory_bytes >= 0, f"{where}.memory_bytes", device.memory_bytes, "write at least 0; 0 if unknown")
        check(
            math.isfinite(device.power_limit_watts) and device.power_limit_watts >= 0,
            f"{where}.power_limit_watts",
            device.power_limit_watts,
            "write at least 0; 0 if unknown",
        )
    if errors:
        raise InvalidInput(errors)
    return NodeRecord(
        name=message.name,
        pool=message.pool or "default",
        devices=tuple(
            DeviceRecord(
                device_id=device.device_id,
                index=device.index,
                model=device.model,
                device_class=device.device_class,
                stack=device.stack,
                memory_bytes=device.memory_bytes,
                power_limit_watts=device.power_limit_watts,
                present=device.present,
                reported_model=device.reported_model,
                topology=tuple(sorted(device.topology.items())),
                partitionable=device.partitionable,
                held_by=device.held_by,
                partition=device.partition,
                traits=tuple(device.traits),
            )
            for device in message.devices
        ),
        cpu_milli=message.cpu_milli,
        memory_bytes=message.memory_bytes,
        topology=tuple(sorted(message.topology.items())),
        labels=tuple(sorted(message.labels.items())),
        power_cap_watts=message.power_cap_watts,
        executors=tuple(message.executors),
        schedulable=message.schedulable,
        cordon_reason=message.cordon_reason,
        boot_id=message.boot_id,
        version=message.version,
        updated_at=_seconds(message.updated_at),
        telemetry_exempt=message.telemetry_exempt,
        removed=message.removed,
        origin=origin,
        taints=tuple(TaintRecord(one.key, one.value, one.effect) for one in message.taints),
        cpu_milli_elsewhere=message.cpu_milli_elsewhere,
        memory_bytes_elsewhere=message.memory_bytes_elsewhere,
        pod_limit=message.pod_limit if message.HasField("pod_limit") else None,
        pods_elsewhere=message.pods_elsewhere,
    )


def telemetry_message(snapshot: NodeSnapshot, boot_id: str) -> telemetry_pb2.NodeTelemetry:
    reading = snapshot.reading
    message = telemetry_pb2.NodeTelemetry(
        node=snapshot.node,
        boot_id=boot_id,
        sequence=snapshot.sequence,
        received_at=stamp(snapshot.received_at),
        observed_at=None if snapshot.source_time is None else stamp(snapshot.source_time),
        node_power_watts=reading.power_watts,
        cpu_utilisation=reading.cpu_utilisation,
        memory_used_bytes=reading.memory_used_bytes,
        memory_total_bytes=reading.memory_total_bytes,
        inlet_celsius=reading.inlet_celsius,
    )
    # None leaves an optional field unset: unknown.
    message.devices.extend(
        [
            telemetry_pb2.DeviceSample(
                device_id=identity,
                memory_used_bytes=device.memory_used_bytes,
                memory_total_bytes=device.memory_total_bytes,
                temperature_celsius=device.temperature_celsius,
                memory_temperature_celsius=device.memory_temperature_celsius,
                slowdown_celsius=device.slowdown_celsius,
                memory_max_celsius=device.memory_max_celsius,
                margin_celsius=device.margin_celsius,
                power_watts=device.power_watts,
                power_limit_watts=device.power_limit_watts,
                utilisation=device.utilisation,
                throttle_bits=device.throttle_bits,
                error_code=device.error_code,
                healthy=device.healthy,
            )
            for identity, device in snapshot.devices
        ]
    )
    return message


def reading_of(message: telemetry_pb2.NodeTelemetry, *, received_at: float, monotonic: float) -> SourceReading:
    """An agent's report. Values that are not finite are unknown. Raises InvalidInput on a device without id."""
    devices: list[tuple[str, DeviceReading]] = []
    for position, sample in enumerate(message.devices):
        if not sample.device_id:
            raise InvalidInput.of(f"devices[{position}].device_id", "", "each sample needs the id of its device")
        known: dict[str, Any] = {
            name: value
            for name in _SAMPLE_FIELDS
            if sample.HasField(name) and math.isfinite(value := getattr(sample, name))  # type: ignore[arg-type]
        }
        devices.append((sample.device_id, DeviceReading(**known)))

    def optional(name: str) -> Any:
        present = message.HasField(name) and math.isfinite(getattr(message, name))  # type: ignore[arg-type]
        return getattr(message, name) if present else None

    return SourceReading(
        devices=tuple(devices),
        node=NodeReading(
            power_watts=optional("node_power_watts"),
            cpu_utilisation=optional("cpu_utilisation"),
            memory_used_bytes=optional("memory_used_bytes"),
            memory_total_bytes=optional("memory_total_bytes"),
            inlet_celsius=optional("inlet_celsius"),
        ),
        received_at=received_at,
        monotonic=monotonic,
        source_time=_seconds(message.observed_at) if message.HasField("observed_at") else None,
    )
