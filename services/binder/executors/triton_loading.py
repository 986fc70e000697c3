"""What a task of the executor `triton` does with one attempt: load it whole or not at all, load it again, unload it."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from berth.backends.base import Refused, Serving, Unanswered, Unreachable
from berth.errors import InvalidInput
from binder.domain.attempt import Observation, Seen
from binder.domain.work import Assignment
from binder.executors.model_rules import ModelRules
from binder.executors.triton_copies import content_of
from binder.executors.triton_members import Held, Members

__all__ = ["Loading", "started"]

log = structlog.get_logger(__name__)


def started(assignment: Assignment, now: float, seen: Sequence[Serving]) -> Observation:
    """Every copy is ready."""
    at = assignment.attempt.started_at
    return Observation(
        Seen.STARTED, now, started_at=now if at is None else at, endpoints=tuple(one.endpoint for one in seen)
    )


class Loading:
    """`grace`: seconds after which a server that cannot be reached counts as gone. `given_up`: called with an attempt
    that was let go and may come back on its server."""

    def __init__(
        self,
        members: Members,
        rules: ModelRules,
        *,
        clock: Callable[[], float],
        grace: float,
        given_up: Callable[[Assignment], None],
    ) -> None:
        self._members = members
        self._rules = rules
        self._clock = clock
        self._grace = grace
        self._given_up = given_up

    async def load(self, held: Held) -> Observation:
        """Loads every member's copy, or none."""
        assignment = held.assignment
        members = assignment.work.members
        # Opened once for all members: a backend reads what is in use already no second time.
        opened = asyncio.create_task(asyncio.to_thread(content_of, assignment, self._rules))
        opened.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done = await asyncio.gather(
            *(self._members.serve(held, member, opened) for member in members), return_exceptions=True
        )
        refusals = [one for one in done if isinstance(one, (Refused, InvalidInput))]
        failures = [one for one in done if isinstance(one, BaseException)]
        if not failures:
            return started(assignment, self._clock(), [one for one in done if isinstance(one, Serving)])
        for one in failures:
            if not isinstance(one, (Refused, InvalidInput, Unanswered)):
                raise one
        if not refusals:
            return Observation(Seen.UNCLEAR, self._clock(), str(failures[0]))
        words = str(refusals[0])
        log.info("a model was refused", attempt=str(assignment.id), words=words)
        try:
            await self._members.unload(held)
        except Unanswered as error:
            # Not said as a refusal before the others are gone: the claim must not be free while they hold devices.
            return Observation(Seen.UNCLEAR, self._clock(), f"{words}; and the other members' copies: {error}")
        # What is wrong with the job itself is wrong on every node.
        retryable = any(isinstance(one, Refused) for one in refusals)
        return Observation(Seen.REFUSED, self._clock(), words, retryable=retryable)

    async def load_again(self, held: Held) -> Observation:
        """What is bound and vanished: the claims still stand and a copy has no state, so the same attempt loads it."""
        log.warning("a model vanished and is loaded again", attempt=str(held.assignment.id))
        seen = await self.load(held)
        held.words = seen.message
        if seen.seen is Seen.REFUSED:
            return Observation(Seen.FAILED, seen.at, f"it vanished and could not be loaded again: {seen.message}")
        return seen

    async def end(self, held: Held, before: asyncio.Task[Observation] | None) -> Observation:
        """Unloads, once what this instance was loading has been answered."""
        if before is not None:
            await asyncio.wait([before])
        try:
            await self._members.unload(held)
        except Unreachable as error:
            now = self._clock()
            held.gone_since = held.gone_since or now
            if now - held.gone_since < self._grace:
                return Observation(Seen.UNCLEAR, now, str(error))
            log.warning("released without the server's word", attempt=str(held.assignment.id), error=str(error))
        except Unanswered as error:
            # Somebody is there and may have it still: it holds its device however long that takes.
            held.gone_since = None
            return Observation(Seen.UNCLEAR, self._clock(), str(error))
        return Observation(Seen.RELEASED, self._clock())

    async def give_up(self, held: Held, seen: Observation) -> Observation:
        """`seen`, once each copy is gone that can be reached; UNCLEAR where one may still be there."""
        try:
            await self._members.unload(held)
        except Unreachable as error:
            log.warning("given up without the server's word", attempt=str(held.assignment.id), error=str(error))
        except Unanswered as error:
            log.warning("what is to be given up is there still", attempt=str(held.assignment.id), error=str(error))
            return Observation(Seen.UNCLEAR, self._clock(), f"{seen.message}; and it may still be there: {error}")
        self._given_up(held.assignment)
        return seen
