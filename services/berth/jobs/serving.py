"""What a model says of the job that serves it: what the job's document leaves open is filled in from the model.

`fill` is asked where a job is submitted from a machine that can read the model. What the document says stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from berth import catalogue
from berth.errors import InvalidInput
from berth.models import support
from berth.models.artefact import Analysis, Artefact

__all__ = ["SERVING_DURATION", "Filled", "fill"]

SERVING_DURATION = "30d"
"""What placement reckons with where nobody says for how long a model is served."""
MEBI = 2**20
_PLACED = {
    "fp16": "fp16", "bf16": "fp16", "fp8": "fp8", "fp6": "fp8", "fp4": "fp8",
    "int8": "int8", "int4": "int8", "int2": "int8",
}  # fmt: skip
"""Precision -> that by which placement reckons it."""


@dataclass(frozen=True, slots=True)
class Filled:
    """`document`: of the job, whole. `lines`: what was filled in and why, a sentence each."""

    document: dict[Any, Any]
    lines: tuple[str, ...]


def fill(document: Mapping[Any, Any], artefact: Artefact) -> Filled:
    """Raises InvalidInput where the digest is another, or no accelerator that the document allows takes the model."""
    made, lines = dict(document), []
    model = dict(made.get("model") or {})
    said = str(model.get("digest") or "").strip().lower()
    if said and said != artefact.digest:
        raise InvalidInput.of(
            "model.digest", said, f"the model's is {artefact.digest}: give that, or the model that was meant"
        )

    def put(field: str, value: Any, why: str) -> None:
        if made.get(field) is None:
            made[field] = value
            lines.append(f"{field}: {_shown(value)}: {why}")

    if not said:
        model["digest"] = artefact.digest
        lines.append(f"model.digest: {artefact.digest[:12]}...: another content will be refused")
    made["model"] = model
    put("kind", "inference", "it serves a model")
    if not any(made.get(field) is not None for field in (
        "devices", "device_fraction", "device_memory_share", "partition", "members", "cpu", "memory"
    )):  # fmt: skip
        put("devices", 1, "one device a copy")
    put("workload", artefact.name, "under the model's name its measured speed is kept")
    # On whichever platform it will run: the most memory, and the first character that is known.
    analyses = [one for one in (artefact.analysis, *artefact.by_platform.values()) if one is not None]
    analysis = next((one for one in analyses if one.operations and one.bytes_moved), artefact.analysis)
    memory = max((one.memory_bytes for one in analyses if one.memory_bytes is not None), default=None)
    has_devices = any(made.get(field) for field in ("devices", "device_fraction", "device_memory_share", "partition"))
    if memory is not None and made.get("members") is None and has_devices:
        instances = model.get("instances")
        copies = instances if isinstance(instances, int) and instances > 1 else 1
        needed = -(-int(memory * copies * support.HEADROOM) // MEBI) * MEBI
        put("device_memory", needed, f"{memory / 1e6:.3g} MB of the analysis, x {support.HEADROOM:g} for the runtime")
    if analysis is not None and analysis.operations and analysis.bytes_moved:
        character = _character(analysis)
        if made.get("character") is None and character is not None:
            # A single call's seconds would have the job end at once: see expected_duration.
            made["character"] = character
            lines.append("character: of one call, from the analysis: it ranks accelerators and tells their latency")
        put("expected_duration", SERVING_DURATION, "nobody says for how long it is served")
    _restrict(made, artefact, lines)
    return Filled(made, tuple(lines))


def _character(analysis: Analysis) -> dict[str, Any] | None:
    """None where most of it is done in a precision that placement knows no peaks for, such as fp32."""
    by: dict[str, float] = {}
    for name, count in analysis.by_precision.items():
        placed = _PLACED.get(name, "")
        by[placed] = by.get(placed, 0.0) + count
    precision = max(sorted(by), key=lambda name: by[name], default="")
    if not precision:
        return None
    return {"operations": analysis.operations, "bytes_moved": analysis.bytes_moved, "precision": precision, "calls": 1}


def _restrict(made: dict[Any, Any], artefact: Artefact, lines: list[str]) -> None:
    """Leaves the stacks, of those that the document allows, that take the model on some accelerator."""
    given = made.get("accelerators") or {}
    if not isinstance(given, Mapping):
        return
    models = [entry for name in given.get("models") or () if (entry := catalogue.resolve(str(name))) is not None]
    allowed = [
        entry
        for entry in (models or catalogue.load())
        if (not given.get("stacks") or entry.stack in given["stacks"])
        and (not given.get("classes") or entry.device_class in given["classes"])
    ]
    if not allowed:
        return
    refusals = {entry.name: support.supports(artefact, entry) for entry in allowed}
    taking = [entry for entry in allowed if not refusals[entry.name]]
    if not taking:
        first = next(iter(refusals.values()))
        raise InvalidInput.of(
            "accelerators", ", ".join(list(refusals)[:4]), f"none of these takes {artefact.name}: {first[0]}"
        )
    if not given.get("stacks") and not given.get("models"):
        stacks = list(dict.fromkeys(entry.stack for entry in taking))
        made["accelerators"] = {**given, "stacks": stacks}
        lines.append(f"accelerators.stacks: {', '.join(stacks)}: these take a model of {artefact.format}")


def _shown(value: Any) -> str:
    return f"{value / MEBI:.0f} MiB" if isinstance(value, int) and value >= MEBI else str(value)
