"""Which devices of one node satisfy claims: an exact search, as kube-scheduler's is.

Requests are served in their order, alternatives (`firstAvailable`) in theirs, devices in the slices' order; the first
whole answer is taken. The search is exhaustive up to `STEPS`, so "none" is the truth, or it says that it gave up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from berth.kubernetes.claims.quantities import parse_quantity
from berth.kubernetes.claims.selectors import SelectorError, qualified
from berth.kubernetes.claims.slices import Offer, Offers, counters_left
from berth.kubernetes.client import Object

__all__ = ["ClaimError", "Grant", "Match", "NoMatch", "match", "tolerates"]

MOST_DEVICES = 32
STEPS = 200_000


class ClaimError(ValueError):
    """A claim that no node can serve, however free: its class is missing, its CEL does not compile or fails, it asks
    for what Berth does not do."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A device for a request; `request` is "<request>/<alternative>" of one with alternatives."""

    request: str
    offer: Offer
    admin: bool = False
    tolerations: tuple[Mapping[str, Any], ...] = ()
    device_class: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """One tuple of grants a claim, in the claims' order."""

    grants: tuple[tuple[Grant, ...], ...]

    @property
    def taken(self) -> frozenset[str]:
        """Ids of the devices that nobody else may have."""
        return frozenset(grant.offer.device_id for one in self.grants for grant in one if not grant.admin)


@dataclass(frozen=True, slots=True)
class NoMatch:
    """`reasons`: a sentence for each request that cannot be served, or why they cannot be served together."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wish:
    """One request, or one of its alternatives."""

    name: str
    parent: str
    device_class: Object
    selectors: tuple[tuple[str, str], ...]
    """Expression, and whose it is."""
    everything: bool
    count: int
    admin: bool
    tolerations: tuple[Mapping[str, Any], ...]
    capacity: Mapping[str, Fraction]

    @property
    def full_name(self) -> str:
        return f"{self.parent}/{self.name}" if self.parent else self.name


@dataclass(slots=True)
class _Search:
    offers: Offers
    in_use: frozenset[str]
    usable: Callable[[Offer, bool], bool]
    wishes: list[tuple[int, list[_Wish]]]
    """Claim's number and the alternatives of each request."""
    constraints: list[list[Object]]
    everything: dict[int, list[Offer]] = field(default_factory=dict)
    """By identity of a wish for all devices: those that its selectors choose."""
    left: dict[tuple[tuple[str, str], tuple[str, str]], Fraction] = field(default_factory=dict)
    """What is left of each counter, by pool and counter."""
    chosen: list[list[tuple[_Wish, Offer]]] = field(default_factory=list)
    steps: int = 0


def match(
    claims: Sequence[Object],
    classes: Mapping[str, Object],
    offers: Offers,
    in_use: frozenset[str] = frozenset(),
    *,
    usable: Callable[[Offer, bool], bool] = lambda offer, admin: True,
) -> Match | NoMatch:
    """Devices for all of `claims`, none of which is allocated yet.

    `in_use`: ids that other claims hold. `usable`: a further say on each device (and whether it is for administration
    only), such as what the engine claimed.
    Raises ClaimError.
    """
    wishes = [(number, _wishes(claim, one, classes)) for number, claim in enumerate(claims) for one in _requests(claim)]
    constraints = [claim["spec"]["devices"].get("constraints") or [] for claim in claims]
    for claim, wanted in zip(claims, constraints, strict=True):
        for constraint in wanted:
            if not constraint.get("matchAttribute") and not constraint.get("distinctAttribute"):
                raise ClaimError(f"{_named(claim)}: a constraint of a kind that Berth does not know")
    search = _Search(offers, in_use, usable, wishes, constraints)
    for _, alternatives in wishes:
        for wish in alternatives:
            if wish.everything and offers.updating:
                name, why = next(iter(offers.updating.items()))
                return NoMatch((f"request {wish.full_name!r} wants all devices, but of pool {name} {why}",))
            if wish.everything:
                search.everything[id(wish)] = [one for one in offers.offers if _selects(wish, one)]
    search.left = counters_left(offers, in_use)
    search.chosen = [[] for _ in claims]
    try:
        found = _serve(search, 0)
    except _GaveUp:
        return NoMatch((f"no choice of devices was found in {STEPS} steps: ask for fewer alternatives",))
    if not found:
        return NoMatch(_why_not(search))
    return Match(
        tuple(
            tuple(
                Grant(wish.full_name, offer, wish.admin, wish.tolerations, wish.device_class["metadata"]["name"])
                for wish, offer in one
            )
            for one in search.chosen
        )
    )


class _GaveUp(Exception):
    pass


def _requests(claim: Object) -> list[Object]:
    return claim["spec"]["devices"].get("requests") or []


def _named(claim: Object) -> str:
    return f"claim {claim['metadata'].get('name', '')}"


def _wishes(claim: Object, request: Object, classes: Mapping[str, Object]) -> list[_Wish]:
    name, exactly, alternatives = request["name"], request.get("exactly"), request.get("firstAvailable")
    if exactly:
        return [_wish(claim, name, "", exactly, classes)]
    if alternatives:
        return [_wish(claim, one["name"], name, one, classes) for one in alternatives]
    raise ClaimError(f"{_named(claim)}: request {name!r} is of a kind that Berth does not know")


def _wish(claim: Object, name: str, parent: str, asked: Object, classes: Mapping[str, Object]) -> _Wish:
    who = f"{_named(claim)}: request {(parent + '/' if parent else '') + name!r}"
    class_name = asked.get("deviceClassName", "")
    device_class = classes.get(class_name)
    if device_class is None:
        raise ClaimError(f"{who}: there is no device class {class_name!r}")
    if asked.get("derivedAttributes"):
        raise ClaimError(f"{who}: derived attributes are not supported")
    selectors = []
    for owner, specs in ((f"class {class_name}", device_class["spec"].get("selectors")), (who, asked.get("selectors"))):
        for number, selector in enumerate(specs or ()):
            expression = (selector.get("cel") or {}).get("expression")
            if not expression:
                raise ClaimError(f"{owner}: selector #{number} is of a kind that Berth does not know")
            selectors.append((expression, f"{owner}: selector #{number}"))
    mode = asked.get("allocationMode", "ExactCount")
    if mode not in ("ExactCount", "All"):
        raise ClaimError(f"{who}: allocation mode {mode!r}: one of ExactCount, All")
    count = int(asked.get("count", 1))
    if count > MOST_DEVICES:
        raise ClaimError(f"{who}: {count} devices: a claim can be given at most {MOST_DEVICES}")
    return _Wish(
        name,
        parent,
        device_class,
        tuple(selectors),
        mode == "All",
        count,
        bool(asked.get("adminAccess")),
        tuple(asked.get("tolerations") or ()),
        {
            capacity: parse_quantity(str(amount))
            for capacity, amount in ((asked.get("capacity") or {}).get("requests") or {}).items()
        },
    )


def _selects(wish: _Wish, offer: Offer) -> bool:
    """Whether class and request choose the device, free or not. Raises ClaimError where CEL fails on it."""
    if offer.left_out:
        return False
    for expression, whose in wish.selectors:
        try:
            if not offer.selected_by(expression):
                return False
        except SelectorError as error:
            raise ClaimError(f"{whose} on device {offer.device_id}: {error}") from error
    return all(
        offer.capacity.get(qualified(name, offer.driver), Fraction(-1)) >= amount
        for name, amount in wish.capacity.items()
    )


def _serve(search: _Search, position: int) -> bool:
    """Serves the requests from `position` on; what it chose stays in `search.chosen` if it could."""
    if position == len(search.wishes):
        return True
    claim, alternatives = search.wishes[position]
    for wish in alternatives:
        count = len(search.everything[id(wish)]) if wish.everything else wish.count
        if count == 0 or len(search.chosen[claim]) + count > MOST_DEVICES:
            continue
        if _choose(search, position, wish, count, 0):
            return True
    return False


def _choose(search: _Search, position: int, wish: _Wish, count: int, start: int) -> bool:
    """`count` more devices for the wish among its candidates from `start` on, then the requests after it."""
    if count == 0:
        return _serve(search, position + 1)
    claim = search.wishes[position][0]
    candidates: Sequence[Offer] = search.everything[id(wish)] if wish.everything else search.offers.offers
    # A set of devices is tried in one order only: the others are the same answer.
    for number in range(start, len(candidates) - count + 1):
        search.steps += 1
        if search.steps > STEPS:
            raise _GaveUp
        offer = candidates[number]
        if _fits(search, claim, wish, offer):
            _take(search, offer, -1)
            search.chosen[claim].append((wish, offer))
            if _choose(search, position, wish, count - 1, number + 1):
                return True
            search.chosen[claim].pop()
            _take(search, offer, 1)
    return False


def _take(search: _Search, offer: Offer, sign: int) -> None:
    pool = (offer.driver, offer.pool)
    for counter, amount in offer.consumes.items():
        search.left[pool, counter] += sign * amount


def _fits(search: _Search, claim: int, wish: _Wish, offer: Offer) -> bool:
    if not search.usable(offer, wish.admin):
        return False
    # Only a device that could be had is asked about: CEL that would fail on another one does no harm.
    chosen = search.chosen[claim]
    if wish.admin:
        if any(other.device_id == offer.device_id for _, other in chosen):
            return False
    elif not _free(search, offer):
        return False
    if not wish.everything and not _selects(wish, offer):
        return False
    pool = (offer.driver, offer.pool)
    if any(search.left[pool, counter] < amount for counter, amount in offer.consumes.items()):
        return False
    if not all(tolerates(wish.tolerations, taint) for taint in offer.taints):
        return False
    return all(_within(constraint, wish, offer, chosen) for constraint in search.constraints[claim])


def _free(search: _Search, offer: Offer) -> bool:
    return offer.device_id not in search.in_use and not any(
        other.device_id == offer.device_id for one in search.chosen for _, other in one
    )


def _within(constraint: Object, wish: _Wish, offer: Offer, chosen: Sequence[tuple[_Wish, Offer]]) -> bool:
    if not _concerns(constraint, wish):
        return True
    attribute = constraint.get("matchAttribute") or constraint["distinctAttribute"]
    value = offer.attributes.get(attribute)
    if value is None:
        return False
    others = [other.attributes.get(attribute) for held, other in chosen if _concerns(constraint, held)]
    if constraint.get("matchAttribute"):
        return all(_same(value, other) for other in others)
    return not any(_same(value, other) for other in others)


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def _concerns(constraint: Object, wish: _Wish) -> bool:
    named = constraint.get("requests") or ()
    return not named or wish.full_name in named or (wish.parent or wish.name) in named


def tolerates(tolerations: Sequence[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    """Also true for a taint that keeps nothing away."""
    if taint.get("effect") not in ("NoSchedule", "NoExecute"):
        return True
    for one in tolerations:
        if one.get("effect") and one["effect"] != taint["effect"]:
            continue
        if one.get("key") and one["key"] != taint.get("key"):
            continue
        if one.get("operator", "Equal") == "Exists" or one.get("value", "") == taint.get("value", ""):
            return True
    return False


def _selected(wish: _Wish, offers: Offers) -> list[Offer]:
    """For the reasons: devices on which CEL fails are left out."""
    found = []
    for offer in offers.offers:
        with suppress(ClaimError):
            if _selects(wish, offer):
                found.append(offer)
    return found


def _why_not(search: _Search) -> tuple[str, ...]:
    reasons = tuple(_shortages(search))
    if reasons:
        return reasons
    if any(search.constraints):
        return ("no choice of free devices satisfies the claim's constraints together",)
    return ("its requests cannot be served together by the devices that are free",)


def _shortages(search: _Search) -> Iterator[str]:
    """Requests of which no alternative could be served even alone, constraints apart."""
    search.chosen = [[] for _ in search.constraints]
    for _, alternatives in search.wishes:
        told = []
        for wish in alternatives:
            selected = search.everything.get(id(wish)) or _selected(wish, search.offers)
            tolerated = [one for one in selected if all(tolerates(wish.tolerations, taint) for taint in one.taints)]
            free = [
                one
                for one in tolerated
                if search.usable(one, wish.admin)
                and (wish.admin or _free(search, one))
                and all(search.left[(one.driver, one.pool), key] >= amount for key, amount in one.consumes.items())
            ]
            if len(free) >= (max(1, len(selected)) if wish.everything else wish.count):
                break
            wanted = "all" if wish.everything else str(wish.count)
            tainted = f", {len(selected) - len(tolerated)} of them tainted" if len(tolerated) < len(selected) else ""
            told.append(
                f"request {wish.full_name!r} wants {wanted} of class {wish.device_class['metadata']['name']}: "
                f"{len(selected)} match{tainted}, {len(free)} free"
            )
        else:
            yield "; ".join(told)
