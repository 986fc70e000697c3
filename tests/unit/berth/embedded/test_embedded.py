"""The embedded servers start, serve, and leave nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from berth.embedded.context import Context, NoContext, context_path, process_started
from berth.embedded.kafka import EmbeddedKafka
from berth.embedded.postgres import EmbeddedPostgres
from berth.embedded.process import end_all, spawn
from berth.topics import JOBS_SUBMITTED


async def test_postgres_keeps_its_data_and_is_durable(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    connection = await asyncpg.connect(await server.start())
    assert [await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")] == ["on", "on"]
    assert await connection.fetchval("SHOW listen_addresses") == ""
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    await connection.close()
    assert server.child is not None
    pid = server.child.pid
    server.stop()
    assert not psutil.pid_exists(pid)

    again = EmbeddedPostgres(tmp_path / "postgres")
    connection = await asyncpg.connect(await again.start())
    assert await connection.fetchval("SELECT answer FROM kept") == 42
    await connection.close()
    again.stop()


async def test_postgres_starts_below_a_long_and_closed_folder(tmp_path: Path) -> None:
    """A Unix socket's path has some 100 characters at most, and PostgreSQL does not run as root."""
    closed = tmp_path / ("x" * 120)
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "postgres")
    try:
        await (await asyncpg.connect(await server.start())).close()
    finally:
        server.stop()
    assert closed.stat().st_mode & 0o777 == 0o700


async def test_kafka_takes_and_gives_a_record(tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path / "kafka.log")
    try:
        bootstrap = await broker.start()
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
            await producer.send_and_wait(JOBS_SUBMITTED, b"value", key=b"key")
        async with AIOKafkaConsumer(
            JOBS_SUBMITTED, bootstrap_servers=bootstrap, group_id="g", auto_offset_reset="earliest"
        ) as consumer:
            record = await asyncio.wait_for(consumer.getone(), 30)
        assert (record.key, record.value) == (b"key", b"value")
    finally:
        broker.stop()
    assert broker.child is not None
    assert not psutil.pid_exists(broker.child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends children on Linux only")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\nfrom berth.embedded.process import spawn\n"
        "child = spawn('sleep', ['sleep', '300'], log=pathlib.Path(sys.argv[1]) / 'log')\n"
        "print(child.pid, flush=True)\ntime.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    child = psutil.Process(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
    child = spawn("stubborn", [sys.executable, "-c", stubborn], log=tmp_path / "log")
    while child.last_lines() != "up":
        assert child.running()
    assert end_all([child], grace_seconds=0.2) == ["stubborn"]
    assert child.popen.returncode == -signal.SIGKILL


def test_the_context_file_is_found_like_this(tmp_path: Path) -> None:
    assert context_path(Path("a"), {"BERTH_CONTEXT": "b"}) == Path("a")
    assert context_path(None, {"BERTH_CONTEXT": "b", "XDG_STATE_HOME": "c"}) == Path("b")
    assert context_path(None, {"XDG_STATE_HOME": "c"}) == Path("c/berth/context.json")


def test_the_context_goes_round_and_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    mine = Context({"placement_engine": "127.0.0.1:1"}, pid=os.getpid(), pid_started=process_started(os.getpid()))
    mine.save(path)
    assert Context.load(path) == mine
    assert path.stat().st_mode & 0o777 == 0o600
    Context({"placement_engine": "x"}, pid=os.getpid() + 1).remove(path)
    assert path.exists()
    mine.remove(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"services": {}}', '{"services": {"placement_engine": "a"}, "x": 1}']
)
def test_a_broken_context_file_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "context.json"
    path.write_text(text)
    with pytest.raises(NoContext, match="not a context file"):
        Context.load(path)
