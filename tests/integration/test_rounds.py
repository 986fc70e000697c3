"""Rounds through the whole path: who goes on elsewhere is released, bound again and never bound twice."""

from typing import Any

from berth.grpc import connect
from berth.topics import PROFILES_CHANGED
from berth.v1 import jobs_pb2, placement_pb2, profiles_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from tests.services import System, job, node

RUNNING = jobs_pb2.JOB_STATE_RUNNING


def in_turns(name: str, workload: str) -> jobs_pb2.JobSpec:
    spec = job(name, seconds=600, preemptible=True, workload=workload)
    spec.checkpoint_interval.FromMilliseconds(100)
    return spec


async def test_a_job_goes_on_where_it_is_faster_and_another_takes_its_place(system: System) -> None:
    engine = system.service("placement-engine", policy='{"round_seconds": "2s"}', planner_lease_seconds="2")
    binder = system.service("binder")
    await engine.ready()
    await binder.ready()
    for accelerator, speed in (("H100-SXM", 10.0), ("L4", 1.0)):
        profile = profiles_pb2.Profile(
            workload="w", accelerator=accelerator, devices=1, throughput=speed, throughput_unit="steps/s"
        )
        await system.producer.send(PROFILES_CHANGED, profile.SerializeToString(), key=f"w {accelerator}".encode())
    await system.publish_nodes([node("slow", 1, model="L4")])
    await system.publish_jobs([in_turns("moves", "w")])

    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)

        async def found() -> dict[str, tuple[int, int, str]]:
            """State, attempt and node of each job that was accepted."""
            jobs = (await stub.ListJobs(placement_pb2.ListJobsRequest())).jobs
            return {one.spec.name: (one.state, one.attempt, "".join(m.node for m in one.members)) for one in jobs}

        async def runs_on_the_slow() -> bool:
            return (await found()).get("moves") == (RUNNING, 1, "slow")

        await system.eventually(runs_on_the_slow)
        await system.publish_nodes([node("fast", 1)])

        async def goes_on_on_the_fast() -> bool:
            state, attempt, where = (await found())["moves"]
            return (state, where) == (RUNNING, "fast") and attempt >= 2

        await system.eventually(goes_on_on_the_fast)
        await system.publish_jobs([in_turns("follows", "")])

        async def follows_on_the_slow() -> bool:
            jobs = await found()
            return jobs.get("follows", (0, 0, ""))[::2] == (RUNNING, "slow") and await goes_on_on_the_fast()

        await system.eventually(follows_on_the_slow)
    bound = await system.fetch(
        "SELECT job_id FROM binder.attempt WHERE bound_at IS NOT NULL GROUP BY job_id, attempt HAVING count(*) > 1"
    )
    assert bound == []
    assert list((await system.audit(engine)).violations) == []
