"""Runs Berth's services as processes for tests, and speaks to them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import aiokafka
import asyncpg

from berth.grpc import connect
from berth.topics import FLEET_NODES, JOBS_SUBMITTED, PROTOBUF, cloud_event_headers
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub

MODULES = {
    "placement-engine": "placement_engine.main",
    "binder": "binder.main",
    "telemetry-ingest": "telemetry_ingest.main",
    "profile-store": "profile_store.main",
}


class ServiceProcess:
    """One service as a process of its own. `kill` is SIGKILL; `start` again is the same configuration."""

    def __init__(self, service: str, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.service = service
        self.name = name
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / f"{name}.log"
        self._endpoints = folder / f"{name}.endpoints.json"

    def start(self) -> None:
        self._endpoints.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULES[self.service]],
                env={
                    **{key: value for key, value in os.environ.items() if not key.startswith("BERTH_")},
                    **self._environment,
                    "BERTH_ENDPOINT_FILE": str(self._endpoints),
                },
                stdout=log,
                stderr=log,
            )

    async def ready(self, seconds: float = 40.0) -> None:
        until = time.monotonic() + seconds
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < until:
                assert self._process is not None
                if self._process.poll() is not None:
                    raise AssertionError(f"{self.name} ended:\n{self.log.read_text()[-4000:]}")
                if self._endpoints.exists():
                    try:
                        async with session.get(f"http://{self.endpoint('http')}/readyz") as response:
                            if response.status == 200:
                                return
                    except aiohttp.ClientError:
                        pass
                await asyncio.sleep(0.05)
        raise AssertionError(f"{self.name} is not ready:\n{self.log.read_text()[-4000:]}")

    def endpoint(self, kind: str) -> str:
        return str(json.loads(self._endpoints.read_text())[kind])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """It ended by itself."""
        return self._process is not None and self._process.poll() not in (None, -9)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode


class System:
    """Services on one database and one broker; everything started is ended on exit."""

    def __init__(self, folder: Path, dsn: str, bootstrap: str, log: str) -> None:
        self.folder = folder
        self.dsn = dsn
        self.bootstrap = bootstrap
        self._log = log
        self._services: list[ServiceProcess] = []
        self.producer: aiokafka.AIOKafkaProducer

    async def __aenter__(self) -> Self:
        self.producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", linger_ms=2, max_request_size=900_000
        )
        await self.producer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self._services:
            service.stop()
        await self.producer.stop()

    def service(self, service: str, *, name: str = "", **settings: str) -> ServiceProcess:
        environment = {
            "BERTH_KAFKA_BOOTSTRAP": self.bootstrap,
            "BERTH_KAFKA_LOG": self._log,
            "BERTH_POSTGRES_DSN": self.dsn,
            "BERTH_STATE_DIR": str(self.folder / "state"),
            **{f"BERTH_{key.upper()}": value for key, value in settings.items()},
        }
        made = ServiceProcess(service, name or service, self.folder, environment)
        self._services.append(made)
        made.start()
        return made

    async def publish_nodes(self, nodes: list[fleet_pb2.Node]) -> None:
        for node in nodes:
            await self.producer.send(FLEET_NODES, node.SerializeToString(), key=node.name.encode())
        await self.producer.flush()

    async def publish_jobs(self, specs: list[jobs_pb2.JobSpec]) -> None:
        for spec in specs:
            await self.publish_raw(spec.SerializeToString(), content_type=PROTOBUF, key=spec.name)
        await self.producer.flush()

    async def publish_raw(
        self, value: bytes, *, content_type: str, key: str = "k", headers: dict[str, str] | None = None
    ) -> None:
        event = cloud_event_headers(
            event_id=key, event_type="berth.v1.JobSubmitted", source="/test", content_type=content_type
        )
        await self.producer.send(
            JOBS_SUBMITTED,
            value,
            key=key.encode(),
            headers=[(name, text.encode()) for name, text in {**event, **(headers or {})}.items()],
        )

    async def fetch(self, question: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(question, *arguments))
        finally:
            await connection.close()

    async def job_states(self) -> dict[int, int]:
        rows = await self.fetch("SELECT state, count(*) AS n FROM engine.job GROUP BY 1")
        return {row["state"]: row["n"] for row in rows}

    async def eventually(self, question: Any, seconds: float = 60.0) -> Any:
        """The first true answer of the coroutine function `question`."""
        until = time.monotonic() + seconds
        while True:
            answer = await question()
            if answer:
                return answer
            dead = [one.name for one in self._services if one.ended]
            if time.monotonic() > until or dead:
                logs = "\n".join(f"--- {one.name}\n{one.log.read_text()[-2500:]}" for one in self._services)
                raise AssertionError(f"did not happen in {seconds} s (ended: {dead}): {question}\n{logs}")
            await asyncio.sleep(0.1)

    async def audit(self, engine: ServiceProcess) -> placement_pb2.AuditResponse:
        async with connect(engine.endpoint("grpc")) as channel:
            return await PlacementServiceStub(channel).Audit(placement_pb2.AuditRequest())  # type: ignore[misc]


def node(name: str, devices: int = 8, *, model: str = "H100-SXM", version: int = 1) -> fleet_pb2.Node:
    return fleet_pb2.Node(
        name=name,
        pool="default",
        cpu_milli=64_000,
        memory_bytes=2**39,
        executors=["simulated"],
        schedulable=True,
        version=version,
        telemetry_exempt=True,
        topology={"rack": f"r{hash(name) % 3}", "node": name},
        devices=[
            fleet_pb2.Device(
                device_id=f"{name}/{index}", index=index, model=model, device_class="GPU", stack="CUDA",
                memory_bytes=80 * 10**9, present=True,
            )
            for index in range(devices)
        ],
    )  # fmt: skip


def job(name: str, *, replicas: int = 1, devices: int = 1, seconds: float = 1.0, **fields: Any) -> jobs_pb2.JobSpec:
    spec = jobs_pb2.JobSpec(name=name, replicas=replicas, kind=jobs_pb2.JOB_KIND_BATCH, executor="simulated", **fields)
    spec.resources.devices = devices
    spec.resources.cpu_milli = 1000
    spec.expected_duration.FromMilliseconds(int(seconds * 1000))
    return spec
