"""Kafka as an at-least-once transport, on FastStream's batch subscribers with manual acknowledgement.

`KafkaBus.consume` is the transactional inbox: the effect of a batch, the partitions' next offsets and the dead
letters are written in one transaction, and records below the stored offset are skipped. Kafka's own committed
offset is written afterwards, so it only ever lags. A handler never decides about acknowledgement.

What fails:
- the database is away: the batch waits, with jitter, for as long as it takes;
- a record that the handler cannot understand: the handler gives it back as a `DeadLetter`;
- a record on which the handler breaks: a few tries, then it is handled alone, then it is a dead letter with
  the code HANDLER_FAILED. Nothing holds up what is behind it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaMessage
from opentelemetry.trace import SpanKind

from berth.observability import CONSUMED_RECORDS, DEAD_LETTERS, HANDLER_SECONDS, record_span, tracing_enabled
from berth.outbox import LARGEST_RECORD, OutgoingRecord, append
from berth.postgres import Connection, Database
from berth.retry import delays
from berth.settings import ServiceSettings
from berth.topics import COMPACTED_TOPICS, SOURCE_TOPICS, dead_letter_topic

__all__ = ["DeadLetter", "KafkaBus", "Record", "ensure_topics", "make_producer"]

log = structlog.get_logger(__name__)

HANDLER_TRIES = 3
LARGEST_LINKS = 128
MAX_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it came. `timestamp` is the broker's or the publisher's, seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)
    timestamp: float = 0.0

    def header(self, name: str) -> str:
        """The header as text, "" where it is absent; bytes that are no UTF-8 are replaced."""
        return self.headers.get(name, b"").decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that will not be handled, with a stable code and a message for a person."""

    record: Record
    code: str
    message: str


Handler = Callable[[Connection, list[Record]], Awaitable[Sequence[DeadLetter]]]
BroadcastHandler = Callable[[list[Record]], Awaitable[None]]


def make_producer(bootstrap: str) -> AIOKafkaProducer:
    """An idempotent producer for streams whose next value replaces the last; not started."""
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5, max_batch_size=262144
    )


async def ensure_topics(settings: ServiceSettings) -> None:
    """Creates Berth's topics where they are missing. A broker without the call creates them by itself."""
    wanted = []
    for topic in SOURCE_TOPICS:
        configuration = {"cleanup.policy": "compact"} if topic in COMPACTED_TOPICS else {}
        wanted.append(
            NewTopic(topic, settings.topic_partitions, settings.topic_replication, topic_configs=configuration)
        )
        wanted.append(
            NewTopic(
                dead_letter_topic(topic),
                1,
                settings.topic_replication,
                topic_configs={"max.message.bytes": str(LARGEST_RECORD)},
            )
        )
    for delay in delays(longest=2.0):
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        try:
            await admin.start()
            await admin.create_topics(wanted)
        except TopicAlreadyExistsError:
            return
        except (AttributeError, NotImplementedError):
            # The embedded broker does not know the call.
            return
        except (KafkaError, OSError) as error:
            log.warning("kafka is not there yet", error=repr(error))
            await asyncio.sleep(delay)
        else:
            return
        finally:
            await admin.close()


def _record(raw: "ConsumerRecord[bytes, bytes]") -> Record:
    return Record(
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key or b"",
        value=raw.value or b"",
        headers={name.lower(): value or b"" for name, value in raw.headers},
        timestamp=raw.timestamp / 1000.0,
    )


async def _raw_batch(message: Any, _original: Any) -> Any:
    """FastStream's own decoder reads headers and JSON: a broken record would fail the whole batch."""
    return message.raw_message


class KafkaBus:
    """All of one service's subscriptions."""

    def __init__(self, settings: ServiceSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._broker = KafkaBroker(settings.kafka_bootstrap, apply_types=False, logger=None, client_id=f"berth-{name}")
        self._inboxes: list[_Inbox] = []

    def consume(
        self,
        topic: str,
        *,
        group: str,
        database: Database,
        handle: Handler,
        after_commit: Callable[[], None] | None = None,
    ) -> None:
        """Subscribes a transactional inbox. `handle` may run several times for the same records."""
        inbox = _Inbox(self._settings.kafka_log, topic, database, handle, after_commit)
        self._inboxes.append(inbox)
        subscriber = self._broker.subscriber(
            topic,
            # One group a topic: members of one group that want different topics disturb one another.
            group_id=f"{group}.{topic}",
            batch=True,
            batch_timeout_ms=10,
            max_records=MAX_RECORDS,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            ack_policy=AckPolicy.MANUAL,
            parser=_parse_batch_for(lambda: subscriber),
            decoder=_raw_batch,
        )
        subscriber(inbox.on_batch_of(lambda: subscriber.consumer))

    def broadcast(self, topic: str, handle: BroadcastHandler, *, from_beginning: bool) -> None:
        """Every instance reads every record, outside any group. What `handle` raises is logged, not retried."""

        async def on_batch(raw: Any) -> None:
            records = [_record(one) for one in raw]
            try:
                await handle(records)
            except Exception:
                log.exception("records were passed over", topic=topic, records=len(records))
            else:
                CONSUMED_RECORDS.labels(topic).inc(len(records))

        subscriber = self._broker.subscriber(
            topic,
            batch=True,
            batch_timeout_ms=10,
            max_records=5000,
            auto_offset_reset="earliest" if from_beginning else "latest",
            fetch_max_wait_ms=100,
            ack_policy=AckPolicy.MANUAL,
            parser=_parse_batch_for(lambda: subscriber),
            decoder=_raw_batch,
        )
        subscriber(on_batch)

    async def start(self) -> None:
        """Connects and starts to consume; waits with back-off until the broker answers."""
        await ensure_topics(self._settings)
        for delay in delays(longest=2.0):
            try:
                await self._broker.start()
                return
            except (KafkaError, OSError) as error:
                log.warning("kafka is not there yet", error=repr(error))
                await asyncio.sleep(delay)

    async def stop(self) -> None:
        """Batches in flight end with their transaction or not at all."""
        await self._broker.stop()


def _parse_batch_for(subscriber: Callable[[], Any]) -> Any:
    """A parser that reads nothing of the records but their bytes."""

    async def parse(raw: Any) -> Any:
        return KafkaMessage(
            body=b"",
            raw_message=raw,
            headers={},
            message_id="",
            correlation_id="",
            consumer=subscriber().consumer,
        )

    return parse


class _Inbox:
    def __init__(
        self,
        log_name: str,
        topic: str,
        database: Database,
        handle: Handler,
        after_commit: Callable[[], None] | None,
    ) -> None:
        self._log_name = log_name
        self._topic = topic
        self._database = database
        self._handle = handle
        self._after_commit = after_commit

    def on_batch_of(self, consumer: Callable[[], Any]) -> Callable[[Any], Awaitable[None]]:
        async def on_batch(raw: Any) -> None:
            records = [_record(one) for one in raw]
            await self.process(records)
            await self._acknowledge(consumer(), records)

        return on_batch

    async def process(self, records: list[Record]) -> None:
        """Returns once every record has had its effect or is a dead letter."""
        started = time.monotonic()
        tries = delays(attempts=HANDLER_TRIES)
        while True:
            try:
                await self._commit(records)
                break
            except Exception as error:
                delay = next(tries, None)
                if delay is not None:
                    log.warning("handler failed, will try again", topic=self._topic, error=repr(error))
                    await asyncio.sleep(delay)
                    continue
                if len(records) > 1:
                    middle = len(records) // 2
                    await self.process(records[:middle])
                    await self.process(records[middle:])
                    return
                log.exception("record is put aside", topic=self._topic, offset=records[0].offset)
                await self._commit(records, [DeadLetter(records[0], "HANDLER_FAILED", repr(error))])
                break
        took = time.monotonic() - started
        HANDLER_SECONDS.labels(self._topic).observe(took)
        if tracing_enabled():
            # A batch belongs to many traces: it links to them and has none of them as its parent.
            now = time.time()
            record_span(
                f"process {self._topic}",
                start=now - took,
                end=now,
                attributes={"messaging.batch.message_count": len(records)},
                links=[parent for record in records if (parent := record.header("traceparent"))][:LARGEST_LINKS],
                kind=SpanKind.CONSUMER,
            )
        CONSUMED_RECORDS.labels(self._topic).inc(len(records))

    async def _commit(self, records: list[Record], put_aside: Sequence[DeadLetter] | None = None) -> None:
        async def effect(connection: Connection) -> list[DeadLetter]:
            next_offsets = await self._lock_offsets(connection, records)
            fresh = [record for record in records if record.offset >= next_offsets[record.partition]]
            if not fresh:
                return []
            dead = list(put_aside if put_aside is not None else await self._handle(connection, fresh))
            await append(connection, [self._dead_record(letter) for letter in dead])
            reached = dict(next_offsets)
            for record in fresh:
                reached[record.partition] = max(reached[record.partition], record.offset + 1)
            await connection.execute(
                """UPDATE consumer_offset AS c SET next_offset = r.next_offset
                   FROM unnest($3::int[], $4::bigint[]) AS r (partition, next_offset)
                   WHERE c.log = $1 AND c.topic = $2 AND c.partition = r.partition""",
                self._log_name,
                self._topic,
                list(reached),
                list(reached.values()),
            )
            return dead

        dead = await self._database.run(effect, attempts=None)
        for letter in dead:
            DEAD_LETTERS.labels(self._topic, letter.code).inc()
            log.warning(
                "dead letter",
                topic=self._topic,
                partition=letter.record.partition,
                offset=letter.record.offset,
                code=letter.code,
                message=letter.message,
            )
        if self._after_commit is not None:
            self._after_commit()

    async def _lock_offsets(self, connection: Connection, records: list[Record]) -> dict[int, int]:
        partitions = sorted({record.partition for record in records})
        await connection.execute(
            """INSERT INTO consumer_offset (log, topic, partition, next_offset)
               SELECT $1, $2, p, 0 FROM unnest($3::int[]) AS p ORDER BY p ON CONFLICT DO NOTHING""",
            self._log_name,
            self._topic,
            partitions,
        )
        rows = await connection.fetch(
            """SELECT partition, next_offset FROM consumer_offset
               WHERE log = $1 AND topic = $2 AND partition = ANY($3::int[]) ORDER BY partition FOR UPDATE""",
            self._log_name,
            self._topic,
            partitions,
        )
        return {row["partition"]: row["next_offset"] for row in rows}

    @staticmethod
    def _dead_record(letter: DeadLetter) -> OutgoingRecord:
        headers = {
            name: value.decode("utf-8", "replace")
            for name, value in letter.record.headers.items()
            if name != "authorization"  # who reads dead letters must not find tokens
        }
        headers |= {
            "berth-error-code": letter.code,
            "berth-error-message": letter.message[:2000],
            "berth-source-topic": letter.record.topic,
            "berth-source-partition": str(letter.record.partition),
            "berth-source-offset": str(letter.record.offset),
        }
        headers = {name: value.replace("\x00", "") for name, value in headers.items()}
        return OutgoingRecord(dead_letter_topic(letter.record.topic), letter.record.key, letter.record.value, headers)

    async def _acknowledge(self, consumer: Any, records: list[Record]) -> None:
        """Lets Kafka's committed offset follow. A partition that moved away meanwhile is the new owner's."""
        reached: dict[TopicPartition, int] = {}
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            reached[partition] = max(reached.get(partition, 0), record.offset + 1)
        try:
            await consumer.commit(reached)
        except (KafkaError, AttributeError) as error:
            log.info("kafka's own offset was not moved; the database's was", topic=self._topic, error=repr(error))
