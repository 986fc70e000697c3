"""What the readers share: text, tables, JSON and figures out of a document that may hold anything."""

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from berth.errors import InvalidInput
from profile_store.domain.profile import Profile, configuration_of

__all__ = ["Hints", "Imported", "LeftOut", "Table", "joined", "json_of", "needed", "number_at", "table_of", "text_of"]

LONGEST_CELL = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the person who imports adds to a file; "" and 0 leave it to the file."""

    workload: str = ""
    accelerator: str = ""
    devices: int = 0
    precision: str = ""
    batch_size: int = 0
    decimal: str = ""
    """Sign before the decimals, "." or ",", where the file's numbers leave it open."""


NO_HINTS = Hints()


@dataclass(frozen=True, slots=True)
class Imported:
    """`skipped` says in sentences what was left out, and why; `remarks` what else to know of what was taken.

    `public`: a table of many systems, of which those whose accelerator the catalogue lacks are left out. In any
    other document an unknown accelerator is an error.
    `places`: where in the document each profile stands, empty where no line or entry is one's own.
    """

    profiles: tuple[Profile, ...]
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    public: bool = False
    places: tuple[str, ...] = ()


@dataclass(slots=True)
class LeftOut:
    """Counts by reason."""

    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, count: int = 1) -> None:
        self.reasons[reason] += count

    def sentences(self, what: str) -> tuple[str, ...]:
        """Most frequent first: "839 results: open division"."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return tuple(f"{count} {what if count > 1 else what.removesuffix('s')}: {reason}" for reason, count in ordered)


def text_of(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput.of(
            "content", repr(content[:20]), f"not UTF-8 at byte {error.start}: send the file as text"
        ) from error


def number_at(path: str, value: object) -> float:
    """A number as it stands; whether it can be true is for `validate`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput.of(path, repr(value), "a number was expected")
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidInput.of(path, repr(value), "too large to be true") from error


def json_of(content: bytes) -> Any:
    """The JSON value; NaN, infinities and an object's key that stands twice are refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise InvalidInput.of("content", name, "this key stands twice in one object: keep one")
        return made

    def refuse(constant: str) -> float:
        raise InvalidInput.of("content", constant, "not a number: leave the entry out")

    text = text_of(content)
    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except InvalidInput:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInput.of("content", text[:40], f"not JSON ({error}): is the file cut off?") from error


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV's rows by column, with the line that each ends on."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    delimiter: str


def table_of(content: bytes, required: Sequence[str], *, exact: bool = True) -> Table:
    """The table whose header has all `required` columns, or (not `exact`) columns that hold these words.

    Lines before the header are a tool's talk and are passed over.
    Raises InvalidInput where there is no such header, no row, or a row of another length: a file cut off.
    """
    lines = text_of(content).splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if all(name in line for name in required)), None)
    if start is None:
        raise InvalidInput.of("content", "".join(lines[:1])[:60].strip(), f"no header line with {', '.join(required)}")
    delimiter = max(",;\t", key=lines[start].count)
    reader = csv.reader(io.StringIO("".join(lines[start:])), delimiter=delimiter, strict=True)
    try:
        columns = tuple(cell.strip() for cell in next(reader))
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells) or (len(cells) == 1 and cells[0].startswith("==")):
                continue
            line = start + reader.line_num
            if len(cells) != len(columns):
                raise InvalidInput.of(
                    f"line {line}", f"{len(cells)} columns", f"{len(columns)} were expected: is the file cut off?"
                )
            rows.append((line, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    except csv.Error as error:
        raise InvalidInput.of(f"line {start + reader.line_num}", str(error), "not CSV: is the file cut off?") from error
    missing = [name for name in required if exact and name not in columns]
    if missing or len(set(columns)) != len(columns):
        raise InvalidInput.of("content", ", ".join(columns)[:80], f"each of {', '.join(required)} once was expected")
    if not rows:
        raise InvalidInput.of("content", "0 rows", "the table is empty: is the file cut off?")
    return Table(columns, tuple(rows), delimiter)


def needed(hint: str, option: str, why: str) -> str:
    """A hint without which the document says too little."""
    if not hint.strip():
        raise InvalidInput.of(option, "", f"{why}: name it with --{option}")
    return hint.strip()


def joined(profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Repeats of one configuration as one profile: medians, their count as samples, and the spread of throughput."""
    groups: dict[tuple[Any, str], list[Profile]] = {}
    for profile in profiles:
        groups.setdefault((profile.key, configuration_of(profile)), []).append(profile)
    return tuple(_one(group) for group in groups.values())


def _one(group: list[Profile]) -> Profile:
    if len(group) == 1:
        return replace(group[0], samples=group[0].samples or 1)
    first, changes = group[0], dict[str, Any]()
    for name in (one.name for one in fields(Profile)):
        values = [value for one in group if (value := getattr(one, name)) is not None]
        if name in ("samples", "version", "provenance", "low_confidence") or not values:
            continue
        if isinstance(values[0], float) or (isinstance(values[0], int) and len(set(values)) > 1):
            middle = statistics.median(values)
            changes[name] = round(middle) if isinstance(values[0], int) else float(middle)
        elif isinstance(values[0], str) and len(set(values)) > 1:
            changes[name] = "" if name != "source" else first.source
    speeds = [one.throughput for one in group if one.throughput]
    if len(speeds) > 1:
        changes["relative_uncertainty"] = statistics.stdev(speeds) / statistics.mean(speeds)
    return replace(first, samples=sum(max(1, one.samples) for one in group), **changes)
