"""What a Triton server leaves behind that is killed, and getting rid of it.

Triton puts the files of a model that came through its API into /tmp/folderXXXXXX, whatever TMPDIR says, and removes
them when the model is unloaded. Killed it does not; and the processes of its Python backend, whose parent it was, go on
for some seconds, with what they hold of devices and shared memory. Nothing in such a folder tells whose it is. The
processes do: their arguments name the folder and the region of shared memory, and their environment bears our mark. So
folders and regions are noted while the server runs, in a file of ours, for the processes may die with it; `sweep` ends
those with our mark and removes what was noted.

The server's own TMPDIR, which models' code uses, is a folder of ours that is noted and removed in the same way.
"""

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

__all__ = ["MARK", "Leftovers"]

log = structlog.get_logger(__name__)

MARK: Final = "BERTH_TRITON_STATE"
"""In the environment of the server and of the processes that it starts: the folder of its state."""
STUB: Final = "triton_python_backend_stub"
_PREFIX: Final = "berth-triton-"
_FOLDER: Final = re.compile(r"/tmp/folder[A-Za-z0-9]{6}")
_OURS: Final = re.compile(rf"/tmp/folder[A-Za-z0-9]{{6}}|/.*/{_PREFIX}\w{{8}}")
_REGION: Final = re.compile(r"triton_python_backend_shm_region_[0-9a-f-]{36}")
_SHARED_MEMORY: Final = Path("/dev/shm")
GONE_SECONDS: Final = 5.0


class Leftovers:
    """Of the server whose state is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._file = self._folder / "leftovers"
        self._noted = self._read()
        self._unwritten = False

    def environment(self) -> Mapping[str, str]:
        """For a server that is about to start: our mark, and a TMPDIR of its own."""
        # Not below the state folder: sockets in it must have short names.
        own = tempfile.mkdtemp(prefix=_PREFIX)
        try:
            self._note({own})
        except OSError:
            os.rmdir(own)
            raise
        return {MARK: str(self._folder), "TMPDIR": own}

    def note(self, server: int) -> None:
        """Which folders and regions the models of the running server have, by its process id. Cheap; call it often.

        Where the note cannot be written (a full disk) the log says so, and the next call tries again.
        """
        found: set[str] = set()
        for child in _children(server):
            found |= _places(_words(child, "cmdline"))
        if not found - self._noted and not self._unwritten:
            return
        # Those that are gone meanwhile, with their models, are no leftovers.
        self._noted = {one for one in self._noted if os.path.lexists(one)}
        try:
            self._note(found)
            self._unwritten = False
        except OSError as error:
            if not self._unwritten:
                log.warning("what Triton leaves if it is killed now cannot be noted", error=repr(error))
            self._unwritten = True

    def sweep(self) -> None:
        """Once the server is dead. Blocks for some seconds at most."""
        self._end_orphans()
        for name in sorted(self._noted):
            path = Path(name)
            if path.parent == _SHARED_MEMORY and _REGION.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            elif _OURS.fullmatch(name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
        self._noted = set()
        self._unwritten = False
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _end_orphans(self) -> None:
        """Ends what still runs of a killed server, and adds what it held to what was noted."""
        orphans: list[int] = []
        for process in _processes():
            argv = _words(process, "cmdline")
            if not argv or not argv[0].endswith(STUB) or f"{MARK}={self._folder}" not in _words(process, "environ"):
                continue
            if _served(process):
                # Another's, whose state folder has the same name: in a container that this machine runs.
                continue
            self._noted |= _places(argv)
            try:
                os.kill(process, signal.SIGKILL)
                orphans.append(process)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + GONE_SECONDS
        # One that nobody waited for has no words any more.
        while any(any(_words(one, "cmdline")) for one in orphans) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _note(self, more: set[str]) -> None:
        self._noted |= more
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(sorted(self._noted)), encoding="utf-8")
        fresh.replace(self._file)

    def _read(self) -> set[str]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return set()
        return {one for one in found if isinstance(one, str)} if isinstance(found, list) else set()


def _processes() -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            yield int(entry)


def _children(process: int) -> Iterator[int]:
    try:
        tasks = os.listdir(f"/proc/{process}/task")
    except OSError:
        return
    for task in tasks:
        # A thread that ended meanwhile hides no other's children.
        with suppress(OSError):
            yield from map(int, Path(f"/proc/{process}/task/{task}/children").read_text().split())


def _places(argv: Sequence[str]) -> set[str]:
    """Its model's folder and its region of shared memory, where these are a stub's arguments."""
    if not argv or not argv[0].endswith(STUB):
        return set()
    found = {str(_SHARED_MEMORY / word) for word in argv[2:] if _REGION.fullmatch(word)}
    if len(argv) > 1 and (named := _FOLDER.match(argv[1])):
        found.add(named.group())
    return found


def _served(process: int) -> bool:
    """Whether its parent is a server that runs. A server's orphans have another parent."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    parent = next((line.split()[1] for line in status.splitlines() if line.startswith("PPid:")), "0")
    return any(word.endswith("tritonserver") for word in _words(int(parent), "cmdline")[:1])


def _words(process: int, kind: str) -> list[str]:
    """Of /proc/PID/`kind`; none where it is gone, or somebody else's."""
    try:
        return Path(f"/proc/{process}/{kind}").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []
