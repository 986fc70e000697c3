"""What the running engine tells of itself: a dump that replays offline, what-if, partitions in the ledger, past use."""

import asyncio
from typing import Any

import asyncpg
import pytest

from berth.grpc import connect
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from placement_engine.domain import snapshot
from placement_engine.domain.journal import replay
from tests.services import ServiceProcess, System, job, node

PENDING, PLACED = 1, 2


async def placed(system: System, count: int) -> None:
    async def enough() -> bool:
        return sum(n for state, n in (await system.job_states()).items() if state != PENDING) >= count

    await system.eventually(enough)


@pytest.fixture
async def engine(system: System) -> ServiceProcess:
    engine = system.service("placement-engine", planner_lease_seconds="2", policy='{"heat_floor_celsius": 9}')
    await engine.ready()
    return engine


async def test_a_dump_of_the_running_engine_makes_its_decisions_again_offline(
    system: System, engine: ServiceProcess
) -> None:
    await system.publish_nodes([node(f"n{i}") for i in range(3)])
    await system.publish_jobs([job(f"j{i}", devices=2, seconds=600) for i in range(9)])
    await system.publish_jobs([job("gang", devices=8, replicas=3, seconds=60)])
    await placed(system, 9)
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        parts = [part.chunk async for part in stub.DumpEngine(placement_pb2.DumpEngineRequest())]
    document = snapshot.from_bytes(b"".join(parts))
    again = snapshot.load(document)
    assert again.waiting() == 1
    rows = await system.fetch("SELECT job_id FROM engine.job WHERE state = 2")
    assert len(rows) == 9
    assert all(again.holds(row["job_id"]) is not None for row in rows)
    journal = snapshot.journal_of(document)
    assert journal is not None
    outcome = replay(journal)
    assert outcome.difference is None
    assert snapshot.taken_at(document) is not None


async def test_what_if_there_were_more_nodes(system: System, engine: ServiceProcess) -> None:
    await system.publish_nodes([node("n0")])
    await system.publish_jobs([job("first", devices=8, seconds=3600)])
    await placed(system, 1)
    await system.publish_jobs([job("second", devices=8, seconds=600)])

    async def waits() -> bool:
        return (await system.job_states()).get(PENDING, 0) == 1

    await system.eventually(waits)
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        await asyncio.sleep(1.0)
        told = (await stub.ExplainJob(placement_pb2.ExplainJobRequest(job="second"))).explanation
        assert told.HasField("expected_start")
        assert 3500 < told.expected_start.ToSeconds() - told.evaluated_at.ToSeconds() <= 3600
        assert "after_job_ends" in {change.kind for change in told.changes}
        answer = await stub.WhatIf(placement_pb2.WhatIfRequest(add_nodes=[node("more")]))
        assert (answer.base.jobs_finished, answer.changed.jobs_finished) == (2, 2)
        assert answer.base.mean_wait_seconds > 3500 > 10 > answer.changed.mean_wait_seconds
        (second,) = (one for one in answer.jobs if one.name == "second")
        assert (list(second.base_nodes), list(second.changed_nodes)) == (["n0"], ["more"])
        with pytest.raises(Exception, match="no node has this name"):
            await stub.WhatIf(placement_pb2.WhatIfRequest(remove_nodes=["nobody"]))
    # Nothing has changed in the running system.
    assert (await system.job_states()) == {PENDING: 1, PLACED: 1}


def a_cut_node(name: str) -> fleet_pb2.Node:
    made = node(name, 1)
    made.devices[0].partitionable = True
    return made


async def test_partitions_are_in_the_ledger_slice_by_slice(system: System, engine: ServiceProcess) -> None:
    await system.publish_nodes([a_cut_node("n0")])
    specs = []
    for i in range(3):
        spec = jobs_pb2.JobSpec(name=f"p{i}", replicas=1, executor="simulated")
        spec.resources.partition = "3g.40gb"
        spec.resources.cpu_milli = 100
        specs.append(spec)
    await system.publish_jobs(specs)
    await placed(system, 2)
    rows = await system.fetch("SELECT slice, job_id FROM engine.claim_slice ORDER BY slice")
    assert [row["slice"] for row in rows] == list(range(8))
    assert len({row["job_id"] for row in rows}) == 2
    with pytest.raises(asyncpg.UniqueViolationError):
        await system.fetch("INSERT INTO engine.claim_slice SELECT device_id, 3, job_id, member FROM engine.claim_slice "
                           "WHERE slice = 0")  # fmt: skip
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        (waiting,) = await system.fetch("SELECT name FROM engine.job WHERE state = 1")
        told = (await stub.ExplainJob(placement_pb2.ExplainJobRequest(job=waiting["name"]))).explanation
        assert "PARTITION_NO_ROOM" in {reason.code for reason in told.reasons}
        (status,) = (await stub.ListNodes(placement_pb2.ListNodesRequest(with_devices=True))).nodes
        assert status.devices[0].free_slices == 0
    assert list((await system.audit(engine)).violations) == []


async def test_a_restart_keeps_the_past_use_of_queues(system: System, engine: ServiceProcess) -> None:
    await system.publish_nodes([node("n0")])
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        await stub.ApplyQueues(placement_pb2.ApplyQueuesRequest(queues=[fleet_pb2.Queue(name="q", weight=1)]))
    await system.publish_jobs([job("long", devices=8, seconds=600, queue="q")])
    await placed(system, 1)

    async def kept() -> bool:
        rows = await system.fetch("SELECT value FROM engine.queue_usage WHERE queue = 'q' AND value > 0")
        return bool(rows)

    await system.eventually(kept)
    (before,) = await system.fetch("SELECT max(value) AS value FROM engine.queue_usage WHERE queue = 'q'")
    engine.kill()
    engine.start()
    await engine.ready()

    async def goes_on() -> bool:
        (row,) = await system.fetch("SELECT max(value) AS value FROM engine.queue_usage WHERE queue = 'q'")
        return bool(row["value"] > before["value"])

    await system.eventually(goes_on)
