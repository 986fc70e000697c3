"""News of jobs across instances: PostgreSQL's notices, delivered at commit."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import structlog

from berth.postgres import TRANSIENT
from berth.retry import delays
from placement_engine.adapters.job_store import PLAN_CHANNEL, WATCH_CHANNEL

__all__ = ["JobNews"]

log = structlog.get_logger(__name__)


class JobNews:
    """One listening connection an instance. Notices can be lost with it: listeners also look by themselves."""

    def __init__(self, dsn: str, plan: Callable[[Iterable[str]], None]) -> None:
        self._dsn = dsn
        self._plan = plan
        self._watchers: set[asyncio.Queue[set[str]]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        tries = delays(longest=2.0)
        while True:
            try:
                await self._listen()
            except TRANSIENT as error:
                log.warning("listening for news will be tried again", error=repr(error))
                await asyncio.sleep(next(tries))

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=10)
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _connection: gone.set())
        try:
            await connection.add_listener(PLAN_CHANNEL, self._on_plan)
            await connection.add_listener(WATCH_CHANNEL, self._on_watch)
            await gone.wait()
            raise ConnectionError("the listening connection was lost")
        finally:
            if not connection.is_closed():
                connection.terminate()

    def _on_plan(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        ids = json.loads(payload)
        self._plan(ids)
        self._tell(ids)

    def _on_watch(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        if self._watchers:
            self._tell(json.loads(payload))

    def _tell(self, job_ids: Iterable[str]) -> None:
        for queue in self._watchers:
            queue.put_nowait(set(job_ids))

    @contextmanager
    def subscribe(self) -> Iterator["Subscription"]:
        queue: asyncio.Queue[set[str]] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield Subscription(queue)
        finally:
            self._watchers.discard(queue)


class Subscription:
    def __init__(self, queue: "asyncio.Queue[set[str]]") -> None:
        self._queue = queue

    async def next(self, timeout: float) -> set[str] | None:
        """Ids of jobs that changed, or None after `timeout` seconds without news."""
        try:
            ids = await asyncio.wait_for(self._queue.get(), timeout)
        except TimeoutError:
            return None
        while not self._queue.empty():
            ids |= self._queue.get_nowait()
        return ids
