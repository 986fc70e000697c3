"""Holds an attempt for its expected duration on the wall clock, or faster, and runs nothing.

Durable: the start is on the attempt's row, so after a restart the rest of the time is held. One heap of ends and
one timer, however many attempts there are.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Sequence

from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.executor import LogPiece, Observations, Sink
from binder.domain.work import Assignment

__all__ = ["SimulatedExecutor"]

DEFAULT_SECONDS = 5.0


class SimulatedExecutor:
    """`speed`: simulated seconds per second of the clock, above 0. `clock`: seconds since the epoch."""

    batch = 1000

    def __init__(self, *, speed: float, clock: Callable[[], float]) -> None:
        self._speed = speed
        self._clock = clock
        self._ends: dict[AttemptId, tuple[float, float]] = {}
        self._heap: list[tuple[float, AttemptId]] = []
        self._earlier = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, sink: Sink) -> None:
        self._task = asyncio.create_task(self._run(sink), name="simulated-executor")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def bind(self, assignments: Sequence[Assignment]) -> Observations:
        return {each.id: self._hold(each, self._clock()) for each in assignments}

    async def read_back(self, assignments: Sequence[Assignment]) -> Observations:
        now = self._clock()
        return {
            each.id: Observation(Seen.ABSENT, now)
            if each.id not in self._ends and each.attempt.started_at is None
            else self._hold(each, now)
            for each in assignments
        }

    async def release(self, assignments: Sequence[Assignment]) -> Observations:
        now = self._clock()
        for each in assignments:
            self._ends.pop(each.id, None)
        return {each.id: Observation(Seen.RELEASED, now) for each in assignments}

    async def logs(
        self, assignment: Assignment, member: int, *, follow: bool, tail_lines: int
    ) -> AsyncIterator[LogPiece]:
        text = f"{assignment.id} is simulated on {len(assignment.work.members)} member(s): it writes nothing\n"
        yield LogPiece(max(member, 0), "stdout", text.encode())

    def _hold(self, assignment: Assignment, now: float) -> Observation:
        known = self._ends.get(assignment.id)
        if known is None:
            recorded = assignment.attempt.started_at
            started_at = now if recorded is None else recorded
            seconds = assignment.work.expected_seconds
            ends_at = started_at + (DEFAULT_SECONDS if seconds is None else seconds) / self._speed
            known = self._ends[assignment.id] = (started_at, ends_at)
            if not self._heap or ends_at < self._heap[0][0]:
                self._earlier.set()
            heapq.heappush(self._heap, (ends_at, assignment.id))
        return Observation(Seen.STARTED, known[0], started_at=known[0])

    async def _run(self, sink: Sink) -> None:
        while True:
            now = self._clock()
            over: dict[AttemptId, Observation] = {}
            while self._heap and self._heap[0][0] <= now:
                ends_at, attempt_id = heapq.heappop(self._heap)
                held = self._ends.pop(attempt_id, None)
                if held is not None:
                    over[attempt_id] = Observation(Seen.SUCCEEDED, ends_at, exit_code=0, started_at=held[0])
            if over:
                sink(over)
            self._earlier.clear()
            # At most a few hundred wake-ups a second: ends that lie close are told together.
            wait = max(0.005, self._heap[0][0] - self._clock()) if self._heap else None
            try:
                await asyncio.wait_for(self._earlier.wait(), wait)
            except TimeoutError:
                pass
