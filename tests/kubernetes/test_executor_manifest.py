"""Pods that the binder makes from a job's manifest, on a real API server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes
from binder.executors.kubernetes_attempt import hold
from tests.kubernetes.conftest import pod
from tests.kubernetes.executor import PODS, Running, again, assignment, pods_of, running, until, whole

QUOTAS = "/api/v1/namespaces/default/resourcequotas"


@pytest.fixture
async def executor(cluster: Any) -> AsyncIterator[Running]:
    cluster.add_nodes(2, prefix="n", resources={"nvidia.com/gpu": 8})
    async with running(cluster.kubeconfig) as made:
        await made.cluster.created.synced.wait()
        yield made


def manifest(**fields: Any) -> str:
    return yaml.safe_dump(pod("train", scheduler="any", limits={"nvidia.com/gpu": 1}, **fields))


async def test_every_member_gets_its_copy_once(kubernetes: Kubernetes, executor: Running, cluster: Any) -> None:
    gang = assignment(manifest=manifest(run_for="1s"), members=2, nodes=["n-0", "n-1"])
    async with running(cluster.kubeconfig) as second:
        await second.cluster.created.synced.wait()
        ones, others = await asyncio.gather(executor.bind(gang), second.bind(gang))
    assert {one.seen.value for one in [*ones, *others]} <= {"HELD", "STARTED"}
    made = sorted((await pods_of(kubernetes)).values(), key=lambda one: one["metadata"]["name"])
    assert [
        (one["spec"]["nodeName"], one["metadata"]["annotations"][names.ATTEMPT], one["spec"]["schedulerName"])
        for one in made
    ] == [("n-0", "job.1", "berth-binder"), ("n-1", "job.1", "berth-binder")]
    container = made[1]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert {one["name"]: one["value"] for one in container["env"]} == {
        "BERTH_JOB_ID": "job", "BERTH_ATTEMPT": "1", "BERTH_MEMBER": "1", "BERTH_GANG_SIZE": "2", "BERTH_NODE": "n-1",
        "BERTH_DEVICES": "n-0/1",
    }  # fmt: skip
    end = await executor.until_told(gang.id, "SUCCEEDED")
    assert end.exit_code == 0
    assert executor.seen(gang.id) == ["STARTED", "SUCCEEDED"]


async def test_a_gang_of_the_binders_own_ends_with_its_first_failure(kubernetes: Kubernetes, executor: Running) -> None:
    text = manifest()
    gang = assignment(manifest=text, members=3)
    await executor.bind(gang)
    await executor.until_told(gang.id, "STARTED")
    first = min(await pods_of(kubernetes))
    failed = {"terminated": {"exitCode": 9, "reason": "Error", "message": "no memory left"}}
    status = {"phase": "Failed", "containerStatuses": [{"name": "main", "image": "none", "imageID": "", "ready": False,
              "restartCount": 0, "state": failed}]}  # fmt: skip
    await kubernetes.patch(f"{PODS}/{first}/status", {"status": status}, kind="strategic")
    end = await executor.until_told(gang.id, "FAILED")
    assert end.exit_code == 9
    assert end.message == (
        f"pod default/{first} on node n-0 failed: container main ended with exit code 9 (Error): no memory left "
        "(and 2 more of 3 members)"
    )
    assert set(await pods_of(kubernetes)) == {first}


async def test_a_quota_that_is_full_leaves_nothing_behind(kubernetes: Kubernetes, executor: Running) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    await kubernetes.post(QUOTAS, quota)
    try:

        async def counted() -> Any:
            return (await kubernetes.get(f"{QUOTAS}/few")).get("status", {}).get("used")

        await until(counted)
        gang = assignment(manifest=manifest(), members=3)
        (answer,) = await executor.bind(gang)
        if answer.seen.value == "UNCLEAR":
            answer = await executor.until_told(gang.id, "REFUSED")
        assert (answer.seen.value, answer.retryable) == ("REFUSED", True)
        assert "exceeded quota: few" in answer.message
        assert await pods_of(kubernetes) == {}
    finally:
        await kubernetes.delete(f"{QUOTAS}/few")


async def test_what_the_server_finds_invalid_is_refused_for_good(kubernetes: Kubernetes, executor: Running) -> None:
    gang = assignment(manifest=manifest(hostname="Not A Name"), members=2)
    (answer,) = await executor.bind(gang)
    assert (answer.seen.value, answer.retryable) == ("REFUSED", False)
    assert "spec.hostname" in answer.message
    assert await pods_of(kubernetes) == {}


async def test_a_name_that_is_taken_is_not_taken_over(kubernetes: Kubernetes, executor: Running) -> None:
    gang = assignment(manifest=manifest(), members=1)
    name = hold(gang, frozenset()).members[0].pod.name
    await kubernetes.post(PODS, pod(name))
    (answer,) = await executor.bind(gang)
    assert (answer.seen.value, answer.retryable) == ("REFUSED", False)
    assert answer.message == f"pod default/{name} is there and not of this job"
    assert await whole(kubernetes) == {name: ("", "")}


async def test_a_release_deletes_them_and_one_made_late_too(kubernetes: Kubernetes, executor: Running) -> None:
    gang = assignment(manifest=manifest(), members=2)
    (answer,) = await executor.bind(gang)
    one = min(await pods_of(kubernetes))
    held = again(gang, bound_at=answer.at)
    if (await executor.release(held)).seen.value == "UNCLEAR":
        await executor.until_told(gang.id, "RELEASED")
    assert await pods_of(kubernetes) == {}
    # The request of a binder that was cut off arrives after all: its pod waits for nobody, and goes.
    late = hold(gang, frozenset()).members[0].manifest
    assert late is not None
    await kubernetes.post(PODS, late)
    await until(lambda: _is_empty(kubernetes))
    assert one == late["metadata"]["name"]


async def _is_empty(client: Kubernetes) -> bool:
    return not await pods_of(client)
