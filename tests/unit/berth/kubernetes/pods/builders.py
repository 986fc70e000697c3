"""Pods and groups as the API gives them, and jobs as the engine does."""

from typing import Any

from berth.kubernetes.client import Object
from berth.kubernetes.devices import claim_of
from berth.kubernetes.pods.groups import Gang, GangRef, gang_of, ref_of
from berth.kubernetes.pods.translation import Translated, job_of
from berth.v1 import jobs_pb2 as pb
from binder.pods.plan import Held


def a_pod(name: str = "p", *, uid: str = "", requests: dict[str, str] | None = None, **fields: Any) -> Object:
    """`annotations`, `labels`, `owners`, `deleted`, `phase` and fields of the spec."""
    metadata: dict[str, Any] = {"name": name, "namespace": "team", "uid": uid or f"uid-{name}", "resourceVersion": "1"}
    metadata["annotations"] = fields.pop("annotations", {})
    metadata["labels"] = fields.pop("labels", {})
    metadata["ownerReferences"] = [
        {"kind": kind, "name": owner, "uid": f"uid-{owner}", "controller": True}
        for kind, owner in fields.pop("owners", {}).items()
    ]
    if fields.pop("deleted", False):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    phase = fields.pop("phase", "Pending")
    container = {"name": "main", "resources": {"requests": requests if requests is not None else {"cpu": "1"}}}
    return {"metadata": metadata, "spec": {"containers": [container], **fields}, "status": {"phase": phase}}


def a_group(name: str = "ring", *, minimum: int = 2, **spec: Any) -> Object:
    """A PodGroup of scheduling.k8s.io."""
    return {
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": minimum}}, **spec},
    }


def a_member(name: str, **fields: Any) -> Object:
    return a_pod(name, schedulingGroup={"podGroupName": "ring"}, **fields)


def a_gang(minimum: int = 2, **spec: Any) -> Gang:
    ref = GangRef("scheduling.k8s.io", "team", "ring")
    made = gang_of(ref, a_group(minimum=minimum, **spec), [])
    assert made is not None
    return made


def make(pods: Any, gang: Gang | None, minimum: int) -> Translated:
    return job_of(pods, gang, claim_of, minimum=minimum)


def spec_of(*pods: Object, gang: Gang | None = None, minimum: int = 0) -> pb.JobSpec:
    return make(pods, gang, minimum).spec


def a_job(job_id: str, pods: list[Object], gang: Gang | None = None, minimum: int = 1, **fields: Any) -> Held:
    """A job as it was made of these pods."""
    spec = make(pods, gang, minimum if gang else 0).spec
    return Held(job_id, spec.idempotency_key, tuple(one.uid for one in spec.kubernetes.pods), **fields)


__all__ = ["a_gang", "a_group", "a_job", "a_member", "a_pod", "gang_of", "make", "ref_of", "spec_of"]
