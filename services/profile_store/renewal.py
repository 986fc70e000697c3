"""Kept predictions are made anew when more was measured or learnt of their workload.

Nothing is lost where the process ends in between: predictions are advice, and the next measurement makes them anew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog

from berth.errors import InvalidInput
from berth.postgres import TRANSIENT

__all__ = ["Renewal"]

log = structlog.get_logger(__name__)


class Renewal:
    """`renew` makes those of the workloads anew. `gather_seconds`: what is measured meanwhile goes along."""

    def __init__(
        self,
        renew: Callable[[Collection[str]], Awaitable[int]],
        *,
        gather_seconds: float = 0.5,
        again_seconds: float = 5.0,
    ) -> None:
        self._renew = renew
        self._gather = gather_seconds
        self._again = again_seconds
        self._due: set[str] = set()
        self._wake = asyncio.Event()

    def add(self, workloads: Collection[str]) -> None:
        if workloads:
            self._due.update(workloads)
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._gather)
            self._wake.clear()
            due, self._due = self._due, set()
            try:
                changed = await self._renew(due)
            except TRANSIENT as error:
                log.warning("predictions will be made anew later", error=repr(error))
                await asyncio.sleep(self._again)
                self.add(due)
            except InvalidInput as error:
                log.error("predictions that cannot be kept", workloads=sorted(due), error=str(error))
            else:
                if changed:
                    log.info("predictions were made anew", profiles=changed)
