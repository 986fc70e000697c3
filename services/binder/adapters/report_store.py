"""Reports in PostgreSQL: the mark up to which an attempt was read, and the record that tells it, in one transaction."""

from collections.abc import Sequence

import asyncpg

from berth import outbox
from berth.outbox import OutgoingRecord
from berth.postgres import Connection, Database
from binder.adapters.store import COLUMNS, assignment_of
from binder.adapters.wire import observed
from binder.domain.attempt import ENDED, AttemptId
from binder.domain.reports import Open, Told

__all__ = ["PostgresReports"]

OPEN = f"""SELECT {COLUMNS}, attempt.bind, r.mark, r.sequence, r.reached
           FROM report AS r JOIN attempt ON attempt.job_id = r.job_id AND attempt.attempt = r.attempt"""
OVER = ", ".join(f"'{state.value}'" for state in sorted(ENDED))


class PostgresReports:
    """Implements Reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, executor: str, after: AttemptId, limit: int, *, ended: bool) -> list[Open]:
        rows = await self._database.pool.fetch(
            f"""{OPEN}
                WHERE r.executor = $1 AND (r.job_id, r.attempt) > ($2, $3)
                  AND (NOT $4 OR attempt.state IN ({OVER}))
                ORDER BY r.job_id, r.attempt LIMIT $5""",
            executor,
            after.job_id,
            after.attempt,
            ended,
            limit,
        )
        return list(map(_open, rows))

    async def of(self, attempts: Sequence[AttemptId]) -> list[Open]:
        rows = await self._database.pool.fetch(
            f"""{OPEN}
                JOIN unnest($1::text[], $2::int[]) AS w (job_id, attempt)
                  ON r.job_id = w.job_id AND r.attempt = w.attempt
                ORDER BY r.job_id, r.attempt""",
            [each.job_id for each in attempts],
            [each.attempt for each in attempts],
        )
        return list(map(_open, rows))

    async def tell(self, told: Sequence[Told]) -> int:
        records = {one.open.assignment.id: _records(one) for one in told}

        async def effect(connection: Connection) -> int:
            # The sequence is the fence: a binder that lost its place writes nothing.
            rows = await connection.fetch(
                """UPDATE report AS r SET mark = w.mark, sequence = w.sequence + w.told, reached = w.reached
                   FROM unnest($1::text[], $2::int[], $3::bigint[], $4::int[], $5::text[], $6::float8[])
                     AS w (job_id, attempt, sequence, told, mark, reached)
                   WHERE r.job_id = w.job_id AND r.attempt = w.attempt AND r.sequence = w.sequence
                   RETURNING r.job_id, r.attempt""",
                [one.open.assignment.id.job_id for one in told],
                [one.open.assignment.id.attempt for one in told],
                [one.open.sequence for one in told],
                [len(records[one.open.assignment.id]) for one in told],
                [one.open.mark if one.reading is None else one.reading.mark for one in told],
                [one.until if one.reading is not None and one.reading.speeds else one.open.reached for one in told],
            )
            kept = {AttemptId(row["job_id"], row["attempt"]) for row in rows}
            outgoing = [record for each in sorted(kept) for record in records[each]]
            await outbox.append(connection, outgoing)
            over = [one.open.assignment.id for one in told if one.over and one.open.assignment.id in kept]
            await connection.execute(
                """DELETE FROM report AS r USING unnest($1::text[], $2::int[]) AS w (job_id, attempt)
                   WHERE r.job_id = w.job_id AND r.attempt = w.attempt""",
                [each.job_id for each in over],
                [each.attempt for each in over],
            )
            return len(outgoing)

        return await self._database.run(effect)


def _open(row: asyncpg.Record) -> Open:
    return Open(assignment_of(row), row["mark"], row["sequence"], row["reached"])


def _records(told: Told) -> list[OutgoingRecord]:
    speeds = told.reading.speeds if told.reading is not None else ()
    found: list[OutgoingRecord] = []
    for speed in speeds:
        span = (told.open.reached, max(told.open.reached, told.until))
        record = observed(told.open.assignment, speed, told.open.sequence + len(found) + 1, span)
        if record is not None:
            found.append(record)
    return found
