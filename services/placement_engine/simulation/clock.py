"""The real engine on a virtual clock: jobs arrive, are placed by `Engine.cycle`, and end after their true duration.

Time jumps from event to event. At one instant facts come first, then ends, then arrivals; then the engine plans
until it decides nothing more. While jobs wait, or take turns in rounds, it also plans every `tick_seconds`, since
protected run times, reservations and rounds pass with time alone, and while a gang is to grow by and by. A job that the
engine stops loses its work since its last checkpoint and waits again with the next attempt; so does one whose node is
removed. A gang that gets or gives members does so at once and loses nothing: its members share alike what work is left.
No random number is drawn: the same situation and events give the same run.
"""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from placement_engine.domain.engine import Engine
from placement_engine.domain.estimates import Estimator
from placement_engine.domain.model import Claim, CycleResult, Decision, Job, Node, NodeSample, Rejection, Resize
from placement_engine.domain.situation import Situation
from placement_engine.domain.surplus import working

__all__ = ["Arrival", "Clock", "Ending", "Fact", "History", "JobHistory", "Span", "build"]

HOUR = 3600.0
TICK_SECONDS = 60.0
MOST_ROUNDS = 1000
"""Cycles at one instant; more is an engine that goes round in circles."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job comes at `at`. `seconds`: its true duration, on the fastest accelerator that the engine knows for it if
    it declares an expected duration, else wherever it runs. None: what it declares, else the default."""

    at: float
    job: Job
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """At `at` a node is as told, or a sample comes, or the node of that name is gone."""

    at: float
    fact: Node | NodeSample | str


class Ending(Enum):
    FINISHED = "finished"
    PREEMPTED = "preempted"
    NODE_LOST = "node lost"
    GROWN = "grown"
    SHRUNK = "shrunk"


RESIZED = (Ending.GROWN, Ending.SHRUNK)
"""The attempt runs on in the next span, with other members."""


@dataclass(slots=True)
class Span:
    """One attempt on its devices, from `started` to `ended` (None: it still runs): an end or a change of its size.

    `milli`: thousandths of devices held, by accelerator. `lost_seconds`: run time whose work was lost.
    """

    attempt: int
    started: float
    nodes: tuple[str, ...]
    milli: Mapping[str, int]
    replicas: int
    watts: float | None = None
    dollars_per_hour: float | None = None
    ended: float | None = None
    ending: Ending | None = None
    lost_seconds: float = 0.0
    message: str = ""

    def seconds(self, until: float) -> float:
        return (until if self.ended is None else self.ended) - self.started


@dataclass(slots=True)
class JobHistory:
    """`before`: it ran already when the simulation began."""

    job: Job
    arrived: float
    before: bool = False
    spans: list[Span] = field(default_factory=list)
    why: Rejection | None = None
    """Of a job that waits at the end."""

    @property
    def started(self) -> float | None:
        return self.spans[0].started if self.spans else None

    @property
    def finished(self) -> float | None:
        last = self.spans[-1] if self.spans else None
        return last.ended if last is not None and last.ending is Ending.FINISHED else None


@dataclass(frozen=True, slots=True)
class History:
    """What happened from `start` to `end`, the last end of a job or the cut; `capacity` is device-seconds that were
    there in that time, by accelerator."""

    start: float
    end: float
    jobs: Mapping[str, JobHistory]
    capacity: Mapping[str, float]
    notes: tuple[str, ...]


def build(situation: Situation) -> Engine:
    """An engine in that situation."""
    engine = Engine(situation.policy, situation.pool)
    engine.set_accelerators(situation.accelerators)
    engine.set_profiles(situation.profiles)
    engine.set_power_domains(situation.power_domains)
    engine.set_queues(situation.queues)
    for node in situation.nodes:
        engine.apply_node(node)
    for claim in situation.running:
        engine.restore(claim)
    for sample in situation.samples:
        engine.apply_sample(sample)
    for job in situation.waiting:
        engine.submit(job)
    return engine


class Clock:
    """One run. `default_seconds`: the duration of jobs for which nothing tells one."""

    def __init__(
        self,
        situation: Situation,
        arrivals: Sequence[Arrival] = (),
        facts: Sequence[Fact] = (),
        *,
        default_seconds: float = HOUR,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        self.engine = build(situation)
        self._start = self._now = situation.now
        self._default, self._tick = default_seconds, tick_seconds
        self._rounds = situation.policy.round_seconds > 0
        if self._rounds:
            self._tick = min(tick_seconds, situation.policy.round_seconds)
        self._events: list[tuple[float, int, int, Fact | Arrival | tuple[str, int]]] = []
        """The end of a job is (its id, number of the span)."""
        self._tickets = itertools.count()
        self._estimator = Estimator()
        self._estimator.set_profiles(situation.profiles)
        self._estimator.set_catalogue(situation.accelerators)
        self._nodes = {node.name: node for node in situation.nodes}
        self._capacity: Counter[str] = Counter()
        self._present = self._count_present()
        self._worked = (self._now, self._capacity.copy())
        """The last end of a job, and the capacity up to it."""
        self._left: dict[str, float] = {}
        """Part of the job's work that is not done."""
        self._whole: dict[str, float] = {}
        """Seconds of all its work where it runs now."""
        self._left_at_start: dict[str, float] = {}
        """Part that was not done when the attempt began."""
        self._seconds = {arrival.job.job_id: arrival.seconds for arrival in arrivals}
        self.jobs = {job.job_id: JobHistory(job, job.submitted_at) for job in situation.waiting}
        self._defaulted = 0
        for claim in situation.running:
            self._resume(claim, situation.ends.get(claim.job.job_id))
        for fact in facts:
            self._push(fact.at, 0, fact)
        for arrival in arrivals:
            self._push(arrival.at, 2, arrival)

    def _push(self, at: float, order: int, event: Fact | Arrival | tuple[str, int]) -> None:
        heapq.heappush(self._events, (at, order, next(self._tickets), event))

    def _resume(self, claim: Claim, end: float | None) -> None:
        job = claim.job
        began = claim.started_at if claim.started_at is not None else claim.placed_at
        began = self._now if began is None else min(began, self._now)
        if end is None:
            self._defaulted += 1
            end = max(began + self._default, self._now + 0.1 * (self._now - began))
        span = self._span(job, claim, began)
        self.jobs[job.job_id] = JobHistory(job, job.submitted_at, True, [span])
        self._whole[job.job_id] = max(end - began, 1e-9)
        self._push(max(end, self._now), 1, (job.job_id, 0))

    # -- the run ---------------------------------------------------------------------------------

    def run(self, until: float = math.inf) -> History:
        """Runs until nothing is left to happen, or to `until`."""
        at, idle = self._now, False
        while at <= until:
            self._pass_to(at)
            while self._events and self._events[0][0] <= at:
                self._happen(heapq.heappop(self._events)[3])
            # Nothing runs and nothing comes: what waits after one more tick waits for ever.
            stuck, idle = idle, not self._plan() and not self._events
            if not self._events and (stuck or not self.engine.waiting()):
                break
            next_event = self._events[0][0] if self._events else math.inf
            passes = self.engine.waiting() or self._rounds or self.engine.grows_with_time(self._now)
            at = min(next_event, at + self._tick if passes else math.inf)
        else:
            self._pass_to(until)
            self._worked = (self._now, self._capacity.copy())
        return self._history()

    def _pass_to(self, at: float) -> None:
        for model, devices in self._present.items():
            self._capacity[model] += devices * (at - self._now)  # type: ignore[assignment]
        self._now = max(self._now, at)

    def _happen(self, event: Fact | Arrival | tuple[str, int]) -> None:
        if isinstance(event, Arrival):
            self.jobs[event.job.job_id] = JobHistory(event.job, event.at)
            self.engine.submit(event.job)
        elif isinstance(event, Fact):
            self._hear(event.fact)
        else:
            job_id, number = event
            spans = self.jobs[job_id].spans
            if spans[-1].ended is None and number == len(spans) - 1:
                self._close(job_id, Ending.FINISHED)

    def _hear(self, fact: Node | NodeSample | str) -> None:
        if isinstance(fact, NodeSample):
            self.engine.apply_sample(fact)
            return
        if isinstance(fact, Node):
            self._nodes[fact.name] = fact
            self.engine.apply_node(fact)
        else:
            self._nodes.pop(fact, None)
            self.engine.remove_node(fact)
            for job_id in sorted(self.jobs):
                spans = self.jobs[job_id].spans
                if spans and spans[-1].ended is None and fact in spans[-1].nodes:
                    self._stop(job_id, Ending.NODE_LOST, f"node {fact} is gone")
        self._present = self._count_present()

    def _count_present(self) -> Counter[str]:
        return Counter(d.model for node in self._nodes.values() for d in node.devices if d.present)

    def _plan(self) -> bool:
        """Cycles until the engine decides nothing more. Whether it decided anything."""
        for decided in range(MOST_ROUNDS):
            result: CycleResult = self.engine.cycle(self._now)
            for preemption in result.preemptions:
                self._stop(preemption.job_id, Ending.PREEMPTED, preemption.message)
            for resize in result.resizes:
                self._change(resize)
            for decision in result.decisions:
                self._begin(decision)
            if not result.decisions and not result.preemptions and not result.resizes:
                return decided > 0
        raise RuntimeError(f"the engine decided {MOST_ROUNDS} times at {self._now} without coming to rest")

    def _begin(self, decision: Decision) -> None:
        history, job_id = self.jobs[decision.job_id], decision.job_id
        claim = self.engine.holds(job_id)
        if claim is None:
            return
        self.engine.started(job_id, decision.attempt, self._now)
        history.spans.append(self._span(claim.job, claim, self._now))
        self._whole[job_id] = self._true_seconds(claim.job, decision)
        self._left_at_start[job_id] = self._left.get(job_id, 1.0)
        self._expect_end(job_id)

    def _expect_end(self, job_id: str) -> None:
        at = self._now + self._whole[job_id] * self._left.get(job_id, 1.0)
        self._push(at, 1, (job_id, len(self.jobs[job_id].spans) - 1))

    def _change(self, resize: Resize) -> None:
        """A gang gets or gives members, and its work takes the less or the more time for it."""
        job_id, history = resize.job_id, self.jobs[resize.job_id]
        span = history.spans[-1]
        if span.ended is not None:
            return  # stopped whole in the same cycle
        self.engine.members_gone(job_id, resize.attempt, [member.member for member in resize.removed], self._now)
        claim = self.engine.holds(job_id)
        assert claim is not None
        left = self._left.get(job_id, 1.0)
        self._left_at_start.setdefault(job_id, left)
        self._left[job_id] = max(0.0, left - (self._now - span.started) / self._whole[job_id])
        now_working, change = working(claim), working(replace(claim, members=resize.added or resize.removed))
        self._whole[job_id] *= (now_working + (-change if resize.added else change)) / now_working
        span.ended, span.ending = self._now, Ending.GROWN if resize.added else Ending.SHRUNK
        span.message = resize.message
        history.spans.append(self._span(claim.job, claim, self._now))
        self._expect_end(job_id)

    def _true_seconds(self, job: Job, decision: Decision) -> float:
        declared, here = job.expected_duration_seconds, decision.expectation.duration_seconds
        true = self._seconds.get(job.job_id)
        if true is None:
            true = declared
        if true is None:
            if not self._left.get(job.job_id):
                self._defaulted += 1
            return self._default
        return true * here / declared if declared and here is not None else true

    def _stop(self, job_id: str, ending: Ending, message: str) -> None:
        history = self.jobs[job_id]
        span = history.spans[-1]
        ran, job = self._now - span.started, history.job
        saved = 0.0
        if job.checkpoint_seconds:
            saved = ran - math.fmod(ran, job.checkpoint_seconds)
        elif job_id in self._left_at_start:
            # Without checkpoints all is lost, also what was done with fewer or more members.
            self._left[job_id] = self._left_at_start[job_id]
            for before in history.spans[:-1]:
                if before.attempt == span.attempt:
                    before.lost_seconds = before.seconds(self._now)
        span.lost_seconds, span.message = ran - saved, message
        self._left[job_id] = max(0.0, self._left.get(job_id, 1.0) - saved / self._whole[job_id])
        self._close(job_id, ending)
        history.job = replace(job, attempt=span.attempt + 1)
        self.engine.submit(history.job)

    def _close(self, job_id: str, ending: Ending) -> None:
        span = self.jobs[job_id].spans[-1]
        span.ended, span.ending = self._now, ending
        self._worked = (self._now, self._capacity.copy())
        self.engine.release(job_id)

    def _span(self, job: Job, claim: Claim, started: float) -> Span:
        milli: Counter[str] = Counter()
        for member in claim.members:
            for device in member.devices:
                milli[device.model] += device.milli
        watts, dollars = self._rates(claim)
        return Span(
            attempt=job.attempt,
            started=started,
            nodes=tuple(member.node for member in claim.members),
            milli=dict(sorted(milli.items())),
            replicas=len(claim.members),
            watts=watts,
            dollars_per_hour=dollars,
        )

    def _rates(self, claim: Claim) -> tuple[float | None, float | None]:
        """Expected draw in W and price in dollars an hour of all its devices; None where unknown for one of them."""
        devices = [device for member in claim.members for device in member.devices]
        watts, dollars = 0.0, 0.0
        for device in devices:
            known = self._estimator.estimate(claim.job.workload, device.model, len(devices))
            watts += math.nan if known.watts is None else known.watts * device.milli / 1000
            dollars += math.nan if known.price_per_hour is None else known.price_per_hour * device.milli / 1000
        return (None if math.isnan(watts) else watts), (None if math.isnan(dollars) else dollars)

    def _history(self) -> History:
        for job_id, history in self.jobs.items():
            if self.engine.is_waiting(job_id):
                history.why = self.engine.explain(job_id, self._now)
        notes = []
        if self._defaulted:
            notes.append(f"{self._defaulted} jobs declare no duration: {self._default:g} s is taken for each")
        end, capacity = self._worked
        return History(self._start, end, self.jobs, dict(sorted(capacity.items())), tuple(notes))
