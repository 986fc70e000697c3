"""A Kubernetes API and an engine that hold what a test puts there, and a pod source between them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from berth.kubernetes.client import Kubernetes, KubernetesError, Object, WatchEvent
from berth.kubernetes.devices import claim_of
from berth.kubernetes.informer import Informer
from berth.v1 import jobs_pb2 as pb
from binder.pods.engine import Engine
from binder.pods.source import PodSource, PodsPace

PODS = "/api/v1/pods"
OVER = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)


def path_of(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


class FakeKubernetes:
    """`quiet`: watches do not tell what changes, as broken ones do not."""

    def __init__(self) -> None:
        self.things: dict[str, Object] = {}
        self.refusals: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.version = 1
        self.quiet = False
        self._watches: list[asyncio.Queue[WatchEvent]] = []

    def put(self, pod: Object, path: str = "") -> None:
        """`path`: of what is no pod."""
        if path:
            self.things[path] = pod
            return
        path = path_of(pod)
        self.version += 1
        pod["metadata"]["resourceVersion"] = str(self.version)
        self.tell("MODIFIED" if path in self.things else "ADDED", pod)
        self.things[path] = pod

    def delete(self, pod: Object) -> None:
        self.version += 1
        gone = self.things.pop(path_of(pod))
        self.tell("DELETED", {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}})

    def tell(self, event: Any, thing: Object) -> None:
        for watch in self._watches if not self.quiet else ():
            watch.put_nowait((event, thing))

    async def get(self, path: str, **_: Any) -> Object:
        self.asked.append(path)
        if path in self.refusals:
            raise self.refusals[path]
        if path not in self.things:
            raise KubernetesError(404, "NotFound", "not found")
        return self.things[path]

    async def list(self, path: str, **_: Any) -> tuple[list[Object], str]:
        return [one for where, one in self.things.items() if "/pods/" in where], str(self.version)

    async def watch(self, path: str, version: str, **_: Any) -> AsyncIterator[WatchEvent]:
        told: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self._watches.append(told)
        while True:
            yield await told.get()

    async def patch(self, path: str, body: Any, **_: Any) -> Object:
        return {}

    post = patch


class FakeEngine:
    """`before_watch`: what changes while nobody listens yet."""

    def __init__(self) -> None:
        self.jobs: dict[str, pb.Job] = {}
        self.placed: list[str] = []
        self.before_watch: list[Any] = []
        self._watches: list[asyncio.Queue[pb.Job]] = []

    def held(self) -> dict[str, tuple[int, list[str]]]:
        """State and pods of each job."""
        return {job_id: (job.state, [one.uid for one in job.spec.kubernetes.pods]) for job_id, job in self.jobs.items()}

    def set(self, job_id: str, state: int, **fields: Any) -> None:
        job = pb.Job()
        job.CopyFrom(self.jobs[job_id])
        job.version += 1
        job.state = cast(Any, state)
        for name, value in fields.items():
            setattr(job, name, value)
        if state in OVER and not job.HasField("finished_at"):
            job.finished_at.GetCurrentTime()
        if state == pb.JOB_STATE_BOUND and not job.members:
            for number in range(len(job.spec.kubernetes.pods)):
                job.members.add(member=number)
        self.jobs[job_id] = job
        for watch in self._watches:
            watch.put_nowait(job)

    async def place(self, spec: pb.JobSpec) -> pb.Job:
        self.placed.append(spec.idempotency_key)
        for job in self.jobs.values():
            if job.spec.idempotency_key == spec.idempotency_key:
                return job
        job_id = f"j{len(self.jobs) + 1}"
        self.jobs[job_id] = pb.Job(job_id=job_id, spec=spec, state=pb.JOB_STATE_PENDING, version=1)
        return self.jobs[job_id]

    async def cancel(self, job_id: str, reason: str) -> pb.Job:
        self.set(job_id, pb.JOB_STATE_CANCELLED, message=reason)
        return self.jobs[job_id]

    async def get(self, job_id: str) -> pb.Job:
        return self.jobs[job_id]

    async def active(self) -> list[pb.Job]:
        return [job for job in self.jobs.values() if job.state not in OVER]

    async def watch(self) -> AsyncIterator[pb.Job | None]:
        for change in self.before_watch:
            change()
        self.before_watch.clear()
        told: asyncio.Queue[pb.Job] = asyncio.Queue()
        self._watches.append(told)
        await asyncio.sleep(0)
        yield None
        while True:
            yield await told.get()


class Sides:
    """Both sides, and what is between them."""

    def __init__(self) -> None:
        self.kubernetes, self.engine = FakeKubernetes(), FakeEngine()
        self.now = 1000.0
        self.informer = Informer(cast(Kubernetes, self.kubernetes), PODS)
        self.source = self.made()

    def made(self, **pace: Any) -> PodSource:
        return PodSource(
            cast(Kubernetes, self.kubernetes),
            self.informer,
            {},
            cast(Engine, self.engine),
            claim_of=claim_of,
            pace=PodsPace(quiet_seconds=0.0, **pace),
            clock=lambda: self.now,
        )

    @asynccontextmanager
    async def mirrored(self) -> AsyncIterator[None]:
        async with _beside(self.informer.run()):
            await self.informer.synced.wait()
            yield

    @asynccontextmanager
    async def taken_up(self) -> AsyncIterator[None]:
        async with _beside(self.source.run()):
            await settled()
            yield


@asynccontextmanager
async def _beside(coroutine: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        assert not task.done(), task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled() -> None:
    """Until all that can go on without time passing has gone on."""
    for _ in range(200):
        await asyncio.sleep(0)
