"""A model's content as it is given to a server: read once, and of the digest that its artefact has.

What was read is what is digested: a file that changes after it was looked at is refused, and so are links in a folder,
which name what is not the model's.
"""

import asyncio
import hashlib
import os
import stat
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from berth.backends.base import Refused
from berth.models.artefact import Artefact

__all__ = ["MOST_BYTES", "Content", "Files", "read_content"]

MOST_BYTES = 2**31
"""That are given to Triton's load API in one request."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Content:
    """`files`: by path in the folder; of a file, its bytes under ""."""

    files: dict[str, bytes]


class Files(dict[str, bytes]):
    """Of a Prepared. Keeps the content that they are from: the other members of a gang read it no second time."""

    content: Content | None = None


_kept: weakref.WeakValueDictionary[tuple[str, str], Content] = weakref.WeakValueDictionary()
_locks: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = weakref.WeakValueDictionary()


async def read_content(artefact: Artefact, path: Path) -> Content:
    """The artefact's file or folder; the one read before where that is still in use. Raises Refused."""
    key = (str(path), artefact.digest)
    lock = _locks.setdefault(key, asyncio.Lock())
    async with lock:
        content = _kept.get(key)
        if content is None:
            made: list[Content] = []
            # Not returned: asyncio keeps what a thread returned until the next collection.
            await asyncio.to_thread(lambda: made.append(_read(artefact, path)))
            _kept[key] = content = made.pop()
        return content


def _read(artefact: Artefact, path: Path) -> Content:
    try:
        if path.is_dir():
            files = _folder(path)
            found = _digest(files)
        else:
            files = {"": _file(path, path.name, 0, os.O_RDONLY)}
            found = hashlib.sha256(files[""]).hexdigest()
    except OSError as error:
        raise Refused(f"{path.name}: {error.strerror or error}: name what can be read") from error
    if found != artefact.digest:
        words = f"the content is {found}: it changed while it was being read: try again"
        raise Refused(f"{path.name}: digest: {artefact.digest!r}: {words}")
    return Content(files)


def _folder(folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    for path in _paths(folder):
        relative = path.relative_to(folder).as_posix()
        files[relative] = _file(path, f"{folder.name}/{relative}", total, os.O_RDONLY | os.O_NOFOLLOW)
        total += len(files[relative])
    return files


def _paths(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            if path.is_symlink():
                words = "a link: copy what it names into the folder"
                raise Refused(f"{folder.name}/{path.relative_to(folder).as_posix()}: {words}")
        yield from (Path(root, name) for name in names)


def _file(path: Path, shown: str, before: int, flags: int) -> bytes:
    """`before`: bytes of the other files."""
    # Without waiting for a writer, where it is a pipe.
    with os.fdopen(os.open(path, flags | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Refused(f"{shown}: it is no file: take it out")
        if before + about.st_size > MOST_BYTES:
            words = f"more than {MOST_BYTES} bytes: Triton's load API takes no more in one request: make it smaller"
            raise Refused(f"{shown}: {before + about.st_size} bytes: {words}")
        # Where it grows meanwhile the digest is another.
        return file.read(about.st_size)


def _digest(files: dict[str, bytes]) -> str:
    """As of a folder of these files: berth.models.artefact_file.digest_of."""
    made = hashlib.sha256()
    for path in sorted(files):
        inner = path.encode()
        made.update(b"%d:%s:%d:" % (len(inner), inner, len(files[path])))
        made.update(files[path])
    return made.hexdigest()
