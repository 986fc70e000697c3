"""Looking again for copies that were released: each server by a task of its own, so that a silent one holds up none."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import structlog

from berth.backends.base import Health, Refused, Serving, Unanswered, Unreachable
from berth.errors import InvalidInput
from binder.domain.work import Assignment, Member
from binder.executors.triton_copies import Servers, placement_of

__all__ = ["Sweep"]

log = structlog.get_logger(__name__)

AT_ONCE = 32
"""Servers that are looked at."""

Copy: TypeAlias = tuple[Assignment, Member]


class Sweep:
    """`look` and `unload` are the executor's, and raise as its backends do."""

    def __init__(
        self,
        servers: Servers,
        look: Callable[[Assignment, Member], Awaitable[Serving]],
        unload: Callable[[Assignment, Member], Awaitable[None]],
    ) -> None:
        self._servers = servers
        self._look = look
        self._unload = unload
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._turn = 0
        self._turns: dict[str, int] = {}

    def turn(self, released: Iterable[Assignment]) -> None:
        """Begins to look at each server that has been looked at to the end."""
        copies: dict[str, list[Copy]] = {}
        for assignment in released:
            for member in assignment.work.members:
                try:
                    placement = placement_of(assignment, member, self._servers)
                except (Refused, InvalidInput):
                    # It never had a place where it could have been loaded.
                    continue
                copies.setdefault(placement.address or f"node {placement.node}", []).append((assignment, member))
        # Those that were looked at last are the last: many silent ones must not take every turn.
        self._turns = {server: turn for server, turn in self._turns.items() if server in copies}
        for server in sorted(copies, key=lambda one: self._turns.get(one, 0)):
            if server not in self._under_way and len(self._under_way) < AT_ONCE:
                self._turn += 1
                self._turns[server] = self._turn
                task = asyncio.create_task(self._server(copies[server]))
                self._under_way[server] = task
                task.add_done_callback(lambda _, server=server: self._under_way.pop(server, None))  # type: ignore[misc]

    async def stop(self) -> None:
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _server(self, copies: Iterable[Copy]) -> None:
        for assignment, member in copies:
            try:
                await self._copy(assignment, member)
            except Unreachable:
                # One look says it of all that it has.
                return
            except (Unanswered, Refused, InvalidInput):
                continue
            # The server says something unheard of: its other copies are looked at all the same.
            except Exception:
                log.exception("sweeping failed", attempt=str(assignment.id))

    async def _copy(self, assignment: Assignment, member: Member) -> None:
        try:
            if (await self._look(assignment, member)).health is Health.ABSENT:
                return
            log.warning("a released model was there again", attempt=str(assignment.id))
        except Unreachable:
            raise
        except Unanswered as error:
            # Nothing is said of it: so it may be there.
            log.warning("a released model may be there", attempt=str(assignment.id), error=str(error))
        await self._unload(assignment, member)
