"""The life of an attempt, as a pure function of what its executor was seen to say.

    INTENT -> BOUND -> RUNNING -> SUCCEEDED | FAILED | RELEASED
    INTENT -> UNKNOWN (asked, and no clear answer) -> any of them, or INTENT again where nothing was found

Guarantee: at most one BOUND is told per attempt, nothing after an end, UNKNOWN at most once, and the version of
what is told rises per job.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

__all__ = [
    "ENDED",
    "HOLDS",
    "Attempt",
    "AttemptId",
    "Event",
    "Lifecycle",
    "LifecycleKind",
    "Observation",
    "Outcome",
    "Seen",
    "Settled",
    "State",
    "transition",
]


class AttemptId(NamedTuple):
    job_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.job_id}.{self.attempt}"


class State(StrEnum):
    INTENT = "INTENT"
    UNKNOWN = "UNKNOWN"
    BOUND = "BOUND"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    RELEASED = "RELEASED"


ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.RELEASED})
HOLDS: Final = frozenset({State.BOUND, State.RUNNING})


class Seen(StrEnum):
    """What an executor says of an attempt."""

    UNCLEAR = "UNCLEAR"
    """No answer, or none that can be relied on."""
    ABSENT = "ABSENT"
    """The executor has no trace of it."""
    PARTIAL = "PARTIAL"
    """A bind was begun and did not get to its end: no member has started; bind again to go on."""
    REFUSED = "REFUSED"
    """Not held, and no earlier call will make it so."""
    HELD = "HELD"
    """Every member is held; none has started."""
    STARTED = "STARTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    """It was held, and has ended badly; nothing is held any more."""
    RELEASED = "RELEASED"
    """Ended by a release; nothing is held and nothing will start."""


@dataclass(frozen=True, slots=True)
class Observation:
    """`at`: when it happened. `started_at`: when the members started, where they did. Seconds since the epoch.
    `endpoints`: with STARTED of a served model, where each member takes requests."""

    seen: Seen
    at: float
    message: str = ""
    exit_code: int | None = None
    retryable: bool = True
    started_at: float | None = None
    endpoints: tuple[str, ...] = ()


class Outcome(StrEnum):
    BOUND = "BOUND"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


class LifecycleKind(StrEnum):
    STARTED = "STARTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    RELEASED = "RELEASED"


@dataclass(frozen=True, slots=True)
class Settled:
    version: int
    outcome: Outcome
    at: float
    message: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Lifecycle:
    version: int
    kind: LifecycleKind
    at: float
    message: str = ""
    exit_code: int | None = None
    endpoints: tuple[str, ...] = ()


Event: TypeAlias = Settled | Lifecycle


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt as stored, without its Bind. Times in seconds since the epoch."""

    id: AttemptId
    version: int
    state: State
    executor: str
    tenant: str
    traceparent: str
    members: int
    decided_at: float
    intended_at: float
    next_try_at: float
    tries: int = 0
    release_wanted: bool = False
    release_reason: str = ""
    bound_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    told_unknown: bool = False
    published: int = 0
    message: str = ""
    exit_code: int | None = None


# An attempt tells at most UNKNOWN, BOUND, STARTED and one end, so attempts of a job never share a version.
VERSIONS_PER_ATTEMPT: Final = 16


def transition(attempt: Attempt, observation: Observation) -> tuple[Attempt, tuple[Event, ...]]:
    """The attempt after `observation`, and what has to be told in the same transaction."""
    if attempt.state in ENDED:
        return attempt, ()
    step = _Step(attempt)
    unbound = attempt.bound_at is None
    match observation.seen:
        case Seen.UNCLEAR:
            step.unclear(observation)
        case Seen.PARTIAL if unbound:
            step.again(observation)
        case Seen.ABSENT if unbound and not attempt.release_wanted:
            step.again(observation)
        case Seen.HELD:
            step.bound(observation.at)
        case Seen.STARTED:
            at = observation.at if observation.started_at is None else observation.started_at
            step.started(at, observation.endpoints)
        case Seen.SUCCEEDED:
            step.started(observation.at if observation.started_at is None else observation.started_at)
            step.end(LifecycleKind.SUCCEEDED, observation)
        case Seen.FAILED if observation.started_at is not None:
            step.started(observation.started_at)
            step.end(LifecycleKind.FAILED, observation)
        case _:
            # Nothing is held: refused, released, failed before it started, or no longer found.
            if attempt.release_wanted:
                step.end(LifecycleKind.RELEASED, observation)
            elif unbound:
                step.refused(observation)
            else:
                step.end(LifecycleKind.FAILED, observation)
    return step.attempt, tuple(step.events)


class _Step:
    """Collects the changes and events of one transition."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.events: list[Event] = []

    def _version(self) -> int:
        return self.attempt.id.attempt * VERSIONS_PER_ATTEMPT + self.attempt.published

    def unclear(self, observation: Observation) -> None:
        if self.attempt.state in HOLDS and self.attempt.release_wanted:
            # What keeps it from ending, such as a disruption budget.
            self.attempt = replace(self.attempt, message=observation.message)
        if self.attempt.state is not State.INTENT:
            return
        if not self.attempt.told_unknown:
            self.events.append(Settled(self._version(), Outcome.UNKNOWN, observation.at, observation.message))
            self.attempt = replace(self.attempt, told_unknown=True, published=self.attempt.published + 1)
        self.attempt = replace(self.attempt, state=State.UNKNOWN, message=observation.message)

    def again(self, observation: Observation) -> None:
        self.attempt = replace(self.attempt, state=State.INTENT, message=observation.message)

    def bound(self, at: float) -> None:
        if self.attempt.bound_at is not None:
            return
        self.events.append(Settled(self._version(), Outcome.BOUND, at))
        self.attempt = replace(
            self.attempt, state=State.BOUND, bound_at=at, message="", published=self.attempt.published + 1
        )

    def started(self, at: float, endpoints: tuple[str, ...] = ()) -> None:
        self.bound(at)
        if self.attempt.started_at is not None:
            return
        self.events.append(Lifecycle(self._version(), LifecycleKind.STARTED, at, endpoints=endpoints))
        self.attempt = replace(self.attempt, state=State.RUNNING, started_at=at, published=self.attempt.published + 1)

    def refused(self, observation: Observation) -> None:
        message = observation.message or "the executor does not hold it"
        self.events.append(Settled(self._version(), Outcome.FAILED, observation.at, message, observation.retryable))
        self.attempt = replace(
            self.attempt,
            state=State.FAILED,
            ended_at=observation.at,
            message=message,
            exit_code=observation.exit_code,
            published=self.attempt.published + 1,
        )

    def end(self, kind: LifecycleKind, observation: Observation) -> None:
        message = observation.message
        if kind is LifecycleKind.RELEASED:
            message = self.attempt.release_reason or message
        elif kind is LifecycleKind.FAILED and not message:
            message = "the executor no longer holds it"
        self.events.append(Lifecycle(self._version(), kind, observation.at, message, observation.exit_code))
        self.attempt = replace(
            self.attempt,
            state=State(kind.value),
            ended_at=observation.at,
            message=message,
            exit_code=observation.exit_code,
            published=self.attempt.published + 1,
        )
