"""How fast a model is that a Triton server serves, from its statistics (GET /v2/models/NAME/stats). Pure but for the
one function that asks.

The time that counts is that of executions, as `batch_stats` has it for each batch size: waiting for requests is no
work, nor is waiting in the queue. (`inference_stats` counts an execution's time once for each request of its batch.)
Executions of several instances overlap: no more seconds are counted than went by. Work is told, for each batch size,
once every member has LEAST_SECONDS of it; until then it stays in the mark.

The latencies that are told beside it are quantiles of all requests in the server's window at the time of the look (see
triton_latency). They are told of the batch size in which every member did most of its work, and of no other.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import structlog

from berth.backends.base import Refused, Unanswered
from berth.errors import InvalidInput
from binder.domain.attempt import AttemptId
from binder.domain.executor import Asked, Reading
from binder.domain.report import Line, joined
from binder.domain.work import Assignment, Member
from binder.executors.triton_latency import Quantiles

__all__ = ["Statistics", "counters_of", "reading_of", "triton_reports"]

log = structlog.get_logger(__name__)

LEAST_SECONDS: Final = 1.0
"""Below it the profile store sets a span aside."""
ANSWER_SECONDS: Final = 5.0
"""Within which each member's server answers, its latencies included: less than a last look waits for a whole gang, and
well below what the observer waits for all attempts together."""
AT_ONCE: Final = 256
PHASES: Final = ("compute_input", "compute_infer", "compute_output")

Counters: TypeAlias = Mapping[int, tuple[int, int]]
"""By batch size: executions, and nanoseconds in all of them."""
Latency: TypeAlias = Callable[[Assignment, Member], Awaitable[Quantiles]]
"""Of a member's model; it raises nothing."""
Statistics: TypeAlias = Callable[[Assignment, Member], Awaitable[Mapping[str, Any] | None]]
"""Of a member's model, as the server gives them; None where it does not serve it (any more). It may raise Refused,
Unanswered and InvalidInput."""


def counters_of(statistics: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """`statistics`: one entry of `model_stats`. Raises ValueError where it is none."""
    try:
        return {
            int(batch["batch_size"]): (
                int(batch["compute_infer"]["count"]),
                sum(int(batch[phase]["ns"]) for phase in PHASES),
            )
            for batch in statistics.get("batch_stats") or ()
            if int(batch["batch_size"]) > 0
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"batch_stats are not as Triton writes them: {error!r}") from error


@dataclass(slots=True)
class _Member:
    """`seen`: the counters at the last look, at `at`; `pending`: executions and seconds of work not told yet."""

    at: float
    seen: dict[int, tuple[int, int]] = field(default_factory=dict)
    pending: dict[int, tuple[int, float]] = field(default_factory=dict)

    def look(self, counters: Counters, at: float) -> None:
        new: dict[int, tuple[int, int]] = {}
        # Counters that went back began anew: all that they count has been done since.
        before = {} if any(counters.get(batch, (0, 0))[0] < seen[0] for batch, seen in self.seen.items()) else self.seen
        for batch, (count, nanoseconds) in counters.items():
            counted, spent = before.get(batch, (0, 0))
            if count > counted and nanoseconds > spent:
                new[batch] = (count - counted, nanoseconds - spent)
        busy = sum(spent for _, spent in new.values()) / 1e9
        overlap = min(1.0, max(0.0, at - self.at) / busy) if busy else 1.0
        if overlap > 0.0:
            for batch, (count, spent) in new.items():
                known, seconds = self.pending.get(batch, (0, 0.0))
                self.pending[batch] = (known + count, seconds + overlap * spent / 1e9)
        self.at, self.seen = at, dict(counters)

    def most_of(self) -> int | None:
        """The batch size of more than half of what was asked for and is not told yet; None where there is none."""
        asked = {batch: batch * count for batch, (count, _) in self.pending.items()}
        return next((batch for batch, count in asked.items() if 2 * count > sum(asked.values())), None)


def reading_of(
    mark: str,
    counters: Mapping[int, Counters],
    *,
    members: int,
    started_at: float,
    at: float,
    latencies: Mapping[int, Quantiles] | None = None,
) -> Reading:
    """`counters` and `latencies` by member, as far as they answered; times in seconds since the epoch."""
    state = {member: _Member(started_at) for member in range(members)} | _read(mark)
    for member, counted in counters.items():
        state[member].look(counted, at)
    # Of each batch size, once every member has enough: the rates of members that do not work are not known.
    ready = set.intersection(*({b for b, (_, spent) in one.pending.items() if spent >= LEAST_SECONDS}
                               for one in state.values()))  # fmt: skip
    lines: dict[int, list[Line]] = {}
    windows = {member: (latencies or {}).get(member, Quantiles()) for member in state}
    # Of the gang only where every member's are known: the one that is silent may be the slowest.
    known = all(one != Quantiles() for one in windows.values())
    # And of one batch size: a member's window that is mostly of another says nothing of this one.
    most = {one.most_of() for one in state.values()}
    for member, one in state.items():
        quantiles = windows[member] if known else Quantiles()
        for batch in sorted(ready):
            count, spent = one.pending.pop(batch)
            line = Line(float(batch * count), "queries", spent, batch_size=batch)
            if most == {batch}:
                line = replace(
                    line,
                    latency_p50_seconds=quantiles.p50,
                    latency_p90_seconds=quantiles.p90,
                    latency_p99_seconds=quantiles.p99,
                )
            lines.setdefault(member, []).append(line)
    speeds = tuple(replace(speed, source="triton") for speed in joined(lines, members))
    return Reading(_written(state), speeds)


def _read(mark: str) -> dict[int, _Member]:
    found: dict[str, Any] = json.loads(mark) if mark else {}
    return {
        int(member): _Member(
            one["at"],
            {int(batch): (count, spent) for batch, (count, spent) in one["seen"].items()},
            {int(batch): (count, spent) for batch, (count, spent) in one["pending"].items()},
        )
        for member, one in found.items()
    }


def _written(state: Mapping[int, _Member]) -> str:
    return json.dumps(
        {member: {"at": one.at, "seen": one.seen, "pending": one.pending} for member, one in state.items()}
    )


async def triton_reports(
    asked: Sequence[Asked], statistics: Statistics, clock: Callable[[], float], latency: Latency | None = None
) -> dict[AttemptId, Reading]:
    """`Reporting.reports` of an executor whose models a Triton server serves. A member that does not answer is asked
    again the next time; of what was unloaded nothing is told."""
    running = [each for each in asked if not each.ended and each.assignment.attempt.started_at is not None]
    at_once = asyncio.Semaphore(AT_ONCE)
    readings = await asyncio.gather(*(_reading(each, statistics, clock, at_once, latency) for each in running))
    return {each.assignment.id: reading for each, reading in zip(running, readings, strict=True) if reading is not None}


async def _reading(
    each: Asked,
    statistics: Statistics,
    clock: Callable[[], float],
    at_once: asyncio.Semaphore,
    latency: Latency | None,
) -> Reading | None:
    attempt, members = each.assignment.attempt, each.assignment.work.members

    async def ask(member: Member) -> tuple[Counters, Quantiles] | None:
        until = asyncio.get_running_loop().time() + ANSWER_SECONDS
        try:
            async with asyncio.timeout_at(until), at_once:
                told = await statistics(each.assignment, member)
            if told is None:
                return None
            counters = counters_of(told)
        except (Unanswered, Refused, InvalidInput, ValueError, TimeoutError) as error:
            log.info("a server did not say how fast a model is", attempt=str(attempt.id), error=repr(error))
            return None
        if latency is None:
            return counters, Quantiles()
        try:
            # After the counts: what is counted is in the window.
            async with asyncio.timeout_at(until):
                return counters, await latency(each.assignment, member)
        except TimeoutError:
            return counters, Quantiles()

    # Together: a gang on a server that hangs would else be waited for longer than the observer waits for all.
    told = await asyncio.gather(*map(ask, members))
    counters = {member.member: one[0] for member, one in zip(members, told, strict=True) if one is not None}
    latencies = {member.member: one[1] for member, one in zip(members, told, strict=True) if one is not None}
    if not counters or attempt.started_at is None:
        return None
    started_at = attempt.started_at
    return reading_of(each.mark, counters, members=len(members), started_at=started_at, at=clock(), latencies=latencies)
