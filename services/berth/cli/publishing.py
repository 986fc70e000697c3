"""Jobs onto Kafka, as CloudEvents in binary mode."""

import json
import uuid
from collections.abc import Mapping
from typing import Any, Self

from berth.kafka import make_producer
from berth.observability import new_traceparent
from berth.topics import JOB_SUBMITTED_TYPE, JOBS_SUBMITTED, JSON, PROTOBUF, cloud_event_headers
from berth.v1 import jobs_pb2

__all__ = ["JobPublisher"]


class JobPublisher:
    """Publishes to jobs.submitted; each record gets a trace of its own. The broker has it when the call is over."""

    def __init__(self, bootstrap: str, *, source: str, token: str = "") -> None:
        self._producer = make_producer(bootstrap)
        self._source = source
        self._token = token

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def publish(self, spec: jobs_pb2.JobSpec) -> None:
        """A job as protobuf; over when the broker has it."""
        await (await self.send(spec))

    async def send(self, spec: jobs_pb2.JobSpec) -> Any:
        """As `publish`, but gives a future of the broker's answer."""
        return await self._send(f"{spec.tenant}/{spec.name}", spec.SerializeToString(), PROTOBUF)

    async def publish_json(self, document: Mapping[str, Any]) -> None:
        """A job document as JSON."""
        key = f"{document.get('tenant', 'default')}/{document['name']}"
        await (await self._send(key, json.dumps(document).encode(), JSON))

    async def _send(self, key: str, value: bytes, content_type: str) -> Any:
        headers = cloud_event_headers(
            event_id=str(uuid.uuid4()),
            event_type=JOB_SUBMITTED_TYPE,
            source=self._source,
            content_type=content_type,
            traceparent=new_traceparent(),
        )
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        encoded = [(name, text.encode()) for name, text in headers.items()]
        return await self._producer.send(JOBS_SUBMITTED, key=key.encode(), value=value, headers=encoded)
