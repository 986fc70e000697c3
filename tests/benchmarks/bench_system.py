"""The whole path on Apache Kafka and PostgreSQL with fsync on: jobs a second, PlaceJob latency, samples a second.

    python -m tests.benchmarks.bench_system [--quick]

Absolute figures belong to the machine they were taken on; broker, database and services share it.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from berth.grpc import connect
from berth.testing.servers import postgres_server
from berth.v1 import placement_pb2, telemetry_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from berth.v1.telemetry_pb2_grpc import TelemetryServiceStub
from tests.conftest import load_kafka_broker
from tests.services import ServiceProcess, System, job, node

NODES = 1000


@contextlib.contextmanager
def kafka() -> Iterator[str]:
    broker = load_kafka_broker()
    if missing := broker.available():
        raise SystemExit(f"the benchmark runs on Apache Kafka: {missing}")
    with tempfile.TemporaryDirectory() as folder, broker.Broker(Path(folder)) as running:
        yield running.bootstrap


@contextlib.asynccontextmanager
async def running_system(services: tuple[str, ...]) -> AsyncIterator[tuple[System, dict[str, ServiceProcess]]]:
    with kafka() as bootstrap, postgres_server(fsync=True) as server, tempfile.TemporaryDirectory() as folder:
        admin = await asyncpg.connect(server.dsn)
        await admin.execute("CREATE DATABASE bench")
        await admin.close()
        dsn = server.dsn.rpartition("/")[0] + "/bench"
        async with System(Path(folder), dsn, bootstrap, uuid.uuid4().hex) as system:
            made = {name: system.service(name) for name in services}
            for service in made.values():
                await service.ready()
            yield system, made


async def metric(service: ServiceProcess, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://{service.endpoint('http')}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith(name) and not line.startswith(f"{name}_created")
    )


async def jobs_a_second(count: int) -> None:
    """Jobs that fit at once, from their publication to their end; every service's CPU seconds beside it."""
    async with running_system(("placement-engine", "binder")) as (system, services):
        await system.publish_nodes([node(f"n{index:04d}") for index in range(NODES)])

        async def known() -> bool:
            return (await system.fetch("SELECT count(*) AS n FROM engine.node"))[0]["n"] == NODES

        await system.eventually(known)
        await system.publish_jobs([job("warm-up", seconds=0.1)])

        async def over(total: int) -> bool:
            return (await system.job_states()).get(5, 0) >= total

        await system.eventually(lambda: over(1))
        started = time.time()
        await system.publish_jobs([job(f"j{index}", seconds=0.5) for index in range(count)])
        await system.eventually(lambda: over(count + 1), 600)
        (row,) = await system.fetch(
            "SELECT max(bound_at) AS bound, max(finished_at) AS finished, "
            "percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY bound_at - submitted_at) AS lag "
            "FROM engine.job WHERE name <> 'warm-up'"
        )
        bound, finished = count / (row["bound"] - started), count / (row["finished"] - started)
        print(f"end to end    {count} jobs on {NODES} nodes: {bound:.0f} jobs/s bound, {finished:.0f} finished")
        print(
            f"              published at once, so submit to bound is queueing: p50 {row['lag'][0]:.2f} s, "
            f"p99 {row['lag'][1]:.2f} s"
        )
        for name, service in services.items():
            cpu = await metric(service, "process_cpu_seconds_total")
            memory = await metric(service, "process_resident_memory_bytes")
            print(
                f"              {name}: {1000 * cpu / count:.2f} ms CPU a job with start-up, {memory / 2**20:.0f} MiB"
            )
        async with connect(services["placement-engine"].endpoint("grpc")) as channel:
            await place_job_latency(PlacementServiceStub(channel), 200 if count >= 1000 else 50)
        audit = await system.audit(services["placement-engine"])
        print(f"audit         {len(audit.violations)} broken invariants")


async def place_job_latency(stub: Any, calls: int) -> None:
    for title, options in (("until placed", {"wait": True}), ("until accepted", {}), ("dry run", {"dry_run": True})):
        took = []
        for index in range(calls):
            started = time.perf_counter()
            await stub.PlaceJob(
                placement_pb2.PlaceJobRequest(spec=job(f"{title.replace(' ', '-')}-{index}", seconds=0.1), **options),
                timeout=30,
            )
            took.append(time.perf_counter() - started)
        took.sort()
        print(f"PlaceJob      {title}: p50 {1000 * statistics.median(took):.1f} ms, "
              f"p99 {1000 * took[int(len(took) * 0.99)]:.1f} ms, one caller")  # fmt: skip


async def samples_a_second(rounds: int) -> None:
    """Reports of node agents over gRPC through telemetry-ingest and Kafka into the engine's core."""
    nodes = 500
    async with running_system(("placement-engine", "telemetry-ingest")) as (_, services):
        engine = services["placement-engine"]
        async with connect(services["telemetry-ingest"].endpoint("grpc")) as channel:
            stub: Any = TelemetryServiceStub(channel)

            async def reports(first: int, last: int) -> AsyncIterator[telemetry_pb2.ReportTelemetryRequest]:
                for sequence in range(1, rounds + 1):
                    for index in range(first, last):
                        name = f"n{index:04d}"
                        report = telemetry_pb2.NodeReport(
                            telemetry=telemetry_pb2.NodeTelemetry(node=name, boot_id="boot", sequence=sequence)
                        )
                        if sequence == 1:
                            report.inventory.CopyFrom(node(name))
                            report.inventory.boot_id = "boot"
                        report.telemetry.observed_at.GetCurrentTime()
                        for device in range(8):
                            report.telemetry.devices.add(
                                device_id=f"{name}/{device}", memory_used_bytes=2**30, temperature_celsius=60.0,
                                power_watts=400.0, utilisation=0.9, throttle_bits=0,
                            )  # fmt: skip
                        yield telemetry_pb2.ReportTelemetryRequest(report=report)

            started = time.perf_counter()
            answers = await asyncio.gather(
                *(stub.ReportTelemetry(reports(start, start + 125)) for start in range(0, nodes, 125))
            )
            sent = time.perf_counter() - started
            before = -1.0
            while (seen := await metric(engine, "berth_device_samples_total")) != before:
                before, reached = seen, time.perf_counter() - started
                await asyncio.sleep(0.5)
        total = nodes * 8 * rounds
        print(f"telemetry     {total / sent:.0f} device samples/s taken in over gRPC (generator in the same 2 cores), "
              f"{seen / reached:.0f} samples/s reached the core ({100 * seen / total:.0f} %: the rest were replaced by "
              f"newer ones on the way), refused {sum(one.refused for one in answers)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    asyncio.run(jobs_a_second(500 if quick else 5000))
    asyncio.run(samples_a_second(4 if quick else 30))


if __name__ == "__main__":
    main()
