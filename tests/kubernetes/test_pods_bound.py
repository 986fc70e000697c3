"""From a pod to a node and to its end: every service real, on a real API server."""

import asyncio
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes
from tests.kubernetes.conftest import pod
from tests.kubernetes.scheduler import CANCELLED, FAILED, GROUPS, PENDING, PODS, RUNNING, SUCCEEDED, Scheduler
from tests.services import System


@pytest.fixture
async def scheduler(system: System, cluster: Any, kubernetes: Kubernetes) -> Scheduler:
    """With the fleet that telemetry-ingest sees: three nodes of two GPUs."""
    gpus = {"nvidia.com/gpu": 2, "cpu": 16, "memory": "64Gi"}
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    await asyncio.to_thread(cluster.add_nodes, 3, prefix="gpu", resources=gpus, labels=labels)
    made = Scheduler(system, cluster, kubernetes)
    ingest = system.service("telemetry-ingest", kubernetes="true", kubeconfig=str(cluster.kubeconfig))
    await asyncio.gather(made.engine.ready(), made.binder.ready(), ingest.ready())
    return made


async def test_pods_and_a_gang_are_bound_run_and_end(scheduler: Scheduler) -> None:
    group = {
        "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup", "metadata": {"name": "ring"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 4}}},
    }  # fmt: skip
    await scheduler.create(pod("short", run_for="1s"))
    await scheduler.create(pod("long", limits={"nvidia.com/gpu": 1}))
    nodes = await scheduler.bound("short", "long")
    assert nodes["long"].startswith("gpu-")
    await scheduler.until({"short": [SUCCEEDED], "long": [RUNNING]})
    await scheduler.kubernetes.post(GROUPS, group)
    for index in range(4):
        member = {"schedulingGroup": {"podGroupName": "ring"}, "limits": {"nvidia.com/gpu": 1}}
        await scheduler.create(pod(f"ring-{index}", **member))
    nodes = await scheduler.bound(*(f"ring-{index}" for index in range(4)))
    assert len(set(nodes.values())) <= 3
    # Beyond the gang: one device is left.
    await scheduler.create(pod("ring-4", schedulingGroup={"podGroupName": "ring"}, limits={"nvidia.com/gpu": 1}))
    await scheduler.bound("ring-4")
    await scheduler.until({"short": [SUCCEEDED], "long": [RUNNING], "ring": [RUNNING], "ring-4": [RUNNING]})
    # A gang of three has no room, and says so; once the first gang is gone it has.
    waits = {"annotations": {"berth.dev/gang": "next", "berth.dev/gang-size": "3"}, "limits": {"nvidia.com/gpu": 1}}
    for index in range(3):
        await scheduler.create(pod(f"next-{index}", **waits))
    text = await scheduler.message("next-2", "waits")
    assert text[:60] in await scheduler.described("next-2", "FailedScheduling")
    assert "assigned default/ring-0 to gpu-" in await scheduler.described("ring-0", "Scheduled")
    for index in range(4):
        await scheduler.delete(f"ring-{index}")
    await scheduler.bound("next-0", "next-1", "next-2")
    # One device is left, and a pod that wants two is bound by somebody else: it is no job any more.
    await scheduler.create(pod("pair", limits={"nvidia.com/gpu": 2}))
    # Whether the executor sees first that its pods are gone, or who took them up, is the same to the gang.
    (ring,) = (await scheduler.states())["ring"]
    assert ring in (FAILED, CANCELLED)
    there = {"short": [SUCCEEDED], "long": [RUNNING], "ring-4": [RUNNING], "next": [RUNNING], "ring": [ring]}
    await scheduler.until({**there, "pair": [PENDING]})
    binding = {
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "pair"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "gpu-0"},
    }  # fmt: skip
    await scheduler.kubernetes.post(f"{PODS}/pair/binding", binding)
    await scheduler.until({**there, "pair": [CANCELLED]})


async def test_a_pod_that_others_make_room_for_is_nominated_and_then_bound(
    scheduler: Scheduler, kubernetes: Kubernetes
) -> None:
    urgent = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 9}
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    await kubernetes.post(classes, urgent)
    try:
        low = [f"low-{index}" for index in range(3)]
        for name in low:
            # The finalizer keeps a stopped pod until the test lets go.
            manifest = pod(name, limits={"nvidia.com/gpu": 2})
            manifest["metadata"]["finalizers"] = ["test.berth.dev/stays"]
            await scheduler.create(manifest)
        nodes = await scheduler.bound(*low)
        await scheduler.create(pod("high", limits={"nvidia.com/gpu": 2}, priorityClassName="urgent"))

        async def nominated() -> str:
            found = await kubernetes.get(f"{PODS}/high")
            return str(found["status"].get("nominatedNodeName", ""))

        node = await scheduler.system.eventually(nominated, seconds=20.0)
        (victim,) = [name for name in low if nodes[name] == node]
        stopped = await kubernetes.get(f"{PODS}/{victim}")
        assert "deletionTimestamp" in stopped["metadata"]
        await kubernetes.patch(f"{PODS}/{victim}", {"metadata": {"finalizers": None}})
        assert await scheduler.bound("high") == {"high": node}
        # The pod that was stopped is gone for good: its job does not wait for a place again.
        states = {**{name: [RUNNING] for name in low}, victim: [CANCELLED], "high": [RUNNING]}
        await scheduler.until(states)
    finally:
        await kubernetes.delete(f"{classes}/urgent")
