"""What a batch of decisions changes, given what is stored. Pure: the store does as the plan says."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from binder.domain.attempt import Attempt, AttemptId, Event, Observation, Seen, State, transition

__all__ = ["BindCommand", "Command", "Plan", "ReleaseCommand", "plan"]


@dataclass(frozen=True, slots=True)
class BindCommand:
    """`bind`: the Bind message as it came. Times in seconds since the epoch."""

    id: AttemptId
    version: int
    executor: str
    tenant: str
    members: int
    bind: bytes
    decided_at: float
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseCommand:
    id: AttemptId
    version: int
    reason: str
    decided_at: float
    traceparent: str = ""


Command: TypeAlias = BindCommand | ReleaseCommand


@dataclass(slots=True)
class Plan:
    """`new`: rows to insert with their Bind; `releases`: stored attempts to mark, with version and reason;
    `events`: what to tell at once."""

    new: dict[AttemptId, tuple[Attempt, bytes]] = field(default_factory=dict)
    releases: dict[AttemptId, tuple[int, str]] = field(default_factory=dict)
    events: list[tuple[Attempt, Event]] = field(default_factory=list)


def plan(
    commands: Sequence[Command],
    stored: Mapping[AttemptId, State],
    versions: Mapping[str, int],
    executors: AbstractSet[str],
    now: float,
) -> Plan:
    """Applies `commands` in order.

    `stored`: attempts of the jobs concerned; `versions`: newest version applied per job. A command whose
    version is not above that is a repetition or out of date, and changes nothing. A Release of an attempt that
    was never seen is recorded as released, so that its Bind, if it ever comes, starts nothing.
    """
    result = Plan()
    newest = dict(versions)
    for command in commands:
        if command.version <= newest.get(command.id.job_id, -1):
            continue
        known = command.id in stored or command.id in result.new
        if isinstance(command, BindCommand) and known:
            continue
        newest[command.id.job_id] = command.version
        if isinstance(command, BindCommand):
            _intend(result, command, executors, now)
        elif not known:
            _release_unseen(result, command, now)
        elif command.id in stored:
            result.releases[command.id] = (command.version, command.reason)
        else:
            attempt, bind = result.new[command.id]
            wanted = replace(attempt, version=command.version, release_wanted=True, release_reason=command.reason)
            result.new[command.id] = (wanted, bind)
    return result


def _intend(result: Plan, command: BindCommand, executors: AbstractSet[str], now: float) -> None:
    attempt = Attempt(
        id=command.id,
        version=command.version,
        state=State.INTENT,
        executor=command.executor,
        tenant=command.tenant,
        traceparent=command.traceparent,
        members=command.members,
        decided_at=command.decided_at,
        intended_at=now,
        next_try_at=now,
    )
    if command.executor not in executors:
        enabled = ", ".join(sorted(executors)) or "none"
        message = (
            f"executor: {command.executor!r}: not enabled in this binder (enabled: {enabled}); "
            "name one of these in the job, or enable it with BERTH_EXECUTORS"
        )
        refusal = Observation(Seen.REFUSED, now, message, retryable=False)
        attempt, events = transition(attempt, refusal)
        result.events.extend((attempt, event) for event in events)
    result.new[command.id] = (attempt, command.bind)


def _release_unseen(result: Plan, command: ReleaseCommand, now: float) -> None:
    attempt = Attempt(
        id=command.id,
        version=command.version,
        state=State.INTENT,
        executor="",
        tenant="",
        traceparent=command.traceparent,
        members=0,
        decided_at=command.decided_at,
        intended_at=now,
        next_try_at=now,
        release_wanted=True,
        release_reason=command.reason,
    )
    attempt, events = transition(attempt, Observation(Seen.RELEASED, now))
    result.events.extend((attempt, event) for event in events)
    result.new[command.id] = (attempt, b"")
