"""What is asked of the store of reports: each reading is told once, whatever happens between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from binder.domain.attempt import AttemptId
from binder.domain.executor import Reading
from binder.domain.work import Assignment

__all__ = ["Open", "Reports", "Told"]


@dataclass(frozen=True, slots=True)
class Open:
    """An attempt whose speed is still asked for. `sequence`: observations told; `reached`: end of the last one's
    span, or the attempt's start."""

    assignment: Assignment
    mark: str
    sequence: int
    reached: float


@dataclass(frozen=True, slots=True)
class Told:
    """`reading` None: nothing new. `until`: end of its span. `over`: the attempt is asked no more."""

    open: Open
    reading: Reading | None
    until: float
    over: bool


class Reports(Protocol):
    async def open(self, executor: str, after: AttemptId, limit: int, *, ended: bool) -> list[Open]:
        """In the order of their ids, from the one past `after`. `ended`: only those that have."""

    async def of(self, attempts: Sequence[AttemptId]) -> list[Open]:
        """Those of `attempts` whose speed is still asked for."""

    async def tell(self, told: Sequence[Told]) -> int:
        """Marks and outgoing records change together or not at all; what was told meanwhile by another binder, or
        before, is not told again. Gives how many observations went out."""
