"""Resource claims that wait and the slices that may serve them, watched for the fleet's nodes."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import structlog

from berth.kubernetes import names
from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.claims.matching import ClaimError
from berth.kubernetes.claims.needs import ClaimsNotReady, claims_of, need_of, unallocated
from berth.kubernetes.client import Kubernetes, Object
from berth.kubernetes.informer import Informer, key_of
from telemetry_ingest.domain.kubernetes.claims import Need, foreign_holder, with_claims
from telemetry_ingest.domain.kubernetes.nodes import NodeFacts

__all__ = ["ClusterClaims"]

log = structlog.get_logger(__name__)

WAITING = f"spec.nodeName=,spec.schedulerName={names.SCHEDULER_NAME}"
MOST_NEEDS = 128


class ClusterClaims:
    """`changed(nodes)`: these nodes look different now; None: any may. A need outlives its pods for a while, so that
    the pods of one template, coming and going, do not change every node each time."""

    def __init__(self, client: Kubernetes, changed: Callable[[frozenset[str] | None], None]) -> None:
        self._changed = changed
        self._book = ClaimBook(client, changed)
        self._pods = Informer(client, "/api/v1/pods", self._pod, field_selector=WAITING)
        self._book.claim_events.listen(self._claim)
        self._of_pod: dict[str, str] = {}
        self._by_claim: dict[str, set[str]] = {}
        self._needs: OrderedDict[str, Need] = OrderedDict()
        self._ready = False
        self._said: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._book.run())
            tasks.create_task(self._pods.run())
            tasks.create_task(self._begin())

    async def synced(self, seconds: float = 10.0) -> None:
        """Waits until all was listed, but not for ever: a cluster may forbid to read claims, and has nodes still."""
        try:
            async with asyncio.timeout(seconds):
                await self._listed()
        except TimeoutError:
            log.warning("resource claims and slices cannot be listed: their devices are left out until they can be")

    async def _listed(self) -> None:
        await self._book.synced()
        await self._pods.synced.wait()

    async def _begin(self) -> None:
        # Before all of it was listed a device that a claim holds would look free.
        await self._listed()
        self._ready = True
        for pod in list(self._pods.objects.values()):
            self._look(pod)
        self._changed(None)

    def with_claims(self, facts: NodeFacts) -> NodeFacts:
        """The node with what its slices offer and its marks."""
        if not self._ready:
            return facts
        try:
            return self._with_claims(facts)
        except Exception:
            # What one slice or claim says must not keep the nodes from being told.
            if facts.name not in self._said:
                self._said.add(facts.name)
                log.exception("slices and claims are not understood", node=facts.name)
            return facts

    def _with_claims(self, facts: NodeFacts) -> NodeFacts:
        node = {"metadata": {"name": facts.name, "labels": dict(facts.labels)}}
        offers = self._book.offers(node)
        if not offers.offers:
            return facts
        taken = self._book.taken
        return with_claims(
            facts,
            offers,
            tuple(self._needs.values()),
            self._book.classes,
            taken,
            lambda device: foreign_holder(list(self._book.holders(device))),
        )

    def _pod(self, old: Object | None, new: Object | None) -> None:
        pod = new or old or {}
        if not pod["spec"].get("resourceClaims"):
            return
        if new is None:
            key = key_of(pod)
            self._of_pod.pop(key, None)
            for waiting in self._by_claim.values():
                waiting.discard(key)
            self._by_claim = {claim: waiting for claim, waiting in self._by_claim.items() if waiting}
        else:
            self._look(new)

    def _claim(self, old: Object | None, new: Object | None) -> None:
        metadata = (new or old or {})["metadata"]
        waiting = set(self._by_claim.get(key_of(new or old or {}), ()))
        waiting |= {
            f"{metadata.get('namespace')}/{owner['name']}"
            for owner in metadata.get("ownerReferences") or ()
            if owner.get("kind") == "Pod"
        }
        for key in waiting:
            if (pod := self._pods.objects.get(key)) is not None:
                self._look(pod)

    def _look(self, pod: Object) -> None:
        """What the pod needs now; a need that was not known changes what every node with devices is marked with."""
        key = key_of(pod)
        for entry in pod["spec"].get("resourceClaims") or ():
            if name := entry.get("resourceClaimName"):
                self._by_claim.setdefault(f"{pod['metadata']['namespace']}/{name}", set()).add(key)
        try:
            waiting = unallocated(claims_of(pod, self._book.claims))
        except (ClaimsNotReady, ClaimError):
            return
        need = need_of(waiting)
        if not need:
            return
        self._of_pod[key] = need
        if need in self._needs:
            self._needs.move_to_end(need)
            return
        self._needs[need] = Need(need, tuple(waiting))
        live = set(self._of_pod.values())
        for old in [one for one in self._needs if one not in live][: max(0, len(self._needs) - MOST_NEEDS)]:
            del self._needs[old]
        log.info("claims of a new kind wait", need=need, pod=key)
        self._changed(None)
