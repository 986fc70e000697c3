"""What a pod's claims mean to the engine: an ask that it understands, and the marks by which it finds devices.

The engine knows accelerators by model and counts them. A claim may ask for anything CEL can say, over several
requests, with constraints. So whoever reads the slices into the fleet (telemetry-ingest) works out for every node
whether the pod's claims can be satisfied there, by the exact search, and marks what they would take:

- a node where they can has the label `claims.berth.dev/<need>` whose value is the number of accelerators they take;
- the accelerators that they may take carry the need among their `traits`. Where constraints tie devices together,
  only one group of devices is marked that satisfies them, so that any of its devices go together.

A need is a fingerprint of the unallocated claims' requests: the pods of one template share it. Devices that are no
accelerators (network cards and the like) stay out of the engine's ledger; the binder chooses them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from berth import catalogue
from berth.kubernetes.claims.allocation import MOST_CONSUMERS, allocated_devices, is_reserved_for, node_terms
from berth.kubernetes.claims.matching import ClaimError, Match, NoMatch, match
from berth.kubernetes.claims.slices import Offer, Offers
from berth.kubernetes.client import Object

__all__ = [
    "NEED_PREFIX",
    "ClaimAsk",
    "ClaimsNotReady",
    "FleetDevice",
    "Marks",
    "accelerator_of",
    "ask_of",
    "claims_of",
    "device_record",
    "in_use",
    "is_accelerator",
    "marks",
    "need_of",
    "unallocated",
]

NEED_PREFIX = "claims.berth.dev/"
# What drivers call the model of a device, best first.
MODEL_ATTRIBUTES = ("productName", "model", "product", "deviceType", "type", "architecture")
# Level within the node to the attributes that tell it.
TOPOLOGY_ATTRIBUTES = {
    "numa": ("resource.kubernetes.io/numaNode", "numa", "numaNode"),
    "link": ("resource.kubernetes.io/pcieRoot", "pcieRoot"),
}


class ClaimsNotReady(Exception):
    """The pod waits for its claims, not for devices: one is not made yet, is going away, or is full."""


@dataclass(frozen=True, slots=True)
class ClaimAsk:
    """What the engine is to be asked. `devices` accelerators a pod, each with the trait `need`, on a node with one of
    `terms` (v1.NodeSelectorTerm; none: any node). `need` "": every claim is allocated already, no device is asked."""

    devices: int = 0
    need: str = ""
    terms: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class FleetDevice:
    """An accelerator of a slice as the fleet has it. A partition has no model of the catalogue: nothing is known of
    its speed, and it must not count as the whole device. Bytes."""

    device_id: str
    index: int
    model: str = ""
    device_class: str = ""
    stack: str = ""
    memory_bytes: int = 0
    reported_model: str = ""
    topology: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Marks:
    """Of one node for one need: accelerators that the claims take there, and which of them may be taken."""

    devices: int
    device_ids: frozenset[str]


def claims_of(pod: Object, claims: Mapping[str, Object]) -> list[Object]:
    """The pod's claims, by "<namespace>/<name>", in its order. Raises ClaimsNotReady, and ClaimError for a claim
    that is another pod's."""
    namespace = pod["metadata"].get("namespace", "default")
    statuses = {one["name"]: one for one in (pod.get("status") or {}).get("resourceClaimStatuses") or ()}
    found = []
    for entry in pod["spec"].get("resourceClaims") or ():
        name = entry.get("resourceClaimName")
        if not name:
            if entry["name"] not in statuses:
                template = entry.get("resourceClaimTemplateName", "")
                raise ClaimsNotReady(f"waits for a claim to be made from template {template!r}")
            name = statuses[entry["name"]].get("resourceClaimName")
            if not name:
                continue  # made, and found not to be needed
        claim = claims.get(f"{namespace}/{name}")
        if claim is None:
            raise ClaimsNotReady(f"waits for claim {name!r}, which is not there")
        if claim["metadata"].get("deletionTimestamp"):
            raise ClaimsNotReady(f"waits for claim {name!r}, which is being deleted")
        owner = next((one for one in claim["metadata"].get("ownerReferences") or () if one.get("controller")), None)
        if not entry.get("resourceClaimName") and (owner is None or owner.get("uid") != pod["metadata"]["uid"]):
            raise ClaimError(f"claim {name!r} was not made for this pod")
        found.append(claim)
    return found


def need_of(unallocated: Sequence[Object]) -> str:
    """The fingerprint of claims that wait for devices; "" of none."""
    asked = [
        {key: claim["spec"]["devices"].get(key) or [] for key in ("requests", "constraints")} for claim in unallocated
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16] if asked else ""


def unallocated(claims: Iterable[Object]) -> list[Object]:
    return [claim for claim in claims if not (claim.get("status") or {}).get("allocation")]


def in_use(claims: Iterable[Object]) -> frozenset[str]:
    """Ids of the devices that allocated claims hold."""
    return frozenset(device for claim in claims for device in allocated_devices(claim))


def accelerator_of(offer: Offer) -> catalogue.Accelerator | None:
    """The catalogue's entry of a device by the attributes that drivers tell its model with."""
    for name in MODEL_ATTRIBUTES:
        value = offer.attributes.get(f"{offer.driver}/{name}")
        if isinstance(value, str) and (entry := catalogue.by_name(value) or catalogue.resolve(value)) is not None:
            return entry
    return None


def device_record(offer: Offer, position: int) -> "FleetDevice":
    """`position`: among the node's, its index where its attributes and name tell none."""
    entry = accelerator_of(offer)
    product = next(
        (
            value
            for name in MODEL_ATTRIBUTES
            if isinstance(value := offer.attributes.get(f"{offer.driver}/{name}"), str)
        ),
        "",
    )
    profile = offer.attributes.get(f"{offer.driver}/profile")
    cut = f" {profile}" if isinstance(profile, str) else " (partition)" if offer.consumes else ""
    whole = not cut or (entry is not None and (entry.memory_bytes or 0) <= _memory(offer))
    index = next(
        (
            value
            for name in ("index", "minor")
            if isinstance(value := offer.attributes.get(f"{offer.driver}/{name}"), int) and not isinstance(value, bool)
        ),
        position,
    )
    topology: dict[str, str] = {}
    for level, attributes in TOPOLOGY_ATTRIBUTES.items():
        for name in attributes:
            value = offer.attributes.get(name if "/" in name else f"{offer.driver}/{name}")
            if value is not None and not isinstance(value, tuple):
                topology.setdefault(level, str(value))
    return FleetDevice(
        offer.device_id,
        index,
        model=entry.name if entry is not None and whole else "",
        device_class=entry.device_class if entry else "",
        stack=entry.stack if entry else "",
        memory_bytes=_memory(offer),
        reported_model=product + ("" if whole else cut),
        topology=tuple(sorted(topology.items())),
    )


def _memory(offer: Offer) -> int:
    return int(offer.capacity.get(f"{offer.driver}/memory", 0))


def is_accelerator(offer: Offer) -> bool:
    """True: the engine's ledger has it. A device on a node that the catalogue knows, or with memory of its own."""
    return offer.local and (f"{offer.driver}/memory" in offer.capacity or accelerator_of(offer) is not None)


def marks(
    claims: Sequence[Object],
    classes: Mapping[str, Object],
    offers: Offers,
    taken: frozenset[str],
) -> Marks | NoMatch:
    """What a node is marked with for pods that want `claims`, none of which is allocated. Raises ClaimError.

    An accelerator that is taken counts as free in the end: who holds it, and whether they make room, is the engine's
    knowledge. Devices that the engine does not know have to be free.
    """
    found = match(claims, classes, offers, taken)
    if isinstance(found, NoMatch):
        known = {offer.device_id for offer in offers.offers if is_accelerator(offer)}
        found = match(claims, classes, offers, taken - known)
    if isinstance(found, NoMatch):
        return found
    chosen = [(number, grant) for number, grants in enumerate(found.grants) for grant in grants]
    counted = [(number, grant) for number, grant in chosen if is_accelerator(grant.offer) and not grant.admin]
    allowed = set()
    for offer in offers.offers:
        if is_accelerator(offer) and any(_instead(claims[number], grant.offer, offer) for number, grant in counted):
            allowed.add(offer.device_id)
    selected = _selected_by(claims, classes, offers, found)
    return Marks(len(counted), frozenset((allowed & selected) | {grant.offer.device_id for _, grant in counted}))


def _instead(claim: Object, chosen: Offer, other: Offer) -> bool:
    """`other` has whatever the claim's constraints look at as `chosen` has it."""
    return all(
        chosen.attributes.get(name) == other.attributes.get(name)
        for constraint in claim["spec"]["devices"].get("constraints") or ()
        if (name := constraint.get("matchAttribute"))
    )


def _selected_by(
    claims: Sequence[Object], classes: Mapping[str, Object], offers: Offers, found: Match
) -> frozenset[str]:
    """Devices that could stand in for one of the chosen, each looked at alone: class, selectors, taints."""
    ids: set[str] = set()
    for number, grants in enumerate(found.grants):
        for request in dict.fromkeys(grant.request for grant in grants if is_accelerator(grant.offer)):
            alone = _alone(claims[number], request)
            for offer in offers.offers:
                if offer.device_id not in ids and isinstance(
                    match([alone], classes, Offers((offer,), offers.counters)), Match
                ):
                    ids.add(offer.device_id)
    return frozenset(ids)


def _alone(claim: Object, request: str) -> Object:
    """A claim for one device of that request, without constraints."""
    name, _, alternative = request.partition("/")
    asked = next(one for one in claim["spec"]["devices"]["requests"] if one["name"] == name)
    exactly = asked.get("exactly") or next(one for one in asked["firstAvailable"] if one["name"] == alternative)
    wanted = {key: value for key, value in exactly.items() if key not in ("name", "allocationMode", "count")}
    return {
        "metadata": claim["metadata"],
        "spec": {"devices": {"requests": [{"name": name, "exactly": {**wanted, "count": 1}}]}},
    }


def ask_of(
    pod: Object,
    claims: Mapping[str, Object],
    classes: Mapping[str, Object],
    taken: frozenset[str],
    offered: Iterable[Offers],
) -> ClaimAsk:
    """What to ask the engine for a pod with claims. `taken`: devices that claims hold; `offered`: to each node; as
    many are looked at as it takes to find one where the claims can be satisfied now.

    Raises ClaimsNotReady, and ClaimError where no node can ever serve them.
    """
    mine = claims_of(pod, claims)
    terms: list[Mapping[str, Any]] = []
    for claim in mine:
        if not (claim.get("status") or {}).get("allocation"):
            continue
        if not is_reserved_for(claim, pod) and len(claim["status"].get("reservedFor") or ()) >= MOST_CONSUMERS:
            raise ClaimsNotReady(f"waits for claim {claim['metadata']['name']!r}, which {MOST_CONSUMERS} pods use")
        wanted = node_terms(claim)
        terms = _both(terms, wanted) if terms and wanted else wanted or terms
    waiting = unallocated(mine)
    need = need_of(waiting)
    if not need:
        return ClaimAsk(terms=tuple(terms))
    counts: dict[int, None] = {}
    free: int | None = None
    reasons: dict[str, None] = {}
    for offers in offered:
        found = marks(waiting, classes, offers, taken)
        if isinstance(found, NoMatch):
            reasons |= dict.fromkeys(found.reasons)
            continue
        counts.setdefault(found.devices)
        if isinstance(match(waiting, classes, offers, taken), Match):
            free = found.devices
            break
    devices = free if free is not None else next(iter(counts), None)
    if devices is None:
        said = "; ".join(list(reasons)[:3]) or "no node is offered a device"
        raise ClaimsNotReady(f"no node can satisfy the claims: {said}")
    label = {"key": f"{NEED_PREFIX}{need}", "operator": "In", "values": [str(devices)]}
    marked: list[Mapping[str, Any]] = [{"matchExpressions": [label]}]
    return ClaimAsk(devices, need, tuple(_both(terms, marked) if terms else marked))


def _both(some: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Terms that hold where one of each holds."""
    return [
        {
            kind: [*(one.get(kind) or ()), *(other.get(kind) or ())]
            for kind in ("matchExpressions", "matchFields")
            if one.get(kind) or other.get(kind)
        }
        for one in some
        for other in others
    ]
