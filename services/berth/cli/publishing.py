"""Jobs onto Kafka, as CloudEvents in binary mode."""

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Self

from berth.kafka import make_producer
from berth.observability import new_traceparent, record_span
from berth.topics import JOB_SUBMITTED_TYPE, JOBS_SUBMITTED, JSON, PROTOBUF, cloud_event_headers
from berth.v1 import jobs_pb2

__all__ = ["JobPublisher", "submission_trace"]


def submission_trace(name: str, through: str) -> str:
    """The traceparent of a job that is being submitted: of a span of our own where tracing is on."""
    now = time.time()
    own = record_span("submit", start=now, end=now, attributes={"berth.job_name": name, "berth.through": through})
    return own or new_traceparent()


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
        return await self._send(spec.tenant, spec.name, spec.SerializeToString(), PROTOBUF)

    async def publish_json(self, document: Mapping[str, Any]) -> None:
        """A job document as JSON."""
        tenant, name = str(document.get("tenant", "default")), str(document["name"])
        await (await self._send(tenant, name, json.dumps(document).encode(), JSON))

    async def _send(self, tenant: str, name: str, value: bytes, content_type: str) -> Any:
        headers = cloud_event_headers(
            event_id=str(uuid.uuid4()),
            event_type=JOB_SUBMITTED_TYPE,
            source=self._source,
            content_type=content_type,
            traceparent=submission_trace(name, "kafka"),
        )
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        encoded = [(name, text.encode()) for name, text in headers.items()]
        return await self._producer.send(JOBS_SUBMITTED, key=f"{tenant}/{name}".encode(), value=value, headers=encoded)
