"""Whatever breaks between binder and API server: in the end every gang is bound once and whole, or not at all."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes, KubernetesError, Object
from binder.domain.attempt import AttemptId, Observation
from binder.domain.work import Assignment
from tests.kubernetes.conftest import pod
from tests.kubernetes.executor import PODS, Running, again, assignment, pods_of, running, until, whole

UNDECIDED = ("UNCLEAR", "ABSENT", "PARTIAL")


class CuttingProxy:
    """Passes bytes on. While `share` is above 0, so much of the requests reach the server, and their answers nobody:
    the connection is cut, or with `silent` it stays and nothing comes."""

    def __init__(self, port: int, *, seed: int, silent: bool) -> None:
        self.silent = silent
        self.share = 0.0
        self.cuts = 0
        self._port = port
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        deaf = asyncio.Event()

        async def answers() -> None:
            while chunk := await far_reader.read(65536):
                if deaf.is_set():
                    return
                writer.write(chunk)
                await writer.drain()

        answering = asyncio.create_task(answers())
        chunks = 0
        try:
            while chunk := await reader.read(65536):
                chunks += 1
                # The first two are the handshake.
                cut = chunks > 2 and self._random.random() < self.share
                if cut:
                    deaf.set()
                far_writer.write(chunk)
                await far_writer.drain()
                if cut:
                    self.cuts += 1
                    if self.silent:
                        await asyncio.sleep(10.0)
                    await asyncio.sleep(0.05)
                    return
        except ConnectionError:
            pass
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            far_writer.close()
            writer.transport.abort()


async def driven(
    executor: Running, assignments: Sequence[Assignment], seconds: float = 60.0
) -> dict[AttemptId, Observation]:
    """What the worker does: bind, read back what is not clear, bind again what got nowhere."""
    open_ = {each.id: each for each in assignments}
    ends: dict[AttemptId, Observation] = {}

    def settle(answers: Any) -> None:
        for attempt_id, answer in answers.items():
            if answer.seen.value not in UNDECIDED:
                ends[attempt_id] = answer
                open_.pop(attempt_id, None)

    settle(await executor.executor.bind(list(open_.values())))
    async with asyncio.timeout(seconds):
        while open_:
            await asyncio.sleep(0.1)
            asked = {key: again(each) for key, each in open_.items()}
            read = await executor.executor.read_back(list(asked.values()))
            settle(read)
            nowhere = [asked[key] for key, answer in read.items() if answer.seen.value in ("ABSENT", "PARTIAL")]
            settle(await executor.executor.bind(nowhere))
    return ends


async def gangs(client: Kubernetes, count: int, size: int) -> list[list[Object]]:
    made = [[pod(f"g{gang}-{member}") for member in range(size)] for gang in range(count)]
    return [list(await asyncio.gather(*(client.post(PODS, manifest) for manifest in gang))) for gang in made]


def uids(pods: Any) -> dict[str, str]:
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in pods}


@pytest.mark.parametrize("silent", [False, True], ids=["cut off", "swallowed"])
async def test_answers_that_never_come_end_in_one_binding_each(
    cluster: Any, kubernetes: Kubernetes, silent: bool
) -> None:
    cluster.add_nodes(1, prefix="n")
    made = await gangs(kubernetes, 15, 4)
    work = [assignment(pods, job=f"g{number}") for number, pods in enumerate(made)]
    proxy = CuttingProxy(int(cluster.server.rpartition(":")[2]), seed=7, silent=silent)
    async with (
        proxy.listening() as address,
        running(cluster.kubeconfig_of("berth-admin", server=address), answer_seconds=0.5) as executor,
    ):
        await executor.cluster.pods.synced.wait()
        proxy.share = 0.4
        driving = asyncio.create_task(driven(executor, work))
        await asyncio.sleep(2.0)
        proxy.share = 0.0
        ends = await driving
    assert proxy.cuts > 10
    assert {end.seen.value for end in ends.values()} <= {"HELD", "STARTED"}
    assert await whole(kubernetes) == {f"g{g}-{m}": ("n-0", f"g{g}.1") for g in range(15) for m in range(4)}
    assert uids((await pods_of(kubernetes)).values()) == uids(one for gang in made for one in gang)


async def test_a_server_that_is_killed_half_way_ends_in_one_binding_each(cluster: Any, kubernetes: Kubernetes) -> None:
    cluster.add_nodes(1, prefix="n")
    made = await gangs(kubernetes, 40, 4)
    work = [assignment(pods, job=f"g{number}") for number, pods in enumerate(made)]
    async with running(cluster.kubeconfig, requests=8) as executor:
        await executor.cluster.pods.synced.wait()
        driving = asyncio.create_task(driven(executor, work))
        await until(lambda: executor.bound() >= 20, pause=0.002)
        cluster.kill("kube-apiserver")
        half = len([1 for held in executor.executor._attempts if held.bound_at is None])
        await asyncio.to_thread(cluster.start, "kube-apiserver")
        ends = await driving
    assert half > 0, "it was killed too late to matter"
    assert {end.seen.value for end in ends.values()} <= {"HELD", "STARTED"}
    assert await whole(kubernetes) == {f"g{g}-{m}": ("n-0", f"g{g}.1") for g in range(40) for m in range(4)}
    assert uids((await pods_of(kubernetes)).values()) == uids(one for gang in made for one in gang)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_half_gang_stays_whatever_others_do_meanwhile(cluster: Any, kubernetes: Kubernetes, seed: int) -> None:
    """Another scheduler binds some of the pods, and some are deleted, while two binders bind the same gangs."""
    cluster.add_nodes(2, prefix="n")
    made = await gangs(kubernetes, 16, 4)
    work = [assignment(pods, job=f"g{number}") for number, pods in enumerate(made)]
    chance = random.Random(seed)
    hit: set[str] = set()

    async def meddle(victims: list[str]) -> None:
        for name in victims:
            await asyncio.sleep(chance.random() * 0.03)
            hit.add(name)
            try:
                if chance.random() < 0.5:
                    await kubernetes.delete(f"{PODS}/{name}", grace_seconds=0)
                else:
                    binding = {"kind": "Binding", "metadata": {"name": name}, "target": {"name": "n-1"}}
                    await kubernetes.post(f"{PODS}/{name}/binding", binding)
            except KubernetesError as error:
                if error.status not in (404, 409):
                    raise

    async with running(cluster.kubeconfig) as one, running(cluster.kubeconfig) as other:
        await asyncio.gather(one.cluster.pods.synced.wait(), other.cluster.pods.synced.wait())
        victims = chance.sample([one["metadata"]["name"] for gang in made for one in gang], 12)
        await meddle(victims[:3])
        ends, others, _ = await asyncio.gather(driven(one, work), driven(other, work), meddle(victims[3:]))
    left = await whole(kubernetes)
    refused = 0
    for gang, pods in enumerate(made):
        names = [one["metadata"]["name"] for one in pods]
        bound = [name for name in names if left.get(name, ("", ""))[1] == f"g{gang}.1"]
        told = {ends[work[gang].id].seen.value, others[work[gang].id].seen.value}
        if "REFUSED" in told:
            refused += 1
            assert bound == [], (gang, left)
        else:
            # Whole when it was bound; what is missing now was deleted by another afterwards.
            assert set(names) - hit <= set(bound), (gang, told, left)
    assert 0 < refused < len(made)
