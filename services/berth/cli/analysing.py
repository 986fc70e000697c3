"""A program's analysis from a file, as `berth model analyse -o json` writes it, or written by hand:

    {"operations": 5.2e10, "bytes_moved": 1.1e9, "memory_bytes": 4e8, "by_precision": {"bf16": 5e10, "fp32": 2e9}}

The same may stand under "analysis", and that under "model". Instead of `memory_bytes` its parts will do. Or straight
from a model: a package, an artefact's file, or module:function.
"""

import json
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from berth.errors import InvalidInput
from berth.v1 import profiles_pb2 as pb

__all__ = ["analysis_from", "analysis_of_model", "program_of", "read_analysis"]

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
    for key in ("model", "analysis"):
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    if not isinstance(document, dict) or not {"operations", "bytes_moved"} & document.keys():
        raise InvalidInput.of(
            "analysis", path.name, "has neither operations nor bytes_moved: `berth model analyse -o json` writes them"
        )
    return analysis_from(document)


def analysis_of_model(target: str, batch: int | None) -> tuple[str, pb.ProgramAnalysis]:
    """(the model's name, what one call of it does). `batch`: taken for free dimensions. Raises InvalidInput."""
    from berth.cli.commands.model import _exported
    from berth.models.artefact_file import open_artefact
    from berth.models.export import is_function

    if is_function(target):
        artefact, _ = _exported(target, (), batch, "")
    else:
        artefact = open_artefact(target, batch=batch).artefact
    # Of the first of these platforms where it is known: a prediction is asked for accelerators rather than for CPUs.
    analyses = [artefact.analysis_on(platform) for platform in ("cuda", "rocm", "tpu", "cpu")]
    found = next((one for one in analyses if one is not None and one.operations is not None), None)
    if found is None:
        calls = dict.fromkeys(call for one in analyses if one is not None for call in one.uncounted_calls)
        if calls:
            raise InvalidInput.of("model", target, f"nobody counts {', '.join(calls)} in it: give --analysis FILE")
        raise InvalidInput.of("model", target, "its format does not say what a call costs: give --analysis FILE")
    fields = {
        "operations": found.operations or None,
        "bytes_moved": found.bytes_moved or None,
        "memory_bytes": found.memory_bytes or None,
        "by_precision": {name: value for name, value in found.by_precision.items() if name},
    }
    return artefact.name, analysis_from(fields)


def program_of(
    workload: str | None, analysis: Path | None, model: str | None, batch: int | None
) -> tuple[str, pb.ProgramAnalysis | None]:
    """(the workload's name, what its program does) of a command's arguments; None: as its profiles say."""
    if analysis is not None and model is not None:
        raise InvalidInput.of("analysis", analysis.name, "give --analysis or --model, not both")
    if model is not None:
        name, given = analysis_of_model(model, batch)
        return workload or name, given
    if not workload:
        raise InvalidInput.of("workload", "absent", "name the workload, or give --model")
    return workload, None if analysis is None else read_analysis(analysis)


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
    # math.isfinite raises on a whole number beyond a float.
    most = sys.float_info.max
    if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
        raise InvalidInput.of(
            f"analysis.{name}", reprlib.repr(value), "a finite number; leave it out where it is unknown"
        )
    return float(value)
