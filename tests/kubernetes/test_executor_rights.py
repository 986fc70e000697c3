"""What the binder says where the API server gives it fewer rights than it needs: in the server's real words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes, Object
from binder.domain.work import Assignment
from binder.executors import kubernetes_rights
from tests.kubernetes.conftest import pod
from tests.kubernetes.executor import PODS, Running, again, assignment, pods_of, running

ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/berth-binder"
MANIFEST = "{apiVersion: v1, kind: Pod, spec: {containers: [{name: main, image: none}]}}"


@asynccontextmanager
async def without(kubernetes: Kubernetes, verb: str, resource: str) -> AsyncIterator[None]:
    """The binder's role without this right."""
    role = await kubernetes.get(ROLE)
    rules = []
    for rule in role["rules"]:
        rules += [{**rule, "resources": [one for one in rule["resources"] if one != resource]}]
        if resource in rule["resources"]:
            rules += [{**rule, "resources": [resource], "verbs": [one for one in rule["verbs"] if one != verb]}]
    kept = [rule for rule in rules if rule["resources"] and rule["verbs"]]
    await kubernetes.patch(ROLE, {"rules": kept})
    try:
        yield
    finally:
        await kubernetes.patch(ROLE, {"rules": role["rules"]})


async def refused(binder: Running, work: Assignment) -> str:
    """What is said once it is refused; until then nothing is known."""
    async with asyncio.timeout(20):
        while True:
            (answer,) = await binder.bind(work)
            if answer.seen.value == "REFUSED":
                return answer.message
            assert answer.seen.value == "UNCLEAR", answer
            work = again(work)
            await asyncio.sleep(0.1)


async def test_a_right_that_is_taken_away_is_named_with_its_role_and_given_back_it_works(
    cluster: Any, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_rights, "LASTING_SECONDS", 0.5)
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="n")
    made: Object = await kubernetes.post(PODS, pod("a"))
    by = "grant it by ClusterRole berth-binder (deploy/kubernetes/rbac/binder.yaml)"
    async with running(cluster.kubeconfig) as binder:
        async with without(kubernetes, "create", "pods/binding"):
            said = await refused(binder, assignment([made], job="bound"))
        may_not = "Berth's binder may not create pods/binding in namespace default"
        assert said == f"pod default/a cannot be bound: Forbidden: {may_not}: {by}"
        async with without(kubernetes, "create", "pods"):
            said = await refused(binder, assignment(job="made", members=1, manifest=MANIFEST))
        assert said.endswith(
            f"cannot be made: Forbidden: Berth's binder may not create pods in namespace default: {by}"
        )
        assert list(await pods_of(kubernetes)) == ["a"]
        # With its rights, the next attempt.
        async with asyncio.timeout(20):
            work = assignment([made], job="bound", attempt=2)
            while (await binder.bind(work))[0].seen.value == "UNCLEAR":
                work = again(work)
    assert (await pods_of(kubernetes))["a"]["spec"]["nodeName"] == "n-0"
