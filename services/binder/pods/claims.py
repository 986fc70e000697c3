"""Resource claims of pods: what they ask the engine for, and which pods to look at again when they change."""

import time
from collections.abc import Callable, Iterable
from itertools import chain

from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.claims.needs import ClaimAsk, ask_of, claims_of, need_of, unallocated
from berth.kubernetes.client import Object
from berth.kubernetes.informer import Informer
from berth.kubernetes.pods.translation import uid_of
from binder.pods.source import PodSource

__all__ = ["PodClaims"]

MOST_NODES = 2000
"""Nodes that are looked at for one ask: where so many cannot serve it, it waits."""
SAME_SECONDS = 2.0


class PodClaims:
    """`nodes`, `book`: run by the caller."""

    def __init__(self, book: ClaimBook, nodes: Informer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._book = book
        self._nodes = nodes
        self._clock = clock
        self._asks: dict[str, tuple[int, float, ClaimAsk]] = {}

    def ask_of(self, pod: Object) -> ClaimAsk:
        """Raises ClaimsNotReady and ClaimError."""
        waiting = unallocated(claims_of(pod, self._book.claims))
        need = need_of(waiting)
        if not need or len(waiting) < len(pod["spec"].get("resourceClaims") or ()):
            return self._asked(pod)
        # Pods of one template ask for the same; with many of them, what is taken changes all the time.
        known, now = self._asks.get(need), self._clock()
        if known is None or (known[0] != self._book.version and now - known[1] > SAME_SECONDS):
            if len(self._asks) > MOST_NODES:
                self._asks.clear()
            known = self._asks[need] = (self._book.version, now, self._asked(pod))
        return known[2]

    def _asked(self, pod: Object) -> ClaimAsk:
        book, here = self._book, self._book.nodes()
        nodes = (self._nodes.objects.get(name) for name in sorted(here))
        others = (node for name, node in self._nodes.objects.items() if name not in here)
        offered = (book.offers(node) for _, node in zip(range(MOST_NODES), chain(nodes, others), strict=False) if node)
        return ask_of(pod, book.claims, book.classes, book.taken, offered)

    def follow(self, source: PodSource) -> None:
        """Tells the source which pods to look at again."""

        def claim_changed(old: Object | None, new: Object | None) -> None:
            if old is not new:
                source.claims_changed(_users([one for one in (old, new) if one is not None], source.waiting_pods))

        def offers_changed(nodes: frozenset[str] | None) -> None:
            if nodes is None:
                source.claims_changed(uid_of(pod) for pod in source.waiting_pods() if pod["spec"].get("resourceClaims"))

        self._book.claim_events.listen(claim_changed)
        self._book.listen(offers_changed)


def _users(claims: Iterable[Object], pods: Callable[[], Iterable[Object]]) -> set[str]:
    """Pods that a claim was made for, or that name it. `pods` is called only where they must be gone through."""
    found = set()
    named = set()
    for claim in claims:
        metadata = claim["metadata"]
        owners = [one["uid"] for one in metadata.get("ownerReferences") or () if one.get("kind") == "Pod"]
        found |= set(owners)
        if not owners:
            named.add((metadata["namespace"], metadata["name"]))
    if named:
        for pod in pods():
            for entry in pod["spec"].get("resourceClaims") or ():
                if (pod["metadata"]["namespace"], entry.get("resourceClaimName")) in named:
                    found.add(uid_of(pod))
    return found
