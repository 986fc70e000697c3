"""`berth describe`."""

import click

from berth.cli.commands.get import ALIASES, fetch_nodes, fetch_queues
from berth.cli.session import Session, connected

__all__ = ["describe"]


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@connected
async def describe(session: Session, kind: str, name: str | None) -> None:
    """Show one job, node or queue in full: KIND NAME, or the NAME of a job alone."""
    from berth.cli import explaining
    from berth.v1 import placement_pb2 as pb

    if name is None:
        if kind in ALIASES:
            raise click.UsageError(f"name the {kind}")
        kind, name = "job", kind
    match ALIASES.get(kind):
        case "jobs":
            job = (await session.placement.GetJob(pb.GetJobRequest(job=name))).job
            lines = explaining.describe_job(job)
        case "nodes":
            lines = explaining.describe_node((await fetch_nodes(session, [name], ""))[0])
        case "queues":
            lines = explaining.describe_queue((await fetch_queues(session, [name]))[0])
        case _:
            raise click.UsageError(f"no kind {kind!r}: one of job, node, queue")
    click.echo("\n".join(lines))
