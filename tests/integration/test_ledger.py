"""The two guards of capacity, each with the other switched off, on real PostgreSQL."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib import resources
from typing import Any

import asyncpg
import pytest

from berth.postgres import Database
from berth.v1 import fleet_pb2
from placement_engine.adapters import fleet_store, job_store
from placement_engine.adapters.job_store import NotInLedger, Placement, Submission, Superseded
from placement_engine.domain.model import DeviceClaim, Member
from placement_engine.domain.policy import Policy
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World
from tests.services import job, node


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    made = await Database.open(database_dsn, "engine", size=4)
    await made.migrate("berth", "placement_engine")
    async with made.transaction() as connection:
        await fleet_store.save_nodes(connection, [node("n0", 2)])
    yield made
    await made.close()


def submission(name: str) -> Submission:
    return Submission(name, "default", name, name, name.encode(), b"", "default", "default", "", 1.0)


def placement(job_id: str, device: str, *, milli: int = 1000, cpu: int = 1000, version: int = 1) -> Placement:
    member = Member(0, "n0", (DeviceClaim(device, 0, milli, 0),), cpu, 0)
    return Placement(job_id, version, 1, [member], b"", b"", "")


async def commit(database: Database, epoch: int, *placements: Placement) -> set[str]:
    async with database.transaction() as connection:
        return await job_store.commit_placements(
            connection, pool="default", epoch=epoch, placements=placements, now=2.0
        )


async def used(database: Database) -> list[int]:
    return [row["used_milli"] for row in await database.pool.fetch("SELECT used_milli FROM device ORDER BY device_id")]


async def accept(database: Database, *names: str) -> None:
    async with database.transaction() as connection:
        await job_store.accept(connection, [submission(name) for name in names], 1.0)


async def take_over(database: Database, planner: str, now: float) -> int:
    async with database.transaction() as connection:
        epoch = await fleet_store.take_over(connection, "default", planner, now, 10.0)
    assert epoch is not None
    return epoch


async def test_the_epoch_alone_stops_a_planner_that_was_superseded(database: Database) -> None:
    # The constraint is switched off: only the epoch guards.
    await database.pool.execute("ALTER TABLE device DROP CONSTRAINT device_within_capacity")
    await accept(database, "a", "b")
    old = await take_over(database, "old", 0.0)
    assert await commit(database, old, placement("a", "n0/0")) == {"a"}
    new = await take_over(database, "new", 100.0)
    with pytest.raises(Superseded):
        await commit(database, old, placement("b", "n0/0"))
    assert await used(database) == [1000, 0]
    assert await commit(database, new, placement("b", "n0/1")) == {"b"}


async def test_the_constraint_alone_stops_two_planners_of_one_epoch(database: Database) -> None:
    # The epoch is switched off: both hold the same one.
    await accept(database, "a", "b")
    epoch = await take_over(database, "one", 0.0)
    await commit(database, epoch, placement("a", "n0/0", milli=600))
    with pytest.raises(asyncpg.CheckViolationError):
        await commit(database, epoch, placement("b", "n0/0", milli=600))
    assert await used(database) == [600, 0]
    rows = await database.pool.fetch("SELECT state FROM job ORDER BY job_id")
    assert [row["state"] for row in rows] == [2, 1]


async def test_host_resources_are_guarded_too(database: Database) -> None:
    await accept(database, "a")
    epoch = await take_over(database, "one", 0.0)
    with pytest.raises(asyncpg.CheckViolationError):
        await commit(database, epoch, placement("a", "n0/0", cpu=64_001))


async def test_a_device_or_node_that_the_ledger_does_not_know_is_not_given(database: Database) -> None:
    await accept(database, "a", "b")
    epoch = await take_over(database, "one", 0.0)
    with pytest.raises(NotInLedger, match="n0/7"):
        await commit(database, epoch, placement("a", "n0/0"), placement("b", "n0/7"))
    elsewhere = Placement("a", 1, 1, [Member(0, "n7", (), 1000, 0)], b"", b"", "")
    with pytest.raises(NotInLedger, match="n7"):
        await commit(database, epoch, elsewhere)
    assert await used(database) == [0, 0]
    assert await database.pool.fetchval("SELECT count(*) FROM host_claim") == 0


async def test_nodes_that_come_while_a_cycle_waits_are_in_the_ledger_before_it_places(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the cycle's questions another node is heard of; the job fits on all of them together."""
    world = World()
    world.set_queues([fleet_pb2.Queue(name="default")])
    planner = Planner(
        "default",
        settings=EngineSettings(postgres_dsn="unused"),
        policy=Policy(),
        database=database,
        world=world,
        name="one",
        published=lambda: None,
    )
    await planner._wait_for_pool()
    wanted = replace(submission("a"), spec=job("a", devices=8, replicas=3, pool="default").SerializeToString())
    async with database.transaction() as connection:
        await job_store.accept(connection, [wanted], 1.0)
    planner.changed(["a"])
    world.add_node(node("early"))
    coming = iter(("late", "later"))

    def hears_of_a_node(module: Any, name: str) -> None:
        asked = getattr(module, name)

        async def answer(*arguments: Any) -> Any:
            found = await asked(*arguments)
            for late in itertools.islice(coming, 1):
                world.add_node(node(late))
            return found

        monkeypatch.setattr(module, name, answer)

    hears_of_a_node(job_store, "read_jobs")
    hears_of_a_node(fleet_store, "save_nodes")
    await planner.cycle()
    rows = await database.pool.fetch("SELECT node, used_milli FROM device WHERE node <> 'n0' ORDER BY device_id")
    assert {(row["node"], row["used_milli"]) for row in rows} == {(n, 1000) for n in ("early", "late", "later")}
    async with database.transaction() as connection:
        assert not (await fleet_store.audit(connection)).violations


async def test_a_living_planner_keeps_its_pool(database: Database) -> None:
    assert await take_over(database, "one", 0.0) == 1
    async with database.transaction() as connection:
        assert await fleet_store.take_over(connection, "default", "two", 5.0, 10.0) is None
        assert await fleet_store.heartbeat(connection, "default", 1, 9.0)
        assert await fleet_store.take_over(connection, "default", "two", 15.0, 10.0) is None
        assert await fleet_store.take_over(connection, "default", "two", 20.0, 10.0) == 2
        assert not await fleet_store.heartbeat(connection, "default", 1, 21.0)


async def test_a_job_that_changed_meanwhile_is_left_out_whole(database: Database) -> None:
    await accept(database, "a", "b")
    epoch = await take_over(database, "one", 0.0)
    await database.pool.execute("UPDATE job SET state = 7, version = 2 WHERE job_id = 'a'")
    assert await commit(database, epoch, placement("a", "n0/0"), placement("b", "n0/1")) == {"b"}
    assert await used(database) == [0, 1000]


async def test_freeing_is_idempotent(database: Database) -> None:
    await accept(database, "a")
    epoch = await take_over(database, "one", 0.0)
    await commit(database, epoch, placement("a", "n0/0"))
    for _ in range(2):
        async with database.transaction() as connection:
            await job_store.free_claims(connection, ["a"])
    assert await used(database) == [0, 0]


async def test_the_auditor_sees_each_broken_invariant(database: Database) -> None:
    await accept(database, "a")
    epoch = await take_over(database, "one", 0.0)
    await commit(database, epoch, placement("a", "n0/0"))

    async def broken() -> set[str]:
        async with database.transaction() as connection:
            return {one.invariant for one in (await fleet_store.audit(connection)).violations}

    assert await broken() == set()
    await database.pool.execute("UPDATE device SET used_milli = 1 WHERE device_id = 'n0/1'")
    assert await broken() == {"ledger matches claims"}
    await database.pool.execute("UPDATE device SET used_milli = 0 WHERE device_id = 'n0/1'")
    await database.pool.execute("UPDATE claim SET milli = 2000")
    assert await broken() == {"ledger matches claims", "no device over capacity"}
    await database.pool.execute("UPDATE claim SET milli = 1000")
    await database.pool.execute("UPDATE job SET state = 5")
    assert await broken() == {"only live jobs hold claims"}
    await database.pool.execute("UPDATE job SET state = 4; DELETE FROM host_claim")
    assert await broken() == {"gangs are whole"}


async def limited(database: Database, version: int, pods: int | None) -> None:
    record = node("n0", 2, version=version)
    if pods is not None:
        record.pod_limit = pods
    async with database.transaction() as connection:
        await fleet_store.save_nodes(connection, [record])


async def test_a_node_holds_no_more_pods_than_it_allows_and_a_limit_that_falls_takes_none_away(
    database: Database,
) -> None:
    await accept(database, "a", "b", "c", "d")
    epoch = await take_over(database, "one", 0.0)
    await limited(database, 2, 2)
    assert await commit(database, epoch, placement("a", "n0/0", milli=100)) == {"a"}
    with pytest.raises(asyncpg.CheckViolationError, match="node_pods_within_capacity"):
        await commit(
            database, epoch, placement("b", "n0/0", milli=100, cpu=0), placement("c", "n0/0", milli=100, cpu=0)
        )
    assert await commit(database, epoch, placement("b", "n0/0", milli=100, cpu=0)) == {"b"}
    await limited(database, 3, 1)
    async with database.transaction() as connection:
        assert list((await fleet_store.audit(connection)).violations) == []
        await job_store.free_claims(connection, ["b"])
        await job_store.free_claims(connection, ["b"])
    await limited(database, 4, 1)
    with pytest.raises(asyncpg.CheckViolationError):
        await commit(database, epoch, placement("c", "n0/0", milli=100))
    await limited(database, 5, None)
    assert await commit(database, epoch, placement("c", "n0/0", milli=100), placement("d", "n0/1")) == {"c", "d"}
    assert await database.pool.fetchval("SELECT pods_used FROM node") == 3


async def test_pods_that_sat_there_before_they_were_counted_are_counted(database: Database) -> None:
    """The migration, on a ledger that has claims."""
    await accept(database, "a")
    await commit(database, await take_over(database, "one", 0.0), placement("a", "n0/0"))
    await database.pool.execute("ALTER TABLE node DROP COLUMN pod_capacity, DROP COLUMN pods_used")
    await database.pool.execute(
        (resources.files("placement_engine") / "migrations" / "003_pod_limits.sql").read_text("utf-8")
    )
    assert await database.pool.fetchval("SELECT pods_used FROM node") == 1
