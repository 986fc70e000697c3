"""What a command says of its own speed, a line of JSON each time, and what the lines of a gang say together. Pure.

A line tells of the work done since the line before it:

    {"units": 120, "unit": "steps", "seconds": 10.2}

and may tell `batch_size`, `precision`, `software_stack`, and `latency_p50_seconds`, `latency_p90_seconds` and
`latency_p99_seconds`. It is the work of the member that wrote it: the members' rates are added, over the mean of their
seconds, so all of them must report. With `"scope": "gang"` it is the work of all members together, and one member is
enough.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from berth.errors import FieldError, InvalidInput

__all__ = ["UNITS", "Line", "Speed", "complete", "joined", "limited", "parse_line"]

UNITS: Final = ("steps", "tokens", "samples", "queries", "epochs")
LONGEST_TEXT = 200
MOST_KINDS, MOST_KINDS_OF_ATTEMPT = 8, 64
"""Of a reading, and of all readings of an attempt."""
MOST_UNITS, MOST_SECONDS, MOST_BATCH = 1e15, 1e7, 10**9

LATENCIES: Final = ("latency_p50_seconds", "latency_p90_seconds", "latency_p99_seconds")

Kind: TypeAlias = tuple[str, int | None, str, str]
"""Unit, batch size, precision and software."""


@dataclass(frozen=True, slots=True)
class Line:
    """`units` done in `seconds` of work. `gang`: by all members together."""

    units: float
    unit: str
    seconds: float
    gang: bool = False
    batch_size: int | None = None
    precision: str = ""
    software_stack: str = ""
    latency_p50_seconds: float | None = None
    latency_p90_seconds: float | None = None
    latency_p99_seconds: float | None = None

    @property
    def kind(self) -> Kind:
        """Lines of one kind are told together."""
        return self.unit, self.batch_size, self.precision, self.software_stack


@dataclass(frozen=True, slots=True)
class Speed:
    """Work of the counted members of an attempt: `units` in `seconds` in which they worked."""

    units: float
    unit: str
    seconds: float
    members_counted: int
    source: str
    batch_size: int | None = None
    precision: str = ""
    software_stack: str = ""
    latency_p50_seconds: float | None = None
    latency_p90_seconds: float | None = None
    latency_p99_seconds: float | None = None


def parse_line(text: bytes) -> Line:
    """Raises InvalidInput with every field that is wrong. Fields that it does not know are passed over."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput.of("line", _shown(text), f"no JSON ({error}): write one object a line") from error
    if not isinstance(found, dict):
        raise InvalidInput.of("line", _shown(text), 'write an object: {"units": 120, "unit": "steps", "seconds": 10}')
    check = _Check(found)
    unit = found.get("unit")
    if unit not in UNITS:
        check.wrong("unit", f"one of {', '.join(UNITS)}")
    scope = found.get("scope", "member")
    if scope not in ("member", "gang"):
        check.wrong("scope", "member (its own work) or gang (the work of all)")
    batch = found.get("batch_size")
    if batch is not None and (type(batch) is not int or not 1 <= batch <= MOST_BATCH):
        check.wrong("batch_size", f"a whole number from 1 to {MOST_BATCH}, or leave it out")
    line = Line(
        units=check.amount("units", MOST_UNITS) or 0.0,
        unit=unit if isinstance(unit, str) else "",
        seconds=check.amount("seconds", MOST_SECONDS) or 0.0,
        gang=scope == "gang",
        batch_size=batch if type(batch) is int else None,
        precision=check.text("precision"),
        software_stack=check.text("software_stack"),
        latency_p50_seconds=check.amount("latency_p50_seconds", MOST_SECONDS, optional=True),
        latency_p90_seconds=check.amount("latency_p90_seconds", MOST_SECONDS, optional=True),
        latency_p99_seconds=check.amount("latency_p99_seconds", MOST_SECONDS, optional=True),
    )
    if check.errors:
        raise InvalidInput(check.errors)
    return line


class _Check:
    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found
        self.errors: list[FieldError] = []

    def wrong(self, field: str, remedy: str) -> None:
        value = str(self._found[field])[:60] if field in self._found else "absent"
        self.errors.append(FieldError(field, value.encode("utf-8", "backslashreplace").decode(), remedy))

    def amount(self, field: str, most: float, *, optional: bool = False) -> float | None:
        value: Any = self._found.get(field)
        if value is None and optional:
            return None
        # A bool is an int; an int may be too large for a float. NaN fails every comparison.
        if type(value) not in (int, float) or not 0 < value <= most or not math.isfinite(value):
            self.wrong(field, f"a number above 0 up to {most:g}" + (", or leave it out" if optional else ""))
            return None
        return float(value)

    def text(self, field: str) -> str:
        value = self._found.get(field)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable() or "|" in value:
            self.wrong(field, f"at most {LONGEST_TEXT} printable characters without '|', or leave it out")
            return ""
        return value


def _shown(text: bytes) -> str:
    return text[:60].decode("utf-8", "backslashreplace")


Lines: TypeAlias = Mapping[int, Sequence[Line]]
"""By member, in the order written."""


def complete(lines: Lines, members: int) -> bool:
    """Whether they tell of the whole attempt: every member has one, or one speaks for all."""
    return any(line.gang for some in lines.values() for line in some) or sum(map(bool, lines.values())) == members


def limited(lines: Lines, known: Sequence[str]) -> tuple[Lines, tuple[str, ...], int]:
    """The lines of so many kinds as are told, the names of all kinds of the attempt so far, and how many lines are left
    out. `known`: those names before. Each kind is a record each time and an estimate for ever, and a command may write
    any."""
    told: dict[Kind, str] = {}
    names = dict.fromkeys(known)
    left_out = 0
    kept: dict[int, list[Line]] = {}
    for member, some in sorted(lines.items()):
        kept[member] = []
        for line in some:
            if line.kind not in told:
                name = hashlib.sha256(repr(line.kind).encode()).hexdigest()[:12]
                if len(told) >= MOST_KINDS or (name not in names and len(names) >= MOST_KINDS_OF_ATTEMPT):
                    left_out += 1
                    continue
                told[line.kind] = name
                names[name] = None
            kept[member].append(line)
    return kept, tuple(names), left_out


def joined(lines: Lines, members: int) -> tuple[Speed, ...]:
    """The attempt's speed, once for each unit, batch size, precision and software that the lines name.

    Where a line of a kind speaks for the gang, those of single members of that kind are part of it; of several
    members that speak for the gang the first counts.
    """
    kinds: dict[Kind, dict[int, list[Line]]] = {}
    for member, some in sorted(lines.items()):
        for line in some:
            kinds.setdefault(line.kind, {}).setdefault(member, []).append(line)
    return tuple(_speed(by_member, members) for by_member in kinds.values())


def _speed(by_member: Mapping[int, Sequence[Line]], members: int) -> Speed:
    counted = {member: some for member, some in by_member.items() if some}
    for member, some in by_member.items():
        of_gang = [line for line in some if line.gang]
        if of_gang:
            counted = {member: of_gang}
            break
    every = [line for some in counted.values() for line in some]
    times = [sum(line.seconds for line in some) for some in counted.values()]
    work = [sum(line.units for line in some) for some in counted.values()]
    seconds = sum(times) / len(times)
    return Speed(
        units=seconds * sum(done / time for done, time in zip(work, times, strict=True)),
        unit=every[0].unit,
        seconds=seconds,
        members_counted=members if every[0].gang else len(counted),
        source="report",
        batch_size=every[0].batch_size,
        precision=every[0].precision,
        software_stack=every[0].software_stack,
        **_latencies(every),
    )


def _latencies(lines: Sequence[Line]) -> dict[str, float]:
    """The largest of each quantile, where all lines that tell any tell it: the quantile of all their requests together
    is nowhere above it. (A mean of quantiles is no quantile of anything.)"""
    telling = [line for line in lines if any(getattr(line, field) is not None for field in LATENCIES)]
    found: dict[str, float] = {}
    for field in LATENCIES:
        values = [getattr(line, field) for line in telling]
        if values and None not in values:
            found[field] = max(values)
    return found
