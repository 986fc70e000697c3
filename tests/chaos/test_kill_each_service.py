"""kill -9 of each service in turn while jobs flow: nothing lost, nothing bound or run twice."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from berth.v1 import fleet_pb2, jobs_pb2
from tests.services import ServiceProcess, System, job, node

SUCCEEDED = 5


def host_node() -> fleet_pb2.Node:
    host = node("host", 0)
    del host.executors[:]
    host.executors.append("process")
    return host


def command(name: str, ledger: Path) -> jobs_pb2.JobSpec:
    spec = jobs_pb2.JobSpec(
        name=name, replicas=1, kind=jobs_pb2.JOB_KIND_BATCH, executor="process",
        command=jobs_pb2.CommandPayload(argv=["/bin/sh", "-c", f"echo {name} >> {ledger}; sleep 0.2"]),
    )  # fmt: skip
    spec.resources.cpu_milli = 500
    return spec


@pytest.mark.timeout(300)
async def test_kill_9_of_each_service_in_turn(system: System, tmp_path: Path) -> None:
    ledger = tmp_path / "ran"
    services: dict[str, ServiceProcess] = {
        name: system.service(name, instance="engine", planner_lease_seconds="2", seed_demo="false")
        for name in ("placement-engine", "binder", "telemetry-ingest", "profile-store")
    }
    for service in services.values():
        await service.ready()
    await system.publish_nodes([*(node(f"n{index}") for index in range(8)), host_node()])

    names: list[str] = []
    commands: list[str] = []
    for round_number, victim in enumerate(
        ["placement-engine", "binder", "telemetry-ingest", "profile-store", "binder"]
    ):
        fresh = [f"r{round_number}-{index}" for index in range(40)]
        gangs = [f"g{round_number}-{index}" for index in range(4)]
        running = [f"c{round_number}-{index}" for index in range(6)]
        await system.publish_jobs(
            [job(name, seconds=0.3) for name in fresh]
            + [job(name, replicas=4, devices=4, seconds=0.3) for name in gangs]
            + [command(name, ledger) for name in running]
        )
        names += fresh + gangs + running
        commands += running
        await asyncio.sleep(0.4)
        services[victim].kill()
        await asyncio.sleep(0.3)
        services[victim].start()
    for service in services.values():
        await service.ready()

    async def all_over() -> bool:
        return await system.job_states() == {SUCCEEDED: len(names)}

    await system.eventually(all_over, 150)
    stored = Counter(row["name"] for row in await system.fetch("SELECT name FROM engine.job"))
    assert stored == Counter(names)
    assert Counter(ledger.read_text().split()) == Counter(commands)
    bound = await system.fetch(
        "SELECT job_id FROM binder.attempt WHERE bound_at IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
    )
    assert bound == []
    assert list((await system.audit(services["placement-engine"])).violations) == []
    left = await system.fetch("SELECT (SELECT sum(used_milli) FROM engine.device) AS devices, "
                              "(SELECT sum(cpu_used) FROM engine.node) AS cpu")  # fmt: skip
    assert (left[0]["devices"], left[0]["cpu"]) == (0, 0)
