"""The executor `triton`: every member of an attempt is one copy of a model on the server of its node.

    bind     each member: find the server, choose a backend, prepare, serve; one refusal unloads the others
    watch    every few seconds each copy is looked at: what vanished is loaded again, by the same attempt
    release  waits for a load of its own on its way, unloads, and looks until it is gone

A copy's name on the server is made from the attempt and the member, so that no load of an old attempt can meet a newer
one. What was released here is remembered and looked for again for a while: a load that was on its way in the network
meanwhile is unloaded. The state is on the servers: another instance reads it back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from berth.backends.base import Backend, Health, Refused, Serving, Unanswered, Unreachable
from berth.backends.triton_client import TritonClient
from berth.errors import InvalidInput
from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.executor import Asked, LogPiece, Observations, Reading, Sink
from binder.domain.work import Assignment, Member
from binder.executors.model_rules import ModelRules
from binder.executors.triton_copies import (
    Servers,
    placement_of,
    served_name,
)
from binder.executors.triton_latency import Pages
from binder.executors.triton_loading import Loading, started
from binder.executors.triton_members import Held, Members
from binder.executors.triton_speed import triton_reports
from binder.executors.triton_sweep import Sweep

__all__ = ["Times", "TritonExecutor"]

log = structlog.get_logger(__name__)

MOST_PAUSE = 30.0
"""Seconds between loads of a copy that vanished."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `bind`: how long a call waits before it says UNCLEAR and the rest comes by the sink; `watch`: between
    looks at what is served; `grace`: how long a server may be gone before its attempts have failed; `remember`: how
    long what was released is looked for again."""

    bind: float = 12.0
    watch: float = 2.0
    grace: float = 60.0
    remember: float = 600.0


class TritonExecutor:
    """`backends`: the first that can run the artefact on the member's accelerator serves it. `rules`: which
    models are opened for whom. `clock`: seconds since the epoch. `pages`: of each node the metrics of its server, where
    they are not at Triton's own port."""

    batch = 16
    forgets = True
    """A server has no statistics of what it unloaded."""

    def __init__(
        self,
        servers: Servers,
        backends: Sequence[Backend],
        *,
        rules: ModelRules,
        clock: Callable[[], float],
        times: Times | None = None,
        pages: Servers | None = None,
    ) -> None:
        self._servers = servers
        self._pages = Pages(servers, pages or Servers())
        self._backends = tuple(backends)
        self._clock = clock
        self._times = times or Times()
        self._held: dict[AttemptId, Held] = {}
        self._members = Members(servers, backends, self._held)
        self._loading = Loading(self._members, rules, clock=clock, grace=self._times.grace, given_up=self._remember)
        self._released: dict[AttemptId, tuple[float, Assignment]] = {}
        self._silent: dict[AttemptId, float] = {}
        self._sink: Sink | None = None
        self._looking: set[asyncio.Task[None]] = set()

    async def start(self, sink: Sink) -> None:
        self._sink = sink
        self._looking = {asyncio.create_task(self._watch()), asyncio.create_task(self._sweep())}

    async def stop(self) -> None:
        tasks: list[asyncio.Task[Any]] = [held.task for held in self._held.values() if held.task is not None]
        tasks += self._looking
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._looking.clear()
        self._sink = None
        self._held.clear()
        for backend in self._backends:
            close = getattr(backend, "close", None)
            if close is not None:
                await close()

    async def bind(self, assignments: Sequence[Assignment]) -> Observations:
        return await self._all(assignments, self._bind)

    async def read_back(self, assignments: Sequence[Assignment]) -> Observations:
        return await self._all(assignments, self._read_back)

    async def release(self, assignments: Sequence[Assignment]) -> Observations:
        return await self._all(assignments, self._release)

    async def reports(self, asked: Sequence[Asked]) -> Mapping[AttemptId, Reading]:
        return await triton_reports(asked, self._statistics, self._clock, self._pages.look())

    async def _statistics(self, assignment: Assignment, member: Member) -> Mapping[str, Any] | None:
        async with TritonClient(placement_of(assignment, member, self._servers).address) as client:
            return await client.statistics(served_name(assignment, member))

    async def logs(
        self, assignment: Assignment, member: int, *, follow: bool, tail_lines: int
    ) -> AsyncIterator[LogPiece]:
        """What each server says of its copy: whether it is ready, and its counts since it was loaded."""
        for each in assignment.work.members:
            if member in (-1, each.member):
                yield LogPiece(each.member, "stdout", (await self._members.told(assignment, each) + "\n").encode())

    async def _all(
        self, assignments: Sequence[Assignment], call: Callable[[Assignment], Coroutine[Any, Any, Observation]]
    ) -> Observations:
        seen = await asyncio.gather(*(call(each) for each in assignments))
        return {each.id: one for each, one in zip(assignments, seen, strict=True)}

    async def _bind(self, assignment: Assignment) -> Observation:
        if assignment.id in self._released:
            return Observation(Seen.RELEASED, self._clock())
        held = self._held.setdefault(assignment.id, Held(assignment))
        if held.releasing:
            return Observation(Seen.UNCLEAR, self._clock(), "it is being released")
        if held.task is None:
            self._begin(held, self._loading.load(held))
        return await self._outcome(held)

    async def _read_back(self, assignment: Assignment) -> Observation:
        if assignment.id in self._released:
            return Observation(Seen.RELEASED, self._clock())
        held = self._held.get(assignment.id)
        if held is not None and held.task is not None:
            return await self._outcome(held)
        seen: list[Serving] = []
        wrong: Exception | None = None
        try:
            seen = await self._members.looks(assignment)
        except (Unanswered, Refused, InvalidInput) as error:
            wrong = error
        # Meanwhile it may have been released, by a call that knew more than this assignment does.
        if assignment.id in self._released:
            return Observation(Seen.RELEASED, self._clock())
        held = self._held.get(assignment.id)
        if held is not None and held.task is not None:
            return await self._outcome(held)
        if held is not None and held.releasing:
            return Observation(Seen.UNCLEAR, self._clock(), "it is being released")
        return await self._meant(assignment, seen, wrong)

    async def _meant(self, assignment: Assignment, seen: Sequence[Serving], wrong: Exception | None) -> Observation:
        """What a look that nothing has overtaken means. `wrong`: why there was none."""
        stays = assignment.attempt.bound_at is not None and not assignment.attempt.release_wanted
        if not isinstance(wrong, Unreachable):
            self._silent.pop(assignment.id, None)
        if isinstance(wrong, Unanswered):
            if isinstance(wrong, Unreachable) and assignment.attempt.bound_at is None:
                return await self._not_bound(assignment, wrong)
            if stays:
                # Bound before a restart: from now on its server's silence is counted.
                self._held.setdefault(assignment.id, Held(assignment, serving=True))
            return Observation(Seen.UNCLEAR, self._clock(), str(wrong))
        if wrong is not None:
            seen_now = Observation(Seen.FAILED if stays else Seen.ABSENT, self._clock(), str(wrong))
            if not stays:
                return seen_now
            held = self._held.setdefault(assignment.id, Held(assignment))
            held.serving = True
            self._begin(held, self._loading.give_up(held, seen_now))
            return await self._outcome(held)
        ready = [one.health is Health.READY for one in seen]
        if all(ready):
            if not assignment.attempt.release_wanted:
                held = self._held.setdefault(assignment.id, Held(assignment))
                held.serving, held.gone_since, held.vanished_at = True, None, None
            return started(assignment, self._clock(), seen)
        if stays:
            held = self._held.setdefault(assignment.id, Held(assignment))
            held.serving = True
            self._mend(held)
            if held.task is not None:
                return await self._outcome(held)
            return Observation(Seen.UNCLEAR, self._clock(), f"it vanished and is loaded again later: {held.words}")
        if assignment.attempt.bound_at is not None:
            # Its release says when it has ended: some of it may still be there.
            return Observation(Seen.UNCLEAR, self._clock(), "it is to be released")
        if any(ready):
            return Observation(Seen.PARTIAL, self._clock(), f"{sum(ready)} of {len(ready)} copies are loaded")
        return Observation(Seen.ABSENT, self._clock(), seen[0].message)

    async def _not_bound(self, assignment: Assignment, error: Unreachable) -> Observation:
        """Its server is away and may have it: given up after the grace, and looked for when the server is back."""
        now = self._clock()
        since = self._silent.setdefault(assignment.id, now)
        if now - since < self._times.grace:
            return Observation(Seen.UNCLEAR, now, str(error))
        words = f"its server could not be reached for more than {self._times.grace:g} s: {error}"
        held = self._held.setdefault(assignment.id, Held(assignment))
        self._begin(held, self._loading.give_up(held, Observation(Seen.REFUSED, now, words)))
        return await self._outcome(held)

    async def _release(self, assignment: Assignment) -> Observation:
        if assignment.id in self._released:
            return Observation(Seen.RELEASED, self._clock())
        held = self._held.setdefault(assignment.id, Held(assignment))
        if not held.releasing:
            held.releasing = True
            before = held.task
            held.task = None
            self._begin(held, self._loading.end(held, before))
        elif held.task is None:
            self._begin(held, self._loading.end(held, None))
        return await self._outcome(held)

    def _begin(self, held: Held, work: Coroutine[Any, Any, Observation]) -> None:
        """A task that goes on when the call that began it is given up: Triton goes on too."""
        task = asyncio.create_task(work)
        held.task, held.last = task, None

        def done(ended: asyncio.Task[Observation]) -> None:
            if ended.cancelled():
                return
            if held.task is ended:
                held.task = None
            error = ended.exception()
            if error is not None:
                log.error("executor failed", attempt=str(held.assignment.id), error=repr(error))
                return
            held.last = ended.result()
            self._concluded(held, ended.result())

        task.add_done_callback(done)

    async def _outcome(self, held: Held) -> Observation:
        """Of its task, where that ends in time."""
        assert held.task is not None
        task = held.task
        await asyncio.wait([task], timeout=self._times.bind)
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()
        error = task.exception() if task.done() and not task.cancelled() else None
        words = f"the executor failed: {error!r}" if error is not None else "Triton is at it: loading or unloading"
        return Observation(Seen.UNCLEAR, self._clock(), words)

    def _concluded(self, held: Held, seen: Observation) -> None:
        """Also told by the sink: the call may have ended long ago. Telling twice changes nothing."""
        if seen.seen is not Seen.UNCLEAR:
            self._silent.pop(held.assignment.id, None)
        match seen.seen:
            case Seen.STARTED:
                held.serving, held.gone_since, held.vanished_at = True, None, None
            case Seen.RELEASED | Seen.FAILED:
                self._held.pop(held.assignment.id, None)
                self._remember(held.assignment)
            case Seen.REFUSED:
                self._held.pop(held.assignment.id, None)
            case _:
                if not held.serving and not held.releasing:
                    self._held.pop(held.assignment.id, None)
        if self._sink is not None and seen.seen is not Seen.UNCLEAR:
            self._sink({held.assignment.id: seen})

    def _remember(self, assignment: Assignment) -> None:
        """It is gone, and looked for again for a while."""
        self._released[assignment.id] = (self._clock(), assignment)

    async def _watch(self) -> None:
        """Each attempt is looked at by a task of its own: a server that is silent holds up its own only."""
        while True:
            await asyncio.sleep(self._times.watch)
            for held in list(self._held.values()):
                if held.serving and held.task is None and not held.releasing and not held.looking:
                    held.looking = True
                    look = asyncio.create_task(self._look_after(held))
                    self._looking.add(look)
                    look.add_done_callback(self._looking.discard)

    async def _look_after(self, held: Held) -> None:
        try:
            await self._check(held)
        # A server says something unheard of: it is looked at all the same, at the next turn.
        except Exception:
            log.exception("watching failed", attempt=str(held.assignment.id))
        finally:
            held.looking = False

    async def _check(self, held: Held) -> None:
        try:
            seen = await self._members.looks(held.assignment)
        except (Unanswered, Refused) as error:
            now = self._clock()
            held.gone_since = held.gone_since or now
            mine = self._held.get(held.assignment.id) is held and held.task is None and not held.releasing
            if mine and now - held.gone_since >= self._times.grace:
                words = f"its server was gone for more than {self._times.grace:g} s: {error}"
                self._begin(held, self._loading.give_up(held, Observation(Seen.FAILED, now, words)))
            return
        if self._held.get(held.assignment.id) is not held:
            return
        held.gone_since = None
        if all(one.health is Health.READY for one in seen):
            held.vanished_at = None
        elif held.task is None and not held.releasing:
            self._mend(held)

    def _mend(self, held: Held) -> None:
        """Loads again what vanished, each time after a longer wait; gives it up after the grace."""
        now = self._clock()
        if held.vanished_at is None:
            held.vanished_at, held.loads, held.load_at, held.words = now, 0, now, ""
        if held.loads and now - held.vanished_at >= self._times.grace:
            words = f"it vanished and was not ready again within {self._times.grace:g} s: {held.words}"
            self._begin(held, self._loading.give_up(held, Observation(Seen.FAILED, now, words)))
        elif now >= held.load_at:
            held.loads += 1
            held.load_at = now + min(MOST_PAUSE, 2.0**held.loads)
            self._begin(held, self._loading.load_again(held))

    async def _sweep(self) -> None:
        """What was released and is there all the same is unloaded: a load was on its way, or the server was away."""
        sweep = Sweep(self._servers, self._members.look, lambda of, member: self._members.unload_one(Held(of), member))
        try:
            while True:
                await asyncio.sleep(self._times.watch)
                now = self._clock()
                self._released = {
                    each: one for each, one in self._released.items() if now - one[0] <= self._times.remember
                }
                sweep.turn([assignment for _, assignment in self._released.values()])
        finally:
            await sweep.stop()
