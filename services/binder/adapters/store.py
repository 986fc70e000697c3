"""Attempts in PostgreSQL. Each call is one transaction with one statement per step, however many attempts.

Rows are locked in the order of their ids, here and when decisions come in, so that the two never lock each
other out; and a row is locked before its outgoing records are appended, which keeps those in order.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Any

import asyncpg

from berth import outbox
from berth.postgres import Connection, Database
from berth.retry import delays
from binder.adapters.wire import outgoing, work_of
from binder.domain.attempt import (
    ENDED,
    HOLDS,
    Attempt,
    AttemptId,
    Lifecycle,
    LifecycleKind,
    Observation,
    State,
    transition,
)
from binder.domain.intake import Command, plan
from binder.domain.store import Settlement
from binder.domain.work import Assignment

__all__ = ["COLUMNS", "PostgresStore", "assignment_of"]

NAMES = [name for each in fields(Attempt) for name in (("job_id", "attempt") if each.name == "id" else (each.name,))]
COLUMNS = ", ".join(f"attempt.{name}" for name in NAMES)
DUE = "(state IN ('INTENT', 'UNKNOWN') OR (release_wanted AND state IN ('BOUND', 'RUNNING')))"

# A generic plan made while the table is small would go on scanning it when it is not.
BY_INDEX = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"

LOCK = "berth.binder.worker"


class PostgresStore:
    """`jitter`: uniform from [0, 1). `reporting`: executors whose attempts are asked for their speed once started."""

    def __init__(
        self,
        database: Database,
        *,
        jitter: Callable[[], float] = random.random,
        reporting: AbstractSet[str] = frozenset(),
    ) -> None:
        self._database = database
        self._reporting = reporting
        self._jitter = jitter

    @asynccontextmanager
    async def sole(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Waits for the lock that one binder holds; gives what runs, without end, until the lock is lost."""
        async with self._database.pool.acquire() as connection:
            for delay in delays(first=0.1, longest=1.0):
                if await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", LOCK):
                    break
                await asyncio.sleep(delay)

            async def guard() -> None:
                while True:
                    await asyncio.sleep(2.0)
                    await connection.execute("SELECT 1")

            try:
                yield guard
            finally:
                if not connection.is_closed():
                    await connection.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", LOCK)

    async def intake(
        self, connection: Connection, commands: Sequence[Command], executors: AbstractSet[str], now: float
    ) -> None:
        """Applies decisions in the caller's transaction."""
        await connection.execute(BY_INDEX)
        jobs = sorted({command.id.job_id for command in commands})
        rows = await connection.fetch(
            """SELECT a.job_id, a.attempt, a.version, a.state FROM unnest($1::text[]) AS w (job_id)
               JOIN attempt AS a ON a.job_id = w.job_id ORDER BY a.job_id, a.attempt FOR UPDATE OF a""",
            jobs,
        )
        stored = {AttemptId(row["job_id"], row["attempt"]): State(row["state"]) for row in rows}
        versions: dict[str, int] = {}
        for row in rows:
            versions[row["job_id"]] = max(versions.get(row["job_id"], -1), row["version"])
        change = plan(commands, stored, versions, executors, now)
        await self._insert(connection, list(change.new.values()))
        if change.releases:
            ids = sorted(change.releases)
            await connection.execute(
                """UPDATE attempt AS a SET release_wanted = true, release_reason = r.reason, version = r.version,
                          next_try_at = $5
                   FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[]) AS r (job_id, attempt, version, reason)
                   WHERE a.job_id = r.job_id AND a.attempt = r.attempt""",
                [each.job_id for each in ids],
                [each.attempt for each in ids],
                [change.releases[each][0] for each in ids],
                [change.releases[each][1] for each in ids],
                now,
            )
        await outbox.append(connection, [outgoing(attempt, event) for attempt, event in change.events])

    async def rearm(self, executor: str, now: float) -> None:
        async def effect(connection: Connection) -> None:
            await connection.execute(
                f"UPDATE attempt SET next_try_at = $2 WHERE executor = $1 AND next_try_at > $2 AND {DUE}",
                executor,
                now,
            )

        await self._database.run(effect)

    async def take(self, executor: str, now: float, limit: int, lease_seconds: float) -> list[Assignment]:
        async def effect(connection: Connection) -> list[asyncpg.Record]:
            await connection.execute(BY_INDEX)
            return await connection.fetch(
                f"""UPDATE attempt SET tries = attempt.tries + 1, next_try_at = $4
                    FROM (SELECT job_id, attempt FROM attempt WHERE executor = $1 AND next_try_at <= $2 AND {DUE}
                          ORDER BY next_try_at LIMIT $3 FOR UPDATE SKIP LOCKED) AS due
                    WHERE attempt.job_id = due.job_id AND attempt.attempt = due.attempt
                    RETURNING {COLUMNS}, attempt.bind""",
                executor,
                now,
                limit,
                now + lease_seconds,
            )

        return [assignment_of(row) for row in await self._database.run(effect)]

    async def postpone(self, ids: Sequence[AttemptId], until: float) -> None:
        async def effect(connection: Connection) -> None:
            await connection.execute(
                """UPDATE attempt AS a SET next_try_at = $3 FROM unnest($1::text[], $2::int[]) AS w (job_id, attempt)
                   WHERE a.job_id = w.job_id AND a.attempt = w.attempt""",
                [each.job_id for each in ids],
                [each.attempt for each in ids],
                until,
            )

        await self._database.run(effect)

    async def held(self, executor: str, after: AttemptId, limit: int) -> list[Assignment]:
        rows = await self._database.pool.fetch(
            f"""SELECT {COLUMNS}, bind FROM attempt
                WHERE executor = $1 AND state IN ('BOUND', 'RUNNING') AND (job_id, attempt) > ($2, $3)
                ORDER BY job_id, attempt LIMIT $4""",
            executor,
            after.job_id,
            after.attempt,
            limit,
        )
        return [assignment_of(row) for row in rows]

    async def settle(self, observations: Sequence[tuple[AttemptId, Observation]], now: float) -> list[Settlement]:
        ids = sorted({each for each, _ in observations})

        async def effect(connection: Connection) -> list[Settlement]:
            await connection.execute(BY_INDEX)
            rows = await connection.fetch(
                f"""SELECT {COLUMNS} FROM unnest($1::text[], $2::int[]) AS w (job_id, attempt)
                    JOIN attempt ON attempt.job_id = w.job_id AND attempt.attempt = w.attempt
                    ORDER BY attempt.job_id, attempt.attempt FOR UPDATE OF attempt""",
                [each.job_id for each in ids],
                [each.attempt for each in ids],
            )
            before = {attempt.id: attempt for attempt in map(_attempt, rows)}
            after = {each: Settlement(attempt, ()) for each, attempt in before.items()}
            for each, observation in observations:
                if each in after:
                    attempt, events = transition(after[each].attempt, observation)
                    after[each] = Settlement(attempt, after[each].events + events)
            settled = [self._with_next_try(one, now) for one in after.values()]
            await _update(connection, [one.attempt for one in settled if one.attempt != before[one.attempt.id]])
            records = [outgoing(one.attempt, event) for one in settled for event in one.events]
            await outbox.append(connection, records)
            started = [one.attempt for one in settled if one.attempt.executor in self._reporting and _has_started(one)]
            await _open_reports(connection, started)
            return settled

        return await self._database.run(effect)

    async def attempts(self, job_id: str, limit: int) -> list[Assignment]:
        """The attempts of a job, latest first; with `job_id` empty all that are not ended."""
        rows = await self._database.pool.fetch(
            f"""SELECT {COLUMNS}, bind FROM attempt
                WHERE CASE WHEN $1 = '' THEN state IN ('INTENT', 'UNKNOWN', 'BOUND', 'RUNNING') ELSE job_id = $1 END
                ORDER BY job_id, attempt DESC LIMIT $2""",
            job_id,
            limit,
        )
        return [assignment_of(row) for row in rows]

    def _with_next_try(self, settlement: Settlement, now: float) -> Settlement:
        """Exponential, jittered, at most half a minute: for what is still open."""
        attempt = settlement.attempt
        if attempt.state in ENDED or (attempt.state in HOLDS and not attempt.release_wanted):
            return settlement
        bound = min(30.0, 0.1 * 2.0 ** min(attempt.tries, 12))
        return replace(settlement, attempt=replace(attempt, next_try_at=now + bound * (0.5 + self._jitter() / 2)))

    @staticmethod
    async def _insert(connection: Connection, rows: Sequence[tuple[Attempt, bytes]]) -> None:
        if not rows:
            return
        types = "text[], int[], bigint[], text[], text[], text[], text[], int[], float8[], float8[], float8[], int[], "
        types += "bool[], text[], float8[], float8[], float8[], bool[], int[], text[], int[], bytea[]"
        arrays = ", ".join(f"${n}::{kind}" for n, kind in enumerate(types.split(", "), 1))
        columns: list[list[Any]] = [*_columns([attempt for attempt, _ in rows]), [bind for _, bind in rows]]
        await connection.execute(
            f"INSERT INTO attempt ({', '.join(NAMES)}, bind) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING",
            *columns,
        )


def _columns(attempts: Iterable[Attempt]) -> list[list[Any]]:
    """One list per entry of NAMES."""
    names = NAMES[2:]
    rows = [(each.id.job_id, each.id.attempt, *(getattr(each, name) for name in names)) for each in attempts]
    return [list(column) for column in zip(*rows, strict=True)]


async def _update(connection: Connection, attempts: Sequence[Attempt]) -> None:
    if not attempts:
        return
    await connection.execute(
        """UPDATE attempt AS a
           SET state = r.state, next_try_at = r.next_try_at, bound_at = r.bound_at, started_at = r.started_at,
               ended_at = r.ended_at, told_unknown = r.told_unknown, published = r.published, message = r.message,
               exit_code = r.exit_code
           FROM unnest($1::text[], $2::int[], $3::text[], $4::float8[], $5::float8[], $6::float8[], $7::float8[],
                       $8::bool[], $9::int[], $10::text[], $11::int[])
             AS r (job_id, attempt, state, next_try_at, bound_at, started_at, ended_at, told_unknown, published,
                   message, exit_code)
           WHERE a.job_id = r.job_id AND a.attempt = r.attempt""",
        [each.id.job_id for each in attempts],
        [each.id.attempt for each in attempts],
        [each.state.value for each in attempts],
        [each.next_try_at for each in attempts],
        [each.bound_at for each in attempts],
        [each.started_at for each in attempts],
        [each.ended_at for each in attempts],
        [each.told_unknown for each in attempts],
        [each.published for each in attempts],
        [each.message.replace("\0", "") for each in attempts],
        [each.exit_code for each in attempts],
    )


def _has_started(settlement: Settlement) -> bool:
    return any(isinstance(event, Lifecycle) and event.kind is LifecycleKind.STARTED for event in settlement.events)


async def _open_reports(connection: Connection, attempts: Sequence[Attempt]) -> None:
    if not attempts:
        return
    await connection.execute(
        """INSERT INTO report (job_id, attempt, executor, reached)
           SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::float8[]) ON CONFLICT DO NOTHING""",
        [each.id.job_id for each in attempts],
        [each.id.attempt for each in attempts],
        [each.executor for each in attempts],
        [each.started_at for each in attempts],
    )


def _attempt(row: asyncpg.Record) -> Attempt:
    values = [row[name] for name in NAMES]
    return Attempt(AttemptId(values[0], values[1]), values[2], State(values[3]), *values[4:])


def assignment_of(row: asyncpg.Record) -> Assignment:
    return Assignment(_attempt(row), work_of(row["bind"]))
