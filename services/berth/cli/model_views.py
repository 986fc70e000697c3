"""How a model and what the accelerators make of it are shown.

The JSON is stable: `model` (as model.yaml has it, with `memory_bytes` and `intensity` in `analysis`
and in each of `by_platform`), `accelerators`,
one entry each: `name`, `stack`, `platform` (as OpenXLA names it, or null), `takes`, `reasons`, `widened` (precisions
that are reckoned at the peak of a wider one, and that one), and `estimate` (null,
or `seconds`, `calls_per_second`, `bound`, `relative_uncertainty`), `fits_any` and `package` (null or a path). A
figure that nobody knows is null.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from berth.catalogue import Accelerator
from berth.cli.output import render_table
from berth.models import roofline
from berth.models.artefact import Artefact, Tensor
from berth.models.documents import artefact_document
from berth.models.support import PLATFORMS, analysis_on, fits_none, supports

__all__ = ["accelerator_lines", "artefact_lines", "document"]

UNKNOWN = "-"
_STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def document(artefact: Artefact, accelerators: Sequence[Accelerator], written: Path | None) -> dict[str, Any]:
    """See the module."""
    shown = artefact_document(artefact)
    for entry, analysis in [
        (shown["analysis"], artefact.analysis),
        *((shown["by_platform"][name], one) for name, one in artefact.by_platform.items()),
    ]:
        if analysis is not None:
            entry["memory_bytes"], entry["intensity"] = analysis.memory_bytes, analysis.intensity
    entries = []
    for one in accelerators:
        reasons = supports(artefact, one)
        found = roofline.estimate(analysis_on(artefact, one), one) if not reasons else None
        entries.append({
            "name": one.name,
            "stack": one.stack,
            "platform": PLATFORMS.get(one.stack),
            "takes": not reasons,
            "reasons": list(reasons),
            "widened": roofline.widened(analysis_on(artefact, one), one),
            "estimate": None if found is None else {
                "seconds": found.seconds,
                "calls_per_second": found.calls_per_second,
                "bound": found.by,
                "relative_uncertainty": roofline.UNCERTAINTY,
            },
        })  # fmt: skip
    return {
        "model": shown,
        "accelerators": entries,
        "fits_any": not fits_none(artefact, accelerators),
        "package": None if written is None else str(written),
    }


def artefact_lines(artefact: Artefact) -> list[str]:
    """What it is and what one call costs."""
    rows = [
        ["model", artefact.name],
        ["format", artefact.format],
        ["digest", f"sha256:{artefact.digest}"],
        ["size", f"{_amount(artefact.content_bytes)}B"],
        ["inputs", _tensors(artefact.inputs)],
        ["outputs", _tensors(artefact.outputs)],
        ["lowered for", ", ".join(artefact.platforms) or "any platform"],
    ]
    if artefact.custom_calls:
        calls = ", ".join(f"{name} x {count}" for name, count in sorted(artefact.custom_calls.items()))
        rows.append(["custom calls", calls])
    analysis = artefact.analysis
    if artefact.by_platform:
        rows.append(["figures", f"of {artefact.platforms[0]}: the program does other things on other platforms"])
    if analysis is None:
        return render_table([], [*rows, ["one call", f"unknown: {artefact.format} says nothing of its cost"]])
    precisions = ", ".join(f"{_amount(count)} {name}" for name, count in sorted(analysis.by_precision.items()))
    intensity = UNKNOWN if analysis.intensity is None else f"{analysis.intensity:.3g} operations a byte"
    rows += [
        ["operations", f"{_amount(analysis.operations)}{f' ({precisions})' if precisions else ''}"],
        ["bytes moved", f"{_amount(analysis.bytes_moved)}B (an estimate of the fused program)"],
        ["intensity", intensity],
        ["memory", f"{_amount(analysis.memory_bytes)}B"
            f" (weights {_amount(analysis.constant_bytes)}B, inputs {_amount(analysis.argument_bytes)}B,"
            f" outputs {_amount(analysis.output_bytes)}B, temporaries {_amount(analysis.temporary_bytes)}B)"],
    ]  # fmt: skip
    if analysis.uncounted_calls:
        rows.append(["unknown", f"nobody counts what these do: {', '.join(analysis.uncounted_calls)}"])
    elif analysis.operations is None:
        if any(None in one.shape for one in artefact.inputs):
            remedy = (
                "write its size into the program" if artefact.format == "stablehlo" else "say its size with --batch"
            )
            rows.append(["unknown", f"a dimension is free: {remedy}"])
        else:
            rows.append(["unknown", "it has operators whose cost nobody counts"])
    if analysis.unknown_loops:
        rows.append(["loops", f"counted once, for their turns are not known: {', '.join(analysis.unknown_loops)}"])
    return render_table([], rows)


def accelerator_lines(artefact: Artefact, accelerators: Sequence[Accelerator]) -> list[str]:
    """A line each: those that take it first, the fastest of them on top; below, why the others do not."""
    taken: list[tuple[float, list[str]]] = []
    refused: list[tuple[str, str]] = []
    widened: dict[tuple[str, str], list[str]] = {}
    for one in accelerators:
        if reasons := supports(artefact, one):
            refused.append((one.name, "; ".join(reasons)))
            continue
        found = roofline.estimate(analysis_on(artefact, one), one)
        for pair in roofline.widened(analysis_on(artefact, one), one).items():
            widened.setdefault(pair, []).append(one.name)
        row = [one.name, one.stack, PLATFORMS.get(one.stack, UNKNOWN)]
        row += [UNKNOWN] * 3 if found is None else [
            _seconds(found.seconds), f"{found.calls_per_second:,.0f}" if found.calls_per_second >= 10
            else f"{found.calls_per_second:.3g}", found.by,
        ]  # fmt: skip
        taken.append((float("inf") if found is None else found.seconds, row))
    lines: list[str] = []
    if taken:
        titles = ["ACCELERATOR", "STACK", "PLATFORM", "ESTIMATE A CALL", "CALLS/S", "BOUND BY"]
        rows = [row for _, row in sorted(taken, key=lambda pair: pair[0])]
        lines += render_table(titles, rows, right=[False, False, False, True, True])
    for (precision, wider), names in widened.items():
        lines.append(f"{precision} widened to {wider}, for no peak of its own is known: {', '.join(names)}")
    if refused:
        lines += ["", "not on:"] if lines else ["not on:"]
        lines += [f"  {line}" for line in render_table([], [list(one) for one in refused])]
    if fits_none(artefact, accelerators):
        lines.append("no device of these holds it: split it, or take a smaller batch or precision")
    return lines


def _tensors(tensors: Sequence[Tensor]) -> str:
    shown = [
        f"{one.name} {one.dtype}[{','.join('?' if size is None else str(size) for size in one.shape)}]"
        for one in tensors
    ]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or UNKNOWN


def _amount(value: float | None) -> str:
    """ "2.54 G", the unit to follow."""
    if value is None:
        return f"{UNKNOWN} "
    for step, letter in _STEPS:
        if value >= step:
            return f"{value / step:.3g} {letter}"
    return f"{value:.3g} "


def _seconds(value: float) -> str:
    for step, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= step:
            return f"{value / step:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
