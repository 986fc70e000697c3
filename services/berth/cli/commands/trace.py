"""`berth trace`."""

from pathlib import Path

import click

from berth.cli.session import Session, connected

__all__ = ["trace"]


@click.command()
@click.argument("job")
@click.option("--spans", type=click.Path(path_type=Path), help="Folder of span files [of the running system]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@connected
async def trace(session: Session, job: str, spans: Path | None, output: str) -> int:
    """Show where the time of JOB went, from its publisher to its end, as a waterfall."""
    from dataclasses import asdict

    from berth.cli.failures import Failed
    from berth.cli.output import dump
    from berth.cli.waterfall import read_spans, waterfall
    from berth.v1 import placement_pb2 as pb

    found = (await session.placement.GetJob(pb.GetJobRequest(job=job))).job
    parts = found.traceparent.split("-")
    folder = spans or Path(session.context.span_dir or ".")
    if len(parts) < 4:
        raise Failed(f"{job} carries no trace")
    if spans is None and not session.context.span_dir:
        raise Failed(
            f"this system keeps no spans here: give --spans, or look the trace up in your own collector: {parts[1]}"
        )
    read = read_spans(folder, parts[1])
    if output == "json":
        click.echo(dump([asdict(span) for span in read], "json"))
    else:
        click.echo("\n".join(waterfall(f"{found.spec.name}, trace {parts[1]}", read)))
    return 0 if read else 1
