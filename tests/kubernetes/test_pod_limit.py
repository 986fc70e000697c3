"""A node's kubelet refuses the pod beyond its limit (OutOfpods): Berth binds none there. Judged from the API server."""

import asyncio
from collections import Counter
from typing import Any

from berth.kubernetes.client import Kubernetes
from tests.kubernetes.conftest import pod
from tests.kubernetes.scheduler import PODS, Scheduler
from tests.services import System


async def test_no_node_gets_more_pods_than_it_allows(system: System, cluster: Any, kubernetes: Kubernetes) -> None:
    resources = {"cpu": 64, "memory": "64Gi", "pods": 4}
    await asyncio.to_thread(cluster.add_nodes, 2, prefix="small", resources=resources)
    await kubernetes.post(PODS, pod("theirs", scheduler="other", nodeName="small-0"))
    ingest = system.service("telemetry-ingest", kubernetes="true", kubeconfig=str(cluster.kubeconfig))
    scheduler = Scheduler(system, cluster, kubernetes)
    await asyncio.gather(ingest.ready(), scheduler.engine.ready(), scheduler.binder.ready())
    names = [f"p{number}" for number in range(10)]
    for name in names:
        await scheduler.create(pod(name))

    async def counts() -> tuple[Counter[str], list[str]]:
        nodes = await scheduler.nodes()
        return Counter(filter(None, nodes.values())), sorted(name for name, node in nodes.items() if not node)

    async def all_taken() -> bool:
        return sum((await counts())[0].values()) == 8

    await system.eventually(all_taken, seconds=40.0)
    taken, waiting = await counts()
    assert (taken, len(waiting)) == (Counter({"small-0": 4, "small-1": 4}), 3)
    text = await scheduler.message(waiting[0], "allocatable.pods")
    assert "2 nodes run all the pods that they allow" in text
    # Two of Berth's go, on either node: two of those that wait come; who is not Berth's leaves a place, too.
    nodes = await scheduler.nodes()
    for node in ("small-0", "small-1"):
        await scheduler.delete(next(name for name, where in nodes.items() if where == node and name != "theirs"))
    await system.eventually(all_taken, seconds=40.0)
    await scheduler.delete("theirs")
    await system.eventually(all_taken, seconds=60.0)
    taken, waiting = await counts()
    assert (taken, waiting) == (Counter({"small-0": 4, "small-1": 4}), [])
    assert [one for one in await scheduler.jobs() if one["message"].startswith("bind failed")] == []
    audit = await system.audit(scheduler.engine)
    assert list(audit.violations) == []
