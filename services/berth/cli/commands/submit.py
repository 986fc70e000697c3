"""`berth submit`."""

import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from berth.cli.output import FORMATS
from berth.cli.session import Session, connected

__all__ = ["documents", "submit"]

KINDS = ("training", "inference", "batch")
OBJECTIVES = ("cost", "time", "latency", "energy")


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE", help="Job file, YAML or JSON; - for standard input"
)
@click.option("--model", "model_uri", metavar="PATH", help="Serve this model: a package, artefact, ONNX file or folder")
@click.option("--latency-target", help="Latency that the served model must keep, such as 50ms")
@click.option("--name", help="Name of the job [made from the command]")
@click.option("--kind", type=click.Choice(KINDS), help="Kind of job [batch]")
@click.option("--tenant", help="Tenant [default]")
@click.option("--queue", help="Queue [default]")
@click.option("--pool", help="Pool [default]")
@click.option("--priority", type=int, help="Higher goes first [0]")
@click.option("--replicas", type=int, help="Members of the gang [1]")
@click.option("--devices", type=int, help="Whole devices a member")
@click.option("--device-fraction", type=float, help="Share of one device, such as 0.5")
@click.option("--device-memory", help="Memory on each device, such as 40Gi")
@click.option("--cpu", help="Cores a member, such as 4 or 500m [1 for a command that asks for nothing]")
@click.option("--memory", help="Host memory a member, such as 16Gi")
@click.option("--accelerator", "models", multiple=True, help="Accelerator that will do; repeat")
@click.option("--class", "classes", multiple=True, help="Class that will do, such as GPU; repeat")
@click.option("--stack", "stacks", multiple=True, help="Stack that will do, such as CUDA; repeat")
@click.option("--workload", help="Name of the workload in the profile store")
@click.option("--objective", type=click.Choice(OBJECTIVES), help="What to minimise [cost]")
@click.option("--deadline", help="Must end by then, such as 2026-12-01T18:00:00Z")
@click.option("--expected-duration", help="Such as 90s, 1h30m")
@click.option("--topology", help="Keep members within one node, rack, block, zone or region")
@click.option("--executor", help="process, simulated, kubernetes or triton")
@click.option("--preemptible", is_flag=True, default=None, help="May be moved for others")
@click.option("-e", "--env", "environment", multiple=True, metavar="NAME=VALUE", help="Environment; repeat")
@click.option("-l", "--label", "labels", multiple=True, metavar="NAME=VALUE", help="Label; repeat")
@click.option("--key", "idempotency_key", help="Idempotency key [the name]")
@click.option("--dry-run", is_flag=True, help="Say where it would go now; store nothing")
@click.option("--wait", is_flag=True, help="Wait until it is placed")
@click.option("--timeout", default="60s", show_default=True, help="With --wait: give up waiting after this long")
@click.option("--through", type=click.Choice(["grpc", "kafka"]), default="grpc", show_default=True)
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format")
@connected
async def submit(
    session: Session,
    files: tuple[str, ...],
    command: tuple[str, ...],
    model_uri: str | None,
    dry_run: bool,
    wait: bool,
    timeout: str,
    through: str,
    output: str,
    **flags: Any,
) -> int:
    """Submit the jobs of a file, one that runs COMMAND, or one that serves a model.

    Of a model, its package is read, and says what the job leaves open: memory, accelerators that take it, digest.

    \b
    berth submit -f job.yaml
    berth submit --kind batch -- python train.py
    berth submit --model models/chat --latency-target 50ms
    """
    from berth.jobs import parse_document, parse_duration
    from berth.observability import configure_tracing, shutdown_tracing

    if bool(files) + bool(command) + bool(model_uri) != 1:
        raise click.UsageError("give one of -f FILE, --model PATH and `-- COMMAND ARGUMENT...`")
    seconds = parse_duration("timeout", timeout)
    if session.context.span_dir:
        configure_tracing("cli", span_dir=Path(session.context.span_dir))
    overrides = flags_document(flags)
    # A command's defaults give way to nothing; a file is overridden by the flags given beside it.
    if files:
        found = list(documents(files))
    else:
        found = [model_document(model_uri) if model_uri else command_document(command, overrides)]
    specs = [parse_document(with_model({**document, **overrides})) for document in found]
    if through == "kafka":
        if dry_run or wait:
            raise click.UsageError("--dry-run and --wait need an answer: leave out --through kafka")
        code = await publish(session, specs)
    else:
        code = await place(session, specs, dry_run=dry_run, wait=wait, seconds=seconds, output=output)
    shutdown_tracing()
    return code


def documents(files: Iterable[str]) -> Iterable[Mapping[Any, Any]]:
    """The job documents of the files; one file may hold several. Raises InvalidInput."""
    import yaml

    from berth.errors import InvalidInput

    for name in files:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
            found = [document for document in yaml.safe_load_all(text) if document is not None]
        except OSError as error:
            raise InvalidInput.of("file", name, f"{error.strerror}: name a file that can be read") from error
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise InvalidInput.of("file", name, f"write valid YAML or JSON: {str(error).splitlines()[0]}") from error
        if not found:
            raise InvalidInput.of("file", name, "it holds no job")
        for document in found:
            if not isinstance(document, dict):
                raise InvalidInput.of("file", name, "a job is a mapping with at least `name`")
        yield from found


def flags_document(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, as fields of a job document. Raises InvalidInput."""
    plain = {
        name: value
        for name, value in flags.items()
        if name not in ("models", "classes", "stacks", "environment", "labels", "topology") and value is not None
    }
    selector = {name: list(flags[name]) for name in ("models", "classes", "stacks") if flags[name]}
    if selector:
        plain["accelerators"] = selector
    for name in ("environment", "labels"):
        if flags[name]:
            plain[name] = assignments(name, flags[name])
    if flags["topology"]:
        plain["topology"] = {"level": flags["topology"], "required": True}
    return plain


def assignments(field: str, texts: Iterable[str]) -> dict[str, str]:
    """["A=1"] -> {"A": "1"}. Raises InvalidInput."""
    from berth.errors import InvalidInput

    made = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidInput.of(field, text, "write NAME=VALUE")
        made[name] = value
    return made


def command_document(command: tuple[str, ...], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A job that runs `command`; where it asks for nothing, for one core."""
    words = [Path(word).stem for word in command[:2] if not word.startswith("-")]
    stem = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:40] or "job"
    document: dict[str, Any] = {"name": f"{stem}-{secrets.token_hex(3)}", "command": list(command)}
    if not {"devices", "device_fraction", "cpu", "memory"} & set(overrides):
        document["cpu"] = 1
    return document


def model_document(uri: str) -> dict[str, Any]:
    """A job that serves the model at `uri`."""
    from berth.models.artefact_file import name_of, path_of

    stem = re.sub(r"[^a-z0-9]+", "-", name_of(path_of(uri)).lower()).strip("-")[:40] or "model"
    return {"name": f"{stem}-{secrets.token_hex(3)}", "model": {"uri": uri}}


def with_model(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with what its model says of it where it leaves that open; told on standard error."""
    given = document.get("model")
    if not isinstance(given, Mapping) or not isinstance(given.get("uri"), str):
        return document
    from berth.jobs.serving import fill
    from berth.models.artefact_file import open_artefact, path_of

    path = path_of(given["uri"])
    opened = open_artefact(path)
    # Read by the binder from where it runs, which is not this folder.
    resolved = {**document, "model": {**given, "uri": str(path.resolve())}}
    filled = fill(resolved, opened.artefact)
    click.echo(
        f"{document.get('name', 'job')}: of the model {opened.artefact.name} ({opened.artefact.format}):", err=True
    )
    for line in filled.lines:
        click.echo(f"  {line}", err=True)
    return filled.document


async def place(session: Session, specs: list[Any], *, dry_run: bool, wait: bool, seconds: float, output: str) -> int:
    """Hands the jobs over by gRPC, in order, each under a trace of its own."""
    from berth.cli.explaining import explain_lines
    from berth.cli.kinds import JOB, job_state
    from berth.cli.output import as_data, dump, print_items
    from berth.cli.publishing import submission_trace
    from berth.v1 import jobs_pb2
    from berth.v1 import placement_pb2 as pb

    jobs = []
    waiting = False
    for spec in specs:
        answer = await session.placement.PlaceJob(
            pb.PlaceJobRequest(spec=spec, wait=wait, dry_run=dry_run),
            metadata=(("traceparent", submission_trace(spec.name, "grpc")),),
            timeout=seconds if wait else 30.0,
        )
        jobs.append(answer.job)
        waiting |= wait and answer.job.state == jobs_pb2.JOB_STATE_PENDING
        if output != "table":
            continue
        if dry_run:
            click.echo("\n".join(explain_lines(spec.name, answer.explanation)))
        else:
            again = " (submitted before)" if answer.duplicate else ""
            click.echo(f"job/{JOB.name(answer.job)} {job_state(answer.job.state).lower()}{again}")
    if output in ("json", "yaml") and dry_run:
        click.echo(dump(as_data(answer.explanation), output))
    elif output != "table":
        print_items(JOB, jobs, output, single=len(jobs) == 1)
    if waiting:
        click.echo("not placed yet: `berth explain JOB` says why", err=True)
    return 1 if waiting else 0


async def publish(session: Session, specs: list[Any]) -> int:
    """Publishes the jobs as CloudEvents on the topic jobs.submitted."""
    from berth.cli.publishing import JobPublisher
    from berth.embedded.context import NoContext

    if not session.context.kafka:
        raise NoContext("the context file names no broker: add `kafka`, or leave out --through kafka")
    async with JobPublisher(session.context.kafka, source="/berth/cli", token=session.token) as publisher:
        for spec in specs:
            await publisher.publish(spec)
            click.echo(f"job/{spec.name} published")
    return 0
