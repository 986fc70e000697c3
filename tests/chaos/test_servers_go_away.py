"""The broker and the database die in the middle of it and come back: nothing lost, nothing bound twice."""

import asyncio
import uuid
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from berth.testing.servers import postgres_server
from tests.conftest import load_kafka_broker
from tests.services import System, job, node

SUCCEEDED = 5


@pytest.mark.apache_kafka
@pytest.mark.timeout(280)
async def test_kafka_and_postgresql_are_killed_and_come_back(tmp_path: Path) -> None:
    kafka = load_kafka_broker()
    folder = tmp_path / "kafka"
    folder.mkdir()
    with kafka.Broker(folder) as broker, postgres_server(fsync=True) as database:
        admin = await asyncpg.connect(database.dsn)
        await admin.execute("CREATE DATABASE chaos")
        await admin.close()
        dsn = database.dsn.rpartition("/")[0] + "/chaos"
        async with System(tmp_path, dsn, broker.bootstrap, uuid.uuid4().hex) as system:
            engine = system.service("placement-engine", planner_lease_seconds="2")
            binder = system.service("binder")
            await engine.ready()
            await binder.ready()
            await system.publish_nodes([node(f"n{index}") for index in range(10)])

            await system.publish_jobs([job(f"a{index}", seconds=0.3) for index in range(60)])
            await asyncio.sleep(0.3)
            await asyncio.to_thread(database.kill)

            async def not_ready() -> bool:
                address = f"http://{engine.endpoint('http')}/readyz"
                async with aiohttp.ClientSession() as session, session.get(address) as answer:
                    return answer.status == 503 and "the database is away" in await answer.text()

            await system.eventually(not_ready, 20)
            await asyncio.to_thread(database.launch)
            await engine.ready()

            async def over(count: int) -> bool:
                try:
                    return await system.job_states() == {SUCCEEDED: count}
                except (OSError, asyncpg.PostgresError):
                    return False

            await system.eventually(lambda: over(60), 60)

            await system.publish_jobs([job(f"b{index}", seconds=0.3) for index in range(60)])
            await asyncio.sleep(0.2)
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(1.0)
            await asyncio.to_thread(broker.restart)
            await system.publish_jobs([job(f"c{index}", seconds=0.3) for index in range(20)])
            await system.eventually(lambda: over(140), 90)

            rows = await system.fetch("SELECT count(*) AS n, count(DISTINCT job_id) AS jobs FROM engine.decision")
            assert (rows[0]["n"], rows[0]["jobs"]) == (140, 140)
            assert list((await system.audit(engine)).violations) == []
            # Neither service had to be started again.
            assert not engine.ended
            assert not binder.ended
