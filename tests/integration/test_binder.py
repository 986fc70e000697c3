"""The whole binder on a real broker and database: decisions in, outcomes out."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from berth.grpc import connect
from berth.topics import cloud_event_headers
from berth.v1 import binding_pb2 as pb
from berth.v1.binding_pb2_grpc import BindingServiceStub
from binder.bootstrap import build
from binder.executors.terminate import terminate_all
from binder.settings import BinderSettings

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEAD = "placements.decided.dead-letter"


class Harness:
    """A running binder, a producer of decisions and all that was told since it began."""

    def __init__(self, settings: BinderSettings, producer: AIOKafkaProducer, stub: Any) -> None:
        self.settings = settings
        self.producer = producer
        self.stub = stub
        self.records: list[Any] = []

    async def decide(self, *messages: pb.PlacementDecided) -> None:
        headers = cloud_event_headers(
            event_id="e", event_type="berth.v1.PlacementDecided", source="test", traceparent=TRACE
        )
        for message in messages:
            await self.send(message.job_id, message.SerializeToString(), headers)

    async def send(self, key: str, value: bytes, headers: dict[str, str]) -> None:
        raw = [(name, text.encode()) for name, text in headers.items()]
        await self.producer.send_and_wait("placements.decided", value, key=key.encode(), headers=raw)

    def of(self, job_id: str) -> list[Any]:
        told: dict[int, Any] = {}
        for record in self.records:
            if record.topic == DEAD or record.key != job_id.encode():
                continue
            kind = pb.BindingSettled if record.topic == "bindings.settled" else pb.JobLifecycle
            message = kind.FromString(record.value)
            told.setdefault(message.version, message)
        return [told[version] for version in sorted(told)]

    def story(self, job_id: str) -> list[str]:
        return [
            pb.BindOutcome.Name(message.outcome).removeprefix("BIND_OUTCOME_")
            if isinstance(message, pb.BindingSettled)
            else pb.LifecycleEvent.Name(message.event).removeprefix("LIFECYCLE_EVENT_")
            for message in self.of(job_id)
        ]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def logs(self, job_id: str, **options: Any) -> str:
        request = pb.GetLogsRequest(job_id=job_id, member=-1, **options)
        return "".join([chunk.data.decode() async for chunk in self.stub.GetLogs(request)])


@asynccontextmanager
async def collecting(bootstrap: str, into: list[Any]) -> AsyncIterator[None]:
    consumer = AIOKafkaConsumer(
        "bindings.settled", "jobs.lifecycle", DEAD, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()

    async def collect() -> None:
        async for record in consumer:
            into.append(record)

    task = asyncio.create_task(collect())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()


@asynccontextmanager
async def running(settings: BinderSettings) -> AsyncIterator[str]:
    async with build(settings) as app:
        assert app.grpc is not None
        address = await app.grpc.start()
        tasks = [asyncio.ensure_future(start()) for start in app.tasks.values()]
        try:
            yield address
        finally:
            await app.grpc.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def settings(database_dsn: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[BinderSettings]:
    yield BinderSettings(
        kafka_bootstrap=kafka_bootstrap,
        postgres_dsn=database_dsn,
        state_dir=tmp_path,
        simulation_speed=50.0,
        release_grace_seconds=0.3,
    )
    await asyncio.to_thread(terminate_all, tmp_path, 0.2)


@pytest.fixture
async def harness(settings: BinderSettings) -> AsyncIterator[Harness]:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    async with running(settings) as address, connect(address) as channel:
        built = Harness(settings, producer, BindingServiceStub(channel))
        async with collecting(settings.kafka_bootstrap, built.records):
            yield built
    await producer.stop()


def new_id() -> str:
    return f"j-{uuid.uuid4().hex[:12]}"


def bind(job_id: str, *argv: str, members: int = 1, version: int = 1, seconds: float = 5) -> pb.PlacementDecided:
    message = pb.PlacementDecided(job_id=job_id, attempt=1, version=version)
    message.decided_at.GetCurrentTime()
    message.bind.executor = "process" if argv else "simulated"
    message.bind.spec.command.argv.extend(argv)
    message.bind.spec.expected_duration.FromMilliseconds(int(seconds * 1000))
    for member in range(members):
        message.bind.members.add(member=member, node="here")
    return message


def release(job_id: str, version: int = 2) -> pb.PlacementDecided:
    message = pb.PlacementDecided(job_id=job_id, attempt=1, version=version)
    message.release.reason = "cancelled by a test"
    return message


async def test_decisions_are_bound_run_and_told(harness: Harness) -> None:
    command, gang, simulated = new_id(), new_id(), new_id()
    await harness.decide(
        bind(command, "sh", "-c", "echo hello from $BERTH_JOB_ID"),
        bind(gang, "sh", "-c", "exit $BERTH_MEMBER", members=3),
        bind(simulated),
    )
    await harness.until(lambda: all(len(harness.story(each)) == 3 for each in (command, gang, simulated)))
    assert harness.story(command) == ["BOUND", "STARTED", "SUCCEEDED"]
    assert harness.story(gang) == ["BOUND", "STARTED", "FAILED"]
    assert harness.of(gang)[-1].exit_code in (1, 2)
    assert harness.story(simulated) == ["BOUND", "STARTED", "SUCCEEDED"]
    assert await harness.logs(command, follow=True) == f"hello from {command}\n"
    headers = [dict(record.headers) for record in harness.records if record.key == command.encode()]
    assert {each["traceparent"] for each in headers} == {TRACE.encode()}
    listed = await harness.stub.ListAttempts(pb.ListAttemptsRequest(job_id=command))
    assert [each.state for each in listed.attempts] == [pb.ATTEMPT_STATE_SUCCEEDED]


async def test_delivered_twice_is_bound_once(harness: Harness, tmp_path: Path) -> None:
    job_id = new_id()
    message = bind(job_id, "sh", "-c", f"echo ran >> {tmp_path}/ran")
    await harness.decide(message, message)
    await harness.until(lambda: "SUCCEEDED" in harness.story(job_id))
    await harness.decide(message, bind(after := new_id()))
    await harness.until(lambda: "SUCCEEDED" in harness.story(after))
    assert harness.story(job_id) == ["BOUND", "STARTED", "SUCCEEDED"]
    assert (tmp_path / "ran").read_text() == "ran\n"


async def test_a_release_ends_what_runs_and_a_late_bind_starts_nothing(harness: Harness, tmp_path: Path) -> None:
    runs, late, old = new_id(), new_id(), new_id()
    await harness.decide(bind(runs, "sleep", "600", members=2))
    await harness.until(lambda: harness.story(runs) == ["BOUND", "STARTED"])
    script = f"echo ran >> {tmp_path}/ran"
    await harness.decide(
        release(runs),
        release(late, version=1),
        bind(late, "sh", "-c", script, version=2),
        release(old, version=2),
        bind(old, "sh", "-c", script, version=1),
    )
    await harness.until(lambda: "RELEASED" in harness.story(runs))
    await harness.decide(bind(after := new_id()))
    await harness.until(lambda: "SUCCEEDED" in harness.story(after))
    assert harness.story(runs) == ["BOUND", "STARTED", "RELEASED"]
    assert harness.of(runs)[-1].message == "cancelled by a test"
    assert (harness.story(late), harness.story(old)) == (["RELEASED"], ["RELEASED"])
    assert not (tmp_path / "ran").exists()


async def test_what_cannot_be_understood_is_put_aside_and_holds_nothing_up(harness: Harness) -> None:
    key, after = new_id(), new_id()
    await harness.send(key, b"\xff\xfe broken", {})
    wrong = bind(key)
    wrong.attempt = 0
    await harness.decide(wrong, bind(after))
    await harness.until(lambda: "SUCCEEDED" in harness.story(after))

    def dead() -> list[Any]:
        return [record for record in harness.records if record.topic == DEAD and record.key == key.encode()]

    await harness.until(lambda: len(dead()) == 2)
    codes = {dict(record.headers)["berth-error-code"]: record.value for record in dead()}
    assert codes == {b"UNDECODABLE": b"\xff\xfe broken", b"INVALID_ARGUMENT": wrong.SerializeToString()}
    messages = b" ".join(dict(record.headers)["berth-error-message"] for record in dead())
    assert b"attempt: '0'" in messages


async def test_a_new_binder_takes_over_what_runs(settings: BinderSettings, tmp_path: Path) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    told = Harness(settings, producer, None)
    command, simulated = new_id(), new_id()
    async with collecting(settings.kafka_bootstrap, told.records):
        async with running(settings):
            await told.decide(
                bind(command, "sh", "-c", f"sleep 1.5; echo ran >> {tmp_path}/ran"), bind(simulated, seconds=100)
            )
            await told.until(lambda: told.story(command) == told.story(simulated) == ["BOUND", "STARTED"])
        async with running(settings):
            await told.until(lambda: len(told.story(command)) == len(told.story(simulated)) == 3)
    await producer.stop()
    assert told.story(command) == told.story(simulated) == ["BOUND", "STARTED", "SUCCEEDED"]
    assert (tmp_path / "ran").read_text() == "ran\n"


async def test_a_thousand_simulated_jobs(harness: Harness) -> None:
    ids = [new_id() for _ in range(1000)]
    await asyncio.gather(*[harness.decide(bind(each)) for each in ids])
    # What earlier tests told stands on the topic too.
    own = {each.encode() for each in ids}

    def told() -> int:
        return sum(record.topic == "jobs.lifecycle" and record.key in own for record in harness.records)

    await harness.until(lambda: told() >= 2000)
    wrong = {each: story for each in ids if (story := harness.story(each)) != ["BOUND", "STARTED", "SUCCEEDED"]}
    assert wrong == {}


async def test_bad_calls_name_the_field_and_the_remedy(harness: Harness) -> None:
    job_id = new_id()
    await harness.decide(bind(job_id))
    await harness.until(lambda: "BOUND" in harness.story(job_id))
    for request, code, text in [
        (pb.GetLogsRequest(), grpc.StatusCode.INVALID_ARGUMENT, "job_id"),
        (pb.GetLogsRequest(job_id="nobody"), grpc.StatusCode.NOT_FOUND, "nobody"),
        (pb.GetLogsRequest(job_id=job_id, member=7), grpc.StatusCode.INVALID_ARGUMENT, "member"),
        (pb.GetLogsRequest(job_id=job_id, tail_lines=-1), grpc.StatusCode.INVALID_ARGUMENT, "tail_lines"),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [chunk async for chunk in harness.stub.GetLogs(request)]
        assert caught.value.code() is code
        assert text in (caught.value.details() or "")
