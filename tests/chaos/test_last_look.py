"""`kill -9` of a binder at every step of a release: what a served model did is told, and told once."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from berth.backends.triton_client import TritonClient
from berth.embedded.triton import TritonServer, unavailable
from berth.kafka import Record
from berth.postgres import Connection, Database
from berth.v1 import binding_pb2 as pb
from binder.adapters.store import PostgresStore
from binder.adapters.wire import command_of
from tests.chaos.test_process_executor import ROOT, end, reaches, release, state_of
from tests.chaos.test_process_executor import database as database
from tests.chaos.triton_binder_process import POINTS
from tests.serving import ask, sleeping_folder, triton_server


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TritonServer]:
    if missing := unavailable():
        pytest.skip(f"Triton cannot run here: {missing}")
    async with triton_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sleeping_folder(tmp_path_factory.mktemp("models") / "sleeper", seconds=0.25)


async def decide(database: Database, message: pb.PlacementDecided) -> None:
    command = command_of(Record("placements.decided", 0, 0, b"", message.SerializeToString()))

    async def effect(connection: Connection) -> None:
        store = PostgresStore(database, reporting=frozenset({"triton"}))
        await store.intake(connection, [command], {"triton"}, time.time())

    await database.run(effect)


def served(job_id: str, folder: Path) -> pb.PlacementDecided:
    message = pb.PlacementDecided(job_id=job_id, attempt=1, version=1)
    message.bind.executor, message.bind.spec.workload = "triton", "sleeper"
    message.bind.spec.model.uri, message.bind.spec.model.name = str(folder), "sleeper"
    message.bind.members.add(member=0, node="here").devices.add(device_id="here/cpu", index=0, milli=1000, model="CPU")
    return message


async def binder(dsn: str, server: TritonServer, point: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.triton_binder_process", dsn, server.address, point, cwd=ROOT
    )


async def told(database: Database) -> list[pb.JobLifecycle]:
    rows = await database.pool.fetch("SELECT value FROM outbox WHERE topic = 'jobs.lifecycle' ORDER BY id")
    records = [pb.JobLifecycle.FromString(row["value"]) for row in rows]
    return [one for one in records if one.event == pb.LIFECYCLE_EVENT_OBSERVED]


async def endpoint(database: Database) -> str:
    rows = await database.pool.fetch("SELECT value FROM outbox WHERE topic = 'jobs.lifecycle' ORDER BY id")
    records = [pb.JobLifecycle.FromString(row["value"]) for row in rows]
    return next(one.endpoints[0] for one in records if one.event == pb.LIFECYCLE_EVENT_STARTED)


@pytest.mark.parametrize("point", POINTS)
async def test_what_a_model_did_before_its_unload_is_told_once(
    database: Database, database_dsn: str, server: TritonServer, folder: Path, point: str
) -> None:
    await decide(database, served("job", folder))
    doomed = await binder(database_dsn, server, point)
    heir = None
    try:
        await reaches(database, "job", "RUNNING")
        at = await endpoint(database)
        for _ in range(5):
            await ask(at, [1.0, 2.0, 3.0])
        assert await told(database) == [], "nobody has looked yet"
        await decide(database, release("job"))
        assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
        assert await state_of(database, "job") == "RUNNING"
        asked = 5
        if point != "after the unload":
            # It serves on, until the next binder ends it.
            for _ in range(5):
                await ask(at, [1.0, 2.0, 3.0])
            asked = 10
        heir = await binder(database_dsn, server, "never")
        await reaches(database, "job", "RELEASED")
    finally:
        await end(doomed)
        if heir is not None:
            await end(heir)
    found = await told(database)
    assert sum(one.observation.units for one in found) == asked
    assert [one.version for one in found] == list(range(1, len(found) + 1))
    async with TritonClient(server.address) as client:
        assert await client.loaded() == ()
