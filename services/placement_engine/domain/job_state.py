"""The life of a job: what each outcome and event makes of it. Pure; the store holds the rows locked meanwhile.

Records of two topics arrive in any order between them: STARTED may overtake BOUND. Each topic's own records
carry a version that rises per job; what is not newer than the last is dropped.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

__all__ = [
    "REFUSED_SECONDS",
    "Event",
    "EventKind",
    "JobRow",
    "JobState",
    "Retry",
    "advance",
    "cancel",
    "is_over",
    "preempt",
    "refused_still",
]

REFUSED_SECONDS = 600.0
"""After which a node that refused a job is tried again: it may have been mended, or the others may be gone."""


class JobState(IntEnum):
    """The numbers are the protobuf enum's."""

    PENDING = 1
    PLACED = 2
    BOUND = 3
    RUNNING = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    RELEASING = 8


_OVER = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


def is_over(state: JobState) -> bool:
    return state in _OVER


class EventKind(IntEnum):
    BOUND = 1
    BIND_FAILED = 2
    BIND_UNKNOWN = 3
    STARTED = 4
    SUCCEEDED = 5
    FAILED = 6
    RELEASED = 7


_SETTLED = frozenset({EventKind.BOUND, EventKind.BIND_FAILED, EventKind.BIND_UNKNOWN})


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as stored. Times are seconds since the epoch.

    `requeue`: a release that is under way ends in waiting again, not in a cancel. `bind_failures`: of binds, and of
    what was bound and soon failed, in a row. `preemptions`: how often it was stopped for others. `endpoints`: where a
    served model takes requests while it is bound. `refused_nodes`: those whose executor refused it, in a row.
    """

    job_id: str
    tenant: str
    name: str
    queue: str
    pool: str
    spec: bytes
    traceparent: str
    submitted_at: float
    accepted_at: float
    state: JobState = JobState.PENDING
    message: str = ""
    attempt: int = 0
    version: int = 1
    placed_at: float | None = None
    bound_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    not_before: float = 0.0
    settled_version: int = 0
    lifecycle_version: int = 0
    members: bytes = b""
    requeue: bool = False
    bind_failures: int = 0
    preemptions: int = 0
    endpoints: tuple[str, ...] = ()
    refused_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """What the binder tells of one attempt."""

    kind: EventKind
    job_id: str
    attempt: int
    version: int
    at: float
    message: str = ""
    retryable: bool = False
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often in a row a bind is tried, and the wait before the next: doubling, at most `longest` seconds. What was
    bound for `sound_seconds` ends the row: what fails sooner each time is not tried without end."""

    attempts: int = 5
    first_seconds: float = 1.0
    longest_seconds: float = 60.0
    sound_seconds: float = 600.0

    def delay(self, failures: int) -> float:
        return min(self.first_seconds * 2.0 ** max(failures - 1, 0), self.longest_seconds)


def advance(row: JobRow, event: Event, retry: Retry) -> tuple[JobRow, bool]:
    """The job after `event`, and whether its claims are free now. The same row: the event was old news."""
    settled = event.kind in _SETTLED
    last = row.settled_version if settled else row.lifecycle_version
    if event.attempt != row.attempt or event.version <= last:
        return row, False
    row = replace(row, settled_version=event.version) if settled else replace(row, lifecycle_version=event.version)
    row = replace(row, version=row.version + 1)
    if is_over(row.state):
        return _late(row, event), False
    if row.state is JobState.PENDING:
        return row, False
    held_since = row.bound_at if row.bound_at is not None else row.started_at
    if held_since is not None and event.at - held_since >= retry.sound_seconds:
        row = replace(row, bind_failures=0)
    match event.kind:
        case EventKind.BOUND:
            forward = row.state is JobState.PLACED
            return replace(
                row,
                bound_at=event.at,
                state=JobState.BOUND if forward else row.state,
                message=event.message if forward else row.message,
                refused_nodes=(),
            ), False
        case EventKind.BIND_UNKNOWN:
            return replace(row, message=event.message or "bind outcome not known yet; the claim is held"), False
        case EventKind.STARTED:
            forward = row.state in (JobState.PLACED, JobState.BOUND)
            return replace(
                row, started_at=event.at, state=JobState.RUNNING if forward else row.state, endpoints=event.endpoints
            ), False
        case EventKind.BIND_FAILED | EventKind.RELEASED if row.state is JobState.RELEASING and row.requeue:
            return _wait_again(row, row.message), True
        case EventKind.BIND_FAILED | EventKind.FAILED if (
            row.state is not JobState.RELEASING and event.retryable and (row.bind_failures + 1 < retry.attempts)
        ):
            failures = row.bind_failures + 1
            row = replace(row, bind_failures=failures, not_before=event.at + retry.delay(failures))
            return _wait_again(row, event.message), True
        case EventKind.SUCCEEDED:
            state = JobState.SUCCEEDED
        case EventKind.RELEASED:
            state = JobState.CANCELLED
        case EventKind.BIND_FAILED if row.state is JobState.RELEASING:
            state = JobState.CANCELLED
        case _:
            state = JobState.FAILED
    return replace(
        row,
        state=state,
        message=event.message or row.message,
        finished_at=event.at,
        requeue=False,
        endpoints=(),
    ), True


def _wait_again(row: JobRow, message: str) -> JobRow:
    return replace(
        row,
        state=JobState.PENDING,
        message=message,
        members=b"",
        placed_at=None,
        bound_at=None,
        started_at=None,
        requeue=False,
        endpoints=(),
    )


def _late(row: JobRow, event: Event) -> JobRow:
    """News of a job that is over only completes its times."""
    if event.kind is EventKind.BOUND and row.bound_at is None:
        return replace(row, bound_at=event.at)
    if event.kind is EventKind.STARTED and row.started_at is None:
        return replace(row, started_at=event.at)
    return row


def refused_still(row: JobRow, now: float) -> tuple[str, ...]:
    """The nodes that a job keeps away from at `now`: those that refused it, until the last refusal is long ago."""
    return row.refused_nodes if now < row.not_before + REFUSED_SECONDS else ()


def cancel(row: JobRow, now: float, reason: str) -> tuple[JobRow, bool]:
    """The job after a cancel, and whether the binder must release it."""
    if row.state is JobState.RELEASING and row.requeue:
        return replace(row, requeue=False, message=reason, version=row.version + 1), False
    if is_over(row.state) or row.state is JobState.RELEASING:
        return row, False
    if row.state is JobState.PENDING:
        return replace(row, state=JobState.CANCELLED, message=reason, finished_at=now, version=row.version + 1), False
    return replace(row, state=JobState.RELEASING, message=reason, version=row.version + 1), True


def preempt(row: JobRow, attempt: int, reason: str) -> tuple[JobRow, bool]:
    """The job after it was told to make room, and whether the binder must release it. The same row: that attempt
    holds nothing any more, or is being released already."""
    if row.attempt != attempt or row.state not in (JobState.PLACED, JobState.BOUND, JobState.RUNNING):
        return row, False
    return replace(
        row,
        state=JobState.RELEASING,
        requeue=True,
        message=reason,
        version=row.version + 1,
        preemptions=row.preemptions + 1,
    ), True
