"""The whole service on a real PostgreSQL and a Kafka broker: scraped, published, stored, started again."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer

from berth.grpc import connect
from berth.outbox import OutboxRelay
from berth.postgres import Database
from berth.v1 import fleet_pb2, telemetry_pb2
from berth.v1.telemetry_pb2_grpc import TelemetryServiceStub
from telemetry_ingest.adapters.store import PostgresInventory
from telemetry_ingest.bootstrap import SCHEMA, build
from telemetry_ingest.domain.inventory import DeviceRecord, NodeRecord
from telemetry_ingest.domain.ports import Overtaken
from telemetry_ingest.settings import TelemetryIngestSettings
from tests.unit.telemetry_ingest import pages
from tests.unit.telemetry_ingest.builders import World


@asynccontextmanager
async def running(settings: TelemetryIngestSettings) -> AsyncIterator[TelemetryServiceStub]:
    """The service as `berth.service.run` runs it, in this process."""
    async with build(settings) as app:
        assert app.grpc is not None
        address = await app.grpc.start()
        tasks = [asyncio.ensure_future(start()) for start in app.tasks.values()]
        channel = connect(address)
        try:
            yield TelemetryServiceStub(channel)
            assert [task for task in tasks if task.done()] == []
        finally:
            await channel.close()
            await app.grpc.stop(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(found: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not await found():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.05)


async def test_from_a_page_to_the_topics_and_through_a_restart(
    database_dsn: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    # The broker is shared with the suite: names of our own.
    run = uuid.uuid4().hex[:8]
    n1, n2 = f"n1-{run}", f"n2-{run}"
    page = pages.DCGM.replace("GPU-a", f"GPU-{run}-a").replace("GPU-b", f"GPU-{run}-b")

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text=page)

    application = web.Application()

    async def ready(_request: web.Request) -> web.Response:
        return web.Response()

    application.router.add_get("/metrics", metrics)
    application.router.add_get("/v2/health/live", ready)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    targets = tmp_path / "targets.yaml"
    targets.write_text(
        f'[{{node: {n1}, topology: {{rack: r1}}, scrape: ["{url}/metrics"]}}, '
        f'{{node: {n2}, executors: [process], scrape: ["{url}/no"], triton: {{url: "{url}", metrics: ""}}}}]'
    )
    settings = TelemetryIngestSettings.model_validate(
        {
            "postgres_dsn": database_dsn,
            "kafka_bootstrap": kafka_bootstrap,
            "targets_file": targets,
            "scrape_interval_seconds": 0.2,
            "republish_seconds": 1.0,
        }
    )
    consumer = AIOKafkaConsumer(
        "telemetry.devices", "fleet.nodes", bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest"
    )
    samples: list[telemetry_pb2.NodeTelemetry] = []
    nodes: list[fleet_pb2.Node] = []

    async def read() -> None:
        for batch in (await consumer.getmany(timeout_ms=100)).values():
            for record in batch:
                if not (record.key or b"").endswith(run.encode()):
                    continue
                assert dict(record.headers)["content-type"] == b"application/protobuf"
                if record.topic == "telemetry.devices":
                    samples.append(telemetry_pb2.NodeTelemetry.FromString(record.value))
                    assert record.key == samples[-1].node.encode()
                else:
                    nodes.append(fleet_pb2.Node.FromString(record.value))
                    assert record.key == nodes[-1].name.encode()

    async def read_both() -> bool:
        await read()
        offered = any(one.name == n2 and one.executors == ["process", "triton"] for one in nodes)
        return (
            offered
            and len([one for one in samples if one.node == n1]) >= 3
            and any(len(one.devices) == 2 for one in nodes)
        )

    try:
        async with running(settings) as stub:
            await consumer.start()
            await until(read_both)
            answer = await stub.ListTargets(telemetry_pb2.ListTargetsRequest())
            assert [(one.node, one.healthy) for one in answer.targets] == [(n1, True), (n2, False)]
            assert "HTTP 404" in answer.targets[1].last_error
            await stub.CordonNode(telemetry_pb2.CordonNodeRequest(node=n1, cordoned=True, reason="test"))
        first = [one for one in samples if one.node == n1]
        assert [one.sequence for one in first] == sorted({one.sequence for one in first})
        assert len({one.boot_id for one in first}) == 1
        assert first[0].devices[0].power_watts == 402.5
        assert not first[0].devices[1].HasField("power_watts")
        # Nobody told n2's devices anything: its record is there, telemetry is not.
        assert {one.node for one in samples} == {n1}
        latest = {one.name: one for one in nodes}
        assert latest[n1].topology == {"rack": "r1"}
        assert [one.model for one in latest[n1].devices] == ["H100-SXM", "H100-SXM"]

        # Started again without its targets: the inventory is the same, and is published anew.
        samples.clear()
        nodes.clear()
        async with running(settings.model_copy(update={"targets_file": None})):

            async def read_again() -> bool:
                await read()
                return any(one.name == n1 and one.version == 3 and not one.schedulable for one in nodes)

            await until(read_again)
    finally:
        await consumer.stop()
        await runner.cleanup()


async def test_an_older_version_never_overwrites_a_newer_one(database_dsn: str) -> None:
    database = await Database.open(database_dsn, SCHEMA, size=2)
    try:
        await database.migrate("berth", "telemetry_ingest")
        store = PostgresInventory(database, OutboxRelay(database, "127.0.0.1:1"))
        record = NodeRecord(
            "n",
            devices=(DeviceRecord("d", 1, "T4", "GPU", "CUDA", 16, 70.0, False, "Tesla T4"),),
            topology=(("rack", "r"),),
            executors=("simulated",),
            schedulable=False,
            cordon_reason="fan",
            version=2,
            updated_at=5.5,
            origin="targets",
        )
        await store.save([record])
        with pytest.raises(Overtaken) as overtaken:
            await store.save([NodeRecord("n", version=1), NodeRecord("other", version=1)])
        assert overtaken.value.stored == (record,)
        assert await store.load() == [record]
        assert await database.pool.fetchval("SELECT count(*) FROM outbox") == 1
        assert await store.republish() == 1
        assert await database.pool.fetchval("SELECT count(DISTINCT value) FROM outbox") == 1
    finally:
        await database.close()


class LostAnswers(PostgresInventory):
    """Commits, and the connection breaks before the answer of each `save` comes."""

    async def save(self, records: Sequence[NodeRecord]) -> None:
        await super().save(records)
        raise ConnectionError("the server closed the connection")


async def test_two_at_once_and_a_lost_answer_lose_no_change(database_dsn: str) -> None:
    database = await Database.open(database_dsn, SCHEMA, size=2)
    try:
        await database.migrate("berth", "telemetry_ingest")
        relay = OutboxRelay(database, "127.0.0.1:1")
        store = PostgresInventory(database, relay)
        before, after = World(store), World(store)
        for world in (before, after):
            world.ingest.inventory.commit([NodeRecord("n", version=1, origin="targets")])
        await store.save([NodeRecord("n", version=1, origin="targets")])
        # What the one that ends wrote last, the other has not in its memory.
        await before.ingest.cordon("n", True, "fan")
        await before.ingest.apply_nodes([NodeRecord("n", cpu_milli=8000)])
        await after.ingest.apply_nodes([NodeRecord("m", cpu_milli=4000), NodeRecord("n", cpu_milli=16_000)])
        (m, n) = await store.load()
        assert (m.cpu_milli, m.version) == (4000, 1)
        assert (n.cpu_milli, n.version, n.cordon_reason) == (16_000, 4, "fan")
        assert after.ingest.inventory.nodes == {"m": m, "n": n}
        rows = await database.pool.fetch("SELECT value FROM outbox ORDER BY id")
        published = [fleet_pb2.Node.FromString(row["value"]) for row in rows]
        said = [(one.name, one.version) for one in published]
        assert said == [("n", 1), ("n", 2), ("n", 3), ("m", 1), ("n", 4)]
        # Committed, and not known to be.
        after.ingest._store = LostAnswers(database, relay)
        with pytest.raises(ConnectionError):
            await after.ingest.cordon("n", False, "")
        after.ingest._store = store
        after.tick()
        await after.ingest.cordon("n", True, "heat")
        (_, n) = await store.load()
        assert (n.cordon_reason, n.version, after.ingest.inventory.nodes["n"]) == ("heat", 6, n)
    finally:
        await database.close()


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="scrape_interval_seconds"):
        TelemetryIngestSettings.model_validate({"scrape_interval_seconds": 0})


def test_exporters_are_believed_where_operators_run_them() -> None:
    believed = TelemetryIngestSettings().exporter_namespaces
    assert {"kube-system", "monitoring", "gpu-operator"} <= set(believed)
    assert not {"default", "*"} & set(believed)
    assert TelemetryIngestSettings.model_validate({"exporter_namespaces": "a, b,"}).exporter_namespaces == ("a", "b")
