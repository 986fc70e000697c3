"""From what a command reports to an observed profile, on a real broker and database."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from berth.embedded.triton import unavailable
from berth.grpc import connect
from berth.topics import JOBS_LIFECYCLE, TELEMETRY_DEVICES, dead_letter_topic
from berth.v1 import binding_pb2, telemetry_pb2
from berth.v1 import profiles_pb2 as pb
from berth.v1.profiles_pb2_grpc import ProfileServiceStub
from binder.settings import BinderSettings
from placement_engine.adapters import translate
from tests.integration.test_binder import Harness, bind, collecting, new_id
from tests.integration.test_binder import running as running_binder
from tests.integration.test_binder import settings as settings
from tests.integration.test_profile_store import a_message, a_put, records_of, running, settings_for
from tests.services import System
from tests.serving import ask, sleeping_folder, triton_server

OBSERVED = binding_pb2.LIFECYCLE_EVENT_OBSERVED


# The binder


def a_reporting_bind(job_id: str, workload: str, script: str, *, members: int = 1, milli: int = 1000) -> Any:
    message = bind(job_id, "sh", "-c", script, members=members)
    message.bind.spec.workload = workload
    for member in message.bind.members:
        member.devices.add(device_id=f"{job_id}/{member.member}", index=member.member, milli=milli, model="L4")
    return message


def observations(records: list[Any], job_id: str) -> list[binding_pb2.JobLifecycle]:
    found = [
        binding_pb2.JobLifecycle.FromString(record.value)
        for record in records
        if record.topic == JOBS_LIFECYCLE and record.key == job_id.encode()
    ]
    return [one for one in found if one.event == OBSERVED]


@pytest.fixture
async def producer(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    made = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await made.start()
    yield made
    await made.stop()


REPORT = """echo '{"units": %s, "unit": "steps", "seconds": 2, "batch_size": 8}' >> $BERTH_REPORT\n"""


async def test_reports_are_told_beside_a_jobs_life_and_not_as_part_of_it(
    settings: BinderSettings, producer: AIOKafkaProducer
) -> None:
    alone, gang, shared, nameless = new_id(), new_id(), new_id(), new_id()
    quick = settings.model_copy(update={"report_seconds": 0.2})
    records: list[Any] = []
    async with running_binder(quick), collecting(settings.kafka_bootstrap, records):
        harness = Harness(quick, producer, None)
        harness.records = records
        await harness.decide(
            a_reporting_bind(alone, "w", "echo not JSON >> $BERTH_REPORT\n" + REPORT % 3 + "sleep 1\n" + REPORT % 4),
            a_reporting_bind(gang, "w", REPORT % 5, members=2),
            a_reporting_bind(shared, "w", REPORT % 6, milli=500),
            a_reporting_bind(nameless, "", REPORT % 7),
        )
        await harness.until(lambda: sum(one.observation.units for one in observations(records, alone)) >= 7)
        await harness.until(lambda: observations(records, gang) and observations(records, shared))
        await harness.until(lambda: len(lived(records, nameless)) == 2)
    first, second = observations(records, alone)
    assert [(one.version, one.observation.units) for one in (first, second)] == [(1, 3.0), (2, 4.0)]
    told = first.observation
    assert (told.workload, told.accelerator, told.devices, list(told.device_ids)) == ("w", "L4", 1, [f"{alone}/0"])
    assert (told.unit, told.seconds, told.batch_size, told.source) == ("steps", 2.0, 8, "report")
    assert (told.members, told.members_counted, told.shared) == (1, 1, False)
    assert told.to.ToNanoseconds() > getattr(told, "from").ToNanoseconds()
    assert second.observation.to.ToNanoseconds() > told.to.ToNanoseconds()
    (together,) = observations(records, gang)
    # Both members worked for the same two seconds.
    assert (together.observation.units, together.observation.seconds, together.observation.devices) == (10.0, 2.0, 2)
    assert (together.observation.members, together.observation.members_counted) == (2, 2)
    assert observations(records, shared)[0].observation.shared
    assert observations(records, nameless) == [], "a job that names no workload teaches nothing"
    # The job's life is what it was, with the versions that it had: the engine drops what is not newer.
    assert lived(records, alone) == [("STARTED", 17), ("SUCCEEDED", 18)]
    assert translate.lifecycle_event(first.SerializeToString()) is None


def lived(records: list[Any], job_id: str) -> list[tuple[str, int]]:
    found = [
        binding_pb2.JobLifecycle.FromString(record.value)
        for record in records
        if record.topic == JOBS_LIFECYCLE and record.key == job_id.encode()
    ]
    return [
        (binding_pb2.LifecycleEvent.Name(one.event).removeprefix("LIFECYCLE_EVENT_"), one.version)
        for one in found
        if one.event != OBSERVED
    ]


async def test_a_new_binder_goes_on_where_the_last_one_had_read(
    settings: BinderSettings, producer: AIOKafkaProducer, tmp_path: Path
) -> None:
    job_id = new_id()
    quick = settings.model_copy(update={"report_seconds": 0.2})
    script = REPORT % 1 + f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done\n" + REPORT % 10
    records: list[Any] = []
    async with collecting(settings.kafka_bootstrap, records):
        harness = Harness(quick, producer, None)
        harness.records = records
        async with running_binder(quick):
            await harness.decide(a_reporting_bind(job_id, "w", script))
            await harness.until(lambda: observations(records, job_id))
        # Reported and ended while no binder was there.
        (tmp_path / "go").touch()
        await asyncio.sleep(0.5)
        async with running_binder(quick):
            await harness.until(lambda: len(observations(records, job_id)) >= 2)
            await asyncio.sleep(1.0)
    assert [(one.version, one.observation.units) for one in observations(records, job_id)] == [(1, 1.0), (2, 10.0)]


@pytest.mark.timeout(120)
async def test_a_served_models_speed_comes_back_as_a_profile(
    settings: BinderSettings, database_dsn: str, producer: AIOKafkaProducer, tmp_path: Path
) -> None:
    if missing := unavailable():
        pytest.skip(f"Triton cannot run here: {missing}")
    folder = sleeping_folder(tmp_path / "sleeper", seconds=0.1)
    job_id, workload = new_id(), f"served-{time.time_ns()}"
    decided = binding_pb2.PlacementDecided(job_id=job_id, attempt=1, version=1)
    decided.bind.executor, decided.bind.spec.workload = "triton", workload
    decided.bind.spec.model.uri, decided.bind.spec.model.name = str(folder), "sleeper"
    decided.bind.members.add(member=0, node="here").devices.add(device_id="here/cpu", index=0, milli=1000, model="CPU")
    records: list[Any] = []
    async with triton_server(tmp_path / "server") as server:
        here = {
            "executors": ("triton",),
            "triton_servers": f"here={server.address}",
            "triton_metrics": f"here={server.metrics}",
            "report_seconds": 0.5,
        }
        serving = settings.model_copy(update=here)
        store = settings_for(database_dsn, settings.kafka_bootstrap)
        async with running_binder(serving), running(store) as stub, collecting(settings.kafka_bootstrap, records):
            harness = Harness(serving, producer, None)
            harness.records = records
            await harness.decide(decided)
            await harness.until(lambda: lived(records, job_id))
            started = binding_pb2.JobLifecycle.FromString(
                next(one.value for one in records if one.topic == JOBS_LIFECYCLE and one.key == job_id.encode())
            )
            for told in range(1, 4):
                for _ in range(11):
                    await ask(started.endpoints[0], [1.0, 2.0, 3.0])
                await harness.until(lambda wanted=told: len(observations(records, job_id)) >= wanted)
            found = await learnt(stub, workload, 3)
            assert (found.accelerator, found.devices, found.configuration) == ("CPU", 1, "batch=1 observed")
            # An execution takes a tenth of a second and a little; the pauses between the requests do not count.
            assert 6.0 < found.throughput < 10.0
            assert found.throughput_unit == "queries/s"
            got = await stub.GetProfile(pb.GetProfileRequest(workload=workload, accelerator="CPU"))
            assert got.profile.provenance == pb.PROVENANCE_OBSERVED
            # Of its requests, from Triton's page: each takes the sleep, and what Python and the network add.
            quantiles = [getattr(got.profile, f"latency_p{one}_seconds") for one in (50, 90, 99)]
            assert quantiles == sorted(quantiles)
            assert 0.1 < quantiles[0] < 0.15


# The profile store


def an_observation(
    job_id: str, sequence: int, speed: float, *, workload: str, attempt: int = 1, **changes: Any
) -> binding_pb2.JobLifecycle:
    message = binding_pb2.JobLifecycle(job_id=job_id, attempt=attempt, version=sequence, event=OBSERVED)
    end = changes.pop("at", time.time())
    told = binding_pb2.Observation(
        workload=workload, accelerator="L4", devices=1, device_ids=[f"{workload}/gpu"], nodes=["n"],
        units=speed * 10, unit="samples", seconds=10.0, source="report", members=1, members_counted=1,
    )  # fmt: skip
    getattr(told, "from").FromNanoseconds(int((end - 10) * 1e9))
    told.to.FromNanoseconds(int(end * 1e9))
    for name, value in changes.items():
        setattr(told, name, value)
    message.observation.CopyFrom(told)
    message.occurred_at.CopyFrom(told.to)
    return message


async def send(producer: AIOKafkaProducer, *messages: binding_pb2.JobLifecycle) -> None:
    for message in messages:
        await producer.send(JOBS_LIFECYCLE, message.SerializeToString(), key=message.job_id.encode())
    await producer.flush()


async def learnt(stub: Any, workload: str, spans: int) -> pb.Learnt:
    """What was learnt, once so many spans came."""
    async with asyncio.timeout(30):
        while True:
            answer = await stub.ListLearnt(pb.ListLearntRequest(workload=workload))
            for one in answer.learnt:
                if one.spans + sum(each.spans for each in one.set_aside) >= spans:
                    return one  # type: ignore[no-any-return]
            await asyncio.sleep(0.05)


async def test_observed_speed_becomes_a_profile_of_its_own_and_is_announced(
    database_dsn: str, kafka_bootstrap: str, producer: AIOKafkaProducer
) -> None:
    workload, job_id = f"learn-{time.time_ns()}", new_id()
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        await stub.PutProfiles(a_put(a_message(workload, throughput=100.0, memory_bytes=10**9)))
        first = [an_observation(job_id, number, 40.0 + number, workload=workload) for number in range(1, 4)]
        # A record that the relay sent twice, and one of the job's life between them.
        life = binding_pb2.JobLifecycle(job_id=job_id, attempt=1, version=17, event=binding_pb2.LIFECYCLE_EVENT_STARTED)
        await send(producer, first[0], life, first[0], first[1], first[0], first[2])
        found = await learnt(stub, workload, 3)
        assert (found.spans, found.attempts, found.spans_unwatched, list(found.set_aside)) == (3, 1, 3, [])
        assert found.configuration == "observed"
        announced = await records_of(kafka_bootstrap, workload, 2)
        observed = next(one for one in announced if one.provenance == pb.PROVENANCE_OBSERVED)
        assert (observed.throughput, observed.samples) == (pytest.approx(42.0, rel=0.01), 3)
        assert observed.source == "running jobs"
        # What was imported is what it was, and the observation speaks before it.
        page = await stub.ListProfiles(pb.ListProfilesRequest(workload=workload))
        assert next((one.configuration, one.throughput) for one in page.profiles) == ("", 100.0)
        got = await stub.GetProfile(pb.GetProfileRequest(workload=workload, accelerator="L4"))
        assert got.profile.provenance == pb.PROVENANCE_OBSERVED
        # More of the same is no news; a store that begins again knows what it knew.
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        await send(producer, *first, an_observation(job_id, 4, 42.0, workload=workload))
        assert (await learnt(stub, workload, 4)).spans == 4
        again = an_observation(job_id, 4, 42.0, workload=workload)
        await send(producer, again, an_observation(job_id, 5, 42.0, workload=workload), again)
        assert (await learnt(stub, workload, 5)).spans == 5
        page = await stub.ListProfiles(pb.ListProfilesRequest(workload=workload))
        assert [one.version for one in page.profiles] == [1, 1]


async def test_throttled_runs_are_set_aside_and_nonsense_is_a_dead_letter(
    database_dsn: str, kafka_bootstrap: str, producer: AIOKafkaProducer
) -> None:
    workload, now = f"hot-{time.time_ns()}", time.time()
    put_aside: list[Any] = []
    async with dead_letters(kafka_bootstrap, put_aside), running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        # Telemetry is read from its end on: told again until a span shows that it was heard.
        sent, reasons = 0, dict[str, int]()
        while "throttled" not in reasons:
            for seconds in (-70.0, -40.0, -15.0, -5.0, 0.0):
                message = telemetry_pb2.NodeTelemetry(node="n", boot_id="b", sequence=1)
                message.received_at.FromNanoseconds(int((now + seconds) * 1e9))
                message.devices.add(device_id=f"{workload}/gpu", throttle_bits=0x40 if seconds == -5.0 else 0)
                await producer.send_and_wait(TELEMETRY_DEVICES, message.SerializeToString(), key=b"n")
            sent += 1
            await send(producer, an_observation(f"hot-{sent}", 1, 50.0, workload=workload, at=now))
            reasons = aside(await learnt(stub, workload, sent))
        await send(
            producer,
            an_observation("cool", 1, 50.0, workload=workload, at=now - 30.0),
            an_observation("nan", 1, float("nan"), workload=workload),
            an_observation("absurd", 1, 1e15, workload=workload),
            an_observation("nowhere", 1, 1.0, workload=workload, accelerator="L4O"),
            an_observation("idle", 1, 1.0, workload=workload, seconds=0.0),
            an_observation("part", 1, 50.0, workload=workload, members=2),
        )
        found = await learnt(stub, workload, sent + 2)
        assert aside(found) == {"throttled": 1, "partial gang": 1}
        # Those before the watch had begun are learnt from, and counted as such.
        assert (found.spans, found.spans_unwatched) == (sent, sent - 1)
        async with asyncio.timeout(20):
            while len(put_aside) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    fields = {one.key.decode(): dict(one.headers)["berth-error-message"].decode() for one in put_aside}
    assert {job: text.partition(":")[0] for job, text in fields.items()} == {
        "nan": "throughput", "absurd": "throughput", "nowhere": "accelerator", "idle": "observation.seconds",
    }  # fmt: skip
    assert "did you mean" in fields["nowhere"]


def aside(found: pb.Learnt) -> dict[str, int]:
    return {one.reason: one.spans for one in found.set_aside}


@asynccontextmanager
async def dead_letters(bootstrap: str, into: list[Any]) -> AsyncIterator[None]:
    """Collects those of jobs.lifecycle from now on."""
    topic = dead_letter_topic(JOBS_LIFECYCLE)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="latest")
    await consumer.start()
    await consumer.seek_to_end()

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


@pytest.mark.timeout(120)
async def test_kill_9_while_it_learns_counts_nothing_twice(system: System) -> None:
    store = system.service("profile-store", seed_demo="false", republish="false")
    await store.ready()
    workload, runs, spans = f"crash-{uuid.uuid4().hex[:8]}", 10, 120

    async def publish() -> None:
        for number in range(1, spans + 1):
            for run in range(runs):
                message = an_observation(f"run-{run}", number, 100.0 + run % 5, workload=workload)
                await system.producer.send(JOBS_LIFECYCLE, message.SerializeToString(), key=message.job_id.encode())
            await system.producer.flush()
            await asyncio.sleep(0.05)

    async def counted() -> int:
        rows = await system.fetch("SELECT learnt FROM profiles.estimate")
        return rows[0]["learnt"] if rows else 0

    publishing = asyncio.create_task(publish())
    kills = 0
    while not publishing.done() and kills < 2:
        before = await counted()
        # It has begun to learn again and has not come to the end: it dies in the middle.
        while await counted() <= before and not publishing.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        store.kill()
        kills += 1
        store.start()
    await publishing
    assert kills == 2
    told = runs * spans
    await store.ready()

    async def all_counted() -> Any:
        rows = await system.fetch("SELECT learnt, runs, set_aside::text FROM profiles.estimate")
        return rows if rows and rows[0]["learnt"] >= told else None

    ((total, of_runs, set_aside),) = await system.eventually(all_counted, 60.0)
    assert (total, of_runs, set_aside) == (told, runs, "{}")
    # What is announced at the end is what the database holds.
    announced = await records_of(system.bootstrap, workload, 1)
    assert announced[0].provenance == pb.PROVENANCE_OBSERVED
    async with connect(store.endpoint("grpc")) as channel:
        answer = await ProfileServiceStub(channel).ListLearnt(pb.ListLearntRequest(workload=workload))  # type: ignore[misc]
    assert [one.spans for one in answer.learnt] == [told]
