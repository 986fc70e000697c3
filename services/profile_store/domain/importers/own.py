"""Berth's own profile file, for figures that people declare or measured by hand.

workloads:
  - workload: llama-8b-finetune
    task: training              # what is said here holds for each of `runs`
    unit: tokens/s
    provenance: declared
    source: who says so
    on:
      - {accelerator: H100-SXM, devices: 8, throughput: 60000, memory_gib: 62, power_watts: 640}
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from berth.errors import InvalidInput
from profile_store.domain.importers.document import Imported, number_at, text_of
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_own"]

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
    "source": "source",
}
FIGURES = {
    "throughput": ("throughput", 1.0),
    "latency_p50_ms": ("latency_p50_seconds", 1e-3),
    "latency_p99_ms": ("latency_p99_seconds", 1e-3),
    "memory_gib": ("memory_bytes", 2.0**30),
    "power_watts": ("power_watts", 1.0),
    "peak_power_watts": ("peak_power_watts", 1.0),
    "price_per_hour": ("price_per_hour", 1.0),
    "relative_uncertainty": ("relative_uncertainty", 1.0),
}
COUNTS = ("devices", "samples")
KEYS = (*TEXTS, *FIGURES, *COUNTS, "provenance", "measured_at")


def read_own(content: bytes, source: str) -> Imported:
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
    for index, shared in enumerate(_list("workloads", document["workloads"])):
        path = f"workloads[{index}]"
        common = {key: value for key, value in _mapping(path, shared).items() if key != "runs"}
        for number, row in enumerate(_list(f"{path}.runs", shared.get("runs"))):
            place = f"{path}.runs[{number}]"
            profiles.append(_profile(place, {"source": source, **common, **_mapping(place, row)}))
    return Imported(tuple(profiles))


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
        **fields,
    )


def _provenance(path: str, value: object) -> Provenance:
    try:
        return Provenance[str(value).strip().upper()]
    except KeyError:
        names = ", ".join(one.name.lower() for one in Provenance)
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
    if path.endswith(("devices", "samples")) and value != int(value):
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
