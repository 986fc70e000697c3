"""What is due: each key once, one worker at a time, now or later."""

import asyncio
import heapq
from collections.abc import Callable, Hashable
from itertools import count
from typing import Generic, TypeVar

__all__ = ["WorkQueue"]

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """In order of arrival; a key that comes while a worker has it is due again afterwards."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[Key, None] = {}
        self._busy: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._timer: dict[Key, float] = {}
        """When a key is due again: the earliest of what was asked for."""
        self._number = count()
        self._wake = asyncio.Event()

    def clear(self) -> None:
        for kept in (self._due, self._busy, self._later, self._timer):
            kept.clear()

    def put(self, key: Key) -> None:
        self._due[key] = None
        self._wake.set()

    def put_in(self, key: Key, seconds: float) -> None:
        """Later; an earlier time that was asked for stands."""
        at = self._clock() + seconds
        if at < self._timer.get(key, float("inf")):
            self._timer[key] = at
            heapq.heappush(self._later, (at, next(self._number), key))

    async def take(self) -> Key:
        """The next one that nobody has; to be given back by `done`."""
        while True:
            key = next((one for one in self._due if one not in self._busy), None)
            if key is not None:
                del self._due[key]
                self._busy.add(key)
                return key
            self._wake.clear()
            await self._wake.wait()

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._due:
            self._wake.set()

    async def run(self) -> None:
        """Makes due what was put off, until cancelled."""
        while True:
            while self._later and self._later[0][0] <= self._clock():
                at, _, key = heapq.heappop(self._later)
                if self._timer.get(key) == at:
                    del self._timer[key]
                    self.put(key)
            await asyncio.sleep(0.05)
