"""Scrapes pages over HTTP: bounded in size, time and number, each target at its own jittered moments."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable

import aiohttp
import structlog

from berth.errors import BerthError
from telemetry_ingest.domain.targets import Target

__all__ = ["LARGEST_PAGE", "ScrapeFailed", "Scraper", "fetch"]

log = structlog.get_logger(__name__)

LARGEST_PAGE = 8 << 20
ACCEPT = "text/plain;version=0.0.4,text/plain;q=0.8"


class ScrapeFailed(BerthError):
    """A target gave no page; the text says why and what to look at."""

    code = "UNAVAILABLE"


async def fetch(
    session: aiohttp.ClientSession, url: str, *, timeout_seconds: float, largest: int = LARGEST_PAGE
) -> tuple[str, str]:
    """The page's text and content type. Raises ScrapeFailed.

    `timeout_seconds` is for the whole answer, so a page that never ends is cut off.
    """
    try:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        async with session.get(url, timeout=timeout, allow_redirects=False, headers={"Accept": ACCEPT}) as response:
            if response.status != 200:
                raise ScrapeFailed(f"{url}: HTTP {response.status}: the exporter must answer 200; check its log")
            body = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > largest:
                    raise ScrapeFailed(f"{url}: the page is larger than {largest} bytes: is it an exporter's page?")
            return body.decode("utf-8", "replace"), response.headers.get("Content-Type", "")
    except TimeoutError:
        raise ScrapeFailed(
            f"{url}: no whole answer within {timeout_seconds:g} s: is the exporter stuck? "
            "BERTH_SCRAPE_TIMEOUT_SECONDS gives it longer"
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ScrapeFailed(f"{url}: {type(error).__name__}: {error}: is the exporter running there?") from None


class Scraper:
    """One loop a target. `on_page(target, text, content_type)` and `on_failure(target, message)` take the results."""

    def __init__(
        self,
        on_page: Callable[[Target, str, str], Awaitable[None]],
        on_failure: Callable[[Target, str], None],
        *,
        interval_seconds: float,
        timeout_seconds: float,
        concurrency: int = 64,
    ) -> None:
        self._on_page = on_page
        self._on_failure = on_failure
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._concurrency = concurrency
        self._wanted: frozenset[Target] = frozenset()
        self._changed = asyncio.Event()

    def set_targets(self, targets: Iterable[Target]) -> None:
        """From now on these are scraped."""
        self._wanted = frozenset(targets)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        loops: dict[Target, asyncio.Task[None]] = {}
        gate = asyncio.Semaphore(self._concurrency)
        connector = aiohttp.TCPConnector(limit=self._concurrency, limit_per_host=0)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            try:
                while True:
                    self._changed.clear()
                    for target in set(loops) - self._wanted:
                        loops.pop(target).cancel()
                    for target in self._wanted - set(loops):
                        loops[target] = asyncio.create_task(self._loop(session, gate, target))
                    await self._changed.wait()
            finally:
                for loop in loops.values():
                    loop.cancel()
                await asyncio.gather(*loops.values(), return_exceptions=True)

    async def _loop(self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, target: Target) -> None:
        # Spread the first looks, so that a thousand targets never come at once.
        await asyncio.sleep(random.random() * min(self._interval_seconds, 1.0))
        while True:
            started = time.monotonic()
            async with gate:
                await self._once(session, target)
            spent = time.monotonic() - started
            await asyncio.sleep(max(0.0, self._interval_seconds * random.uniform(0.9, 1.1) - spent))

    async def _once(self, session: aiohttp.ClientSession, target: Target) -> None:
        try:
            text, kind = await fetch(session, target.url, timeout_seconds=self._timeout_seconds)
            await self._on_page(target, text, kind)
        except BerthError as error:
            self._on_failure(target, str(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # One target's trouble must not end the others' loops.
            log.exception("scrape failed", node=target.node, url=target.url)
            self._on_failure(target, f"{target.url}: {type(error).__name__}: {error}")
