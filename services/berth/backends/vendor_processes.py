"""Processes of vendors' commands on this machine, found again by the folder that they were started for. Linux.

Each command's environment carries that folder (`MARK`), and so does what it starts in turn. So whoever comes after a
crash finds all of them, without a file that the crash may have prevented.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from berth.backends import launcher
from berth.backends.launcher import stat_fields

__all__ = ["MARK", "Ran", "end", "last_lines", "marked", "run", "spawn"]

MARK = "BERTH_BACKEND_FOLDER"
KILL_SECONDS = 5.0
# Never the service's whole environment: it holds its keys.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True)
class Ran:
    """`code` None: it did not end within its time, and was ended. `output`: the last lines of both streams."""

    code: int | None
    output: str

    def __str__(self) -> str:
        ended = "it did not end in time" if self.code is None else f"exit code {self.code}"
        return f"{ended}:\n{self.output}" if self.output else f"{ended}, without a word"


def surroundings(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that works for `folder`."""
    inherited = {name: value for name in INHERITED if (value := os.environ.get(name)) is not None}
    return {**inherited, **environment, MARK: str(folder)}


def marked(folder: Path) -> dict[int, int]:
    """Processes that work for `folder`: process id to start time. None that is a zombie."""
    mark = b"\0" + f"{MARK}={folder}".encode() + b"\0"
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and mark in b"\0" + _environment(entry):
            started = launcher.start_time(int(entry))
            if started is not None:
                found[int(entry)] = started
    return found


def _environment(pid: str) -> bytes:
    """As the process was started with; empty where it is gone, another user's, or the kernel's."""
    for _ in range(10):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                read = file.read()
            if read or not os.readlink(f"/proc/{pid}/exe"):
                return read
        except OSError:
            return b""
        # It is becoming another program this moment, and has no environment for an instant.
        time.sleep(0.002)
    return b""


def session(leader: int, started: int) -> dict[int, int]:
    """Processes of the session that `leader` leads; empty where it is gone, for its number may be another's now."""
    if launcher.start_time(leader) != started:
        return {}
    found = {}
    for entry in os.listdir("/proc"):
        fields = stat_fields(int(entry)) if entry.isdigit() else None
        if fields is not None and int(fields[3]) == leader and fields[0] not in (b"Z", b"X"):
            found[int(entry)] = int(fields[19])
    return found


async def end(folder: Path, leader: tuple[int, int] | None = None, *, grace_seconds: float) -> bool:
    """Asks every process of `folder` to end, then kills it; says whether all are gone. Waits for it."""
    loop = asyncio.get_running_loop()
    asked: set[int] = set()
    kill_at = loop.time() + grace_seconds
    while True:
        living = marked(folder) | (session(*leader) if leader is not None else {})
        living.pop(os.getpid(), None)
        if not living:
            return True
        late = loop.time() >= kill_at
        if loop.time() >= kill_at + KILL_SECONDS:
            return False
        for pid, started in living.items():
            if late or pid not in asked:
                _signal(pid, started, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(pid)
        for pid in asked:
            reap(pid)
        await asyncio.sleep(0.03)


def _signal(pid: int, started: int, number: signal.Signals) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # Held by the descriptor, the number cannot become another's between this look and the signal.
        if launcher.start_time(pid) == started:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def reap(pid: int) -> int | None:
    """Exit code of a child of ours that is over; None where it is not, or is no child of ours."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if ended else None


def spawn(folder: Path, environment: Mapping[str, str]) -> int:
    """Starts the command of `folder`'s intent.json through the launcher, detached; see there."""
    arguments = [sys.executable, "-I", "-S", launcher.__file__, str(folder)]
    log = str(folder / "log")
    return os.posix_spawn(
        sys.executable,
        arguments,
        surroundings(folder, environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )


async def run(
    argv: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path, timeout_seconds: float
) -> Ran:
    """Runs a command to its end, in `log`'s folder. Its process group is gone when this returns or is
    cancelled.

    Raises OSError where it cannot be started.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=surroundings(folder, environment),
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(timeout_seconds):
            code: int | None = await process.wait()
    except TimeoutError:
        code = None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Ran(code, last_lines(log))


def last_lines(log: Path, count: int = 20, largest: int = 8192) -> str:
    """The end of a command's output; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - largest))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-count:])
