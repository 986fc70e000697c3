"""The inventory in PostgreSQL: the record and its outbox row in one transaction."""

from collections.abc import Sequence

import asyncpg

from berth.outbox import OutboxRelay, OutgoingRecord, append
from berth.postgres import Connection, Database
from berth.topics import FLEET_NODES, cloud_event_headers
from berth.v1 import fleet_pb2
from telemetry_ingest.adapters.messages import node_message, node_record
from telemetry_ingest.domain.inventory import NodeRecord
from telemetry_ingest.domain.ports import Overtaken

__all__ = ["PostgresInventory"]

SOURCE = "berth/telemetry-ingest"


def _outgoing(name: str, version: int, record: bytes) -> OutgoingRecord:
    headers = cloud_event_headers(event_id=f"node/{name}/{version}", event_type="berth.v1.Node", source=SOURCE)
    return OutgoingRecord(FLEET_NODES, name.encode(), record, headers)


def _records(rows: Sequence[asyncpg.Record]) -> list[NodeRecord]:
    return [node_record(fleet_pb2.Node.FromString(row["record"]), row["origin"]) for row in rows]


class PostgresInventory:
    """Stores records and publishes them on fleet.nodes."""

    def __init__(self, database: Database, relay: OutboxRelay) -> None:
        self._database = database
        self._relay = relay

    async def load(self) -> list[NodeRecord]:
        rows = await self._database.pool.fetch("SELECT record, origin FROM node ORDER BY name")
        return _records(rows)

    async def save(self, records: Sequence[NodeRecord]) -> None:
        """All or none. Raises Overtaken where one of them is there in that version or a newer one."""
        encoded = [(record, node_message(record).SerializeToString(deterministic=True)) for record in records]

        async def effect(connection: Connection) -> None:
            stored = await connection.fetch(
                """INSERT INTO node (name, record, version, origin)
                   SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::text[])
                   ON CONFLICT (name) DO UPDATE
                     SET record = excluded.record, version = excluded.version, origin = excluded.origin
                     WHERE node.version < excluded.version
                   RETURNING name""",
                [record.name for record, _ in encoded],
                [value for _, value in encoded],
                [record.version for record, _ in encoded],
                [record.origin for record, _ in encoded],
            )
            if len(stored) < len(encoded):
                raise Overtaken(())  # Rolls back; what is there is read below.
            await append(connection, [_outgoing(record.name, record.version, value) for record, value in encoded])

        async def there(connection: Connection) -> list[NodeRecord]:
            rows = await connection.fetch(
                "SELECT record, origin FROM node WHERE name = ANY($1) ORDER BY name", [one.name for one in records]
            )
            return _records(rows)

        try:
            await self._database.run(effect)
        except Overtaken:
            raise Overtaken(await self._database.run(there)) from None
        self._relay.wake()

    async def republish(self) -> int:
        """Publishes every record again, for brokers that forget. The row locks keep each key's order."""

        async def effect(connection: Connection) -> int:
            # A broker that is away must not fill the table with copies.
            if await connection.fetchval("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 1000) AS waiting") >= 1000:
                return 0
            rows = await connection.fetch("SELECT name, version, record FROM node ORDER BY name FOR SHARE")
            await append(connection, [_outgoing(row["name"], row["version"], row["record"]) for row in rows])
            return len(rows)

        count = await self._database.run(effect)
        self._relay.wake()
        return count
