"""Resource claims of a pod: allocated on the node and with the devices that the engine chose, before it is bound.

What a claim says is the truth, as it is for pods. An allocation is written as kube-scheduler writes it: the finalizer
first, then allocation and reservation in one status update, each for the resource version that was read. Devices are
unique in nobody's hands but the writers': so after the write the binder waits until its mirror has it, and with it
every allocation that came before. Where one of those has the same device, or draws on the same counters, it gives way.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import structlog

from berth.kubernetes import names
from berth.kubernetes.claims.allocation import (
    FINALIZER,
    MOST_CONSUMERS,
    allocated_devices,
    allocation_of,
    consumer,
    is_reserved_for,
)
from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.claims.matching import ClaimError, Grant, NoMatch, match
from berth.kubernetes.claims.needs import ClaimsNotReady, claims_of, is_accelerator
from berth.kubernetes.claims.slices import Offer, Offers, counters_left, selector_matches
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from binder.executors.kubernetes_requests import UNDECIDED

__all__ = ["ClaimAllocator", "ClaimsRefused"]

log = structlog.get_logger(__name__)

TRIES = 6
MIRROR_SECONDS = 5.0
NODE_SECONDS = 30.0
MOST_NODES = 4096
# What a pod that has just ended held is freed by kube-controller-manager; the engine may have given it away before.
FREED_SECONDS = 3.0
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims/{}"


class ClaimsRefused(Exception):
    """The pod's claims cannot be served there, now: why. Nothing that this call allocated is kept without need:
    whoever asked calls `release`."""


class ClaimAllocator:
    """`book`: run by the caller."""

    def __init__(self, client: Kubernetes, book: ClaimBook, *, requests: int = 64) -> None:
        self._client = client
        self._book = book
        self._room = asyncio.Semaphore(requests)
        self._choosing = asyncio.Lock()
        self._assumed: Counter[str] = Counter()
        """Devices that were chosen, and are not in the mirror yet."""
        self._nodes: dict[str, tuple[float, Object]] = {}

    async def allocate(self, pod: Object, node_name: str, device_ids: Sequence[str], attempt: str) -> None:
        """Every claim of the pod is allocated on the node, its accelerators among `device_ids`, and reserved for the
        pod, by this attempt. May be called again, after a crash too.

        Raises ClaimsRefused, KubernetesError and Unanswered."""
        # 1. The claims as mirrored: a write for a version that is old is refused, and then they are read.
        await self._synced()
        claims = self._claims_of(pod)
        if not claims:
            return
        node = await self._node(node_name)
        claims = [await self._ours_elsewhere_freed(claim, pod, node, device_ids) for claim in claims]
        waiting = [claim for claim in claims if not _allocation(claim)]
        for claim in claims:
            _check_reach(claim, node)
        if device_ids and not waiting and not any(_is_for(claim, pod) for claim in claims):
            raise ClaimsRefused("the pod's claims were allocated meanwhile: it is asked for again, without devices")
        # 2. Which devices.
        offers = self._book.offers(node)
        grants = await self._choose(waiting, offers, frozenset(device_ids)) if waiting else []
        chosen = _taken(grants)
        try:
            # 3. Written, claim by claim.
            written = []
            for claim in claims:
                position = waiting.index(claim) if claim in waiting else None
                allocation = (
                    allocation_of(claim, grants[position], self._book.classes) if position is not None else None
                )
                written.append(await self._write(claim, pod, allocation, attempt))
            # 4. Whoever came first stays.
            if chosen:
                await self._check_alone(written, chosen, offers)
        finally:
            self._assumed.subtract(chosen)
            self._assumed += Counter()

    async def release(self, pod: Object | None, uid: str, attempt: str) -> None:
        """Takes the pod out of its claims, and frees those that were allocated for it and that nobody else uses. For a
        pod that this attempt does not bind; what another attempt allocated for it meanwhile stays.

        Raises KubernetesError and Unanswered."""
        keys = dict.fromkeys(self._book.claims_for(uid))
        if pod is not None:
            namespace = pod["metadata"].get("namespace", "default")
            statuses = (pod.get("status") or {}).get("resourceClaimStatuses") or ()
            named = [one.get("resourceClaimName") for one in (*(pod["spec"].get("resourceClaims") or ()), *statuses)]
            keys |= dict.fromkeys(f"{namespace}/{name}" for name in named if name)
        for key in keys:
            await self._free(key, uid, attempt)

    # -- reading ---------------------------------------------------------------------------------

    async def _synced(self) -> None:
        try:
            async with asyncio.timeout(MIRROR_SECONDS):
                await self._book.synced()
        except TimeoutError:
            raise Unanswered("resource slices and claims are not listed yet") from None

    def _claims_of(self, pod: Object) -> list[Object]:
        try:
            return claims_of(pod, self._book.claims)
        except (ClaimsNotReady, ClaimError) as error:
            raise ClaimsRefused(str(error)) from error

    async def _node(self, name: str) -> Object:
        """For its labels, which seldom change."""
        now = asyncio.get_running_loop().time()
        known = self._nodes.get(name)
        if known is None or now - known[0] > NODE_SECONDS:
            try:
                metadata = (await self._get(f"/api/v1/nodes/{name}"))["metadata"]
            except KubernetesError as error:
                if error.not_found:
                    raise ClaimsRefused(f"node {name} is gone") from error
                raise
            if len(self._nodes) >= MOST_NODES:
                self._nodes.clear()
            node = {"metadata": {"name": metadata["name"], "labels": metadata.get("labels") or {}}}
            known = self._nodes[name] = (now, node)
        return known[1]

    async def _ours_elsewhere_freed(
        self, claim: Object, pod: Object, node: Object, device_ids: Sequence[str]
    ) -> Object:
        """What an earlier attempt left allocated for this very pod on another node or with other devices is freed."""
        if not _allocation(claim) or not _is_for(claim, pod):
            return claim
        mine = {offer.device_id for offer in self._book.offers(node).offers if is_accelerator(offer)}
        here = _reaches(claim, node) and all(
            device in device_ids or (device not in mine and self._book.node_of(device) in (None, node_of(node)))
            for device in allocated_devices(claim)
        )
        others = [one for one in claim["status"].get("reservedFor") or () if one["uid"] != pod["metadata"]["uid"]]
        if here or others:
            return claim
        await self._free(f"{claim['metadata']['namespace']}/{claim['metadata']['name']}", pod["metadata"]["uid"])
        return await self._get(_path(claim))

    async def _get(self, path: str) -> Object:
        async with self._room:
            return await self._client.get(path)

    # -- choosing --------------------------------------------------------------------------------

    async def _choose(
        self, waiting: Sequence[Object], offers: Offers, claimed: frozenset[str]
    ) -> list[tuple[Grant, ...]]:
        def usable(offer: Offer, admin: bool) -> bool:
            return admin or not is_accelerator(offer) or offer.device_id in claimed

        until = asyncio.get_running_loop().time() + FREED_SECONDS
        while True:
            async with self._choosing:
                taken = self._book.taken | self._assumed.keys()
                try:
                    found = match(waiting, self._book.classes, offers, taken, usable=usable)
                except ClaimError as error:
                    raise ClaimsRefused(str(error)) from error
                if not isinstance(found, NoMatch):
                    self._assumed.update(found.taken)
                    return list(found.grants)
            held = sorted(claimed & taken)
            if not held or asyncio.get_running_loop().time() > until:
                by = "; ".join(f"{device} is held by {self._holder(device)}" for device in held[:3])
                raise ClaimsRefused("; ".join(found.reasons) + (f" ({by})" if by else ""))
            await asyncio.sleep(0.05)

    def _holder(self, device: str) -> str:
        keys = [f"claim {one['metadata']['namespace']}/{one['metadata']['name']}" for one in self._book.holders(device)]
        return keys[0] if keys else "a claim that is being allocated"

    async def _check_alone(self, written: Sequence[Object], chosen: frozenset[str], offers: Offers) -> None:
        """Raises ClaimsRefused where another claim has one of the devices, or a part of it."""
        for claim in written:
            if not await self._book.seen(claim, MIRROR_SECONDS):
                raise ClaimsRefused("whether the devices are the claim's alone could not be seen in time")
        for device in chosen:
            if len(list(self._book.holders(device))) > 1:
                raise ClaimsRefused(f"{device} was allocated to {self._holder(device)} at the same time")
        drawn = {offers.consumers[device][0] for device in chosen if device in offers.consumers}
        for (pool, counter), amount in counters_left(offers, self._book.taken).items():
            if amount < 0 and pool in drawn:
                raise ClaimsRefused(f"too much of counter {'/'.join(counter)} of pool {'/'.join(pool)} was allocated")

    # -- writing ---------------------------------------------------------------------------------

    async def _write(self, claim: Object, pod: Object, allocation: Object | None, attempt: str) -> Object:
        """Allocation (None: it has one) and reservation, once. What got no answer is read back."""
        for _ in range(TRIES):
            if is_reserved_for(claim, pod) and _allocation(claim):
                if allocation is not None and _allocation(claim) != _without_time(allocation):
                    raise ClaimsRefused(f"{_named(claim)} was allocated otherwise meanwhile")
                if not _is_for(claim, pod) or claim["metadata"]["annotations"].get(names.ATTEMPT) == attempt:
                    return claim
            if claim["metadata"].get("deletionTimestamp"):
                raise ClaimsRefused(f"{_named(claim)} is being deleted")
            if allocation is not None and _allocation(claim):
                raise ClaimsRefused(f"{_named(claim)} was allocated by somebody else meanwhile")
            if allocation is None and not _allocation(claim):
                raise ClaimsRefused(f"{_named(claim)} was freed meanwhile")
            try:
                if allocation is not None or _is_for(claim, pod):
                    claim = await self._put(_path(claim), _marked(claim, pod, attempt))
                if not is_reserved_for(claim, pod):
                    claim = await self._put(f"{_path(claim)}/status", _reserved(claim, pod, allocation))
            except KubernetesError as error:
                if error.not_found:
                    raise ClaimsRefused(f"{_named(claim)} is gone") from error
                if error.status in UNDECIDED:
                    raise
                if not error.conflict:
                    raise ClaimsRefused(f"{_named(claim)}: {error}") from error
                claim = await self._get(_path(claim))
            except Unanswered as error:
                log.warning("claim is read back", claim=_named(claim), error=str(error))
                claim = await self._get(_path(claim))
        raise ClaimsRefused(f"{_named(claim)} changes too fast to be allocated")

    async def _free(self, key: str, uid: str, attempt: str = "") -> None:
        """`attempt`: only what that one allocated; "": whichever did."""
        path = CLAIMS.format(*key.split("/"))
        for _ in range(TRIES):
            try:
                claim = await self._get(path)
                metadata, status = claim["metadata"], claim.get("status") or {}
                annotations = metadata.get("annotations") or {}
                ours = annotations.get(names.ALLOCATED_FOR) == uid
                if ours and attempt and annotations.get(names.ATTEMPT) != attempt:
                    return
                reserved = status.get("reservedFor") or []
                left = [one for one in reserved if one["uid"] != uid]
                free = ours and not left and bool(status.get("allocation"))
                if len(left) < len(reserved) or free:
                    status = {**status, "reservedFor": left}
                    if free:
                        status.pop("allocation", None)
                        status.pop("devices", None)
                    claim = await self._put(f"{path}/status", {**claim, "status": status})
                if ours and not _allocation(claim):
                    await self._put(path, _unmarked(claim))
                return
            except KubernetesError as error:
                if error.not_found:
                    return
                if not error.conflict:
                    raise
        raise Unanswered(f"claim {key} changes too fast to be freed")

    async def _put(self, path: str, body: Object) -> Object:
        async with self._room:
            return await self._client.put(path, body)


def _path(claim: Object) -> str:
    return CLAIMS.format(claim["metadata"]["namespace"], claim["metadata"]["name"])


def node_of(node: Object) -> str:
    return str(node["metadata"]["name"])


def _named(claim: Object) -> str:
    return f"claim {claim['metadata']['namespace']}/{claim['metadata']['name']}"


def _allocation(claim: Object) -> Object | None:
    found = (claim.get("status") or {}).get("allocation")
    return None if found is None else _without_time(found)


def _without_time(allocation: Object) -> Object:
    return {key: value for key, value in allocation.items() if key != "allocationTimestamp"}


def _is_for(claim: Object, pod: Object) -> bool:
    return bool((claim["metadata"].get("annotations") or {}).get(names.ALLOCATED_FOR) == pod["metadata"]["uid"])


def _reaches(claim: Object, node: Object) -> bool:
    selector = (_allocation(claim) or {}).get("nodeSelector")
    return selector is None or selector_matches(selector, node)


def _check_reach(claim: Object, node: Object) -> None:
    if not _reaches(claim, node):
        raise ClaimsRefused(f"{_named(claim)} is allocated where node {node_of(node)} does not reach it")


def _taken(grants: Iterable[Sequence[Grant]]) -> frozenset[str]:
    return frozenset(grant.offer.device_id for one in grants for grant in one if not grant.admin)


def _marked(claim: Object, pod: Object, attempt: str) -> Object:
    """With the finalizer that keeps an allocated claim, and whose it is in Berth's ledger."""
    metadata = claim["metadata"]
    finalizers = metadata.get("finalizers") or []
    own = {names.ALLOCATED_FOR: pod["metadata"]["uid"], names.ATTEMPT: attempt}
    annotations = {**(metadata.get("annotations") or {}), **own}
    kept = finalizers if FINALIZER in finalizers else [*finalizers, FINALIZER]
    return {**claim, "metadata": {**metadata, "finalizers": kept, "annotations": annotations}}


def _unmarked(claim: Object) -> Object:
    metadata = claim["metadata"]
    own = (names.ALLOCATED_FOR, names.ATTEMPT)
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key not in own}
    finalizers = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
    return {**claim, "metadata": {**metadata, "finalizers": finalizers, "annotations": annotations}}


def _reserved(claim: Object, pod: Object, allocation: Object | None) -> Object:
    status = dict(claim.get("status") or {})
    reserved = [one for one in status.get("reservedFor") or () if one["uid"] != pod["metadata"]["uid"]]
    if len(reserved) >= MOST_CONSUMERS:
        raise ClaimsRefused(f"{_named(claim)} is used by {MOST_CONSUMERS} pods already")
    if allocation is not None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status["allocation"] = {**allocation, "allocationTimestamp": now}
    status["reservedFor"] = [*reserved, consumer(pod)]
    return {**claim, "status": status}
