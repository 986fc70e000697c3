"""The cluster, watched: its nodes, the pods on them and its exporters, told to the inventory in batches.

Thousands of pods come and go; what they change is gathered for a moment, and a node whose record comes out as it was
is not stored or published. Nothing is told before nodes and pods were both listed: a pod not heard of yet must not
look like a device that is free. All of it is looked at again now and then, for what an edge missed.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import structlog

from berth.kubernetes.client import Kubernetes, Object
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.informer import Informer, key_of, run_all
from berth.postgres import TRANSIENT
from telemetry_ingest.adapters.claims import ClusterClaims
from telemetry_ingest.domain.kubernetes.exporters import targets_of_pod, targets_of_slice
from telemetry_ingest.domain.kubernetes.nodes import NodeFacts, facts_of
from telemetry_ingest.domain.kubernetes.pods import PodUse, use_of
from telemetry_ingest.domain.targets import Target
from telemetry_ingest.handlers import Ingest

__all__ = ["ClusterFleet"]

log = structlog.get_logger(__name__)

ASSIGNED = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"


class ClusterFleet:
    """`exporter_namespaces`: where exporters are believed, "*" anywhere. `gather_seconds`: how long changes are
    gathered; `again_seconds`: how often every node is looked at again.
    """

    def __init__(
        self,
        client: Kubernetes,
        resources: DeviceResources,
        ingest: Ingest,
        *,
        exporter_namespaces: Collection[str],
        gather_seconds: float = 0.2,
        again_seconds: float = 30.0,
    ) -> None:
        self._resources = resources
        self._ingest = ingest
        self._exporter_namespaces = frozenset(exporter_namespaces)
        self._gather_seconds = gather_seconds
        self._again_seconds = again_seconds
        self._facts: dict[str, NodeFacts] = {}
        self._uses: dict[str, PodUse] = {}
        self._by_node: dict[str, dict[str, PodUse]] = {}
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._dirty: set[str] = set()
        self._changed = asyncio.Event()
        self._said: set[str] = set()
        self._nodes = Informer(client, "/api/v1/nodes", self._guarded(self._node))
        self._pods = Informer(client, "/api/v1/pods", self._guarded(self._pod), field_selector=ASSIGNED)
        self._slices = Informer(
            client, "/apis/discovery.k8s.io/v1/endpointslices", self._guarded(self._slice), optional=True
        )
        self._claims = ClusterClaims(client, self._claimed)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_all((self._nodes, self._pods, self._slices)))
            tasks.create_task(self._claims.run())
            tasks.create_task(self._tell())

    async def _tell(self) -> None:
        # 1. Nothing is known before all of it was listed once; then what left while nobody watched is gone.
        for informer in (self._nodes, self._pods, self._slices):
            await informer.synced.wait()
        await self._claims.synced()
        clock = asyncio.get_running_loop().time
        again_at = clock()
        while True:
            # 2. What changed, or everything.
            self._changed.clear()
            everything = clock() >= again_at
            names = {*self._facts, *self._ingest.nodes_of_cluster()} if everything else set(self._dirty)
            self._dirty -= names
            try:
                # 3. Exporters first: whether a node has one decides if it needs telemetry.
                self._ingest.on_found_targets(target for found in self._targets.values() for target in found)
                await self._ingest.on_cluster(
                    [
                        (self._claims.with_claims(facts), tuple(self._by_node.get(name, {}).values()))
                        for name in sorted(names)
                        if (facts := self._facts.get(name)) is not None
                    ],
                    self._resources,
                    # One that is there and was not understood is left as it was.
                    gone=[name for name in sorted(names) if name not in self._nodes.objects],
                )
                if everything:
                    again_at = clock() + self._again_seconds
            except TRANSIENT as error:
                log.warning("the cluster's nodes will be stored again", nodes=len(names), error=repr(error))
                self._dirty |= names
                self._changed.set()
                await asyncio.sleep(1.0)
            # 4. Gathered, so that a wave of pods is one change of a node.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.0, again_at - clock()))
            await asyncio.sleep(self._gather_seconds)

    def _node(self, old: Object | None, new: Object | None) -> None:
        name = str((new or old or {})["metadata"]["name"])
        facts = None if new is None else facts_of(new, self._resources)
        if facts == self._facts.get(name):
            return
        if facts is None:
            self._facts.pop(name, None)
        else:
            self._facts[name] = facts
            self._complain(name, facts.problems)
        self._mark(name)

    def _pod(self, old: Object | None, new: Object | None) -> None:
        key = key_of(new or old or {})
        self._found(f"pod {key}", new, targets_of_pod)
        before, use = self._uses.get(key), None if new is None else use_of(new, self._resources)
        if use == before:
            return
        if before is not None:
            del self._uses[key]
            mates = self._by_node[before.node]
            del mates[key]
            if not mates:
                del self._by_node[before.node]
            self._mark(before.node)
        if use is not None:
            self._uses[key] = use
            self._by_node.setdefault(use.node, {})[key] = use
            self._complain(key, use.problems)
            self._mark(use.node)

    def _slice(self, old: Object | None, new: Object | None) -> None:
        self._found(f"slice {key_of(new or old or {})}", new, targets_of_slice)

    def _found(self, key: str, new: Object | None, targets_of: Callable[[Object], tuple[Target, ...]]) -> None:
        targets = () if new is None else targets_of(new)
        if targets and new is not None and not self._believed(key, str(new["metadata"].get("namespace") or "")):
            targets = ()
        before = self._targets.get(key, ())
        if targets == before:
            return
        if targets:
            self._targets[key] = targets
        else:
            del self._targets[key]
        for target in (*before, *targets):
            self._mark(target.node)

    def _believed(self, key: str, namespace: str) -> bool:
        """Whoever may make a pod in his own namespace must not say that the node's devices are broken."""
        if not self._exporter_namespaces.isdisjoint((namespace, "*")):
            return True
        if (said := f"exporters {namespace}") not in self._said:
            self._said.add(said)
            log.warning(
                "an exporter is not believed: its namespace is not in BERTH_EXPORTER_NAMESPACES",
                namespace=namespace,
                of=key,
            )
        return False

    def _claimed(self, nodes: frozenset[str] | None) -> None:
        """What the nodes' slices offer, or what claims hold of it, changed; None: of any node."""
        for node in self._facts if nodes is None else nodes:
            self._mark(node)

    def _mark(self, node: str) -> None:
        self._dirty.add(node)
        self._changed.set()

    def _complain(self, name: str, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if (said := f"{name} {problem}") not in self._said:
                self._said.add(said)
                log.warning("a quantity cannot be read and counts as nothing", of=name, error=problem)

    def _guarded(
        self, take: Callable[[Object | None, Object | None], None]
    ) -> Callable[[Object | None, Object | None], None]:
        """One object that is not as the API has it must not end the watch of the others."""

        def guarded(old: Object | None, new: Object | None) -> None:
            try:
                take(old, new)
            except Exception:
                named: dict[str, Any] = {}
                with suppress(Exception):
                    named = (new or old or {})["metadata"]
                log.exception("not understood, and left as it was", object=named.get("name", ""))

        return guarded
