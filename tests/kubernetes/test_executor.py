"""The executor `kubernetes` on a real API server: binding, undoing, and two binders at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, Object
from binder.adapters.cluster import open_cluster
from binder.domain.attempt import Observation
from tests.kubernetes.conftest import pod
from tests.kubernetes.executor import PODS, Running, again, assignment, pods_of, running, until, whole


@pytest.fixture
async def executor(cluster: Any) -> AsyncIterator[Running]:
    cluster.add_nodes(2, prefix="n", resources={"nvidia.com/gpu": 8})
    async with running(cluster.kubeconfig) as made:
        await made.cluster.pods.synced.wait()
        yield made


async def created(client: Kubernetes, *manifests: Object) -> list[Object]:
    return list(await asyncio.gather(*(client.post(PODS, manifest) for manifest in manifests)))


def brief(observation: Observation) -> tuple[str, bool, str]:
    return observation.seen.value, observation.retryable, observation.message


async def test_a_gang_is_bound_whole_and_its_pods_say_by_whom(kubernetes: Kubernetes, executor: Running) -> None:
    pods = await created(kubernetes, pod("a"), pod("b"))
    gang = assignment(pods, nodes=["n-0", "n-1"])
    (answer,) = await executor.bind(gang)
    assert answer.seen.value in ("HELD", "STARTED")
    assert await whole(kubernetes) == {"a": ("n-0", "job.1"), "b": ("n-1", "job.1")}
    annotations = (await kubernetes.get(f"{PODS}/b"))["metadata"]["annotations"]
    assert {key: value for key, value in annotations.items() if key.startswith(names.DOMAIN)} == {
        names.JOB: "job", names.ATTEMPT: "job.1", names.MEMBER: "1", names.DEVICES: "n-0/1",
    }  # fmt: skip
    started = await executor.until_told(gang.id, "STARTED")
    assert started.started_at is not None
    assert started.started_at >= answer.at - 1


async def test_an_elastic_gang_leaves_the_pods_beyond_its_size(kubernetes: Kubernetes, executor: Running) -> None:
    pods = await created(kubernetes, pod("a"), pod("b"), pod("c"))
    (answer,) = await executor.bind(assignment(pods, members=2))
    assert answer.seen.value in ("HELD", "STARTED")
    assert await whole(kubernetes) == {"a": ("n-0", "job.1"), "b": ("n-0", "job.1"), "c": ("", "")}


async def gone(client: Kubernetes, one: Object) -> None:
    await client.delete(f"{PODS}/b", grace_seconds=0)


async def made_anew(client: Kubernetes, one: Object) -> None:
    await client.delete(f"{PODS}/b", grace_seconds=0)
    await client.post(PODS, pod("b"))


async def taken(client: Kubernetes, one: Object) -> None:
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "b"}, "target": {"name": "n-1"}}
    await client.post(f"{PODS}/b/binding", binding)


async def held_by_a_finalizer(client: Kubernetes, one: Object) -> None:
    await client.patch(f"{PODS}/b", {"metadata": {"finalizers": ["test.berth.dev/hold"]}})
    await client.delete(f"{PODS}/b", grace_seconds=0)


async def let_go(client: Kubernetes, one: Object) -> None:
    await client.patch(f"{PODS}/b", {"metadata": {"annotations": {names.RELEASED: "job.1"}}})


OBSTACLES = {
    "gone": (gone, "pod default/b is gone", False, None),
    "made anew": (made_anew, "pod default/b is gone", False, ("", "")),
    "bound by another": (taken, "pod default/b is bound to node n-1 by another scheduler", False, ("n-1", "")),
    "being deleted": (held_by_a_finalizer, "pod default/b is being deleted", False, ("", "")),
    "let go": (let_go, "pod default/b was let go by this attempt", True, ("", "")),
}


@pytest.mark.parametrize("case", OBSTACLES)
@pytest.mark.parametrize("heard", [True, False], ids=["before", "behind the mirror's back"])
async def test_what_cannot_be_bound_whole_is_refused_whole(
    kubernetes: Kubernetes, executor: Running, case: str, heard: bool
) -> None:
    """Behind the mirror's back the first member may have been bound: it is undone before the refusal is told."""
    change, words, retryable, left = OBSTACLES[case]
    pods = await created(kubernetes, pod("a"), pod("b"))
    await executor.until_mirrored(lambda seen: len(seen) == 2)
    held_back = None
    if not heard:
        held_back = dict(executor.cluster.pods.objects)
    await change(kubernetes, pods[1])
    gang = assignment(pods)
    if held_back is not None:
        # The mirror as it was: what an informer that lags behind would have.
        executor.cluster.pods.objects.clear()
        executor.cluster.pods.objects.update(held_back)
    else:
        await asyncio.sleep(0.2)
    (answer,) = await executor.bind(gang)
    if answer.seen.value == "UNCLEAR":
        assert answer.message == f"{words}; what was bound is being undone"
        answer = await executor.until_told(gang.id, "REFUSED")
    pods_left = await whole(kubernetes)
    # Nothing of the gang is bound: the first pod waits as it did, or it was bound and is gone for good.
    assert pods_left.pop("a", None) in (("", ""), None)
    assert pods_left == ({"b": left} if left else {})
    undone = "a" not in await pods_of(kubernetes)
    assert brief(answer) == ("REFUSED", retryable or undone, words)
    if heard:
        assert not undone
    if undone:
        events, _ = await kubernetes.list("/api/v1/namespaces/default/events")
        mine = {
            event["involvedObject"]["name"]: event["message"] for event in events if event["reason"] == "BindingUndone"
        }
        assert mine["a"] == f"Berth undoes the binding of attempt job.1, which cannot be whole: {words}"


async def test_a_gate_that_comes_off_lets_the_next_attempt_through(kubernetes: Kubernetes, executor: Running) -> None:
    pods = await created(kubernetes, pod("a"), pod("b", schedulingGates=[{"name": "test.berth.dev/later"}]))
    (answer,) = await executor.bind(assignment(pods))
    words = "pod default/b is held back by scheduling gates: test.berth.dev/later"
    assert brief(answer) == ("REFUSED", True, words)
    assert await whole(kubernetes) == {"a": ("", ""), "b": ("", "")}
    await kubernetes.patch(f"{PODS}/b", {"spec": {"schedulingGates": []}})
    (answer,) = await executor.bind(assignment(pods, attempt=2))
    assert answer.seen.value in ("HELD", "STARTED")
    assert await whole(kubernetes) == {"a": ("n-0", "job.2"), "b": ("n-0", "job.2")}


async def test_a_pod_that_changed_since_it_was_seen_is_looked_at_again_and_bound(
    kubernetes: Kubernetes, executor: Running
) -> None:
    pods = await created(kubernetes, pod("a"))
    await executor.until_mirrored(lambda seen: len(seen) == 1)
    before = dict(executor.cluster.pods.objects)
    await kubernetes.patch(f"{PODS}/a", {"metadata": {"labels": {"x": "y"}}})
    executor.cluster.pods.objects.clear()
    executor.cluster.pods.objects.update(before)
    (answer,) = await executor.bind(assignment(pods))
    assert answer.seen.value in ("HELD", "STARTED")
    assert await whole(kubernetes) == {"a": ("n-0", "job.1")}


async def test_two_binders_bind_the_same_attempt_once(kubernetes: Kubernetes, executor: Running, cluster: Any) -> None:
    pods = await created(kubernetes, *(pod(f"p{number}") for number in range(24)))
    gangs = [assignment(pods[4 * g : 4 * g + 4], job=f"job{g}") for g in range(6)]
    async with running(cluster.kubeconfig) as second:
        await second.cluster.pods.synced.wait()
        ones, others = await asyncio.gather(executor.bind(*gangs), second.bind(*gangs))
    assert {answer.seen.value for answer in [*ones, *others]} <= {"HELD", "STARTED"}
    assert await whole(kubernetes) == {f"p{4 * g + m}": ("n-0", f"job{g}.1") for g in range(6) for m in range(4)}


async def test_attempts_of_two_jobs_for_the_same_gang_leave_one_of_them_or_none(
    kubernetes: Kubernetes, executor: Running, cluster: Any
) -> None:
    pods = await created(kubernetes, *(pod(f"p{number}") for number in range(8)))
    one, other = assignment(pods, job="one"), assignment(pods, job="other")
    async with running(cluster.kubeconfig) as second:
        await second.cluster.pods.synced.wait()
        await second.cluster.pods.synced.wait()
        await asyncio.gather(executor.bind(one), second.bind(other))

        async def settled() -> tuple[str, str]:
            ends = [
                (await executor.read_back(again(one))).seen.value,
                (await second.read_back(again(other))).seen.value,
            ]
            return tuple(ends) if "PARTIAL" not in ends else ()

        ends = await until(settled)
        bound = [attempt for _, attempt in (await whole(kubernetes)).values() if attempt]
        # Each undoes what it has where the other was first: one of them is whole, or neither is.
        assert (len(bound), len(set(bound))) in ((8, 1), (0, 0)), bound
        assert ends.count("STARTED") + ends.count("HELD") == (1 if bound else 0)


async def test_what_has_nothing_to_bind_is_refused_for_good(executor: Running, kubernetes: Kubernetes) -> None:
    (answer,) = await executor.bind(assignment(members=1))
    assert (answer.seen.value, answer.retryable) == ("REFUSED", False)
    assert "kubernetes.pods" in answer.message
    pods = await created(kubernetes, pod("a"))
    (answer,) = await executor.bind(assignment(pods, members=2))
    assert brief(answer) == (
        "REFUSED", False, "kubernetes.pods: '1 pods': name a pod for each of the 2 members"
    )  # fmt: skip


async def test_read_back_says_what_is_the_case(kubernetes: Kubernetes, executor: Running, cluster: Any) -> None:
    """Also to a binder that has only just begun, whatever its mirror has."""
    pods = await created(kubernetes, pod("a"), pod("b"))
    gang = assignment(pods)
    assert (await executor.read_back(again(gang))).seen.value == "ABSENT"
    # As a binder leaves it that is killed half-way.
    said = {"name": "a", "annotations": {names.ATTEMPT: "job.1"}}
    await kubernetes.post(f"{PODS}/a/binding", {"kind": "Binding", "metadata": said, "target": {"name": "n-0"}})
    async with running(cluster.kubeconfig) as second:
        assert (await second.read_back(again(gang))).seen.value == "PARTIAL"
        # It goes on from there.
        (answer,) = await second.bind(again(gang))
        assert answer.seen.value in ("HELD", "STARTED")
    await executor.bind(again(gang))
    assert await whole(kubernetes) == {"a": ("n-0", "job.1"), "b": ("n-0", "job.1")}
    held = again(gang, bound_at=answer.at)

    async def started() -> bool:
        return (await executor.read_back(held)).seen.value == "STARTED"

    await until(started)


async def test_a_mirror_that_lags_behind_is_not_believed_where_it_matters(
    kubernetes: Kubernetes, executor: Running, cluster: Any
) -> None:
    gated = pod("b", schedulingGates=[{"name": "test.berth.dev/later"}])
    pods = await created(kubernetes, pod("a"), gated)
    await executor.until_mirrored(lambda seen: len(seen) == 2)
    before = dict(executor.cluster.pods.objects)
    one, other = assignment(pods[:1], job="one"), assignment(pods[1:], job="other")
    async with running(cluster.kubeconfig) as second:
        await second.bind(one)
    await kubernetes.patch(f"{PODS}/b", {"spec": {"schedulingGates": []}})
    await executor.until_mirrored(lambda seen: "schedulingGates" not in seen["default/b"]["spec"])
    executor.cluster.pods.objects.update(before)
    # Bound by a binder that is gone, and free again: neither is in the mirror yet.
    assert (await executor.read_back(again(one))).seen.value in ("HELD", "STARTED")
    (answer,) = await executor.bind(other)
    assert answer.seen.value in ("HELD", "STARTED")


async def test_the_binder_is_ready_once_the_pods_are_listed(cluster: Any) -> None:
    async with open_cluster(cluster.kubeconfig) as made:
        pods, created_pods = made.not_ready()
        assert pods == f"kubernetes: pods at {cluster.server} are not listed yet"
        assert created_pods == f"kubernetes: created pods at {cluster.server} are not listed yet"
        mirror = asyncio.create_task(made.run())
        await until(lambda: made.not_ready() == [])
        mirror.cancel()
        await asyncio.gather(mirror, return_exceptions=True)
