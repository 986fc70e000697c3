"""When attempts are asked how fast they are, and when they are asked no more."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from binder.domain.attempt import AttemptId, State
from binder.domain.executor import Asked, Reading
from binder.domain.report import Speed
from binder.domain.reports import Open, Told
from binder.observing import GIVEN_UP_SECONDS, OBSERVED, Observer
from tests.unit.binder.builders import NOW, FakeExecutor, make_command

SPEED = Speed(units=10.0, unit="steps", seconds=2.0, members_counted=1, source="report")


def an_open(job_id: str, *, workload: str = "w", **changes: Any) -> Open:
    made = make_command(job_id, "true")
    attempt = replace(made.attempt, state=State.RUNNING, started_at=NOW, **changes)
    return Open(replace(made, attempt=attempt, work=replace(made.work, workload=workload)), "", 0, NOW)


@dataclass
class FakeReports:
    """The store's promises, in memory."""

    rows: dict[AttemptId, Open] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)

    async def open(self, executor: str, after: AttemptId, limit: int, *, ended: bool) -> list[Open]:
        found = [one for each, one in sorted(self.rows.items()) if each > after]
        return [one for one in found if not ended or one.assignment.attempt.ended_at is not None][:limit]

    async def of(self, attempts: Sequence[AttemptId]) -> list[Open]:
        return [self.rows[each] for each in attempts if each in self.rows]

    async def tell(self, told: Sequence[Told]) -> int:
        count = 0
        for one in told:
            self.told.append(one)
            speeds = one.reading.speeds if one.reading is not None else ()
            mark = one.open.mark if one.reading is None else one.reading.mark
            count += len(speeds)
            self.rows[one.open.assignment.id] = replace(
                one.open, mark=mark, sequence=one.open.sequence + len(speeds), reached=one.until
            )
            if one.over:
                del self.rows[one.open.assignment.id]
        return count


class FakeReporter(FakeExecutor):
    """Answers with what stands in `readings`, or raises it."""

    def __init__(self, *readings: Any) -> None:
        super().__init__()
        self.readings = list(readings)
        self.asked: list[Asked] = []

    async def reports(self, asked: Sequence[Asked]) -> Mapping[AttemptId, Reading]:
        self.asked += asked
        reading = self.readings.pop(0) if self.readings else None
        if isinstance(reading, Exception):
            raise reading
        return {} if reading is None else {each.assignment.id: reading for each in asked}


@asynccontextmanager
async def observing(reports: FakeReports, executor: FakeExecutor, *, now: float = NOW + 10) -> AsyncIterator[list[int]]:
    woken: list[int] = []
    observer = Observer(
        reports, {"process": executor}, every_seconds=0.02, clock=lambda: now, told=lambda: woken.append(1)
    )
    task = asyncio.create_task(observer.run())
    try:
        yield woken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def of(*opens: Open) -> FakeReports:
    return FakeReports({one.assignment.id: one for one in opens})


async def test_a_running_attempt_is_asked_from_the_mark_that_was_kept() -> None:
    reports, executor = of(an_open("j")), FakeReporter(Reading("a", (SPEED,)), None, Reading("b", (SPEED, SPEED)))
    async with observing(reports, executor) as woken:
        await until(lambda: len(executor.asked) >= 4)
    assert [each.mark for each in executor.asked[:4]] == ["", "a", "a", "b"]
    assert [(one.reading.mark, one.until) for one in reports.told if one.reading] == [("a", NOW + 10), ("b", NOW + 10)]
    assert len(woken) == 2


async def test_an_executor_that_fails_is_asked_again_and_nothing_is_lost() -> None:
    over = an_open("j", ended_at=NOW + 5)
    over = replace(
        over, assignment=replace(over.assignment, attempt=replace(over.assignment.attempt, state=State.FAILED))
    )
    reports, executor = of(over), FakeReporter(RuntimeError("gone"), TimeoutError(), Reading("a", (SPEED,)))
    async with observing(reports, executor):
        await until(lambda: not reports.rows)
    assert [(one.reading is not None, one.until, one.over) for one in reports.told] == [(True, NOW + 5, True)]
    assert all(each.ended for each in executor.asked)


async def test_what_has_more_to_be_read_is_not_over() -> None:
    over = an_open("j", ended_at=NOW + 5)
    over = replace(
        over, assignment=replace(over.assignment, attempt=replace(over.assignment.attempt, state=State.SUCCEEDED))
    )
    reports, executor = of(over), FakeReporter(Reading("a", (SPEED,), more=True), Reading("b", (SPEED,)))
    async with observing(reports, executor):
        await until(lambda: not reports.rows)
    assert [(one.reading.mark, one.over) for one in reports.told if one.reading] == [("a", False), ("b", True)]


async def test_an_attempt_whose_executor_never_answers_is_given_up() -> None:
    over = an_open("j", ended_at=NOW)
    over = replace(
        over, assignment=replace(over.assignment, attempt=replace(over.assignment.attempt, state=State.FAILED))
    )
    reports, executor = of(over), FakeReporter(*[RuntimeError("gone")] * 100)
    async with observing(reports, executor, now=NOW + GIVEN_UP_SECONDS + 1):
        await until(lambda: not reports.rows)
    assert reports.told[0].reading is None


async def test_a_job_without_a_workload_is_never_asked() -> None:
    reports, executor = of(an_open("j", workload="")), FakeReporter()
    async with observing(reports, executor):
        await until(lambda: not reports.rows)
    assert executor.asked == []


async def test_an_executor_that_tells_no_speed_is_left_alone() -> None:
    reports = of(an_open("j"))
    async with observing(reports, FakeExecutor()):
        await asyncio.sleep(0.1)
    assert (reports.told, len(reports.rows)) == ([], 1)


class FakeForgetter(FakeReporter):
    """Forgets what it released. `silent`: never answers for these."""

    def __init__(self, *readings: Any, forgets: bool = True, silent: frozenset[str] = frozenset()) -> None:
        super().__init__(*readings)
        self.forgets = forgets
        self.silent = silent

    async def reports(self, asked: Sequence[Asked]) -> Mapping[AttemptId, Reading]:
        if any(each.assignment.id.job_id in self.silent for each in asked):
            await asyncio.sleep(30)
        return await super().reports(asked)


async def looked_at(executor: FakeExecutor, *opens: Open) -> tuple[FakeReports, list[int]]:
    reports, woken = of(*opens), list[int]()
    observer = Observer(
        reports, {"process": executor}, every_seconds=60.0, clock=lambda: NOW + 10, told=lambda: woken.append(1)
    )
    await observer.last_look([one.assignment for one in opens])
    return reports, woken


async def test_what_is_about_to_be_forgotten_is_told_and_goes_on_to_be_asked_for() -> None:
    before = OBSERVED.labels("process")._value.get()
    reports, woken = await looked_at(FakeForgetter(Reading("a", (SPEED,))), an_open("j"))
    assert OBSERVED.labels("process")._value.get() == before + 1
    assert [(one.reading.mark, one.over) for one in reports.told if one.reading] == [("a", False)]
    assert ([one.mark for one in reports.rows.values()], woken) == (["a"], [1])


async def test_only_what_forgets_is_looked_at_a_last_time_and_only_for_a_workload() -> None:
    for executor in (FakeReporter(Reading("a", (SPEED,))), FakeForgetter(Reading("a", (SPEED,)), forgets=False)):
        assert (await looked_at(executor, an_open("j")))[0].told == []
        assert executor.asked == []
    executor = FakeForgetter(Reading("a", (SPEED,)))
    assert (await looked_at(executor, an_open("j", workload="")))[0].told == []


async def test_a_silent_server_keeps_no_other_attempt_from_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binder.observing.LAST_LOOK_SECONDS", 0.1)
    executor = FakeForgetter(Reading("a", (SPEED,)), silent=frozenset({"i"}))
    reports, _ = await looked_at(executor, an_open("i"), an_open("j"))
    assert [one.open.assignment.id.job_id for one in reports.told] == ["j"]
