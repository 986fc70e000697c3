"""Asks executors how fast their attempts are, and tells it: jobs.lifecycle, OBSERVED.

Every so many seconds each running attempt is asked once, and once more when it has ended. A reading is made from the
mark of the last one that was kept; the new mark and the record are written together. So a binder that dies between
reads the same lines again and tells them once. Nothing here touches an attempt's state.

Where an executor forgets what it released, `last_look` asks it before: after the intent to release is stored, and
before the executor hears of it. A binder that dies between looks again, from the mark that was kept.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog
from prometheus_client import Counter

from binder.domain.attempt import ENDED, AttemptId
from binder.domain.executor import Asked, Executor, Forgetting, Reading, Reporting
from binder.domain.reports import Open, Reports, Told
from binder.domain.work import Assignment

__all__ = ["Observer"]

log = structlog.get_logger(__name__)

OBSERVED = Counter("berth_observations_total", "Observations of running jobs' speed that were told.", ["executor"])

AT_ONCE = 200
LEAST_PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 15.0
LAST_LOOK_SECONDS = 6.0
"""How long a release waits for it at most."""
GIVEN_UP_SECONDS = 3600.0
"""An attempt that ended so long ago, and whose executor still cannot answer for it, is asked no more."""


class Observer:
    """`every_seconds`: between looks at what runs. `told` is called after each commit that left records."""

    def __init__(
        self,
        reports: Reports,
        executors: Mapping[str, Executor],
        *,
        every_seconds: float,
        clock: Callable[[], float],
        told: Callable[[], None],
    ) -> None:
        self._reports = reports
        self._executors = {name: each for name, each in executors.items() if isinstance(each, Reporting)}
        self._every_seconds = every_seconds
        self._clock = clock
        self._told = told
        self._ended = asyncio.Event()

    def wake(self) -> None:
        """An attempt may have ended. Cheap; call after each commit."""
        self._ended.set()

    async def run(self) -> None:
        """Until cancelled. Errors of executors are logged; those of the database go to the caller."""
        loop = asyncio.get_running_loop()
        next_look = loop.time() + self._every_seconds
        while True:
            self._ended.clear()
            everything = loop.time() >= next_look
            if everything:
                next_look = loop.time() + self._every_seconds
            for name, executor in self._executors.items():
                await self._look(name, executor, ended=not everything)
            await asyncio.sleep(min(LEAST_PAUSE_SECONDS, self._every_seconds))
            try:
                await asyncio.wait_for(self._ended.wait(), max(0.0, next_look - loop.time()))
            except TimeoutError:
                pass

    async def last_look(self, leaving: Sequence[Assignment]) -> None:
        """Tells what attempts did that are about to be released, as far as nobody can ask for it later. Each by itself:
        one whose server is silent keeps none other from being told. Errors of the database go to the caller."""
        asked: dict[AttemptId, Reporting] = {}
        for each in leaving:
            executor = self._executors.get(each.attempt.executor)
            if isinstance(executor, Forgetting) and executor.forgets:
                asked[each.id] = executor
        if not asked:
            return
        found = [one for one in await self._reports.of(list(asked)) if one.assignment.work.workload]

        async def ask(one: Open) -> Mapping[AttemptId, Reading] | None:
            return await self._ask(asked[one.assignment.id], [one], seconds=LAST_LOOK_SECONDS)

        answers = await asyncio.gather(*map(ask, found))
        told = [self._account(one, answer) for one, answer in zip(found, answers, strict=True)]
        for name in self._executors:
            of_one = [one for one in told if one.reading is not None and one.open.assignment.attempt.executor == name]
            if of_one and (count := await self._reports.tell(of_one)):
                OBSERVED.labels(name).inc(count)
                self._told()

    async def _look(self, name: str, executor: Reporting, *, ended: bool) -> None:
        after = AttemptId("", 0)
        while batch := await self._reports.open(name, after, AT_ONCE, ended=ended):
            after = batch[-1].assignment.id
            # A job that names no workload teaches nothing.
            answers = await self._ask(executor, [one for one in batch if one.assignment.work.workload])
            told = [self._account(one, answers) for one in batch]
            count = await self._reports.tell([one for one in told if one.over or one.reading is not None])
            OBSERVED.labels(name).inc(count)
            if count:
                self._told()
            if any(one.reading is not None and one.reading.more for one in told):
                self._ended.set()

    def _account(self, one: Open, answers: Mapping[AttemptId, Reading] | None) -> Told:
        attempt, now = one.assignment.attempt, self._clock()
        reading = None if answers is None else answers.get(attempt.id)
        ended = attempt.state in ENDED
        until = now if attempt.ended_at is None else attempt.ended_at
        if answers is None:
            over = ended and now - until > GIVEN_UP_SECONDS
        else:
            over = ended and not (reading is not None and reading.more)
        return Told(one, reading, until, over or not one.assignment.work.workload)

    async def _ask(
        self, executor: Reporting, batch: Sequence[Open], *, seconds: float = ANSWER_SECONDS
    ) -> Mapping[AttemptId, Reading] | None:
        """None: the executor did not answer."""
        asked = [Asked(one.assignment, one.mark, one.assignment.attempt.state in ENDED) for one in batch]
        if not asked:
            return {}
        try:
            async with asyncio.timeout(seconds):
                return await executor.reports(asked)
        except TimeoutError:
            log.warning("executor did not say how fast its attempts are", attempts=len(asked))
        except Exception:
            log.exception("executor could not say how fast its attempts are", attempts=len(asked))
        return None
