"""Devices of ResourceSlices as devices of the fleet, with the marks by which the engine serves resource claims."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from berth.kubernetes import names
from berth.kubernetes.claims.matching import ClaimError, NoMatch
from berth.kubernetes.claims.needs import NEED_PREFIX, Marks, device_record, is_accelerator, marks
from berth.kubernetes.claims.slices import Offer, Offers, counters_left
from berth.kubernetes.client import Object
from telemetry_ingest.domain.inventory import DeviceRecord
from telemetry_ingest.domain.kubernetes.nodes import NodeFacts, resource_of

__all__ = ["BY_CLAIM", "Need", "foreign_holder", "with_claims"]

BY_CLAIM = "resource-claim"
"""Trait of every device of a slice: the engine gives it only to work that asks for traits."""


@dataclass(frozen=True, slots=True)
class Need:
    """What pods wait for: unallocated claims, by the fingerprint of what they ask for."""

    need: str
    claims: tuple[Object, ...]


def with_claims(
    facts: NodeFacts,
    offers: Offers,
    needs: Iterable[Need],
    classes: Mapping[str, Object],
    taken: frozenset[str],
    holder: Callable[[str], str],
) -> NodeFacts:
    """The node with the accelerators that it is offered, and marked for the needs that can be satisfied on it.

    `holder`: who holds a device outside Berth's ledger, "" for nobody. Devices that a plugin advertises of the same
    kind are the same devices, and not counted twice: a claim says which one is meant, a plugin's count does not.
    """
    accelerators = [offer for offer in offers.offers if is_accelerator(offer) and not offer.left_out]
    labels = dict(facts.labels)
    traits: dict[str, list[str]] = {offer.device_id: [BY_CLAIM] for offer in accelerators}
    if offers.offers:
        for need in needs:
            found = _marks(need, classes, offers, taken)
            if found is not None:
                labels[f"{NEED_PREFIX}{need.need}"] = str(found.devices)
                for device in found.device_ids:
                    traits[device].append(need.need)
    if not accelerators:
        return replace(facts, labels=tuple(sorted(labels.items())))
    records = [
        DeviceRecord(
            device_id=one.device_id,
            index=one.index,
            model=one.model,
            device_class=one.device_class,
            stack=one.stack,
            memory_bytes=one.memory_bytes,
            reported_model=one.reported_model,
            topology=one.topology,
            held_by=_holder(offer, offers, taken, holder),
            traits=tuple(sorted(traits[one.device_id])),
        )
        for position, offer in enumerate(accelerators)
        for one in [device_record(offer, position)]
    ]
    stacks = {record.stack for record in records if record.stack}
    doubled = {resource_of(one.device_id) for one in facts.devices if one.stack in stacks}
    return replace(
        facts,
        labels=tuple(sorted(labels.items())),
        devices=(*(one for one in facts.devices if one.stack not in stacks), *records),
        unavailable=tuple(one for one in facts.unavailable if one[0].replace("/", "-") not in doubled),
    )


def _marks(need: Need, classes: Mapping[str, Object], offers: Offers, taken: frozenset[str]) -> Marks | None:
    """None: the node cannot satisfy it. What nobody can satisfy, the pod is told by whoever took it up."""
    try:
        found = marks(need.claims, classes, offers, taken)
    except ClaimError:
        return None
    return None if isinstance(found, NoMatch) else found


def _holder(offer: Offer, offers: Offers, taken: frozenset[str], holder: Callable[[str], str]) -> str:
    if offer.device_id in taken:
        return holder(offer.device_id)
    if offer.consumes:
        pool, left = (offer.driver, offer.pool), counters_left(offers, taken)
        short = sorted({counter[0] for counter, amount in offer.consumes.items() if left[pool, counter] < amount})
        if short:
            return f"{offer.driver}/{offer.pool}: allocated devices of {short[0]}"
    return ""


def foreign_holder(claims: Sequence[Object]) -> str:
    """Of claims that hold one device: the first that Berth's ledger does not know of, as "<namespace>/<name>"."""
    for claim in claims:
        metadata = claim["metadata"]
        pod = (metadata.get("annotations") or {}).get(names.ALLOCATED_FOR)
        reserved = {one["uid"] for one in (claim.get("status") or {}).get("reservedFor") or ()}
        if pod is None or reserved != {pod}:
            # Another scheduler's; or Berth's, and the pod whose job the ledger has is not, or not alone, its user.
            return f"{metadata['namespace']}/{metadata['name']}"
    return ""
