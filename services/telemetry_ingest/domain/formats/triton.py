"""NVIDIA Triton's own page: what it says of the devices and the host. Its counts of requests are no telemetry.

It names a GPU by its UUID alone, neither model nor index. So it makes no device: it fills in what the node's other
sources leave open. Triton writes 0 where it has not measured yet, or cannot: an amount that cannot be 0 is unknown.
"""

from telemetry_ingest.domain.exposition import Sample
from telemetry_ingest.domain.formats.context import Context
from telemetry_ingest.domain.formats.plausible import ratio, size, watts
from telemetry_ingest.domain.model import DeviceReading, NodeReading, Observation, ObservedDevice

__all__ = ["MARKERS", "NAME", "WANTED", "normalise"]

NAME = "triton"
MARKERS = ("nv_inference_", "nv_gpu_", "nv_cpu_", "nv_pinned_memory_pool_")
WANTED = {
    f"nv_{name}": name
    for name in (
        "gpu_utilization",
        "gpu_memory_total_bytes",
        "gpu_memory_used_bytes",
        "gpu_power_usage",
        "gpu_power_limit",
        "cpu_utilization",
        "cpu_memory_total_bytes",
        "cpu_memory_used_bytes",
        # There on every page, also of a server without GPUs whose CPU is not measured: it is Triton's page.
        "pinned_memory_pool_total_bytes",
    )
}


def normalise(samples: tuple[Sample, ...], context: Context) -> Observation:
    gpus: dict[str, dict[str, float]] = {}
    host: dict[str, float] = {}
    for name, labels, value in samples:
        if name.startswith("gpu_"):
            # "nv_gpu_..." without a label is a sum or nothing at all, by release.
            if identity := labels.get("gpu_uuid", ""):
                gpus.setdefault(identity, {})[name] = value
        else:
            host[name] = value
    total = size(host.get("cpu_memory_total_bytes")) or None
    node = NodeReading(
        # Both are 0 until Triton first looked, and no host has no memory.
        cpu_utilisation=ratio(host.get("cpu_utilization")) if total else None,
        memory_used_bytes=size(host.get("cpu_memory_used_bytes")) if total else None,
        memory_total_bytes=total,
    )
    return Observation(NAME, tuple(_device(*each) for each in gpus.items()), node, fills=True)


def _device(identity: str, fields: dict[str, float]) -> ObservedDevice:
    total = size(fields.get("gpu_memory_total_bytes")) or None
    limit = watts(fields.get("gpu_power_limit")) or None
    return ObservedDevice(
        device_id=identity,
        index=0,
        reported_model="",
        device_class="GPU",
        stack="CUDA",
        memory_bytes=total,
        power_limit_watts=limit,
        reading=DeviceReading(
            memory_used_bytes=size(fields.get("gpu_memory_used_bytes")) if total else None,
            memory_total_bytes=total,
            power_watts=watts(fields.get("gpu_power_usage")) or None,
            power_limit_watts=limit,
            utilisation=ratio(fields.get("gpu_utilization")),
        ),
    )
