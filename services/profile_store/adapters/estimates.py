"""Estimates and the runs that they came from, in PostgreSQL. All but `listed` and `forget` are part of the caller's
transaction, which locks estimates in the order of their keys."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import asyncpg

from berth import outbox
from berth.postgres import Connection, Database
from profile_store.adapters.encoding import records
from profile_store.adapters.postgres_profiles import put_profiles
from profile_store.domain.learning import ENOUGH, Estimate, Latencies, Outlier, Reason, Run
from profile_store.domain.profile import Profile, ProfileKey

__all__ = ["PostgresEstimates"]

KEY = {
    "workload": "text",
    "accelerator": "text",
    "devices": "integer",
    "co_located_with": "text",
    "configuration": "text",
}
PLAIN = {
    "unit": "text",
    "level": "double precision",
    "variance": "double precision",
    "weight": "integer",
    "learnt": "bigint",
    "unwatched": "bigint",
    "other_units": "integer",
    "runs": "bigint",
    "told_latency": "double precision",
    "last_at": "timestamptz",
}
OTHER = {
    "set_aside": "jsonb",
    "outlying": "jsonb",
    "windows": "jsonb",
    "told_throughput": "double precision",
    "told_uncertainty": "double precision",
}
_KEYS = ", ".join(KEY)
_SHOWN = ", ".join([*(f"e.{name}" for name in {**KEY, **PLAIN, **OTHER})])
_GIVEN = f"unnest({', '.join(f'${n}::{kind}[]' for n, kind in enumerate(KEY.values(), 1))})"


class PostgresEstimates:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def reached(self, connection: Connection, runs: Iterable[Run]) -> dict[Run, int]:
        wanted = sorted(set(runs))
        rows = await connection.fetch(
            """SELECT r.job_id, r.attempt, r.sequence FROM learnt_run AS r
               JOIN unnest($1::text[], $2::int[]) AS w (job_id, attempt)
                 ON r.job_id = w.job_id AND r.attempt = w.attempt""",
            [run.job_id for run in wanted],
            [run.attempt for run in wanted],
        )
        return {Run(row["job_id"], row["attempt"]): row["sequence"] for row in rows}

    async def locked(self, connection: Connection, keys: Iterable[ProfileKey]) -> dict[ProfileKey, Estimate]:
        """Those of `keys`, blank where there was none."""
        columns = _columns(sorted(set(keys)))
        await connection.execute(
            f"INSERT INTO estimate ({_KEYS}) SELECT * FROM {_GIVEN} AS w ({_KEYS}) ORDER BY {_KEYS} "
            "ON CONFLICT DO NOTHING",
            *columns,
        )
        same = " AND ".join(f"e.{name} = w.{name}" for name in KEY)
        rows = await connection.fetch(
            f"SELECT {_SHOWN} FROM estimate AS e JOIN {_GIVEN} AS w ({_KEYS}) ON {same} "
            f"ORDER BY {', '.join(f'e.{name}' for name in KEY)} FOR UPDATE OF e",
            *columns,
        )
        return dict(map(_read, rows))

    async def units(self, connection: Connection, workloads: Iterable[str]) -> dict[str, frozenset[str]]:
        """Units in which the workloads' profiles count: "steps" of "steps/s"."""
        rows = await connection.fetch(
            "SELECT DISTINCT workload, throughput_unit FROM profile WHERE workload = ANY($1) AND throughput_unit <> ''",
            sorted(set(workloads)),
        )
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["workload"], set()).add(row["throughput_unit"].removesuffix("/s"))
        return {workload: frozenset(units) for workload, units in found.items()}

    async def save(
        self,
        connection: Connection,
        reached: Mapping[Run, int],
        estimates: Mapping[ProfileKey, Estimate],
        told: Sequence[Profile],
    ) -> int:
        """Gives how many profiles changed; they are announced in the same transaction."""
        runs = sorted(reached)
        await connection.execute(
            """INSERT INTO learnt_run (job_id, attempt, sequence)
               SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[])
               ON CONFLICT (job_id, attempt) DO UPDATE SET sequence = excluded.sequence, at = clock_timestamp()""",
            [run.job_id for run in runs],
            [run.attempt for run in runs],
            [reached[run] for run in runs],
        )
        kinds = {**KEY, **PLAIN, **OTHER}
        rows = [(*astuple(key), *_written(estimates[key])) for key in sorted(estimates)]
        if rows:
            # jsonb goes in as text: the driver knows no JSON.
            given = ", ".join(
                f"${n}::{'text' if kind == 'jsonb' else kind}[]" for n, kind in enumerate(kinds.values(), 1)
            )
            changes = ", ".join(
                f"{name} = w.{name}{'::jsonb' if kind == 'jsonb' else ''}" for name, kind in {**PLAIN, **OTHER}.items()
            )
            await connection.execute(
                f"UPDATE estimate AS e SET {changes}, heard_at = clock_timestamp() "
                f"FROM unnest({given}) AS w ({', '.join(kinds)}) "
                f"WHERE {' AND '.join(f'e.{name} = w.{name}' for name in KEY)}",
                *[list(column) for column in zip(*rows, strict=True)],
            )
        changed = await put_profiles(connection, told)
        await outbox.append(connection, records(changed))
        return len(changed)

    async def listed(self, workload: str) -> list[tuple[ProfileKey, Estimate]]:
        """In the keys' order; "" takes all."""
        rows = await self._database.pool.fetch(
            f"SELECT {_SHOWN} FROM estimate AS e WHERE $1 = '' OR e.workload = $1 ORDER BY {_KEYS}", workload
        )
        return list(map(_read, rows))

    async def forget(self, days: float) -> None:
        """Runs of which nothing was heard for so long, as no record of theirs comes twice any more; and estimates of
        which nothing was heard either, and which were never enough to be told."""
        # One that is locked is being heard of.
        await self._database.pool.execute(
            f"""DELETE FROM estimate WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM estimate WHERE weight < {ENOUGH} AND told_throughput IS NULL
                  AND heard_at < clock_timestamp() - make_interval(secs => $1) FOR UPDATE SKIP LOCKED))""",
            days * 86400.0,
        )
        await self._database.pool.execute(
            "DELETE FROM learnt_run WHERE at < clock_timestamp() - make_interval(secs => $1)", days * 86400.0
        )


def _columns(keys: Sequence[ProfileKey]) -> list[list[Any]]:
    return [[getattr(key, name) for key in keys] for name in KEY]


def _written(estimate: Estimate) -> tuple[Any, ...]:
    told = estimate.told or (None, None)
    return (
        *(getattr(estimate, name) for name in PLAIN),
        json.dumps({reason.value: count for reason, count in estimate.set_aside.items()}),
        json.dumps([[one.level, one.run.job_id, one.run.attempt] for one in estimate.outlying]),
        json.dumps([astuple(one) for one in estimate.windows]),
        *told,
    )


def _read(row: asyncpg.Record) -> tuple[ProfileKey, Estimate]:
    told = (row["told_throughput"], row["told_uncertainty"])
    return ProfileKey(*(row[name] for name in KEY)), Estimate(
        **{name: row[name] for name in PLAIN},
        set_aside={Reason(reason): count for reason, count in json.loads(row["set_aside"]).items()},
        outlying=tuple(Outlier(level, Run(job, attempt)) for level, job, attempt in json.loads(row["outlying"])),
        windows=tuple(Latencies(*one) for one in json.loads(row["windows"])),
        told=None if None in told else told,
    )
