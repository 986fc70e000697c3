"""On which nodes a pod may sit, and what of its wishes Berth does not look at."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from berth.kubernetes import names
from berth.kubernetes.client import Object
from berth.v1 import jobs_pb2 as pb

__all__ = ["Unhonoured", "constraints_of", "misspelt", "narrowed", "unhonoured"]

NODE_NAME = "metadata.name"
"""The key of a requirement on the node's name: the field that Kubernetes matches, no label."""


@dataclass(frozen=True, slots=True)
class Unhonoured:
    """A field that Berth does not look at. `refused`: to schedule without it would break what the pod demands."""

    field: str
    refused: bool
    remedy: str


def constraints_of(pod: Object) -> pb.NodeConstraints:
    """nodeSelector and the required node affinity (each term and the selector together), and the tolerations."""
    spec = pod.get("spec") or {}
    selector = [
        pb.NodeRequirement(key=key, operator="In", values=[str(value)])
        for key, value in sorted((spec.get("nodeSelector") or {}).items())
    ]
    made = pb.NodeConstraints()
    terms = _required(spec)
    if terms is None and selector:
        made.required.add(requirements=selector)
    for term in terms or ():
        requirements = _requirements(term)
        # A term without a requirement matches no node.
        if requirements:
            made.required.add(requirements=[*selector, *requirements])
    if terms is not None and not made.required:
        made.required.add(requirements=[pb.NodeRequirement(key=NODE_NAME, operator="DoesNotExist")])
    for toleration in spec.get("tolerations") or ():
        made.tolerations.add(
            key=toleration.get("key", ""),
            operator=toleration.get("operator", "") or "Equal",
            value=str(toleration.get("value", "") or ""),
            effect=toleration.get("effect", ""),
        )
    return made


def narrowed(constraints: pb.NodeConstraints, terms: Sequence[Mapping[str, Any]]) -> None:
    """Only nodes that match one of `terms` (v1.NodeSelectorTerm) too; none: as they are."""
    if not terms:
        return
    before = [list(one.requirements) for one in constraints.required] or [[]]
    del constraints.required[:]
    for known in before:
        for term in terms:
            constraints.required.add(requirements=[*known, *_requirements(term)])


def unhonoured(pod: Object) -> Sequence[Unhonoured]:
    """What is not looked at; a field that the pod's annotation names is only noted, never a refusal."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    ignored = {one.strip() for one in (metadata.get("annotations") or {}).get(names.IGNORE, "").split(",")}
    return [Unhonoured(one.field, one.refused and one.field not in ignored, one.remedy) for one in _found(spec)]


def misspelt(pod: Object) -> Sequence[str]:
    """Annotations under Berth's domain that mean nothing."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    return sorted(one for one in annotations if one.startswith(f"{names.DOMAIN}/") and one not in names.ANNOTATIONS)


def _found(spec: dict[str, Any]) -> Iterable[Unhonoured]:
    affinity = spec.get("affinity") or {}
    required, preferred = (
        "requiredDuringSchedulingIgnoredDuringExecution",
        "preferredDuringSchedulingIgnoredDuringExecution",
    )
    for field in ("podAffinity", "podAntiAffinity"):
        if (affinity.get(field) or {}).get(required):
            yield Unhonoured(
                field, True, f"ask for a topology ({names.REQUIRED_TOPOLOGY}), select nodes, or write it as preferred"
            )
        elif (affinity.get(field) or {}).get(preferred):
            yield Unhonoured(field, False, f"ask for a topology ({names.TOPOLOGY})")
    if (affinity.get("nodeAffinity") or {}).get(preferred):
        yield Unhonoured("nodeAffinity", False, "only what is required counts")
    spread = spec.get("topologySpreadConstraints") or ()
    if spread:
        hard = any(one.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule" for one in spread)
        yield Unhonoured("topologySpreadConstraints", hard, "write whenUnsatisfiable: ScheduleAnyway")
    ports = [
        port["hostPort"]
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]
    if ports:
        yield Unhonoured("hostPort", False, "a node whose port is taken will refuse the pod: spread such pods yourself")
    if any(
        "ephemeral-storage" in ((container.get("resources") or {}).get(kind) or {})
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        for kind in ("requests", "limits")
    ):
        yield Unhonoured(
            "ephemeral-storage", False, "a node that is short of it will refuse the pod: select nodes that have it"
        )
    for volume in spec.get("volumes") or ():
        if volume.get("persistentVolumeClaim") or volume.get("ephemeral"):
            yield Unhonoured("volumes", False, "where a volume is reachable is not looked at: select its nodes")
            break
    if spec.get("preemptionPolicy") == "Never":
        yield Unhonoured(
            "preemptionPolicy", False, "a pod of higher priority may stop others: give it a lower priority"
        )


def _requirements(term: Mapping[str, Any]) -> list[pb.NodeRequirement]:
    return [
        pb.NodeRequirement(key=key(one), operator=one.get("operator", "In"), values=map(str, one.get("values") or ()))
        for field, key in (("matchExpressions", _label), ("matchFields", _field))
        for one in term.get(field) or ()
    ]


def _required(spec: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Terms of which one must match; None: no such demand."""
    node = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    given = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    return None if given is None else list(given.get("nodeSelectorTerms") or ())


def _label(requirement: dict[str, Any]) -> str:
    return str(requirement.get("key", ""))


def _field(requirement: dict[str, Any]) -> str:
    return str(requirement.get("key", NODE_NAME))
