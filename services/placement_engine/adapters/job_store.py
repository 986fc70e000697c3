"""Jobs, claims and the ledger in PostgreSQL. Every function runs in the caller's transaction.

Rows are locked in the order of their keys, so that transactions do not deadlock on one another.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from berth import catalogue
from berth.errors import BerthError
from berth.postgres import Connection
from placement_engine.domain.job_state import JobRow, JobState
from placement_engine.domain.model import DeviceClaim, Member

__all__ = [
    "Accepted",
    "NotInLedger",
    "Placement",
    "Submission",
    "Superseded",
    "accept",
    "commit_placements",
    "find_jobs",
    "free_claims",
    "lock_jobs",
    "notify",
    "read_jobs",
    "save_jobs",
]

COLUMNS = (
    "job_id, tenant, name, queue, pool, spec, traceparent, submitted_at, accepted_at, state, message, attempt, "
    "version, placed_at, bound_at, started_at, finished_at, not_before, settled_version, lifecycle_version, members, "
    "requeue, bind_failures, preemptions, endpoints, refused_nodes"
)
PLAN_CHANNEL = "berth_plan"
WATCH_CHANNEL = "berth_watch"
_IDS_A_NOTICE = 150


class NotInLedger(BerthError):
    """A decision names a device or node that the ledger does not know, so that nothing would guard its capacity."""


class Superseded(BerthError):
    """Another planner has taken over the pool; nothing was written."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to accept; `spec` is its encoding, `digest` tells payloads apart."""

    job_id: str
    tenant: str
    name: str
    idempotency_key: str
    digest: bytes
    spec: bytes
    queue: str
    pool: str
    traceparent: str
    submitted_at: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """`job_id` is the earlier one's for a duplicate. `conflict`: the key stands for another payload."""

    job_id: str
    duplicate: bool = False
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision to commit: only if the job is still PENDING at `version`."""

    job_id: str
    version: int
    attempt: int
    members: Sequence[Member]
    record: bytes
    explanation: bytes
    summary: str


def job_row(row: Any) -> JobRow:
    values = dict(row)
    values["state"] = JobState(values["state"])
    for name in ("endpoints", "refused_nodes"):
        values[name] = tuple(values[name])
    return JobRow(**values)


async def notify(connection: Connection, channel: str, job_ids: Sequence[str]) -> None:
    """Tells all instances, at commit, that these jobs changed."""
    for start in range(0, len(job_ids), _IDS_A_NOTICE):
        await connection.execute(
            "SELECT pg_notify($1, $2)", channel, json.dumps(job_ids[start : start + _IDS_A_NOTICE])
        )


async def accept(connection: Connection, submissions: Sequence[Submission], now: float) -> list[Accepted]:
    """Inserts what is new; one answer a submission, in order. Kafka and PlaceJob share this function."""
    if not submissions:
        return []
    inserted = {
        row["job_id"]
        for row in await connection.fetch(
            """INSERT INTO job (job_id, tenant, name, idempotency_key, digest, spec, queue, pool, traceparent,
                                submitted_at, accepted_at)
               SELECT *, $11 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[],
                                   $7::text[], $8::text[], $9::text[], $10::float8[])
               ON CONFLICT (tenant, idempotency_key) DO NOTHING RETURNING job_id""",
            [one.job_id for one in submissions],
            [one.tenant for one in submissions],
            [one.name for one in submissions],
            [one.idempotency_key for one in submissions],
            [one.digest for one in submissions],
            [one.spec for one in submissions],
            [one.queue for one in submissions],
            [one.pool for one in submissions],
            [one.traceparent for one in submissions],
            [one.submitted_at for one in submissions],
            now,
        )
    }
    rest = [one for one in submissions if one.job_id not in inserted]
    earlier: dict[tuple[str, str], Any] = {}
    if rest:
        rows = await connection.fetch(
            """SELECT j.job_id, j.tenant, j.idempotency_key, j.digest FROM job j
               JOIN unnest($1::text[], $2::text[]) AS k (tenant, key)
                 ON j.tenant = k.tenant AND j.idempotency_key = k.key""",
            [one.tenant for one in rest],
            [one.idempotency_key for one in rest],
        )
        earlier = {(row["tenant"], row["idempotency_key"]): row for row in rows}
    answers = []
    for one in submissions:
        if one.job_id in inserted:
            answers.append(Accepted(one.job_id))
        else:
            row = earlier[one.tenant, one.idempotency_key]
            same = row["digest"] == one.digest
            answers.append(Accepted(row["job_id"], duplicate=same, conflict=not same))
    if inserted:
        await notify(connection, PLAN_CHANNEL, sorted(inserted))
    return answers


async def read_jobs(connection: Connection, job_ids: Sequence[str]) -> list[JobRow]:
    rows = await connection.fetch(f"SELECT {COLUMNS} FROM job WHERE job_id = ANY($1::text[])", list(job_ids))
    return [job_row(row) for row in rows]


async def find_jobs(connection: Connection, names: Sequence[str]) -> list[JobRow]:
    """Jobs by id, "<tenant>/<name>", or name in the tenant "default"; the latest where a name was used again."""
    found = []
    for name in names:
        tenant, slash, bare = name.partition("/")
        if not slash:
            tenant, bare = "default", name
        row = await connection.fetchrow(
            f"""SELECT {COLUMNS} FROM job WHERE job_id = $1 OR (tenant = $2 AND name = $3)
                ORDER BY (job_id = $1) DESC, accepted_at DESC LIMIT 1""",
            name,
            tenant,
            bare,
        )
        if row is not None:
            found.append(job_row(row))
    return found


async def lock_jobs(connection: Connection, job_ids: Iterable[str]) -> dict[str, JobRow]:
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM job WHERE job_id = ANY($1::text[]) ORDER BY job_id FOR UPDATE", sorted(set(job_ids))
    )
    return {row["job_id"]: job_row(row) for row in rows}


async def save_jobs(connection: Connection, rows: Sequence[JobRow]) -> None:
    """Writes the changing columns of locked rows."""
    if not rows:
        return
    await connection.execute(
        """UPDATE job AS j SET state = r.state, message = r.message, version = r.version, placed_at = r.placed_at,
               bound_at = r.bound_at, started_at = r.started_at, finished_at = r.finished_at,
               not_before = r.not_before, settled_version = r.settled_version,
               lifecycle_version = r.lifecycle_version, members = r.members, requeue = r.requeue,
               bind_failures = r.bind_failures, preemptions = r.preemptions,
               endpoints = ARRAY(SELECT json_array_elements_text(r.endpoints::json)),
               refused_nodes = ARRAY(SELECT json_array_elements_text(r.refused_nodes::json))
           FROM unnest($1::text[], $2::smallint[], $3::text[], $4::bigint[], $5::float8[], $6::float8[], $7::float8[],
                       $8::float8[], $9::float8[], $10::bigint[], $11::bigint[], $12::bytea[], $13::boolean[],
                       $14::int[], $15::int[], $16::text[], $17::text[])
             AS r (job_id, state, message, version, placed_at, bound_at, started_at, finished_at, not_before,
                   settled_version, lifecycle_version, members, requeue, bind_failures, preemptions,
                   endpoints, refused_nodes)
           WHERE j.job_id = r.job_id""",
        [row.job_id for row in rows],
        [int(row.state) for row in rows],
        [row.message for row in rows],
        [row.version for row in rows],
        [row.placed_at for row in rows],
        [row.bound_at for row in rows],
        [row.started_at for row in rows],
        [row.finished_at for row in rows],
        [row.not_before for row in rows],
        [row.settled_version for row in rows],
        [row.lifecycle_version for row in rows],
        [row.members for row in rows],
        [row.requeue for row in rows],
        [row.bind_failures for row in rows],
        [row.preemptions for row in rows],
        # Arrays of one length each are all that unnest takes side by side: these go as JSON.
        [json.dumps(row.endpoints) for row in rows],
        [json.dumps(row.refused_nodes) for row in rows],
    )
    await notify(connection, WATCH_CHANNEL, [row.job_id for row in rows])


async def free_claims(connection: Connection, job_ids: Sequence[str]) -> None:
    """Gives back what these jobs hold. Idempotent: what is gone is not subtracted again."""
    if not job_ids:
        return
    devices = await connection.fetch(
        "DELETE FROM claim WHERE job_id = ANY($1::text[]) RETURNING device_id, milli", list(job_ids)
    )
    hosts = await connection.fetch(
        "DELETE FROM host_claim WHERE job_id = ANY($1::text[]) RETURNING node, cpu_milli, memory_bytes", list(job_ids)
    )
    await connection.execute("DELETE FROM claim_slice WHERE job_id = ANY($1::text[])", list(job_ids))
    await _move_ledger(
        connection,
        [(row["device_id"], -row["milli"]) for row in devices],
        [(row["node"], -row["cpu_milli"], -row["memory_bytes"]) for row in hosts],
    )


def _slices(claim: DeviceClaim) -> range:
    """Memory slices of the device that the claim's partition takes; none for a claim of another kind."""
    if not claim.partition:
        return range(0)
    entry = catalogue.by_name(claim.model)
    size = next((p.memory_slices for p in entry.partitions if p.name == claim.partition), 0) if entry else 0
    return range(claim.partition_start, claim.partition_start + size)


async def _move_ledger(
    connection: Connection, devices: Iterable[tuple[str, int]], hosts: Iterable[tuple[str, int, int]]
) -> bool:
    """False: the ledger does not know one of these devices or nodes."""
    known = True
    by_device: dict[str, int] = {}
    for device_id, milli in devices:
        by_device[device_id] = by_device.get(device_id, 0) + milli
    by_node: dict[str, tuple[int, int]] = {}
    for node, cpu, memory in hosts:
        before = by_node.get(node, (0, 0))
        by_node[node] = (before[0] + cpu, before[1] + memory)
    if by_device:
        ids = sorted(by_device)
        moved = await connection.execute(
            """WITH held AS (SELECT device_id FROM device WHERE device_id = ANY($1::text[]) ORDER BY 1 FOR UPDATE)
               UPDATE device d SET used_milli = d.used_milli + r.milli
               FROM unnest($1::text[], $2::int[]) AS r (device_id, milli), held
               WHERE d.device_id = r.device_id AND held.device_id = d.device_id""",
            ids,
            [by_device[one] for one in ids],
        )
        known = moved == f"UPDATE {len(ids)}"
    if by_node:
        names = sorted(by_node)
        moved = await connection.execute(
            """WITH held AS (SELECT name FROM node WHERE name = ANY($1::text[]) ORDER BY 1 FOR UPDATE)
               UPDATE node n SET cpu_used = n.cpu_used + r.cpu, memory_used = n.memory_used + r.memory
               FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS r (name, cpu, memory), held
               WHERE n.name = r.name AND held.name = n.name""",
            names,
            [by_node[one][0] for one in names],
            [by_node[one][1] for one in names],
        )
        known = known and moved == f"UPDATE {len(names)}"
    return known


async def check_epoch(connection: Connection, pool: str, epoch: int) -> None:
    """The authority: holds the pool's row shared until commit. Raises Superseded."""
    current = await connection.fetchval("SELECT epoch FROM pool WHERE name = $1 FOR SHARE", pool)
    if current != epoch:
        raise Superseded(f"pool {pool!r}: epoch {epoch} was superseded by {current}")


async def commit_placements(
    connection: Connection, *, pool: str, epoch: int, placements: Sequence[Placement], now: float
) -> set[str]:
    """Commits decisions; gives the jobs that were taken. A job that changed meanwhile is left out whole.

    Raises Superseded, CheckViolationError where a device or node would be over its capacity, and NotInLedger.
    """
    await check_epoch(connection, pool, epoch)
    taken = {
        row["job_id"]
        for row in await connection.fetch(
            """WITH held AS (SELECT job_id FROM job WHERE job_id = ANY($1::text[]) ORDER BY 1 FOR UPDATE)
               UPDATE job j SET state = 2, attempt = r.attempt, version = j.version + 1, placed_at = $2,
                      message = r.message, members = r.members
               FROM unnest($1::text[], $3::bigint[], $4::int[], $5::text[], $6::bytea[])
                      AS r (job_id, version, attempt, message, members), held
               WHERE j.job_id = r.job_id AND held.job_id = j.job_id AND j.state = 1 AND j.version = r.version
               RETURNING j.job_id""",
            [one.job_id for one in placements],
            now,
            [one.version for one in placements],
            [one.attempt for one in placements],
            [one.summary for one in placements],
            [one.record for one in placements],
        )
    }
    kept = [one for one in placements if one.job_id in taken]
    if not kept:
        return taken
    devices = [(one, member, claim) for one in kept for member in one.members for claim in member.devices]
    hosts = [(one, member) for one in kept for member in one.members]
    await connection.execute(
        """INSERT INTO claim (job_id, attempt, member, device_id, milli, memory_bytes)
           SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::int[], $6::bigint[])""",
        [one.job_id for one, _, _ in devices],
        [one.attempt for one, _, _ in devices],
        [member.member for _, member, _ in devices],
        [claim.device_id for _, _, claim in devices],
        [claim.milli for _, _, claim in devices],
        [claim.memory_bytes for _, _, claim in devices],
    )
    await connection.execute(
        """INSERT INTO host_claim (job_id, attempt, member, node, cpu_milli, memory_bytes)
           SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::bigint[], $6::bigint[])""",
        [one.job_id for one, _ in hosts],
        [one.attempt for one, _ in hosts],
        [member.member for _, member in hosts],
        [member.node for _, member in hosts],
        [member.cpu_milli for _, member in hosts],
        [member.memory_bytes for _, member in hosts],
    )
    slices = [(one, member, claim, at) for one, member, claim in devices for at in _slices(claim)]
    if slices:
        await connection.execute(
            """INSERT INTO claim_slice (device_id, slice, job_id, member)
               SELECT * FROM unnest($1::text[], $2::smallint[], $3::text[], $4::int[])""",
            [claim.device_id for _, _, claim, _ in slices],
            [at for *_, at in slices],
            [one.job_id for one, *_ in slices],
            [member.member for _, member, *_ in slices],
        )
    if not await _move_ledger(
        connection,
        [(claim.device_id, claim.milli) for _, _, claim in devices],
        [(member.node, member.cpu_milli, member.memory_bytes) for _, member in hosts],
    ):
        places = sorted({claim.device_id for _, _, claim in devices} | {member.node for _, member in hosts})
        raise NotInLedger(f"not all of these are in the ledger: {', '.join(places)}")
    await connection.execute(
        """INSERT INTO decision (job_id, attempt, record)
           SELECT j, a, r FROM unnest($1::text[], $2::int[], $3::bytea[])
             WITH ORDINALITY AS u (j, a, r, n) ORDER BY n""",
        [one.job_id for one in kept],
        [one.attempt for one in kept],
        [one.record for one in kept],
    )
    await save_explanations(connection, [(one.job_id, one.explanation) for one in kept])
    await notify(connection, WATCH_CHANNEL, sorted(taken))
    return taken


async def save_explanations(connection: Connection, explanations: Sequence[tuple[str, bytes]]) -> None:
    if explanations:
        await connection.execute(
            """INSERT INTO explanation (job_id, record) SELECT * FROM unnest($1::text[], $2::bytea[])
               ON CONFLICT (job_id) DO UPDATE SET record = excluded.record""",
            [job_id for job_id, _ in explanations],
            [record for _, record in explanations],
        )
