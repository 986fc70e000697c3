"""What the worker asks of the store of attempts. Every call is one transaction and safe to repeat."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from binder.domain.attempt import Attempt, AttemptId, Event, Observation
from binder.domain.work import Assignment

__all__ = ["Settlement", "Store"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """An attempt after a change, with what was told of it."""

    attempt: Attempt
    events: tuple[Event, ...]


class Store(Protocol):
    def sole(self) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Waits until no other binder works on this store; gives what raises once that is no longer so."""

    async def rearm(self, executor: str, now: float) -> None:
        """All that is not settled becomes due: whoever had taken it is gone."""

    async def take(self, executor: str, now: float, limit: int, lease_seconds: float) -> list[Assignment]:
        """Attempts that are due, each counted as tried once more and not due again for `lease_seconds`."""

    async def postpone(self, ids: Sequence[AttemptId], until: float) -> None:
        """Due again at `until`."""

    async def held(self, executor: str, after: AttemptId, limit: int) -> list[Assignment]:
        """Attempts that are bound or running, in the order of their ids, from the one past `after`."""

    async def settle(self, observations: Sequence[tuple[AttemptId, Observation]], now: float) -> list[Settlement]:
        """Applies `transition` in order; state and outgoing records change together or not at all."""
