"""A program's analysis from a file, as `berth model analyse -o json` writes it, or written by hand:

    {"operations": 5.2e10, "bytes_moved": 1.1e9, "memory_bytes": 4e8, "by_precision": {"bf16": 5e10, "fp32": 2e9}}

The same may stand under "analysis". Instead of `memory_bytes` its parts will do.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from berth.errors import InvalidInput
from berth.v1 import profiles_pb2 as pb

__all__ = ["analysis_from", "read_analysis"]

LARGEST = 10_000_000
MEMORY_PARTS = ("constant_bytes", "argument_bytes", "output_bytes", "temporary_bytes")


def read_analysis(path: Path) -> pb.ProgramAnalysis:
    """Raises InvalidInput where the file holds no analysis."""
    if path.stat().st_size > LARGEST:
        raise InvalidInput.of("analysis", path.name, f"over {LARGEST} bytes: not the output of `berth model analyse`")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput.of("analysis", path.name, f"not JSON: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("analysis"), dict):
        document = document["analysis"]
    if not isinstance(document, dict) or not {"operations", "bytes_moved"} & document.keys():
        raise InvalidInput.of(
            "analysis", path.name, "has neither operations nor bytes_moved: `berth model analyse -o json` writes them"
        )
    return analysis_from(document)


def analysis_from(fields: Mapping[str, Any]) -> pb.ProgramAnalysis:
    """Fields None or absent stay unknown."""
    made = pb.ProgramAnalysis()
    for name in ("operations", "bytes_moved"):
        value = _number(name, fields.get(name))
        if value is not None:
            setattr(made, name, value)
    memory = _number("memory_bytes", fields.get("memory_bytes"))
    if memory is None:
        parts = [_number(name, fields.get(name)) for name in MEMORY_PARTS]
        known = [part for part in parts if part is not None]
        memory = sum(known) if len(known) == len(parts) else None
    if memory is not None:
        if memory > 2**62:
            raise InvalidInput.of("analysis.memory_bytes", memory, "no device has so much")
        made.memory_bytes = round(memory)
    shares = fields.get("by_precision") or {}
    if not isinstance(shares, Mapping):
        raise InvalidInput.of("analysis.by_precision", shares, 'operations by precision: {"bf16": 5e10}')
    for name, value in shares.items():
        number = _number(f"by_precision[{name}]", value)
        if number is not None:
            made.operations_by_precision[str(name)] = number
    return made


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput.of(f"analysis.{name}", value, "a number; leave it out where it is unknown")
    return float(value)
