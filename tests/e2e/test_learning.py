"""What running jobs teach changes the next decision: four services, real processes, no figure put in by hand."""

import os
import subprocess
import sys
from typing import Any

import pytest

from berth.embedded.context import Context
from berth.grpc import connect
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2, profiles_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from berth.v1.profiles_pb2_grpc import ProfileServiceStub
from tests.services import ServiceProcess, System, node

REPORT = """for n in 1 2 3 4; do
  echo '{"units": 40, "unit": "samples", "seconds": 2}' >> "$BERTH_REPORT"
  sleep 0.5
done"""


def a_node(name: str, model: str) -> fleet_pb2.Node:
    made = node(name, 1, model=model)
    made.executors[:] = ["process"]
    return made


def a_job(name: str) -> jobs_pb2.JobSpec:
    spec = jobs_pb2.JobSpec(
        name=name, replicas=1, kind=jobs_pb2.JOB_KIND_TRAINING, executor="process", workload="own-model",
        objective=jobs_pb2.OBJECTIVE_TIME, command=jobs_pb2.CommandPayload(argv=["/bin/sh", "-c", REPORT]),
    )  # fmt: skip
    spec.resources.devices, spec.resources.cpu_milli = 1, 1000
    spec.expected_duration.FromSeconds(60)
    return spec


def declared(model: str, throughput: float) -> profiles_pb2.Profile:
    return profiles_pb2.Profile(
        workload="own-model", accelerator=model, devices=1, throughput=throughput, throughput_unit="samples/s",
        provenance=profiles_pb2.PROVENANCE_DECLARED, source="the vendor's promise", relative_uncertainty=0.1,
    )  # fmt: skip


def cli(system: System, services: dict[str, ServiceProcess], *arguments: str) -> str:
    context = system.folder / "context.json"
    Context({name.replace("-", "_"): one.endpoint("grpc") for name, one in services.items()}).save(context)
    ran = subprocess.run(
        [sys.executable, "-m", "berth.cli.main", *arguments, "--context", str(context)],
        capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.timeout(180)
async def test_jobs_that_run_slower_than_declared_send_the_next_one_elsewhere(system: System) -> None:
    services = {
        name: system.service(name, instance="engine", seed_demo="false", report_seconds="0.2")
        for name in ("placement-engine", "binder", "telemetry-ingest", "profile-store")
    }
    for service in services.values():
        await service.ready()
    async with connect(services["profile-store"].endpoint("grpc")) as channel:
        profiles: Any = ProfileServiceStub(channel)
        await profiles.PutProfiles(
            profiles_pb2.PutProfilesRequest(profiles=[declared("H100-SXM", 100.0), declared("L40S", 50.0)])
        )
    await system.publish_nodes([a_node("promising", "H100-SXM"), a_node("plain", "L40S")])

    async with connect(services["placement-engine"].endpoint("grpc")) as channel:
        engine: Any = PlacementServiceStub(channel)

        async def where(name: str) -> str:
            """Where a job like the others would go now; nothing is stored."""
            answer = await engine.PlaceJob(placement_pb2.PlaceJobRequest(spec=a_job(name), dry_run=True))
            return ",".join(member.node for member in answer.job.members)

        async def goes_to(name: str, wanted: str) -> bool:
            return await where(name) == wanted

        async def done(name: str) -> Any:
            return await system.fetch("SELECT 1 FROM engine.job WHERE name = $1 AND state = 5", name)

        # 1. By what is declared the H100 is twice as fast.
        await system.eventually(lambda: goes_to("probe", "promising"), 30)
        # 2. A job runs there and reports 20 samples a second.
        await system.publish_jobs([a_job("first")])
        await system.eventually(lambda: done("first"), 40)
        # 3. The store has learnt it, the engine has heard it, and the same job goes to the L40S.
        await system.eventually(lambda: goes_to("probe", "plain"), 30)
        await system.publish_jobs([a_job("second")])
        await system.eventually(lambda: done("second"), 40)

    assert "promising" in cli(system, services, "get", "jobs", "first", "-o", "json")
    assert "plain" in cli(system, services, "get", "jobs", "second", "-o", "json")
    explained = cli(system, services, "explain", "second")
    others = explained.partition("Other accelerators, by the objective:")[2]
    assert "H100-SXM  promising" in others
    assert "observed, \N{PLUS-MINUS SIGN}" in others
    shown = cli(system, services, "profiles", "show", "own-model")
    row = next(line for line in shown.splitlines() if "H100-SXM" in line and "observed" in line)
    assert "20 samples/s" in row
    assert "the vendor's promise" in shown
    assert "Learnt from running jobs" in shown
    assert list((await system.audit(services["placement-engine"])).violations) == []
