"""The host: node_exporter and Kepler.

`node_exporter` speaks for the node only. `node_exporter_cpu` also makes the host's CPUs one device, "<node>/cpu",
for hosts whose CPUs take work. Power is the difference of the RAPL package counters.
"""

from telemetry_ingest.domain.exposition import Sample
from telemetry_ingest.domain.formats.context import Context
from telemetry_ingest.domain.formats.plausible import celsius, finite, sensor_celsius, size, watts
from telemetry_ingest.domain.model import HARDWARE_THERMAL, DeviceReading, NodeReading, Observation, ObservedDevice

__all__ = [
    "CPU_NAME",
    "KEPLER_MARKERS",
    "KEPLER_NAME",
    "KEPLER_WANTED",
    "MARKERS",
    "NAME",
    "WANTED",
    "normalise",
    "normalise_cpu",
    "normalise_kepler",
]

NAME = "node_exporter"
CPU_NAME = "node_exporter_cpu"
MARKERS = ("node_cpu_seconds_total", "node_memory_MemTotal_bytes", "node_rapl_package_joules_total")
WANTED = {
    name: name.removeprefix("node_")
    for name in (
        "node_cpu_seconds_total",
        "node_hwmon_temp_celsius",
        "node_hwmon_temp_crit_celsius",
        "node_hwmon_chip_names",
        "node_hwmon_sensor_label",
        "node_rapl_package_joules_total",
        "node_cpu_package_throttles_total",
        "node_memory_MemTotal_bytes",
        "node_memory_MemAvailable_bytes",
        "node_boot_time_seconds",
        "node_cpu_info",
    )
}
KEPLER_NAME = "kepler"
KEPLER_MARKERS = ("kepler_",)
KEPLER_WANTED = {name: name for name in ("kepler_platform_watts", "kepler_node_cpu_watts")}

# Drivers of the sensors inside CPU packages; other chips are boards, disks, radios.
CPU_CHIPS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal"})
WAITING = frozenset({"idle", "iowait"})
# Already part of user and nice.
GUEST = frozenset({"guest", "guest_nice"})


def normalise(samples: tuple[Sample, ...], context: Context) -> Observation:
    return _observe(samples, context, NAME)


def normalise_cpu(samples: tuple[Sample, ...], context: Context) -> Observation:
    return _observe(samples, context, CPU_NAME)


def _observe(samples: tuple[Sample, ...], context: Context, name: str) -> Observation:
    busy = total = 0.0
    joules: float | None = None
    throttles: float | None = None
    plain: dict[str, float] = {}
    heat: list[tuple[str, str, float]] = []
    critical: list[tuple[str, float]] = []
    chips: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    model = ""
    for metric, labels, value in samples:
        known = finite(value)
        if known is None:
            continue
        match metric:
            case "cpu_seconds_total":
                mode = labels.get("mode", "")
                if mode not in GUEST:
                    total += known
                    busy += 0.0 if mode in WAITING else known
            case "rapl_package_joules_total":
                joules = known + (joules or 0.0)
            case "cpu_package_throttles_total":
                throttles = known + (throttles or 0.0)
            case "hwmon_temp_celsius":
                heat.append((labels.get("chip", ""), labels.get("sensor", ""), known))
            case "hwmon_temp_crit_celsius":
                critical.append((labels.get("chip", ""), known))
            case "hwmon_chip_names":
                chips[labels.get("chip", "")] = labels.get("chip_name", "")
            case "hwmon_sensor_label":
                names[labels.get("chip", ""), labels.get("sensor", "")] = labels.get("label", "").lower()
            case "cpu_info":
                model = labels.get("model_name", "") or model
            case _:
                plain[metric] = known

    def of_cpu(chip: str) -> bool:
        return chips.get(chip, "") in CPU_CHIPS or any(kind in chip for kind in CPU_CHIPS)

    core = [known for chip, _, value in heat if of_cpu(chip) and (known := celsius(value)) is not None]
    inlet = [
        known
        for chip, sensor, value in heat
        if any(word in names.get((chip, sensor), "") for word in ("inlet", "ambient"))
        and (known := celsius(value)) is not None
    ]
    limits = [known for chip, value in critical if of_cpu(chip) and (known := sensor_celsius(value)) is not None]
    memory_total = size(plain.get("memory_MemTotal_bytes"))
    available = size(plain.get("memory_MemAvailable_bytes"))
    used = None if memory_total is None or available is None else max(0, memory_total - available)
    rate = None if joules is None else context.counters.fresh_rate("rapl", joules, context.now)
    power = watts(rate)
    utilisation = _utilisation(busy, total, context)
    throttled = None if throttles is None else context.counters.rose("throttles", throttles, context.now)
    node = NodeReading(
        cpu_watts=power,
        cpu_utilisation=utilisation,
        memory_used_bytes=used,
        memory_total_bytes=memory_total,
        inlet_celsius=max(inlet, default=None),
        boot_time=plain.get("boot_time_seconds"),
    )
    if name == NAME:
        return Observation(name, node=node)
    device = ObservedDevice(
        device_id=f"{context.node}/cpu",
        index=0,
        reported_model=model,
        device_class="CPU",
        stack="oneDNN",
        memory_bytes=memory_total,
        reading=DeviceReading(
            memory_used_bytes=used,
            memory_total_bytes=memory_total,
            temperature_celsius=max(core, default=None),
            slowdown_celsius=min(limits, default=None),
            power_watts=power,
            utilisation=utilisation,
            throttle_bits=None if throttled is None else HARDWARE_THERMAL if throttled else 0,
        ),
    )
    return Observation(name, (device,), node)


def _utilisation(busy: float, total: float, context: Context) -> float | None:
    """Busy seconds over all CPU seconds since the last look."""
    if total <= 0:
        return None
    worked = context.counters.rate("busy", busy, context.now)
    passed = context.counters.rate("cpu", total, context.now)
    if worked is None or passed is None or passed <= 0:
        return None
    return min(max(worked / passed, 0.0), 1.0)


def normalise_kepler(samples: tuple[Sample, ...], context: Context) -> Observation:
    """The platform's draw, and that of the CPU packages."""
    totals: dict[str, float] = {}
    for name, labels, value in samples:
        known = watts(value)
        zone = labels.get("zone", "package")
        if known is not None and (name == "kepler_platform_watts" or zone in ("package", "psys", "")):
            totals[name] = totals.get(name, 0.0) + known
    return Observation(
        KEPLER_NAME,
        node=NodeReading(
            power_watts=totals.get("kepler_platform_watts"), cpu_watts=totals.get("kepler_node_cpu_watts")
        ),
    )
