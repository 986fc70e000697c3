"""From a job's manifest to the pods of its members. Pure: the same attempt gives the same names.

They ask for a scheduler of the binder's own, so that nobody takes them up as work of their own, and none of them starts
before the binder binds it.
"""

import copy
import hashlib
import re
from collections.abc import Set as AbstractSet
from typing import Any

import yaml

from berth.errors import InvalidInput
from berth.kubernetes import names
from binder.domain.attempt import AttemptId
from binder.domain.work import Assignment, Member

__all__ = ["created_for", "label_of", "pods_of"]

FIELD = "kubernetes.manifest"


def label_of(attempt: AttemptId) -> str:
    return hashlib.sha256(str(attempt).encode()).hexdigest()[:32]


def created_for(pod: dict[str, Any]) -> str:
    """The attempt for which the binder made it, "" where it did not."""
    return str((pod["metadata"].get("annotations") or {}).get(names.CREATED_FOR, ""))


def pods_of(assignment: Assignment, namespaces: AbstractSet[str]) -> list[dict[str, Any]]:
    """One pod a member, in their order. `namespaces`: where such pods may be made; empty: anywhere.

    Raises InvalidInput naming what is wrong with the manifest.
    """
    template = _template(assignment.work.manifest, namespaces)
    metadata = template["metadata"]
    base = str(metadata.pop("name", "") or metadata.pop("generateName", "") or assignment.id.job_id).lower()
    stem = re.sub(r"[^a-z0-9-]", "-", base)[:40].strip("-") or "job"
    digest = label_of(assignment.id)
    made = []
    for member in assignment.work.members:
        pod = copy.deepcopy(template)
        pod["metadata"]["name"] = f"{stem}-{digest[:10]}-{member.member}"
        pod["metadata"].setdefault("labels", {})[names.CREATED_FOR] = digest
        annotations = pod["metadata"].setdefault("annotations", {})
        annotations[names.CREATED_FOR] = str(assignment.id)
        if assignment.attempt.traceparent:
            annotations.setdefault("traceparent", assignment.attempt.traceparent)
        pod["spec"]["schedulerName"] = names.BINDER_SCHEDULER_NAME
        pod["spec"].setdefault("restartPolicy", "Never")
        for container in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]:
            _tell(container, assignment, member)
        made.append(pod)
    return made


def _template(text: str, namespaces: AbstractSet[str]) -> dict[str, Any]:
    try:
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError as error:
        raise InvalidInput.of(FIELD, text[:80], f"is neither YAML nor JSON ({error}): write one Pod") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise InvalidInput.of(FIELD, f"{len(documents)} documents", "write one Pod: every member gets a copy of it")
    pod = documents[0]
    kind = f"{pod.get('apiVersion')} {pod.get('kind')}"
    if kind != "v1 Pod":
        raise InvalidInput.of(f"{FIELD}: kind", kind, "write apiVersion v1, kind Pod; give other kinds to kubectl")
    for field in ("metadata", "spec"):
        pod[field] = {} if pod.get(field) is None else pod[field]
        if not isinstance(pod[field], dict):
            raise InvalidInput.of(f"{FIELD}: {field}", pod[field], "write a mapping")
    pod.pop("status", None)
    metadata, spec = pod["metadata"], pod["spec"]
    for field in ("labels", "annotations"):
        metadata[field] = {} if metadata.get(field) is None else metadata[field]
        if not isinstance(metadata[field], dict):
            raise InvalidInput.of(f"{FIELD}: metadata.{field}", metadata[field], "write a mapping of names to texts")
    containers = spec.get("containers")
    if not isinstance(containers, list) or not containers or not all(isinstance(one, dict) for one in containers):
        raise InvalidInput.of(f"{FIELD}: spec.containers", containers, "write a list of at least one container")
    for field in ("nodeName", "schedulingGates"):
        if spec.get(field):
            raise InvalidInput.of(f"{FIELD}: spec.{field}", spec[field], "leave it out: Berth chooses node and time")
    namespace = metadata.setdefault("namespace", "default")
    if namespaces and namespace not in namespaces:
        known = ", ".join(sorted(namespaces))
        remedy = f"pods are made in {known} only; the operator sets BERTH_MANIFEST_NAMESPACES"
        raise InvalidInput.of(f"{FIELD}: metadata.namespace", namespace, remedy)
    return pod


def _tell(container: dict[str, Any], assignment: Assignment, member: Member) -> None:
    """What a command sees too. What the manifest says itself stays."""
    known = {
        "BERTH_JOB_ID": assignment.id.job_id,
        "BERTH_ATTEMPT": str(assignment.id.attempt),
        "BERTH_MEMBER": str(member.member),
        "BERTH_GANG_SIZE": str(len(assignment.work.members)),
        "BERTH_NODE": member.node,
        "BERTH_DEVICES": ",".join(claim.device_id for claim in member.devices),
    }
    given = container.get("env") or []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise InvalidInput.of(f"{FIELD}: env", given, "write a list of name and value")
    names_given = {one.get("name") for one in given}
    container["env"] = [*given, *({"name": k, "value": v} for k, v in known.items() if k not in names_given)]
