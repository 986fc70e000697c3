"""The delivery rules on real Kafka and PostgreSQL: offset with the effect, poison, rebalance, outbox."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from berth.kafka import DeadLetter, KafkaBus, Record, ensure_topics
from berth.outbox import OutboxRelay, OutgoingRecord, append
from berth.postgres import Connection, Database
from berth.settings import ServiceSettings
from berth.topics import JOBS_LIFECYCLE, JOBS_SUBMITTED, PROTOBUF
from tests.integration.dead_letters import read_dead_letters
from tests.services import System


@pytest.fixture
async def settings(empty_kafka: str) -> ServiceSettings:
    made = ServiceSettings(kafka_bootstrap=empty_kafka, kafka_log=uuid.uuid4().hex)
    await ensure_topics(made)
    return made


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    made = await Database.open(database_dsn, "kit", size=6)
    await made.migrate("berth")
    await made.pool.execute("CREATE TABLE effect (value text)")
    yield made
    await made.close()


async def publish(bootstrap: str, topic: str, values: Sequence[bytes]) -> None:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    for value in values:
        await producer.send(topic, value, key=value)
    await producer.stop()


async def store(connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
    await connection.executemany("INSERT INTO effect VALUES ($1)", [(one.value.decode(),) for one in records])
    return []


async def effects(database: Database, count: int, seconds: float = 30.0) -> Counter[str]:
    """The effects, once there are `count` or time is up."""
    for _ in range(int(seconds / 0.1)):
        rows = await database.pool.fetch("SELECT value FROM effect")
        if len(rows) >= count:
            break
        await asyncio.sleep(0.1)
    return Counter(row["value"] for row in rows)


@pytest.mark.apache_kafka
async def test_a_rebalance_in_the_middle_of_a_batch_has_each_effect_once(
    settings: ServiceSettings, database: Database
) -> None:
    values = [f"v{index}".encode() for index in range(600)]

    async def slow(connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
        await store(connection, records)
        await asyncio.sleep(0.3)
        return []

    group = uuid.uuid4().hex
    buses = [KafkaBus(settings, f"bus{index}") for index in range(2)]
    for bus in buses:
        bus.consume(JOBS_SUBMITTED, group=group, database=database, handle=slow)
    await publish(settings.kafka_bootstrap, JOBS_SUBMITTED, values[:300])
    await buses[0].start()
    await effects(database, 1)
    await buses[1].start()  # joins while the first is at work
    await publish(settings.kafka_bootstrap, JOBS_SUBMITTED, values[300:])
    await effects(database, 400)
    await buses[0].stop()  # leaves; its partitions move
    found = await effects(database, 600)
    await asyncio.sleep(1.0)
    found = await effects(database, 600)
    await buses[1].stop()
    assert found == Counter(value.decode() for value in values)


async def test_kafkas_own_offset_may_lag_or_be_lost(settings: ServiceSettings, database: Database) -> None:
    await publish(settings.kafka_bootstrap, JOBS_SUBMITTED, [b"a", b"b", b"c"])
    for _ in range(2):
        # Another group each time: Kafka knows no offset and delivers all again.
        bus = KafkaBus(settings, "bus")
        bus.consume(JOBS_SUBMITTED, group=uuid.uuid4().hex, database=database, handle=store)
        await bus.start()
        await effects(database, 3)
        await asyncio.sleep(1.0)
        await bus.stop()
    assert await effects(database, 3) == Counter(a=1, b=1, c=1)


async def test_a_record_that_breaks_the_handler_is_put_aside_alone(
    settings: ServiceSettings, database: Database
) -> None:
    async def picky(connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
        await store(connection, records)
        if any(record.value == b"poison" for record in records):
            raise ZeroDivisionError("cannot")
        return [DeadLetter(record, "ODD", "odd") for record in records if record.value == b"odd"]

    relay = OutboxRelay(database, settings.kafka_bootstrap)
    relaying = asyncio.create_task(relay.run())
    bus = KafkaBus(settings, "bus")
    bus.consume(JOBS_SUBMITTED, group=uuid.uuid4().hex, database=database, handle=picky, after_commit=relay.wake)
    await publish(settings.kafka_bootstrap, JOBS_SUBMITTED, [b"a", b"poison", b"b", b"odd", b"c"])
    await bus.start()
    found = await effects(database, 4)
    dead = await read_dead_letters(settings.kafka_bootstrap, JOBS_SUBMITTED, 2)
    await bus.stop()
    relaying.cancel()
    assert found == Counter(a=1, b=1, c=1, odd=1)
    assert {(one["value"], one["berth-error-code"]) for one in dead} == {("poison", "HANDLER_FAILED"), ("odd", "ODD")}
    assert {one["berth-source-topic"] for one in dead} == {JOBS_SUBMITTED}


async def test_the_outbox_keeps_the_order_of_a_key_and_forgets_what_is_published(
    settings: ServiceSettings, database: Database
) -> None:
    relay = OutboxRelay(database, settings.kafka_bootstrap)
    relaying = asyncio.create_task(relay.run())
    for start in range(0, 300, 10):
        async with database.transaction() as connection:
            await append(
                connection,
                [OutgoingRecord(JOBS_LIFECYCLE, b"job", str(start + n).encode(), {"n": "1"}) for n in range(10)],
            )
        relay.wake()
    async with database.transaction() as connection:
        await append(connection, [OutgoingRecord(JOBS_LIFECYCLE, b"job", b"last", {})])
    consumer = aiokafka.AIOKafkaConsumer(
        JOBS_LIFECYCLE, bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    values: list[bytes] = []
    while not values or values[-1] != b"last":
        values.append((await asyncio.wait_for(consumer.getone(), 20)).value or b"")
    await consumer.stop()
    for _ in range(50):
        left = await database.pool.fetchval("SELECT count(*) FROM outbox")
        if not left:
            break
        await asyncio.sleep(0.1)
    relaying.cancel()
    assert values == [*(str(n).encode() for n in range(300)), b"last"]
    assert left == 0


@pytest.mark.apache_kafka
async def test_a_record_of_2_mb_is_a_dead_letter_with_all_its_bytes(system: System) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=system.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(JOBS_SUBMITTED, 1, 1, topic_configs={"max.message.bytes": "4194304"})])
    await admin.close()
    engine = system.service("placement-engine")
    await engine.ready()
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=system.bootstrap, max_request_size=4_000_000)
    await producer.start()
    await producer.send_and_wait(
        JOBS_SUBMITTED, b"\x0a\xff" + b"x" * 2_000_000, key=b"k", headers=[("content-type", PROTOBUF.encode())]
    )
    await producer.stop()
    (dead,) = await read_dead_letters(system.bootstrap, JOBS_SUBMITTED, 1)
    assert len(dead["value"]) == 2_000_002
    assert dead["berth-error-code"] == "INVALID_ARGUMENT"
