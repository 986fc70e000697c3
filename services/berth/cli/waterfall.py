"""A job's spans, from the span files, as a waterfall."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berth.cli import units

__all__ = ["Span", "read_spans", "waterfall"]

BAR = 44


@dataclass(frozen=True, slots=True)
class Span:
    """Times in nanoseconds since the epoch."""

    span_id: str
    parent_id: str
    service: str
    name: str
    start: int
    end: int
    failed: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)


def read_spans(folder: Path, trace_id: str) -> list[Span]:
    """The spans of a trace, in order of their start. A line that is being written is left out."""
    found: dict[str, Span] = {}
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if trace_id not in line:
                    continue
                try:
                    raw = json.loads(line)
                    if raw["trace_id"] != trace_id:
                        continue
                    found[raw["span_id"]] = Span(
                        raw["span_id"], raw["parent_id"], raw["service"], raw["name"], int(raw["start_ns"]),
                        int(raw["end_ns"]), raw.get("status") == "ERROR", raw.get("attributes", {}),
                    )  # fmt: skip
                except (ValueError, KeyError, TypeError):
                    continue
    return sorted(found.values(), key=lambda span: (span.start, -span.end))


def waterfall(title: str, spans: Sequence[Span]) -> list[str]:
    """One line a span: service, name below its parent, offset, length, and a bar to scale."""
    if not spans:
        return [f"{title}: no spans"]
    begin, end = min(span.start for span in spans), max(span.end for span in spans)
    whole = max(1, end - begin)
    rows = [
        (span.service, "  " * depth + span.name + (" !" if span.failed else ""), span)
        for depth, span in _in_tree_order(spans)
    ]
    services = max(len(row[0]) for row in rows)
    names = max(len(row[1]) for row in rows)
    lines = [f"{title}: {len(spans)} spans, {units.duration(whole / 1e9)}"]
    for service, name, span in rows:
        first = BAR * (span.start - begin) // whole
        length = max(1, round(BAR * (span.end - span.start) / whole))
        first = min(first, BAR - 1)
        bar = (" " * first + "█" * min(length, BAR - first)).ljust(BAR)
        offset = units.duration((span.start - begin) / 1e9)
        took = units.duration((span.end - span.start) / 1e9)
        lines.append(f"  {service:<{services}}  {name:<{names}}  {'+' + offset:>8}  {took:>8}  |{bar}|")
    return lines


def _in_tree_order(spans: Sequence[Span]) -> Iterable[tuple[int, Span]]:
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in spans:
        # The publisher's own span may be elsewhere: then the span is a root here.
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

    def visit(parent: str, depth: int) -> Iterable[tuple[int, Span]]:
        for span in children.get(parent, ()):
            yield depth, span
            if span.span_id != parent:
                yield from visit(span.span_id, depth + 1)

    yield from visit("", 0)
