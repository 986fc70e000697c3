import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from binder.domain.attempt import AttemptId, Outcome, Seen, Settled, State
from binder.worker import Pace, Worker
from tests.unit.binder.builders import FakeExecutor, FakeStore, make_attempt

ID = AttemptId("job", 1)
PACE = Pace(answer_seconds=0.05, idle_seconds=0.01, reconcile_seconds=0.05, tries=3)


@asynccontextmanager
async def working(store: FakeStore, executor: FakeExecutor) -> AsyncIterator[Worker]:
    worker = Worker(store, {"fake": executor}, pace=PACE)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_an_intent_is_bound_runs_and_ends() -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor()
    async with working(store, executor) as worker:
        await until(lambda: store.rows[ID].state is State.RUNNING)
        assert worker.not_ready() == []
        executor.finish(ID)
        await until(lambda: store.rows[ID].state is State.SUCCEEDED)
    assert store.story(ID) == ["BOUND", "STARTED", "SUCCEEDED"]
    assert executor.calls.count("bind") == 1


@pytest.mark.parametrize("fault", ["hang", "raise", "silent"])
async def test_an_unclear_answer_is_unknown_until_a_read_back_says_what_happened(fault: str) -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor(fault, blind=2)
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.RUNNING)
    assert store.story(ID) == ["UNKNOWN", "BOUND", "STARTED"]
    assert executor.starts == [ID]
    assert executor.calls.count("bind") == 1, "it was held: there was nothing to bind again"


async def test_what_a_lost_call_never_did_is_done_under_the_same_id() -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor("hang-before")
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.RUNNING)
    assert store.story(ID) == ["UNKNOWN", "BOUND", "STARTED"]
    assert executor.starts == [ID]


async def test_after_too_many_tries_it_is_fenced_off_and_failed() -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor(*["hang-before"] * 10)
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.FAILED)
    assert store.story(ID) == ["UNKNOWN", "FAILED"]
    assert executor.fenced == {ID}
    last = store.told[-1][1]
    assert isinstance(last, Settled)
    assert last.retryable


async def test_not_held_is_a_clear_answer() -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor("not-held")
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.FAILED)
    assert [event for _, event in store.told] == [
        Settled(16, Outcome.FAILED, store.rows[ID].ended_at or 0.0, "no room", retryable=True)
    ]


async def test_a_restart_reads_back_before_it_binds() -> None:
    asked = make_attempt(tries=1)
    store, executor = FakeStore(asked), FakeExecutor()
    executor.held[ID] = "held"
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.RUNNING)
    assert (executor.calls[0], executor.starts) == ("read_back", [])


async def test_a_restart_finds_what_ended_meanwhile() -> None:
    store = FakeStore(make_attempt(state=State.RUNNING, bound_at=1.0, started_at=1.0, published=2, tries=1))
    executor = FakeExecutor()
    executor.held[ID] = "over"
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.SUCCEEDED)
    assert store.story(ID) == ["SUCCEEDED"]


async def test_a_lost_event_is_found_by_reconciling() -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor()
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.RUNNING)
        executor.held[ID] = "over"  # and nobody says so
        await until(lambda: store.rows[ID].state is State.SUCCEEDED)
    assert store.story(ID) == ["BOUND", "STARTED", "SUCCEEDED"]


async def test_released_before_it_was_asked_for_never_reaches_the_executor() -> None:
    store, executor = FakeStore(make_attempt(release_wanted=True, release_reason="cancelled")), FakeExecutor()
    async with working(store, executor):
        await until(lambda: store.rows[ID].state is State.RELEASED)
    assert (store.story(ID), executor.calls) == (["RELEASED"], [])


async def test_a_release_ends_what_runs() -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor()
    async with working(store, executor) as worker:
        await until(lambda: store.rows[ID].state is State.RUNNING)
        store.release(ID)
        worker.wake()
        await until(lambda: store.rows[ID].state is State.RELEASED)
        executor.finish(ID, Seen.FAILED)
        await asyncio.sleep(0.02)
    assert store.story(ID) == ["BOUND", "STARTED", "RELEASED"]


async def test_a_release_does_not_overtake_a_bind_on_its_way() -> None:
    store, executor = FakeStore(make_attempt()), FakeExecutor("hang")
    async with working(store, executor) as worker:
        await until(lambda: executor.calls == ["bind"])
        store.release(ID)
        worker.wake()
        await until(lambda: store.rows[ID].state is State.RELEASED)
    assert executor.calls.index("release") > executor.calls.index("bind")
    assert store.story(ID) == ["UNKNOWN", "RELEASED"]
    assert executor.held == {}


async def test_spans_cover_decision_to_bound_and_start_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[tuple[str, object, object, object, object]] = []

    def record(name: str, **span: object) -> str:
        spans.append((name, span["parent"], span["start"], span["end"], span["error"]))
        return ""

    monkeypatch.setattr("binder.worker.record_span", record)
    refused = AttemptId("refused", 1)
    store = FakeStore(make_attempt(traceparent="00-t", decided_at=990.0))
    executor = FakeExecutor()
    async with working(store, executor) as worker:
        await until(lambda: store.rows[ID].state is State.RUNNING)
        executor.finish(ID)
        await until(lambda: store.rows[ID].state is State.SUCCEEDED)
        executor.faults = ["not-held"]
        store.rows[refused] = make_attempt(
            "refused", traceparent="00-u", intended_at=0.0, decided_at=0.0, next_try_at=0.0
        )
        worker.wake()
        await until(lambda: store.rows[refused].state is State.FAILED)
    assert spans == [
        ("bind", "00-t", 990.0, 1000.0, ""),
        ("run", "00-t", 1000.0, 1005.0, ""),
        ("bind", "00-u", 0.0, store.rows[refused].ended_at, "no room"),
    ]
