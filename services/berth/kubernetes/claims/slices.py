"""ResourceSlices: which devices a driver offers on a node, and what they share.

Only the newest generation of a pool counts, and only once all of its slices are there (`resourceSliceCount`).
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from berth.kubernetes.claims.quantities import parse_quantity
from berth.kubernetes.claims.selectors import Selector, attribute_value, qualified
from berth.kubernetes.client import Object

__all__ = ["Offer", "Offers", "Pool", "counters_left", "device_id", "offers_on", "pools_of", "selector_matches"]

Counters = Mapping[tuple[str, str], Fraction]
"""By counter set and counter."""

# Kinds of devices and slices that Berth does not allocate, and says so.
SHARED = "it may be allocated several times (allowMultipleAllocations), which Berth does not do"
CONDITIONAL = "it has binding conditions, which Berth does not wait for"


@dataclass(frozen=True, slots=True)
class Offer:
    """A device as its slice offers it. Attributes and capacity by name with domain; `left_out`: why Berth never
    allocates it, "" if it does."""

    driver: str
    pool: str
    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    capacity: Mapping[str, Fraction] = field(default_factory=dict)
    taints: tuple[Mapping[str, Any], ...] = ()
    consumes: Counters = field(default_factory=dict)
    node_name: str = ""
    node_selector: Mapping[str, Any] | None = None
    left_out: str = ""
    selected: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)
    """What expressions said of it: an offer never changes, so each is asked once."""

    @property
    def device_id(self) -> str:
        return device_id(self.driver, self.pool, self.name)

    @property
    def local(self) -> bool:
        """On one node, not reached over a network."""
        return bool(self.node_name)

    def selected_by(self, expression: str) -> bool:
        """Raises SelectorError."""
        known = self.selected.get(expression)
        if known is None:
            known = self.selected[expression] = Selector.of(expression).matches(
                self.driver, self.attributes, self.capacity
            )
        return known


def device_id(driver: str, pool: str, device: str) -> str:
    return f"{driver}/{pool}/{device}"


@dataclass(frozen=True, slots=True)
class Pool:
    """`broken`: why nothing can be allocated from it at present, "" if it can."""

    driver: str
    name: str
    offers: tuple[Offer, ...] = ()
    counters: Counters = field(default_factory=dict)
    broken: str = ""
    whole: bool = True
    """False: slices of its newest generation are missing."""
    reaches: tuple[Object, ...] = ()
    """The specs of its slices: where it is."""

    def concerns(self, node: Object) -> bool:
        return any(spec.get("sharedCounters") or _slice_reaches(spec, node) for spec in self.reaches)


@dataclass(frozen=True, slots=True)
class Offers:
    """What pools offer to one node. `updating`: pools that are not whole or not valid, by "<driver>/<pool>"."""

    offers: tuple[Offer, ...] = ()
    counters: Mapping[tuple[str, str], Counters] = field(default_factory=dict)
    """By driver and pool: what all of the pool's devices share."""
    consumers: Mapping[str, tuple[tuple[str, str], Counters]] = field(default_factory=dict)
    """Every device that draws on counters, here or on another node, by id: its pool and what it draws."""
    updating: Mapping[str, str] = field(default_factory=dict)


def counters_left(offers: Offers, taken: AbstractSet[str]) -> dict[tuple[tuple[str, str], tuple[str, str]], Fraction]:
    """By pool and counter: what devices that are taken leave of it. Below 0: too much was allocated."""
    left = {(pool, key): amount for pool, counters in offers.counters.items() for key, amount in counters.items()}
    for device, (pool, consumes) in offers.consumers.items():
        if device in taken:
            for key, amount in consumes.items():
                left[pool, key] -= amount
    return left


def pools_of(slices: Iterable[Object], rules: Iterable[Object] = ()) -> list[Pool]:
    """`rules`: DeviceTaintRules, whose taints count as the devices' own."""
    rules = tuple(rules)
    newest: dict[tuple[str, str], list[Object]] = {}
    for one in slices:
        spec = one["spec"]
        key = (spec["driver"], spec["pool"]["name"])
        known = newest.get(key)
        if known is None or spec["pool"]["generation"] > known[0]["pool"]["generation"]:
            newest[key] = [spec]
        elif spec["pool"]["generation"] == known[0]["pool"]["generation"]:
            known.append(spec)
    return [_pool(driver, name, newest[driver, name], rules) for driver, name in sorted(newest)]


def _pool(driver: str, name: str, specs: list[Object], rules: Sequence[Object]) -> Pool:
    wanted = int(specs[0]["pool"].get("resourceSliceCount", 0))
    reaches = tuple(specs)
    if len(specs) != wanted:
        why = f"{len(specs)} of its {wanted} slices are there"
        return Pool(driver, name, broken=why, whole=False, reaches=reaches)
    if any(
        consumption.get("compatibilityGroups")
        for spec in specs
        for device in spec.get("devices") or ()
        for consumption in device.get("consumesCounters") or ()
    ):
        return Pool(driver, name, broken="its devices have compatibility groups", whole=False, reaches=reaches)
    try:
        counters: dict[tuple[str, str], Fraction] = {}
        for spec in specs:
            for shared in spec.get("sharedCounters") or ():
                for counter, amount in (shared.get("counters") or {}).items():
                    if (shared["name"], counter) in counters:
                        raise ValueError(f"counter set {shared['name']!r} stands twice")
                    counters[shared["name"], counter] = parse_quantity(str(amount["value"]))
        offers = [_offer(driver, name, spec, device, rules) for spec in specs for device in spec.get("devices") or ()]
        names = [offer.name for offer in offers]
        if len(set(names)) != len(names):
            raise ValueError(f"device name {next(one for one in names if names.count(one) > 1)!r} stands twice")
        for offer in offers:
            for key in offer.consumes:
                if key not in counters:
                    raise ValueError(f"device {offer.name!r} draws on counter {'/'.join(key)}, which is not there")
    except (ValueError, KeyError, TypeError) as error:
        return Pool(driver, name, broken=f"it is not valid: {error}", reaches=reaches)
    return Pool(driver, name, tuple(offers), counters, reaches=reaches)


def _offer(driver: str, pool: str, spec: Object, device: Object, rules: Sequence[Object]) -> Offer:
    where = device if spec.get("perDeviceNodeSelection") else spec
    consumes: dict[tuple[str, str], Fraction] = {}
    for consumption in device.get("consumesCounters") or ():
        for counter, amount in (consumption.get("counters") or {}).items():
            consumes[consumption["counterSet"], counter] = parse_quantity(str(amount["value"]))
    return Offer(
        driver,
        pool,
        device["name"],
        attributes={
            qualified(name, driver): attribute_value(one) for name, one in (device.get("attributes") or {}).items()
        },
        capacity={
            qualified(name, driver): parse_quantity(str(one["value"]))
            for name, one in (device.get("capacity") or {}).items()
        },
        taints=(*(device.get("taints") or ()), *_taints_of(rules, driver, pool, device["name"])),
        consumes=consumes,
        node_name=where.get("nodeName") or "",
        node_selector=where.get("nodeSelector"),
        left_out=SHARED if device.get("allowMultipleAllocations")
        else CONDITIONAL if device.get("bindingConditions")
        else "",
    )  # fmt: skip


def _taints_of(rules: Iterable[Object], driver: str, pool: str, device: str) -> list[Mapping[str, Any]]:
    """An empty selector means every device, none no device."""
    own = {"driver": driver, "pool": pool, "device": device}
    return [
        rule["spec"]["taint"]
        for rule in rules
        if (selector := rule["spec"].get("deviceSelector")) is not None
        and all(value is None or own.get(key) == value for key, value in selector.items())
    ]


def offers_on(node: Object, pools: Iterable[Pool]) -> Offers:
    """What the node may use, in the pools' and slices' order."""
    offers: list[Offer] = []
    counters: dict[tuple[str, str], Counters] = {}
    consumers: dict[str, tuple[tuple[str, str], Counters]] = {}
    updating: dict[str, str] = {}
    for pool in pools:
        if pool.broken:
            if pool.concerns(node):
                updating[f"{pool.driver}/{pool.name}"] = pool.broken
            continue
        here = [offer for offer in pool.offers if _reaches(offer, node, pool)]
        if not here:
            continue
        offers += here
        if pool.counters:
            key = (pool.driver, pool.name)
            counters[key] = pool.counters
            consumers |= {offer.device_id: (key, offer.consumes) for offer in pool.offers if offer.consumes}
    return Offers(tuple(offers), counters, consumers, updating)


def _reaches(offer: Offer, node: Object, pool: Pool) -> bool:
    if offer.node_name:
        return bool(offer.node_name == node["metadata"]["name"])
    if offer.node_selector is not None:
        return selector_matches(offer.node_selector, node)
    return any(spec.get("allNodes") or spec.get("perDeviceNodeSelection") for spec in pool.reaches)


def _slice_reaches(spec: Object, node: Object) -> bool:
    if spec.get("perDeviceNodeSelection"):
        return any(_slice_reaches(device, node) for device in spec.get("devices") or ())
    if spec.get("nodeName"):
        return bool(spec["nodeName"] == node["metadata"]["name"])
    if spec.get("nodeSelector"):
        return selector_matches(spec["nodeSelector"], node)
    return bool(spec.get("allNodes"))


def selector_matches(selector: Mapping[str, Any], node: Object) -> bool:
    """A v1.NodeSelector: any of its terms, each all of its requirements. A term without any matches nothing."""
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    for term in selector.get("nodeSelectorTerms") or ():
        wanted = [(labels, one) for one in term.get("matchExpressions") or ()]
        wanted += [(fields, one) for one in term.get("matchFields") or ()]
        if wanted and all(_holds(values, one) for values, one in wanted):
            return True
    return False


def _holds(values: Mapping[str, str], requirement: Mapping[str, Any]) -> bool:
    value = values.get(requirement["key"])
    wanted: list[str] = requirement.get("values") or []
    match requirement["operator"]:
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    try:
        left, right = int(value or ""), int("".join(wanted))
    except ValueError:
        return False
    return left > right if requirement["operator"] == "Gt" else left < right
