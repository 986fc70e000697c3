"""Profiles in PostgreSQL. Rows are written and locked in the order of their keys, so that writers never deadlock.

A change and its record of profiles.changed are one transaction, under the row's lock: for one key, records leave
in the order of versions.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import asyncpg

from berth import outbox
from berth.postgres import Connection, Database
from profile_store.adapters.encoding import records
from profile_store.domain.profile import PREDICTED, Profile, ProfileKey

__all__ = ["PostgresProfiles", "put_profiles"]

KEY = {
    "workload": "text",
    "accelerator": "text",
    "devices": "integer",
    "co_located_with": "text",
    "configuration": "text",
}
SHARES = "operations_by_precision"
BODY = {
    "task": "text",
    "precision": "text",
    "software_stack": "text",
    "throughput": "double precision",
    "throughput_unit": "text",
    "latency_p50_seconds": "double precision",
    "latency_p99_seconds": "double precision",
    "memory_bytes": "bigint",
    "power_watts": "double precision",
    "peak_power_watts": "double precision",
    "price_per_hour": "double precision",
    "provenance": "integer",
    "relative_uncertainty": "double precision",
    "source": "text",
    "measured_at": "timestamptz",
    "samples": "bigint",
    "model": "text",
    "batch_size": "bigint",
    "concurrency": "bigint",
    "request_rate": "double precision",
    "tensor_parallel": "integer",
    "pipeline_parallel": "integer",
    "data_parallel": "integer",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "power_limit_watts": "double precision",
    "settings": "text",
    "latency_mean_seconds": "double precision",
    "latency_p90_seconds": "double precision",
    "latency_p95_seconds": "double precision",
    "first_token_p50_seconds": "double precision",
    "first_token_p99_seconds": "double precision",
    "token_p50_seconds": "double precision",
    "token_p99_seconds": "double precision",
    "energy_joules_per_unit": "double precision",
    "stream_throughput": "double precision",
    "low_confidence": "boolean",
    "operations": "double precision",
    "bytes_moved": "double precision",
    "busy_seconds": "double precision",
    "latency_p99_high_seconds": "double precision",
    SHARES: "text",
}
COLUMNS = {**KEY, **BODY}
_KEYS = ", ".join(KEY)
_PLACES = ", ".join(f"${n}" for n in range(1, len(KEY) + 1))
_ALL = ", ".join(COLUMNS)

_INSERT = f"""
    INSERT INTO profile AS p ({_ALL})
    SELECT {_ALL} FROM unnest({", ".join(f"${n}::{kind}[]" for n, kind in enumerate(COLUMNS.values(), 1))})
      WITH ORDINALITY AS given ({_ALL}, n) ORDER BY n
    ON CONFLICT ({_KEYS})"""
_PUT = f"""{_INSERT} DO UPDATE SET
      {", ".join(f"{name} = excluded.{name}" for name in BODY)},
      version = p.version + 1, updated_at = clock_timestamp()
    WHERE ({", ".join(f"p.{name}" for name in BODY)})
      IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in BODY)})
    RETURNING *"""
# Under the row's lock: a measurement that came meanwhile stays.
_PUT_PREDICTED = _PUT.replace(
    "RETURNING *", f"AND p.provenance IN ({', '.join(str(int(one)) for one in PREDICTED)}) RETURNING *"
)
_ADD_MISSING = f"{_INSERT} DO NOTHING RETURNING *"

# Rows announced in one transaction: their locks hold up writers.
CHUNK = 1000


class PostgresProfiles:
    """Implements ProfileRepository on a database whose schema holds `profile` and `outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, profiles: Sequence[Profile]) -> int:
        return await self._write(_PUT, profiles)

    async def add_missing(self, profiles: Sequence[Profile]) -> int:
        return await self._write(_ADD_MISSING, profiles)

    async def put_predicted(self, profiles: Sequence[Profile]) -> int:
        return await self._write(_PUT_PREDICTED, profiles)

    async def _write(self, statement: str, profiles: Sequence[Profile]) -> int:
        if not profiles:
            return 0

        async def effect(connection: Connection) -> int:
            changed = await _written(connection, statement, profiles)
            await outbox.append(connection, records(changed))
            return len(changed)

        return await self._database.run(effect)

    async def get(self, key: ProfileKey) -> Profile | None:
        row = await self._database.pool.fetchrow(f"SELECT * FROM profile WHERE ({_KEYS}) = ({_PLACES})", *astuple(key))
        return None if row is None else _profile(row)

    async def page(
        self, *, workload: str, accelerator: str, after: ProfileKey | None, count: int
    ) -> tuple[Profile, ...]:
        rows = await self._database.pool.fetch(
            f"""SELECT * FROM profile
                WHERE ($1 = '' OR workload = $1) AND ($2 = '' OR accelerator = $2)
                  AND ({_KEYS}) > ($3, $4, $5, $6, $7)
                ORDER BY {_KEYS} LIMIT $8""",
            workload,
            accelerator,
            *astuple(after or ProfileKey("", "", 0)),
            count,
        )
        return tuple(map(_profile, rows))

    async def of_workload(self, workload: str, devices: int) -> tuple[Profile, ...]:
        rows = await self._database.pool.fetch(
            f"""SELECT * FROM profile
                WHERE workload = $1 AND ($2 = 0 OR devices = $2) AND co_located_with = '' ORDER BY {_KEYS}""",
            workload,
            devices,
        )
        return tuple(map(_profile, rows))

    async def alone(self) -> tuple[Profile, ...]:
        rows = await self._database.pool.fetch(f"SELECT * FROM profile WHERE co_located_with = '' ORDER BY {_KEYS}")
        return tuple(map(_profile, rows))

    async def workloads(self) -> tuple[str, ...]:
        rows = await self._database.pool.fetch("SELECT DISTINCT workload FROM profile ORDER BY workload")
        return tuple(row["workload"] for row in rows)

    async def announce_all(self) -> int:
        count = 0
        after = ProfileKey("", "", 0)
        while True:

            async def effect(connection: Connection, after: ProfileKey = after) -> tuple[Profile, ...]:
                rows = await connection.fetch(
                    f"SELECT * FROM profile WHERE ({_KEYS}) > ({_PLACES}) ORDER BY {_KEYS} LIMIT $6 FOR SHARE",
                    *astuple(after),
                    CHUNK,
                )
                found = tuple(map(_profile, rows))
                await outbox.append(connection, records(found))
                return found

            if count == 0 and await self._database.pool.fetchval("SELECT EXISTS (SELECT FROM outbox)"):
                # The broker is away or behind: more of the same would only pile up.
                return 0
            found = await self._database.run(effect)
            count += len(found)
            if len(found) < CHUNK:
                return count
            after = found[-1].key


async def put_profiles(connection: Connection, profiles: Sequence[Profile]) -> list[Profile]:
    """In the caller's transaction, which has to announce what is given back: those that were new or other."""
    return await _written(connection, _PUT, profiles) if profiles else []


async def _written(connection: Connection, statement: str, profiles: Sequence[Profile]) -> list[Profile]:
    rows = [
        (*astuple(profile.key), *(_column(profile, name) for name in BODY))
        for profile in sorted(profiles, key=lambda one: one.key)
    ]
    return list(map(_profile, await connection.fetch(statement, *(list(column) for column in zip(*rows, strict=True)))))


def _column(profile: Profile, name: str) -> Any:
    if name != SHARES:
        return getattr(profile, name)
    return json.dumps(dict(profile.operations_by_precision)) if profile.operations_by_precision else ""


def _profile(row: asyncpg.Record) -> Profile:
    body = {name: row[name] for name in BODY}
    body[SHARES] = tuple(sorted(json.loads(body[SHARES]).items())) if body[SHARES] else ()
    return Profile(key=ProfileKey(*(row[name] for name in KEY)), version=row["version"], **body)
