"""How a simulated run went, in figures. Each is defined here, once."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from placement_engine.domain.model import WHOLE_DEVICE
from placement_engine.simulation.clock import Ending, History, JobHistory

__all__ = ["Outcome", "outcome_of", "queue_slowdowns"]

SHORT_SECONDS = 10.0
"""Slowdowns of shorter jobs are taken as if they ran so long (bounded slowdown: Feitelson and others, JSSPP 1997)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one run. None: nothing to count, or not known.

    Waits, completions and slowdowns are of the jobs that waited or came; those that ran already when the run began
    are in the use, cost and energy alone.
    """

    jobs_finished: int
    jobs_running: int
    """At the end of the run, when it was cut."""
    jobs_waiting: int
    mean_wait_seconds: float | None
    """From arrival to the first start, of jobs that started."""
    p95_wait_seconds: float | None
    """Nearest rank."""
    mean_completion_seconds: float | None
    """From arrival to the end, of jobs that finished."""
    makespan_seconds: float
    """From the begin of the run to the last end of a job."""
    utilisation: float | None
    """0..1: device-seconds held over device-seconds there, until the end of the run."""
    device_seconds: dict[str, float]
    """Held, by accelerator, from the begin of the run."""
    cost_dollars: float | None
    """Price an hour of the devices held (the profile's, else the catalogue's) times the time; None: one is unknown."""
    energy_joules: float | None
    """Expected draw of the work times the time; idle devices are not in it. None: one is unknown."""
    mean_slowdown: float | None
    """Completion over run time without what was lost, at least 1; of jobs that finished."""
    worst_slowdown: float | None
    fairness: float | None
    """Jain's index over the queues of the inverse of their mean slowdown: 1 is all are slowed alike, 1/n one is
    served alone. A queue whose jobs all still wait counts as 0. (Jain, Chiu, Hawe, DEC TR-301, 1984.)"""
    preemptions: int
    lost_device_seconds: float
    """Run time times devices whose work was lost in preemptions and with nodes."""
    notes: tuple[str, ...] = field(default=())


def outcome_of(history: History) -> Outcome:
    mine = [one for one in history.jobs.values() if not one.before]
    waits = [one.started - one.arrived for one in mine if one.started is not None]
    completions = [one.finished - one.arrived for one in mine if one.finished is not None]
    slowdowns = [slow for one in mine if (slow := slowdown(one)) is not None]
    spans = [(job, span) for job in history.jobs.values() for span in job.spans]
    held: Counter[str] = Counter()
    cost = energy = lost = 0.0
    unknown_cost = unknown_energy = 0
    for _, span in spans:
        began = max(span.started, history.start)
        seconds = max(0.0, (history.end if span.ended is None else span.ended) - began)
        for model, milli in span.milli.items():
            held[model] += seconds * milli / WHOLE_DEVICE  # type: ignore[assignment]
        lost += span.lost_seconds * sum(span.milli.values()) / WHOLE_DEVICE
        if span.dollars_per_hour is None:
            unknown_cost += 1
        else:
            cost += span.dollars_per_hour * seconds / 3600
        if span.watts is None:
            unknown_energy += 1
        else:
            energy += span.watts * seconds
    notes = list(history.notes)
    if unknown_cost:
        notes.append(f"the price is not known of what {unknown_cost} attempts ran on: no sum of the cost")
    if unknown_energy:
        notes.append(f"the draw is not known of {unknown_energy} attempts: no sum of the energy")
    capacity = sum(history.capacity.values())
    ends = [span.ended for _, span in spans if span.ended is not None and span.ending is Ending.FINISHED]
    endings = Counter(span.ending for _, span in spans)
    return Outcome(
        jobs_finished=len([one for one in history.jobs.values() if one.finished is not None]),
        jobs_running=endings[None],
        jobs_waiting=len([one for one in history.jobs.values() if one.why is not None]),
        mean_wait_seconds=_mean(waits),
        p95_wait_seconds=sorted(waits)[math.ceil(0.95 * len(waits)) - 1] if waits else None,
        mean_completion_seconds=_mean(completions),
        makespan_seconds=max(ends, default=history.start) - history.start,
        utilisation=sum(held.values()) / capacity if capacity else None,
        device_seconds=dict(sorted(held.items())),
        cost_dollars=None if unknown_cost else cost,
        energy_joules=None if unknown_energy else energy,
        mean_slowdown=_mean(slowdowns),
        worst_slowdown=max(slowdowns, default=None),
        fairness=_fairness(mine),
        preemptions=endings[Ending.PREEMPTED],
        lost_device_seconds=lost,
        notes=tuple(notes),
    )


def slowdown(job: JobHistory) -> float | None:
    """Bounded slowdown of a job that finished, else None."""
    if job.finished is None:
        return None
    ran = sum(span.seconds(job.finished) - span.lost_seconds for span in job.spans)
    return max(1.0, (job.finished - job.arrived) / max(ran, SHORT_SECONDS))


def queue_slowdowns(jobs: Sequence[JobHistory]) -> dict[str, float]:
    """Mean slowdown of the finished jobs of each queue; infinite where none finished and some wait."""
    found: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        slow = slowdown(job)
        if slow is not None:
            found[job.job.queue].append(slow)
        elif job.why is not None:
            found[job.job.queue] += []
    return {queue: sum(found[queue]) / len(found[queue]) if found[queue] else math.inf for queue in sorted(found)}


def _fairness(jobs: Sequence[JobHistory]) -> float | None:
    rates = [1.0 / slow for slow in queue_slowdowns(jobs).values()]
    squares = sum(rate * rate for rate in rates)
    return sum(rates) ** 2 / (len(rates) * squares) if squares else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
