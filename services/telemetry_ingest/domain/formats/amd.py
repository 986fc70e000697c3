"""AMD device-metrics-exporter (port 5000; names with or without the prefix amd_, older ones in upper case).

Partitions other than 0 repeat the card with power 0, which is not real: their power is unknown. Temperatures of
0 are sensors that the model has not got. Memory is in units of 2**20 bytes.
"""

from telemetry_ingest.domain.exposition import Labels, Sample
from telemetry_ingest.domain.formats.context import Context, first, index_of
from telemetry_ingest.domain.formats.plausible import finite, mib, ratio, sensor_celsius, watts
from telemetry_ingest.domain.model import (
    HARDWARE_THERMAL,
    SOFTWARE_POWER_CAP,
    SOFTWARE_THERMAL,
    DeviceReading,
    Observation,
    ObservedDevice,
)

__all__ = ["MARKERS", "NAME", "WANTED", "normalise"]

NAME = "amd"
_VIOLATIONS = {
    "ppt": SOFTWARE_POWER_CAP,
    "socket_thermal": SOFTWARE_THERMAL,
    "hbm_thermal": SOFTWARE_THERMAL,
    "vr_thermal": HARDWARE_THERMAL,
    "processor_hot": HARDWARE_THERMAL,
}
_NAMES = [
    "gpu_package_power",
    "gpu_average_package_power",
    "gpu_power_usage",
    "gpu_energy_consumed",
    "gpu_junction_temperature",
    "gpu_edge_temperature",
    "gpu_memory_temperature",
    "gpu_hbm_temperature",
    "gpu_total_vram",
    "gpu_used_vram",
    "gpu_free_vram",
    "gpu_gfx_activity",
    "gpu_health",
] + [f"gpu_violation_{kind}_residency_{form}" for kind in _VIOLATIONS for form in ("percentage", "accumulated")]
WANTED = {
    spelt: name
    for name in _NAMES
    for spelt in (name, f"amd_{name}", f"{name}_total", f"amd_{name}_total", name.upper())
}
MARKERS = tuple(
    spelt
    for name in ("gpu_package_power", "gpu_average_package_power", "gpu_gfx_activity", "gpu_total_vram", "gpu_health")
    for spelt in (name, f"amd_{name}", name.upper())
)


def normalise(samples: tuple[Sample, ...], context: Context) -> Observation:
    drafts: dict[tuple[str, str, str], tuple[Labels, dict[str, float]]] = {}
    hostname = ""
    for name, labels, value in samples:
        partition = labels.get("gpu_partition_id", "")
        key = (
            labels.get("serial_number", ""),
            labels.get("gpu_id", ""),
            "" if partition in ("", "0", "NA", "N/A") else partition,
        )
        if not key[0] and not key[1]:
            continue
        hostname = hostname or labels.get("hostname") or labels.get("Hostname", "")
        fields = drafts.setdefault(key, (labels, {}))[1]
        # Several HBM stacks have a line each: the hottest counts.
        fields[name] = max(value, fields.get(name, value)) if name == "gpu_hbm_temperature" else value
    # A partitioned card has several gpu_ids of one serial number.
    serials = [serial for serial, _, _ in drafts]
    devices = tuple(
        _device(key, labels, fields, serials.count(key[0]) > 1, context) for key, (labels, fields) in drafts.items()
    )
    return Observation(NAME, devices, hostname=hostname)


def _device(
    key: tuple[str, str, str], labels: Labels, fields: dict[str, float], shared: bool, context: Context
) -> ObservedDevice:
    serial, unit, partition = key
    get = fields.get
    blank = serial in ("", "NA", "N/A")
    identity = f"{context.node}/{unit}" if blank else f"AMD-{serial}"
    if partition or (shared and not blank and partition):
        identity = f"{identity}/{partition}"
    total, used, free = mib(get("gpu_total_vram")), mib(get("gpu_used_vram")), mib(get("gpu_free_vram"))
    if used is None and total is not None and free is not None:
        used = max(0, total - free)
    health = get("gpu_health")
    memory = [
        known
        for known in (sensor_celsius(get("gpu_memory_temperature")), sensor_celsius(get("gpu_hbm_temperature")))
        if known is not None
    ]
    return ObservedDevice(
        device_id=identity,
        index=index_of(unit) or 0,
        reported_model=labels.get("card_model") or labels.get("card_series", ""),
        device_class="GPU",
        stack="ROCm",
        memory_bytes=total,
        reading=DeviceReading(
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=first(
                sensor_celsius(get("gpu_junction_temperature")), sensor_celsius(get("gpu_edge_temperature"))
            ),
            memory_temperature_celsius=max(memory, default=None),
            power_watts=None if partition else _power(identity, fields, context),
            utilisation=ratio(get("gpu_gfx_activity"), 100.0),
            throttle_bits=_throttle(identity, fields, context),
            healthy=None if health not in (0, 1) else health == 1,
        ),
    )


def _power(identity: str, fields: dict[str, float], context: Context) -> float | None:
    gauge = watts(
        first(
            finite(fields.get("gpu_package_power")),
            finite(fields.get("gpu_average_package_power")),
            finite(fields.get("gpu_power_usage")),
        )
    )
    microjoules = finite(fields.get("gpu_energy_consumed"))
    if microjoules is None or not 0 < microjoules < 1e18:
        return gauge
    rate = context.counters.fresh_rate(f"{identity}/energy", microjoules, context.now)
    return gauge if rate is None else first(watts(rate / 1e6), gauge)


def _throttle(identity: str, fields: dict[str, float], context: Context) -> int | None:
    """Violations as NVML's bits: those with a share above 0, or whose counter rose since the last look."""
    bits = 0
    heard = False
    for kind, bit in _VIOLATIONS.items():
        share = ratio(fields.get(f"gpu_violation_{kind}_residency_percentage"), 100.0)
        accumulated = finite(fields.get(f"gpu_violation_{kind}_residency_accumulated"))
        active: bool | None = None if share is None else share > 0
        if share is None and accumulated is not None:
            active = context.counters.rose(f"{identity}/{kind}", accumulated, context.now)
        if active is not None:
            heard = True
            bits |= bit if active else 0
    return bits if heard else None
