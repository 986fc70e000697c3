"""Asks the nodes' Triton servers whether they are live: a node offers the executor `triton` while its server is.

Not whether they are ready, in Triton's word: a server that loads a model says no to that, and takes others meanwhile. A
server that is not live, or takes no connection, offers nothing. One that does not answer in time may only be busy: it
offers nothing after the second time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import structlog

__all__ = ["TritonHealth"]

log = structlog.get_logger(__name__)

LATE = 2


class TritonHealth:
    """`servers`: node to address, as declared at present; `on_ready(node, ready)` is told of every answer."""

    def __init__(
        self,
        servers: Callable[[], Mapping[str, str]],
        on_ready: Callable[[str, bool], Awaitable[None]],
        *,
        interval_seconds: float,
        timeout_seconds: float,
        concurrency: int = 64,
    ) -> None:
        self._servers = servers
        self._on_ready = on_ready
        self._interval_seconds = interval_seconds
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._gate = asyncio.Semaphore(concurrency)
        self._late: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                servers = dict(self._servers())
                for gone in set(self._reasons) - set(servers):
                    self._reasons.pop(gone)
                    self._late.pop(gone, None)
                await asyncio.gather(*(self._look(session, node, url) for node, url in servers.items()))
                await asyncio.sleep(self._interval_seconds)

    async def _look(self, session: aiohttp.ClientSession, node: str, url: str) -> None:
        async with self._gate:
            reason = await self._why_not(session, node, url)
        if reason is None:
            return
        if reason != self._reasons.get(node):
            self._reasons[node] = reason
            (log.warning if reason else log.info)("triton server", node=node, url=url, ready=not reason, reason=reason)
        try:
            await self._on_ready(node, not reason)
        except Exception as error:
            # The database may be away: the next look tells it again, and the other nodes' looks go on.
            log.warning("readiness is not stored yet", node=node, error=repr(error))

    async def _why_not(self, session: aiohttp.ClientSession, node: str, url: str) -> str | None:
        """ "" where it is ready; None where nothing is known this time."""
        try:
            async with session.get(
                f"{url.rstrip('/')}/v2/health/live", timeout=self._timeout, allow_redirects=False
            ) as answer:
                self._late[node] = 0
                return "" if answer.status == 200 else f"/v2/health/live says {answer.status}"
        except TimeoutError:
            self._late[node] = self._late.get(node, 0) + 1
            return None if self._late[node] < LATE else "no answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._late[node] = 0
            return f"{type(error).__name__}: {error}"
