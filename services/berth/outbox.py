"""Publish: a row written with the effect, relayed by an idempotent producer, in order per key.

Rows are found by existence, never by "id > last": sequences commit out of order. For one key, ids rise in the
order of commits as long as writers hold that aggregate's row lock when they append, which all of Berth's do.
A relay that dies between the broker's acknowledgement and the delete publishes again: consumers drop what is
old by the version that each record carries.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from opentelemetry.trace import SpanKind

from berth.observability import OUTBOX_PENDING, RECORDS_PUBLISHED, record_span, tracing_enabled
from berth.postgres import TRANSIENT, Connection, Database
from berth.retry import delays
from berth.topics import DEAD_LETTER_SUFFIX, dead_letter_topic

__all__ = ["LARGEST_RECORD", "OutboxRelay", "OutgoingRecord", "append"]

log = structlog.get_logger(__name__)

BATCH = 2000
LARGEST_RECORD = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, str]


async def append(connection: Connection, records: Sequence[OutgoingRecord]) -> None:
    """Writes the rows in the caller's transaction. Wake the relay after the commit."""
    if not records:
        return
    await connection.execute(
        """INSERT INTO outbox (topic, key, value, headers)
           SELECT t, k, v, h FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[])
             WITH ORDINALITY AS r (t, k, v, h, n) ORDER BY n""",
        [record.topic for record in records],
        [record.key for record in records],
        [record.value for record in records],
        [json.dumps(dict(record.headers)) for record in records],
    )


class OutboxRelay:
    """Moves a schema's outbox to Kafka. One instance at a time relays: the others wait on an advisory lock."""

    def __init__(self, database: Database, bootstrap: str, *, poll_seconds: float = 0.25) -> None:
        self._database = database
        self._bootstrap = bootstrap
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There may be new rows. Cheap; call after each commit."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Broker and database may come and go."""
        tries = delays(longest=2.0)
        while True:
            try:
                await self._relay()
            except (*TRANSIENT, KafkaError) as error:
                log.warning("outbox relay will try again", error=repr(error))
                await asyncio.sleep(next(tries))

    async def _relay(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=2,
            max_batch_size=262144,
            max_request_size=LARGEST_RECORD,
        )
        lock = f"berth.outbox.{self._database.schema}"
        async with self._database.pool.acquire() as connection:
            while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", lock):  # noqa: ASYNC110
                await asyncio.sleep(0.5)
            try:
                await producer.start()
                while True:
                    self._wake.clear()
                    if await self._publish_some(connection, producer) < BATCH:
                        try:
                            await asyncio.wait_for(self._wake.wait(), self._poll_seconds)
                        except TimeoutError:
                            pass
            finally:
                await producer.stop()
                if not connection.is_closed():
                    await connection.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", lock)

    async def _publish_some(self, connection: Connection, producer: AIOKafkaProducer) -> int:
        rows = await connection.fetch(
            "SELECT id, topic, key, value, headers, extract(epoch FROM created_at)::float8 AS created_at "
            "FROM outbox ORDER BY id LIMIT $1",
            BATCH,
        )
        OUTBOX_PENDING.set(len(rows))
        if not rows:
            return 0
        sent = [await self._send(producer, row) for row in rows]
        await asyncio.gather(*sent)
        await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", [row["id"] for row in rows])
        published = time.time()
        for row in rows:
            RECORDS_PUBLISHED.labels(row["topic"]).inc()
            if tracing_enabled() and (traceparent := json.loads(row["headers"]).get("traceparent")):
                record_span(
                    f"publish {row['topic']}",
                    parent=traceparent,
                    start=row["created_at"],
                    end=published,
                    kind=SpanKind.PRODUCER,
                )
        return len(rows)

    @staticmethod
    async def _send(producer: AIOKafkaProducer, row: asyncpg.Record) -> "asyncio.Future[object]":
        headers = [(name, text.encode()) for name, text in json.loads(row["headers"]).items()]
        try:
            future: asyncio.Future[object] = await producer.send(
                row["topic"], value=row["value"], key=row["key"], headers=headers
            )
        except MessageSizeTooLargeError:
            # It would block all behind it; the head is kept where a person can see it.
            log.error("record is larger than the broker takes", topic=row["topic"], bytes=len(row["value"]))
            future = await producer.send(
                row["topic"] if row["topic"].endswith(DEAD_LETTER_SUFFIX) else dead_letter_topic(row["topic"]),
                value=row["value"][:65536],
                key=row["key"],
                headers=[*headers, ("berth-error-code", b"RECORD_TOO_LARGE")],
            )
        return future
