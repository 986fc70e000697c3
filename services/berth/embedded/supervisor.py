"""Starts, watches and ends the whole system on one machine.

    async with EmbeddedSystem(options, say=print) as system:
        ...                       # every service is ready
        await system.watch()      # restarts a service that dies

Whatever way the block is left, no process stays behind: not the services, not the broker, not the database,
not the jobs that the process executor started.
"""

import asyncio
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from berth.embedded.context import Context, context_path, process_started
from berth.embedded.kafka import EmbeddedKafka
from berth.embedded.postgres import EmbeddedPostgres
from berth.embedded.process import Child, end_all, free_port, module_command, spawn
from berth.embedded.triton import TritonServer

__all__ = ["SERVICES", "EmbeddedSystem", "Options", "SystemFailed", "node_name"]

SERVICES = ("telemetry_ingest", "profile_store", "placement_engine", "binder")
READY_SECONDS = 60.0
GRACE_SECONDS = 4.0
RESTARTS_A_MINUTE = 5


class SystemFailed(Exception):
    """A part did not start, or will not stay up; the message carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Options:
    state_dir: Path
    fresh: bool = False
    """True: forget what the state folder holds."""
    agent: bool = True
    """Take this machine as a node."""
    fleet_nodes: int = 0
    """Nodes of the emulated fleet; 0: none."""
    kafka: str = ""
    """A broker that runs elsewhere; empty: the embedded one."""
    postgres: str = ""
    """DSN of a server that runs elsewhere; empty: the embedded one."""
    triton: bool = False
    """Start a Triton server, which serves models as this machine's."""
    kubeconfig: Path | None = None
    """Of a cluster that is scheduled too; None: none is."""
    context_file: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


def node_name() -> str:
    """This machine's name as a node: a DNS label."""
    return re.sub(r"[^a-z0-9-]+", "-", platform.node().split(".")[0].lower()).strip("-")[:63] or "this-machine"


class EmbeddedSystem:
    """The system as a context manager; see the module."""

    def __init__(self, options: Options, *, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._state = options.state_dir.resolve()
        self._children: dict[str, Child] = {}
        self._kafka: EmbeddedKafka | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._triton: TritonServer | None = None
        self._triton_given_up = False
        self._environment: dict[str, str] = {}
        self._endpoints: dict[str, dict[str, str]] = {}
        self._restarts: dict[str, list[float]] = {}
        # The binder is told of it before the engine has started.
        self._engine = f"127.0.0.1:{free_port()}" if options.kubeconfig is not None else "127.0.0.1:0"
        self._lock: IO[str] | None = None
        self._context_file = context_path(options.context_file)
        self.context = Context({})

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop()

    @property
    def triton(self) -> TritonServer | None:
        """The server that this system started."""
        return self._triton

    def pids(self) -> dict[str, int]:
        """Process ids of the running parts, by name."""
        parts = (self._kafka, self._postgres, self._triton)
        servers = [part.child for part in parts if part is not None and part.child is not None]
        return {child.name: child.pid for child in (*self._children.values(), *servers) if child.running()}

    async def watch(self) -> None:
        """Restarts a part that died, for ever. Raises SystemFailed where it dies again and again, but Triton is given
        up alone."""
        while True:
            await asyncio.sleep(0.3)
            for part in (self._kafka, self._postgres):
                if part is not None and part.child is not None and not part.child.running():
                    raise SystemFailed(f"{part.child.name} ended:\n{part.child.last_lines()}")
            await self._watch_triton()
            for name, child in list(self._children.items()):
                if not child.running():
                    await self._restart(name, child)

    async def _watch_triton(self) -> None:
        """Where it ends again and again it is given up alone: a tenant's model can crash it, and all else goes on."""
        triton = self._triton
        if self._triton_given_up or triton is None or triton.child is None:
            return
        if triton.child.running():
            triton.note()
            return
        try:
            await self._restart("triton", triton.child)
        except SystemFailed as error:
            self._triton_given_up = True
            await asyncio.to_thread(triton.stop)
            self._say(f"Triton is given up, and no model is served until the system is started again: {error}")
            self._publish_context()

    # Starting

    async def _start(self) -> None:
        self._prepare_state()
        await asyncio.gather(self._start_kafka(), self._start_postgres())
        # Alone: where it cannot start, the others are whole and can be ended.
        await self._start_triton()
        self._environment = self._shared_environment()
        for name in SERVICES:
            self._spawn_service(name, {"grpc": self._engine} if name == "placement_engine" else {})
        if self._options.fleet_nodes:
            self._spawn_fleet()
        self._say("starting the four services")
        await asyncio.gather(*(self._until_ready(name) for name in SERVICES))
        if self._options.agent:
            self._spawn_agent()
        self._publish_context()

    def _prepare_state(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        self._lock = (self._state / "lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise SystemFailed(
                f"another Berth uses {self._state}: end it, or name another folder with --state"
            ) from None
        # Jobs of a system that was killed before it could end them.
        self._terminate_jobs()
        names = ["endpoints", "spans"]
        if self._options.fresh:
            names += ["postgres", "logs", "attempts"]
        for name in names:
            shutil.rmtree(self._state / name, ignore_errors=True)
        # Targets of a fleet that is gone: its ports may be somebody else's by now.
        (self._state / "targets.json").unlink(missing_ok=True)
        for name in ("endpoints", "spans", "logs"):
            (self._state / name).mkdir(exist_ok=True)

    async def _start_kafka(self) -> None:
        if self._options.kafka:
            return
        self._say("starting the embedded Kafka broker")
        self._kafka = EmbeddedKafka(self._state / "logs" / "kafka.log")
        await self._kafka.start()

    async def _start_postgres(self) -> None:
        if self._options.postgres:
            return
        self._say("starting the embedded PostgreSQL")
        self._postgres = EmbeddedPostgres(self._state / "postgres")
        await self._postgres.start()

    async def _start_triton(self) -> None:
        """Also again, on the same ports and empty: the binder loads what it finds gone."""
        if not self._options.triton:
            return
        if self._triton is None:
            self._say("starting a Triton server (fetched the first time)")
            self._triton = TritonServer(self._state / "triton")
        try:
            await self._triton.start()
        except RuntimeError as error:
            raise SystemFailed(str(error)) from None

    def _shared_environment(self) -> dict[str, str]:
        environment = {
            "BERTH_KAFKA_BOOTSTRAP": self._kafka.bootstrap if self._kafka else self._options.kafka,
            "BERTH_KAFKA_LOG": self._kafka.log_id if self._kafka else os.environ.get("BERTH_KAFKA_LOG", ""),
            "BERTH_POSTGRES_DSN": self._postgres.dsn() if self._postgres else self._options.postgres,
            "BERTH_STATE_DIR": str(self._state),
            "BERTH_SPAN_DIR": str(self._state / "spans"),
            "BERTH_GRPC_LISTEN": "127.0.0.1:0",
            "BERTH_HTTP_LISTEN": "127.0.0.1:0",
            "BERTH_NODE": node_name(),
            "BERTH_ONLY_NODES": node_name(),
            "PYTHONUNBUFFERED": "1",
        }
        if self._options.fleet_nodes:
            environment["BERTH_TARGETS_FILE"] = str(self._state / "targets.json")
            environment["BERTH_SCRAPE_INTERVAL_SECONDS"] = "2"
        if self._options.kubeconfig is not None:
            environment |= {
                "BERTH_KUBERNETES": "true",
                "BERTH_KUBECONFIG": str(self._options.kubeconfig.resolve()),
                "BERTH_EXECUTORS": "process,simulated,kubernetes",
                "BERTH_ENGINE": self._engine,
            }
        if self._triton is not None:
            executors = environment.get("BERTH_EXECUTORS", "process,simulated")
            environment["BERTH_EXECUTORS"] = f"{executors},triton"
            environment["BERTH_TRITON_SERVERS"] = f"{node_name()}={self._triton.address}"
            environment["BERTH_TRITON_METRICS"] = f"{node_name()}={self._triton.metrics}"
        return {**environment, **self._options.environment}

    def _spawn_service(self, name: str, listen: dict[str, str]) -> None:
        endpoint_file = self._state / "endpoints" / f"{name}.json"
        endpoint_file.unlink(missing_ok=True)
        # `listen` by kind. After a restart the addresses stay, so that whoever is connected finds the service again.
        addresses = {f"BERTH_{kind.upper()}_LISTEN": address for kind, address in listen.items()}
        self._children[name] = spawn(
            name,
            module_command(f"{name}.main"),
            log=self._state / "logs" / f"{name}.log",
            environment={**self._environment, **addresses, "BERTH_ENDPOINT_FILE": str(endpoint_file)},
        )

    def _spawn_agent(self) -> None:
        triton = ("--triton", self._triton.address) if self._triton is not None else ()
        self._children["agent"] = spawn(
            "agent",
            module_command(
                "berth.cli.main",
                "agent",
                *("--telemetry", self._endpoints["telemetry_ingest"]["grpc"], "--node", node_name()),
                *triton,
            ),
            log=self._state / "logs" / "agent.log",
            environment=self._environment,
        )

    def _spawn_fleet(self) -> None:
        self._children["fleet"] = spawn(
            "fleet",
            module_command(
                "berth.fleet_emulator",
                *("--nodes", str(self._options.fleet_nodes), "--targets", str(self._state / "targets.json")),
                *("--kafka", self._environment["BERTH_KAFKA_BOOTSTRAP"]),
            ),
            log=self._state / "logs" / "fleet.log",
            environment=self._environment,
        )

    async def _until_ready(self, name: str) -> None:
        endpoint_file = self._state / "endpoints" / f"{name}.json"
        deadline = time.monotonic() + READY_SECONDS
        reason = "it has not written its addresses"
        while time.monotonic() < deadline:
            child = self._children[name]
            if not child.running():
                raise SystemFailed(f"{name} ended while it started:\n{child.last_lines()}")
            try:
                endpoints = json.loads(endpoint_file.read_text(encoding="utf-8"))
                reason = await asyncio.to_thread(_not_ready_because, endpoints["http"])
            except (OSError, ValueError, KeyError):
                await asyncio.sleep(0.05)
                continue
            if not reason:
                self._endpoints[name] = {kind: str(endpoints[kind]) for kind in ("grpc", "http")}
                return
            await asyncio.sleep(0.1)
        raise SystemFailed(
            f"{name} was not ready within {READY_SECONDS:.0f} s ({reason}):\n{self._children[name].last_lines()}"
        )

    def _publish_context(self) -> None:
        self.context = Context(
            services={name: self._endpoints[name]["grpc"] for name in SERVICES},
            http={name: self._endpoints[name]["http"] for name in SERVICES},
            kafka=self._environment["BERTH_KAFKA_BOOTSTRAP"],
            state_dir=str(self._state),
            span_dir=self._environment["BERTH_SPAN_DIR"],
            pid=os.getpid(),
            pid_started=process_started(os.getpid()),
            service_pids=self.pids(),
        )
        self.context.save(self._context_file)

    async def _restart(self, name: str, child: Child) -> None:
        now = time.monotonic()
        recent = [moment for moment in self._restarts.get(name, []) if now - moment < 60.0]
        if len(recent) >= RESTARTS_A_MINUTE:
            raise SystemFailed(f"{name} keeps ending:\n{child.last_lines()}")
        self._restarts[name] = [*recent, now]
        self._say(f"{name} ended with {child.popen.returncode}; starting it again")
        if name == "agent":
            self._spawn_agent()
        elif name == "triton":
            await self._start_triton()
        elif name == "fleet":
            self._spawn_fleet()
        else:
            self._spawn_service(name, self._endpoints.get(name, {}))
            await self._until_ready(name)
        self._publish_context()

    # Ending

    def _stop(self) -> None:
        """Ends everything, in the order of use. Blocks, so that nothing interrupts it."""
        if self._lock is None:
            return
        self.context.remove(self._context_file)
        killed = end_all(self._children.values(), grace_seconds=GRACE_SECONDS)
        if killed:
            self._say(f"had to kill: {', '.join(killed)}")
        self._terminate_jobs()
        if self._triton is not None:
            # After the binder, which would take its end for one of the models'.
            self._triton.stop(grace_seconds=GRACE_SECONDS)
        if self._kafka is not None:
            self._kafka.stop()
        if self._postgres is not None:
            self._postgres.stop()
        self._lock.close()
        self._lock = None

    def _terminate_jobs(self) -> None:
        if not any(self._state.glob("attempts/*")):
            return
        ended = subprocess.run(
            [sys.executable, "-m", "binder.executors.terminate", str(self._state)],
            capture_output=True,
            text=True,
            timeout=30,
            start_new_session=True,
            check=False,
        )
        if ended.returncode != 0:
            self._say(f"the jobs of {self._state} could not be ended: {ended.stderr.strip()[-300:]}")


def _not_ready_because(http: str) -> str:
    """Empty where /readyz says 200, else what it says."""
    try:
        with urllib.request.urlopen(f"http://{http}/readyz", timeout=2.0):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace").strip() or f"/readyz says {error.code}"
    except OSError as error:
        return str(error)
