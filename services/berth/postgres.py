"""PostgreSQL: the authority. One schema a service; every effect and its offset in one transaction."""

import asyncio
import importlib.resources
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import asyncpg
import structlog

from berth.retry import delays

__all__ = ["TRANSIENT", "Connection", "Database"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

# Errors after which the same transaction may go through: the server is away, or it asked for another try.
TRANSIENT: tuple[type[BaseException], ...] = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    ConnectionError,
    TimeoutError,
    OSError,
)


class Database:
    """A pool of connections whose search path is one service's schema."""

    def __init__(self, pool: Pool, schema: str) -> None:
        self.pool = pool
        self.schema = schema
        self._away = ""

    def not_ready(self) -> list[str]:
        """Why a service on it is not ready: the last transaction found the server away."""
        return [self._away] if self._away else []

    @classmethod
    async def open(cls, dsn: str, schema: str, *, size: int = 6) -> "Database":
        """Waits, with back-off, until the server answers; then migrates `schema` to the newest version."""
        for delay in delays(longest=2.0):
            try:
                pool = await asyncpg.create_pool(
                    dsn,
                    min_size=1,
                    max_size=size,
                    command_timeout=60,
                    server_settings={
                        "search_path": schema,
                        "application_name": f"berth-{schema}",
                        "jit": "off",
                    },
                )
                break
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError) as error:
                log.warning("postgres is not there yet", error=str(error))
                await asyncio.sleep(delay)
        return cls(pool, schema)

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self.pool.close(), 5)
        except TimeoutError:
            self.pool.terminate()

    async def migrate(self, *packages: str) -> None:
        """Applies the `NNN_name.sql` files of each package's folder `migrations`, each once, in order."""
        async with self.pool.acquire() as connection:
            await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", f"berth.migrate.{self.schema}")
            try:
                await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')
                await connection.execute(
                    "CREATE TABLE IF NOT EXISTS migration (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"
                )
                done = {row["name"] for row in await connection.fetch("SELECT name FROM migration")}
                for package in packages:
                    folder = importlib.resources.files(package) / "migrations"
                    for path in sorted(folder.iterdir(), key=lambda entry: entry.name):
                        name = f"{package}/{path.name}"
                        if not path.name.endswith(".sql") or name in done:
                            continue
                        async with connection.transaction():
                            await connection.execute(path.read_text(encoding="utf-8"))
                            await connection.execute("INSERT INTO migration (name) VALUES ($1)", name)
            finally:
                await connection.execute(
                    "SELECT pg_advisory_unlock(hashtextextended($1, 0))", f"berth.migrate.{self.schema}"
                )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                yield connection
        except (
            OSError,
            asyncpg.PostgresConnectionError,
            asyncpg.CannotConnectNowError,
            asyncpg.InterfaceError,
        ) as error:
            self._away = f"the database is away: {error!r}"
            raise
        self._away = ""

    async def run(self, effect: Callable[[Connection], Awaitable[T]], *, attempts: int | None = 5) -> T:
        """Runs `effect` in a transaction, again with jitter after a transient error.

        `effect` may run several times; it must have no effect outside the transaction. `attempts` None:
        until it goes through. The last transient error is raised when attempts are used up.
        """
        tries = delays(attempts=attempts)
        while True:
            try:
                async with self.transaction() as connection:
                    return await effect(connection)
            except TRANSIENT as error:
                delay = next(tries, None)
                if delay is None:
                    raise
                log.warning("transaction will be tried again", error=repr(error), delay_seconds=round(delay, 3))
                await asyncio.sleep(delay)
