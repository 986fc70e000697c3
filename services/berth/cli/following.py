"""Waiting for jobs, through interruptions of the stream."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc

from berth.cli.session import Session
from berth.v1 import jobs_pb2
from berth.v1 import placement_pb2 as pb

__all__ = ["ENDED", "HELD", "reached", "watch_jobs"]

ENDED = frozenset({jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED})
HELD = frozenset({jobs_pb2.JOB_STATE_BOUND, jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATE_RELEASING}) | ENDED
RETRY_SECONDS = 1.0


def reached(job: jobs_pb2.Job, goal: str) -> bool:
    """Whether the job has come as far as `goal`, "bound" or "finished"."""
    return job.state in (HELD if goal == "bound" else ENDED)


async def watch_jobs(session: Session, jobs: Sequence[str]) -> AsyncIterator[jobs_pb2.Job]:
    """The present state of each job, then each change. Where the engine goes away it is asked again."""
    while True:
        try:
            async for answer in session.placement.WatchJobs(pb.WatchJobsRequest(jobs=jobs, send_initial=True)):
                yield answer.job
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:  # type: ignore[attr-defined]
                raise
        await asyncio.sleep(RETRY_SECONDS)
