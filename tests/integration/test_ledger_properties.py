"""The ledger against a model: any sequence of commits and releases, on real PostgreSQL."""

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.postgres import Database
from placement_engine.adapters import fleet_store, job_store
from placement_engine.adapters.job_store import Placement
from placement_engine.domain.model import DeviceClaim, Member
from tests.integration.test_ledger import commit, submission, take_over
from tests.services import node

DEVICES = ("n0/0", "n0/1")
CLAIMS = st.lists(
    st.tuples(st.sampled_from(DEVICES), st.integers(100, 1000)), min_size=1, max_size=2, unique_by=lambda c: c[0]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), CLAIMS, st.integers(0, 40_000)),
        st.tuples(st.just("free"), st.integers(0, 9), st.just(0)),
    ),
    max_size=14,
)


@pytest.fixture
async def database(database_dsn: str):  # type: ignore[no-untyped-def]
    made = await Database.open(database_dsn, "engine", size=2)
    await made.migrate("berth", "placement_engine")
    yield made
    await made.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, pods=st.none() | st.integers(0, 4))
async def test_the_ledger_is_what_the_claims_say_and_never_above_capacity(
    database: Database,
    steps: list,  # type: ignore[type-arg]
    pods: int | None,
) -> None:
    await database.pool.execute("TRUNCATE job, claim, host_claim, decision, explanation, device, node CASCADE")
    async with database.transaction() as connection:
        n0 = node("n0", 2)
        if pods is not None:
            n0.pod_limit = pods
        await fleet_store.save_nodes(connection, [n0])
    epoch = await take_over(database, "one", 0.0)
    held: dict[str, tuple[dict[str, int], int]] = {}
    for number, (step, what, cpu) in enumerate(steps):
        if step == "commit":
            name = f"j{number}"
            async with database.transaction() as connection:
                await job_store.accept(connection, [submission(name)], 1.0)
            claims = dict(what)
            member = Member(
                0, "n0", tuple(DeviceClaim(device, 0, milli, 0) for device, milli in claims.items()), cpu, 0
            )
            fits = (
                all(
                    sum(taken.get(device, 0) for taken, _ in held.values()) + milli <= 1000
                    for device, milli in claims.items()
                )
                and sum(taken for _, taken in held.values()) + cpu <= 64_000
                and (pods is None or len(held) < pods)
            )
            try:
                await commit(database, epoch, Placement(name, 1, 1, [member], b"", b"", ""))
            except asyncpg.CheckViolationError:
                assert not fits
            else:
                assert fits
                held[name] = (claims, cpu)
        elif held:
            name = sorted(held)[what % len(held)]
            async with database.transaction() as connection:
                await job_store.free_claims(connection, [name])
                await connection.execute("UPDATE job SET state = 5 WHERE job_id = $1", name)
            del held[name]
        rows = await database.pool.fetch("SELECT device_id, used_milli FROM device")
        assert {row["device_id"]: row["used_milli"] for row in rows} == {
            device: sum(taken.get(device, 0) for taken, _ in held.values()) for device in DEVICES
        }
        (row,) = await database.pool.fetch("SELECT cpu_used, pods_used FROM node")
        assert dict(row) == {"cpu_used": sum(cpu for _, cpu in held.values()), "pods_used": len(held)}
    async with database.transaction() as connection:
        assert list((await fleet_store.audit(connection)).violations) == []
