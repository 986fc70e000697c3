"""`berth logs`."""

import sys

import click

from berth.cli.session import Session, connected

__all__ = ["logs"]


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended")
@click.option("-m", "--member", default=-1, help="This member of the gang only")
@click.option("--tail", default=0, help="Only the last so many lines")
@connected
async def logs(session: Session, job: str, follow: bool, member: int, tail: int) -> None:
    """Print what JOB wrote: its standard output on ours, its standard error on ours."""
    from berth.v1 import binding_pb2, placement_pb2

    found = (await session.placement.GetJob(placement_pb2.GetJobRequest(job=job))).job
    request = binding_pb2.GetLogsRequest(job_id=found.job_id, member=member, follow=follow, tail_lines=tail)
    async for chunk in session.binding.GetLogs(request):
        stream = sys.stderr.buffer if chunk.stream == "stderr" else sys.stdout.buffer
        stream.write(chunk.data)
        stream.flush()
