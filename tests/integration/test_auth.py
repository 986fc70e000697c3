"""Nobody acts on another tenant's queue, and nobody reports another node's telemetry."""

from typing import Any

import grpc
import pytest

from berth.auth import Authenticator
from berth.grpc import connect
from berth.topics import JOBS_SUBMITTED, PROTOBUF
from berth.v1 import fleet_pb2, placement_pb2, telemetry_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from berth.v1.telemetry_pb2_grpc import TelemetryServiceStub
from tests.integration.dead_letters import read_dead_letters
from tests.services import System, job, node

KEY = "k" * 32
TOKENS = Authenticator(KEY)


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code()


async def test_a_tenant_acts_for_itself_alone(system: System) -> None:
    engine = system.service("placement-engine", auth_key=KEY)
    await engine.ready()
    await system.publish_nodes([node("n0")])
    address = engine.endpoint("grpc")
    red, blue, admin = (
        TOKENS.issue("red", tenants=["red"]),
        TOKENS.issue("blue", tenants=["blue"]),
        TOKENS.issue("root", tenants=["*"], roles=["admin"]),
    )
    async with (
        connect(address) as nobody,
        connect(address, red) as as_red,
        connect(address, blue) as as_blue,
        connect(address, admin) as as_admin,
        connect(address, TOKENS.issue("late", tenants=["red"], lifetime_seconds=-1)) as as_late,
    ):
        queue = placement_pb2.ApplyQueuesRequest(queues=[fleet_pb2.Queue(name="reds", weight=1, tenants=["red"])])
        assert await refused(PlacementServiceStub(as_red).ApplyQueues(queue)) is grpc.StatusCode.PERMISSION_DENIED
        await PlacementServiceStub(as_admin).ApplyQueues(queue)
        place = placement_pb2.PlaceJobRequest(spec=job("a", tenant="red", queue="reds"))
        assert await refused(PlacementServiceStub(nobody).PlaceJob(place)) is grpc.StatusCode.UNAUTHENTICATED
        assert await refused(PlacementServiceStub(as_late).PlaceJob(place)) is grpc.StatusCode.UNAUTHENTICATED
        assert await refused(PlacementServiceStub(as_blue).PlaceJob(place)) is grpc.StatusCode.PERMISSION_DENIED
        blues = placement_pb2.PlaceJobRequest(spec=job("b", tenant="blue", queue="reds"))
        assert await refused(PlacementServiceStub(as_blue).PlaceJob(blues)) is grpc.StatusCode.PERMISSION_DENIED
        stored: Any = await PlacementServiceStub(as_red).PlaceJob(place)
        job_id = stored.job.job_id
        cancel = placement_pb2.CancelJobRequest(job=job_id)
        assert await refused(PlacementServiceStub(as_blue).CancelJob(cancel)) is grpc.StatusCode.PERMISSION_DENIED
        look = placement_pb2.GetJobRequest(job=job_id)
        assert await refused(PlacementServiceStub(as_blue).GetJob(look)) is grpc.StatusCode.NOT_FOUND
        listed: Any = await PlacementServiceStub(as_blue).ListJobs(placement_pb2.ListJobsRequest())
        assert list(listed.jobs) == []
        listed = await PlacementServiceStub(as_red).ListJobs(placement_pb2.ListJobsRequest())
        assert [one.job_id for one in listed.jobs] == [job_id]

    for name, token in (("none", ""), ("foreign", blue), ("own", red)):
        await system.publish_raw(
            job(name, tenant="red", queue="reds").SerializeToString(),
            content_type=PROTOBUF,
            headers={"authorization": f"Bearer {token}"} if token else {},
        )
    dead = await read_dead_letters(system.bootstrap, JOBS_SUBMITTED, 2)
    assert {one["berth-error-code"] for one in dead} == {"UNAUTHENTICATED", "PERMISSION_DENIED"}
    assert not any("authorization" in one for one in dead)

    async def own_is_there() -> bool:
        rows = await system.fetch("SELECT name FROM engine.job ORDER BY name")
        return [row["name"] for row in rows] == ["a", "own"]

    await system.eventually(own_is_there)


async def test_an_agent_reports_its_own_node_alone(system: System) -> None:
    ingest = system.service("telemetry-ingest", auth_key=KEY)
    await ingest.ready()

    async def report(name: str) -> Any:
        yield telemetry_pb2.ReportTelemetryRequest(report=telemetry_pb2.NodeReport(inventory=node(name)))

    token = TOKENS.issue("agent-n0", roles=["agent"], node="n0")
    async with connect(ingest.endpoint("grpc"), token) as channel:
        stub: Any = TelemetryServiceStub(channel)
        answer = await stub.ReportTelemetry(report("n0"))
        assert (answer.accepted, answer.refused) == (1, 0)
        assert await refused(stub.ReportTelemetry(report("n1"))) is grpc.StatusCode.PERMISSION_DENIED
        nodes = telemetry_pb2.ApplyNodesRequest(nodes=[node("n1")])
        assert await refused(stub.ApplyNodes(nodes)) is grpc.StatusCode.PERMISSION_DENIED
