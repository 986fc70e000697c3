"""An engine driven on a virtual clock: jobs come, start at once where they are placed, and end as they will."""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import CycleResult, Decision, Job, Preemption


@dataclass(slots=True)
class VirtualClock:
    """`lasts` seconds by job id; a job that is not in it runs as it declared. `stopping`: how long a stop takes."""

    engine: Engine
    jobs: Iterable[Job]
    lasts: Mapping[str, float] = field(default_factory=dict)
    stopping: float = 0.0
    after_cycle: Callable[[float, CycleResult], None] = lambda now, result: None
    now: float = 0.0
    placed: list[tuple[float, str]] = field(default_factory=list)
    ended: list[tuple[float, str]] = field(default_factory=list)
    preempted: list[tuple[float, Preemption]] = field(default_factory=list)

    def run(self, until: float = float("inf"), most: int = 100_000) -> "VirtualClock":
        """Until nothing comes any more. A cycle follows every moment at which something happened."""
        events: list[tuple[float, int, str, Job]] = []
        serial = 0

        def at(time: float, what: str, job: Job) -> None:
            nonlocal serial
            serial += 1
            heapq.heappush(events, (time, serial, what, job))

        for job in self.jobs:
            at(job.submitted_at, "submit", job)
        while events and events[0][0] <= until:
            most -= 1
            assert most > 0, "the simulation does not come to an end"
            self.now = events[0][0]
            while events and events[0][0] == self.now:
                _, _, what, job = heapq.heappop(events)
                claim = self.engine.holds(job.job_id)
                current = claim is not None and claim.job.attempt == job.attempt
                if what == "submit":
                    self.engine.submit(job)
                elif what == "stopped" and current:
                    self.engine.release(job.job_id)
                    self.engine.submit(replace(job, attempt=job.attempt + 1))
                elif what == "end" and current:
                    self.engine.release(job.job_id)
                    self.ended.append((self.now, job.job_id))
            result = self.engine.cycle(self.now)
            for decision in result.decisions:
                self._start(decision, at)
            for preemption in result.preemptions:
                self.preempted.append((self.now, preemption))
                claim = self.engine.holds(preemption.job_id)
                assert claim is not None
                assert claim.job.attempt == preemption.attempt
                at(self.now + self.stopping, "stopped", claim.job)
            self.after_cycle(self.now, result)
        return self

    def _start(self, decision: Decision, at: Callable[[float, str, Job], None]) -> None:
        claim = self.engine.holds(decision.job_id)
        assert claim is not None
        job = claim.job
        self.placed.append((self.now, job.job_id))
        self.engine.started(job.job_id, job.attempt, self.now)
        seconds = self.lasts.get(job.job_id, job.expected_duration_seconds)
        if seconds is not None:
            at(self.now + seconds, "end", job)
