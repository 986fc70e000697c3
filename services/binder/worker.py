"""Carries intents to their executors and records what became of them.

`_carry_out` is the cycle: read back what was asked before, bind what is new, write what is known. The intent is
counted as tried, and committed, before the executor is called: after a crash that count says "read back first".
One binder at a time does this for a store.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Histogram

from berth.observability import record_span
from berth.postgres import TRANSIENT
from binder.domain.attempt import AttemptId, LifecycleKind, Observation, Outcome, Seen, Settled, State
from binder.domain.executor import Executor, NotHeld, Observations
from binder.domain.store import Settlement, Store
from binder.domain.work import Assignment

__all__ = ["Pace", "Worker"]

log = structlog.get_logger(__name__)

BINDINGS = Counter("berth_bindings_total", "Attempts by what became of binding them.", ["executor", "outcome"])
ENDS = Counter("berth_attempts_ended_total", "Attempts that were bound, by how they ended.", ["executor", "event"])
BIND_SECONDS = Histogram("berth_bind_seconds", "From the decision to bound.", ["executor"])

SETTLED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Pace:
    """`answer_seconds`: how long a call to an executor may take; `idle_seconds`: between looks without a wake-up;
    `reconcile_seconds`: between looks at everything held; `tries`: binds of an attempt of which the executor
    finds no trace, before it is given up; `flights`: batches on their way per executor."""

    answer_seconds: float = 15.0
    idle_seconds: float = 0.25
    reconcile_seconds: float = 30.0
    tries: int = 8
    flights: int = 4


class Worker:
    def __init__(
        self,
        store: Store,
        executors: Mapping[str, Executor],
        *,
        pace: Pace,
        clock: Callable[[], float] = time.time,
        published: Callable[[], None] = lambda: None,
        beside: Sequence[Callable[[], Awaitable[None]]] = (),
        last_look: Callable[[Sequence[Assignment]], Awaitable[None]] | None = None,
    ) -> None:
        """`published` is called after each commit that may have left records to relay. `beside`: what else only the
        one binder that has the store may run; it runs until cancelled. `last_look` sees attempts that are wanted
        released, before their executor does; it may see them again."""
        self._store = store
        self._executors = executors
        self._pace = pace
        self._clock = clock
        self._published = published
        self._beside = tuple(beside)
        self._last_look = last_look
        self._due = {name: asyncio.Event() for name in executors}
        self._busy: set[AttemptId] = set()
        self._seen: list[tuple[AttemptId, Observation]] = []
        self._heard = asyncio.Event()
        self._caught_up: set[str] = set()

    def not_ready(self) -> list[str]:
        missing = sorted(set(self._executors) - self._caught_up)
        return [f"executor {name}: attempts are being read back" for name in missing]

    def wake(self) -> None:
        """There may be new intents or releases."""
        for event in self._due.values():
            event.set()

    async def run(self) -> None:
        """Until cancelled. The database may come and go; after each time all is read back again."""
        while True:
            try:
                async with self._store.sole() as guard:
                    await self._serve(guard)
            except* TRANSIENT as errors:
                log.warning("work on attempts begins again", error=repr(errors.exceptions[0]))
            await asyncio.sleep(0.5)

    async def _serve(self, guard: Callable[[], Awaitable[None]]) -> None:
        try:
            for executor in self._executors.values():
                await executor.start(self._observe)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_endless(guard))
                tasks.create_task(self._record())
                for run in self._beside:
                    tasks.create_task(_endless(run))
                for name, executor in self._executors.items():
                    tasks.create_task(self._drive(name, executor))
        finally:
            self._caught_up.clear()
            for executor in self._executors.values():
                await executor.stop()
            self._seen.clear()
            self._busy.clear()

    async def _drive(self, name: str, executor: Executor) -> None:
        await self._store.rearm(name, self._clock())
        await self._read_back_held(name, executor)
        self._caught_up.add(name)
        lease_seconds = 3 * self._pace.answer_seconds + 5
        room = asyncio.Semaphore(self._pace.flights)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reconcile(name, executor))
            while True:
                await room.acquire()
                self._due[name].clear()
                batch = await self._store.take(name, self._clock(), executor.batch, lease_seconds)
                fresh = [each for each in batch if each.id not in self._busy]
                if len(fresh) < len(batch):
                    # A release that overtakes its own bind waits for it.
                    late = [each.id for each in batch if each.id in self._busy]
                    await self._store.postpone(late, self._clock() + 0.1)
                if fresh:
                    self._busy.update(each.id for each in fresh)
                    flight = tasks.create_task(self._carry_out(executor, fresh))
                    flight.add_done_callback(lambda _: room.release())
                else:
                    room.release()
                if len(batch) < executor.batch:
                    await _wait(self._due[name], self._pace.idle_seconds)

    async def _carry_out(self, executor: Executor, batch: Sequence[Assignment]) -> None:
        """The cycle, for attempts taken from the store."""
        try:
            found: dict[AttemptId, Observation] = {}
            leaving, staying, binding = [], [], []
            for each in batch:
                asked = each.attempt.tries > 1 or each.attempt.state is not State.INTENT
                if not asked and each.attempt.release_wanted:
                    # 1. Released before the executor ever heard of it: there is nothing to end.
                    found[each.id] = Observation(Seen.RELEASED, self._clock())
                elif each.attempt.release_wanted:
                    leaving.append(each)
                elif asked:
                    staying.append(each)
                else:
                    binding.append(each)
            # 2. Read back what was asked before, and look a last time at what is to be released. What got nowhere is
            #    bound again, under the same id; after too many tries the executor is told to let go of it, so that a
            #    late effect cannot follow.
            read, _ = await asyncio.gather(self._ask(executor.read_back, staying), self._look_at(leaving))
            for each in staying:
                if read[each.id].seen not in (Seen.ABSENT, Seen.PARTIAL):
                    found[each.id] = read[each.id]
                elif each.attempt.tries > self._pace.tries:
                    leaving.append(each)
                else:
                    binding.append(each)
            # 3. End what is to be released.
            found |= await self._ask(executor.release, leaving)
            # 4. Bind what is new.
            found |= await self._ask(executor.bind, binding)
            # 5. Write what is known, and tell it.
            self._tell(await self._store.settle(list(found.items()), self._clock()))
        finally:
            self._busy.difference_update(each.id for each in batch)

    async def _look_at(self, leaving: Sequence[Assignment]) -> None:
        """No longer than an executor may take: a release waits for it."""
        if self._last_look is None or not leaving:
            return
        try:
            async with asyncio.timeout(self._pace.answer_seconds):
                await self._last_look(leaving)
        except TimeoutError:
            log.warning("what is released was not looked at a last time", attempts=len(leaving))

    async def _ask(
        self, call: Callable[[Sequence[Assignment]], Awaitable[Observations]], batch: Sequence[Assignment]
    ) -> dict[AttemptId, Observation]:
        """An observation for each: whatever is not a clear answer is UNCLEAR."""
        if not batch:
            return {}
        answer: Observations = {}
        rest = Seen.UNCLEAR
        message = "the executor did not say"
        try:
            async with asyncio.timeout(self._pace.answer_seconds):
                answer = await call(batch)
        except NotHeld as error:
            rest, message = Seen.REFUSED, str(error)
        except TimeoutError:
            message = f"the executor gave no answer within {self._pace.answer_seconds:g} s"
        except Exception as error:
            log.exception("executor failed", attempts=len(batch))
            message = f"the executor failed: {error!r}"
        now = self._clock()
        return {each.id: answer.get(each.id) or Observation(rest, now, message) for each in batch}

    async def _reconcile(self, name: str, executor: Executor) -> None:
        while True:
            await asyncio.sleep(self._pace.reconcile_seconds)
            await self._read_back_held(name, executor)

    async def _read_back_held(self, name: str, executor: Executor) -> None:
        after = AttemptId("", 0)
        while batch := await self._store.held(name, after, SETTLED_AT_ONCE):
            after = batch[-1].id
            read = await self._ask(executor.read_back, batch)
            # "Still running" about what is known to run is no news.
            news = [
                (each.id, read[each.id])
                for each in batch
                if read[each.id].seen is not Seen.UNCLEAR
                and not (read[each.id].seen is Seen.STARTED and each.attempt.state is State.RUNNING)
            ]
            if news:
                self._tell(await self._store.settle(news, self._clock()))

    def _observe(self, observations: Observations) -> None:
        self._seen.extend(observations.items())
        self._heard.set()

    async def _record(self) -> None:
        """Writes what executors report by themselves."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            while self._seen:
                some = self._seen[:SETTLED_AT_ONCE]
                self._tell(await self._store.settle(some, self._clock()))
                del self._seen[: len(some)]

    def _tell(self, settlements: Iterable[Settlement]) -> None:
        """After the commit: the relay, metrics and spans."""
        told = False
        for one in settlements:
            told = told or bool(one.events)
            _account(one)
        if told:
            self._published()


def _account(settlement: Settlement) -> None:
    attempt = settlement.attempt
    labels: dict[str, str | int] = {
        "berth.job_id": attempt.id.job_id,
        "berth.attempt": attempt.id.attempt,
        "berth.executor": attempt.executor,
        "berth.members": attempt.members,
    }
    for event in settlement.events:
        if isinstance(event, Settled):
            BINDINGS.labels(attempt.executor, event.outcome.value).inc()
            if event.outcome is Outcome.UNKNOWN:
                continue
            start = min(attempt.decided_at or attempt.intended_at, event.at)
            BIND_SECONDS.labels(attempt.executor).observe(event.at - start)
            error = event.message or "not bound" if event.outcome is Outcome.FAILED else ""
            record_span("bind", parent=attempt.traceparent, start=start, end=event.at, attributes=labels, error=error)
        elif event.kind is not LifecycleKind.STARTED:
            ENDS.labels(attempt.executor, event.kind.value).inc()
            if attempt.started_at is None:
                continue
            failed = event.kind is LifecycleKind.FAILED
            record_span(
                "run",
                parent=attempt.traceparent,
                start=attempt.started_at,
                end=event.at,
                attributes=labels | {"berth.outcome": event.kind.value},
                error=event.message or "failed" if failed else "",
            )


async def _endless(guard: Callable[[], Awaitable[None]]) -> None:
    await guard()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass
