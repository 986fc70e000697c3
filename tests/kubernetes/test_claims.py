"""Resource claims allocated on a real API server, as kube-scheduler would, and beside it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from berth.kubernetes import names
from berth.kubernetes.claims.allocation import FINALIZER
from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from binder.domain.work import Assignment, DeviceClaim, Member, Work
from binder.executors.kubernetes_claims import ClaimAllocator, ClaimsRefused
from tests.kubernetes.conftest import pod
from tests.kubernetes.executor import assignment, reference, running, until
from tests.resource_claims import (
    DRIVER,
    claim,
    device,
    device_class,
    gpus,
    request,
    resource_slice,
    template,
    wish,
)

GROUP = "/apis/resource.k8s.io/v1"
SLICES, CLASSES = f"{GROUP}/resourceslices", f"{GROUP}/deviceclasses"
CLAIMS, PODS = f"{GROUP}/namespaces/default/resourceclaims", "/api/v1/namespaces/default/pods"
TEMPLATES = f"{GROUP}/namespaces/default/resourceclaimtemplates"


@asynccontextmanager
async def mirrored(client: Kubernetes) -> AsyncIterator[ClaimBook]:
    book = ClaimBook(client)
    task = asyncio.create_task(book.run())
    try:
        await asyncio.wait_for(book.synced(), 20)
        yield book
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ready(book: ClaimBook, *claims: str, slices: int) -> None:
    async with asyncio.timeout(20):
        while not (  # noqa: ASYNC110
            all(f"default/{one}" in book.claims for one in claims) and len(book._slices.objects) == slices
        ):
            await asyncio.sleep(0.02)


async def a_pod(kubernetes: Kubernetes, name: str, *claims: str, scheduler: str = "berth") -> Object:
    wanted = [{"name": one, "resourceClaimName": one} for one in claims]
    return await kubernetes.post(PODS, pod(name, scheduler=scheduler, resourceClaims=wanted))


def ids(node: str, *numbers: int) -> list[str]:
    return [f"{DRIVER}/{node}/gpu-{number}" for number in numbers]


def given(claim_: Object) -> list[tuple[str, str]]:
    allocation = (claim_.get("status") or {}).get("allocation") or {"devices": {}}
    return [(one["request"], one["device"]) for one in allocation["devices"].get("results", ())]


async def test_an_allocation_is_written_read_again_and_taken_back(cluster: Any, kubernetes: Kubernetes) -> None:
    await asyncio.to_thread(cluster.add_nodes, 2, prefix="n")
    opaque = {"driver": DRIVER, "parameters": {"sharing": "none"}}
    await kubernetes.post(CLASSES, device_class(config=[{"opaque": opaque}]))
    for node in ("n-0", "n-1"):
        await kubernetes.post(SLICES, resource_slice(node, gpus(4)))
    await kubernetes.post(CLAIMS, claim("two", request("gpu", wish(2))))
    mine = await a_pod(kubernetes, "mine", "two")
    async with mirrored(kubernetes) as book:
        await ready(book, "two", slices=2)
        allocator = ClaimAllocator(kubernetes, book)
        # The engine's devices, no others; a second call changes nothing.
        await allocator.allocate(mine, "n-1", ids("n-1", 3, 1), "job.1")
        first = await kubernetes.get(f"{CLAIMS}/two")
        await allocator.allocate(mine, "n-1", ids("n-1", 1, 3), "job.1")
        assert await kubernetes.get(f"{CLAIMS}/two") == first
        status = first["status"]
        assert given(first) == [("gpu", "gpu-1"), ("gpu", "gpu-3")]
        assert status["reservedFor"] == [{"resource": "pods", "name": "mine", "uid": mine["metadata"]["uid"]}]
        assert status["allocation"]["devices"]["config"] == [{"source": "FromClass", "opaque": opaque}]
        assert status["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"] == ["n-1"]
        assert first["metadata"]["finalizers"] == [FINALIZER]
        uid = mine["metadata"]["uid"]
        assert first["metadata"]["annotations"] == {names.ALLOCATED_FOR: uid, names.ATTEMPT: "job.1"}
        # Another attempt of the same pod, elsewhere: what the first left behind is replaced.
        await allocator.allocate(mine, "n-0", ids("n-0", 0, 1), "job.1")
        moved = await kubernetes.get(f"{CLAIMS}/two")
        assert moved["status"]["allocation"]["devices"]["results"][0]["pool"] == "n-0"
        # The next attempt finds it as it wants it; what the last one lets go late is not its own any more.
        await allocator.allocate(mine, "n-0", ids("n-0", 0, 1), "job.2")
        await allocator.release(mine, uid, "job.1")
        kept = await kubernetes.get(f"{CLAIMS}/two")
        assert given(kept) == [("gpu", "gpu-0"), ("gpu", "gpu-1")]
        assert kept["metadata"]["annotations"][names.ATTEMPT] == "job.2"
        # It will not be bound: nothing is left.
        await allocator.release(mine, mine["metadata"]["uid"], "job.2")
        freed = await kubernetes.get(f"{CLAIMS}/two")
        assert not (freed.get("status") or {}).get("allocation")
        assert not (freed.get("status") or {}).get("reservedFor")
        assert not freed["metadata"].get("finalizers")
        assert not freed["metadata"].get("annotations")


async def test_devices_that_cannot_serve_the_claim_are_refused_with_reasons(
    cluster: Any, kubernetes: Kubernetes
) -> None:
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="n")
    await kubernetes.post(CLASSES, device_class())
    await kubernetes.post(SLICES, resource_slice("n-0", [device("gpu-0", numa=0), device("gpu-1", numa=1)]))
    near = [{"matchAttribute": f"{DRIVER}/numa"}]
    await kubernetes.post(CLAIMS, claim("near", request("gpu", wish(2)), constraints=near))
    await kubernetes.post(CLAIMS, claim("one"))
    await kubernetes.post(CLAIMS, claim("wrong", request("gpu", wish(1, f'device.attributes["{DRIVER}"].x == 1'))))
    pods = {name: await a_pod(kubernetes, name, name) for name in ("near", "one", "wrong")}
    async with mirrored(kubernetes) as book:
        await ready(book, *pods, slices=1)
        allocator = ClaimAllocator(kubernetes, book)
        for name, says in (("near", "constraints together"), ("wrong", "CEL runtime error")):
            with pytest.raises(ClaimsRefused, match=says):
                await allocator.allocate(pods[name], "n-0", ids("n-0", 0, 1), "job.1")
            assert "allocation" not in ((await kubernetes.get(f"{CLAIMS}/{name}")).get("status") or {})
        with pytest.raises(ClaimsRefused, match="wants 1 of class gpu: 2 match, 0 free"):
            await allocator.allocate(pods["one"], "n-0", ["no/such/device"], "job.1")
        # What another claim holds is waited for a moment, then refused, with the holder's name.
        await allocator.allocate(pods["one"], "n-0", ids("n-0", 0), "job.1")
        await kubernetes.post(CLAIMS, claim("late"))
        late = await a_pod(kubernetes, "late", "late")
        await ready(book, "late", slices=1)
        with pytest.raises(ClaimsRefused, match="gpu-0 is held by claim default/one"):
            await allocator.allocate(late, "n-0", ids("n-0", 0), "job.1")
        waits = asyncio.create_task(allocator.allocate(late, "n-0", ids("n-0", 0), "job.1"))
        await asyncio.sleep(0.2)
        await kubernetes.delete(f"{PODS}/one", grace_seconds=0)
        await waits


async def test_pods_that_share_a_claim_follow_the_first(cluster: Any, kubernetes: Kubernetes) -> None:
    await asyncio.to_thread(cluster.add_nodes, 2, prefix="n")
    await kubernetes.post(CLASSES, device_class())
    for node in ("n-0", "n-1"):
        await kubernetes.post(SLICES, resource_slice(node, gpus(1)))
    await kubernetes.post(CLAIMS, claim("shared"))
    first, second = [await a_pod(kubernetes, name, "shared") for name in ("first", "second")]
    async with mirrored(kubernetes) as book:
        await ready(book, "shared", slices=2)
        allocator = ClaimAllocator(kubernetes, book)
        await allocator.allocate(first, "n-0", ids("n-0", 0), "job.1")
        with pytest.raises(ClaimsRefused, match="does not reach"):
            await allocator.allocate(second, "n-1", [], "job.1")
        with pytest.raises(ClaimsRefused, match="asked for again, without devices"):
            await allocator.allocate(second, "n-0", ids("n-0", 0), "job.1")
        await allocator.allocate(second, "n-0", [], "job.1")
        users = (await kubernetes.get(f"{CLAIMS}/shared"))["status"]["reservedFor"]
        assert [one["name"] for one in users] == ["first", "second"]
        # The first leaves: the devices stay with the second.
        await allocator.release(first, first["metadata"]["uid"], "job.1")
        left = (await kubernetes.get(f"{CLAIMS}/shared"))["status"]
        assert ([one["name"] for one in left["reservedFor"]], "allocation" in left) == (["second"], True)


async def test_two_binders_never_allocate_one_device_twice(cluster: Any, kubernetes: Kubernetes) -> None:
    """Network cards are in no ledger, and partitions of one device overlap: only the claims tell."""
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="n")
    await kubernetes.post(CLASSES, device_class("nic", 'device.driver == "nic.example.com"'))
    cards = [device(f"nic-{number}", model="", memory="") for number in range(4)]
    await kubernetes.post(SLICES, resource_slice("n-0", cards, driver="nic.example.com"))
    wanted = [f"c{number}" for number in range(12)]
    for name in wanted:
        await kubernetes.post(CLAIMS, claim(name, request("nic", wish(of="nic"))))
    pods = {name: await a_pod(kubernetes, name, name) for name in wanted}
    async with mirrored(kubernetes) as one, mirrored(kubernetes) as other:
        binders = [ClaimAllocator(kubernetes, book) for book in (one, other)]
        for book in (one, other):
            await ready(book, *wanted, slices=1)

        async def bind(number: int) -> bool:
            mine = pods[wanted[number]]
            for _ in range(4):
                try:
                    await binders[number % 2].allocate(mine, "n-0", [], "job.1")
                    return True
                except ClaimsRefused:
                    await binders[number % 2].release(mine, mine["metadata"]["uid"], "job.1")
                    await asyncio.sleep(0.01 * random.Random(number).random())
            return False

        bound = await asyncio.gather(*(bind(number) for number in range(12)))
    left = [await kubernetes.get(f"{CLAIMS}/{name}") for name in wanted]
    held = [device_ for one_claim in left for _, device_ in given(one_claim)]
    assert len(held) == len(set(held)) == sum(bound) <= 4
    assert {bool(given(one_claim)) for one_claim, was in zip(left, bound, strict=True) if not was} == {False}
    assert sum(bound) >= 1


async def test_what_the_pod_held_is_freed_when_it_has_ended(cluster: Any, kubernetes: Kubernetes) -> None:
    """By kube-controller-manager: the binder does nothing."""
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="n")
    await kubernetes.post(CLASSES, device_class())
    await kubernetes.post(SLICES, resource_slice("n-0", gpus(1)))
    await kubernetes.post(TEMPLATES, template("one"))
    wanted = [{"name": "gpu", "resourceClaimTemplateName": "one"}]
    await kubernetes.post(PODS, pod("short", run_for="1s", resourceClaims=wanted))
    async with mirrored(kubernetes) as book, asyncio.timeout(30):
        await ready(book, slices=1)
        while not ((made := await kubernetes.get(f"{PODS}/short")).get("status") or {}).get("resourceClaimStatuses"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        allocator = ClaimAllocator(kubernetes, book)
        while True:
            try:
                await allocator.allocate(made, "n-0", ids("n-0", 0), "job.1")
                break
            except ClaimsRefused:
                await asyncio.sleep(0.05)
        (held,) = (await kubernetes.list(CLAIMS))[0]
        assert given(held) == [("gpu", "gpu-0")]
        target = {"apiVersion": "v1", "kind": "Node", "name": "n-0"}
        await kubernetes.post(
            f"{PODS}/short/binding",
            {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "short"}, "target": target},
        )
        while (await kubernetes.list(CLAIMS))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_gang_that_is_undone_leaves_its_claims_free(
    cluster: Any, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two is bound when the other is refused, and takes its time to go. The other waits on, holding nothing."""
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="n")
    await kubernetes.post(CLASSES, device_class())
    await kubernetes.post(SLICES, resource_slice("n-0", gpus(2)))
    pods = []
    for name in ("goes", "stays"):
        await kubernetes.post(CLAIMS, claim(name))
        pods.append(await a_pod(kubernetes, name, name))
    await kubernetes.patch(f"{PODS}/goes", {"metadata": {"finalizers": ["test.berth.dev/slow"]}})
    devices = [DeviceClaim(device_, number, 1000, "H100-SXM") for number, device_ in enumerate(ids("n-0", 0, 1))]
    members = tuple(Member(number, "n-0", (device_,)) for number, device_ in enumerate(devices))
    gang = Assignment(assignment(pods).attempt, Work(members, pods=tuple(reference(one) for one in pods)))
    async with running(cluster.kubeconfig) as executor:
        await executor.cluster.pods.synced.wait()
        await ready(executor.cluster.claims, "goes", "stays", slices=1)
        really = executor.executor._requests.bind
        bound = asyncio.Event()

        async def bind(pod_: Any, *rest: Any) -> None:
            if pod_.name == "stays":
                await bound.wait()
                raise KubernetesError(422, "Invalid", "a webhook says no")
            await really(pod_, *rest)
            bound.set()

        monkeypatch.setattr(executor.executor._requests, "bind", bind)
        # The claim cannot be freed at first: the API server does not answer.
        free, cut = executor.executor._pods._claims.release, [Unanswered("cut")]

        async def release(*given_: Any) -> None:
            if cut:
                raise cut.pop()
            await free(*given_)

        monkeypatch.setattr(executor.executor._pods._claims, "release", release)
        (answer,) = await executor.bind(gang)
        assert answer.seen.value == "UNCLEAR"
        assert given(await kubernetes.get(f"{CLAIMS}/stays")) == [("gpu", "gpu-1")]
        await kubernetes.patch(f"{PODS}/goes", {"metadata": {"finalizers": None}})
        await executor.until_told(gang.id, "REFUSED")
    assert "nodeName" not in (await kubernetes.get(f"{PODS}/stays"))["spec"]
    left = await kubernetes.get(f"{CLAIMS}/stays")
    assert (given(left), (left.get("status") or {}).get("reservedFor") or []) == ([], [])
    assert names.ALLOCATED_FOR not in (left["metadata"].get("annotations") or {})

    async def gone() -> bool:
        return not given(await kubernetes.get(f"{CLAIMS}/goes"))

    await until(gone)
