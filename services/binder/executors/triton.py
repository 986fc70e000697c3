"""The executor `triton`: every member of an attempt is one copy of a model on the server of its node.

    bind     each member: find the server, choose a backend, prepare, serve; one refusal unloads the others
    watch    every few seconds each copy is looked at: what vanished is loaded again, by the same attempt
    release  waits for a load of its own on its way, unloads, and looks until it is gone

A copy's name on the server is made from the attempt and the member, so that no load of an old attempt can meet a newer
one. What was released here is remembered and looked for again for a while: a load that was on its way in the network
meanwhile is unloaded. The state is on the servers: another instance reads it back.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from berth import catalogue
from berth.backends.base import Backend, Health, Placement, Refused, Serving, Unanswered, Unreachable
from berth.backends.registry import on
from berth.backends.triton_client import TritonClient
from berth.backends.triton_serving import TritonServing
from berth.errors import InvalidInput
from berth.models.artefact import Artefact
from berth.models.artefact_file import Opened
from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.executor import Asked, LogPiece, Observations, Reading, Sink
from binder.domain.work import Assignment, Member
from binder.executors.triton_copies import (
    NO_SUCH_MODEL,
    Servers,
    content_of,
    placement_of,
    raise_worst,
    served_name,
)
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


@dataclass(slots=True)
class _Held:
    """An attempt that this instance loads, serves or ends. One task at a time works on it."""

    assignment: Assignment
    task: asyncio.Task[Observation] | None = None
    serving: bool = False
    releasing: bool = False
    looking: bool = False
    last: Observation | None = None
    gone_since: float | None = None
    vanished_at: float | None = None
    loads: int = 0
    load_at: float = 0.0
    words: str = ""
    backends: dict[int, Backend] = field(default_factory=dict)


class TritonExecutor:
    """`backends`: the first that can run the artefact on the member's accelerator serves it. `read`: an artefact from
    its path; it blocks and raises InvalidInput. `clock`: seconds since the epoch."""

    batch = 16

    def __init__(
        self,
        servers: Servers,
        backends: Sequence[Backend],
        *,
        read: Callable[[Path], Opened],
        clock: Callable[[], float],
        times: Times | None = None,
    ) -> None:
        self._servers = servers
        self._backends = tuple(backends)
        self._read = read
        self._clock = clock
        self._times = times or Times()
        self._held: dict[AttemptId, _Held] = {}
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
        return await triton_reports(asked, self._statistics, self._clock)

    async def _statistics(self, assignment: Assignment, member: Member) -> Mapping[str, Any] | None:
        async with TritonClient(placement_of(assignment, member, self._servers).address) as client:
            return await client.statistics(served_name(assignment, member))

    async def logs(
        self, assignment: Assignment, member: int, *, follow: bool, tail_lines: int
    ) -> AsyncIterator[LogPiece]:
        """What each server says of its copy: whether it is ready, and its counts since it was loaded."""
        for each in assignment.work.members:
            if member in (-1, each.member):
                yield LogPiece(each.member, "stdout", (await self._told(assignment, each) + "\n").encode())

    async def _told(self, assignment: Assignment, member: Member) -> str:
        name = served_name(assignment, member)
        try:
            placement = placement_of(assignment, member, self._servers)
            serving = await self._look(assignment, member)
            words = f"{name} on {member.node}: {serving.health.value} {serving.endpoint or placement.address}"
            async with TritonClient(placement.address) as client:
                found = await client.statistics(name)
        except (Refused, Unanswered, InvalidInput) as error:
            return f"{name} on {member.node}: {error}"
        if serving.message:
            words += f": {serving.message}"
        if found is None:
            return words
        stats = found["inference_stats"]
        good, bad = stats["success"], stats["fail"]
        mean = f", {int(good['ns']) / int(good['count']) / 1e6:.2f} ms each" if int(good["count"]) else ""
        counts = f"{found['inference_count']} answers in {found['execution_count']} runs"
        return f"{words}: {counts}{mean}, {bad['count']} failed"

    async def _all(
        self, assignments: Sequence[Assignment], call: Callable[[Assignment], Coroutine[Any, Any, Observation]]
    ) -> Observations:
        seen = await asyncio.gather(*(call(each) for each in assignments))
        return {each.id: one for each, one in zip(assignments, seen, strict=True)}

    async def _bind(self, assignment: Assignment) -> Observation:
        if assignment.id in self._released:
            return Observation(Seen.RELEASED, self._clock())
        held = self._held.setdefault(assignment.id, _Held(assignment))
        if held.releasing:
            return Observation(Seen.UNCLEAR, self._clock(), "it is being released")
        if held.task is None:
            self._begin(held, self._load(held))
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
            seen = await self._looks(assignment)
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
                self._held.setdefault(assignment.id, _Held(assignment, serving=True))
            return Observation(Seen.UNCLEAR, self._clock(), str(wrong))
        if wrong is not None:
            seen_now = Observation(Seen.FAILED if stays else Seen.ABSENT, self._clock(), str(wrong))
            if not stays:
                return seen_now
            held = self._held.setdefault(assignment.id, _Held(assignment))
            held.serving = True
            self._begin(held, self._give_up(held, seen_now))
            return await self._outcome(held)
        ready = [one.health is Health.READY for one in seen]
        if all(ready):
            if not assignment.attempt.release_wanted:
                held = self._held.setdefault(assignment.id, _Held(assignment))
                held.serving, held.gone_since, held.vanished_at = True, None, None
            return self._started(assignment, seen)
        if stays:
            held = self._held.setdefault(assignment.id, _Held(assignment))
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
        held = self._held.setdefault(assignment.id, _Held(assignment))
        self._begin(held, self._give_up(held, Observation(Seen.REFUSED, now, words)))
        return await self._outcome(held)

    async def _release(self, assignment: Assignment) -> Observation:
        if assignment.id in self._released:
            return Observation(Seen.RELEASED, self._clock())
        held = self._held.setdefault(assignment.id, _Held(assignment))
        if not held.releasing:
            held.releasing = True
            before = held.task
            held.task = None
            self._begin(held, self._end(held, before))
        elif held.task is None:
            self._begin(held, self._end(held, None))
        return await self._outcome(held)

    def _begin(self, held: _Held, work: Coroutine[Any, Any, Observation]) -> None:
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

    async def _outcome(self, held: _Held) -> Observation:
        """Of its task, where that ends in time."""
        assert held.task is not None
        task = held.task
        await asyncio.wait([task], timeout=self._times.bind)
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()
        error = task.exception() if task.done() and not task.cancelled() else None
        words = f"the executor failed: {error!r}" if error is not None else "Triton is at it: loading or unloading"
        return Observation(Seen.UNCLEAR, self._clock(), words)

    def _concluded(self, held: _Held, seen: Observation) -> None:
        """Also told by the sink: the call may have ended long ago. Telling twice changes nothing."""
        now = self._clock()
        if seen.seen is not Seen.UNCLEAR:
            self._silent.pop(held.assignment.id, None)
        match seen.seen:
            case Seen.STARTED:
                held.serving, held.gone_since, held.vanished_at = True, None, None
            case Seen.RELEASED | Seen.FAILED:
                self._held.pop(held.assignment.id, None)
                self._released[held.assignment.id] = (now, held.assignment)
            case Seen.REFUSED:
                self._held.pop(held.assignment.id, None)
            case _:
                if not held.serving and not held.releasing:
                    self._held.pop(held.assignment.id, None)
        if self._sink is not None and seen.seen is not Seen.UNCLEAR:
            self._sink({held.assignment.id: seen})

    async def _load(self, held: _Held) -> Observation:
        """Loads every member's copy, or none."""
        assignment = held.assignment
        members = assignment.work.members
        # Opened once for all members: a backend reads what is in use already no second time.
        opened = asyncio.create_task(asyncio.to_thread(content_of, assignment, self._read))
        opened.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done = await asyncio.gather(*(self._serve(held, member, opened) for member in members), return_exceptions=True)
        refusals = [one for one in done if isinstance(one, (Refused, InvalidInput))]
        failures = [one for one in done if isinstance(one, BaseException)]
        if not failures:
            return self._started(assignment, [one for one in done if isinstance(one, Serving)])
        for one in failures:
            if not isinstance(one, (Refused, InvalidInput, Unanswered)):
                raise one
        if not refusals:
            return Observation(Seen.UNCLEAR, self._clock(), str(failures[0]))
        words = str(refusals[0])
        log.info("a model was refused", attempt=str(assignment.id), words=words)
        try:
            await self._unload(held)
        except Unanswered as error:
            # Not said as a refusal before the others are gone: the claim must not be free while they hold devices.
            return Observation(Seen.UNCLEAR, self._clock(), f"{words}; and the other members' copies: {error}")
        # What is wrong with the job itself is wrong on every node.
        retryable = any(isinstance(one, Refused) for one in refusals)
        return Observation(Seen.REFUSED, self._clock(), words, retryable=retryable)

    async def _load_again(self, held: _Held) -> Observation:
        """What is bound and vanished: the claims still stand and a copy has no state, so the same attempt loads it."""
        log.warning("a model vanished and is loaded again", attempt=str(held.assignment.id))
        seen = await self._load(held)
        held.words = seen.message
        if seen.seen is Seen.REFUSED:
            return Observation(Seen.FAILED, seen.at, f"it vanished and could not be loaded again: {seen.message}")
        return seen

    async def _serve(self, held: _Held, member: Member, opening: Awaitable[Opened]) -> Serving:
        assignment = held.assignment
        placement = placement_of(assignment, member, self._servers)
        try:
            opened = await opening
            backend = await asyncio.to_thread(self._choose, opened.artefact, placement)
            prepared = await backend.prepare(opened.artefact, opened.content, placement)
        except (Refused, InvalidInput, Unanswered):
            raise
        except Exception as error:
            # Nothing has been asked of a server yet, so nothing is held.
            log.exception("a model cannot be prepared", attempt=str(assignment.id))
            raise Refused(f"{placement.node}: it cannot be prepared: {type(error).__name__}: {error}") from error
        if held.releasing:
            raise Refused("it is being released")
        held.backends[member.member] = backend
        serving = await backend.serve(served_name(assignment, member), prepared, placement)
        if serving.health is Health.FAILED:
            raise Refused(serving.message)
        if serving.health is not Health.READY:
            raise Unanswered(serving.message or f"{serving.health.value} on {member.node}")
        return serving

    def _choose(self, artefact: Artefact, placement: Placement) -> Backend:
        accelerator = catalogue.by_name(placement.accelerator)
        if accelerator is None:
            raise Refused(f"accelerator: {placement.accelerator!r}: not in the catalogue")
        reasons: list[str] = []
        for backend in self._backends:
            verdict = backend.can_run(artefact, accelerator)
            if verdict.can:
                return backend
            if not all(one.startswith("format:") for one in verdict.reasons):
                reasons += verdict.reasons
        words = "; ".join(reasons) or f"format: {artefact.format!r}: no backend serves it"
        raise Refused(f"{placement.accelerator} on {placement.node}: {words}")

    async def _looks(self, assignment: Assignment) -> list[Serving]:
        """Each member's copy, all at once. Raises as `_look` does."""
        looks = (self._look(assignment, member) for member in assignment.work.members)
        done = await asyncio.gather(*looks, return_exceptions=True)
        raise_worst(done)
        return [one for one in done if isinstance(one, Serving)]

    async def _look(self, assignment: Assignment, member: Member) -> Serving:
        """By whichever backend has it: what is served says nothing of its backend from outside."""
        placement = placement_of(assignment, member, self._servers)
        name = served_name(assignment, member)
        held = self._held.get(assignment.id)
        known = held.backends.get(member.member) if held is not None else None
        found = Serving(Health.ABSENT, message=NO_SUCH_MODEL)
        for backend in (known,) if known is not None else self._distinct(placement):
            try:
                found = await backend.look(name, placement)
            except Refused as error:
                # A no to a question is no word of the model, where there is a server that may have it.
                if placement.address:
                    raise Unanswered(str(error)) from error
                raise
            if found.health is not Health.ABSENT:
                return found
        return found

    def _distinct(self, placement: Placement) -> list[Backend]:
        """Of those that serve such a device at all; all on Triton look alike: one speaks for them."""
        there = on(placement.accelerator, self._backends)
        on_triton = [one for one in there if isinstance(one, TritonServing) and placement.address]
        return [*on_triton[:1], *(one for one in there if not isinstance(one, TritonServing))]

    async def _end(self, held: _Held, before: asyncio.Task[Observation] | None) -> Observation:
        """Unloads, once what this instance was loading has been answered."""
        if before is not None:
            await asyncio.wait([before])
        try:
            await self._unload(held)
        except Unreachable as error:
            now = self._clock()
            held.gone_since = held.gone_since or now
            if now - held.gone_since < self._times.grace:
                return Observation(Seen.UNCLEAR, now, str(error))
            log.warning("released without the server's word", attempt=str(held.assignment.id), error=str(error))
        except Unanswered as error:
            # Somebody is there and may have it still: it holds its device however long that takes.
            held.gone_since = None
            return Observation(Seen.UNCLEAR, self._clock(), str(error))
        return Observation(Seen.RELEASED, self._clock())

    async def _give_up(self, held: _Held, seen: Observation) -> Observation:
        """`seen`, once each copy is gone that can be reached; UNCLEAR where one may still be there."""
        try:
            await self._unload(held)
        except Unreachable as error:
            log.warning("given up without the server's word", attempt=str(held.assignment.id), error=str(error))
        except Unanswered as error:
            log.warning("what is to be given up is there still", attempt=str(held.assignment.id), error=str(error))
            return Observation(Seen.UNCLEAR, self._clock(), f"{seen.message}; and it may still be there: {error}")
        self._released[held.assignment.id] = (self._clock(), held.assignment)
        return seen

    async def _unload(self, held: _Held) -> None:
        """Every member's copy. Raises Unanswered where one may be there still, Unreachable where no worse is known."""
        members = held.assignment.work.members
        done = await asyncio.gather(*(self._unload_one(held, one) for one in members), return_exceptions=True)
        raise_worst(done)

    async def _unload_one(self, held: _Held, member: Member) -> None:
        try:
            placement = placement_of(held.assignment, member, self._servers)
        except (Refused, InvalidInput):
            # It never had a place where it could have been loaded.
            return
        known = held.backends.get(member.member)
        for backend in (known,) if known is not None else self._distinct(placement):
            try:
                await backend.release(served_name(held.assignment, member), placement)
            except Refused as error:
                # Without a server of its node nothing was loaded.
                if placement.address:
                    raise Unanswered(str(error)) from error

    def _started(self, assignment: Assignment, seen: Sequence[Serving]) -> Observation:
        now = self._clock()
        at = assignment.attempt.started_at
        return Observation(
            Seen.STARTED, now, started_at=now if at is None else at, endpoints=tuple(one.endpoint for one in seen)
        )

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

    async def _look_after(self, held: _Held) -> None:
        try:
            await self._check(held)
        # A server says something unheard of: it is looked at all the same, at the next turn.
        except Exception:
            log.exception("watching failed", attempt=str(held.assignment.id))
        finally:
            held.looking = False

    async def _check(self, held: _Held) -> None:
        try:
            seen = await self._looks(held.assignment)
        except (Unanswered, Refused) as error:
            now = self._clock()
            held.gone_since = held.gone_since or now
            mine = self._held.get(held.assignment.id) is held and held.task is None and not held.releasing
            if mine and now - held.gone_since >= self._times.grace:
                words = f"its server was gone for more than {self._times.grace:g} s: {error}"
                self._begin(held, self._give_up(held, Observation(Seen.FAILED, now, words)))
            return
        if self._held.get(held.assignment.id) is not held:
            return
        held.gone_since = None
        if all(one.health is Health.READY for one in seen):
            held.vanished_at = None
        elif held.task is None and not held.releasing:
            self._mend(held)

    def _mend(self, held: _Held) -> None:
        """Loads again what vanished, each time after a longer wait; gives it up after the grace."""
        now = self._clock()
        if held.vanished_at is None:
            held.vanished_at, held.loads, held.load_at, held.words = now, 0, now, ""
        if held.loads and now - held.vanished_at >= self._times.grace:
            words = f"it vanished and was not ready again within {self._times.grace:g} s: {held.words}"
            self._begin(held, self._give_up(held, Observation(Seen.FAILED, now, words)))
        elif now >= held.load_at:
            held.loads += 1
            held.load_at = now + min(MOST_PAUSE, 2.0**held.loads)
            self._begin(held, self._load_again(held))

    async def _sweep(self) -> None:
        """What was released and is there all the same is unloaded: a load was on its way, or the server was away."""
        sweep = Sweep(self._servers, self._look, lambda of, member: self._unload_one(_Held(of), member))
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
