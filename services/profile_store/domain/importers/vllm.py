"""vLLM's serving benchmark (`vllm bench serve --save-result`, --append-result): one JSON object a run, or several
as a list or one a line. The accelerator is not in the file: the hint must name it. Throughput is output tokens."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, json_of, needed, number_at
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_vllm"]

NEEDED = ("duration", "completed", "total_output_tokens", "output_throughput")
LATENCIES = {
    "latency_mean_seconds": "mean_e2el_ms",
    "latency_p50_seconds": "median_e2el_ms",
    "latency_p90_seconds": "p90_e2el_ms",
    "latency_p95_seconds": "p95_e2el_ms",
    "latency_p99_seconds": "p99_e2el_ms",
    "first_token_p50_seconds": "median_ttft_ms",
    "first_token_p99_seconds": "p99_ttft_ms",
    "token_p50_seconds": "median_tpot_ms",
    "token_p99_seconds": "p99_tpot_ms",
}
# Both are printed with few digits.
TOLERANCE = 0.05


def read_vllm(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    runs = _runs(content)
    profiles, remarks = [], []
    for number, run in enumerate(runs):
        path = f"[{number}]." if len(runs) > 1 else ""
        if not isinstance(run, dict) or any(name not in run for name in NEEDED):
            missing = next((name for name in NEEDED if not isinstance(run, dict) or name not in run), "")
            raise InvalidInput.of(f"{path}{missing}", "absent", "not a result of `vllm bench serve --save-result`")
        profiles.append(_profile(path, run, source, hints))
        if run.get("failed"):
            remarks.append(f"{run['failed']} requests failed beside {run['completed']} that count")
    return Imported(tuple(profiles), (), tuple(remarks))


def _runs(content: bytes) -> list[Any]:
    lines = [line for line in content.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
        return [json_of(line) for line in lines]
    document = json_of(content)
    return document if isinstance(document, list) else [document]


def _profile(path: str, run: Mapping[str, Any], source: str, hints: Hints) -> Profile:
    def figure(name: str) -> float | None:
        return None if run.get(name) is None else number_at(path + name, run[name])

    duration, completed = number_at(f"{path}duration", run["duration"]), number_at(f"{path}completed", run["completed"])
    speed, tokens = (number_at(path + name, run[name]) for name in ("output_throughput", "total_output_tokens"))
    if completed < 1 or duration <= 0:
        raise InvalidInput.of(f"{path}completed", str(run["completed"]), "no request was answered: nothing to keep")
    if abs(speed * duration - tokens) > TOLERANCE * max(tokens, 1.0):
        raise InvalidInput.of(
            f"{path}output_throughput", str(speed), f"{tokens:g} tokens in {duration:g} s are {tokens / duration:g}/s"
        )
    model = str(run.get("model_id", "")).strip()
    parallel = _count(path, run, "tensor_parallel_size")
    inputs = figure("total_input_tokens")
    rate = run.get("request_rate")
    return Profile(
        key=ProfileKey(
            hints.workload or needed(model, "workload", "the file names no model_id"),
            needed(hints.accelerator, "accelerator", "a vLLM result does not say on which device it ran"),
            hints.devices or parallel or 1,
        ),
        provenance=Provenance.MEASURED,
        source=source,
        task="inference",
        model=model,
        precision=hints.precision,
        software_stack=str(run.get("backend") or run.get("endpoint_type") or "vllm"),
        throughput=speed,
        throughput_unit="tokens/s",
        batch_size=hints.batch_size or None,
        concurrency=_count(path, run, "max_concurrency"),
        request_rate=number_at(f"{path}request_rate", rate) if rate not in (None, "inf", "Infinity") else None,
        tensor_parallel=parallel,
        input_tokens=round(inputs / completed) or None if inputs else None,
        output_tokens=round(tokens / completed) or None,
        measured_at=_moment(path, run.get("date")),
        samples=int(completed),
        **{field: value / 1000 for field, name in LATENCIES.items() if (value := figure(name))},  # type: ignore[arg-type]
    )


def _count(path: str, run: Mapping[str, Any], name: str) -> int | None:
    return None if run.get(name) is None else int(number_at(path + name, run[name]))


def _moment(path: str, text: object) -> datetime | None:
    """ "20260301-120000", without a zone: taken as UTC."""
    if not text:
        return None
    try:
        return datetime.strptime(str(text), "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput.of(f"{path}date", str(text), "a time such as 20260301-120000") from None
