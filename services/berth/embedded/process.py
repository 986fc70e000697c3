"""Child processes that never outlive this one.

Each child leads its own session, so that Ctrl-C on the terminal reaches only the supervisor, which then ends
the children in order. Where the supervisor itself is killed, the kernel ends them (Linux: PR_SET_PDEATHSIG).
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Child", "end_all", "free_port", "module_command", "spawn"]

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(slots=True)
class Child:
    """A running child; `stop_signal` asks it to end in an orderly way."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM

    @property
    def pid(self) -> int:
        return self.popen.pid

    def running(self) -> bool:
        return self.popen.poll() is None

    def last_lines(self, count: int = 12) -> str:
        """The end of the child's log, for an error message."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-count:])


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def module_command(module: str, *arguments: str) -> list[str]:
    """This interpreter running `module`."""
    return [sys.executable, "-m", module, *arguments]


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    inherit: Callable[[str], bool] = lambda name: True,
    folder: Path | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    death_signal: signal.Signals = signal.SIGKILL,
    stdout: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Child:
    """Starts a child that logs to `log`. Call it from the main thread: the kernel counts threads.

    `inherit`: which variables of this process's own environment it gets beside `environment`.
    """
    parent = os.getpid()

    def before_exec() -> None:
        if prepare is not None:
            prepare()
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:  # the parent died before the call
                os._exit(1)

    log.parent.mkdir(parents=True, exist_ok=True)
    output: IO[bytes]
    with log.open("ab") as output:
        popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            env={**{name: value for name, value in os.environ.items() if inherit(name)}, **(environment or {})},
            cwd=folder,
            start_new_session=True,
            preexec_fn=before_exec,
        )
    return Child(name, popen, log, stop_signal)


def end_all(children: Iterable[Child], *, grace_seconds: float) -> list[str]:
    """Asks every child to end, then kills what is left. Gives the names of those that had to be killed.

    Blocks; it is not interrupted by signals that the event loop handles.
    """
    alive = [child for child in children if child.running()]
    for child in alive:
        child.popen.send_signal(child.stop_signal)
    deadline = time.monotonic() + grace_seconds
    while any(child.running() for child in alive) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed = [child for child in alive if child.running()]
    for child in killed:
        child.popen.kill()
    for child in killed:
        child.popen.wait()
    return [child.name for child in killed]
