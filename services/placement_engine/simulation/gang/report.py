"""A run as rows: every start and end in order, each job, and the figures. Times are seconds from the run's start."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from placement_engine.simulation.clock import RESIZED, Ending, History, JobHistory
from placement_engine.simulation.outcome import outcome_of

__all__ = ["EVENT_COLUMNS", "JOB_COLUMNS", "as_text", "clock_text", "events", "figures", "job_rows", "report"]

EVENT_COLUMNS = ("at", "event", "job", "attempt", "queue", "devices", "accelerator", "nodes", "note")
JOB_COLUMNS = ("job", "queue", "arrived", "started", "finished", "wait", "run", "attempts")
NODES_NAMED = 4
_WORDS = {
    Ending.FINISHED: "end",
    Ending.PREEMPTED: "preempt",
    Ending.NODE_LOST: "lose",
    Ending.GROWN: "grow",
    Ending.SHRUNK: "shrink",
}


def report(history: History) -> dict[str, Any]:
    """The run as JSON-able data: {"events", "jobs", "waiting", "outcome"}."""
    waiting = [
        {
            "job": job_id,
            "summary": job.why.summary,
            "reasons": [{"code": one.code, "message": one.message} for one in job.why.reasons],
        }
        for job_id, job in sorted(history.jobs.items())
        if job.why is not None
    ]
    return {
        "events": events(history),
        "jobs": job_rows(history),
        "waiting": waiting,
        "outcome": asdict(outcome_of(history)),
    }


def events(history: History) -> list[dict[str, Any]]:
    """Starts, changes of size and ends in order of time; at one time ends first, then names. A change is told with
    what the job has from then on."""
    found: list[tuple[float, int, str, int, dict[str, Any]]] = []
    for job_id in sorted(history.jobs):
        job = history.jobs[job_id]
        for number, span in enumerate(job.spans):
            before = job.spans[number - 1] if number else None
            row = {
                "job": job_id,
                "attempt": span.attempt,
                "queue": job.job.queue,
                "replicas": span.replicas,
                "devices": sum(span.milli.values()) / 1000,
                "accelerator": "+".join(span.milli),
                "nodes": list(span.nodes),
            }
            if before is not None and before.ending in RESIZED:
                at, word = span.started - history.start, _WORDS[before.ending]
                order = int(before.ending is Ending.GROWN)
                found.append(
                    (at, order, job_id, span.attempt, {"at_seconds": at, "event": word, **row, "note": before.message})
                )
            elif span.started >= history.start and not (job.before and span is job.spans[0]):
                at = span.started - history.start
                found.append((at, 1, job_id, span.attempt, {"at_seconds": at, "event": "start", **row, "note": ""}))
            if span.ended is not None and span.ending is not None and span.ending not in RESIZED:
                at = span.ended - history.start
                note = span.message
                if span.lost_seconds:
                    note += f"; {span.lost_seconds:g} s of its run are lost"
                event = {"at_seconds": at, "event": _WORDS[span.ending], **row, "note": note.removeprefix("; ")}
                found.append((at, 0, job_id, span.attempt, event))
    return [one[-1] for one in sorted(found, key=lambda one: one[:4])]


def job_rows(history: History) -> list[dict[str, Any]]:
    """One row a job, in order of arrival; None: not yet, or never."""

    def since(moment: float | None) -> float | None:
        return None if moment is None else moment - history.start

    return [
        {
            "job": job_id,
            "queue": job.job.queue,
            "arrived_seconds": since(job.arrived),
            "started_seconds": since(job.started),
            "finished_seconds": since(job.finished),
            "wait_seconds": None if job.started is None or job.before else job.started - job.arrived,
            "run_seconds": sum(span.seconds(history.end) for span in job.spans),
            "attempts": len({span.attempt for span in job.spans}),
        }
        for job_id, job in sorted(history.jobs.items(), key=_by_arrival)
    ]


def _by_arrival(item: tuple[str, JobHistory]) -> tuple[float, str]:
    return item[1].arrived, item[0]


def as_text(history: History) -> str:
    """Tables for a person."""
    from placement_engine.simulation.__main__ import table

    told = report(history)
    rows = [
        {
            **row,
            "at": clock_text(row["at_seconds"]),
            "devices": f"{row['devices']:g}",
            "accelerator": row["accelerator"] or "-",
            "nodes": short(row["nodes"]),
        }
        for row in told["events"]
    ]
    parts = [table(EVENT_COLUMNS, rows) if rows else "nothing started"]
    rows = [
        {
            **row,
            **{column: clock_text(row[f"{column}_seconds"]) for column in ("arrived", "started", "finished")},
            "wait": clock_text(row["wait_seconds"]),
            "run": clock_text(row["run_seconds"]),
        }
        for row in told["jobs"]
    ]
    parts.append(table(JOB_COLUMNS, rows))
    if told["waiting"]:
        parts.append("\n".join(f"{one['job']} {one['summary']}" for one in told["waiting"]))
    parts.append("\n".join(f"{name:<26}{value}" for name, value in figures(outcome_of(history))))
    return "\n\n".join(parts)


def figures(outcome: Any) -> list[tuple[str, str]]:
    """Name and text of each figure of an outcome."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    def number(value: float | None, unit: str = "", digits: int = 2) -> str:
        return "-" if value is None else f"{value:,.{digits}f}{unit}"

    return [
        ("finished", str(outcome.jobs_finished)),
        ("running", str(outcome.jobs_running)),
        ("waiting", str(outcome.jobs_waiting)),
        ("mean wait", clock_text(outcome.mean_wait_seconds)),
        ("95 % wait", clock_text(outcome.p95_wait_seconds)),
        ("mean completion", clock_text(outcome.mean_completion_seconds)),
        ("makespan", clock_text(outcome.makespan_seconds)),
        ("use of devices", percent(outcome.utilisation)),
        *((f"device-hours {name}", number(held / 3600)) for name, held in outcome.device_seconds.items()),
        ("cost", number(outcome.cost_dollars, " $")),
        ("energy", number(None if outcome.energy_joules is None else outcome.energy_joules / 3.6e6, " kWh")),
        ("mean slowdown", number(outcome.mean_slowdown)),
        ("worst slowdown", number(outcome.worst_slowdown)),
        ("fairness", number(outcome.fairness, digits=3)),
        ("preemptions", str(outcome.preemptions)),
        ("device-hours lost", number(outcome.lost_device_seconds / 3600)),
    ]


def short(names: Sequence[str]) -> str:
    """Node names, each once with how many members it has; the first few."""
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    shown = [name if count == 1 else f"{name} x{count}" for name, count in counted.items()]
    return ", ".join(shown[:NODES_NAMED]) + (f", +{len(shown) - NODES_NAMED}" if len(shown) > NODES_NAMED else "")


def clock_text(seconds: float | None) -> str:
    """1:02:03, or 1d 02:03:04; a dash where there is none. Tenths only where there are any."""
    if seconds is None:
        return "-"
    sign, seconds = "-" if seconds < 0 else "", abs(round(seconds, 1))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    tail = f"{rest:04.1f}" if rest % 1 else f"{rest:02.0f}"
    return (
        f"{sign}{days:.0f}d {hours:02.0f}:{minutes:02.0f}:{tail}"
        if days
        else f"{sign}{hours:.0f}:{minutes:02.0f}:{tail}"
    )
