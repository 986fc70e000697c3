"""The extender's messages, whole: keys as Go writes them, and every request that is none told so."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from placement_engine.adapters.extender_wire import (
    Binding,
    Offer,
    Preemption,
    Victim,
    binding_answer,
    filter_answer,
    preemption_answer,
    priorities_answer,
    read_binding,
    read_offer,
    read_preemption,
)
from placement_engine.domain.model import Reason
from placement_engine.domain.survey import Refusal, Survey

POD = {"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": {"containers": []}, "status": {}}
NODES = {name: {"metadata": {"name": name}, "spec": {}, "status": {}} for name in ("a", "b", "c", "d")}
SURVEY = Survey(
    {"a": 2.0, "d": 1.0},
    {
        "b": Refusal(Reason("Capacity", "DEVICES_BUSY", 1, 8, "none is free"), curable=True),
        "c": Refusal(Reason("HeatMargin", "HEAT_MARGIN_BELOW_FLOOR", 1, 8, "too hot"), curable=False),
    },
)


def body(**document: Any) -> bytes:
    return json.dumps(document).encode()


def test_an_offer_of_names_and_its_answer() -> None:
    offer = read_offer(body(Pod=POD, Nodes=None, NodeNames=["a", "b", "c", "d"]))
    assert offer == Offer(POD, ("a", "b", "c", "d"))
    assert filter_answer(offer, SURVEY) == {
        "Nodes": None,
        "NodeNames": ["a", "d"],
        "FailedNodes": {"b": "berth: none is free"},
        "FailedAndUnresolvableNodes": {"c": "berth: too hot"},
        "Error": "",
    }


def test_an_offer_of_whole_nodes_gets_whole_nodes_back() -> None:
    items = [NODES[name] for name in "dcb"]
    offer = read_offer(body(Pod=POD, Nodes={"metadata": {}, "items": items}, NodeNames=None))
    assert offer == Offer(POD, ("d", "c", "b"), {name: NODES[name] for name in "dcb"})
    assert filter_answer(offer, SURVEY) == {
        "Nodes": {"items": [NODES["d"]]},
        "NodeNames": None,
        "FailedNodes": {"b": "berth: none is free"},
        "FailedAndUnresolvableNodes": {"c": "berth: too hot"},
        "Error": "",
    }


def test_the_best_of_the_offered_gets_ten_and_no_other() -> None:
    table: list[tuple[dict[str, float], dict[str, int]]] = [
        ({"a": 2.0, "b": 1.0, "c": 1.5, "d": 1.9999}, {"a": 10, "b": 0, "c": 5, "d": 9}),
        ({"a": 0.7}, {"a": 10, "b": 0, "c": 0, "d": 0}),
        ({"a": 1.0, "b": 1.0}, {"a": 10, "b": 10, "c": 0, "d": 0}),
        ({"a": -3.0, "b": -1.0}, {"a": 0, "b": 10, "c": 0, "d": 0}),
        ({}, {"a": 0, "b": 0, "c": 0, "d": 0}),
    ]
    for scores, priorities in table:
        answer = priorities_answer(Offer(POD, ("a", "b", "c", "d")), Survey(scores))
        assert answer == [{"Host": name, "Score": priority} for name, priority in priorities.items()]


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(-1e6, 1e6), min_size=1))
def test_priorities_keep_the_order_of_the_scores(scores: dict[str, float]) -> None:
    answer = priorities_answer(Offer(POD, tuple(scores)), Survey(scores))
    found = {one["Host"]: one["Score"] for one in answer}
    assert all(0 <= one <= 10 for one in found.values())
    assert all(found[a] >= found[b] for a in scores for b in scores if scores[a] >= scores[b])
    assert {a for a in found if found[a] == 10} == {a for a in scores if scores[a] == max(scores.values())}


@pytest.mark.parametrize("identifiers", [True, False])
def test_victims_stay_as_they_are_on_the_nodes_that_are_left(identifiers: bool) -> None:
    pods = {uid: {"metadata": {"uid": uid, "annotations": {}}, "spec": {}} for uid in ("v", "w", "x")}
    if identifiers:
        field, sent = "NodeNameToMetaVictims", {uid: {"UID": uid} for uid in pods}
        read = {uid: Victim(uid) for uid in pods}
    else:
        field, sent = "NodeNameToVictims", dict(pods)
        read = {uid: Victim(uid, one) for uid, one in pods.items()}
    given = {
        "a": {"Pods": [sent["v"], sent["w"]], "NumPDBViolations": 1},
        "b": {"Pods": [sent["x"]], "NumPDBViolations": 0},
    }
    empty = {"NodeNameToVictims": None, "NodeNameToMetaVictims": None}
    asked = read_preemption(body(**{**empty, "Pod": POD, field: given}))
    assert asked == Preemption(POD, {"a": (read["v"], read["w"]), "b": (read["x"],)}, {"a": 1, "b": 0})
    assert preemption_answer(asked, {"b": "too hot"}) == {
        "NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "v"}, {"UID": "w"}], "NumPDBViolations": 1}}
    }


def test_a_binding_and_its_answer() -> None:
    asked = read_binding(body(PodName="p", PodNamespace="default", PodUID="u", Node="a"))
    assert asked == Binding("default", "p", "u", "a")
    assert (binding_answer(""), binding_answer("why")) == ({"Error": ""}, {"Error": "why"})


@pytest.mark.parametrize(
    ("read", "sent", "error"),
    [
        (read_offer, b"{", "body: '{': no JSON"),
        (read_offer, b"\xff", "body: '\N{REPLACEMENT CHARACTER}': no JSON"),
        (read_offer, b"[1]", "body: '[1]': send the JSON of"),
        (read_offer, body(NodeNames=[]), "Pod: 'nothing': send the JSON of"),
        (read_offer, body(Pod=3, NodeNames=[]), "Pod: '3': send the JSON of"),
        (read_offer, body(Pod={"metadata": {}}, NodeNames=[]), "Pod.spec: 'nothing': send a whole Pod"),
        (read_offer, body(Pod={"spec": {}}, NodeNames=[]), "Pod.metadata: 'nothing': send a whole Pod"),
        (read_offer, body(Pod=POD, NodeNames="a"), "NodeNames: 'a': send a list of node names"),
        (read_offer, body(Pod=POD, NodeNames=[1]), "NodeNames: '[1]': send a list of node names"),
        (read_offer, body(Pod=POD), "Nodes: 'nothing': send a NodeList, or NodeNames (nodeCacheCapable: true"),
        (read_offer, body(Pod=POD, Nodes={"items": None}), "Nodes: '{\"items\": null}': send a NodeList"),
        (read_offer, body(Pod=POD, Nodes={"items": [{}]}), "Nodes.items[0].metadata.name: 'nothing': send a Node"),
        (read_preemption, body(Pod=POD), "NodeNameToVictims: 'nothing': send the victims by node name"),
        (
            read_preemption,
            body(Pod=POD, NodeNameToMetaVictims={"a": {"Pods": None}}),
            "NodeNameToMetaVictims[a].Pods: 'nothing': send a list of pods",
        ),
        (
            read_preemption,
            body(Pod=POD, NodeNameToVictims={"a": {"Pods": [{"metadata": {}}]}}),
            "NodeNameToVictims[a].Pods[0]: '{\"metadata\": {}}': send a pod with metadata.uid",
        ),
        (
            read_preemption,
            body(Pod=POD, NodeNameToMetaVictims={"a": {"Pods": [], "NumPDBViolations": "many"}}),
            "NodeNameToMetaVictims[a].NumPDBViolations: 'many': send a number",
        ),
        (read_binding, body(PodName="p", PodNamespace="d", PodUID="u"), "Node: 'nothing': send a name"),
        (read_binding, body(PodName="", PodNamespace="d", PodUID="u", Node="n"), "PodName: '': send a name"),
    ],
)
def test_a_request_that_is_none_is_told_the_field_the_value_and_the_remedy(read: Any, sent: bytes, error: str) -> None:
    with pytest.raises(InvalidInput) as told:
        read(sent)
    assert str(told.value).startswith(error)


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["Pod", "Nodes", "NodeNames", "NodeNameToVictims", "Pods", "items", "metadata", "spec", "a"]),
        inner, max_size=4,
    ),
    max_leaves=12,
).map(lambda document: json.dumps(document).encode()))  # fmt: skip
def test_whatever_is_sent_is_read_or_refused(sent: bytes) -> None:
    for read in (read_offer, read_preemption, read_binding):
        try:
            read(sent)
        except InvalidInput:
            pass
