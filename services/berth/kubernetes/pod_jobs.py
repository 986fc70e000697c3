"""What a pod asks for, as a job of one member. Shared by all that judge a pod: one reading for all of them."""

from collections.abc import Mapping
from typing import Any

from berth.errors import FieldError, InvalidInput
from berth.kubernetes import names
from berth.kubernetes.client import Object
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.quantities import milli_at_least, units_at_least
from berth.v1 import jobs_pb2 as pb

__all__ = ["job_of_pod"]


def job_of_pod(pod: Object, resources: DeviceResources) -> pb.JobSpec:
    """Raises InvalidInput that names the field, the value and the remedy."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    wishes = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    made = pb.JobSpec(
        name=str(metadata.get("name") or metadata.get("generateName") or "pod")[:63].strip("-."),
        tenant=wishes.get(names.TENANT, "") or str(metadata.get("namespace", "")),
        queue=wishes.get(names.QUEUE, ""),
        pool=wishes.get(names.POOL, ""),
        workload=wishes.get(names.WORKLOAD, ""),
        priority=max(-1_000_000, min(1_000_000, int(spec.get("priority") or 0))),
        replicas=1,
        executor=names.EXECUTOR,
        preemptible=True,
    )
    if objective := wishes.get(names.OBJECTIVE, ""):
        made.objective = _choice(names.OBJECTIVE, objective, "OBJECTIVE", pb.Objective)
    if kind := wishes.get(names.KIND, ""):
        made.kind = _choice(names.KIND, kind, "JOB_KIND", pb.JobKind)
    made.accelerators.models.extend(one.strip() for one in wishes.get(names.ACCELERATORS, "").split(",") if one.strip())
    devices: dict[str, int] = {}
    for name, amount in _requests(spec).items():
        field = f"spec.containers.resources.requests[{name}]"
        if name == "cpu":
            made.resources.cpu_milli = milli_at_least(field, amount)
        elif name == "memory":
            made.resources.memory_bytes = units_at_least(field, amount)
        elif (claim := resources.claim_of(name)) is not None and (count := units_at_least(field, amount)):
            if claim.refusal:
                raise InvalidInput.of(field, amount, claim.refusal)
            devices[name] = count
            made.accelerators.stacks.append(claim.stack)
            made.accelerators.models.extend(claim.models)
            made.resources.devices, made.resources.partition = (0, claim.partition) if claim.partition else (count, "")
    if len(devices) > 1:
        kinds = ", ".join(sorted(devices))
        raise InvalidInput.of("spec.containers.resources.requests", kinds, "ask for one kind of device a pod")
    _constrain(made.nodes, spec)
    return made


def _choice(name: str, value: str, prefix: str, kind: Any) -> Any:
    found = [str(one) for one in list(kind.keys()) if not one.endswith("UNSPECIFIED")]
    known = {one.removeprefix(f"{prefix}_").lower(): one for one in found}
    if value.lower() not in known:
        raise InvalidInput([FieldError(f"metadata.annotations[{name}]", value, f"write one of: {', '.join(known)}")])
    return kind.Value(known[value.lower()])


def _requests(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of the containers' requests."""
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        given = container.get("resources") or {}
        for name, amount in {**(given.get("limits") or {}), **(given.get("requests") or {})}.items():
            milli = milli_at_least(f"spec.containers.resources.requests[{name}]", amount)
            total[name] = total.get(name, 0) + milli
    return {name: f"{milli}m" for name, milli in total.items()}


def _constrain(made: pb.NodeConstraints, spec: Mapping[str, Any]) -> None:
    selector = sorted((spec.get("nodeSelector") or {}).items())
    if selector:
        made.required.add(
            requirements=[pb.NodeRequirement(key=key, operator="In", values=[value]) for key, value in selector]
        )
    for one in spec.get("tolerations") or ():
        given = {key: str(one.get(key) or "") for key in ("key", "value", "effect")}
        made.tolerations.add(operator=one.get("operator") or "Equal", **given)
