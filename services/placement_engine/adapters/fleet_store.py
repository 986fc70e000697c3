"""Pools, queues and nodes in PostgreSQL, and the auditor's questions. All in the caller's transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from berth.postgres import Connection
from berth.v1 import fleet_pb2, placement_pb2
from placement_engine.domain.queues import PastUse

__all__ = [
    "QueueUse",
    "audit",
    "heartbeat",
    "read_nodes",
    "read_pools",
    "read_queues",
    "save_nodes",
    "take_over",
]


async def take_over(connection: Connection, pool: str, planner: str, now: float, lease_seconds: float) -> int | None:
    """The new epoch if the pool has no living planner, else None."""
    epoch: int | None = await connection.fetchval(
        """UPDATE pool SET epoch = epoch + 1, planner = $2, seen_at = $3::float8
           WHERE name = $1 AND (planner = '' OR planner = $2 OR seen_at < $3::float8 - $4::float8) RETURNING epoch""",
        pool,
        planner,
        now,
        lease_seconds,
    )
    return epoch


async def heartbeat(connection: Connection, pool: str, epoch: int, now: float) -> bool:
    """False: another has taken over."""
    return bool(
        await connection.fetchval(
            "UPDATE pool SET seen_at = $3 WHERE name = $1 AND epoch = $2 RETURNING true", pool, epoch, now
        )
    )


async def hand_back(connection: Connection, pool: str, epoch: int) -> None:
    await connection.execute("UPDATE pool SET planner = '' WHERE name = $1 AND epoch = $2", pool, epoch)


async def read_pools(connection: Connection) -> list[fleet_pb2.Pool]:
    pools = []
    for row in await connection.fetch("SELECT name, epoch, planner, record FROM pool ORDER BY name"):
        pool = fleet_pb2.Pool.FromString(row["record"])
        pool.name, pool.epoch, pool.planner = row["name"], row["epoch"], row["planner"]
        pools.append(pool)
    return pools


async def save_pool(connection: Connection, pool: fleet_pb2.Pool) -> None:
    await connection.execute(
        "INSERT INTO pool (name, record) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET record = excluded.record",
        pool.name,
        pool.SerializeToString(),
    )


async def read_queues(connection: Connection) -> list[fleet_pb2.Queue]:
    rows = await connection.fetch("SELECT record FROM queue ORDER BY name")
    queues = [fleet_pb2.Queue.FromString(row["record"]) for row in rows]
    if all(queue.name != "default" for queue in queues):
        queues.append(fleet_pb2.Queue(name="default", weight=1.0))
    return queues


async def save_queues(connection: Connection, queues: Sequence[fleet_pb2.Queue]) -> None:
    await connection.execute(
        """INSERT INTO queue (name, record) SELECT * FROM unnest($1::text[], $2::bytea[])
           ON CONFLICT (name) DO UPDATE SET record = excluded.record""",
        [queue.name for queue in queues],
        [queue.SerializeToString() for queue in queues],
    )


@dataclass(frozen=True, slots=True)
class QueueUse:
    """What is left of a queue: jobs that wait, jobs that hold devices, queues below it."""

    pending: int = 0
    active: int = 0
    children: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.pending or self.active or self.children)


async def queue_use(connection: Connection, name: str) -> QueueUse:
    jobs = await connection.fetchrow(
        """SELECT count(*) FILTER (WHERE state = 1) AS pending, count(*) FILTER (WHERE state <> 1) AS active
           FROM job WHERE queue = $1 AND state IN (1, 2, 3, 4, 8)""",
        name,
    )
    children = [queue.name for queue in await read_queues(connection) if queue.parent == name]
    assert jobs is not None  # an aggregate always has its row
    return QueueUse(jobs["pending"], jobs["active"], tuple(children))


async def delete_queue(connection: Connection, name: str) -> None:
    await connection.execute("DELETE FROM queue WHERE name = $1", name)
    await connection.execute("DELETE FROM queue_usage WHERE queue = $1", name)


async def save_usage(connection: Connection, pool: str, history: Iterable[PastUse]) -> None:
    """Past use of the pool's queues, as the planner knows it."""
    rows = list(history)
    await connection.execute(
        """INSERT INTO queue_usage (pool, queue, own, value, at)
           SELECT $1, * FROM unnest($2::text[], $3::boolean[], $4::float8[], $5::float8[])
           ON CONFLICT (pool, queue, own) DO UPDATE SET value = excluded.value, at = excluded.at""",
        pool,
        [one.queue for one in rows],
        [one.own for one in rows],
        [one.share for one in rows],
        [one.at for one in rows],
    )


async def read_usage(connection: Connection, pool: str) -> list[PastUse]:
    rows = await connection.fetch(
        "SELECT queue, value, at, own FROM queue_usage WHERE pool = $1 ORDER BY queue, own", pool
    )
    return [PastUse(row["queue"], row["value"], row["at"], row["own"]) for row in rows]


async def read_nodes(connection: Connection, pool: str) -> list[fleet_pb2.Node]:
    rows = await connection.fetch("SELECT record FROM node WHERE pool = $1", pool)
    return [fleet_pb2.Node.FromString(row["record"]) for row in rows]


async def save_nodes(connection: Connection, nodes: Sequence[fleet_pb2.Node]) -> None:
    """Takes the newer of each node. A capacity never drops below what is in use: the ledger stays true."""
    if not nodes:
        return
    await connection.execute(
        """INSERT INTO node (name, pool, version, record, cpu_capacity, memory_capacity, pod_capacity)
           SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[],
               $7::bigint[])
           ON CONFLICT (name) DO UPDATE SET pool = excluded.pool, version = excluded.version, record = excluded.record,
               cpu_capacity = greatest(excluded.cpu_capacity, node.cpu_used),
               memory_capacity = greatest(excluded.memory_capacity, node.memory_used),
               pod_capacity = CASE WHEN excluded.pod_capacity IS NOT NULL
                   THEN greatest(excluded.pod_capacity, node.pods_used) END
           WHERE node.version <= excluded.version""",
        [node.name for node in nodes],
        [node.pool or "default" for node in nodes],
        [node.version for node in nodes],
        [node.SerializeToString() for node in nodes],
        [node.cpu_milli for node in nodes],
        [node.memory_bytes for node in nodes],
        [node.pod_limit if node.HasField("pod_limit") else None for node in nodes],
    )
    devices = {device.device_id: node.name for node in nodes for device in node.devices}
    await connection.execute(
        """INSERT INTO device (device_id, node, capacity_milli)
           SELECT d, n, 1000 FROM unnest($1::text[], $2::text[]) AS u (d, n)
           ON CONFLICT (device_id) DO UPDATE SET node = excluded.node WHERE device.node <> excluded.node""",
        list(devices),
        list(devices.values()),
    )


_AUDIT = {
    "partitions hold their slices": """
        SELECT s.device_id AS subject, format('slice %s of job %s, which claims nothing there', s.slice, s.job_id)
            AS message
        FROM claim_slice s LEFT JOIN claim c USING (device_id, job_id, member) WHERE c.job_id IS NULL""",
    "ledger matches claims": """
        SELECT d.device_id AS subject, format('ledger says %s, claims say %s', d.used_milli, coalesce(c.milli, 0))
            AS message
        FROM device d LEFT JOIN (SELECT device_id, sum(milli) AS milli FROM claim GROUP BY 1) c USING (device_id)
        WHERE d.used_milli <> coalesce(c.milli, 0)""",
    "no device over capacity": """
        SELECT c.device_id AS subject, format('claims of %s on a capacity of %s', sum(c.milli), max(d.capacity_milli))
            AS message
        FROM claim c LEFT JOIN device d USING (device_id) GROUP BY c.device_id
        HAVING sum(c.milli) > coalesce(max(d.capacity_milli), 0)""",
    "no node over capacity": """
        SELECT n.name AS subject, format('cpu %s of %s, memory %s of %s, pods %s of %s', sum(h.cpu_milli),
            n.cpu_capacity, sum(h.memory_bytes), n.memory_capacity, count(*), coalesce(n.pod_capacity::text, 'any'))
            AS message
        FROM host_claim h JOIN node n ON n.name = h.node GROUP BY n.name
        HAVING sum(h.cpu_milli) > n.cpu_capacity OR sum(h.memory_bytes) > n.memory_capacity
            OR count(*) > n.pod_capacity""",
    "only live jobs hold claims": """
        SELECT j.job_id AS subject, format('state %s', j.state) AS message FROM job j
        WHERE j.state NOT IN (2, 3, 4, 8) AND EXISTS (SELECT 1 FROM host_claim h WHERE h.job_id = j.job_id)""",
    "gangs are whole": """
        SELECT j.job_id AS subject, format('attempt %s holds no claim', j.attempt) AS message FROM job j
        WHERE j.state IN (2, 3, 4, 8) AND NOT EXISTS (SELECT 1 FROM host_claim h
            WHERE h.job_id = j.job_id AND h.attempt = j.attempt)
        UNION ALL
        SELECT h.job_id, format('members %s to %s, %s of them', min(h.member), max(h.member), count(*))
        FROM host_claim h GROUP BY h.job_id, h.attempt HAVING count(*) <> max(h.member) + 1""",
    "one attempt holds": """
        SELECT job_id AS subject, 'claims of several attempts' AS message FROM host_claim GROUP BY job_id
        HAVING count(DISTINCT attempt) > 1""",
}
_STATES = ("pending", "placed", "bound", "running", "succeeded", "failed", "cancelled", "releasing")


async def audit(connection: Connection) -> placement_pb2.AuditResponse:
    """Checks the invariants on one snapshot of the database."""
    response = placement_pb2.AuditResponse()
    for invariant, question in _AUDIT.items():
        for row in await connection.fetch(question):
            response.violations.add(invariant=invariant, subject=row["subject"], message=row["message"])
    for row in await connection.fetch("SELECT state, count(*) AS n FROM job GROUP BY 1"):
        response.counts[f"jobs_{_STATES[row['state'] - 1]}"] = row["n"]
    response.counts["claims"] = await connection.fetchval("SELECT count(*) FROM claim")
    response.counts["devices"] = await connection.fetchval("SELECT count(*) FROM device")
    response.counts["decisions"] = await connection.fetchval("SELECT count(*) FROM decision")
    response.audited_at.GetCurrentTime()
    return response
