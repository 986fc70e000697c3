"""Builders and fakes for the binder's tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from binder.domain.attempt import ENDED, HOLDS, Attempt, AttemptId, Event, Observation, Seen, State, transition
from binder.domain.executor import LogPiece, NotHeld, Observations, Sink
from binder.domain.store import Settlement
from binder.domain.work import Assignment, Command, Member, Work

NOW = 1_000.0


def make_attempt(job_id: str = "job", attempt: int = 1, **changes: Any) -> Attempt:
    blank = Attempt(
        id=AttemptId(job_id, attempt),
        version=1,
        state=State.INTENT,
        executor="fake",
        tenant="default",
        traceparent="",
        members=1,
        decided_at=NOW - 1,
        intended_at=NOW,
        next_try_at=NOW,
    )
    return replace(blank, **changes)


def make_command(
    job_id: str, *argv: str, members: int = 1, environment: dict[str, str] | None = None, attempt: int = 1
) -> Assignment:
    work = Work(
        members=tuple(Member(member, "here") for member in range(members)),
        command=Command(argv, environment or {}),
    )
    return Assignment(make_attempt(job_id, attempt, executor="process", members=members, tries=1), work)


class FakeStore:
    """The store's promises, in memory."""

    def __init__(self, *attempts: Attempt, work: Work | None = None) -> None:
        self.rows = {attempt.id: attempt for attempt in attempts}
        self.told: list[tuple[AttemptId, Event]] = []
        self._work = work or Work(members=(Member(0, "here"),))

    @asynccontextmanager
    async def sole(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        async def guard() -> None:
            await asyncio.Event().wait()

        yield guard

    async def rearm(self, executor: str, now: float) -> None:
        self.rows = {each: replace(row, next_try_at=now) for each, row in self.rows.items()}

    async def take(self, executor: str, now: float, limit: int, lease_seconds: float) -> list[Assignment]:
        taken = []
        for row in list(self.rows.values()):
            due = row.state in (State.INTENT, State.UNKNOWN) or (row.release_wanted and row.state in HOLDS)
            if due and row.next_try_at <= now and len(taken) < limit:
                row = replace(row, tries=row.tries + 1, next_try_at=now + lease_seconds)
                self.rows[row.id] = row
                taken.append(Assignment(row, self._work))
        return taken

    async def postpone(self, ids: Sequence[AttemptId], until: float) -> None:
        for each in ids:
            self.rows[each] = replace(self.rows[each], next_try_at=until)

    async def held(self, executor: str, after: AttemptId, limit: int) -> list[Assignment]:
        rows = sorted(row.id for row in self.rows.values() if row.state in HOLDS and row.id > after)
        return [Assignment(self.rows[each], self._work) for each in rows[:limit]]

    async def settle(self, observations: Sequence[tuple[AttemptId, Observation]], now: float) -> list[Settlement]:
        settled = []
        for each, observation in observations:
            row, events = transition(self.rows[each], observation)
            if row.state not in ENDED:
                row = replace(row, next_try_at=now + 0.01)
            self.rows[each] = row
            self.told += [(each, event) for event in events]
            settled.append(Settlement(row, events))
        return settled

    def release(self, attempt_id: AttemptId, reason: str = "cancelled") -> None:
        row = self.rows[attempt_id]
        self.rows[attempt_id] = replace(row, release_wanted=True, release_reason=reason, next_try_at=0.0)

    def story(self, attempt_id: AttemptId) -> list[str]:
        return [
            getattr(event, "outcome", None) or getattr(event, "kind", "")
            for each, event in self.told
            if each == attempt_id
        ]


class FakeExecutor:
    """Holds what it is asked to; `faults` are used up one a call of `bind`.

    "hang": holds, and never answers. "hang-before": neither. "raise": holds, and raises. "not-held": holds
    nothing and says so. "silent": holds, and leaves the attempt out of its answer. `blind` read-backs come first.
    """

    batch = 100

    def __init__(self, *faults: str, blind: int = 0) -> None:
        self.faults = list(faults)
        self.blind = blind
        self.held: dict[AttemptId, str] = {}
        self.starts: list[AttemptId] = []
        self.calls: list[str] = []
        self.fenced: set[AttemptId] = set()
        self.sink: Sink = lambda _: None

    async def start(self, sink: Sink) -> None:
        self.sink = sink

    async def stop(self) -> None: ...

    async def bind(self, assignments: Sequence[Assignment]) -> Observations:
        self.calls.append("bind")
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "not-held":
            raise NotHeld("no room")
        if fault != "hang-before":
            for each in assignments:
                if each.id not in self.held and each.id not in self.fenced:
                    self.held[each.id] = "held"
                    self.starts.append(each.id)
        if fault.startswith("hang"):
            await asyncio.Event().wait()
        if fault == "raise":
            raise RuntimeError("connection lost")
        if fault == "silent":
            return {}
        return {each.id: self._say(each.id) for each in assignments}

    async def read_back(self, assignments: Sequence[Assignment]) -> Observations:
        self.calls.append("read_back")
        if self.blind:
            self.blind -= 1
            raise RuntimeError("still away")
        return {each.id: self._say(each.id) for each in assignments}

    async def release(self, assignments: Sequence[Assignment]) -> Observations:
        self.calls.append("release")
        for each in assignments:
            self.fenced.add(each.id)
            self.held.pop(each.id, None)
        return {each.id: Observation(Seen.RELEASED, NOW) for each in assignments}

    async def logs(
        self, assignment: Assignment, member: int, *, follow: bool, tail_lines: int
    ) -> AsyncIterator[LogPiece]:
        yield LogPiece(0, "stdout", b"")

    def finish(self, attempt_id: AttemptId, seen: Seen = Seen.SUCCEEDED) -> None:
        self.held[attempt_id] = "over"
        self.sink({attempt_id: Observation(seen, NOW + 5, started_at=NOW)})

    def _say(self, attempt_id: AttemptId) -> Observation:
        stage = self.held.get(attempt_id)
        if attempt_id in self.fenced:
            return Observation(Seen.RELEASED, NOW)
        if stage is None:
            return Observation(Seen.ABSENT, NOW)
        if stage == "over":
            return Observation(Seen.SUCCEEDED, NOW + 5, started_at=NOW)
        return Observation(Seen.STARTED, NOW, started_at=NOW)
