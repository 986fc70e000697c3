"""An elastic gang through the whole path: how many of its wished members it has, and why not more."""

from typing import Any

from berth.grpc import connect
from berth.v1 import placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from tests.services import System, job, node

RUNNING = 4


async def test_explain_says_how_many_members_a_running_gang_has(system: System) -> None:
    engine = system.service("placement-engine", planner_lease_seconds="2")
    await engine.ready()
    await system.service("binder").ready()
    await system.publish_nodes([node("n0")])
    await system.publish_jobs([job("first", devices=6, seconds=3)])
    await system.publish_jobs([job("gang", replicas=4, devices=1, seconds=600, min_replicas=2)])

    async def alone() -> bool:
        rows = await system.fetch("SELECT name FROM engine.job WHERE state = $1", RUNNING)
        return [row["name"] for row in rows] == ["gang"]

    await system.eventually(alone, 60)
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        answer = await stub.ExplainJob(placement_pb2.ExplainJobRequest(job="gang"))
        # Six devices are free by now: it keeps its size all the same.
        assert answer.explanation.summary.endswith(
            "; holds 2 of 4 wished members, at least 2: gangs keep their size here (policy resize_gangs)"
        )
        assert answer.explanation.summary.startswith("placed 2 of 4 wished on ")
        told = (await stub.GetJob(placement_pb2.GetJobRequest(job="gang"))).job
        assert (len(told.members), told.spec.replicas) == (2, 4)
