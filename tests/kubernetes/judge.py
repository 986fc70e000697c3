"""Says what became of pods, by the API server's own watch and nothing else."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from berth.kubernetes.client import Kubernetes, Object
from berth.kubernetes.informer import Informer

__all__ = ["Judge", "Seen", "create_all", "percentile"]

PODS = "/api/v1/namespaces/default/pods"
GANG = "test.berth.dev/gang"


@dataclass(slots=True)
class Seen:
    """One pod (by uid) as the watch told it; times by the monotonic clock."""

    name: str
    gang: str
    created: float
    node: str = ""
    bound: float = 0.0
    gone: bool = False
    nodes: int = 0
    """How many different nodes it was on: above 1 would be a doubled binding."""


class Judge:
    """`async with Judge(client) as judge`: follows every pod of the namespace `default`."""

    def __init__(self, client: Kubernetes) -> None:
        self.pods: dict[str, Seen] = {}
        self._client = client
        self._informer = Informer(client, PODS, self._take)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._informer.run())
        await asyncio.wait_for(self._informer.synced.wait(), 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _take(self, old: Object | None, new: Object | None) -> None:
        thing = new or old
        assert thing is not None
        metadata = thing["metadata"]
        gang = metadata.get("labels", {}).get(GANG, "")
        seen = self.pods.setdefault(metadata["uid"], Seen(metadata["name"], gang, time.monotonic()))
        node = thing["spec"].get("nodeName", "")
        if node and node != seen.node:
            seen.node, seen.bound, seen.nodes = node, time.monotonic(), seen.nodes + 1
        seen.gone = new is None

    async def bound(self, count: int, seconds: float) -> float:
        """Waits until so many pods are bound; gives the seconds from the first creation to the last binding."""
        until = time.monotonic() + seconds
        while sum(bool(one.node) for one in self.pods.values()) < count:
            if time.monotonic() > until:
                raise AssertionError(
                    f"{sum(bool(one.node) for one in self.pods.values())} of {count} bound in {seconds:g} s"
                )
            await asyncio.sleep(0.1)
        return max(one.bound for one in self.pods.values()) - min(one.created for one in self.pods.values())

    def waits(self, gangs: bool = False) -> list[float]:
        """Seconds from creation to binding, sorted; of gangs' members or of single pods."""
        return sorted(one.bound - one.created for one in self.pods.values() if one.node and bool(one.gang) == gangs)

    async def verdict(self, resource: str, capacity: int) -> dict[str, int]:
        """What is wrong, counted: {} where nothing is. `capacity`: devices of a node. By a fresh list."""
        pods, _ = await self._client.list(PODS)
        used: Counter[str] = Counter()
        gangs: dict[str, list[bool]] = {}
        unbound = 0
        for one in pods:
            node = one["spec"].get("nodeName", "")
            unbound += not node
            if gang := one["metadata"].get("labels", {}).get(GANG, ""):
                gangs.setdefault(gang, []).append(bool(node))
            if node and one["status"].get("phase") not in ("Succeeded", "Failed"):
                used[node] += sum(
                    int(container["resources"].get("limits", {}).get(resource, 0))
                    for container in one["spec"]["containers"]
                )
        found = {
            "lost": sum(one.gone for one in self.pods.values()),
            "not bound": unbound,
            "bound twice": sum(one.nodes > 1 for one in self.pods.values()),
            "half gangs": sum(len(set(members)) > 1 for members in gangs.values()),
            "nodes over capacity": sum(count > capacity for count in used.values()),
        }
        return {what: count for what, count in found.items() if count}


async def create_all(client: Kubernetes, manifests: Sequence[Any], *, flights: int = 32) -> None:
    """Creates pods as fast as the server takes them."""
    waiting = iter(manifests)

    async def work() -> None:
        for manifest in waiting:
            await client.post(PODS, manifest)

    await asyncio.gather(*(work() for _ in range(flights)))


def percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")
