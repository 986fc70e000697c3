"""How long requests took that a Triton server answered: the quantiles of its metrics page.

The repository API has counts and sums only. The page has quantiles where the server was started with
`--metrics-config=summary_latencies=true`, of all requests of a model, from arrival to answer, over a sliding window:
the last minute or so. It says nothing of batches, is 0 or NaN where the window is empty, and goes on to show a
model that was unloaded. A model's name is of one attempt and member, so no other server's page is mistaken for it.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import structlog
from prometheus_client.parser import text_string_to_metric_families

from binder.domain.work import Assignment, Member
from binder.executors.triton_copies import Servers, served_name

__all__ = ["Pages", "Quantiles", "page_of", "quantiles_of"]

log = structlog.get_logger(__name__)

SUMMARY: Final = "nv_inference_request_summary_us"
PORT: Final = 8002
"""Of Triton's metrics, unless it was told otherwise."""
ANSWER_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 60.0
"""So long a page is not asked that gave no answer: releases and binds wait for it."""
MOST_BYTES: Final = 2**24
MOST_SECONDS: Final = 1e7


class Quantiles(NamedTuple):
    """Seconds; None: not told."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


def page_of(server: str, node: str, pages: Servers) -> str:
    """The address of the metrics of `node`, whose Triton is at `server`; "" where there is none."""
    if named := pages.address(node):
        return named
    host = urlsplit(server).hostname
    if not host:
        return ""
    return f"http://{f'[{host}]' if ':' in host else host}:{PORT}/metrics"


def quantiles_of(page: str) -> dict[str, Quantiles]:
    """By model; of several versions the largest of each. Raises ValueError where it is no page of metrics."""
    lines = [line for line in page.splitlines() if line.startswith(f"{SUMMARY}{{")]
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families("\n".join([f"# TYPE {SUMMARY} summary", *lines, ""])):
        for sample in family.samples:
            seconds = sample.value / 1e6
            if not 0 < seconds <= MOST_SECONDS or math.isnan(seconds):
                continue
            of_model = found.setdefault(sample.labels.get("model", ""), {})
            quantile = sample.labels.get("quantile", "")
            of_model[quantile] = max(seconds, of_model.get(quantile, 0.0))
    return {model: Quantiles(some.get("0.5"), some.get("0.9"), some.get("0.99")) for model, some in found.items()}


class Pages:
    """The metrics pages of `servers`, at `named` or at Triton's own port. Each is read once a look."""

    def __init__(self, servers: Servers, named: Servers) -> None:
        self._servers = servers
        self._named = named
        self._silent: set[str] = set()
        self._paused: dict[str, float] = {}

    def look(self) -> "Look":
        return Look(self)

    async def quantiles(self, address: str) -> Mapping[str, Quantiles]:
        """Empty where the page tells none: latencies are worth no more than that."""
        now = time.monotonic()
        if now < self._paused.get(address, now):
            return {}
        self._paused.pop(address, None)
        try:
            found = quantiles_of(await _text(address))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if address not in self._silent:
                log.info("no latencies: a page of metrics cannot be read", address=address, error=repr(error))
            self._silent.add(address)
            if isinstance(error, TimeoutError):
                self._paused[address] = time.monotonic() + PAUSE_SECONDS
            return {}
        self._silent.discard(address)
        return found

    def address(self, member: Member) -> str:
        return page_of(self._servers.address(member.node), member.node, self._named)


class Look:
    """One look at all pages."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._reading: dict[str, asyncio.Task[Mapping[str, Quantiles]]] = {}

    async def __call__(self, assignment: Assignment, member: Member) -> Quantiles:
        """Of a member's model. Raises nothing."""
        address = self._pages.address(member)
        if not address:
            return Quantiles()
        if address not in self._reading:
            self._reading[address] = asyncio.create_task(self._pages.quantiles(address))
        # Others wait for it too: one that gives up must not end it.
        found = await asyncio.shield(self._reading[address])
        return found.get(served_name(assignment, member), Quantiles())


async def _text(address: str) -> str:
    limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=limit) as session, session.get(address) as answer:
        if answer.status != 200:
            raise ValueError(f"it answers {answer.status}")
        taken = bytearray()
        async for piece in answer.content.iter_chunked(2**16):
            taken += piece
            if len(taken) > MOST_BYTES:
                raise ValueError(f"it is longer than {MOST_BYTES} bytes")
        return taken.decode(errors="replace")
