"""Preemption and reclaim through the whole path: engine, binder and their topics, on real Kafka and PostgreSQL."""

import asyncio
from typing import Any

import pytest

from berth.grpc import connect
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from tests.services import ServiceProcess, System, job, node

RUNNING, SUCCEEDED = 4, 5


async def states(system: System) -> dict[str, tuple[int, int, int]]:
    """(state, attempt, preemptions) by name."""
    rows = await system.fetch("SELECT name, state, attempt, preemptions FROM engine.job")
    return {row["name"]: (row["state"], row["attempt"], row["preemptions"]) for row in rows}


async def running(system: System, *names: str, seconds: float = 60) -> None:
    async def all_running() -> bool:
        found = await states(system)
        return all(found.get(name, (0, 0, 0))[0] == RUNNING for name in names)

    await system.eventually(all_running, seconds)


@pytest.fixture
async def engine(system: System) -> ServiceProcess:
    engine = system.service("placement-engine", planner_lease_seconds="2")
    binder = system.service("binder")
    await engine.ready()
    await binder.ready()
    await system.publish_nodes([node("n0")])
    return engine


async def test_urgent_work_stops_preemptible_work_which_runs_again_afterwards(
    system: System, engine: ServiceProcess
) -> None:
    await system.publish_jobs(
        [job("steady", devices=4, seconds=600), job("soft", devices=4, seconds=6, preemptible=True)]
    )
    await running(system, "steady", "soft")
    await system.publish_jobs([job("urgent", devices=4, seconds=2, priority=10)])
    await running(system, "urgent")
    found = await states(system)
    assert found["steady"] == (RUNNING, 1, 0)
    assert found["soft"][1:] == (1, 1)
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        soft = (await stub.GetJob(placement_pb2.GetJobRequest(job="soft"))).job
        assert soft.preemptions == 1
        assert "urgent" in soft.message

    async def over() -> bool:
        found = await states(system)
        return found["urgent"][0] == found["soft"][0] == SUCCEEDED

    await system.eventually(over)
    assert (await states(system))["soft"] == (SUCCEEDED, 2, 1)
    bound = await system.fetch("SELECT job_id FROM binder.attempt WHERE bound_at IS NOT NULL GROUP BY job_id, attempt "
                               "HAVING count(*) > 1")  # fmt: skip
    assert bound == []
    assert list((await system.audit(engine)).violations) == []


async def test_a_cancel_while_it_makes_room_is_a_cancel(system: System, engine: ServiceProcess) -> None:
    await system.publish_jobs([job("soft", devices=8, seconds=600, preemptible=True)])
    await running(system, "soft")
    await system.publish_jobs([job("urgent", devices=8, seconds=1, priority=10)])

    async def told() -> bool:
        return (await states(system))["soft"][2] == 1

    await system.eventually(told)
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        await stub.CancelJob(placement_pb2.CancelJobRequest(job="soft"))

    async def ended() -> bool:
        found = await states(system)
        return found["soft"][0] == jobs_pb2.JOB_STATE_CANCELLED and found["urgent"][0] == SUCCEEDED

    await system.eventually(ended)
    assert list((await system.audit(engine)).violations) == []


async def test_a_queue_takes_back_what_another_has_borrowed(system: System, engine: ServiceProcess) -> None:
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        await stub.ApplyQueues(
            placement_pb2.ApplyQueuesRequest(
                queues=[
                    fleet_pb2.Queue(name=name, weight=1, quotas=[fleet_pb2.Quota(accelerator="H100-SXM", devices=4)])
                    for name in ("ours", "theirs")
                ]
            )
        )
        await system.publish_jobs([job(f"borrower-{i}", devices=2, seconds=600, queue="theirs") for i in range(4)])
        await running(system, *(f"borrower-{i}" for i in range(4)))
        queues = {q.name: q for q in (await stub.ListQueues(placement_pb2.ListQueuesRequest())).queues}
        assert queues["theirs"].devices_borrowed == 4
        assert list(queues["theirs"].quota_use) == [
            fleet_pb2.QuotaUse(accelerator="H100-SXM", owned=4, used=8, borrowed=4, lent=0, borrowable=0)
        ]
        assert list(queues["ours"].quota_use) == [
            fleet_pb2.QuotaUse(accelerator="H100-SXM", owned=4, used=0, borrowed=0, lent=4, borrowable=0)
        ]
        # What is shown is no declaration: sent back it changes nothing, and is not kept.
        await stub.ApplyQueues(placement_pb2.ApplyQueuesRequest(queues=[queues["ours"]]))
        rows = await system.fetch("SELECT record FROM engine.queue WHERE name = 'ours'")
        assert list(fleet_pb2.Queue.FromString(rows[0]["record"]).quota_use) == []
        await asyncio.sleep(4.0)  # of work that will be lost: a start is heard of at the next comparison, every 3 s
        await system.publish_jobs([job("owner", devices=4, seconds=600, queue="ours")])
        await running(system, "owner")
        await asyncio.sleep(1.0)
        queues = {q.name: q for q in (await stub.ListQueues(placement_pb2.ListQueuesRequest())).queues}
        assert (queues["theirs"].devices_in_use, queues["theirs"].devices_borrowed) == (4, 0)
        assert (queues["ours"].devices_in_use, queues["ours"].devices_borrowed) == (4, 0)
    found = await states(system)
    assert sorted(found[f"borrower-{i}"][0] for i in range(4)) == [1, 1, RUNNING, RUNNING]
    rows = await system.fetch("SELECT message FROM engine.job WHERE preemptions > 0")
    assert len(rows) == 2
    assert all(" holds beyond its own; " in row["message"] and "of work are lost" in row["message"] for row in rows)
    assert list((await system.audit(engine)).violations) == []


@pytest.mark.timeout(240)
async def test_kill_9_in_the_middle_of_a_preemption(system: System) -> None:
    """Engine and binder die while victims are being released: no victim is lost, none runs twice, all end."""
    services = {
        name: system.service(name, instance="engine", planner_lease_seconds="2")
        for name in ("placement-engine", "binder")
    }
    for service in services.values():
        await service.ready()
    await system.publish_nodes([node(f"n{index}") for index in range(4)])
    soft = [f"soft-{i}" for i in range(16)]
    await system.publish_jobs([job(name, devices=2, seconds=4, preemptible=True) for name in soft])
    await running(system, *soft)
    urgent = [f"urgent-{i}" for i in range(6)]
    for start, victim in ((0, "placement-engine"), (2, "binder"), (4, "placement-engine")):
        await system.publish_jobs([job(n, devices=8, seconds=0.5, priority=5) for n in urgent[start : start + 2]])
        await asyncio.sleep(0.35)
        services[victim].kill()
        await asyncio.sleep(0.2)
        services[victim].start()
        await services[victim].ready()

    async def all_over() -> bool:
        return await system.job_states() == {SUCCEEDED: len(soft) + len(urgent)}

    await system.eventually(all_over, 120)
    twice = await system.fetch("SELECT job_id FROM binder.attempt WHERE bound_at IS NOT NULL GROUP BY job_id, attempt "
                               "HAVING count(*) > 1")  # fmt: skip
    assert twice == []
    rows = await system.fetch(
        "SELECT j.name, j.attempt, j.preemptions, count(a.*) AS ends FROM engine.job j "
        "LEFT JOIN binder.attempt a ON a.job_id = j.job_id AND a.bound_at IS NOT NULL GROUP BY 1, 2, 3"
    )
    assert sum(row["preemptions"] for row in rows) > 0
    assert all(row["preemptions"] == 0 for row in rows if row["name"].startswith("urgent"))
    assert list((await system.audit(services["placement-engine"])).violations) == []
    (left,) = await system.fetch("SELECT sum(used_milli) AS devices FROM engine.device")
    assert left["devices"] == 0
