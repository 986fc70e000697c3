"""A fake system, and the real command line as a process that talks to it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.auth import Authenticator
from berth.embedded.context import Context
from berth.grpc import GrpcServer
from berth.v1.binding_pb2_grpc import add_BindingServiceServicer_to_server
from berth.v1.placement_pb2_grpc import add_PlacementServiceServicer_to_server
from berth.v1.profiles_pb2_grpc import add_ProfileServiceServicer_to_server
from berth.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from tests.unit.berth.cli.fakes import (
    NOW,
    TRACE,
    FakeBindingService,
    FakePlacementService,
    FakeProfileService,
    FakeTelemetryService,
)

# The command line as it is installed, with its clock stopped.
STOPPED_CLOCK = f"from berth.cli import clock; clock.now = lambda: {NOW}\nfrom berth.cli.main import main\nmain()"


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class FakeSystem:
    placement: FakePlacementService
    telemetry: FakeTelemetryService
    context_file: Path


Berth = Callable[..., Awaitable[Outcome]]


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[FakeSystem]:
    placement, telemetry = FakePlacementService(), FakeTelemetryService()
    server = GrpcServer(
        "127.0.0.1:0",
        Authenticator(),
        [
            (add_PlacementServiceServicer_to_server, placement, "berth.v1.PlacementService"),
            (add_TelemetryServiceServicer_to_server, telemetry, "berth.v1.TelemetryService"),
            (add_ProfileServiceServicer_to_server, FakeProfileService(), "berth.v1.ProfileService"),
            (add_BindingServiceServicer_to_server, FakeBindingService(), "berth.v1.BindingService"),
        ],
    )
    address = await server.start()
    spans = tmp_path / "spans"
    spans.mkdir()
    write_spans(spans)
    context_file = tmp_path / "context.json"
    names = ("placement_engine", "telemetry_ingest", "profile_store", "binder")
    Context(dict.fromkeys(names, address), span_dir=str(spans)).save(context_file)
    yield FakeSystem(placement, telemetry, context_file)
    await server.stop(0)


@pytest.fixture
def berth(system: FakeSystem, tmp_path: Path) -> Berth:
    """`await berth("get", "jobs")`, in an empty folder."""

    async def call(*arguments: str, stdin: str = "") -> Outcome:
        return await run_cli(arguments, context_file=system.context_file, folder=tmp_path, stdin=stdin)

    return call


async def run_cli(arguments: tuple[str, ...], *, context_file: Path, folder: Path, stdin: str = "") -> Outcome:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPPED_CLOCK, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=folder,
        env={**os.environ, "BERTH_CONTEXT": str(context_file), "NO_COLOR": "1", "COLUMNS": "110"},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    return Outcome(process.returncode or 0, out.decode(), err.decode())


def write_spans(folder: Path) -> None:
    """A job's trace in two files, with a span of another trace and a line that is being written."""

    def line(span: str, parent: str, service: str, name: str, start: float, end: float, trace: str = TRACE) -> str:
        times = {"start_ns": round((NOW + start) * 1e9), "end_ns": round((NOW + end) * 1e9)}
        kept = {"trace_id": trace, "span_id": span, "parent_id": parent, "service": service, "name": name}
        return json.dumps({**kept, **times, "status": "ERROR" if name == "run" else "OK", "attributes": {}}) + "\n"

    (folder / "placement-engine-1.jsonl").write_text(
        line("02", "01", "placement-engine", "plan", 0.1, 0.102)
        + line("01", "b7ad6b7169203331", "placement-engine", "accept", 0.0, 0.1)
        + line("09", "", "placement-engine", "accept", 0.0, 9.9, trace="f" * 32)
    )
    (folder / "binder-2.jsonl").write_text(
        line("03", "01", "binder", "bind", 0.15, 0.25) + line("04", "03", "binder", "run", 0.25, 2.0)
        + '{"trace_id": "' + TRACE + '", "span_id'
    )  # fmt: skip
