"""`kill -9` of a binder at every step of a bind: the command runs exactly once, and the story told is whole."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from berth.kafka import Record
from berth.postgres import Connection, Database
from berth.v1 import binding_pb2 as pb
from binder.adapters.store import PostgresStore
from binder.adapters.wire import command_of
from binder.executors.terminate import terminate_all
from tests.chaos.binder_process import POINTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_dsn, "binder")
    await opened.migrate("berth", "binder")
    yield opened
    await opened.close()


@pytest.fixture
async def state_dir(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path / "state"
    await asyncio.to_thread(terminate_all, tmp_path / "state", 0.2)


async def decide(database: Database, message: pb.PlacementDecided) -> None:
    command = command_of(Record("placements.decided", 0, 0, b"", message.SerializeToString()))

    async def effect(connection: Connection) -> None:
        await PostgresStore(database).intake(connection, [command], {"process"}, time.time())

    await database.run(effect)


def bind(job_id: str, script: str, members: int) -> pb.PlacementDecided:
    message = pb.PlacementDecided(job_id=job_id, attempt=1, version=1)
    message.bind.executor = "process"
    message.bind.spec.command.argv.extend(["sh", "-c", script])
    for member in range(members):
        message.bind.members.add(member=member, node="here")
    return message


def release(job_id: str) -> pb.PlacementDecided:
    message = pb.PlacementDecided(job_id=job_id, attempt=1, version=2)
    message.release.reason = "cancelled"
    return message


async def binder(dsn: str, state_dir: Path, point: str, after: int = 1) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.binder_process", dsn, str(state_dir), point, str(after), cwd=ROOT
    )


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def state_of(database: Database, job_id: str) -> str:
    state = await database.pool.fetchval("SELECT state FROM attempt WHERE job_id = $1", job_id)
    return str(state)


async def reaches(database: Database, job_id: str, *states: str) -> str:
    async with asyncio.timeout(30):
        while (state := await state_of(database, job_id)) not in states:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return state


async def story(database: Database) -> list[str]:
    """What was told, in the order of publication."""
    rows = await database.pool.fetch("SELECT topic, value FROM outbox ORDER BY id")
    told = []
    for row in rows:
        if row["topic"] == "bindings.settled":
            told.append(pb.BindOutcome.Name(pb.BindingSettled.FromString(row["value"]).outcome))
        else:
            told.append(pb.LifecycleEvent.Name(pb.JobLifecycle.FromString(row["value"]).event))
    return [name.removeprefix("BIND_OUTCOME_").removeprefix("LIFECYCLE_EVENT_") for name in told]


@pytest.mark.parametrize("point", POINTS)
async def test_a_command_runs_once_whenever_its_binder_dies(
    database: Database, database_dsn: str, state_dir: Path, tmp_path: Path, point: str
) -> None:
    ran = tmp_path / "ran"
    await decide(database, bind("job", f"echo $BERTH_MEMBER >> {ran}; sleep 0.2", 2))
    doomed = await binder(database_dsn, state_dir, point)
    assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
    heir = await binder(database_dsn, state_dir, "never")
    try:
        await reaches(database, "job", "SUCCEEDED", "FAILED", "RELEASED")
    finally:
        await end(heir)
    assert await story(database) == ["BOUND", "STARTED", "SUCCEEDED"]
    assert sorted(ran.read_text().split()) == ["0", "1"]


async def test_a_binder_that_dies_between_two_members_starts_neither_twice(
    database: Database, database_dsn: str, state_dir: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    await decide(database, bind("job", f"echo $BERTH_MEMBER >> {ran}", 3))
    for after in (1, 1, 1):
        doomed = await binder(database_dsn, state_dir, "after a runner is spawned", after)
        assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
        await asyncio.sleep(0.3)
        assert not ran.exists(), "no member starts before all are ready"
    heir = await binder(database_dsn, state_dir, "never")
    try:
        await reaches(database, "job", "SUCCEEDED", "FAILED", "RELEASED")
    finally:
        await end(heir)
    assert await story(database) == ["BOUND", "STARTED", "SUCCEEDED"]
    assert sorted(ran.read_text().split()) == ["0", "1", "2"]


async def test_what_ends_while_no_binder_is_there_is_reported_by_the_next(
    database: Database, database_dsn: str, state_dir: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    await decide(database, bind("job", f"sleep 0.5; echo done >> {ran}; exit 4", 1))
    first = await binder(database_dsn, state_dir, "never")
    await reaches(database, "job", "RUNNING")
    await end(first)
    async with asyncio.timeout(20):
        while not ran.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    second = await binder(database_dsn, state_dir, "never")
    try:
        await reaches(database, "job", "FAILED")
    finally:
        await end(second)
    assert await story(database) == ["BOUND", "STARTED", "FAILED"]
    assert ran.read_text() == "done\n"


async def test_a_release_that_comes_while_no_binder_is_there_is_carried_out(
    database: Database, database_dsn: str, state_dir: Path
) -> None:
    await decide(database, bind("job", "sleep 600", 2))
    first = await binder(database_dsn, state_dir, "never")
    await reaches(database, "job", "RUNNING")
    await end(first)
    await decide(database, release("job"))
    second = await binder(database_dsn, state_dir, "never")
    try:
        await reaches(database, "job", "RELEASED", "FAILED")
    finally:
        await end(second)
    assert await story(database) == ["BOUND", "STARTED", "RELEASED"]


async def test_two_binders_on_one_store_bind_once(
    database: Database, database_dsn: str, state_dir: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    for number in range(10):
        await decide(database, bind(f"job{number}", f"echo {number} >> {ran}", 1))
    pair = [await binder(database_dsn, state_dir, "never") for _ in range(2)]
    try:
        for number in range(10):
            await reaches(database, f"job{number}", "SUCCEEDED", "FAILED", "RELEASED")
    finally:
        for each in pair:
            await end(each)
    assert sorted(ran.read_text().split()) == [str(number) for number in range(10)]
    assert sorted(await story(database)) == sorted(["BOUND", "STARTED", "SUCCEEDED"] * 10)
