"""From bound to the end: what pods do, what is done to them, and what the executor tells of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, KubernetesError, Object
from tests.kubernetes.conftest import pod
from tests.kubernetes.executor import PODS, Running, again, assignment, pods_of, running, until, whole

BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


@pytest.fixture
async def executor(cluster: Any) -> AsyncIterator[Running]:
    cluster.add_nodes(2, prefix="n", resources={"nvidia.com/gpu": 8})
    async with running(cluster.kubeconfig) as made:
        await made.cluster.pods.synced.wait()
        yield made


async def created(client: Kubernetes, *manifests: Object) -> list[Object]:
    return list(await asyncio.gather(*(client.post(PODS, manifest) for manifest in manifests)))


async def run_out(client: Kubernetes) -> None:
    """Nothing is done to them."""


async def delete_b(client: Kubernetes) -> None:
    await client.delete(f"{PODS}/b")


async def evict_b(client: Kubernetes) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b", "namespace": "default"}}
    await client.post(f"{PODS}/b/eviction", eviction)


async def lose_the_node(client: Kubernetes) -> None:
    """As the pod collector has it: the node is gone, its pods are marked and removed."""
    await client.delete("/api/v1/nodes/n-1")
    conditions = [
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "node is gone"}
    ]
    await client.patch(f"{PODS}/b/status", {"status": {"phase": "Failed", "conditions": conditions}}, kind="strategic")
    await client.delete(f"{PODS}/b", grace_seconds=0)


SHORT, LONG = {"run_for": "1s"}, {}
TABLE: dict[str, tuple[dict[str, Any], dict[str, Any], Any, list[str], int | None, str]] = {
    "both succeed": (SHORT, SHORT, run_out, ["SUCCEEDED"], 0, ""),
    "one fails": (
        SHORT, {"run_for": "1s", "exit_code": 7}, run_out, ["FAILED"], 7,
        "pod default/b on node n-1 failed: container main ended with exit code 7 (Error)",
    ),
    "one is deleted and the other ends": (
        {"run_for": "2s"}, LONG, delete_b, ["FAILED"], None, "pod default/b on node n-1 is gone: deleted",
    ),
    "one is evicted and the other ends": (
        {"run_for": "2s"}, LONG, evict_b, ["FAILED"], None,
        "pod default/b on node n-1 is gone: EvictionByEvictionAPI: Eviction API: evicting",
    ),
    "its node is lost and the other ends": (
        {"run_for": "2s"}, LONG, lose_the_node, ["FAILED"], None,
        "pod default/b on node n-1 failed: DeletionByPodGC: node is gone",
    ),
    "one is deleted and the other goes on": (LONG, LONG, delete_b, [], None, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
async def test_what_a_gang_comes_to(kubernetes: Kubernetes, executor: Running, case: str) -> None:
    first, second, act, ends, code, words = TABLE[case]
    pods = await created(kubernetes, pod("a", **first), pod("b", **second))
    gang = assignment(pods, nodes=["n-0", "n-1"])
    (answer,) = await executor.bind(gang)
    assert answer.seen.value in ("HELD", "STARTED")
    await executor.until_told(gang.id, "STARTED")
    await act(kubernetes)
    if not ends:
        await until(lambda: "default/b" not in executor.cluster.pods.objects)
        await asyncio.sleep(0.2)
        assert (await executor.read_back(again(gang, bound_at=answer.at))).seen.value == "STARTED"
        assert executor.seen(gang.id) == ["STARTED"]
        await delete_a(kubernetes)
        ends, words = ["FAILED"], "pod default/b on node n-1 is gone: deleted (and 1 more of 2 members)"
    end = await executor.until_told(gang.id, ends[0])
    assert executor.seen(gang.id) == ["STARTED", *ends]
    assert (end.exit_code, end.message) == (code, words)
    assert end.started_at is not None
    assert answer.at - 1 <= end.started_at <= end.at


async def delete_a(client: Kubernetes) -> None:
    await client.delete(f"{PODS}/a")


async def test_an_end_that_nobody_saw_is_a_failure_that_says_so(kubernetes: Kubernetes, cluster: Any) -> None:
    cluster.add_nodes(1, prefix="n")
    pods = await created(kubernetes, pod("a"))
    one = assignment(pods)
    async with running(cluster.kubeconfig) as first:
        (answer,) = await first.bind(one)
    await kubernetes.delete(f"{PODS}/a")
    await until(lambda: whole_is_empty(kubernetes))
    async with running(cluster.kubeconfig) as second:
        end = await second.read_back(again(one, bound_at=answer.at))
    assert (end.seen.value, end.message) == ("FAILED", "pod default/a is gone")


async def whole_is_empty(client: Kubernetes) -> bool:
    return not await pods_of(client)


async def test_a_binder_that_begins_anew_follows_what_was_running(kubernetes: Kubernetes, cluster: Any) -> None:
    cluster.add_nodes(1, prefix="n")
    pods = await created(kubernetes, pod("a", run_for="3s"), pod("b", run_for="3s", exit_code=3))
    gang = assignment(pods)
    async with running(cluster.kubeconfig) as first:
        (answer,) = await first.bind(gang)
        await first.until_told(gang.id, "STARTED")
    held = again(gang, bound_at=answer.at)
    async with running(cluster.kubeconfig) as second:
        assert (await second.read_back(held)).seen.value == "STARTED"
        end = await second.until_told(gang.id, "FAILED")
    assert end.exit_code == 3


async def test_a_release_evicts_what_is_bound_and_is_told_when_it_is_gone(
    kubernetes: Kubernetes, executor: Running
) -> None:
    pods = await created(kubernetes, pod("a"), pod("b"))
    gang = assignment(pods)
    (answer,) = await executor.bind(gang)
    released = await executor.release(again(gang, bound_at=answer.at))
    if released.seen.value == "UNCLEAR":
        await executor.until_told(gang.id, "RELEASED")
    else:
        assert released.seen.value == "RELEASED"
    assert await pods_of(kubernetes) == {}


async def test_a_budget_keeps_a_pod_until_it_allows_the_eviction(kubernetes: Kubernetes, executor: Running) -> None:
    pods = await created(kubernetes, pod("a", labels={"app": "x"}))
    one = assignment(pods)
    (answer,) = await executor.bind(one)
    await executor.until_told(one.id, "STARTED")
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "kept"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    }  # fmt: skip
    await kubernetes.post(BUDGETS, budget)

    async def counted() -> bool:
        status = (await kubernetes.get(f"{BUDGETS}/kept"))["status"]
        return bool(status.get("currentHealthy") == 1 and status.get("observedGeneration"))

    await until(counted)
    held = again(one, bound_at=answer.at, release_wanted=True)
    refused = await executor.release(held)
    assert refused.seen.value == "UNCLEAR"
    assert "disruption budget" in refused.message
    assert set(await whole(kubernetes)) == {"a"}
    assert (await executor.release(held)).seen.value == "UNCLEAR"
    await kubernetes.patch(f"{BUDGETS}/kept", {"spec": {"minAvailable": 0}})

    async def released() -> bool:
        return (await executor.release(held)).seen.value == "RELEASED"

    await until(released)
    assert await pods_of(kubernetes) == {}


async def test_after_a_release_a_late_binding_starts_nothing(
    kubernetes: Kubernetes, executor: Running, cluster: Any
) -> None:
    """A pod that was never bound is left alone, but for the mark that keeps late requests off."""
    pods = await created(kubernetes, pod("a"), pod("b"))
    gang = assignment(pods)
    async with running(cluster.kubeconfig) as late:
        await late.until_mirrored(lambda seen: len(seen) == 2)
        before = dict(late.cluster.pods.objects)
        assert (await executor.release(again(gang))).seen.value == "RELEASED"
        late.cluster.pods.objects.clear()
        late.cluster.pods.objects.update(before)
        (answer,) = await late.bind(gang)
    assert (answer.seen.value, answer.message) == ("REFUSED", "pod default/a was let go by this attempt")
    # The very request, as it would come in late.
    metadata = {key: before["default/a"]["metadata"][key] for key in ("name", "uid", "resourceVersion")}
    with pytest.raises(KubernetesError, match=r"the object has been modified|Precondition failed"):
        await kubernetes.post(f"{PODS}/a/binding", {"kind": "Binding", "metadata": metadata, "target": {"name": "n-0"}})
    assert await whole(kubernetes) == {"a": ("", ""), "b": ("", "")}
    # The job's next attempt, and another job, may have them.
    (answer,) = await executor.bind(assignment(pods, attempt=2))
    assert answer.seen.value in ("HELD", "STARTED")


async def test_what_an_earlier_berth_bound_is_left_alone(kubernetes: Kubernetes, executor: Running) -> None:
    pods = await created(kubernetes, pod("a"))
    said = {"name": "a", "annotations": {names.JOB: "old", names.ATTEMPT: "old.3"}}
    await kubernetes.post(f"{PODS}/a/binding", {"kind": "Binding", "metadata": said, "target": {"name": "n-1"}})
    one = assignment(pods)
    (answer,) = await executor.bind(one)
    assert (answer.seen.value, answer.retryable) == ("REFUSED", False)
    assert answer.message == "pod default/a is bound to node n-1 by Berth's attempt old.3"
    assert (await executor.release(again(one))).seen.value == "RELEASED"
    assert await whole(kubernetes) == {"a": ("n-1", "old.3")}


async def test_the_log_stream_says_when_the_kubelet_does_not_answer(kubernetes: Kubernetes, executor: Running) -> None:
    pods = await created(kubernetes, pod("a"))
    one = assignment(pods)
    await executor.bind(one)
    await executor.until_told(one.id, "STARTED")
    pieces = [piece async for piece in executor.executor.logs(one, -1, follow=False, tail_lines=10)]
    assert [(piece.member, piece.stream) for piece in pieces] == [(0, "stderr")]
    assert pieces[0].data.startswith(b"pod default/a: its output cannot be read: ")
    await executor.release(again(one, bound_at=1.0))
    await until(lambda: whole_is_empty(kubernetes))
    pieces = [piece async for piece in executor.executor.logs(one, 0, follow=False, tail_lines=0)]
    assert pieces[0].data == b"pod default/a is gone, and its output went with it\n"
