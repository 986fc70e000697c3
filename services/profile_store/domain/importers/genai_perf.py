"""AIPerf (profile_export_aiperf.json) and genai-perf (profile_export_genai_perf.json), which it follows: one object
of metrics {unit, avg, min, max, p50, ..., std}, and what was asked for in `input_config`."""

from collections.abc import Iterator, Mapping
from typing import Any

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, json_of, needed, number_at
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_aiperf", "read_genai_perf"]

SECONDS = {"ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "s": 1.0, "sec": 1.0, "seconds": 1.0, "milliseconds": 1e-3}
RATES = {
    "tokens/s", "tokens/sec", "tok/s", "requests/s", "requests/sec", "req/s", "output tokens/sec", "tokens / second",
}  # fmt: skip
LATENCIES = {
    "latency_mean_seconds": ("request_latency", "avg"),
    "latency_p50_seconds": ("request_latency", "p50"),
    "latency_p90_seconds": ("request_latency", "p90"),
    "latency_p95_seconds": ("request_latency", "p95"),
    "latency_p99_seconds": ("request_latency", "p99"),
    "first_token_p50_seconds": ("time_to_first_token", "p50"),
    "first_token_p99_seconds": ("time_to_first_token", "p99"),
    "token_p50_seconds": ("inter_token_latency", "p50"),
    "token_p99_seconds": ("inter_token_latency", "p99"),
}


def read_aiperf(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    return _read("aiperf", content, source, hints)


def read_genai_perf(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    return _read("genai-perf", content, source, hints)


def _read(tool: str, content: bytes, source: str, hints: Hints) -> Imported:
    document = json_of(content)
    if not isinstance(document, dict) or not isinstance(document.get("request_throughput"), dict):
        raise InvalidInput.of("request_throughput", "absent", f"not an export of {tool}")
    if document.get("was_cancelled"):
        raise InvalidInput.of("was_cancelled", "true", "a run that was broken off measured something else")
    config = document.get("input_config", {})
    tokens = document.get("output_token_throughput")
    name, unit = ("output_token_throughput", "tokens/s") if tokens else ("request_throughput", "queries/s")
    model = str(next(_found(config, ("model_names", "model_name", "model")), ""))
    latencies = {
        field: seconds
        for field, (metric, statistic) in LATENCIES.items()
        if (seconds := _seconds(document, metric, statistic)) is not None
    }
    concurrency = next(_found(config, ("concurrency",)), None)
    rate = next(_found(config, ("request_rate",)), None)
    requests = _statistic(document, "request_count", "avg")
    profile = Profile(
        key=ProfileKey(
            hints.workload or needed(model, "workload", "the file names no model"),
            needed(hints.accelerator, "accelerator", f"an export of {tool} does not name the server's device"),
            hints.devices or 1,
        ),
        provenance=Provenance.MEASURED,
        source=source,
        task="inference",
        model=model,
        precision=hints.precision,
        throughput=_rate(document, name),
        throughput_unit=unit,
        batch_size=hints.batch_size or None,
        concurrency=None if concurrency is None else int(number_at("input_config.concurrency", concurrency)),
        request_rate=None if rate is None else number_at("input_config.request_rate", rate),
        input_tokens=_length(document, "input_sequence_length"),
        output_tokens=_length(document, "output_sequence_length"),
        samples=int(requests or 0),
        **latencies,  # type: ignore[arg-type]
    )
    failed = _statistic(document, "error_request_count", "avg")
    return Imported((profile,), (), (f"{failed:g} requests failed",) if failed else ())


def _found(config: object, names: tuple[str, ...]) -> Iterator[Any]:
    """Values of the first of these keys at any depth; the first of a list."""
    if not isinstance(config, Mapping):
        return
    for name in names:
        value = config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str | int | float) and value != "":
            yield value
    for inner in config.values():
        yield from _found(inner, names)


def _statistic(document: Mapping[str, Any], metric: str, statistic: str) -> float | None:
    entry = document.get(metric)
    if not isinstance(entry, dict) or entry.get(statistic) is None:
        return None
    return number_at(f"{metric}.{statistic}", entry[statistic])


def _seconds(document: Mapping[str, Any], metric: str, statistic: str) -> float | None:
    value = _statistic(document, metric, statistic)
    if value is None:
        return None
    unit = str(document[metric].get("unit", "")).strip()
    if unit not in SECONDS:
        raise InvalidInput.of(f"{metric}.unit", unit, f"one of {', '.join(SECONDS)}")
    return value * SECONDS[unit]


def _rate(document: Mapping[str, Any], metric: str) -> float:
    value, unit = _statistic(document, metric, "avg"), str(document[metric].get("unit", "")).strip()
    if value is None:
        raise InvalidInput.of(f"{metric}.avg", "absent", "a run without throughput")
    if unit.casefold() not in RATES:
        raise InvalidInput.of(f"{metric}.unit", unit, f"one of {', '.join(sorted(RATES))}")
    return value


def _length(document: Mapping[str, Any], metric: str) -> int | None:
    value = _statistic(document, metric, "avg")
    return None if not value else round(value) or None
