"""Pods -> a JobSpec. Pure: the same pods give the same spec, whatever order they come in."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from berth.errors import FieldError, InvalidInput
from berth.kubernetes import names
from berth.kubernetes.claims.matching import ClaimError
from berth.kubernetes.claims.needs import ClaimAsk
from berth.kubernetes.client import Object
from berth.kubernetes.devices import ResourceClaimOf
from berth.kubernetes.pods.constraints import constraints_of, misspelt, narrowed, unhonoured
from berth.kubernetes.pods.groups import Gang, place_of
from berth.kubernetes.pods.requests import requests_of
from berth.kubernetes.pods.wishes import (
    PRIORITY_BOUND,
    Wishes,
    device_memory,
    wishes_of,
    write_accelerators,
    write_wishes,
)
from berth.v1 import jobs_pb2 as pb

__all__ = ["SOURCE", "AskOf", "ClaimOf", "Translated", "job_of", "priority_of", "uid_of"]

ClaimOf = Callable[[str], ResourceClaimOf | None]
AskOf = Callable[[Object], ClaimAsk]
"""What a pod's resource claims ask for. Raises ClaimsNotReady, and ClaimError for what can never be."""

SOURCE = {"berth.dev/source": "pods"}
"""Labels of jobs that were made of pods."""
# For a pod that asks for nothing: what kube-scheduler takes such a pod to use.
DEFAULT_CPU_MILLI, DEFAULT_MEMORY_BYTES = 100, 200 << 20
KIND_OF_OWNER = {
    "ReplicaSet": pb.JOB_KIND_INFERENCE,
    "LeaderWorkerSet": pb.JOB_KIND_INFERENCE,
    "PyTorchJob": pb.JOB_KIND_TRAINING,
    "TFJob": pb.JOB_KIND_TRAINING,
    "MPIJob": pb.JOB_KIND_TRAINING,
    "TrainJob": pb.JOB_KIND_TRAINING,
}


@dataclass(frozen=True, slots=True)
class Translated:
    """`spec` carries its idempotency key. `notes`: what of the pods' wishes is not looked at."""

    spec: pb.JobSpec
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Member:
    rank: int
    role: str
    encoded: bytes
    index: int
    name: str
    pod: Object
    shape: pb.MemberGroup


def uid_of(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def job_of(
    pods: Sequence[Object],
    gang: Gang | None,
    claim_of: ClaimOf,
    *,
    minimum: int = 0,
    ask_of: AskOf | None = None,
) -> Translated:
    """One job of these pods, a member each. `minimum`: fewest that will do; 0: all. `ask_of` None: pods with resource
    claims are refused.

    Raises InvalidInput, and ClaimsNotReady where a resource claim is not there yet or no node could satisfy it.
    The key is made of the pod's or group's uid and a digest of all else, so that other wishes are another job.
    """
    members, errors = list[_Member](), list[FieldError]()
    for pod in pods:
        shape, wrong = _shape(pod, wishes_of(pod, *_things(gang)), claim_of, ask_of)
        rank, role, index = place_of(pod)
        members.append(_Member(rank, role, _encoded(shape), index, pod["metadata"]["name"], pod, shape))
        errors.extend(wrong)
    members.sort(key=lambda one: (one.rank, one.role, one.encoded, one.index, one.name))
    first = members[0].pod
    namespace = str(first["metadata"].get("namespace", "default"))
    spec = pb.JobSpec(
        name=_name(gang.name if gang else members[0].name),
        priority=_priority(pods, gang),
        kind=KIND_OF_OWNER.get(_owner(first), pb.JOB_KIND_BATCH),
        executor=names.EXECUTOR,
        labels=SOURCE,
    )
    errors.extend(write_wishes(spec, wishes_of(*_things(gang), first)))
    spec.tenant = spec.tenant or namespace
    if gang is not None:
        spec.queue = spec.queue or gang.queue
        if gang.level and not spec.HasField("topology"):
            spec.topology.level, spec.topology.required = gang.level, gang.level_required
    notes: dict[str, None] = {}
    for member in members:
        spec.kubernetes.pods.add(namespace=namespace, name=member.name, uid=uid_of(member.pod))
        for name in misspelt(member.pod):
            near = difflib.get_close_matches(name, sorted(names.ANNOTATIONS), n=1)
            hint = f"did you mean {near[0]}?" if near else "see the README for those that do"
            notes[f"metadata.annotations[{name}]: means nothing: {hint}"] = None
        for one in unhonoured(member.pod):
            if one.refused:
                ignore = f"{one.remedy}; or schedule it all the same with the annotation {names.IGNORE}: {one.field}"
                errors.append(FieldError(f"spec.{one.field}", "given", f"is not looked at: {ignore}"))
            else:
                notes[f"{one.field}: {one.remedy}"] = None
    errors.extend(_shared(members))
    if errors:
        raise InvalidInput(list(dict.fromkeys(errors)))
    _write_shapes(spec, members, minimum or len(members))
    digest = hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()[:12]
    spec.idempotency_key = f"{gang.uid if gang else uid_of(first)}.{digest}"
    return Translated(spec, tuple(notes))


def _shared(members: Sequence["_Member"]) -> list[FieldError]:
    """Claims that members have in common must be allocated: which one of them gets the devices is not decided."""
    named = Counter(
        entry["resourceClaimName"]
        for member in members
        if member.shape.accelerators.traits
        for entry in member.pod["spec"].get("resourceClaims") or ()
        if entry.get("resourceClaimName")
    )
    remedy = "members of a gang cannot share a claim that is not allocated yet: give each its own by a template"
    return [FieldError("spec.resourceClaims", name, remedy) for name, times in named.items() if times > 1]


def priority_of(pod: Object) -> int:
    return int((pod.get("spec") or {}).get("priority") or 0)


def _priority(pods: Sequence[Object], gang: Gang | None) -> int:
    given = gang.priority if gang and gang.priority is not None else max(map(priority_of, pods))
    return max(-PRIORITY_BOUND, min(PRIORITY_BOUND, given))


def _owner(pod: Object) -> str:
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("kind", ""))
    return ""


def _name(name: str) -> str:
    """At most 63 characters; what is cut is told apart by a hash of the whole."""
    if len(name) <= 63:
        return name
    return f"{name[:52].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def _shape(
    pod: Object, wishes: Wishes, claim_of: ClaimOf, ask_of: AskOf | None
) -> tuple[pb.MemberGroup, list[FieldError]]:
    """What this member asks for, as a group of one without a name."""
    shape = pb.MemberGroup(replicas=1, nodes=constraints_of(pod))
    if not shape.nodes.ByteSize():
        shape.ClearField("nodes")
    try:
        asked = requests_of(pod)
    except InvalidInput as error:
        return shape, list(error.errors)
    memory, errors = device_memory(wishes)
    write_accelerators(shape.accelerators, wishes)
    for name in asked.others:
        if name != "ephemeral-storage":
            errors.append(
                FieldError(f"spec.containers.resources.{name}", "asked for", "Berth does not count it: leave it out")
            )
    kinds = [(name, amount, claim_of(name)) for name, amount in asked.devices.items()]
    by_claim = ClaimAsk()
    if pod["spec"].get("resourceClaims"):
        try:
            if ask_of is None:
                raise ClaimError("are not looked at here: ask for the device plugin's resource")
            by_claim = ask_of(pod)
        except ClaimError as error:
            errors.append(FieldError("spec.resourceClaims", "given", str(error)))
        if by_claim.devices and kinds:
            remedy = "a pod takes devices by claims or by resources: leave out one of them"
            errors.append(FieldError("spec.resourceClaims", "given", remedy))
        narrowed(shape.nodes, by_claim.terms)
        shape.resources.devices = by_claim.devices
        if by_claim.devices:
            shape.accelerators.traits.append(by_claim.need)
    for name, amount, claim in kinds:
        where = f"spec.containers.resources.{name}"
        if claim is None:
            known = "ask for a device plugin's resource that Berth knows, or map this name (BERTH_KUBERNETES_RESOURCES)"
            errors.append(FieldError(where, str(amount), f"is no device that Berth knows: {known}"))
        elif claim.refusal:
            errors.append(FieldError(where, str(amount), claim.refusal))
        elif len(kinds) > 1:
            others = ", ".join(other for other, _, _ in kinds if other != name)
            errors.append(
                FieldError(where, str(amount), f"a pod takes devices of one kind: leave out this or {others}")
            )
        else:
            if claim.partition and amount > 1:
                errors.append(
                    FieldError(where, str(amount), "a pod takes one partition: ask for 1, or for a larger one")
                )
            _write_claim(shape, claim, amount)
    shape.resources.cpu_milli, shape.resources.memory_bytes = asked.cpu_milli, asked.memory_bytes
    if kinds or by_claim.devices:
        shape.resources.device_memory_bytes = memory
    elif not (asked.cpu_milli or asked.memory_bytes):
        shape.resources.cpu_milli, shape.resources.memory_bytes = DEFAULT_CPU_MILLI, DEFAULT_MEMORY_BYTES
    if not shape.accelerators.ByteSize():
        shape.ClearField("accelerators")
    return shape, errors


def _write_claim(shape: pb.MemberGroup, claim: ResourceClaimOf, amount: int) -> None:
    if claim.partition:
        shape.resources.partition = claim.partition
    else:
        shape.resources.devices = amount
    if claim.models and not shape.accelerators.models:
        shape.accelerators.models.extend(claim.models)
    elif not claim.models:
        del shape.accelerators.stacks[:]
        shape.accelerators.stacks.append(claim.stack)


def _write_shapes(spec: pb.JobSpec, members: Sequence["_Member"], minimum: int) -> None:
    """Members of one shape as replicas; of several as groups, the minimum taken from the last group first."""
    spec.replicas = len(members)
    slack = max(0, len(members) - minimum)
    if len({one.encoded for one in members}) == 1:
        shape = members[0].shape
        spec.resources.CopyFrom(shape.resources)
        for field in ("accelerators", "nodes"):
            if shape.HasField(field):
                getattr(spec, field).CopyFrom(getattr(shape, field))
        spec.min_replicas = minimum if slack else 0
        return
    taken: set[str] = set()
    for (_, role, _), alike in groupby(members, key=lambda one: (one.rank, one.role, one.encoded)):
        same = list(alike)
        name = role or "members"
        name = name if name not in taken else f"{name}-{len(taken)}"
        taken.add(name)
        group = spec.member_groups.add()
        group.CopyFrom(same[0].shape)
        group.name, group.replicas = name, len(same)
    for group in reversed(spec.member_groups):
        fewer = min(slack, group.replicas - 1)
        group.min_replicas = group.replicas - fewer if fewer else 0
        slack -= fewer


def _things(gang: Gang | None) -> list[Object]:
    return [gang.thing] if gang is not None and gang.thing is not None else []


def _encoded(shape: pb.MemberGroup) -> bytes:
    return shape.SerializeToString(deterministic=True)
