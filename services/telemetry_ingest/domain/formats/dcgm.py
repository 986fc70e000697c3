"""NVIDIA dcgm-exporter (port 9400).

MEMORY_TEMP 0 means no sensor (T4, L4, L40S). Blank sentinels and virtual GPUs' missing readings are unknown.
Power is the difference of TOTAL_ENERGY_CONSUMPTION where it moves, else the gauge. Reserved memory counts as
used, as it did before FB_RESERVED was split from FB_USED: nobody can allocate it.
"""

from telemetry_ingest.domain.exposition import Labels, Sample
from telemetry_ingest.domain.formats.context import Context, first, index_of
from telemetry_ingest.domain.formats.plausible import celsius, count, finite, mib, ratio, sensor_celsius, watts
from telemetry_ingest.domain.model import DeviceReading, Observation, ObservedDevice

__all__ = ["MARKERS", "NAME", "WANTED", "normalise"]

NAME = "dcgm"
MARKERS = ("DCGM_FI_",)

_DEV = [
    "FB_USED",
    "FB_FREE",
    "FB_RESERVED",
    "FB_TOTAL",
    "GPU_TEMP",
    "MEMORY_TEMP",
    "POWER_USAGE",
    "POWER_USAGE_INSTANT",
    "TOTAL_ENERGY_CONSUMPTION",
    "GPU_UTIL",
    "XID_ERRORS",
    "GPU_TEMP_LIMIT",
    "SLOWDOWN_TEMP",
    "MEM_MAX_OP_TEMP",
    "POWER_MGMT_LIMIT",
    "ENFORCED_POWER_LIMIT",
    "CLOCKS_EVENT_REASONS",
    "CLOCK_THROTTLE_REASONS",
    "ROW_REMAP_FAILURE",
]
WANTED = {f"DCGM_FI_DEV_{name}{suffix}": name for name in _DEV for suffix in ("", "_total")}
WANTED["DCGM_FI_PROF_GR_ENGINE_ACTIVE"] = "GR_ENGINE_ACTIVE"

ENERGY_BLANK = float(1 << 47)
FULL_POWER_SHARE = 2.0


def normalise(samples: tuple[Sample, ...], context: Context) -> Observation:
    """One device a GPU, or one a MIG instance where the GPU is cut ("<UUID>/<GPU_I_ID>")."""
    drafts: dict[tuple[str, str], tuple[Labels, dict[str, float]]] = {}
    by_labels: dict[int, dict[str, float]] = {}
    hostname = ""
    for name, labels, value in samples:
        fields = by_labels.get(id(labels))
        if fields is None:
            key = (labels.get("UUID") or labels.get("gpu", ""), labels.get("GPU_I_ID", ""))
            if not key[0]:
                continue
            hostname = hostname or labels.get("Hostname") or labels.get("hostname", "")
            fields = by_labels[id(labels)] = drafts.setdefault(key, (labels, {}))[1]
        if name != "XID_ERRORS" or fields.get(name) in (None, 0.0):
            fields[name] = value
    cut = {unit for unit, instance in drafts if instance}
    devices = []
    for (unit, instance), (labels, fields) in drafts.items():
        if unit in cut:
            if not instance:
                continue
            whole = drafts.get((unit, ""))
            fields = {**whole[1], **fields} if whole else fields
        devices.append(_device(unit, instance, labels, fields, context))
    return Observation(NAME, tuple(devices), hostname=hostname)


def _device(unit: str, instance: str, labels: Labels, fields: dict[str, float], context: Context) -> ObservedDevice:
    get = fields.get
    identity = unit if labels.get("UUID") else f"{context.node}/{unit}"
    if instance:
        identity = f"{identity}/{instance}"
    index = index_of(labels.get("gpu", ""))
    if index is None:
        index = index_of(labels.get("device", ""))
    used, free, reserved = mib(get("FB_USED")), mib(get("FB_FREE")), mib(get("FB_RESERVED"))
    total = mib(get("FB_TOTAL"))
    if total is None and used is not None and free is not None:
        total = used + free + (reserved or 0)
    limit = watts(first(get("ENFORCED_POWER_LIMIT"), get("POWER_MGMT_LIMIT")))
    utilisation = ratio(get("GPU_UTIL"), 100.0)
    reasons = first(get("CLOCKS_EVENT_REASONS"), get("CLOCK_THROTTLE_REASONS"))
    xid = count(get("XID_ERRORS"))
    failed = get("ROW_REMAP_FAILURE")
    return ObservedDevice(
        device_id=identity,
        index=index or 0,
        reported_model=labels.get("modelName", ""),
        device_class="GPU",
        stack="CUDA",
        memory_bytes=total,
        power_limit_watts=None if instance else limit or None,
        reading=DeviceReading(
            memory_used_bytes=None if used is None else used + (reserved or 0),
            memory_total_bytes=total,
            temperature_celsius=celsius(get("GPU_TEMP")),
            memory_temperature_celsius=sensor_celsius(get("MEMORY_TEMP")),
            slowdown_celsius=sensor_celsius(get("SLOWDOWN_TEMP")),
            memory_max_celsius=sensor_celsius(get("MEM_MAX_OP_TEMP")),
            margin_celsius=celsius(get("GPU_TEMP_LIMIT")),
            # Each MIG instance repeats the draw of the whole GPU: seven of them would count it seven times.
            power_watts=None if instance else _power(identity, fields, limit, context),
            power_limit_watts=None if instance else limit or None,
            utilisation=ratio(get("GR_ENGINE_ACTIVE")) if utilisation is None else utilisation,
            throttle_bits=count(reasons),
            error_code=xid,
            healthy=False if failed == 1 else None,
        ),
    )


def _power(identity: str, fields: dict[str, float], limit: float | None, context: Context) -> float | None:
    gauge = watts(first(fields.get("POWER_USAGE"), fields.get("POWER_USAGE_INSTANT")))
    energy = finite(fields.get("TOTAL_ENERGY_CONSUMPTION"))
    if energy is None or energy < 0 or ENERGY_BLANK <= energy < ENERGY_BLANK + 4 or energy > 9e18:
        return gauge
    rate = context.counters.fresh_rate(identity, energy, context.now)
    drawn = None if rate is None else watts(rate / 1000.0)
    if drawn is None or (limit and drawn > FULL_POWER_SHARE * limit):
        return gauge
    return drawn
