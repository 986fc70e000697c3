"""BindingService: logs and attempts, for callers who may see the tenant."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from berth.auth import current_principal
from berth.errors import InvalidInput, NotFound
from berth.v1 import binding_pb2 as pb
from berth.v1 import binding_pb2_grpc
from binder.adapters.store import PostgresStore
from binder.adapters.wire import attempt_message
from binder.domain.executor import Executor

__all__ = ["BindingService"]

LISTED = 10_000


class BindingService(binding_pb2_grpc.BindingServiceServicer):
    def __init__(self, store: PostgresStore, executors: Mapping[str, Executor]) -> None:
        self._store = store
        self._executors = executors

    async def GetLogs(self, request: pb.GetLogsRequest, context: Any) -> AsyncIterator[pb.LogChunk]:  # type: ignore[override]
        """The output of the job's latest attempt."""
        if not request.job_id:
            raise InvalidInput.of("job_id", "", "name the job by its id")
        attempts = await self._store.attempts(request.job_id, 1)
        if not attempts or not attempts[0].work.members:
            raise NotFound(f"job_id: {request.job_id!r}: the binder has no attempt of it; it may still be waiting")
        latest = attempts[0]
        current_principal().require_tenant(latest.attempt.tenant)
        if not -1 <= request.member < latest.attempt.members:
            remedy = f"write 0 to {latest.attempt.members - 1}, or -1 for all members"
            raise InvalidInput.of("member", request.member, remedy)
        if request.tail_lines < 0:
            raise InvalidInput.of("tail_lines", request.tail_lines, "write 0 for the whole log, or a number above 0")
        executor = self._executors.get(latest.attempt.executor)
        if executor is None:
            raise NotFound(f"executor: {latest.attempt.executor!r}: not enabled in this binder")
        pieces = executor.logs(latest, request.member, follow=request.follow, tail_lines=request.tail_lines)
        async for piece in pieces:
            yield pb.LogChunk(member=piece.member, stream=piece.stream, data=piece.data)

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:  # type: ignore[override]
        """At most 10,000 attempts."""
        principal = current_principal()
        return pb.ListAttemptsResponse(
            attempts=[
                attempt_message(each.attempt)
                for each in await self._store.attempts(request.job_id, LISTED)
                if principal.may_see(each.attempt.tenant)
            ]
        )
