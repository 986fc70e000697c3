"""Slices, classes, claims and taint rules of a cluster, mirrored, and looked up by node and device."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from berth.kubernetes import names
from berth.kubernetes.claims.allocation import allocated_devices
from berth.kubernetes.claims.slices import Offers, Pool, offers_on, pools_of
from berth.kubernetes.client import Kubernetes, Object
from berth.kubernetes.informer import Informer, key_of, run_all

__all__ = ["ClaimBook"]

GROUP = "/apis/resource.k8s.io/v1"
EVERYWHERE = ""
"""In the place of a node's name: a pool that may reach any node."""


class ClaimBook:
    """`changed(nodes)` is told which nodes' offers, or what is taken of them, are other ones; None: any node's.

    A server without the API is one without slices and claims.
    """

    def __init__(self, client: Kubernetes, changed: Callable[[frozenset[str] | None], None] | None = None) -> None:
        self._listeners = [changed] if changed is not None else []
        self._slices = Informer(client, f"{GROUP}/resourceslices", self._slice, optional=True)
        self._classes = Informer(client, f"{GROUP}/deviceclasses", self._any, optional=True)
        self._claims = Informer(client, f"{GROUP}/resourceclaims", self._claim, optional=True, resync_seconds=60.0)
        self._rules = Informer(client, f"{GROUP}/devicetaintrules", self._rule, optional=True)
        self._specs: dict[tuple[str, str], dict[str, Object]] = {}
        self._pools: dict[tuple[str, str], Pool] = {}
        self._places: dict[tuple[str, str], frozenset[str]] = {}
        self._by_place: dict[str, set[tuple[str, str]]] = {}
        self._holders: dict[str, dict[str, None]] = {}
        self._held: dict[str, list[str]] = {}
        self._consumers: dict[str, dict[str, None]] = {}
        self.version = 0
        """Moves with every change of what nodes are offered, or of what is taken of it."""

    def listen(self, changed: Callable[[frozenset[str] | None], None]) -> None:
        self._listeners.append(changed)

    async def run(self) -> None:
        """Until cancelled."""
        await run_all((self._slices, self._classes, self._claims, self._rules))

    async def synced(self) -> None:
        for informer in (self._slices, self._classes, self._claims, self._rules):
            await informer.synced.wait()

    # -- what is there ---------------------------------------------------------------------------

    @property
    def classes(self) -> Mapping[str, Object]:
        return self._classes.objects

    @property
    def claims(self) -> Mapping[str, Object]:
        """By "<namespace>/<name>"."""
        return self._claims.objects

    @property
    def claim_events(self) -> Informer:
        return self._claims

    @property
    def taken(self) -> frozenset[str]:
        """Devices that allocated claims hold."""
        return frozenset(self._holders)

    def holders(self, device: str) -> Iterable[Object]:
        """Claims that hold the device; more than one is a fault of whoever allocated them."""
        return [self.claims[key] for key in self._holders.get(device, ()) if key in self.claims]

    def claims_for(self, pod_uid: str) -> list[str]:
        """Keys of the claims that are reserved for the pod, or were allocated for it."""
        return list(self._consumers.get(pod_uid, ()))

    def offers(self, node: Object) -> Offers:
        """To a node: its name and labels are looked at."""
        keys = self._by_place.get(node["metadata"]["name"], set()) | self._by_place.get(EVERYWHERE, set())
        return offers_on(node, [self._pool(key) for key in sorted(keys)])

    def nodes(self) -> frozenset[str]:
        """Names of the nodes that have devices of their own."""
        return frozenset(name for name, keys in self._by_place.items() if keys and name != EVERYWHERE)

    def node_of(self, device: str) -> str | None:
        """Where a device is, by its pool; None: it is not known, or may be reached from several nodes."""
        driver, pool = device.split("/")[:2]
        places = self._places.get((driver, pool), frozenset())
        return next(iter(places)) if len(places) == 1 and EVERYWHERE not in places else None

    def _pool(self, key: tuple[str, str]) -> Pool:
        known = self._pools.get(key)
        if known is None:
            (known,) = pools_of(self._specs[key].values(), self._rules.objects.values())
            self._pools[key] = known
        return known

    # -- what changes ----------------------------------------------------------------------------

    def _tell(self, nodes: frozenset[str] | None) -> None:
        self.version += 1
        for listener in self._listeners:
            listener(nodes)

    def _any(self, old: Object | None, new: Object | None) -> None:
        if old is None or new is None or old.get("spec") != new.get("spec"):
            self._tell(None)

    def _rule(self, old: Object | None, new: Object | None) -> None:
        if old is None or new is None or old.get("spec") != new.get("spec"):
            self._pools.clear()
            self._tell(None)

    def _slice(self, old: Object | None, new: Object | None) -> None:
        concerned: set[str] = set()
        for thing, gone in ((old, True), (new, False)):
            if thing is None:
                continue
            key = (thing["spec"]["driver"], thing["spec"]["pool"]["name"])
            concerned |= self._places.get(key, frozenset())
            specs = self._specs.setdefault(key, {})
            if gone:
                specs.pop(key_of(thing), None)
            else:
                specs[key_of(thing)] = thing
            self._pools.pop(key, None)
            for place in self._places.pop(key, frozenset()):
                self._by_place[place].discard(key)
            if not specs:
                del self._specs[key]
                continue
            self._places[key] = places = frozenset(place for one in specs.values() for place in _places(one["spec"]))
            for place in places:
                self._by_place.setdefault(place, set()).add(key)
            concerned |= places
        self._tell(None if EVERYWHERE in concerned else frozenset(concerned))

    def _claim(self, old: Object | None, new: Object | None) -> None:
        key = key_of(new or old or {})
        for thing, gone in ((old, True), (new, False)):
            for uid in _consumers(thing):
                known = self._consumers.setdefault(uid, {})
                known.pop(key, None) if gone else known.setdefault(key)
                if not known:
                    del self._consumers[uid]
        before = self._held.pop(key, [])
        for device in before:
            self._holders[device].pop(key, None)
            if not self._holders[device]:
                del self._holders[device]
        after = [] if new is None else allocated_devices(new)
        for device in after:
            self._holders.setdefault(device, {})[key] = None
        if after:
            self._held[key] = after
        if before != after or _reserved(old) != _reserved(new):
            names = {self.node_of(device) for device in (*before, *after)}
            if names:
                self._tell(None if None in names else frozenset(name for name in names if name))

    async def seen(self, claim: Object, seconds: float) -> bool:
        """Waits until the mirror has this very version of the claim, or a later one: then it has every change that
        came before it too. False: it did not in time."""
        key, version = key_of(claim), int(claim["metadata"]["resourceVersion"])
        try:
            async with asyncio.timeout(seconds):
                while True:
                    known = self.claims.get(key)
                    if known is not None and int(known["metadata"]["resourceVersion"]) >= version:
                        return True
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return False


def _places(spec: Mapping[str, Any]) -> set[str]:
    if spec.get("perDeviceNodeSelection"):
        return {place for device in spec.get("devices") or () for place in _places(device)}
    if spec.get("nodeName"):
        return {spec["nodeName"]}
    return {EVERYWHERE} if spec.get("allNodes") or spec.get("nodeSelector") else set()


def _consumers(claim: Object | None) -> set[str]:
    allocated_for = ((claim or {}).get("metadata", {}).get("annotations") or {}).get(names.ALLOCATED_FOR)
    return {*_reserved(claim), *([allocated_for] if allocated_for else ())}


def _reserved(claim: Object | None) -> list[str]:
    return sorted(one["uid"] for one in ((claim or {}).get("status") or {}).get("reservedFor") or ())
