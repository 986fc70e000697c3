"""profile-store whole: gRPC in, PostgreSQL and profiles.changed out."""

import asyncio
import gzip
import importlib.resources
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiokafka import AIOKafkaConsumer

from berth import catalogue
from berth.auth import Authenticator
from berth.grpc import connect
from berth.postgres import Database
from berth.topics import PROFILES_CHANGED
from berth.v1 import profiles_pb2 as pb
from berth.v1.profiles_pb2_grpc import ProfileServiceStub
from profile_store.adapters.postgres_profiles import PostgresProfiles
from profile_store.bootstrap import SCHEMA, build
from profile_store.domain.profile import ProfileKey, Provenance
from profile_store.domain.validation import validate
from profile_store.settings import ProfileStoreSettings
from tests.unit.profile_store.builders import NOW, TABLE, a_profile

KEY = "k" * 32


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_dsn, SCHEMA, size=4)
    await opened.migrate("berth", "profile_store")
    yield opened
    await opened.close()


def settings_for(dsn: str, bootstrap: str, **changes: Any) -> ProfileStoreSettings:
    plain = {"seed_demo": False, "republish": False, "postgres_dsn": dsn, "kafka_bootstrap": bootstrap}
    return ProfileStoreSettings(**{**plain, **changes})


@asynccontextmanager
async def running(settings: ProfileStoreSettings, token: str | None = None) -> AsyncIterator[Any]:
    """The service's parts, as the process puts them together; gives a stub."""
    async with build(settings) as app:
        assert app.grpc is not None
        address = await app.grpc.start()
        tasks = [asyncio.ensure_future(start()) for start in app.tasks.values()]
        channel = connect(address, token)
        try:
            yield ProfileServiceStub(channel)
        finally:
            await channel.close()
            await app.grpc.stop(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def a_message(workload: str = "bert", accelerator: str = "L4", **changes: Any) -> pb.Profile:
    fields = {
        "devices": 1,
        "throughput": 10.0,
        "throughput_unit": "samples/s",
        "source": "bench",
        "provenance": pb.PROVENANCE_MEASURED,
    }
    return pb.Profile(workload=workload, accelerator=accelerator, **{**fields, **changes})


def a_put(*profiles: pb.Profile) -> pb.PutProfilesRequest:
    return pb.PutProfilesRequest(profiles=profiles)


async def outbox_rows(database: Database) -> list[tuple[str, int, float]]:
    rows = await database.pool.fetch("SELECT key, value FROM outbox ORDER BY id")
    messages = [(row["key"].decode(), pb.Profile.FromString(row["value"])) for row in rows]
    return [(key, message.version, message.throughput) for key, message in messages]


async def records_of(bootstrap: str, workload: str, count: int) -> list[pb.Profile]:
    """The topic's records of one workload, from the beginning, until `count` of them were seen."""
    consumer = AIOKafkaConsumer(PROFILES_CHANGED, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        seen: list[pb.Profile] = []
        async with asyncio.timeout(30):
            while len(seen) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        message = pb.Profile.FromString(record.value)
                        if message.workload == workload:
                            assert record.key.decode().startswith(f"{workload}|")
                            seen.append(message)
        return seen
    finally:
        await consumer.stop()


# The repository


async def test_a_change_raises_the_version_and_is_announced_in_the_same_transaction(
    database: Database,
) -> None:
    profiles = PostgresProfiles(database)
    first, second = a_profile("a"), a_profile("b", memory_bytes=5, power_watts=3.5, samples=2)
    assert await profiles.put([second, first]) == 2
    assert await profiles.put([first, second]) == 0
    assert await profiles.put([replace(first, throughput=101.0), second]) == 1
    assert await profiles.put([replace(first, throughput=None, throughput_unit="", power_watts=1.0)]) == 1
    assert await outbox_rows(database) == [
        ("a|H100-SXM|1|", 1, 100.0),
        ("b|H100-SXM|1|", 1, 100.0),
        ("a|H100-SXM|1|", 2, 101.0),
        ("a|H100-SXM|1|", 3, 0.0),
    ]
    assert await profiles.get(second.key) == replace(second, version=1)
    assert await profiles.get(ProfileKey("a", "H100-SXM", 2)) is None


async def test_a_failing_statement_leaves_neither_profiles_nor_records(database: Database) -> None:
    # Past validation: the table's own constraint stops it.
    with pytest.raises(Exception, match="check constraint"):
        await PostgresProfiles(database).put([a_profile("a"), a_profile("b", throughput=-1.0)])
    assert await database.pool.fetchval("SELECT count(*) FROM profile") == 0
    assert await outbox_rows(database) == []


class OneTry(Database):
    """A deadlock is an error, not another try."""

    async def run(self, effect: Any, *, attempts: int | None = None) -> Any:
        return await super().run(effect, attempts=0)


async def test_writers_of_the_same_keys_in_other_orders_do_not_deadlock(database: Database) -> None:
    profiles = PostgresProfiles(OneTry(database.pool, database.schema))
    keys = [f"w{number:03}" for number in range(200)]

    async def write(speed: float, names: list[str]) -> None:
        for step in range(5):
            await profiles.put([a_profile(name, throughput=speed + step) for name in names])

    await asyncio.gather(
        write(10.0, keys), write(20.0, keys[::-1]), write(30.0, keys[100:] + keys[:100]), _announce(profiles)
    )
    versions = await database.pool.fetch("SELECT version FROM profile")
    assert len(versions) == 200
    # For one key, the records are in the order of versions.
    by_key: dict[str, list[int]] = {}
    for key, version, _ in await outbox_rows(database):
        by_key.setdefault(key, []).append(version)
    assert all(found == sorted(found) for found in by_key.values())


async def _announce(profiles: PostgresProfiles) -> None:
    for _ in range(5):
        await profiles.announce_all()


async def test_announcing_again_waits_until_the_outbox_is_empty(database: Database) -> None:
    profiles = PostgresProfiles(database)
    await profiles.put([a_profile(f"w{number:04}") for number in range(1500)])
    assert await profiles.announce_all() == 0
    await database.pool.execute("DELETE FROM outbox")
    assert await profiles.announce_all() == 1500
    assert len(await outbox_rows(database)) == 1500


async def test_announcing_again_never_overtakes_a_change_in_flight(database: Database) -> None:
    profiles = PostgresProfiles(database)
    await profiles.put([a_profile("a")])
    await database.pool.execute("DELETE FROM outbox")
    async with database.transaction() as connection:
        await connection.execute("UPDATE profile SET version = version + 1")
        announcing = asyncio.ensure_future(profiles.announce_all())
        async with asyncio.timeout(20):
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not (announcing.done() or await database.pool.fetchval(waiting)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not announcing.done()
    assert await announcing == 1
    assert await outbox_rows(database) == [("a|H100-SXM|1|", 2, 100.0)]


async def test_adding_what_is_missing_leaves_the_rest_alone(database: Database) -> None:
    profiles = PostgresProfiles(database)
    await profiles.put([a_profile("a", throughput=7.0)])
    assert await profiles.add_missing([a_profile("a"), a_profile("b")]) == 1
    assert await profiles.add_missing([a_profile("a"), a_profile("b")]) == 0
    assert await outbox_rows(database) == [("a|H100-SXM|1|", 1, 7.0), ("b|H100-SXM|1|", 1, 100.0)]


async def test_a_prediction_takes_only_a_predictions_place(database: Database) -> None:
    profiles = PostgresProfiles(database)
    guess = {"provenance": Provenance.TRANSFERRED, "throughput": 5.0}
    await profiles.put([a_profile("a"), a_profile("b", **guess), a_profile("d", provenance=Provenance.DECLARED)])
    newer = [a_profile(name, **{**guess, "throughput": 6.0}) for name in "abcd"]
    assert await profiles.put_predicted(newer) == 2
    assert await profiles.put_predicted(newer) == 0
    speeds = {one.key.workload: one.throughput for one in await profiles.alone()}
    assert speeds == {"a": 100.0, "b": 6.0, "c": 6.0, "d": 100.0}


async def test_every_field_comes_back_as_it_was_put(database: Database) -> None:
    profiles = PostgresProfiles(database)
    shares = (("bf16", 9.6e11), ("fp32", 3.5e9))
    made = a_profile("a", operations=1e12, bytes_moved=1e9, latency_p99_high_seconds=0.5, latency_p99_seconds=0.25,
                     operations_by_precision=shares, settings="optimizer=adam")  # fmt: skip
    assert await profiles.put([made]) == 1
    assert await profiles.put([made]) == 0
    assert await profiles.get(made.key) == replace(made, version=1)
    assert await profiles.put([replace(made, operations_by_precision=())]) == 1
    assert await profiles.get(made.key) == replace(made, operations_by_precision=(), version=2)


async def test_pages_follow_the_order_of_bytes(database: Database) -> None:
    profiles = PostgresProfiles(database)
    made = [a_profile(name, kind) for name in ("B", "a", "é", "a b", "Z-1") for kind in ("L4", "T4")]
    await profiles.put(made)
    seen: list[ProfileKey] = []
    while True:
        after = seen[-1] if seen else None
        page = await profiles.page(workload="", accelerator="", after=after, count=3)
        if not page:
            break
        seen += [one.key for one in page]
    assert seen == sorted(one.key for one in made)


# The service


async def test_put_reaches_the_topic_and_can_be_asked_for(database_dsn: str, kafka_bootstrap: str) -> None:
    workload = f"put-{time.time_ns()}"
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        response = await stub.PutProfiles(
            a_put(
                a_message(workload, "Tesla T4", throughput=5.0),
                a_message(workload, "L4", latency_p99_seconds=0.25),
            )
        )
        assert (response.changed, response.unchanged) == (2, 0)
        response = await stub.PutProfiles(a_put(a_message(workload, "L4", throughput=11.0)))
        assert (response.changed, response.unchanged) == (1, 0)

        got = await stub.GetProfile(pb.GetProfileRequest(workload=workload, accelerator="l4", devices=1))
        assert (got.profile.throughput, got.profile.version) == (11.0, 2)
        assert not got.profile.HasField("latency_p99_seconds")

        ranked = await stub.QueryProfiles(pb.QueryProfilesRequest(workload=workload, devices=1))
        assert [one.accelerator for one in ranked.profiles] == ["L4", "T4"]
        guess = await stub.QueryProfiles(pb.QueryProfilesRequest(workload=f"{workload}x"))
        assert (list(guess.profiles), list(guess.suggestions)) == ([], [workload])

        page = await stub.ListProfiles(pb.ListProfilesRequest(page_size=1))
        assert [one.accelerator for one in page.profiles] == ["L4"]
        page = await stub.ListProfiles(pb.ListProfilesRequest(page_size=1, page_token=page.next_page_token))
        assert ([one.accelerator for one in page.profiles], page.next_page_token) == (["T4"], "")

        records = await records_of(kafka_bootstrap, workload, 3)
        assert [(one.version, one.throughput) for one in records if one.accelerator == "L4"] == [
            (1, 10.0),
            (2, 11.0),
        ]
        assert [(one.version, one.throughput) for one in records if one.accelerator == "T4"] == [(1, 5.0)]


async def test_gavel_import_twice(database_dsn: str, kafka_bootstrap: str) -> None:
    request = pb.ImportProfilesRequest(format="gavel", content=json.dumps(TABLE).encode(), source="table")
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        first = await stub.ImportProfiles(request)
        second = await stub.ImportProfiles(request)
        assert (first.changed, first.unchanged, len(first.skipped)) == (7, 0, 2)
        assert (second.changed, second.unchanged, list(second.skipped)) == (0, 7, list(first.skipped))
        page = await stub.ListProfiles(pb.ListProfilesRequest(workload="LM (batch size 10)"))
        assert [(one.accelerator, one.devices, one.co_located_with, one.throughput) for one in page.profiles] == [
            ("K80", 1, "", 0.5),
            ("V100-16", 1, "", 3.25),
            ("V100-16", 1, "ResNet-50 (batch size 64)", 2.5),
            ("V100-16", 4, "", 9.75),
        ]


async def test_the_real_gavel_table(data_folder: Path, database_dsn: str, kafka_bootstrap: str) -> None:
    content = (data_folder / "gavel" / "simulation_throughputs.json").read_bytes()
    request = pb.ImportProfilesRequest(format="gavel", content=content, source="OSDI'20")
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        first = await stub.ImportProfiles(request)
        second = await stub.ImportProfiles(request)
        assert (second.changed, second.unchanged) == (0, first.changed)
        got = await stub.GetProfile(
            pb.GetProfileRequest(workload="ResNet-18 (batch size 16)", accelerator="v100", devices=1)
        )
        assert got.profile.throughput == 32.353384328946916


def pieces_of(content: bytes, size: int, **first: Any) -> list[pb.UploadProfilesRequest]:
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return [pb.UploadProfilesRequest(**first), *[pb.UploadProfilesRequest(content=piece) for piece in pieces]]


POWER_SWEEP = b"""dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power
cifar100,shufflenetv2,1024,adam,100,8,86.5
cifar100,shufflenetv2,512,adam,250,4,200
"""


async def test_a_file_in_pieces_is_kept_whole_or_not_at_all(database_dsn: str, kafka_bootstrap: str) -> None:
    hints = pb.ImportHints(accelerator="V100-32", workload=f"upload-{time.time_ns()}")
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:

        async def send(content: bytes) -> pb.ImportProfilesResponse:
            answer = await stub.UploadProfiles(iter(pieces_of(content, 50, source="sweep", hints=hints)))
            return answer.result

        # The second line is impossible: the first must not stay.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(POWER_SWEEP.replace(b",200", b",20000"))
        assert caught.value.code().name == "INVALID_ARGUMENT"
        assert "power_watts" in (caught.value.details() or "")
        assert list((await stub.ListProfiles(pb.ListProfilesRequest())).profiles) == []
        first, second = await send(POWER_SWEEP), await send(gzip.compress(POWER_SWEEP))
        assert first == pb.ImportProfilesResponse(
            changed=2,
            format="zeus",
            taken=[
                "2 runs are 2 configurations",
                f"1 workload: {hints.workload} (2)",
                "1 accelerator: V100-32 (2)",
            ],
        )
        assert (second.changed, second.unchanged) == (0, 2)
        page = await stub.ListProfiles(pb.ListProfilesRequest(workload=hints.workload, page_size=1))
        (one,) = page.profiles
        assert one == pb.Profile(
            workload=hints.workload,
            accelerator="V100-32",
            devices=1,
            configuration="batch=1024 cap=100 optimizer=adam",
            model="shufflenetv2",
            task="training",
            throughput=0.125,
            throughput_unit="epochs/s",
            power_watts=86.5,
            energy_joules_per_unit=692.0,
            batch_size=1024,
            power_limit_watts=100.0,
            settings="optimizer=adam",
            provenance=pb.PROVENANCE_MEASURED,
            source="sweep",
            samples=1,
            version=1,
        )
        page = await stub.ListProfiles(
            pb.ListProfilesRequest(workload=hints.workload, page_size=1, page_token=page.next_page_token)
        )
        assert [found.batch_size for found in page.profiles] == [512]
        # The fastest configuration speaks for the workload.
        got = await stub.GetProfile(pb.GetProfileRequest(workload=hints.workload, accelerator="V100-32"))
        assert got.profile.batch_size == 512
        records = await records_of(kafka_bootstrap, hints.workload, 2)
        assert sorted(record.configuration for record in records) == [
            "batch=1024 cap=100 optimizer=adam",
            "batch=512 cap=250 optimizer=adam",
        ]


async def test_kept_predictions_are_announced_and_never_replace_a_measurement(
    database_dsn: str, kafka_bootstrap: str
) -> None:
    workload = f"predict-{time.time_ns()}"
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        await stub.PutProfiles(
            a_put(
                a_message(workload, throughput=100.0, batch_size=16),
                a_message(workload, throughput=400.0, batch_size=64),
                a_message(workload, "L40S", throughput=1000.0, batch_size=64),
            )
        )
        question = pb.PredictProfileRequest(workload=workload, batch_size=32)
        answer = await stub.PredictProfile(question)
        assert len((await stub.ListProfiles(pb.ListProfilesRequest(workload=workload))).profiles) == 3
        found = {one.profile.accelerator: one for one in answer.predictions}
        assert found["L4"].basis == "interpolated: batch size between 16 and 64"
        assert found["L4"].profile.throughput == pytest.approx(200.0)
        assert found["L4"].throughput_low < 200.0 < found["L4"].throughput_high
        assert answer.unknown[0].endswith("not known to run there")

        question.keep = True
        assert await stub.PredictProfile(question) == answer
        kept = (await stub.ListProfiles(pb.ListProfilesRequest(workload=workload, accelerator="L4"))).profiles
        assert [(one.configuration, one.provenance) for one in kept] == [
            ("batch=16", pb.PROVENANCE_MEASURED),
            ("batch=32", pb.PROVENANCE_INTERPOLATED),
            ("batch=64", pb.PROVENANCE_MEASURED),
        ]
        # Measured since: the prediction's place is taken, and asking again leaves it so.
        await stub.PutProfiles(a_put(a_message(workload, throughput=222.0, batch_size=32)))
        again = await stub.PredictProfile(question)
        assert {one.profile.accelerator: one.basis for one in again.predictions}["L4"] == "measured"
        got = (await stub.ListProfiles(pb.ListProfilesRequest(workload=workload, accelerator="L4"))).profiles[1]
        assert (got.throughput, got.provenance, got.version) == (222.0, pb.PROVENANCE_MEASURED, 2)
        assert pb.PROVENANCE_TRANSFERRED in {one.provenance for one in await records_of(kafka_bootstrap, workload, 12)}

        unknown = await stub.PredictProfile(pb.PredictProfileRequest(workload=f"{workload}x"))
        assert (list(unknown.predictions), list(unknown.suggestions)) == ([], [workload])


async def test_profiles_from_before_configurations_keep_their_place(database_dsn: str) -> None:
    """A store of the first version: the same profile put again is the same profile."""
    old = await Database.open(database_dsn, SCHEMA, size=1)
    await old.migrate("berth")
    before = (importlib.resources.files("profile_store") / "migrations/001_profile.sql").read_text()
    await old.pool.execute(before)
    await old.pool.execute("INSERT INTO migration (name) VALUES ('profile_store/001_profile.sql')")
    await old.pool.execute(
        """INSERT INTO profile (workload, accelerator, devices, co_located_with, task, precision, software_stack,
             throughput, throughput_unit, provenance, source, samples)
           VALUES ('bert', 'L4', 1, '', '', 'fp16', '', 5, 'samples/s', 1, 'bench', 0),
                  ('bert', 'T4', 1, '', '', '', '', 5, 'samples/s', 1, 'bench', 0)"""
    )
    await old.migrate("berth", "profile_store")
    again = [
        a_profile("bert", "L4", throughput=5.0, precision="fp16", source="bench"),
        a_profile("bert", "T4", throughput=5.0, source="bench"),
    ]
    try:
        profiles = PostgresProfiles(old)
        assert await profiles.put(validate(again, catalogue, now=NOW)) == 0
        assert await profiles.put(validate([replace(again[0], precision="int8")], catalogue, now=NOW)) == 1
        assert await old.pool.fetchval("SELECT count(*) FROM profile") == 3
    finally:
        await old.close()


@pytest.mark.parametrize(
    ("call", "request_", "code", "words"),
    [
        ("PutProfiles", a_put(a_message(throughput=math.nan)), "INVALID_ARGUMENT", ["throughput", "nan"]),
        ("PutProfiles", a_put(a_message(devices=0)), "INVALID_ARGUMENT", ["devices", "from 1"]),
        ("PutProfiles", a_put(a_message(accelerator="L4O")), "INVALID_ARGUMENT", ["L4O", "did you mean"]),
        ("PutProfiles", a_put(a_message(source="")), "INVALID_ARGUMENT", ["source"]),
        ("PutProfiles", a_put(a_message("a\x00b")), "INVALID_ARGUMENT", ["workload"]),
        (
            "PutProfiles",
            a_put(a_message(measured_at={"seconds": 2**60})),
            "INVALID_ARGUMENT",
            ["measured_at"],
        ),
        ("GetProfile", pb.GetProfileRequest(workload="x", accelerator="L4"), "NOT_FOUND", ["x", "unknown"]),
        (
            "GetProfile",
            pb.GetProfileRequest(workload="x", accelerator="abacus"),
            "INVALID_ARGUMENT",
            ["abacus"],
        ),
        ("PredictProfile", pb.PredictProfileRequest(), "INVALID_ARGUMENT", ["workload"]),
        (
            "PredictProfile",
            pb.PredictProfileRequest(workload="x", accelerator="H10O"),
            "INVALID_ARGUMENT",
            ["H10O", "did you mean"],
        ),
        (
            "PredictProfile",
            pb.PredictProfileRequest(workload="x", batch_size=-1),
            "INVALID_ARGUMENT",
            ["batch_size"],
        ),
        ("ListProfiles", pb.ListProfilesRequest(page_token="?"), "INVALID_ARGUMENT", ["page_token"]),
        ("ListProfiles", pb.ListProfilesRequest(page_size=-1), "INVALID_ARGUMENT", ["page_size"]),
        ("QueryProfiles", pb.QueryProfilesRequest(workload="x", devices=-1), "INVALID_ARGUMENT", ["devices"]),
        ("ImportProfiles", pb.ImportProfilesRequest(format="xlsx", content=b"x"), "INVALID_ARGUMENT", ["xlsx"]),
        (
            "ImportProfiles",
            pb.ImportProfilesRequest(format="gavel", content=b"<html>"),
            "INVALID_ARGUMENT",
            ["not JSON"],
        ),
    ],
)
async def test_bad_input(
    database_dsn: str, kafka_bootstrap: str, call: str, request_: Any, code: str, words: list[str]
) -> None:
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, call)(request_)
        assert caught.value.code().name == code
        for word in words:
            assert word in (caught.value.details() or "")
        assert list((await stub.ListProfiles(pb.ListProfilesRequest())).profiles) == []


async def test_writing_needs_a_role(database_dsn: str, kafka_bootstrap: str) -> None:
    settings = settings_for(database_dsn, kafka_bootstrap, auth_key=KEY)
    authenticator = Authenticator(KEY)
    for roles, allowed in (((), False), (("agent",), False), (("profiler",), True), (("admin",), True)):
        token = authenticator.issue("someone", tenants=["research"], roles=roles)
        async with running(settings, token) as stub:
            await stub.ListProfiles(pb.ListProfilesRequest())
            if allowed:
                await stub.PutProfiles(a_put(a_message()))
                continue
            for call in (
                stub.PutProfiles(a_put(a_message())),
                stub.ImportProfiles(pb.ImportProfilesRequest(format="gavel", content=b"{}")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_catalogue_is_served_as_it_is(database_dsn: str, kafka_bootstrap: str) -> None:
    async with running(settings_for(database_dsn, kafka_bootstrap)) as stub:
        entries = (await stub.ListAccelerators(pb.ListAcceleratorsRequest())).accelerators
    assert [one.name for one in entries] == [one.name for one in catalogue.load()]
    (wafer,) = (one for one in entries if one.name == "Cerebras-WSE-3")
    assert [(peak.precision, peak.sparse) for peak in wafer.peaks] == [("fp16", True)]
    (anonymous,) = (one for one in entries if one.name == "G2")
    assert not anonymous.HasField("memory_bytes")


async def test_seeds_are_added_once_and_republished(database_dsn: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    workload = f"seed-{time.time_ns()}"
    (tmp_path / "own.yaml").write_text(
        f"workloads: [{{workload: {workload}, unit: samples/s, provenance: declared,"
        " runs: [{accelerator: L4, throughput: 7}]}]"
    )
    settings = settings_for(
        database_dsn,
        kafka_bootstrap,
        seed_demo=True,
        seed_directory=tmp_path,
        republish=True,
        republish_seconds=1.0,
    )
    # Not while it is put: the seed would be told twice.
    async with running(settings.model_copy(update={"republish": False})) as stub:
        demo = await stub.QueryProfiles(pb.QueryProfilesRequest(workload="llama-8b-serve", devices=1))
        assert demo.profiles[0].provenance == pb.PROVENANCE_DECLARED
        assert (await stub.PutProfiles(a_put(a_message(workload, throughput=8.0)))).changed == 1
    async with running(settings) as stub:
        got = await stub.GetProfile(pb.GetProfileRequest(workload=workload, accelerator="L4"))
        assert (got.profile.throughput, got.profile.version) == (8.0, 2)
        # Once for the seed, once for the change, and again from time to time.
        records = await records_of(kafka_bootstrap, workload, 4)
    assert [one.version for one in records[:2]] == [1, 2]
    assert {one.version for one in records[2:]} == {2}


async def test_the_process_starts_answers_and_stops(database_dsn: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.json"
    environment = {
        **os.environ,
        "BERTH_POSTGRES_DSN": database_dsn,
        "BERTH_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "BERTH_ENDPOINT_FILE": str(endpoints),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "profile_store.main", env=environment)
    try:
        async with asyncio.timeout(30):
            while not endpoints.exists():
                assert process.returncode is None
                await asyncio.sleep(0.05)
        addresses = json.loads(endpoints.read_text())
        async with aiohttp.ClientSession() as session, session.get(f"http://{addresses['http']}/readyz") as response:
            assert response.status == 200
        channel = connect(addresses["grpc"])
        page = await ProfileServiceStub(channel).ListProfiles(pb.ListProfilesRequest(page_size=1))
        assert len(page.profiles) == 1
        await channel.close()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_bad_settings_are_misuse() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "profile_store.main",
        env={**os.environ, "BERTH_REPUBLISH_SECONDS": "0"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"BERTH_REPUBLISH_SECONDS: '0'" in errors
