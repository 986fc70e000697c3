"""`berth wait`."""

import asyncio

import click

from berth.cli.session import Session, connected

__all__ = ["wait"]


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@click.option("--for", "goal", type=click.Choice(["bound", "finished"]), default="finished", show_default=True)
@click.option("--timeout", default="10m", show_default=True, help="Give up after this long, such as 30s, 2h")
@connected
async def wait(session: Session, jobs: tuple[str, ...], goal: str, timeout: str) -> int:
    """Wait until all JOBS are bound or finished.

    Exit code 1 where one failed or was cancelled, or where time ran out.
    """
    from berth.jobs import parse_duration

    seconds = parse_duration("timeout", timeout)
    try:
        async with asyncio.timeout(seconds):
            return await until(session, jobs, goal)
    except TimeoutError:
        click.echo(f"not {goal} within {timeout}: `berth explain JOB` says why", err=True)
        return 1


async def until(session: Session, jobs: tuple[str, ...], goal: str) -> int:
    """Prints each job as it gets there. Gives the exit code."""
    from berth.cli.following import reached, watch_jobs
    from berth.cli.kinds import JOB, job_state
    from berth.v1 import jobs_pb2
    from berth.v1 import placement_pb2 as pb

    # An unknown name fails here and now, not after the timeout.
    open_ids = {(await session.placement.GetJob(pb.GetJobRequest(job=name))).job.job_id for name in jobs}
    failed = False
    async for job in watch_jobs(session, sorted(open_ids)):
        if job.job_id not in open_ids or not reached(job, goal):
            continue
        open_ids.discard(job.job_id)
        state = job_state(job.state).lower()
        short = job.state in (jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED)
        click.echo(f"job/{JOB.name(job)} {state}" + (f": {job.message}" if short and job.message else ""))
        failed |= short
        if not open_ids:
            break
    return 1 if failed else 0
