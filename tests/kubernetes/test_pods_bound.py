"""From a pod to a node and to its end: every service real, on a real API server."""

import asyncio
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes
from tests.kubernetes.conftest import pod
from tests.kubernetes.scheduler import CANCELLED, GROUPS, PENDING, PODS, RUNNING, SUCCEEDED, Scheduler
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
    shown = scheduler.cluster.kubectl("describe", "pod", "next-2")
    print(shown)
    assert text[:60] in shown
    assert "Scheduled" in scheduler.cluster.kubectl("describe", "pod", "ring-0")
    for index in range(4):
        await scheduler.delete(f"ring-{index}")
    await scheduler.bound("next-0", "next-1", "next-2")
    states = await scheduler.states()
    assert states["ring"] == [CANCELLED] or states["ring"] in ([5], [6]), states


async def test_a_pod_that_somebody_else_binds_is_no_job_any_more(scheduler: Scheduler) -> None:
    await scheduler.create(pod("own", limits={"nvidia.com/gpu": 1}, annotations={"berth.dev/queue": "nowhere"}))
    await scheduler.message("own", "unknown queue")
    full = {f"full-{index}": [RUNNING] for index in range(3)}
    for name in full:
        await scheduler.create(pod(name, limits={"nvidia.com/gpu": 2}))
    await scheduler.bound(*full)
    await scheduler.create(pod("large", limits={"nvidia.com/gpu": 1}))
    await scheduler.until({**full, "large": [PENDING]})
    binding = {
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "large"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "gpu-0"},
    }  # fmt: skip
    await scheduler.kubernetes.post(f"{PODS}/large/binding", binding)
    await scheduler.until({**full, "large": [CANCELLED]})
