"""Estimates in a real PostgreSQL: what is kept and what is forgotten."""

from dataclasses import replace

from berth.postgres import Database
from profile_store.adapters.estimates import PostgresEstimates
from profile_store.bootstrap import SCHEMA
from profile_store.domain.learning import ENOUGH, Estimate, Reason, Run
from profile_store.domain.profile import ProfileKey


async def test_estimates_that_were_never_enough_and_are_not_heard_of_are_forgotten(database_dsn: str) -> None:
    database = await Database.open(database_dsn, SCHEMA, size=2)
    try:
        await database.migrate("berth", "profile_store")
        store = PostgresEstimates(database)
        one = Estimate(unit="steps", level=1.0, weight=1, learnt=1, other_units=2)
        made = {
            ProfileKey("few", "H100-SXM", 1): one,
            ProfileKey("none", "H100-SXM", 1): Estimate(set_aside={Reason.OTHER_UNIT: 4}),
            ProfileKey("enough", "H100-SXM", 1): replace(one, weight=ENOUGH),
            ProfileKey("late", "H100-SXM", 1): one,
        }
        async with database.transaction() as connection:
            assert set(await store.locked(connection, made)) == set(made)
            await store.save(connection, {Run("j", 1): 1}, made, [])
        await store.forget(30.0)
        assert dict(await store.listed("")) == made, "nothing is old yet"
        await database.pool.execute("UPDATE estimate SET heard_at = heard_at - interval '31 days'")
        async with database.transaction() as connection:
            await store.save(connection, {}, {ProfileKey("late", "H100-SXM", 1): one}, [])
        await store.forget(30.0)
        assert [key.workload for key, _ in await store.listed("")] == ["enough", "late"]
    finally:
        await database.close()


async def test_what_a_replica_of_the_last_release_selects_is_still_there(database_dsn: str) -> None:
    """Both run side by side during an update; what it could not read would make its observations dead letters."""
    database = await Database.open(database_dsn, SCHEMA, size=1)
    try:
        await database.migrate("berth", "profile_store")
        assert await database.pool.fetch("SELECT latency_p50_seconds, latency_p99_seconds FROM estimate") == []
    finally:
        await database.close()
