"""Intel GPUs: xpumanager 1.x (xpum_*) and 2.x (hw_*, OpenTelemetry's hardware metrics).

xpum ratios are 0..1 although their HELP says percent. Where a card has lines of its tiles (`sub_dev`) and of the
whole, the whole counts.
"""

from collections import defaultdict

from telemetry_ingest.domain.exposition import Labels, Sample
from telemetry_ingest.domain.formats.context import Context, first, index_of, index_order
from telemetry_ingest.domain.formats.plausible import celsius, finite, ratio, size, watts
from telemetry_ingest.domain.model import DeviceReading, Observation, ObservedDevice

__all__ = ["HW_MARKERS", "HW_NAME", "HW_WANTED", "MARKERS", "NAME", "WANTED", "normalise", "normalise_hw"]

NAME = "xpum"
MARKERS = ("xpum_",)
WANTED = {
    name: name.removeprefix("xpum_").removesuffix("_total")
    for name in (
        "xpum_power_watts",
        "xpum_temperature_celsius",
        "xpum_memory_used_bytes",
        "xpum_memory_ratio",
        "xpum_engine_ratio",
        "xpum_engine_group_ratio",
        "xpum_energy_joules",
        "xpum_energy_joules_total",
    )
}
HW_NAME = "intel_hw"
HW_MARKERS = ("hw_power_watts", "hw_temperature_celsius", "hw_gpu_", "hw_status", "hw_memory_utilization_ratio")
HW_WANTED = {
    name: name.removeprefix("hw_").removesuffix("_total")
    for name in (
        "hw_power_watts",
        "hw_energy_joules_total",
        "hw_temperature_celsius",
        "hw_temperature_limit_celsius",
        "hw_memory_utilization_ratio",
        "hw_gpu_memory_usage_bytes",
        "hw_gpu_memory_limit_bytes",
        "hw_gpu_utilization_ratio",
        "hw_status",
    )
}

Lines = dict[str, list[tuple[Labels, float]]]


def _grouped(samples: tuple[Sample, ...], keys: tuple[str, ...]) -> dict[str, Lines]:
    groups: dict[str, Lines] = {}
    for name, labels, value in samples:
        key = next((labels[label] for label in keys if labels.get(label)), "")
        if key:
            groups.setdefault(key, defaultdict(list))[name].append((labels, value))
    return groups


def _whole(lines: list[tuple[Labels, float]]) -> list[tuple[Labels, float]]:
    return [line for line in lines if not line[0].get("sub_dev")] or lines


def _sum(lines: list[tuple[Labels, float]]) -> float | None:
    known = [number for _, value in _whole(lines) if (number := finite(value)) is not None]
    return sum(known) if known else None


def _hottest(lines: list[tuple[Labels, float]]) -> float | None:
    return max((known for _, value in lines if (known := celsius(value)) is not None), default=None)


def _busiest(lines: list[tuple[Labels, float]]) -> float | None:
    return max((known for _, value in lines if (known := ratio(value)) is not None), default=None)


def _power(key: str, gauge: float | None, joules: float | None, context: Context) -> float | None:
    rate = None if joules is None else context.counters.fresh_rate(key, joules, context.now)
    return first(watts(rate), watts(gauge))


def normalise(samples: tuple[Sample, ...], context: Context) -> Observation:
    groups = _grouped(samples, ("uuid", "pci_bdf", "dev_file"))
    devices = []
    order = sorted(groups, key=lambda key: index_order(_any(groups[key]).get("dev_file") or key))
    for position, key in enumerate(order):
        lines, labels = groups[key], _any(groups[key])
        identity = labels["uuid"] if labels.get("uuid") else f"{context.node}/{key}"
        used = size(_sum(lines["memory_used_bytes"]))
        share = _busiest(_whole(lines["memory_ratio"]))
        heat = lines["temperature_celsius"]
        memory_heat = [line for line in heat if line[0].get("location", "").startswith("mem")]
        index = index_of(labels.get("dev_file", "").rpartition("/")[2])
        devices.append(
            ObservedDevice(
                device_id=identity,
                index=position if index is None else index,
                reported_model=labels.get("dev_name", ""),
                device_class="GPU",
                stack="oneAPI",
                reading=DeviceReading(
                    memory_used_bytes=used,
                    # A share below 5 % is too coarse to divide by.
                    memory_total_bytes=int(used / share) if used and share and share >= 0.05 else None,
                    temperature_celsius=_hottest([line for line in heat if line not in memory_heat]),
                    memory_temperature_celsius=_hottest([line for line in memory_heat if line[1] != 0]),
                    power_watts=_power(identity, _sum(lines["power_watts"]), _sum(lines["energy_joules"]), context),
                    utilisation=first(
                        _busiest(_whole(lines["engine_ratio"])), _busiest(_whole(lines["engine_group_ratio"]))
                    ),
                ),
            )
        )
    return Observation(NAME, tuple(devices))


def normalise_hw(samples: tuple[Sample, ...], context: Context) -> Observation:
    """A sensor names its device by pci_bdf or hw_parent; the device itself has hw_id."""
    groups = _grouped(samples, ("uuid", "pci_bdf", "hw_parent", "hw_id"))
    devices = []
    for position, key in enumerate(sorted(groups, key=index_order)):
        lines, labels = groups[key], _any(groups[key])
        identity = labels["uuid"] if labels.get("uuid") else f"{context.node}/{key}"
        heat = lines["temperature_celsius"]
        memory_heat = [line for line in heat if "mem" in line[0].get("hw_sensor_location", "").lower()]
        total = size(_sum(lines["gpu_memory_limit_bytes"]))
        used = size(_sum(lines["gpu_memory_usage_bytes"]))
        share = _busiest(lines["memory_utilization_ratio"])
        if used is None and total is not None and share is not None:
            used = int(total * share)
        limits = [line for line in lines["temperature_limit_celsius"] if line[1] > 0]
        devices.append(
            ObservedDevice(
                device_id=identity,
                index=position,
                reported_model=labels.get("hw_model") or labels.get("hw_name", ""),
                device_class="GPU",
                stack="oneAPI",
                memory_bytes=total,
                reading=DeviceReading(
                    memory_used_bytes=used,
                    memory_total_bytes=total,
                    temperature_celsius=_hottest([line for line in heat if line not in memory_heat]),
                    memory_temperature_celsius=_hottest([line for line in memory_heat if line[1] != 0]),
                    slowdown_celsius=_hottest(limits),
                    power_watts=_power(identity, _sum(lines["power_watts"]), _sum(lines["energy_joules"]), context),
                    utilisation=_busiest(lines["gpu_utilization_ratio"]),
                    healthy=_health(lines["status"]),
                ),
            )
        )
    return Observation(HW_NAME, tuple(devices))


def _health(lines: list[tuple[Labels, float]]) -> bool | None:
    states = {labels.get("hw_state", "").lower() for labels, value in lines if value == 1}
    if "failed" in states:
        return False
    return True if "ok" in states else None


def _any(lines: Lines) -> Labels:
    merged: Labels = {}
    for entries in lines.values():
        for labels, _ in entries:
            merged.update(labels)
    return merged
