"""What a pod's claims mean to the engine: asks, and marks on nodes and devices."""

from typing import Any

import pytest

from berth.kubernetes.claims.matching import ClaimError, NoMatch
from berth.kubernetes.claims.needs import (
    ClaimAsk,
    ClaimsNotReady,
    Marks,
    ask_of,
    claims_of,
    device_record,
    in_use,
    is_accelerator,
    marks,
    need_of,
)
from berth.kubernetes.claims.slices import Offers, offers_on, pools_of
from berth.kubernetes.client import Object
from tests.resource_claims import DRIVER, claim, device, device_class, gpus, node, request, resource_slice, wish

CLASSES = {"gpu": device_class(), "nic": device_class("nic", 'device.driver == "nic.example.com"')}
NIC = "nic.example.com"
NEAR = [{"matchAttribute": f"{DRIVER}/numa"}]


def offers(*slices: Object, name: str = "n1") -> Offers:
    return offers_on(node(name), pools_of(slices))


def ids(*names: str, pool: str = "n1") -> frozenset[str]:
    return frozenset(f"{DRIVER}/{pool}/{name}" for name in names)


def a_pod(*claims: str, made: dict[str, str | None] | None = None) -> Object:
    entries: list[Object] = [{"name": one, "resourceClaimName": one} for one in claims]
    entries += [{"name": one, "resourceClaimTemplateName": "t"} for one in made or {}]
    statuses = [{"name": key, "resourceClaimName": value} for key, value in (made or {}).items()]
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u-p"},
        "spec": {"resourceClaims": entries},
        "status": {"resourceClaimStatuses": statuses},
    }


def by_key(*claims: Object) -> dict[str, Object]:
    return {f"default/{one['metadata']['name']}": one for one in claims}


def allocated(one: Object, *devices: str, on: str = "n1", users: tuple[str, ...] = ()) -> Object:
    field = {"key": "metadata.name", "operator": "In", "values": [on]}
    results = [{"request": "gpu", "driver": DRIVER, "pool": on, "device": name} for name in devices]
    return {
        **one,
        "status": {
            "allocation": {
                "devices": {"results": results},
                "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
            },
            "reservedFor": [{"resource": "pods", "name": user, "uid": user} for user in users],
        },
    }


# --- marks ---


def test_every_device_that_may_serve_is_marked() -> None:
    here = offers(resource_slice("n1", [*gpus(3), device("small", memory="16Gi")]))
    big = f'device.capacity["{DRIVER}"].memory.isGreaterThan(quantity("40Gi"))'
    found = marks([claim("c", request("gpu", wish(2, big)))], CLASSES, here, frozenset())
    assert found == Marks(2, ids("gpu-0", "gpu-1", "gpu-2"))


def test_only_one_group_is_marked_where_a_constraint_ties_devices() -> None:
    here = offers(resource_slice("n1", [device(f"gpu-{number}", numa=number % 2) for number in range(6)]))
    wanted = [claim("c", request("gpu", wish(2)), constraints=NEAR)]
    assert marks(wanted, CLASSES, here, frozenset()) == Marks(2, ids("gpu-0", "gpu-2", "gpu-4"))
    assert marks(wanted, CLASSES, here, ids("gpu-0", "gpu-2")) == Marks(2, ids("gpu-1", "gpu-3", "gpu-5"))


def test_accelerators_that_are_taken_are_marked_still_and_cards_have_to_be_free() -> None:
    """Whether somebody makes room for a pod of higher priority is up to the engine, which knows accelerators only."""
    cards = resource_slice("n1", [device("nic-0", model="", memory="")], driver=NIC)
    here = offers(resource_slice("n1", gpus(1)), cards)
    wanted = [claim("c", request("gpu"), request("nic", wish(of="nic")))]
    assert marks(wanted, CLASSES, here, ids("gpu-0")) == Marks(1, ids("gpu-0"))
    assert isinstance(marks(wanted, CLASSES, here, frozenset({f"{NIC}/n1/nic-0"})), NoMatch)


def test_a_need_of_cards_alone_takes_no_accelerator() -> None:
    here = offers(resource_slice("n1", [device("nic-0", model="", memory="")], driver=NIC))
    assert marks([claim("c", request("nic", wish(of="nic")))], CLASSES, here, frozenset()) == Marks(0, frozenset())


# --- asks ---


def test_pods_of_one_template_have_one_need() -> None:
    one, other = claim("a"), claim("b")
    assert need_of([one]) == need_of([other])
    assert need_of([one]) != need_of([one, other])
    assert need_of([one]) != need_of([claim("a", request("gpu", wish(2)))])
    assert need_of([]) == ""


def ask(pod: Object, claims: dict[str, Object], *offered: Offers) -> ClaimAsk:
    return ask_of(pod, claims, CLASSES, in_use(claims.values()), offered)


def label(need: str, devices: int) -> Object:
    return {"key": f"claims.berth.dev/{need}", "operator": "In", "values": [str(devices)]}


def test_an_ask_is_a_number_of_devices_with_the_needs_mark() -> None:
    wanted = claim("c", request("gpu", wish(2)))
    found = ask(a_pod("c"), by_key(wanted), offers(resource_slice("n1", gpus(4))))
    need = need_of([wanted])
    assert found == ClaimAsk(2, need, ({"matchExpressions": [label(need, 2)]},))


def test_the_alternative_that_can_be_had_now_is_asked_for_else_the_first() -> None:
    first = request("gpu", first={"four": wish(4), "one": wish(1)})
    wanted, busy = claim("c", first), allocated(claim("b"), "gpu-0")
    here = offers(resource_slice("n1", gpus(4)))
    assert ask(a_pod("c"), by_key(wanted), here).devices == 4
    assert ask(a_pod("c"), by_key(wanted, busy), here).devices == 1
    full = allocated(claim("f"), "gpu-0", "gpu-1", "gpu-2", "gpu-3")
    assert ask(a_pod("c"), by_key(wanted, full), here).devices == 4
    # What is free on another node goes before what could be made free on this one.
    there = offers(resource_slice("n2", gpus(1)), name="n2")
    assert ask(a_pod("c"), by_key(wanted, full), here, there).devices == 1


def test_an_allocated_claim_ties_the_pod_to_its_nodes() -> None:
    held = allocated(claim("held"), "gpu-0", users=("other",))
    field = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    here = offers(resource_slice("n1", gpus(2)))
    assert ask(a_pod("held"), by_key(held), here) == ClaimAsk(0, "", ({"matchFields": [field]},))
    wanted = claim("c")
    need = need_of([wanted])
    found = ask(a_pod("held", "c"), by_key(held, wanted), here)
    assert found == ClaimAsk(1, need, ({"matchExpressions": [label(need, 1)], "matchFields": [field]},))


@pytest.mark.parametrize(
    ("pod", "claims", "says"),
    [
        (a_pod("c"), [], "waits for claim 'c', which is not there"),
        (a_pod(made={}) | {"spec": {"resourceClaims": [{"name": "x", "resourceClaimTemplateName": "t"}]}}, [],
         "waits for a claim to be made from template 't'"),
        (a_pod("c"), [claim("c", request("gpu", wish(5)))],
         "no node can satisfy the claims: request 'gpu' wants 5 of class gpu: 4 match, 4 free"),
        (a_pod("c"), [allocated(claim("c"), "gpu-0", users=tuple(f"u{n}" for n in range(256)))], "256 pods use"),
    ],
)  # fmt: skip
def test_a_pod_that_waits_for_its_claims_says_for_what(pod: Object, claims: list[Object], says: str) -> None:
    with pytest.raises(ClaimsNotReady) as error:
        ask(pod, by_key(*claims), offers(resource_slice("n1", gpus(4))))
    assert says in str(error.value)


def test_a_claim_of_another_pod_is_not_this_ones() -> None:
    with pytest.raises(ClaimError, match="was not made for this pod"):
        claims_of(a_pod(made={"x": "c"}), by_key(claim("c")))
    # Made, and found not to be needed.
    assert claims_of(a_pod(made={"x": None}), {}) == []


# --- devices ---


@pytest.mark.parametrize(
    ("fields", "is_one", "record"),
    [
        ({}, True, ("H100-SXM", "GPU", "CUDA", 80 << 30, "NVIDIA H100 80GB HBM3")),
        ({"model": "Nobody's chip"}, True, ("", "", "", 80 << 30, "Nobody's chip")),
        ({"model": "", "memory": ""}, False, None),
        # A partition is not its whole: nothing is known of its speed.
        ({"memory": "10Gi", "profile": "1g.10gb", "draws": {"gpu-0": {"slices": 1}}}, True,
         ("", "GPU", "CUDA", 10 << 30, "NVIDIA H100 80GB HBM3 1g.10gb")),
        ({"draws": {"gpu-0": {"slices": 7}}}, True,
         ("H100-SXM", "GPU", "CUDA", 80 << 30, "NVIDIA H100 80GB HBM3")),
    ],
)  # fmt: skip
def test_a_device_of_a_slice_as_one_of_the_fleet(
    fields: dict[str, Any], is_one: bool, record: tuple[object, ...] | None
) -> None:
    counters = [resource_slice("n1", of=2, counters={"gpu-0": {"slices": 7}})] if "draws" in fields else []
    own = resource_slice("n1", [device("d", index=3, numa=1, **fields)], of=1 + len(counters))
    (offer,) = offers(own, *counters).offers
    assert is_accelerator(offer) == is_one
    if record is not None:
        found = device_record(offer, 0)
        assert (found.model, found.device_class, found.stack, found.memory_bytes, found.reported_model) == record
        assert (found.device_id, found.index, found.topology) == (f"{DRIVER}/n1/d", 3, (("numa", "1"),))
