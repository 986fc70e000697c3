import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from berth.auth import Principal, set_principal
from berth.errors import PermissionDenied
from berth.v1 import binding_pb2 as pb
from binder.adapters.rpc import BindingService
from binder.domain.work import Assignment, Member, Work
from tests.unit.binder.builders import FakeExecutor, make_attempt


class Rows:
    async def attempts(self, job_id: str, limit: int) -> Sequence[Assignment]:
        rows = [make_attempt("a", tenant="red"), make_attempt("b", tenant="blue")]
        return [Assignment(row, Work((Member(0, "n"),))) for row in rows if job_id in ("", row.id.job_id)]


async def as_red(call: Any) -> Any:
    """In a context of its own, as the server's interceptor does it."""

    async def inner() -> Any:
        set_principal(Principal("someone", frozenset({"red"})))
        return await call

    return await asyncio.create_task(inner())


def service() -> BindingService:
    return BindingService(Rows(), {"fake": FakeExecutor()})  # type: ignore[arg-type]


async def test_a_tenant_sees_its_own_attempts_only() -> None:
    listed = await as_red(service().ListAttempts(pb.ListAttemptsRequest(), None))
    assert [each.job_id for each in listed.attempts] == ["a"]
    everything = await service().ListAttempts(pb.ListAttemptsRequest(), None)
    assert [each.job_id for each in everything.attempts] == ["a", "b"]


async def test_a_tenant_reads_its_own_logs_only() -> None:
    async def read(job_id: str) -> list[pb.LogChunk]:
        return [chunk async for chunk in service().GetLogs(pb.GetLogsRequest(job_id=job_id, member=-1), None)]

    assert await as_red(read("a")) == [pb.LogChunk(member=0, stream="stdout")]
    with pytest.raises(PermissionDenied, match="'blue'"):
        await as_red(read("b"))
