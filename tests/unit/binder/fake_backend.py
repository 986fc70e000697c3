"""FakeBackend: what a server of models says, under the hand of a test, and the executor `triton` over it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from berth.backends.base import Health, Placement, Prepared, Serving, Verdict
from berth.catalogue import Accelerator
from berth.models.artefact import Artefact
from berth.models.artefact_file import Opened
from binder.domain.attempt import AttemptId, Observation, State
from binder.domain.work import Assignment, Member, Model, Work
from binder.executors.model_rules import ModelRules
from binder.executors.triton import Times, TritonExecutor
from binder.executors.triton_copies import Servers
from tests.unit.binder.builders import make_attempt


class FakeBackend:
    """Serves at once. `wrong`: by call and node, what is raised or awaited first. `copies`: name and node."""

    name = "fake"
    stacks = ("oneDNN",)

    def __init__(self) -> None:
        self.copies: set[tuple[str, str]] = set()
        self.calls: list[tuple[str, str]] = []
        self.wrong: dict[tuple[str, str], Any] = {}

    def can_run(self, artefact: Artefact, accelerator: Accelerator) -> Verdict:
        return Verdict()

    async def prepare(self, artefact: Artefact, content: Path, placement: Placement) -> Prepared:
        await self._asked("prepare", placement)
        return Prepared("fake", "d" * 64)

    async def serve(self, name: str, prepared: Prepared, placement: Placement) -> Serving:
        await self._asked("serve", placement)
        self.copies.add((name, placement.node))
        return Serving(Health.READY, f"http://{placement.node}/{name}")

    async def look(self, name: str, placement: Placement) -> Serving:
        await self._asked("look", placement)
        there = (name, placement.node) in self.copies
        return Serving(Health.READY, f"http://{placement.node}/{name}") if there else Serving(Health.ABSENT)

    async def release(self, name: str, placement: Placement) -> None:
        await self._asked("release", placement)
        self.copies.discard((name, placement.node))

    async def _asked(self, call: str, placement: Placement) -> None:
        self.calls.append((call, placement.node))
        wrong = self.wrong.get((call, placement.node))
        if isinstance(wrong, Exception):
            raise wrong
        if wrong is not None:
            await wrong()

    def nodes(self) -> set[str]:
        """That have a copy."""
        return {node for _, node in self.copies}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_model(path: Path) -> Opened:
    return Opened(Artefact("m", "jax-export", "a" * 64, 1, (), ()), path)


@asynccontextmanager
async def executor(
    backend: FakeBackend,
    *,
    servers: Servers | None = None,
    read: Callable[[Path], Opened] = a_model,
    clock: Callable[[], float] | None = None,
    **times: float,
) -> AsyncIterator[tuple[TritonExecutor, list[tuple[AttemptId, Observation]]]]:
    """The executor, and what it tells by itself. `servers` left out: each node has one."""
    made = TritonExecutor(
        Servers(template="http://{node}") if servers is None else servers,
        [backend],
        rules=ModelRules(read),
        clock=clock or Clock(),
        times=Times(**{"bind": 1.0, "watch": 0.01, **times}),
    )
    told: list[tuple[AttemptId, Observation]] = []
    await made.start(lambda observations: told.extend(observations.items()))
    try:
        yield made, told
    finally:
        await made.stop()


def wanted(job_id: str = "job", *nodes: str) -> Assignment:
    members = tuple(Member(number, node) for number, node in enumerate(nodes or ("n1",)))
    attempt = make_attempt(job_id, executor="triton", members=len(members), tries=1)
    return Assignment(attempt, Work(members, model=Model("/m", "m")))


def bound(assignment: Assignment, **changes: Any) -> Assignment:
    """As the store has it once it runs."""
    attempt = replace(assignment.attempt, state=State.RUNNING, bound_at=1000.0, started_at=1000.0, **changes)
    return replace(assignment, attempt=attempt)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
