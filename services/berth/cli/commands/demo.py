"""`berth demo`: the whole system, once through, on this machine."""

import asyncio
import importlib.util
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from berth.cli.demo_mix import QUEUES, DemoJob, demo_jobs
from berth.cli.session import Session

__all__ = ["demo"]

FLEET_NODES = 60
FLEET_SECONDS = 25.0
SUBMIT_A_SECOND = 25.0
STALLED_SECONDS = 40.0
LINE_SECONDS = 2.0


@click.command()
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path(".berth/demo"),
    show_default=True,
    help="Folder of everything the demonstration keeps; emptied at the start",
)
@click.option(
    "--nodes", type=click.IntRange(1, 500), default=FLEET_NODES, show_default=True, help="Nodes of the emulated fleet"
)
@click.option("--context", "context_file", type=click.Path(path_type=Path), help="Where to write the context file")
def demo(state: Path, nodes: int, context_file: Path | None) -> int:
    """Show the whole system on this machine, in about a minute; then end it all."""  # fmt: skip
    from berth.cli.running import run_until_signal
    from berth.embedded.supervisor import EmbeddedSystem, Options

    code = 1
    begin = time.monotonic()

    async def body() -> None:
        nonlocal code
        heading(f"Berth on this machine: four services, this machine as a node, {nodes} emulated nodes, 200 jobs")
        serves = await asyncio.to_thread(why_no_model) is None
        shutil.rmtree(state / "models", ignore_errors=True)
        options = Options(
            state,
            fresh=True,
            fleet_nodes=nodes,
            context_file=context_file,
            triton=serves,
            environment={"BERTH_REPORT_SECONDS": "2"},
        )
        async with EmbeddedSystem(options, say=note) as system:
            note(f"everything is ready after {time.monotonic() - begin:.1f} s")
            session = Session(system.context)
            watch = asyncio.ensure_future(system.watch())
            show = asyncio.ensure_future(run(session, nodes, (state / "models").absolute() if serves else None))
            try:
                await asyncio.wait({watch, show}, return_when=asyncio.FIRST_COMPLETED)
                if not show.done():
                    await watch  # raises what ended the system
                code = await show
            finally:
                watch.cancel()
                show.cancel()
                await asyncio.gather(watch, show, return_exceptions=True)
                await session.close()
            note("")
            note("ending every process")
        where_next(time.monotonic() - begin)

    return run_until_signal(body) or code


def heading(text: str) -> None:
    click.echo()
    click.secho(text, bold=True)


def note(text: str) -> None:
    click.echo(f"  {text}".rstrip())


def why_no_model() -> str | None:
    """Why no model can be served here, in one line; None: one can."""
    from berth.cli.demo_model import model_file
    from berth.embedded.triton import fetch

    if model_file() is None:
        return "the example model is not beside this package: run it in the source tree"
    if any(importlib.util.find_spec(name) is None for name in ("jax", "numpy")):
        return "jax is not installed: pip install 'berth[models]'"
    try:
        fetch()
    except RuntimeError as error:
        return str(error)
    return None


async def run(session: Session, nodes: int, models: Path | None) -> int:
    """1. fleet  2. queues  3. submit and follow  4. summary, audit  5. explain, logs, trace  6. a model, if any can be.

    `models`: folder for the model's package; None: none can be served here.
    """
    from berth.cli.demo_model import show_model
    from berth.observability import configure_tracing, shutdown_tracing
    from berth.v1 import fleet_pb2
    from berth.v1 import placement_pb2 as pb

    configure_tracing("publisher", span_dir=Path(session.context.span_dir))
    heading("The fleet")
    await until_fleet_is_known(session, nodes)
    queues = [fleet_pb2.Queue(name=name, weight=weight) for name, weight in QUEUES]
    await session.placement.ApplyQueues(pb.ApplyQueuesRequest(queues=queues))
    heading("200 jobs: training gangs, inference, batch, and 10 commands that run here")
    jobs = demo_jobs()
    await asyncio.gather(submit(session, jobs), follow(session, len(jobs)))
    settled = await listed(session)
    shutdown_tracing()
    heading("Summary")
    lost = len(jobs) - len(settled)
    for line in summary_lines(settled, lost):
        note(line)
    audit = await session.placement.Audit(pb.AuditRequest())
    note("audit: every invariant holds" if not audit.violations else f"audit: {len(audit.violations)} violations")
    for violation in audit.violations[:5]:
        note(f"  {violation.invariant}: {violation.subject}: {violation.message}")
    await show_explanation(session, settled)
    await show_command(session, settled)
    served = True
    if models is None:
        heading("One model, submitted once: left out")
        note(why_no_model() or "")
    else:
        served = await show_model(session, heading, note, models)
    return 1 if lost or audit.violations or unfinished(settled) or not served else 0


async def until_fleet_is_known(session: Session, nodes: int) -> None:
    """Waits until the engine hears every node; goes on without the late ones."""
    from berth.cli.commands.get import fetch_nodes

    deadline = time.monotonic() + FLEET_SECONDS
    while True:
        statuses = await fetch_nodes(session, (), "")
        live = [status for status in statuses if status.HasField("age_seconds")]
        if len(live) > nodes or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.3)
    models = Counter(device.model or device.reported_model for status in statuses for device in status.node.devices)
    note(f"{len(statuses)} nodes known, {len(live)} with live telemetry, {models.total()} devices:")
    note(", ".join(f"{count} x {model}" for model, count in models.most_common()))


async def submit(session: Session, jobs: list[DemoJob]) -> None:
    """Through Kafka as protobuf and as JSON, and by PlaceJob."""
    from berth.cli.publishing import JobPublisher, submission_trace
    from berth.jobs import parse_document
    from berth.v1 import placement_pb2 as pb

    begin = time.monotonic()
    async with JobPublisher(session.context.kafka, source="/berth/demo") as publisher:
        for number, job in enumerate(jobs):
            await asyncio.sleep(max(0.0, begin + number / SUBMIT_A_SECOND - time.monotonic()))
            if job.through == "json":
                await publisher.publish_json(job.document)
            elif job.through == "protobuf":
                await publisher.publish(parse_document(job.document))
            else:
                await session.placement.PlaceJob(
                    pb.PlaceJobRequest(spec=parse_document(job.document)),
                    metadata=(("traceparent", submission_trace(job.document["name"], "grpc")),),
                )


async def listed(session: Session) -> list[Any]:
    from berth.cli.commands.get import all_jobs

    return await all_jobs(session)


async def follow(session: Session, total: int) -> None:
    """Shows how it goes until every job has ended, or until nothing has moved for a while."""
    from berth.cli.following import ENDED
    from berth.cli.progress import Progress
    from berth.v1 import jobs_pb2

    begin = said = moved = time.monotonic()
    seen = -1
    terminal = sys.stderr.isatty()
    with Progress("finished", total) as bar:
        while True:
            jobs = await listed(session)
            states = Counter(job.state for job in jobs)
            ended = sum(states[state] for state in ENDED)
            running = states[jobs_pb2.JOB_STATE_RUNNING] + states[jobs_pb2.JOB_STATE_BOUND]
            waiting = states[jobs_pb2.JOB_STATE_PENDING] + states[jobs_pb2.JOB_STATE_PLACED]
            text = f"{len(jobs)} accepted, {waiting} waiting, {running} running"
            now = time.monotonic()
            if terminal:
                bar.at(ended, f"{text} {await live_figures(session)}")
            elif now - said > LINE_SECONDS or ended == total:
                said = now
                note(f"{now - begin:4.1f} s: {text}, {ended} finished")
            progressed = sum(job.version for job in jobs)
            if progressed != seen:
                seen, moved = progressed, now
            if ended >= total or now - moved > STALLED_SECONDS:
                return
            await asyncio.sleep(0.4)


async def live_figures(session: Session) -> str:
    """What the fleet's telemetry says now."""
    from berth.cli.commands.get import fetch_nodes
    from berth.cli.commands.top import node_figures

    figures = [node_figures(status) for status in await fetch_nodes(session, (), "")]
    heats = [mine["heat"] for mine in figures if mine["heat"] is not None]
    powers = [mine["power"] for mine in figures if mine["power"] is not None]
    if not heats or not powers:
        return ""
    return f"| hottest {max(heats):.0f}C | {sum(powers) / 1000:.1f} kW"


def unfinished(jobs: list[Any]) -> list[Any]:
    from berth.v1 import jobs_pb2

    return [job for job in jobs if job.state != jobs_pb2.JOB_STATE_SUCCEEDED]


def summary_lines(jobs: list[Any], lost: int) -> list[str]:
    from berth.cli import units
    from berth.cli.kinds import job_reference, job_state
    from berth.cli.openb import percentile

    states = Counter(job_state(job.state).lower() for job in jobs)
    placed = Counter(claim.model for job in jobs for member in job.members for claim in member.devices)
    times = [(units.seconds_of(job, "submitted_at"), units.seconds_of(job, "bound_at")) for job in jobs]
    waits = [end - start for start, end in times if start is not None and end is not None]
    gangs = [job for job in jobs if job.spec.replicas > 1 and job.members]
    lines = [
        f"{len(jobs)} jobs: {', '.join(f'{count} {state}' for state, count in states.most_common())}; {lost} lost",
        f"submit to bound: p50 {units.duration(percentile(waits, 0.5))}, p99 {units.duration(percentile(waits, 0.99))}",
        f"gangs bound whole: {len(gangs)}, with {sum(len(job.members) for job in gangs)} members",
        f"device claims: {', '.join(f'{count} x {model}' for model, count in placed.most_common())}",
    ]
    return lines + [
        f"{job_state(job.state).lower()}: {job_reference(job)}: {job.message}" for job in unfinished(jobs)[:5]
    ]


async def show_explanation(session: Session, jobs: list[Any]) -> None:
    from berth.cli.explaining import explain_lines
    from berth.v1 import placement_pb2 as pb

    gangs = [job for job in jobs if job.spec.replicas > 1 and job.members]
    if not gangs:
        return
    job = max(gangs, key=lambda job: (job.spec.replicas * job.spec.resources.devices, job.spec.name))
    heading(f"berth explain {job.spec.name}")
    answer = await session.placement.ExplainJob(pb.ExplainJobRequest(job=job.job_id))
    for line in explain_lines(job.spec.name, answer.explanation):
        note(line)


async def show_command(session: Session, jobs: list[Any]) -> None:
    """The output and the trace of a command that ran here."""
    from berth.cli.waterfall import read_spans, waterfall
    from berth.v1 import binding_pb2

    commands = [job for job in jobs if job.spec.executor == "process" and job.HasField("finished_at")]
    if not commands:
        return
    job = next((job for job in commands if job.spec.name.startswith("steps")), commands[0])
    heading(f"berth logs {job.spec.name}")
    async for chunk in session.binding.GetLogs(binding_pb2.GetLogsRequest(job_id=job.job_id, member=-1)):
        for line in chunk.data.decode(errors="replace").splitlines():
            note(line)
    heading(f"berth trace {job.spec.name}")
    trace_id = job.traceparent.split("-")[1] if job.traceparent.count("-") == 3 else ""
    await asyncio.sleep(0.6)  # the services hand their spans over every 0.3 s
    for line in waterfall(f"{job.spec.name}, trace {trace_id}", read_spans(Path(session.context.span_dir), trace_id)):
        note(line)


def where_next(seconds: float) -> None:
    heading(f"Done in {seconds:.0f} s, and every process is gone. Where to go next")
    for command, what in (
        ("berth dev --fleet", "the same system, kept running"),
        ("berth submit --kind batch -- echo hello", "a job of your own; then: berth logs, explain, trace"),
        ("berth submit -f examples/finetune.yaml --dry-run", "where a job file would go, and why"),
        ("berth get nodes; berth top devices --sort heat", "the fleet, live"),
        ("berth --help", "everything else"),
    ):
        note(f"{command:<50} {what}")
