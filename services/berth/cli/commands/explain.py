"""`berth explain`."""

import click

from berth.cli.session import Session, connected

__all__ = ["explain"]


@click.command()
@click.argument("job")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@connected
async def explain(session: Session, job: str, output: str) -> None:
    """Say why JOB is where it is (candidates and their scores), or why it waits (filters and their numbers)."""
    from berth.cli.explaining import explain_lines
    from berth.cli.output import as_data, dump
    from berth.v1 import placement_pb2 as pb

    answer = await session.placement.ExplainJob(pb.ExplainJobRequest(job=job))
    if output == "table":
        click.echo("\n".join(explain_lines(job, answer.explanation)))
    else:
        click.echo(dump(as_data(answer.explanation), output))
