"""Reads what the members of an attempt wrote."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from binder.domain.executor import LogPiece

__all__ = ["read_logs"]

PIECE_BYTES = 65536
FOLLOW_SECONDS = 0.2


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines of a file begin; 0 for all of it."""
    if lines <= 0 or not path.exists():
        return 0
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        wanted = lines
        last = True
        while position > 0:
            size = min(PIECE_BYTES, position)
            position -= size
            file.seek(position)
            piece = file.read(size)
            end = len(piece) - 1 if last and piece.endswith(b"\n") else len(piece)
            last = False
            while (found := piece.rfind(b"\n", 0, end)) >= 0:
                wanted -= 1
                if wanted == 0:
                    return position + found + 1
                end = found
    return 0


async def read_logs(
    folders: dict[int, Path], *, follow: bool, tail_lines: int, over: Callable[[], bool]
) -> AsyncIterator[LogPiece]:
    """`folders`: by member; `over`: whether the attempt has ended."""
    offsets = {
        (member, stream): tail_offset(folder / stream, tail_lines)
        for member, folder in folders.items()
        for stream in ("stdout", "stderr")
    }
    while True:
        last = not follow or over()
        for (member, stream), offset in offsets.items():
            path = folders[member] / stream
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(offset)
                while piece := file.read(PIECE_BYTES):
                    offset += len(piece)
                    offsets[member, stream] = offset
                    yield LogPiece(member, stream, piece)
        if last:
            return
        await asyncio.sleep(FOLLOW_SECONDS)
