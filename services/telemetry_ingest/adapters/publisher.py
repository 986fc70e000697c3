"""Telemetry out: one record a node, the newest only, in batches.

No outbox: the next record replaces this one, and a broker that is away must cost memory for one value a node.
"""

import asyncio
from collections.abc import Callable

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from berth.observability import RECORDS_PUBLISHED
from berth.retry import delays
from berth.topics import TELEMETRY_DEVICES, cloud_event_headers
from telemetry_ingest.adapters.messages import telemetry_message
from telemetry_ingest.domain.board import NodeSnapshot

__all__ = ["TelemetryPublisher"]

log = structlog.get_logger(__name__)


class TelemetryPublisher:
    """`drain` gives what is due; `undrain` takes back the names of nodes that could not be published.

    `run_id` tells this process from its predecessor: sequences start again with it, so it is part of the boot id.
    """

    def __init__(
        self,
        make_producer: Callable[[], AIOKafkaProducer],
        *,
        drain: Callable[[], list[tuple[NodeSnapshot, str]]],
        undrain: Callable[[list[str]], None],
        run_id: str,
        interval_seconds: float,
    ) -> None:
        self._make_producer = make_producer
        self._drain = drain
        self._undrain = undrain
        self._run_id = run_id
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Until cancelled. The broker may come and go."""
        tries = delays(longest=2.0)
        while True:
            producer = self._make_producer()
            try:
                await producer.start()
                while True:
                    await self._publish(producer)
                    tries = delays(longest=2.0)
                    await asyncio.sleep(self._interval_seconds)
            except (KafkaError, OSError) as error:
                log.warning("telemetry will be published again", error=repr(error))
                await asyncio.sleep(next(tries))
            finally:
                await producer.stop()

    async def _publish(self, producer: AIOKafkaProducer) -> None:
        due = self._drain()
        if not due:
            return
        try:
            sent = []
            for snapshot, boot_id in due:
                boot = f"{boot_id}/{self._run_id}"
                headers = cloud_event_headers(
                    event_id=f"telemetry/{snapshot.node}/{boot}/{snapshot.sequence}",
                    event_type="berth.v1.NodeTelemetry",
                    source="berth/telemetry-ingest",
                )
                sent.append(
                    await producer.send(
                        TELEMETRY_DEVICES,
                        key=snapshot.node.encode(),
                        value=telemetry_message(snapshot, boot).SerializeToString(),
                        headers=[(name, text.encode()) for name, text in headers.items()],
                    )
                )
            await asyncio.gather(*sent)
        except BaseException:
            self._undrain([snapshot.node for snapshot, _ in due])
            raise
        RECORDS_PUBLISHED.labels(TELEMETRY_DEVICES).inc(len(due))
