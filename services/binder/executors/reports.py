"""Reads what commands append to the files named by BERTH_REPORT, each line once.

The mark of an attempt says how far each member's file was read. It is the reader's only state: whoever keeps it
with what was told counts no line twice. Lines that wait for those of other members are not marked as read.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berth.errors import InvalidInput
from binder.domain.executor import Reading
from binder.domain.report import MOST_KINDS, MOST_KINDS_OF_ATTEMPT, Line, complete, joined, limited, parse_line

__all__ = ["REPORT", "read_reports"]

REPORT = "report"
"""Name of the file in the member's folder."""
AT_ONCE = 256 * 1024
MOST_NOTICES = 20
KINDS, LIMIT_SAID = "kinds", "limit_said"
"""Beside the members in the mark."""
TOO_MANY = (
    f"berth: reports of further kinds (unit, batch size, precision, software) are left out without a word: at most "
    f"{MOST_KINDS} kinds at once and {MOST_KINDS_OF_ATTEMPT} an attempt are told"
)


@dataclass(slots=True)
class _Progress:
    """Of one member's file: bytes and lines that were read, and how many lines were no report."""

    offset: int = 0
    lines: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class _Before:
    """What the mark says: of each member, the names of the kinds told, and whether the job knows of their limit."""

    members: Mapping[int, _Progress]
    kinds: tuple[str, ...]
    limit_said: bool


@dataclass(slots=True)
class _Piece:
    """What is new in one member's file."""

    progress: _Progress
    good: list[Line] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    more: bool = False


def read_reports(folders: Mapping[int, Path], mark: str, *, ended: bool) -> Reading | None:
    """`folders`: of the members. None: nothing new, or not yet from all members. `ended`: nothing more will come.

    Lines that are no report are left out, and said in the member's stderr.
    """
    before = _before(mark)
    progress = before.members
    pieces = {
        member: _read(folder / REPORT, progress.get(member, _Progress()), ended=ended)
        for member, folder in folders.items()
    }
    lines = {member: piece.good for member, piece in pieces.items()}
    refused = any(piece.notices for piece in pieces.values())
    if not any(lines.values()) and not refused:
        return None
    more = any(piece.more for piece in pieces.values())
    if any(lines.values()) and not complete(lines, len(folders)) and not ended and not more:
        return None
    told, kinds, left_out = limited(lines, before.kinds)
    if left_out and not before.limit_said:
        next(iter(pieces.values())).notices.append(TOO_MANY)
    for member, piece in pieces.items():
        _say(folders[member] / "stderr", piece.notices)
    written: dict[str, Any] = {
        str(member): [one.offset, one.lines, one.refused] for member, one in _reached(progress, pieces).items()
    }
    written |= {KINDS: kinds, LIMIT_SAID: bool(left_out) or before.limit_said}
    return Reading(json.dumps(written), joined(told, len(folders)), more=more)


def _before(mark: str) -> _Before:
    found: dict[str, Any] = json.loads(mark) if mark else {}
    kinds, said = tuple(found.pop(KINDS, ())), found.pop(LIMIT_SAID, False)
    return _Before({int(member): _Progress(*numbers) for member, numbers in found.items()}, kinds, said)


def _reached(before: Mapping[int, _Progress], pieces: Mapping[int, _Piece]) -> dict[int, _Progress]:
    return {**before, **{member: piece.progress for member, piece in pieces.items()}}


def _read(path: Path, before: _Progress, *, ended: bool) -> _Piece:
    piece = _Piece(_Progress(before.offset, before.lines, before.refused))
    try:
        # The command made this file: it may be anything.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return piece
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return piece
        if facts.st_size < before.offset:
            # Written anew from the start: what was read is no longer in it.
            piece.progress.offset = 0
        content = os.pread(descriptor, AT_ONCE, piece.progress.offset)
    finally:
        os.close(descriptor)
    piece.more = facts.st_size > piece.progress.offset + len(content)
    end = content.rfind(b"\n") + 1
    if (end == 0 and piece.more) or (ended and not piece.more):
        # A line as long as all that is read at once, or a last one that nobody will end.
        end = len(content)
    piece.progress.offset += end
    for text in content[:end].split(b"\n"):
        if text.strip():
            _take(piece, text)
    return piece


def _take(piece: _Piece, text: bytes) -> None:
    piece.progress.lines += 1
    try:
        piece.good.append(parse_line(text))
    except InvalidInput as error:
        piece.progress.refused += 1
        if piece.progress.refused <= MOST_NOTICES:
            piece.notices.append(f"berth: report {piece.progress.lines} is left out: {error}")
        if piece.progress.refused == MOST_NOTICES:
            piece.notices.append("berth: further reports that are wrong are left out without a word")


def _say(path: Path, notices: list[str]) -> None:
    """Beside what the command writes: both append."""
    if not notices:
        return
    try:
        with path.open("ab") as file:
            file.write("".join(f"{notice}\n" for notice in notices).encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # a log that cannot be written holds nothing up
