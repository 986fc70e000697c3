"""Claims on the devices of one node: the search is exact, and says why there is none."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.kubernetes.claims.allocation import allocation_of
from berth.kubernetes.claims.matching import ClaimError, Match, NoMatch, match
from berth.kubernetes.claims.slices import Offers, offers_on, pools_of
from berth.kubernetes.client import Object
from tests.resource_claims import (
    DRIVER,
    claim,
    device,
    device_class,
    gpus,
    node,
    request,
    resource_slice,
    wish,
)

CLASSES = {"gpu": device_class(), "nic": device_class("nic", 'device.driver == "nic.example.com"')}
NUMA = f"{DRIVER}/numa"


def offers(*slices: Object) -> Offers:
    return offers_on(node("n1"), pools_of(slices))


def names(found: Match | NoMatch) -> list[tuple[str, str]]:
    assert isinstance(found, Match), found
    return [(grant.request, grant.offer.name) for one in found.grants for grant in one]


def test_devices_are_taken_in_the_slices_order_and_only_the_free() -> None:
    here = offers(resource_slice("n1", gpus(4)))
    taken = frozenset({f"{DRIVER}/n1/gpu-1"})
    found = match([claim("a", request("gpu", wish(2)))], CLASSES, here, taken)
    assert names(found) == [("gpu", "gpu-0"), ("gpu", "gpu-2")]
    refused = match([claim("a", request("gpu", wish(4)))], CLASSES, here, taken)
    assert refused == NoMatch(("request 'gpu' wants 4 of class gpu: 4 match, 3 free",))


def test_several_claims_share_nothing() -> None:
    here = offers(resource_slice("n1", gpus(2)))
    assert names(match([claim("a"), claim("b")], CLASSES, here)) == [("gpu", "gpu-0"), ("gpu", "gpu-1")]
    assert isinstance(match([claim("a"), claim("b"), claim("c")], CLASSES, here), NoMatch)


def test_the_first_alternative_that_goes_with_the_rest_is_taken() -> None:
    here = offers(resource_slice("n1", [*gpus(2), device("small", model="NVIDIA A2", memory="16Gi")]))
    big = f'device.capacity["{DRIVER}"].memory.isGreaterThan(quantity("40Gi"))'
    first = request("gpu", first={"two-big": wish(2, big), "any": wish(1)})
    assert names(match([claim("a", first)], CLASSES, here)) == [("gpu/two-big", "gpu-0"), ("gpu/two-big", "gpu-1")]
    both = [claim("a", first, request("more", wish(1, big)))]
    assert names(match(both, CLASSES, here)) == [("gpu/any", "gpu-0"), ("more", "gpu-1")]


def test_all_means_all_of_them() -> None:
    here = offers(resource_slice("n1", gpus(3)))
    everything = [claim("a", request("gpu", wish(everything=True)))]
    assert len(names(match(everything, CLASSES, here))) == 3
    assert isinstance(match(everything, CLASSES, here, frozenset({f"{DRIVER}/n1/gpu-1"})), NoMatch)
    assert isinstance(match(everything, CLASSES, offers()), NoMatch)


def test_a_pool_that_is_not_whole_gives_nothing() -> None:
    half = resource_slice("n1", gpus(2), of=2)
    assert offers(half).offers == ()
    assert offers(half).updating == {f"{DRIVER}/n1": "1 of its 2 slices are there"}
    # The older generation is whole, and over.
    assert offers(half | {"spec": half["spec"] | {"pool": {"name": "n1", "generation": 2, "resourceSliceCount": 2}}},
                  resource_slice("n1", gpus(4))).offers == ()  # fmt: skip
    nics = resource_slice("n1", [device("nic-0", model="", memory="")], driver="nic.example.com")
    refused = match([claim("a", request("all", wish(of="nic", everything=True)))], CLASSES, offers(half, nics))
    assert isinstance(refused, NoMatch)
    assert "1 of its 2 slices" in refused.reasons[0]
    assert names(match([claim("a", request("nic", wish(of="nic")))], CLASSES, offers(half, nics))) == [("nic", "nic-0")]


def test_only_the_newest_generation_counts() -> None:
    old, new = resource_slice("n1", gpus(4)), resource_slice("n1", gpus(1), generation=2)
    assert [one.name for one in offers(new, old).offers] == ["gpu-0"]
    assert [one.name for one in offers(old, new).offers] == ["gpu-0"]


def test_devices_elsewhere_are_not_offered() -> None:
    everywhere = resource_slice("", [device("net", model="", memory="")], pool="net")
    everywhere["spec"] |= {"allNodes": True}
    del everywhere["spec"]["nodeName"]
    racked = resource_slice("", [device("racked", model="", memory="")], pool="rack")
    del racked["spec"]["nodeName"]
    racked["spec"]["nodeSelector"] = {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "rack", "operator": "In", "values": ["r1"]}]}]
    }
    pools = pools_of([everywhere, racked, resource_slice("n2", gpus(1))])
    assert [one.name for one in offers_on(node("n1"), pools).offers] == ["net"]
    assert [one.name for one in offers_on(node("n1", rack="r1"), pools).offers] == ["net", "racked"]
    assert [one.name for one in offers_on(node("n2"), pools).offers] == ["gpu-0", "net"]


def test_constraints_hold_over_several_requests() -> None:
    here = offers(
        resource_slice("n1", [device("gpu-0", numa=0), device("gpu-1", numa=1), device("gpu-2", numa=1)]),
        resource_slice(
            "n1", [device("nic-0", model="", memory="", **{f"{DRIVER}__numa": 1})], driver="nic.example.com"
        ),
    )
    together = [{"matchAttribute": NUMA}]
    pair = claim("a", request("gpu"), request("nic", wish(of="nic")), constraints=together)
    assert names(match([pair], CLASSES, here)) == [("gpu", "gpu-1"), ("nic", "nic-0")]
    three = claim("a", request("gpu", wish(3)), constraints=together)
    assert match([three], CLASSES, here) == NoMatch(
        ("no choice of free devices satisfies the claim's constraints together",)
    )
    apart = claim("a", request("gpu", wish(2)), constraints=[{"distinctAttribute": NUMA, "requests": ["gpu"]}])
    assert names(match([apart], CLASSES, here)) == [("gpu", "gpu-0"), ("gpu", "gpu-1")]
    # A device without the attribute cannot be under the constraint.
    assert isinstance(match([claim("a", constraints=[{"matchAttribute": "x/y"}])], CLASSES, here), NoMatch)


def test_taints_keep_off_what_does_not_tolerate_them() -> None:
    taint = {"key": "sick", "value": "hot", "effect": "NoSchedule"}
    here = offers(
        resource_slice("n1", [device("gpu-0", taints=[taint]), device("gpu-1", taints=[{**taint, "effect": "None"}])])
    )
    assert names(match([claim("a")], CLASSES, here)) == [("gpu", "gpu-1")]
    refused = match([claim("a", request("gpu", wish(2)))], CLASSES, here)
    assert refused == NoMatch(("request 'gpu' wants 2 of class gpu: 2 match, 1 of them tainted, 1 free",))
    for toleration, will_do in (
        ({"key": "sick", "operator": "Exists"}, True),
        ({"key": "sick", "operator": "Equal", "value": "hot"}, True),
        ({"key": "sick", "operator": "Equal", "value": "cold"}, False),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
        ({"operator": "Exists"}, True),
    ):
        found = match([claim("a", request("gpu", wish(2, tolerations=[toleration])))], CLASSES, here)
        assert isinstance(found, Match) == will_do, toleration


MIG = resource_slice(
    "n1",
    [
        device("whole", draws={"gpu-0": {"slices": 7, "memory": "80Gi"}}),
        device("three", memory="40Gi", draws={"gpu-0": {"slices": 3, "memory": "40Gi"}}),
        device("four", memory="40Gi", draws={"gpu-0": {"slices": 4, "memory": "40Gi"}}),
        device("one", memory="10Gi", draws={"gpu-0": {"slices": 1, "memory": "10Gi"}}),
    ],
    of=2,
)
COUNTERS = resource_slice("n1", of=2, counters={"gpu-0": {"slices": 7, "memory": "80Gi"}})


def test_partitions_that_draw_on_the_same_counters_do_not_overlap() -> None:
    here = offers(MIG, COUNTERS)
    half = f'device.capacity["{DRIVER}"].memory == quantity("40Gi")'
    both = [claim("a", request("half", wish(2, half)))]
    assert names(match(both, CLASSES, here)) == [("half", "three"), ("half", "four")]
    assert isinstance(match([*both, claim("b")], CLASSES, here), NoMatch)
    taken = frozenset({f"{DRIVER}/n1/one"})
    assert names(match([claim("a")], CLASSES, here, taken)) == [("gpu", "three")]
    assert isinstance(match(both, CLASSES, here, taken), NoMatch)
    assert match([claim("a")], CLASSES, here, frozenset({f"{DRIVER}/n1/whole"})) == NoMatch(
        ("request 'gpu' wants 1 of class gpu: 4 match, 0 free",)
    )


def test_a_pool_whose_counters_are_wrong_gives_nothing() -> None:
    other = resource_slice("n1", of=2, counters={"gpu-1": {"slices": 7}})
    assert "draws on counter gpu-0/" in offers(MIG, other).updating[f"{DRIVER}/n1"]


def test_access_for_administration_takes_nothing_from_anybody() -> None:
    here = offers(resource_slice("n1", gpus(1)))
    admin = claim("a", request("gpu", wish(adminAccess=True)))
    found = match([claim("b"), admin], CLASSES, here)
    assert names(found) == [("gpu", "gpu-0"), ("gpu", "gpu-0")]
    assert isinstance(match([admin], CLASSES, here, frozenset({f"{DRIVER}/n1/gpu-0"})), Match)


def test_capacity_that_is_asked_for_must_be_there() -> None:
    here = offers(resource_slice("n1", [device("small", memory="10Gi"), device("big")]))
    wanted = wish(1, capacity={"requests": {"memory": "20Gi"}})
    assert names(match([claim("a", request("gpu", wanted))], CLASSES, here)) == [("gpu", "big")]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (request("gpu", wish(of="nobody")), "there is no device class 'nobody'"),
        (request("gpu", wish(1, "device.driver =")), "compile error"),
        (request("gpu", wish(1, f'device.attributes["{DRIVER}"].nothing == 1')), "selector #0 on device"),
        (request("gpu", wish(33)), "at most 32"),
        ({"name": "gpu"}, "of a kind that Berth does not know"),
    ],
)
def test_a_claim_that_nobody_can_serve_says_why(asked: Object, says: str) -> None:
    with pytest.raises(ClaimError) as error:
        match([claim("a", asked)], CLASSES, offers(resource_slice("n1", gpus(1))))
    assert says in str(error.value)


def test_a_hard_claim_ends() -> None:
    here = offers(resource_slice("n1", [device(f"gpu-{number}", numa=number % 16) for number in range(32)]))
    hard = claim(
        "a",
        *(request(f"r{number}", wish(3)) for number in range(8)),
        constraints=[{"matchAttribute": NUMA, "requests": ["r7"]}],
    )
    refused = match([hard], CLASSES, here)
    assert isinstance(refused, NoMatch)


def test_the_allocation_names_devices_configuration_and_node() -> None:
    opaque = {"driver": DRIVER, "parameters": {"mode": "shared"}}
    classes = {**CLASSES, "gpu": device_class(config=[{"opaque": opaque}])}
    here = offers(resource_slice("n1", gpus(2)), resource_slice("n1", [device("nic-0")], driver="nic.example.com"))
    wanted = claim(
        "a",
        request("gpu", first={"big": wish(2)}),
        request("nic", wish(of="nic", tolerations=[{"operator": "Exists"}])),
        config=[
            {"requests": ["gpu/big"], "opaque": opaque},
            {"opaque": opaque},
            {"requests": ["gpu/small"], "opaque": opaque},
        ],
    )
    found = match([wanted], classes, here)
    assert isinstance(found, Match)
    assert allocation_of(wanted, found.grants[0], classes) == {
        "devices": {
            "results": [
                {"request": "gpu/big", "driver": DRIVER, "pool": "n1", "device": "gpu-0"},
                {"request": "gpu/big", "driver": DRIVER, "pool": "n1", "device": "gpu-1"},
                {"request": "nic", "driver": "nic.example.com", "pool": "n1", "device": "nic-0",
                 "tolerations": [{"operator": "Exists"}]},
            ],
            "config": [
                {"source": "FromClass", "requests": ["gpu/big"], "opaque": opaque},
                {"source": "FromClaim", "requests": ["gpu/big"], "opaque": opaque},
                {"source": "FromClaim", "opaque": opaque},
            ],
        },
        "nodeSelector": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
        },
    }  # fmt: skip


# --- against a search that tries everything ---


KINDS = ("a", "b")


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Object], list[Object], frozenset[str]]:
    """Devices with a kind, a numa domain or none, and counters; two claims at most; devices that are taken."""
    devices = []
    for number in range(draw(st.integers(1, 5))):
        attributes: dict[str, Any] = {"kind": draw(st.sampled_from(KINDS))}
        if draw(st.booleans()):
            attributes["numa"] = draw(st.integers(0, 1))
        draws = draw(st.sampled_from([None, {"set": {"slices": 1}}, {"set": {"slices": 2}}]))
        devices.append(device(f"d{number}", draws=draws, **attributes))
    slices = [resource_slice("n1", devices, of=2), resource_slice("n1", of=2, counters={"set": {"slices": 3}})]

    def wanted() -> Object:
        kind = draw(st.sampled_from([*KINDS, ""]))
        chosen = [f'device.attributes["{DRIVER}"].kind == "{kind}"'] if kind else []
        return wish(draw(st.integers(1, 2)), *chosen, everything=draw(st.sampled_from([False] * 4 + [True])))

    claims = []
    for number in range(draw(st.integers(1, 2))):
        requests = []
        for at in range(draw(st.integers(1, 2))):
            if draw(st.booleans()):
                requests.append(request(f"r{at}", wanted()))
            else:
                requests.append(request(f"r{at}", first={"x": wanted(), "y": wanted()}))
        kind = draw(st.sampled_from([None, "matchAttribute", "distinctAttribute"]))
        limits: list[Object] = [] if kind is None else [{kind: NUMA}]
        if limits and draw(st.booleans()):
            limits[0]["requests"] = ["r0"]
        claims.append(claim(f"c{number}", *requests, constraints=limits))
    taken = frozenset(f"{DRIVER}/n1/{one['name']}" for one in devices if draw(st.integers(0, 3)) == 0)
    return slices, claims, taken


def answers(slices: Sequence[Object], claims: Sequence[Object], taken: frozenset[str]) -> set[tuple[Any, ...]]:
    """All ways to serve the claims: by request the alternative and its set of devices. By enumeration, nothing else."""
    devices = {one["name"]: one for one in slices[0]["spec"]["devices"]}
    free = [name for name in devices if f"{DRIVER}/n1/{name}" not in taken]

    def kind_of(name: str) -> str:
        return str(devices[name]["attributes"]["kind"]["string"])

    def numa(name: str) -> int | None:
        value = devices[name]["attributes"].get("numa")
        return None if value is None else int(value["int"])

    def slices_of(names_: Sequence[str]) -> int:
        draws = [devices[one].get("consumesCounters") for one in names_]
        return sum(int(one[0]["counters"]["slices"]["value"]) for one in draws if one)

    def choices(asked: Object, name: str) -> list[tuple[str, tuple[str, ...]]]:
        expression = asked.get("selectors", [{"cel": {"expression": ""}}])[0]["cel"]["expression"]
        fitting = [one for one in devices if not expression or f'"{kind_of(one)}"' in expression.partition(".kind")[2]]
        if asked["allocationMode"] == "All":
            return [(name, tuple(fitting))] if fitting and set(fitting) <= set(free) else []
        return [(name, one) for one in itertools.combinations([f for f in fitting if f in free], asked["count"])]

    def ways(one: Object) -> list[tuple[str, tuple[str, ...]]]:
        if "exactly" in one:
            return choices(one["exactly"], one["name"])
        return [way for asked in one["firstAvailable"] for way in choices(asked, f"{one['name']}/{asked['name']}")]

    def holds(constraint: Object, chosen: Sequence[tuple[str, tuple[str, ...]]]) -> bool:
        concerned = [
            numa(name)
            for request_, names_ in chosen
            if request_.partition("/")[0] in constraint.get("requests", ["r0", "r1"])
            for name in names_
        ]
        if None in concerned:
            return False
        distinct = len(set(concerned))
        return distinct <= 1 if "matchAttribute" in constraint else distinct == len(concerned)

    of_claims = [
        [
            chosen
            for chosen in itertools.product(*(ways(one) for one in each["spec"]["devices"]["requests"]))
            if all(holds(limit, chosen) for limit in each["spec"]["devices"].get("constraints", ()))
        ]
        for each in claims
    ]
    used = slices_of([name for name in devices if name not in free])
    found = set()
    for whole in itertools.product(*of_claims):
        taken_now = [name for one in whole for _, names_ in one for name in names_]
        if len(set(taken_now)) == len(taken_now) and (slices_of(taken_now) == 0 or used + slices_of(taken_now) <= 3):
            found.add(whole)
    return found


@settings(max_examples=400, deadline=None)
@given(situations())
def test_the_search_finds_an_answer_exactly_where_there_is_one(
    situation: tuple[list[Object], list[Object], frozenset[str]],
) -> None:
    slices, claims, taken = situation
    found = match(claims, CLASSES, offers(*slices), taken)
    everything = answers(slices, claims, taken)
    assert isinstance(found, Match) == bool(everything)
    if isinstance(found, Match):
        given_ = tuple(
            tuple(
                (name, tuple(grant.offer.name for grant in grants))
                for name, grants in itertools.groupby(one, key=lambda grant: grant.request)
            )
            for one in found.grants
        )
        assert given_ in {tuple(tuple(one) for one in whole) for whole in everything}
