"""`berth explain`."""

from collections.abc import Sequence

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
        after = await _named(session, answer.explanation.expected_after)
        del answer.explanation.expected_after[:]
        answer.explanation.expected_after.extend(after)
        click.echo("\n".join(explain_lines(job, answer.explanation)))
    else:
        click.echo(dump(as_data(answer.explanation), output))


async def _named(session: Session, job_ids: Sequence[str]) -> list[str]:
    """The first few by their names: those that are gone or another's keep their id."""
    import grpc

    from berth.cli.kinds import NAMES_SHOWN
    from berth.v1 import placement_pb2 as pb

    names = list(job_ids)
    for number, job_id in enumerate(names[:NAMES_SHOWN]):
        try:
            spec = (await session.placement.GetJob(pb.GetJobRequest(job=job_id))).job.spec
        except grpc.RpcError:
            continue
        names[number] = spec.name or job_id
    return names
