"""What the binder asks of an executor. Kubernetes and Triton implement it as `process` and `simulated` do.

Contract: `bind` with an attempt id that was bound before never starts it again; whatever raises, or takes too
long, may or may not have happened, unless it is `NotHeld`. After `release` has said RELEASED for an id, a bind of
that id, even one already on its way, starts nothing.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from binder.domain.attempt import AttemptId, Observation
from binder.domain.report import Speed
from binder.domain.work import Assignment

__all__ = ["Asked", "Executor", "Forgetting", "LogPiece", "NotHeld", "Observations", "Reading", "Reporting", "Sink"]

Observations: TypeAlias = Mapping[AttemptId, Observation]
Sink: TypeAlias = Callable[[Observations], None]


class NotHeld(Exception):
    """Raised by `bind`: nothing of the batch is held, and nothing will be. The text goes to the user."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    member: int
    stream: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """An attempt whose speed is asked for. `mark`: of the last reading that was kept, "" before the first.
    `ended`: it has, and is asked for the last time."""

    assignment: Assignment
    mark: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What was done since the mark that it was asked with, and the mark that stands for having told it.
    `more`: there is more to be read at once."""

    mark: str
    speeds: tuple[Speed, ...] = ()
    more: bool = False


@runtime_checkable
class Reporting(Protocol):
    """An executor that can tell how fast its attempts are. All that it needs to count nothing twice is the mark:
    a reading that was not kept is made again from the old one."""

    async def reports(self, asked: Sequence[Asked]) -> Mapping[AttemptId, Reading]:
        """Attempts of which there is nothing new are left out."""


@runtime_checkable
class Forgetting(Reporting, Protocol):
    """One that cannot tell of an attempt any more once it was released. It is asked once more just before."""

    @property
    def forgets(self) -> bool: ...


class Executor(Protocol):
    @property
    def batch(self) -> int:
        """Most attempts in one call."""

    async def start(self, sink: Sink) -> None:
        """Before any other call. `sink` takes what happens to attempts later: started, succeeded, failed."""

    async def stop(self) -> None:
        """Lets go without ending anything that it holds."""

    async def bind(self, assignments: Sequence[Assignment]) -> Observations:
        """Holds all members of each attempt, or none. An attempt that the answer leaves out is UNCLEAR."""

    async def read_back(self, assignments: Sequence[Assignment]) -> Observations:
        """What is the case now, also for attempts bound before a restart, which are watched from now on."""

    async def release(self, assignments: Sequence[Assignment]) -> Observations:
        """Asks for the end. RELEASED at once, or UNCLEAR while it is ending and the rest through the sink."""

    def logs(self, assignment: Assignment, member: int, *, follow: bool, tail_lines: int) -> AsyncIterator[LogPiece]:
        """Output so far, the last `tail_lines` lines per stream (0: all); with `follow` until the end.

        `member` -1: all.
        """
