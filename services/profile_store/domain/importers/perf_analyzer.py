"""Triton's perf_analyzer (`-f perf.csv`): a row for each concurrency or request rate, times in µs.

Model, accelerator and batch size are not in the file: hints name them. Inferences a second count each sample of a
batch. With --verbose-csv the GPUs' power (W) and memory (bytes) are read too: "GPU-uuid:value;..." for each GPU.
"""

from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, needed, table_of
from profile_store.domain.importers.numbers import Numbers
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_perf_analyzer"]

LOADS = {"Concurrency": "concurrency", "Request Rate": "request_rate"}
LATENCIES = {
    "Avg latency": "latency_mean_seconds",
    "p50 latency": "latency_p50_seconds",
    "p90 latency": "latency_p90_seconds",
    "p95 latency": "latency_p95_seconds",
    "p99 latency": "latency_p99_seconds",
}
SPEED = "Inferences/Second"
POWER, MEMORY = "Avg GPU Power Usage", "Max GPU Memory Usage"


def read_perf_analyzer(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    workload = needed(hints.workload, "workload", "perf_analyzer's file does not name the model")
    accelerator = needed(hints.accelerator, "accelerator", "perf_analyzer's file does not say where the server ran")
    table = table_of(content, (SPEED, "p99 latency"))
    load = next((name for name in LOADS if name in table.columns), None)
    plain = [name for name in (load, SPEED, *LATENCIES) if name and name in table.columns]
    numbers = Numbers((row[name] for _, row in table.rows for name in plain), hints.decimal)
    profiles = []
    for line, row in table.rows:
        value = {name: numbers.read(f"line {line}.{name}", row[name]) for name in plain}
        watts, memory = (_of_gpus(numbers, f"line {line}.{name}", row.get(name, "")) for name in (POWER, MEMORY))
        profiles.append(
            Profile(
                key=ProfileKey(workload, accelerator, hints.devices or 1),
                provenance=Provenance.MEASURED,
                source=source,
                task="inference",
                model=workload,
                precision=hints.precision,
                software_stack="triton",
                throughput=value[SPEED],
                throughput_unit="samples/s",
                batch_size=hints.batch_size or None,
                concurrency=int(value[load]) if load == "Concurrency" else None,
                request_rate=value[load] if load == "Request Rate" else None,
                power_watts=watts,
                memory_bytes=None if memory is None else round(memory),
                **{field: value[name] / 1e6 for name, field in LATENCIES.items() if name in value},  # type: ignore[arg-type]
            )
        )
    return Imported(tuple(profiles))


def _of_gpus(numbers: Numbers, path: str, text: str) -> float | None:
    """Mean over the GPUs."""
    values = [numbers.read(path, part.rpartition(":")[2]) for part in text.split(";") if part.strip()]
    return sum(values) / len(values) if values else None
