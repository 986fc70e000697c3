"""Berth's own profile files, for figures that people declare or measured by hand: YAML, or CSV with the same names
as columns, one profile a row.

    workload,accelerator,devices,precision,batch_size,throughput,unit,power_watts,source
    bert-embed,L4,1,fp16,32,850,samples/s,68,bench of March

Units stand in the names; an empty cell is unknown. `provenance` is measured where a CSV does not say. Names: see
TEXTS, FIGURES and COUNTS below. YAML:

workloads:
  - workload: llama-8b-finetune
    task: training              # what is said here holds for each of `runs`
    unit: tokens/s
    provenance: declared
    source: who says so
    runs:
      - {accelerator: H100-SXM, devices: 8, throughput: 60000, memory_gib: 62, power_watts: 640}
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, number_at, table_of, text_of
from profile_store.domain.importers.numbers import Numbers
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_csv", "read_own"]

# PyYAML reads some 100 KB a second.
LARGEST = 1_000_000

TEXTS = {
    "workload": "workload",
    "accelerator": "accelerator",
    "co_located_with": "co_located_with",
    "task": "task",
    "precision": "precision",
    "software_stack": "software_stack",
    "unit": "throughput_unit",
    "model": "model",
    "settings": "settings",
    "source": "source",
}
FIGURES = {
    "throughput": ("throughput", 1.0),
    "latency_mean_ms": ("latency_mean_seconds", 1e-3),
    "latency_p50_ms": ("latency_p50_seconds", 1e-3),
    "latency_p90_ms": ("latency_p90_seconds", 1e-3),
    "latency_p95_ms": ("latency_p95_seconds", 1e-3),
    "latency_p99_ms": ("latency_p99_seconds", 1e-3),
    "first_token_p50_ms": ("first_token_p50_seconds", 1e-3),
    "first_token_p99_ms": ("first_token_p99_seconds", 1e-3),
    "token_p50_ms": ("token_p50_seconds", 1e-3),
    "token_p99_ms": ("token_p99_seconds", 1e-3),
    "memory_gib": ("memory_bytes", 2.0**30),
    "power_watts": ("power_watts", 1.0),
    "peak_power_watts": ("peak_power_watts", 1.0),
    "power_limit_watts": ("power_limit_watts", 1.0),
    "energy_joules_per_unit": ("energy_joules_per_unit", 1.0),
    "price_per_hour": ("price_per_hour", 1.0),
    "request_rate": ("request_rate", 1.0),
    "stream_tokens_per_second": ("stream_throughput", 1.0),
    "operations": ("operations", 1.0),
    "bytes_moved": ("bytes_moved", 1.0),
    "busy_seconds": ("busy_seconds", 1.0),
    "relative_uncertainty": ("relative_uncertainty", 1.0),
}
OPTIONAL_COUNTS = (
    "batch_size", "concurrency", "tensor_parallel", "pipeline_parallel", "data_parallel", "input_tokens",
    "output_tokens",
)  # fmt: skip
COUNTS = ("devices", "samples", *OPTIONAL_COUNTS)
KEYS = (*TEXTS, *FIGURES, *COUNTS, "provenance", "measured_at", "low_confidence")


def read_own(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    """`source` stands in where the file names none. Raises InvalidInput with the path of the first error."""
    if len(content) > LARGEST:
        raise InvalidInput.of("content", f"{len(content)} bytes", f"keep a file under {LARGEST} bytes: split it")
    try:
        document = yaml.safe_load(text_of(content))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}" if where else "the file"
        raise InvalidInput.of("content", line, "not YAML: check the indentation and the quotes") from error
    if not isinstance(document, dict) or set(document) != {"workloads"}:
        raise InvalidInput.of("content", repr(document)[:80], "one key `workloads` with a list was expected")
    profiles: list[Profile] = []
    places: list[str] = []
    for index, shared in enumerate(_list("workloads", document["workloads"])):
        path = f"workloads[{index}]"
        common = {key: value for key, value in _mapping(path, shared).items() if key != "runs"}
        for number, row in enumerate(_list(f"{path}.runs", shared.get("runs"))):
            place = f"{path}.runs[{number}]"
            profiles.append(_profile(place, {"source": source, **common, **_mapping(place, row)}))
            places.append(place)
    return Imported(tuple(profiles), places=tuple(places))


def read_csv(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    table = table_of(content, ("workload", "accelerator"))
    figures = [name for name in table.columns if name in FIGURES or name in COUNTS]
    numbers = Numbers((row[name] for _, row in table.rows for name in figures), hints.decimal)
    profiles = []
    for line, cells in table.rows:
        row: dict[str, Any] = {"source": source, "provenance": "measured"}
        for name, text in cells.items():
            if text:
                row[name] = numbers.read(f"line {line}.{name}", text) if name in figures else text
        if "low_confidence" in row:
            row["low_confidence"] = row["low_confidence"].casefold() in ("true", "yes", "1")
        profiles.append(_profile(f"line {line}", row))
    return Imported(tuple(profiles), places=tuple(f"line {line}" for line, _ in table.rows))


def _profile(path: str, row: Mapping[str, Any]) -> Profile:
    for key in row:
        if key not in KEYS:
            raise InvalidInput.of(f"{path}.{key}", str(row[key]), f"unknown key; one of {', '.join(KEYS)}")
    fields: dict[str, Any] = {field: _text(f"{path}.{key}", row.get(key, "")) for key, field in TEXTS.items()}
    if "throughput" not in row:
        fields["throughput_unit"] = ""
    for name, (field, unit) in FIGURES.items():
        if row.get(name) is not None:
            fields[field] = number_at(f"{path}.{name}", row[name]) * unit
    if "memory_bytes" in fields:
        fields["memory_bytes"] = _whole(f"{path}.memory_gib", fields["memory_bytes"])
    for name in OPTIONAL_COUNTS:
        if row.get(name) is not None:
            fields[name] = _whole(f"{path}.{name}", number_at(f"{path}.{name}", row[name]))
    unsure = row.get("low_confidence", False)
    if not isinstance(unsure, bool):
        raise InvalidInput.of(f"{path}.low_confidence", repr(unsure), "true or false")
    identity = ProfileKey(
        fields.pop("workload"),
        fields.pop("accelerator"),
        _whole(f"{path}.devices", number_at(f"{path}.devices", row.get("devices", 1))),
        fields.pop("co_located_with"),
    )
    return Profile(
        key=identity,
        provenance=_provenance(f"{path}.provenance", row.get("provenance", "")),
        samples=_whole(f"{path}.samples", number_at(f"{path}.samples", row.get("samples", 0))),
        measured_at=_moment(f"{path}.measured_at", row.get("measured_at")),
        low_confidence=unsure,
        **fields,
    )


def _provenance(path: str, value: object) -> Provenance:
    try:
        return Provenance[str(value).strip().upper()]
    except KeyError:
        names = ", ".join(one.name.lower() for one in Provenance if one is not Provenance.OBSERVED)
        raise InvalidInput.of(path, str(value), f"one of {names}") from None


def _moment(path: str, value: object) -> datetime | None:
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise InvalidInput.of(path, str(value), "a time such as 2026-03-01T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _whole(path: str, value: float) -> int:
    if value != value or abs(value) >= 2**53:
        raise InvalidInput.of(path, str(value), "a count was expected")
    if path.endswith(COUNTS) and value != int(value):
        raise InvalidInput.of(path, str(value), "a whole number was expected")
    return round(value)


def _text(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput.of(path, repr(value), "a text was expected: put it in quotes")
    return value.strip()


def _list(path: str, value: object) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InvalidInput.of(path, repr(value)[:80], "a list with entries was expected")
    return value


def _mapping(path: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInput.of(path, repr(value)[:80], "a mapping was expected")
    return value
