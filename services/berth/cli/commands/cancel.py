"""`berth cancel`."""

import click

from berth.cli.session import Session, connected

__all__ = ["cancel"]


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@click.option("--reason", default="cancelled by the user", show_default=True, help="Kept with the job")
@connected
async def cancel(session: Session, jobs: tuple[str, ...], reason: str) -> int:
    """Cancel JOBS. What runs is ended; its devices are free when the executor says so."""
    import grpc

    from berth.cli.failures import report
    from berth.cli.kinds import JOB, job_state
    from berth.v1 import placement_pb2 as pb

    code = 0
    for name in jobs:
        try:
            job = (await session.placement.CancelJob(pb.CancelJobRequest(job=name, reason=reason))).job
            click.echo(f"job/{JOB.name(job)} {job_state(job.state).lower()}")
        except grpc.RpcError as error:
            code = max(code, report(error))
    return code
