"""A program's analysis from a file, as `berth model analyse -o json` writes it, or written by hand:

    {"operations": 5.2e10, "bytes_moved": 1.1e9, "memory_bytes": 4e8, "by_precision": {"bf16": 5e10, "fp32": 2e9}}

The same may stand under "analysis", and that under "model". Instead of `memory_bytes` its parts will do. Or straight
from a model: a package, an artefact's file, or module:function. The work is that of the program's own batch, the first
dimension of its inputs where they agree: no other batch size is taken for it.
"""

import json
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from berth.errors import InvalidInput
from berth.v1 import profiles_pb2 as pb

__all__ = ["analysis_from", "analysis_of_model", "batch_of", "program_of", "read_analysis"]

LARGEST = 10_000_000
MEMORY_PARTS = ("constant_bytes", "argument_bytes", "output_bytes", "temporary_bytes")


def read_analysis(path: Path, batch: int | None) -> tuple[pb.ProgramAnalysis, int | None]:
    """(what one call does, its batch: `batch`, or what the inputs say). Raises InvalidInput where the file holds no
    analysis, or one of another batch."""
    if path.stat().st_size > LARGEST:
        raise InvalidInput.of("analysis", path.name, f"over {LARGEST} bytes: not the output of `berth model analyse`")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput.of("analysis", path.name, f"not JSON: {error}") from error
    inputs: Any = None
    for key in ("model", "analysis"):
        if isinstance(document, dict):
            inputs = inputs or document.get("inputs")
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    if not isinstance(document, dict) or not {"operations", "bytes_moved"} & document.keys():
        raise InvalidInput.of(
            "analysis", path.name, "has neither operations nor bytes_moved: `berth model analyse -o json` writes them"
        )
    made = analysis_from(document)
    shapes = [one.get("shape") for one in inputs if isinstance(one, dict)] if isinstance(inputs, list) else []
    whole = [shape for shape in shapes if isinstance(shape, list) and all(_is_size(one) for one in shape)]
    return made, batch_of(whole, batch) if whole else batch


def _is_size(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def batch_of(shapes: Iterable[Sequence[int | None]], batch: int | None) -> int | None:
    """Rows of one call of a program whose inputs are of these shapes; a dimension None is free and takes `batch`. None:
    unknown. Raises InvalidInput where `batch` is not what the program is fixed at."""
    leading = {shape[0] for shape in shapes if shape}
    if batch is None:
        only = next(iter(leading)) if len(leading) == 1 else None
        return only or None
    if batch in leading or None in leading:
        return batch
    if not leading and batch == 1:
        return batch
    sizes = ", ".join(str(one) for one in sorted(one for one in leading if one is not None)) or "no rows at all"
    raise InvalidInput.of(
        "batch_size", batch, f"the program is fixed at {sizes}: leave it out, or export the model for that batch"
    )


def analysis_of_model(target: str, batch: int | None) -> tuple[str, pb.ProgramAnalysis, int | None]:
    """(the model's name, what one call of it does, the rows of that call). `batch`: taken for free dimensions. Raises
    InvalidInput, also where the program is fixed at another batch."""
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
    return artefact.name, analysis_from(fields), batch_of([one.shape for one in artefact.inputs], batch)


def program_of(
    workload: str | None, analysis: Path | None, model: str | None, batch: int | None
) -> tuple[str, pb.ProgramAnalysis | None, int | None]:
    """(the workload's name, what its program does, the batch size to ask for) of a command's arguments; no program: as
    its profiles say."""
    if analysis is not None and model is not None:
        raise InvalidInput.of("analysis", analysis.name, "give --analysis or --model, not both")
    if model is not None:
        name, given, rows = analysis_of_model(model, batch)
        return workload or name, given, rows
    if not workload:
        raise InvalidInput.of("workload", "absent", "name the workload, or give --model")
    if analysis is None:
        return workload, None, batch
    return workload, *read_analysis(analysis, batch)


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
