"""The placement engine as a real process on real Kafka and PostgreSQL."""

import asyncio
import json
import signal
from typing import Any

import aiokafka
import grpc
import pytest

from berth.auth import Authenticator
from berth.grpc import connect
from berth.topics import BINDINGS_SETTLED, JOBS_SUBMITTED, PLACEMENTS_DECIDED
from berth.v1 import binding_pb2, jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from binder.pods.engine import Engine
from tests.integration.dead_letters import read_dead_letters
from tests.services import System, job, node

PENDING, PLACED, BOUND = 1, 2, 3


async def fleet_known(system: System, nodes: int) -> None:
    async def known() -> bool:
        return (await system.fetch("SELECT count(*) AS n FROM engine.node"))[0]["n"] >= nodes

    await system.eventually(known)


async def placed(system: System, count: int, seconds: float = 60) -> None:
    async def enough() -> bool:
        states = await system.job_states()
        return sum(n for state, n in states.items() if state != PENDING) >= count

    await system.eventually(enough, seconds)


async def test_jobs_from_kafka_and_grpc_are_placed_within_capacity(system: System) -> None:
    engine = system.service("placement-engine")
    await engine.ready()
    await system.publish_nodes([node(f"n{index}") for index in range(4)])
    await fleet_known(system, 4)
    await system.publish_jobs([job(f"k{index}", devices=2) for index in range(8)])
    await system.publish_raw(
        json.dumps({"name": "as-json", "devices": 1, "executor": "simulated", "expected_duration": "1s"}).encode(),
        content_type="application/json",
    )
    await placed(system, 9)
    async with connect(engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        answer = await stub.PlaceJob(placement_pb2.PlaceJobRequest(spec=job("g", devices=8), wait=True), timeout=10)
        assert answer.job.state == jobs_pb2.JOB_STATE_PLACED
        assert len(answer.job.members[0].devices) == 8
        assert answer.explanation.candidates[0].terms
        # 32 devices, 16 + 1 + 8 in use: the next 8 do not fit on one node, and the engine says why.
        waiting = await stub.PlaceJob(placement_pb2.PlaceJobRequest(spec=job("big", devices=8, replicas=2), wait=True),
                                      timeout=2)  # fmt: skip
        assert waiting.job.state == jobs_pb2.JOB_STATE_PENDING
        assert [reason.plugin for reason in waiting.explanation.reasons]
        # Executors come and go, a model server most of all: that none offers one now refuses nothing.
        spec = job("served")
        spec.executor, spec.model.uri = "triton", "/models/m"
        served = await stub.PlaceJob(placement_pb2.PlaceJobRequest(spec=spec, wait=True), timeout=2)
        assert served.job.state == jobs_pb2.JOB_STATE_PENDING
        assert "EXECUTOR_MISSING" in [reason.code for reason in served.explanation.reasons]
        again = await stub.PlaceJob(placement_pb2.PlaceJobRequest(spec=job("g", devices=8)))
        assert again.duplicate
        assert again.job.job_id == answer.job.job_id
        cancelled = await stub.CancelJob(placement_pb2.CancelJobRequest(job="big"))
        assert cancelled.job.state == jobs_pb2.JOB_STATE_CANCELLED
    audit = await system.audit(engine)
    assert list(audit.violations) == []
    assert audit.counts["claims"] == 16 + 1 + 8


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (job("x", queue="nowhere"), "queue"),
        (job("x", replicas=100), "replicas"),
        (job("x", replicas=-1), "replicas"),
        (job("x", accelerators=jobs_pb2.AcceleratorSelector(models=["H100-SMX"])), "accelerators.models[0]"),
        (job("Not A Name"), "name"),
    ],
)
async def test_bad_input_names_field_and_remedy(engine_with_fleet: Any, spec: jobs_pb2.JobSpec, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await engine_with_fleet.PlaceJob(placement_pb2.PlaceJobRequest(spec=spec))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith(f"{field}: ")


async def test_a_deadline_in_the_past_and_a_name_used_twice(engine_with_fleet: Any) -> None:
    late = job("late")
    late.deadline.FromSeconds(1)
    with pytest.raises(grpc.aio.AioRpcError, match="is in the past"):
        await engine_with_fleet.PlaceJob(placement_pb2.PlaceJobRequest(spec=late))
    await engine_with_fleet.PlaceJob(placement_pb2.PlaceJobRequest(spec=job("twice")))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await engine_with_fleet.PlaceJob(placement_pb2.PlaceJobRequest(spec=job("twice", devices=2)))
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.fixture
async def engine_with_fleet(system: System) -> Any:
    engine = system.service("placement-engine")
    await engine.ready()
    await system.publish_nodes([node("n0"), node("n1")])
    await fleet_known(system, 2)
    async with connect(engine.endpoint("grpc")) as channel:
        yield PlacementServiceStub(channel)


async def test_a_watch_says_when_it_listens_and_then_misses_nothing(system: System) -> None:
    engine = system.service("placement-engine")
    await engine.ready()
    async with Engine(engine.endpoint("grpc"), Authenticator(None)) as caller, asyncio.timeout(60):
        heard = caller.watch()
        # Nothing happens, and still it is told that from now on nothing is missed.
        assert await anext(heard) is None
        placed = await caller.place(job("first"))
        told = await anext(heard)
        assert told is not None
        assert told.job_id == placed.job_id


async def test_poison_goes_to_the_dead_letter_topic_and_holds_nothing_up(system: System) -> None:
    engine = system.service("placement-engine")
    await engine.ready()
    await system.publish_nodes([node("n0")])
    await fleet_known(system, 1)
    poison: list[tuple[bytes, str, str]] = [
        (b"\xff\xff\xff\xff", "application/protobuf", "INVALID_ARGUMENT"),
        (b"{broken", "application/json", "INVALID_ARGUMENT"),
        (b"<job/>", "application/xml", "INVALID_ARGUMENT"),
        (json.dumps({"name": "a", "devces": 1}).encode(), "application/json", "INVALID_ARGUMENT"),
        (json.dumps({"name": "a", "devices": 1, "queue": "nowhere"}).encode(), "application/json", "INVALID_ARGUMENT"),
        (b"[" * 100_000, "application/json", "INVALID_ARGUMENT"),
        (b"x" * 800_000, "application/json", "INVALID_ARGUMENT"),
    ]
    for value, content_type, _ in poison:
        await system.publish_raw(value, content_type=content_type)
    await system.publish_raw(
        b"x", content_type="application/json", headers={"authorization": "Bearer x", "odd": "\x00"}
    )
    await system.publish_jobs([job("good")])
    await placed(system, 1)
    dead = await read_dead_letters(system.bootstrap, JOBS_SUBMITTED, len(poison) + 1)
    assert sorted(one["value"] for one in dead) == sorted([*(value.decode("latin-1") for value, _, _ in poison), "x"])
    assert {one["berth-error-code"] for one in dead} == {"INVALID_ARGUMENT"}
    assert not any("authorization" in one for one in dead)
    assert any("did you mean 'devices'?" in one["berth-error-message"] for one in dead)


async def test_a_failed_bind_frees_the_claim_and_is_tried_again(system: System) -> None:
    engine = system.service("placement-engine")
    await engine.ready()
    await system.publish_nodes([node("n0")])
    await fleet_known(system, 1)
    await system.publish_jobs([job("flaky", devices=8)])
    await placed(system, 1)
    (row,) = await system.fetch("SELECT job_id, attempt FROM engine.job")

    async def settle(outcome: int, attempt: int, version: int) -> None:
        record = binding_pb2.BindingSettled(
            job_id=row["job_id"], attempt=attempt, version=version, outcome=outcome, message="no", retryable=True
        )
        record.settled_at.GetCurrentTime()
        await system.producer.send_and_wait(BINDINGS_SETTLED, record.SerializeToString(), key=row["job_id"].encode())

    await settle(binding_pb2.BIND_OUTCOME_UNKNOWN, 1, 1)
    await asyncio.sleep(0.5)
    assert [r["used_milli"] for r in await system.fetch("SELECT used_milli FROM engine.device")] == [1000] * 8
    await settle(binding_pb2.BIND_OUTCOME_FAILED, 1, 2)

    async def second_attempt() -> bool:
        rows = await system.fetch("SELECT attempt, state FROM engine.job")
        return [(r["attempt"], r["state"]) for r in rows] == [(2, PLACED)]

    await system.eventually(second_attempt)
    # Old news of the first attempt, and a record seen before, change nothing.
    await settle(binding_pb2.BIND_OUTCOME_FAILED, 1, 3)
    await settle(binding_pb2.BIND_OUTCOME_BOUND, 2, 4)

    async def bound() -> bool:
        return await system.job_states() == {BOUND: 1}

    await system.eventually(bound)
    assert list((await system.audit(engine)).violations) == []


@pytest.mark.apache_kafka
async def test_two_engines_share_the_work_and_a_paused_planner_cannot_commit(system: System) -> None:
    first = system.service("placement-engine", name="first", instance="first", planner_lease_seconds="2")
    await first.ready()
    await system.publish_nodes([node(f"n{index}") for index in range(10)])
    await fleet_known(system, 10)
    second = system.service("placement-engine", name="second", instance="second", planner_lease_seconds="2")
    await system.publish_jobs([job(f"a{index}") for index in range(30)])
    await second.ready()
    async with connect(second.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListNodes(placement_pb2.ListNodesRequest(pool="default"))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await system.publish_jobs([job(f"a{index}") for index in range(30)])  # delivered twice
    await placed(system, 30)
    first.signal(signal.SIGSTOP)
    await system.publish_jobs([job(f"b{index}") for index in range(30)])

    async def taken_over() -> bool:
        (row,) = await system.fetch("SELECT planner, epoch FROM engine.pool")
        return row["planner"] == "second" and row["epoch"] >= 2

    await system.eventually(taken_over)
    first.signal(signal.SIGCONT)
    await placed(system, 60)
    assert sum((await system.job_states()).values()) == 60
    assert list((await system.audit(second)).violations) == []
    (doubled,) = await system.fetch("SELECT count(*) AS n FROM engine.decision d JOIN engine.decision e USING (job_id) "
                                    "WHERE d.attempt <> e.attempt")  # fmt: skip
    assert doubled["n"] == 0


async def test_kill_9_of_the_engine_in_the_middle_loses_nothing(system: System) -> None:
    engine = system.service("placement-engine", planner_lease_seconds="2", instance="engine")
    await engine.ready()
    await system.publish_nodes([node(f"n{index}") for index in range(40)])
    await fleet_known(system, 40)
    for round_number in range(3):
        await system.publish_jobs([job(f"r{round_number}-{index}") for index in range(100)])
        await asyncio.sleep(0.15)
        engine.kill()
        engine.start()
    await engine.ready()
    await placed(system, 300)
    assert sum((await system.job_states()).values()) == 300
    assert list((await system.audit(engine)).violations) == []
    rows = await system.fetch("SELECT count(*) AS n, count(DISTINCT job_id) AS jobs FROM engine.decision")
    assert (rows[0]["n"], rows[0]["jobs"]) == (300, 300)

    async def published() -> bool:
        return (await system.fetch("SELECT count(*) AS n FROM engine.outbox"))[0]["n"] == 0

    await system.eventually(published)
    consumer = aiokafka.AIOKafkaConsumer(
        PLACEMENTS_DECIDED, bootstrap_servers=system.bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        attempts: dict[str, set[int]] = {}
        while batches := await consumer.getmany(timeout_ms=2000):
            for record in (one for batch in batches.values() for one in batch):
                decided = binding_pb2.PlacementDecided.FromString(record.value or b"")
                attempts.setdefault(decided.job_id, set()).add(decided.attempt)
    finally:
        await consumer.stop()
    stored = {row["job_id"] for row in await system.fetch("SELECT job_id FROM engine.job")}
    assert attempts == {job_id: {1} for job_id in stored}
