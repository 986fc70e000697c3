"""The messages of kube-scheduler's extender protocol (k8s.io/kube-scheduler/extender/v1), read and written.

Keys are capitalised, as Go writes them; pods and nodes inside are the API's own JSON. Every reader raises InvalidInput
that names the field, what was found and the remedy.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from berth.errors import InvalidInput
from berth.kubernetes.client import Object
from placement_engine.domain.survey import Survey

__all__ = [
    "Binding",
    "Offer",
    "Preemption",
    "Victim",
    "binding_answer",
    "filter_answer",
    "preemption_answer",
    "priorities_answer",
    "read_binding",
    "read_offer",
    "read_preemption",
]

MOST_PRIORITY = 10
"""MaxExtenderPriority."""
EXTENDER_V1 = "send the JSON of k8s.io/kube-scheduler/extender/v1"


@dataclass(frozen=True, slots=True)
class Offer:
    """ExtenderArgs: a pod, and the nodes that it may go to. `documents`: whole nodes, where they were sent."""

    pod: Object
    nodes: tuple[str, ...]
    documents: Mapping[str, Object] | None = None


@dataclass(frozen=True, slots=True)
class Victim:
    """A pod that would be stopped; `pod` None: only its uid was sent."""

    uid: str
    pod: Object | None = None


@dataclass(frozen=True, slots=True)
class Preemption:
    """ExtenderPreemptionArgs. `violations`: disruption budgets that would be broken, by node."""

    pod: Object
    victims: Mapping[str, tuple[Victim, ...]]
    violations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Binding:
    """ExtenderBindingArgs."""

    namespace: str
    name: str
    uid: str
    node: str


# --- reading ---


def read_offer(body: bytes) -> Offer:
    document = _document(body)
    pod = _pod(document)
    names, nodes = document.get("NodeNames"), document.get("Nodes")
    if isinstance(names, list) and all(isinstance(one, str) for one in names):
        return Offer(pod, tuple(names))
    if names is not None:
        raise InvalidInput.of("NodeNames", _shown(names), "send a list of node names, or Nodes")
    items = nodes.get("items") if isinstance(nodes, dict) else None
    if not isinstance(items, list):
        raise InvalidInput.of(
            "Nodes", _shown(nodes), "send a NodeList, or NodeNames (nodeCacheCapable: true in the extender's settings)"
        )
    documents: dict[str, Object] = {}
    for position, item in enumerate(items):
        metadata = item.get("metadata") if isinstance(item, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(name, str) or not name:
            raise InvalidInput.of(f"Nodes.items[{position}].metadata.name", _shown(name), "send a Node with its name")
        documents[name] = item
    return Offer(pod, tuple(documents), documents)


def read_preemption(body: bytes) -> Preemption:
    document = _document(body)
    pod = _pod(document)
    field = "NodeNameToMetaVictims" if document.get("NodeNameToMetaVictims") is not None else "NodeNameToVictims"
    given = document.get(field)
    if not isinstance(given, dict):
        raise InvalidInput.of(field, _shown(given), "send the victims by node name")
    victims: dict[str, tuple[Victim, ...]] = {}
    violations: dict[str, int] = {}
    for node, one in given.items():
        pods = one.get("Pods") if isinstance(one, dict) else None
        if not isinstance(pods, list):
            raise InvalidInput.of(f"{field}[{node}].Pods", _shown(pods), "send a list of pods")
        victims[node] = tuple(_victim(f"{field}[{node}].Pods[{at}]", pod) for at, pod in enumerate(pods))
        count = one.get("NumPDBViolations") or 0
        if not isinstance(count, int):
            raise InvalidInput.of(f"{field}[{node}].NumPDBViolations", _shown(count), "send a number")
        violations[node] = count
    return Preemption(pod, victims, violations)


def _victim(field: str, document: Any) -> Victim:
    pod = document if isinstance(document, dict) else {}
    if isinstance(pod.get("UID"), str) and pod["UID"]:
        return Victim(pod["UID"])
    metadata = pod.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if not isinstance(uid, str) or not uid:
        raise InvalidInput.of(field, _shown(document), "send a pod with metadata.uid, or {UID}")
    return Victim(uid, pod)


def read_binding(body: bytes) -> Binding:
    document = _document(body)
    found = {}
    for key in ("PodNamespace", "PodName", "PodUID", "Node"):
        value = document.get(key)
        if not isinstance(value, str) or not value:
            raise InvalidInput.of(key, _shown(value), "send a name that is not empty")
        found[key] = value
    return Binding(found["PodNamespace"], found["PodName"], found["PodUID"], found["Node"])


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput.of("body", _shown(body[:60].decode(errors="replace")), f"no JSON ({error})") from error
    if not isinstance(document, dict):
        raise InvalidInput.of("body", _shown(document), EXTENDER_V1)
    return document


def _pod(document: Mapping[str, Any]) -> Object:
    pod = document.get("Pod")
    if not isinstance(pod, dict):
        raise InvalidInput.of("Pod", _shown(pod), EXTENDER_V1)
    for key in ("metadata", "spec"):
        if not isinstance(pod.get(key), dict):
            raise InvalidInput.of(f"Pod.{key}", _shown(pod.get(key)), "send a whole Pod")
    return pod


def _shown(value: Any) -> str:
    return "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)


# --- writing ---


def filter_answer(offer: Offer, survey: Survey) -> dict[str, Any]:
    """ExtenderFilterResult. In FailedNodes a node may do once pods have left it, in the other one nothing helps."""
    failed: dict[str, str] = {}
    lasting: dict[str, str] = {}
    for node in offer.nodes:
        refusal = survey.refusals.get(node)
        if refusal is not None:
            (failed if refusal.curable else lasting)[node] = f"berth: {refusal.reason.message}"
    passed = [node for node in offer.nodes if node in survey.scores]
    documents = offer.documents
    return {
        "Nodes": None if documents is None else {"items": [documents[node] for node in passed]},
        "NodeNames": passed if documents is None else None,
        "FailedNodes": failed,
        "FailedAndUnresolvableNodes": lasting,
        "Error": "",
    }


def priorities_answer(offer: Offer, survey: Survey) -> list[dict[str, Any]]:
    """HostPriorityList: the best of the offered nodes gets 10 and no other does, the worst 0."""
    scores = [survey.scores[node] for node in offer.nodes if node in survey.scores]
    best, worst = max(scores, default=0.0), min(scores, default=0.0)
    return [{"Host": node, "Score": _priority(survey.scores.get(node), worst, best)} for node in offer.nodes]


def _priority(score: float | None, worst: float, best: float) -> int:
    if score is None:
        return 0
    if score >= best:
        return MOST_PRIORITY
    return min(MOST_PRIORITY - 1, int(MOST_PRIORITY * (score - worst) / (best - worst)))


def preemption_answer(asked: Preemption, nodes: Mapping[str, str]) -> dict[str, Any]:
    """ExtenderPreemptionResult without `nodes`: those that would not do, or whose victims may not be stopped."""
    return {
        "NodeNameToMetaVictims": {
            node: {"Pods": [{"UID": one.uid} for one in victims], "NumPDBViolations": asked.violations[node]}
            for node, victims in asked.victims.items()
            if node not in nodes
        }
    }


def binding_answer(error: str) -> dict[str, Any]:
    """ExtenderBindingResult. "": it is bound."""
    return {"Error": error}
