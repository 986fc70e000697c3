"""`berth load`: replays a trace through Kafka, follows every job, and says how it went."""

import asyncio
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from berth.cli.session import Session, connected

__all__ = ["Report", "load"]

STALLED_SECONDS = 60.0
POLL_SECONDS = 1.0
NODES_A_CALL = 250


@click.group()
def load() -> None:
    """Replay a real trace of jobs onto its fleet, on the simulated executor."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a replay went. Seconds are from the record's publication to the bind; None: no job came so far."""

    tenant: str
    nodes: int
    published: int
    publish_rate: float
    accepted: int
    lost: int
    states: dict[str, int]
    bound: int
    jobs_per_second: float | None
    submit_to_bound_p50: float | None
    submit_to_bound_p99: float | None
    seconds: float
    violations: list[str]
    resident_bytes: dict[str, int] = field(default_factory=dict)


@load.command()
@click.option("--nodes", "nodes_file", type=click.Path(path_type=Path), required=True, help="nodes.csv of the trace")
@click.option("--pods", "pods_file", type=click.Path(path_type=Path), required=True, help="pods_*.csv of the trace")
@click.option("--rate", type=click.FloatRange(min=0.1), default=100.0, show_default=True, help="Jobs a second")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="Only the first so many jobs; 0: all")
@click.option(
    "--speed",
    type=click.FloatRange(min=0.001),
    default=1.0,
    show_default=True,
    help="Run the clock of the jobs' durations this much faster",
)
@click.option(
    "--hold",
    type=click.FloatRange(min=0.001),
    default=5.0,
    show_default=True,
    help="Seconds that each job holds its devices",
)
@click.option("--pool", default="default", show_default=True, help="Pool of nodes and jobs")
@click.option("--queue", default="default", show_default=True, help="Queue of the jobs")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@connected
async def openb(
    session: Session,
    nodes_file: Path,
    pods_file: Path,
    rate: float,
    limit: int,
    speed: float,
    hold: float,
    pool: str,
    queue: str,
    output: str,
) -> int:
    """Replay the openb trace through Kafka and follow every job to its end.

    Exit code 1 where a job was lost, an invariant is broken, or jobs were left unsettled.
    """  # fmt: skip
    from berth.cli.openb import read_nodes, read_pods
    from berth.cli.output import dump

    tenant = f"openb-{secrets.token_hex(3)}"
    nodes = read_nodes(nodes_file, pool=pool)
    specs = read_pods(pods_file, tenant=tenant, pool=pool, queue=queue, hold_seconds=hold / speed, limit=limit)
    report = await replay(session, nodes, specs, tenant=tenant, rate=rate, pool=pool)
    click.echo(dump(asdict(report), "json") if output == "json" else "\n".join(report_lines(report)))
    unsettled = (
        report.published
        - report.lost
        - sum(report.states.get(state, 0) for state in ("succeeded", "failed", "cancelled"))
    )
    return 1 if report.lost or report.violations or unsettled else 0


async def replay(
    session: Session, nodes: list[Any], specs: list[Any], *, tenant: str, rate: float, pool: str
) -> Report:
    """1. declare the nodes  2. publish at the rate  3. follow to the end  4. sum up and audit."""
    from berth.v1 import placement_pb2 as pb

    await declare_nodes(session, nodes, pool)
    begin = time.monotonic()
    seconds = await publish(session, specs, rate)
    jobs = await until_settled(session, tenant, len(specs))
    ended = time.monotonic() - begin
    audit = await session.placement.Audit(pb.AuditRequest())
    return summarise(
        tenant=tenant,
        nodes=len(nodes),
        published=len(specs),
        publish_seconds=seconds,
        jobs=jobs,
        seconds=ended,
        violations=[f"{one.invariant}: {one.subject}: {one.message}" for one in audit.violations],
        resident_bytes=resident(session),
    )


async def declare_nodes(session: Session, nodes: list[Any], pool: str) -> None:
    """Declares the nodes and waits until the engine has them all. Raises Failed."""
    from berth.cli.commands.get import fetch_nodes
    from berth.cli.failures import Failed
    from berth.cli.progress import Progress
    from berth.v1 import telemetry_pb2

    wanted = {node.name for node in nodes}
    with Progress("declaring nodes", len(nodes)) as bar:
        for first in range(0, len(nodes), NODES_A_CALL):
            part = nodes[first : first + NODES_A_CALL]
            await session.telemetry.ApplyNodes(telemetry_pb2.ApplyNodesRequest(nodes=part))
        deadline = time.monotonic() + STALLED_SECONDS
        while True:
            statuses = await fetch_nodes(session, (), pool, devices=False)
            known = len(wanted & {status.node.name for status in statuses})
            bar.at(known)
            if known == len(wanted):
                return
            if time.monotonic() > deadline:
                raise Failed(f"the engine knows {known} of {len(wanted)} nodes after {STALLED_SECONDS:.0f} s")
            await asyncio.sleep(0.3)


async def publish(session: Session, specs: list[Any], rate: float) -> float:
    """Publishes at `rate` jobs a second; over when the broker has them all. Gives the seconds it took."""
    from berth.cli.progress import Progress
    from berth.cli.publishing import JobPublisher
    from berth.embedded.context import NoContext

    if not session.context.kafka:
        raise NoContext("the context file names no broker: add `kafka`")
    begin = time.monotonic()
    async with JobPublisher(session.context.kafka, source="/berth/load/openb", token=session.token) as publisher:
        with Progress("publishing", len(specs)) as bar:
            futures = []
            for number, spec in enumerate(specs):
                ahead = begin + number / rate - time.monotonic()
                if ahead > 0:
                    await asyncio.sleep(ahead)
                futures.append(await publisher.send(spec))
                bar.at(number + 1)
            await asyncio.gather(*futures)
    return time.monotonic() - begin


async def until_settled(session: Session, tenant: str, count: int) -> list[Any]:
    """All jobs of the tenant, once `count` of them have ended or nothing has changed for a minute.

    It looks at the open jobs only, until there are none: the whole list is dear, and would be part of the figures.
    """
    from berth.cli.commands.get import all_jobs
    from berth.cli.following import ENDED
    from berth.cli.progress import Progress
    from berth.v1 import jobs_pb2

    open_states = [state for state in jobs_pb2.JobState.values() if state and state not in ENDED]
    changed, seen = time.monotonic(), (-1, -1)
    with Progress("finished", count) as bar:
        while True:
            jobs = await all_jobs(session, tenant, states=open_states)
            bar.at(max(0, count - len(jobs)), f"{len(jobs)} open")
            present = (len(jobs), sum(job.version for job in jobs))
            if present != seen:
                changed, seen = time.monotonic(), present
            stalled = time.monotonic() - changed > STALLED_SECONDS
            if not jobs or stalled:
                everyone = await all_jobs(session, tenant)
                if stalled or sum(job.state in ENDED for job in everyone) >= count:
                    return everyone
            await asyncio.sleep(POLL_SECONDS)


def summarise(
    *,
    tenant: str,
    nodes: int,
    published: int,
    publish_seconds: float,
    jobs: list[Any],
    seconds: float,
    violations: list[str],
    resident_bytes: dict[str, int],
) -> Report:
    """The report over the jobs' own times."""
    from collections import Counter

    from berth.cli.kinds import job_state
    from berth.cli.openb import percentile
    from berth.cli.units import seconds_of

    # A job that was bound and failed later counts as bound: its bound_at is kept.
    pairs = [(seconds_of(job, "submitted_at"), seconds_of(job, "bound_at")) for job in jobs]
    held = [(start, end) for start, end in pairs if start is not None and end is not None]
    waits = [max(0.0, end - start) for start, end in held]
    span = max(end for _, end in held) - min(start for start, _ in held) if held else 0.0
    return Report(
        tenant=tenant,
        nodes=nodes,
        published=published,
        publish_rate=round(published / max(publish_seconds, 1e-9), 1),
        accepted=len(jobs),
        lost=published - len(jobs),
        states=dict(sorted(Counter(job_state(job.state).lower() for job in jobs).items())),
        bound=len(held),
        jobs_per_second=round(len(held) / span, 1) if span > 0 else None,
        submit_to_bound_p50=percentile(waits, 0.50),
        submit_to_bound_p99=percentile(waits, 0.99),
        seconds=round(seconds, 2),
        violations=violations,
        resident_bytes=resident_bytes,
    )  # fmt: skip


def resident(session: Session) -> dict[str, int]:
    """Resident memory of each process of a system on this machine, in bytes."""
    import psutil

    sizes = {}
    for name, pid in session.context.service_pids.items():
        try:
            sizes[name] = int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue
    return sizes


def report_lines(report: Report) -> list[str]:
    """The report for a person."""
    from berth.cli import units
    from berth.cli.output import render_table

    rows = [
        ("nodes", str(report.nodes)),
        ("published", f"{report.published} at {report.publish_rate:g} jobs/s"),
        ("accepted", f"{report.accepted}, lost {report.lost}"),
        ("states", ", ".join(f"{count} {state}" for state, count in report.states.items()) or "none"),
        ("end to end", f"{report.jobs_per_second:g} jobs/s bound" if report.jobs_per_second else units.UNKNOWN),
        ("submit to bound", f"p50 {units.duration(report.submit_to_bound_p50)}, "
                            f"p99 {units.duration(report.submit_to_bound_p99)}"),
        ("audit", "every invariant holds" if not report.violations else f"{len(report.violations)} violations"),
        ("memory", ", ".join(f"{name} {units.bytes_of(size)}" for name, size in report.resident_bytes.items())
                   or units.UNKNOWN),
        ("took", units.duration(report.seconds)),
        ("tenant", report.tenant),
    ]  # fmt: skip
    return [*render_table((), rows), *[f"  {violation}" for violation in report.violations]]
