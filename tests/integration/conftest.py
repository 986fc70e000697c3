"""A system of real processes on real Kafka and PostgreSQL, one fresh database a test."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiokafka
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from berth.topics import SOURCE_TOPICS, dead_letter_topic
from tests.services import System


async def empty_topics(bootstrap: str) -> None:
    """Deletes Berth's topics: each test starts on an empty log."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        wanted = {*SOURCE_TOPICS, *map(dead_letter_topic, SOURCE_TOPICS)} & set(await admin.list_topics())
        if wanted:
            await admin.delete_topics(sorted(wanted))
    finally:
        await admin.close()


@pytest.fixture
async def system(tmp_path: Path, database_dsn: str, kafka_bootstrap: str) -> AsyncIterator[System]:
    await empty_topics(kafka_bootstrap)
    async with System(tmp_path, database_dsn, kafka_bootstrap, uuid.uuid4().hex) as made:
        yield made


async def read_dead_letters(bootstrap: str, topic: str, count: int, seconds: float = 20.0) -> list[dict[str, str]]:
    """The headers of the first `count` dead letters, each with its bytes under "value"."""
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(dead_letter_topic(topic), 0)
        consumer.assign([partition])
        found: list[dict[str, str]] = []
        waited = 0.0
        while len(found) < count and waited < seconds:
            batch = await consumer.getmany(timeout_ms=500)
            waited += 0.0 if batch else 0.5
            for record in batch.get(partition, []):
                found.append(
                    {name: text.decode() for name, text in record.headers}
                    | {"value": (record.value or b"").decode("latin-1")}
                )
        return found
    finally:
        await consumer.stop()
