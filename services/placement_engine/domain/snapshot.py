"""Snapshots of an engine: a file that holds everything it decides by, and what it did last.

    {"format": 1, "taken_at": seconds, "classes": ..., "messages": ..., "engine": the state, "journal": the last events}

`load` gives an engine with an equal digest that decides the same from there on. See `encoding` for the values.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from placement_engine.domain.encoding import FORMAT, Reader, Writer
from placement_engine.domain.engine import Engine
from placement_engine.domain.journal import Journal, Recorder
from placement_engine.domain.pictures import SnapshotError, capture, revive

__all__ = [
    "FORMAT",
    "SnapshotError",
    "dump",
    "dump_later",
    "from_bytes",
    "journal_of",
    "load",
    "taken_at",
    "to_bytes",
]

_MAGIC = b"\x1f\x8b"
Read = TypeVar("Read")


def dump(engine: Engine, now: float | None = None) -> dict[str, Any]:
    """The complete state as JSON-able data, with the journal of an engine that records. `now` is noted."""
    return _parts(engine, now)()


def dump_later(engine: Engine, now: float) -> Callable[[], bytes]:
    """The snapshot as it is now, and the file of it when it is asked for: writing takes longer than looking, and
    may be done beside the engine, in a thread."""
    document = _parts(engine, now)
    return lambda: to_bytes(document())


def _parts(engine: Engine, now: float | None) -> Callable[[], dict[str, Any]]:
    picture = capture(engine)
    journal = engine.journal if isinstance(engine, Recorder) and engine.records else None

    def document() -> dict[str, Any]:
        writer = Writer()
        written: dict[str, Any] = {"taken_at": now, "engine": writer.picture(picture)}
        if journal is not None:
            written["journal"] = journal.write(writer)
        return {**writer.tables(), **written}

    return document


def load(document: Mapping[str, Any]) -> Engine:
    """The engine of a snapshot. SnapshotError: it is not one, or of another version."""
    return _reading(document, lambda reader: revive(reader.picture(document["engine"])))


def journal_of(document: Mapping[str, Any]) -> Journal | None:
    """The events and decisions before the snapshot; None: they were not recorded."""
    if not isinstance(document, Mapping) or "journal" not in document:
        return None
    return _reading(document, lambda reader: Journal.read(document["journal"], reader))


def taken_at(document: Mapping[str, Any]) -> float | None:
    """When the snapshot was taken; None: that was not noted."""
    return None if document.get("taken_at") is None else float(document["taken_at"])


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """The snapshot as a file: JSON, gzipped. Equal documents give equal bytes."""
    return gzip.compress(json.dumps(document, separators=(",", ":"), allow_nan=False).encode(), 5, mtime=0)


def from_bytes(content: bytes) -> dict[str, Any]:
    """Reads a file of `to_bytes`, or the plain JSON of it."""
    try:
        text = gzip.decompress(content) if content.startswith(_MAGIC) else content
        document = json.loads(text)
    except (OSError, EOFError, ValueError) as error:
        raise SnapshotError(f"this is no snapshot: {error}; take one with `berth debug snapshot`") from error
    if not isinstance(document, dict) or "engine" not in document:
        raise SnapshotError("this is no snapshot: it has no `engine`; take one with `berth debug snapshot`")
    return document


def _reading(document: Mapping[str, Any], read: Callable[[Reader], Read]) -> Read:
    try:
        return read(Reader(document))
    except SnapshotError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SnapshotError(f"the snapshot is damaged: {type(error).__name__}: {error}; take it anew") from error
