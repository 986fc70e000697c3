"""placement-engine, as the pods need it."""

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from berth.auth import Authenticator
from berth.grpc import connect
from berth.kubernetes import names
from berth.v1 import jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub

__all__ = ["Engine", "Refused", "Unreachable"]

ANSWER_SECONDS = 10.0
TOKEN_SECONDS = 3600.0
PAGE = 2000
REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.NOT_FOUND,
    }
)
ACTIVE = (
    jobs_pb2.JOB_STATE_PENDING,
    jobs_pb2.JOB_STATE_PLACED,
    jobs_pb2.JOB_STATE_BOUND,
    jobs_pb2.JOB_STATE_RUNNING,
    jobs_pb2.JOB_STATE_RELEASING,
)
ANNOTATION_OF_FIELD = {
    "queue": names.QUEUE,
    "tenant": names.TENANT,
    "pool": names.POOL,
    "deadline": names.DEADLINE,
    "accelerators": names.ACCELERATORS,
    "topology": names.TOPOLOGY,
}


class Refused(Exception):
    """The engine says no, with the reason for a person; nothing was stored."""


class Unreachable(ConnectionError):
    """No clear answer: the call may or may not have been carried out, and is made again."""


class Engine:
    """`async with Engine(...)`. Every call raises Refused or Unreachable."""

    def __init__(self, address: str, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._channel = connect(address, longest_retry_seconds=2.0)
        self._stub: Any = PlacementServiceStub(self._channel)
        self._token = ""
        self._token_until = 0.0

    async def __aenter__(self) -> "Engine":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def place(self, spec: jobs_pb2.JobSpec) -> jobs_pb2.Job:
        """The job of this submission, which may be an earlier one with the same key."""
        answer = await self._call(self._stub.PlaceJob, placement_pb2.PlaceJobRequest(spec=spec))
        return answer.job  # type: ignore[no-any-return]

    async def cancel(self, job_id: str, reason: str) -> jobs_pb2.Job:
        request = placement_pb2.CancelJobRequest(job=job_id, reason=reason[:500])
        return (await self._call(self._stub.CancelJob, request)).job  # type: ignore[no-any-return]

    async def get(self, job_id: str) -> jobs_pb2.Job:
        return (await self._call(self._stub.GetJob, placement_pb2.GetJobRequest(job=job_id))).job  # type: ignore[no-any-return]

    async def explain(self, job_id: str) -> placement_pb2.Explanation:
        request = placement_pb2.ExplainJobRequest(job=job_id)
        return (await self._call(self._stub.ExplainJob, request)).explanation  # type: ignore[no-any-return]

    async def active(self) -> list[jobs_pb2.Job]:
        """Every job that is not over."""
        found: list[jobs_pb2.Job] = []
        token = ""
        while True:
            request = placement_pb2.ListJobsRequest(states=ACTIVE, page_size=PAGE, page_token=token)
            answer = await self._call(self._stub.ListJobs, request)
            found.extend(answer.jobs)
            token = answer.next_page_token
            if not token:
                return found

    async def watch(self) -> AsyncIterator[jobs_pb2.Job | None]:
        """None once it listens, then jobs as they change, until the stream ends; notices can be lost."""
        try:
            stream = self._stub.WatchJobs(placement_pb2.WatchJobsRequest(), metadata=self._metadata())
            await stream.initial_metadata()
            yield None
            async for answer in stream:
                yield answer.job
        except grpc.aio.AioRpcError as error:
            raise Unreachable(f"{error.code().name}: {error.details()}") from error

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=ANSWER_SECONDS, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() in REFUSALS:
                raise Refused(_said(error)) from error
            raise Unreachable(f"{error.code().name}: {error.details()}") from error

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._authenticator.key is None:
            return ()
        if time.monotonic() > self._token_until:
            self._token = self._authenticator.issue("binder", tenants=["*"], lifetime_seconds=2 * TOKEN_SECONDS)
            self._token_until = time.monotonic() + TOKEN_SECONDS
        return (("authorization", f"Bearer {self._token}"),)


def _said(error: grpc.aio.AioRpcError) -> str:
    """The engine's words; where it names fields, with the annotations that they come from."""
    status = rpc_status.from_call(error)
    violations = []
    for detail in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            for one in bad.field_violations:
                name = ANNOTATION_OF_FIELD.get(one.field.partition(".")[0].partition("[")[0], "")
                violations.append(f"{f'metadata.annotations[{name}]' if name else one.field}: {one.description}")
    return "; ".join(violations) or str(error.details())
