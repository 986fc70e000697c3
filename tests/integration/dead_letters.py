"""What integration tests share: reading dead letters."""

import aiokafka

from berth.topics import dead_letter_topic


async def read_dead_letters(bootstrap: str, topic: str, count: int, seconds: float = 20.0) -> list[dict[str, str]]:
    """The headers of the first `count` dead letters, each with its bytes under "value"."""
    consumer = aiokafka.AIOKafkaConsumer(
        dead_letter_topic(topic), bootstrap_servers=bootstrap, auto_offset_reset="earliest", metadata_max_age_ms=500
    )
    await consumer.start()
    try:
        found: list[dict[str, str]] = []
        waited = 0.0
        while len(found) < count and waited < seconds:
            batches = await consumer.getmany(timeout_ms=500)
            waited += 0.0 if batches else 0.5
            for record in (one for batch in batches.values() for one in batch):
                found.append(
                    {name: text.decode() for name, text in record.headers}
                    | {"value": (record.value or b"").decode("latin-1")}
                )
        return found
    finally:
        await consumer.stop()
