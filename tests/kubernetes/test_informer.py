"""The client and the mirror, on a real API server."""

import asyncio
from typing import Any

import pytest

from berth.kubernetes.client import Gone, Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.informer import Informer
from tests.kubernetes.conftest import pod

PODS = "/api/v1/namespaces/default/pods"


class Following:
    """An informer that runs, and what it told."""

    def __init__(self, client: Kubernetes, path: str, **settings: Any) -> None:
        self.told: list[tuple[str, str]] = []
        self.informer = Informer(client, path, self._take, **settings)

    def _take(self, old: Object | None, new: Object | None) -> None:
        thing = new or old
        assert thing is not None
        word = "added" if old is None else "deleted" if new is None else "again" if old is new else "changed"
        self.told.append((word, thing["metadata"]["name"]))

    async def __aenter__(self) -> "Following":
        self._task = asyncio.create_task(self.informer.run())
        await asyncio.wait_for(self.informer.synced.wait(), 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(30):
            while {thing["metadata"]["name"] for thing in self.informer.objects.values()} != set(names):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_mirror_has_what_the_server_has(cluster: Any, kubernetes: Kubernetes) -> None:
    for name in ("a", "b"):
        await kubernetes.post(PODS, pod(name))
    async with Following(kubernetes, PODS) as seen:
        await seen.until("a", "b")
        await kubernetes.post(PODS, pod("c"))
        await kubernetes.patch(f"{PODS}/a", {"metadata": {"labels": {"x": "y"}}})
        await kubernetes.delete(f"{PODS}/b", grace_seconds=0)
        await seen.until("a", "c")
        assert seen.informer.objects["default/a"]["metadata"]["labels"] == {"x": "y"}
        assert [one for one in seen.told if one[0] != "changed"] == [
            ("added", "a"), ("added", "b"), ("added", "c"), ("deleted", "b"),
        ]  # fmt: skip
        assert ("changed", "a") in seen.told


async def test_what_changed_while_the_server_was_away_is_told_once(cluster: Any, kubernetes: Kubernetes) -> None:
    await kubernetes.post(PODS, pod("a"))
    await kubernetes.post(PODS, pod("b"))
    async with Following(kubernetes, PODS) as seen:
        await seen.until("a", "b")
        cluster.kill("kube-apiserver")
        with pytest.raises(Unanswered):
            await kubernetes.get(PODS)
        await asyncio.to_thread(cluster.start, "kube-apiserver")
        await kubernetes.post(PODS, pod("c"))
        await kubernetes.delete(f"{PODS}/a", grace_seconds=0)
        await seen.until("b", "c")
        assert [name for word, name in seen.told if word == "added"] == ["a", "b", "c"]
        assert seen.told.count(("deleted", "a")) == 1


async def test_a_pod_made_anew_under_its_old_name_is_another_one(cluster: Any, kubernetes: Kubernetes) -> None:
    await kubernetes.post(PODS, pod("a"))
    seen = Following(kubernetes, PODS)
    await seen.informer._relist()
    await kubernetes.delete(f"{PODS}/a", grace_seconds=0)
    await kubernetes.post(PODS, pod("a"))
    await seen.informer._relist()
    assert seen.told == [("added", "a"), ("deleted", "a"), ("added", "a")]


async def test_long_lists_come_in_pages(cluster: Any, kubernetes: Kubernetes) -> None:
    await asyncio.to_thread(cluster.add_nodes, 23, prefix="n")
    nodes, version = await kubernetes.list("/api/v1/nodes", page=5)
    assert {one["metadata"]["name"] for one in nodes} == {f"n-{number}" for number in range(23)}
    assert {one["kind"] for one in nodes} == {"Node"}
    assert version


async def test_a_mirror_tells_everything_again(cluster: Any, kubernetes: Kubernetes) -> None:
    await kubernetes.post(PODS, pod("a"))
    async with Following(kubernetes, PODS, resync_seconds=0.1) as seen, asyncio.timeout(10):
        while ("again", "a") not in seen.told:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_collection_that_is_not_served_is_empty_where_it_may_be(cluster: Any, kubernetes: Kubernetes) -> None:
    async with Following(kubernetes, "/apis/nobody.example/v1/things", optional=True) as seen:
        assert not seen.informer.served
        assert seen.informer.objects == {}


async def test_refusals_carry_the_servers_words(cluster: Any, kubernetes: Kubernetes) -> None:
    with pytest.raises(KubernetesError, match='pods "nobody" not found') as missing:
        await kubernetes.get(f"{PODS}/nobody")
    assert (missing.value.status, missing.value.reason) == (404, "NotFound")
    await kubernetes.post(PODS, pod("a"))
    with pytest.raises(KubernetesError) as twice:
        await kubernetes.post(PODS, pod("a"))
    assert (twice.value.conflict, twice.value.reason) == (True, "AlreadyExists")
    with pytest.raises(KubernetesError, match="does not match the UID") as other:
        await kubernetes.delete(f"{PODS}/a", uid="somebody-else")
    assert other.value.conflict
    with pytest.raises(Gone):
        async for _ in kubernetes.watch(PODS, "1", timeout_seconds=2):
            pass
