"""Asks the engine why jobs wait, and passes it on to their pods: rarely for what waits long, and never so often that
the asking costs the engine more than a small part of its time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from binder.pods.engine import Engine, Refused, Unreachable
from binder.pods.messages import of_explanation, same_but_for_numbers
from binder.pods.notices import Notices

__all__ = ["Teller"]

log = structlog.get_logger(__name__)


SECONDS_A_JOB = 0.02


@dataclass(slots=True)
class _Followed:
    uids: tuple[str, ...]
    shown: str
    notes: tuple[str, ...]
    due: float
    pause: float
    said: str = ""


class Teller:
    """`first_seconds`: how long a job may wait before its pods hear why; then from `shortest` to `longest` seconds
    between looks, longer as long as nothing changes. `part`: of the engine's time that the asking may take."""

    def __init__(
        self,
        engine: Engine,
        notices: Notices,
        *,
        first_seconds: float = 1.5,
        shortest_seconds: float = 10.0,
        longest_seconds: float = 120.0,
        part: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._notices = notices
        self._first, self._shortest, self._longest = first_seconds, shortest_seconds, longest_seconds
        self._part = part
        self._clock = clock
        self._jobs: dict[str, _Followed] = {}

    def follow(self, job_id: str, uids: tuple[str, ...], shown: str, notes: tuple[str, ...]) -> None:
        """The job waits."""
        if job_id not in self._jobs:
            # Where many wait, most are just about to be placed: telling them would only slow that down.
            due = self._clock() + self._first + min(self._shortest, SECONDS_A_JOB * len(self._jobs))
            self._jobs[job_id] = _Followed(uids, shown, notes, due, self._shortest)
        elif notes:
            self._jobs[job_id].notes = notes

    def leave(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)

    def clear(self) -> None:
        self._jobs.clear()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            now = self._clock()
            due = [(one.due, job_id) for job_id, one in self._jobs.items() if one.due <= now]
            for _, job_id in sorted(due)[:50]:
                started = self._clock()
                await self._tell(job_id)
                await asyncio.sleep((self._clock() - started) * (1.0 / self._part - 1.0))
            await asyncio.sleep(0.25)

    async def _tell(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            return
        job.due = self._clock() + job.pause
        try:
            explanation = await self._engine.explain(job_id)
        except Unreachable as error:
            log.info("cannot be explained now", job_id=job_id, error=str(error))
            return
        except Refused:
            return
        if job_id not in self._jobs:
            return
        text = of_explanation(explanation, job=job.shown, pods=len(job.uids), notes=job.notes)
        same = same_but_for_numbers(text, job.said)
        job.pause = min(self._longest, 2 * job.pause) if same else self._shortest
        job.said = text
        nominated = list(explanation.nominated_nodes)
        for position, uid in enumerate(job.uids):
            node = nominated[position] if position < len(nominated) else ""
            self._notices.waits(uid, text, nominated=node, exact=False)
