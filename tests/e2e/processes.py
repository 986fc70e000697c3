"""`berth` as a person runs it, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def processes_of(state: Path) -> list[psutil.Process]:
    """Every living process that has to do with the state folder: by its arguments, its folder or its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            traces = [*process.cmdline(), process.cwd(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(str(state) in trace for trace in traces):
            found.append(process)
    return found


class Berth:
    """A `berth` process with its state below `folder`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.state = folder / "state"
        self.context = folder / "context.json"
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "berth.cli.main", *arguments, "--state", str(self.state),
                 "--context", str(self.context)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder,
            )  # fmt: skip

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float) -> int:
        return self.popen.wait(seconds)

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits for `condition`; fails with the output where the process ends or time runs out."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.popen.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)

    def call(self, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Another `berth` command, against this system."""
        return subprocess.run(
            [sys.executable, "-m", "berth.cli.main", *arguments],
            env={**os.environ, "BERTH_CONTEXT": str(self.context), "NO_COLOR": "1"},
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip


@contextmanager
def berth(folder: Path, *arguments: str) -> Iterator[Berth]:
    """Starts it; whatever the test does, nothing stays behind."""
    started = Berth(folder, *arguments)
    try:
        yield started
    finally:
        if started.popen.poll() is None:
            started.interrupt(signal.SIGTERM)
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.popen.kill()
                started.popen.wait()
        for process in processes_of(started.state):
            process.kill()
