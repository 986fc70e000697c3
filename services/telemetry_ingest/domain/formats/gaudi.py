"""Intel Gaudi exporter (port 41611). Power is in mW; habanalabs_temperature_threshold_* are limits, not readings."""

from telemetry_ingest.domain.exposition import Labels, Sample
from telemetry_ingest.domain.formats.context import Context, first, index_of, index_order
from telemetry_ingest.domain.formats.plausible import celsius, ratio, sensor_celsius, size, watts
from telemetry_ingest.domain.model import DeviceReading, Observation, ObservedDevice

__all__ = ["MARKERS", "NAME", "WANTED", "normalise"]

NAME = "gaudi"
MARKERS = ("habanalabs_",)
_NAMES = [
    "power_mW",
    "power_default_limit_mW",
    "temperature_onchip",
    "temperature_onboard",
    "temperature_threshold_slowdown",
    "temperature_threshold_gpu",
    "temperature_threshold_memory",
    "memory_used_bytes",
    "memory_total_bytes",
    "memory_free_bytes",
    "utilization",
]
WANTED = {f"habanalabs_{name}": name for name in _NAMES}


def normalise(samples: tuple[Sample, ...], context: Context) -> Observation:
    drafts: dict[str, tuple[Labels, dict[str, float]]] = {}
    hostname = ""
    for name, labels, value in samples:
        key = labels.get("UUID") or labels.get("uuid") or labels.get("Serial") or labels.get("device", "")
        if not key:
            continue
        hostname = hostname or labels.get("hostname") or labels.get("Hostname", "")
        drafts.setdefault(key, (labels, {}))[1][name] = value
    ordered = sorted(drafts, key=lambda key: index_order(drafts[key][0].get("device") or key))
    devices = []
    for position, key in enumerate(ordered):
        labels, fields = drafts[key]
        unique = labels.get("UUID") or labels.get("uuid") or labels.get("Serial")
        index = index_of(labels.get("device", ""))
        devices.append(_device(unique or f"{context.node}/{key}", position if index is None else index, labels, fields))
    return Observation(NAME, tuple(devices), hostname=hostname)


def _device(identity: str, index: int, labels: Labels, fields: dict[str, float]) -> ObservedDevice:
    get = fields.get
    total, used, free = (size(get(f"memory_{kind}_bytes")) for kind in ("total", "used", "free"))
    if total is None and used is not None and free is not None:
        total = used + free
    if used is None and total is not None and free is not None:
        used = max(0, total - free)
    power, limit = get("power_mW"), get("power_default_limit_mW")
    limit_watts = None if limit is None else watts(limit / 1000.0) or None
    return ObservedDevice(
        device_id=identity,
        index=index,
        reported_model=labels.get("modelName") or labels.get("model") or labels.get("name", ""),
        device_class="ASIC",
        stack="SynapseAI",
        memory_bytes=total,
        power_limit_watts=limit_watts,
        reading=DeviceReading(
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=first(celsius(get("temperature_onchip")), celsius(get("temperature_onboard"))),
            slowdown_celsius=first(
                sensor_celsius(get("temperature_threshold_slowdown")), sensor_celsius(get("temperature_threshold_gpu"))
            ),
            memory_max_celsius=sensor_celsius(get("temperature_threshold_memory")),
            power_watts=None if power is None else watts(power / 1000.0),
            power_limit_watts=limit_watts,
            utilisation=ratio(get("utilization"), 100.0),
        ),
    )
