"""The copies of an attempt's members on their servers: one member's at a time, or all at once."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from berth import catalogue
from berth.backends.base import Backend, Health, Placement, Refused, Serving, Unanswered
from berth.backends.registry import on
from berth.backends.triton_client import TritonClient
from berth.backends.triton_serving import TritonServing
from berth.errors import InvalidInput
from berth.models.artefact import Artefact
from berth.models.artefact_file import Opened
from binder.domain.attempt import AttemptId, Observation
from binder.domain.work import Assignment, Member
from binder.executors.triton_copies import NO_SUCH_MODEL, Servers, placement_of, raise_worst, served_name

__all__ = ["Held", "Members"]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Held:
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


class Members:
    """`held`: the executor's attempts, of which it is known which backend serves each member."""

    def __init__(self, servers: Servers, backends: Sequence[Backend], held: Mapping[AttemptId, Held]) -> None:
        self._servers = servers
        self._backends = tuple(backends)
        self._held = held

    async def told(self, assignment: Assignment, member: Member) -> str:
        name = served_name(assignment, member)
        try:
            placement = placement_of(assignment, member, self._servers)
            serving = await self.look(assignment, member)
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

    async def serve(self, held: Held, member: Member, opening: Awaitable[Opened]) -> Serving:
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

    async def looks(self, assignment: Assignment) -> list[Serving]:
        """Each member's copy, all at once. Raises as `_look` does."""
        looks = (self.look(assignment, member) for member in assignment.work.members)
        done = await asyncio.gather(*looks, return_exceptions=True)
        raise_worst(done)
        return [one for one in done if isinstance(one, Serving)]

    async def look(self, assignment: Assignment, member: Member) -> Serving:
        """By whichever backend has it: what is served says nothing of its backend from outside."""
        placement = placement_of(assignment, member, self._servers)
        name = served_name(assignment, member)
        held = self._held.get(assignment.id)
        known = held.backends.get(member.member) if held is not None else None
        absent = Serving(Health.ABSENT, message=NO_SUCH_MODEL)
        errors: list[Exception] = []
        for backend in (known,) if known is not None else self._distinct(placement):
            try:
                found = await backend.look(name, placement)
            except Refused as error:
                # A no to a question is no word of the model, where there is a server that may have it.
                errors.append(Unanswered(str(error)) if placement.address else error)
            except Unanswered as error:
                errors.append(error)
            else:
                if found.health is not Health.ABSENT:
                    return found
                absent = found
        # One backend that cannot be asked hides none that has it, and what none of the others has it may have.
        raise_worst(errors)
        return absent

    def _distinct(self, placement: Placement) -> list[Backend]:
        """Of those that serve such a device at all; all on Triton look alike: one speaks for them."""
        there = on(placement.accelerator, self._backends)
        on_triton = [one for one in there if isinstance(one, TritonServing) and placement.address]
        return [*on_triton[:1], *(one for one in there if not isinstance(one, TritonServing))]

    async def unload(self, held: Held) -> None:
        """Every member's copy. Raises Unanswered where one may be there still, Unreachable where no worse is known."""
        members = held.assignment.work.members
        done = await asyncio.gather(*(self.unload_one(held, one) for one in members), return_exceptions=True)
        raise_worst(done)

    async def unload_one(self, held: Held, member: Member) -> None:
        try:
            placement = placement_of(held.assignment, member, self._servers)
        except (Refused, InvalidInput):
            # It never had a place where it could have been loaded.
            return
        known = held.backends.get(member.member)
        errors: list[Exception] = []
        for backend in (known,) if known is not None else self._distinct(placement):
            try:
                await backend.release(served_name(held.assignment, member), placement)
            except Refused as error:
                # Without a server of its node nothing was loaded.
                if placement.address:
                    errors.append(Unanswered(str(error)))
            except Unanswered as error:
                errors.append(error)
        raise_worst(errors)
