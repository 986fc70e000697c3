"""Pods of a real API server become jobs of a real engine, through the real binder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from berth.grpc import connect
from berth.kubernetes.client import Kubernetes, KubernetesError
from berth.v1 import placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from binder.pods.notices import Notices
from tests.kubernetes.conftest import pod
from tests.kubernetes.scheduler import CANCELLED, GROUPS, PENDING, PODS, Scheduler, cordoned
from tests.services import System


@pytest.fixture
async def scheduler(system: System, cluster: Any, kubernetes: Kubernetes) -> Scheduler:
    made = Scheduler(system, cluster, kubernetes)
    await made.engine.ready()
    await made.binder.ready()
    return made


async def test_a_waiting_pod_says_why_hears_of_changes_and_ends(scheduler: Scheduler) -> None:
    await scheduler.system.publish_nodes([cordoned("n0", devices=2)])
    big = pod("big", limits={"nvidia.com/gpu": 2}, annotations={"berth.dev/objective": "time"})
    await scheduler.create(big)
    await scheduler.create(pod("odd", annotations={"berth.dev/objective": "cheap", "berth.dev/deadline": "soon"}))
    await scheduler.create(pod("astray", annotations={"berth.dev/queue": "nowhere"}))
    await scheduler.create(pod("gated", schedulingGates=[{"name": "example.com/quota"}]))
    await scheduler.until({"big": [PENDING]})
    (job,) = await scheduler.jobs()
    spec = job["spec"]
    assert (spec.tenant, spec.queue, spec.executor, spec.resources.devices) == ("default", "default", "kubernetes", 2)
    assert (list(spec.accelerators.stacks), spec.objective, spec.resources.cpu_milli) == (["CUDA"], 2, 1000)
    # Why it waits, for whoever asks the pod.
    text = await scheduler.message("big", "waits: 1 cordoned (1 of 1 nodes)")
    assert "What would admit it: nodes that take work again (kubectl uncordon)" in text
    condition = await scheduler.condition("big")
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    shown = await scheduler.described("big", "FailedScheduling")
    assert text in shown
    # What cannot be is said with field, value and remedy.
    text = await scheduler.message("odd", "refused")
    assert "metadata.annotations[berth.dev/objective]: 'cheap': write one of: cost, time, latency, energy" in text
    assert "berth.dev/deadline" in text
    assert "metadata.annotations[berth.dev/queue]: 'nowhere': unknown queue" in await scheduler.message(
        "astray", "nowh"
    )
    # Another wish while it waits is another job, and the first one ends; a gate that opens is a start.
    await scheduler.kubernetes.patch(f"{PODS}/big", {"metadata": {"annotations": {"berth.dev/objective": "energy"}}})
    better = {"metadata": {"annotations": {"berth.dev/objective": "cost", "berth.dev/deadline": None}}}
    await scheduler.kubernetes.patch(f"{PODS}/odd", better)
    assert (await scheduler.condition("gated"))["reason"] == "SchedulingGated"
    await scheduler.kubernetes.patch(f"{PODS}/gated", {"spec": {"schedulingGates": None}}, kind="strategic")
    await scheduler.until({"big": [CANCELLED, PENDING], "odd": [PENDING], "gated": [PENDING]})
    # Cancelled in Berth it is not submitted again; deleted, its job ends.
    async with connect(scheduler.engine.endpoint("grpc")) as channel:
        stub: Any = PlacementServiceStub(channel)
        await stub.CancelJob(placement_pb2.CancelJobRequest(job="default/odd", reason="not today"))
    assert "not today" in await scheduler.message("odd", "was cancelled in Berth")
    await scheduler.delete("big")
    await scheduler.until({"big": [CANCELLED, CANCELLED], "odd": [CANCELLED], "gated": [PENDING]})


async def test_gangs_wait_for_their_minimum_and_are_one_job(
    system: System, cluster: Any, kubernetes: Kubernetes
) -> None:
    """PodGroups of Kubernetes' own, then those of other projects: their objects are real here, by definitions that
    take whatever is written; their controllers are not, but for Job's."""
    volcano = definition("scheduling.volcano.sh", "v1beta1", "PodGroup", "podgroups")
    jobsets = definition("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets")
    async with defined(kubernetes, volcano, jobsets):
        made = Scheduler(system, cluster, kubernetes)
        await asyncio.gather(made.engine.ready(), made.binder.ready())
        await native_gangs(made)
        await foreign_gangs(made)


async def native_gangs(scheduler: Scheduler) -> None:
    group = {
        "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup", "metadata": {"name": "ring"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 3}}},
    }  # fmt: skip
    member = {"schedulingGroup": {"podGroupName": "ring"}}
    await scheduler.create(pod("ring-0", **member))
    assert "PodGroup ring (scheduling.k8s.io) does not exist" in await scheduler.message("ring-0", "exist")
    await scheduler.kubernetes.post(GROUPS, group)
    await scheduler.create(pod("ring-1", **member))
    assert "2 of 3 pods of PodGroup ring" in await scheduler.message("ring-0", "2 of 3")
    assert await scheduler.jobs() == []
    await scheduler.create(pod("ring-2", **member))
    await scheduler.until({"ring": [PENDING]})
    # A fourth pod joins while the gang waits; one is deleted.
    await scheduler.create(pod("ring-3", **member))
    await scheduler.until({"ring": [CANCELLED, PENDING]})
    (first, second) = await scheduler.jobs()
    assert first["pods"] == ["ring-0", "ring-1", "ring-2"]
    assert second["pods"] == ["ring-0", "ring-1", "ring-2", "ring-3"]
    assert (second["spec"].replicas, second["spec"].min_replicas) == (4, 3)
    await scheduler.delete("ring-1")
    await scheduler.until({"ring": [CANCELLED, CANCELLED, PENDING]})
    await scheduler.delete("ring-0")
    await scheduler.until({"ring": [CANCELLED, CANCELLED, CANCELLED]})
    assert "2 of 3 pods" in await scheduler.message("ring-3", "2 of 3")


async def foreign_gangs(made: Scheduler) -> None:
    kubernetes = made.kubernetes
    await kubernetes.post(
        "/apis/scheduling.volcano.sh/v1beta1/namespaces/default/podgroups",
        {"apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup", "metadata": {"name": "crater"},
         "spec": {"minMember": 2, "queue": "default"}},
    )  # fmt: skip
    jobs = [
        {"name": "driver", "template": {"spec": {"parallelism": 1}}},
        {"name": "workers", "replicas": 2, "template": {"spec": {"parallelism": 1}}},
    ]
    await kubernetes.post(
        "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets",
        {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "set"},
         "spec": {"replicatedJobs": jobs}},
    )  # fmt: skip
    labels = "jobset.sigs.k8s.io/"
    for name, role in (("w-1", "workers"), ("w-0", "workers"), ("d-0", "driver")):
        own = {f"{labels}jobset-name": "set", f"{labels}replicatedjob-name": role}
        await made.create(pod(name, labels=own, limits={"nvidia.com/gpu": 1} if role == "workers" else {}))
        await made.create(pod(f"crater-{name}", annotations={"scheduling.k8s.io/group-name": "crater"}))
    # A Job's pods are a gang where it says so, made by the real controller.
    template = {"metadata": {"annotations": {"berth.dev/gang": "true"}}, "spec": pod("x")["spec"]}
    await kubernetes.post(
        "/apis/batch/v1/namespaces/default/jobs",
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "array"},
         "spec": {"parallelism": 3, "completions": 3, "template": template}},
    )  # fmt: skip

    async def all_there() -> bool:
        found = {job["name"]: job for job in await made.jobs() if job["state"] == PENDING}
        return set(found) == {"set", "crater", "array"} and len(found["crater"]["pods"]) == 3

    await made.system.eventually(all_there, seconds=20.0)
    found = {job["name"]: job for job in await made.jobs() if job["state"] == PENDING}
    assert [(g.name, g.replicas, g.resources.devices) for g in found["set"]["spec"].member_groups] == [
        ("driver", 1, 0),
        ("workers", 2, 1),
    ]
    assert found["set"]["pods"] == ["d-0", "w-0", "w-1"]
    assert found["crater"]["spec"].min_replicas == 2
    assert found["array"]["spec"].replicas == 3


def definition(group: str, version: str, kind: str, plural: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind, "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }  # fmt: skip


@asynccontextmanager
async def defined(client: Kubernetes, *definitions: dict[str, Any]) -> AsyncIterator[None]:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for one in definitions:
        await client.post(path, one)
    for one in definitions:
        served = f"/apis/{one['spec']['group']}/{one['spec']['versions'][0]['name']}/{one['spec']['names']['plural']}"
        for _ in range(200):
            try:
                await client.get(served)
                break
            except KubernetesError:
                await asyncio.sleep(0.05)
    try:
        yield
    finally:
        for one in definitions:
            await client.delete(f"{path}/{one['metadata']['name']}")


async def test_a_restart_neither_loses_nor_doubles_nor_writes_again(scheduler: Scheduler) -> None:
    for name in ("kept", "leaves"):
        await scheduler.create(pod(name))
    await scheduler.until({"kept": [PENDING], "leaves": [PENDING]})
    await scheduler.message("kept", "waits")
    await scheduler.message("leaves", "waits")
    scheduler.binder.kill()
    before = (await scheduler.kubernetes.get(f"{PODS}/kept"))["metadata"]["resourceVersion"]
    await scheduler.delete("leaves")
    await scheduler.create(pod("comes"))
    scheduler.binder.start()
    await scheduler.until({"kept": [PENDING], "leaves": [CANCELLED], "comes": [PENDING]})
    await scheduler.message("comes", "waits")
    assert (await scheduler.kubernetes.get(f"{PODS}/kept"))["metadata"]["resourceVersion"] == before


async def test_a_pod_that_was_bound_meanwhile_is_not_told_that_it_waits(cluster: Any, kubernetes: Kubernetes) -> None:
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="n")
    seen = {name: await kubernetes.post(PODS, pod(name)) for name in ("bound", "waits")}
    uids = {name: one["metadata"]["uid"] for name, one in seen.items()}
    binding = {
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "bound"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n-0"},
    }  # fmt: skip
    await kubernetes.post(f"{PODS}/bound/binding", binding)
    # As a mirror that lags has them.
    notices = Notices(kubernetes, lambda uid: next(one for one in seen.values() if one["metadata"]["uid"] == uid))
    writing = asyncio.create_task(notices.run())
    try:
        for name in ("bound", "waits"):
            # The server itself refuses to nominate for a bound pod: the bound one is told without.
            notices.waits(uids[name], "waits for a place", nominated="n-0" if name == "waits" else "")
        for _ in range(200):
            if (await kubernetes.get(f"{PODS}/waits"))["status"].get("nominatedNodeName"):
                break
            await asyncio.sleep(0.05)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    async def told(name: str) -> tuple[str, str, str]:
        status = (await kubernetes.get(f"{PODS}/{name}"))["status"]
        (condition,) = [one for one in status["conditions"] if one["type"] == "PodScheduled"]
        return condition["status"], condition.get("message", ""), status.get("nominatedNodeName", "")

    assert await told("waits") == ("False", "waits for a place", "n-0")
    assert await told("bound") == ("True", "", "")
