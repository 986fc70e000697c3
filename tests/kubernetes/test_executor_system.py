"""Engine and binder as processes on Kafka, PostgreSQL and a real API server; the judge asks the API server alone."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from berth.grpc import connect
from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, Object
from berth.v1 import jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from tests.kubernetes.conftest import pod
from tests.kubernetes.executor import PODS, pods_of, until
from tests.services import System, job, node

RUNNING, CANCELLED = jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATE_CANCELLED
SUCCEEDED = jobs_pb2.JOB_STATE_SUCCEEDED
NODES, GANGS, SINGLES = 10, 12, 32


def job_of(name: str, pods: list[Object]) -> jobs_pb2.JobSpec:
    spec = job(name, replicas=len(pods), seconds=3600.0)
    spec.executor = "kubernetes"
    for one in pods:
        metadata = one["metadata"]
        spec.kubernetes.pods.add(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])
    return spec


@pytest.mark.timeout(120)
async def test_kill_9_of_the_binder_in_the_middle(system: System, cluster: Any, kubernetes: Kubernetes) -> None:
    cluster.add_nodes(NODES, prefix="n", resources={"nvidia.com/gpu": 8})
    shapes = {f"g{gang}": 4 for gang in range(GANGS)} | {f"s{single}": 1 for single in range(SINGLES)}
    work = {
        name: [
            await kubernetes.post(PODS, pod(f"{name}-{member}", limits={"nvidia.com/gpu": 1}))
            for member in range(members)
        ]
        for name, members in shapes.items()
    }
    created = {one["metadata"]["name"]: one["metadata"]["uid"] for pods in work.values() for one in pods}
    engine = system.service("placement-engine", instance="engine", planner_lease_seconds="2", seed_demo="false")
    binder = system.service(
        "binder", executors="kubernetes", kubernetes="true", kubeconfig=str(cluster.kubeconfig), kubernetes_requests="1"
    )
    await asyncio.gather(engine.ready(), binder.ready())
    fleet = [node(f"n-{number}") for number in range(NODES)]
    for one in fleet:
        one.executors[:] = ["kubernetes"]
    await system.publish_nodes(fleet)

    async def bound() -> int:
        return sum("nodeName" in one["spec"] for one in (await pods_of(kubernetes)).values())

    async def some_are_bound() -> bool:
        return await bound() >= 10

    await system.publish_jobs([job_of(name, pods) for name, pods in work.items()])
    await until(some_are_bound, 40, pause=0.005)
    binder.kill()
    half = await bound()
    binder.start()
    await binder.ready()
    assert half < len(created), "it was killed too late to matter"

    async def all_run() -> bool:
        return await system.job_states() == {RUNNING: len(work)}

    await system.eventually(all_run)
    left = await pods_of(kubernetes)
    # None lost, none made anew, and by one attempt of one job each: no half gang, nothing twice.
    assert {name: one["metadata"]["uid"] for name, one in left.items()} == created
    for name, pods in work.items():
        members = [left[one["metadata"]["name"]]["metadata"]["annotations"] for one in pods]
        assert len({one[names.ATTEMPT] for one in members}) == 1, name
        assert [one[names.MEMBER] for one in members] == [str(number) for number in range(len(pods))]
    on_nodes = Counter(one["spec"]["nodeName"] for one in left.values())
    assert on_nodes == {f"n-{number}": 8 for number in range(NODES)}
    devices = [one["metadata"]["annotations"][names.DEVICES] for one in left.values()]
    assert len(set(devices)) == len(devices) == NODES * 8
    assert list((await system.audit(engine)).violations) == []

    # A cancelled gang is evicted; the others go on.
    async with connect(engine.endpoint("grpc")) as channel:
        await PlacementServiceStub(channel).CancelJob(placement_pb2.CancelJobRequest(job="g0"))  # type: ignore[misc]

    async def is_cancelled() -> bool:
        return await system.job_states() == {RUNNING: len(work) - 1, CANCELLED: 1}

    await system.eventually(is_cancelled)
    assert set(created) - set(await pods_of(kubernetes)) == {f"g0-{member}" for member in range(4)}

    # What it held is free for a job whose pods the binder makes.
    made = job("made", replicas=2, devices=2, seconds=1.0)
    made.executor = "kubernetes"
    made.kubernetes.manifest = json.dumps(pod("made", run_for="1s", limits={"nvidia.com/gpu": 2}))
    await system.publish_jobs([made])

    async def is_done() -> bool:
        return await system.job_states() == {RUNNING: len(work) - 1, CANCELLED: 1, SUCCEEDED: 1}

    await system.eventually(is_done)
    phases = [one["status"]["phase"] for name, one in (await pods_of(kubernetes)).items() if name not in created]
    assert phases == ["Succeeded", "Succeeded"]
