"""A running executor on the test cluster, and what a test needs of it: builders, and the truth by the API server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, Object
from binder.adapters.cluster import Cluster, open_cluster
from binder.domain.attempt import Attempt, AttemptId, Observation, State
from binder.domain.executor import Observations
from binder.domain.work import Assignment, DeviceClaim, Member, PodReference, Work
from binder.executors.kubernetes import KubernetesExecutor

PODS = "/api/v1/namespaces/default/pods"


@dataclass
class Running:
    """`told`: all that bind answered and what came through the sink."""

    executor: KubernetesExecutor
    cluster: Cluster
    told: list[tuple[AttemptId, Observation]] = field(default_factory=list)

    def sink(self, observations: Observations) -> None:
        self.told.extend(observations.items())

    def bound(self) -> int:
        """Pods of attempts under way that the executor knows to be bound."""
        return sum(member.view.ours for held in self.executor._attempts for member in held.members)

    def seen(self, attempt: AttemptId) -> list[str]:
        """Without HELD: a pod may start while its binding is answered."""
        return [one.seen.value for each, one in self.told if each == attempt and one.seen.value != "HELD"]

    async def bind(self, *assignments: Assignment) -> list[Observation]:
        answers = await self.executor.bind(assignments)
        self.sink(answers)
        return [answers[each.id] for each in assignments]

    async def read_back(self, assignment: Assignment) -> Observation:
        return (await self.executor.read_back([assignment]))[assignment.id]

    async def release(self, assignment: Assignment) -> Observation:
        return (await self.executor.release([assignment]))[assignment.id]

    async def until_told(self, attempt: AttemptId, seen: str) -> Observation:
        def found() -> Observation | None:
            return next((one for each, one in self.told if each == attempt and one.seen.value == seen), None)

        return await until(found)

    async def until_mirrored(self, right: Callable[[dict[str, Object]], bool]) -> None:
        await until(lambda: right(self.cluster.pods.objects))


@asynccontextmanager
async def running(kubeconfig: Path, **settings: Any) -> AsyncIterator[Running]:
    async with open_cluster(kubeconfig) as cluster:
        made = Running(KubernetesExecutor(cluster, **settings), cluster)
        mirror = asyncio.create_task(cluster.run())
        try:
            await made.executor.start(made.sink)
            yield made
        finally:
            await made.executor.stop()
            mirror.cancel()
            await asyncio.gather(mirror, return_exceptions=True)


async def until(question: Callable[[], Any], seconds: float = 20.0, pause: float = 0.03) -> Any:
    """The first true answer; of a coroutine function too."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"did not happen in {seconds} s: {question}"
        await asyncio.sleep(pause)


def assignment(
    pods: Sequence[Object] = (), *, job: str = "job", attempt: int = 1, nodes: Sequence[str] = (), **fields: Any
) -> Assignment:
    """`pods`: the API's objects, one a member; `nodes`: where, else all on n-0. Fields of Work or of Attempt."""
    references = tuple(reference(pod) for pod in pods)
    members = fields.pop("members", len(references))
    places = tuple(
        Member(number, nodes[number] if nodes else "n-0", (DeviceClaim(f"n-0/{number}", number, 1000, "H100-SXM"),))
        for number in range(members)
    )
    work = Work(places, pods=references, manifest=fields.pop("manifest", ""))
    now = time.time()
    made = Attempt(
        id=AttemptId(job, attempt), version=1, state=State.INTENT, executor="kubernetes", tenant="default",
        traceparent="", members=members, decided_at=now, intended_at=now, next_try_at=now, tries=1,
    )  # fmt: skip
    return Assignment(replace(made, **fields), work)


def again(one: Assignment, **fields: Any) -> Assignment:
    """As the worker has it after a first try whose outcome it does not know."""
    return Assignment(replace(one.attempt, **{"tries": one.attempt.tries + 1, **fields}), one.work)


def reference(pod: Object) -> PodReference:
    metadata = pod["metadata"]
    return PodReference(metadata["namespace"], metadata["name"], metadata["uid"])


async def pods_of(client: Kubernetes) -> dict[str, Object]:
    found, _ = await client.list(PODS)
    return {pod["metadata"]["name"]: pod for pod in found}


async def whole(client: Kubernetes) -> dict[str, tuple[str, str]]:
    """By pod: its node, and the attempt that bound it; "" where there is none."""
    return {
        name: (pod["spec"].get("nodeName", ""), pod["metadata"].get("annotations", {}).get(names.ATTEMPT, ""))
        for name, pod in (await pods_of(client)).items()
    }
