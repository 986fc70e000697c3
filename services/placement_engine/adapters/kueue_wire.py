"""Kueue's Workloads read as jobs, and Berth's answers written as the state of an admission check.

The types are those of kueue.x-k8s.io (v1beta2; v1beta1 has the same fields where Berth looks). An answer may add node
selectors only: what it adds must contradict nothing that the pod set or its flavor already says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from berth.errors import InvalidInput
from berth.kubernetes import names
from berth.kubernetes.client import Object
from berth.v1 import fleet_pb2, jobs_pb2
from placement_engine.domain.model import Decision, Rejection

__all__ = ["CONTROLLER", "Answer", "condition_of", "job_of_workload", "pending_checks", "ready", "refused", "state_of"]

CONTROLLER = f"{names.DOMAIN}/placement"
"""`spec.controllerName` of the admission checks that are Berth's."""

HOSTNAME = "kubernetes.io/hostname"
REGION, ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
LEVELS = {HOSTNAME: "node", ZONE: "zone", REGION: "region"}
MODEL_LABELS = (names.ACCELERATOR, "nvidia.com/gpu.product", "amd.com/gpu.product-name", "gpu.intel.com/product")
"""Labels of a node that name its accelerators."""
LONGEST_MESSAGE = 2048
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 15, 600


@dataclass(frozen=True, slots=True)
class Answer:
    """`state`: Ready, Retry or Rejected. `selectors`: what each pod set's node selector gets, by its name."""

    state: str
    message: str
    selectors: Mapping[str, Mapping[str, str]] | None = None
    retry_seconds: int | None = None


def pending_checks(workload: Object, ours: Iterable[str]) -> list[str]:
    """Our checks that wait for an answer: the quota is reserved, and the workload neither over nor evicted."""
    status = workload.get("status") or {}
    if (workload.get("spec") or {}).get("active") is False:
        return []
    if condition_of(workload, "QuotaReserved") != "True":
        return []
    if "True" in (condition_of(workload, "Finished"), condition_of(workload, "Evicted")):
        return []
    known = set(ours)
    checks = status.get("admissionChecks") or ()
    return [one["name"] for one in checks if one["name"] in known and one.get("state") == "Pending"]


def condition_of(thing: Object, kind: str) -> str:
    """The status of a condition; "" where there is none."""
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return next((str(one["status"]) for one in conditions if one["type"] == kind), "")


# --- reading ---


def job_of_workload(
    workload: Object,
    flavors: Mapping[str, Object],
    job_of_pod: Callable[[Object], jobs_pb2.JobSpec],
    *,
    pool: str = "",
) -> jobs_pb2.JobSpec:
    """All pod sets as one gang, each on the nodes of its flavors. Raises InvalidInput, which names the pod set."""
    parts: list[tuple[str, int, jobs_pb2.JobSpec]] = []
    for pod_set in workload["spec"]["podSets"]:
        name, count = str(pod_set["name"]), _count(workload, pod_set)
        if count == 0:
            continue
        pod = _pod(workload, pod_set, flavors)
        try:
            one = job_of_pod(pod)
        except InvalidInput as error:
            raise InvalidInput.of(f"podSets[{name}]", "its template", str(error)) from error
        parts.append((name, count, one))
    if not parts:
        raise InvalidInput.of("podSets", "no pods", "ask for one pod at least")
    made = jobs_pb2.JobSpec()
    made.CopyFrom(parts[0][2])
    made.name = str(workload["metadata"]["name"])[:63].strip("-.")
    made.pool = pool or made.pool
    if len(parts) == 1:
        made.replicas = parts[0][1]
    else:
        for field in ("resources", "accelerators", "nodes"):
            made.ClearField(field)  # type: ignore[arg-type]
        made.replicas = 0
        for name, count, one in parts:
            group = made.member_groups.add(name=name, replicas=count, min_replicas=count)
            group.resources.CopyFrom(one.resources)
            group.accelerators.CopyFrom(one.accelerators)
            group.nodes.CopyFrom(one.nodes)
    _ask_for_topology(made, workload)
    return made


def _count(workload: Object, pod_set: Mapping[str, Any]) -> int:
    given = assignment_of(workload, str(pod_set["name"])).get("count")
    return int(pod_set.get("count", 1) if given is None else given)


def assignment_of(workload: Object, pod_set: str) -> Mapping[str, Any]:
    """What Kueue assigned to the pod set."""
    assigned = ((workload.get("status") or {}).get("admission") or {}).get("podSetAssignments") or ()
    return next((one for one in assigned if one.get("name") == pod_set), {})


def _pod(workload: Object, pod_set: Mapping[str, Any], flavors: Mapping[str, Object]) -> Object:
    """A pod of the set, as it will look once Kueue has put it onto its flavors."""
    template = pod_set["template"]
    metadata, spec = dict(template.get("metadata") or {}), dict(template.get("spec") or {})
    metadata |= {"name": pod_set["name"], "namespace": workload["metadata"].get("namespace", "")}
    priority = workload["spec"].get("priority")
    if priority is not None:
        spec["priority"] = priority
    for flavor in _flavors(workload, str(pod_set["name"]), flavors):
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **(flavor["spec"].get("nodeLabels") or {})}
        spec["tolerations"] = [*(spec.get("tolerations") or ()), *(flavor["spec"].get("tolerations") or ())]
    return {"metadata": metadata, "spec": spec}


def _flavors(workload: Object, pod_set: str, flavors: Mapping[str, Object]) -> list[Object]:
    """Raises InvalidInput for a flavor that is not there: where its pods may go is not known then."""
    found = []
    for name in sorted(set((assignment_of(workload, pod_set).get("flavors") or {}).values())):
        if name not in flavors:
            raise InvalidInput.of("ResourceFlavor", name, "is not there: create it, or assign another flavor")
        found.append(flavors[name])
    return found


def _ask_for_topology(made: jobs_pb2.JobSpec, workload: Object) -> None:
    """The level that the first pod set asks Kueue for, where Berth knows such levels."""
    for pod_set in workload["spec"]["podSets"]:
        request = pod_set.get("topologyRequest") or {}
        for field, required in (("required", True), ("preferred", False)):
            if level := level_of(str(request.get(field) or "")):
                made.topology.level, made.topology.required = level, required
                return


def level_of(label: str) -> str:
    """Berth's name of a topology level whose label on nodes this is; "": none."""
    if label.startswith(names.TOPOLOGY_PREFIX):
        return label.removeprefix(names.TOPOLOGY_PREFIX)
    return LEVELS.get(label, "")


# --- answering ---


def ready(
    decision: Decision, workload: Object, flavors: Mapping[str, Object], nodes: Mapping[str, fleet_pb2.Node]
) -> Answer:
    """With a node selector for each pod set that leads to where Berth would put it, as exactly as labels can say it.

    None for pods that Berth schedules itself, and for those whose topology Kueue has assigned.
    """
    selectors = {}
    for pod_set in workload["spec"]["podSets"]:
        name, spec = str(pod_set["name"]), pod_set["template"].get("spec") or {}
        if spec.get("schedulerName") == names.SCHEDULER_NAME or assignment_of(workload, name).get("topologyAssignment"):
            continue
        mine = [one for one in decision.members if one.group in ("", name)]
        taken = set(spec.get("nodeSelector") or {})
        for flavor in _flavors(workload, name, flavors):
            taken |= set(flavor["spec"].get("nodeLabels") or {})
        selector = _selector([nodes[one.node] for one in mine if one.node in nodes], nodes.values())
        if left := {key: value for key, value in selector.items() if key not in taken}:
            selectors[name] = left
    return Answer("Ready", f"berth: {decision.summary}", selectors)


def _selector(chosen: Sequence[fleet_pb2.Node], fleet: Iterable[fleet_pb2.Node]) -> dict[str, str]:
    """What all the chosen nodes share: labels that name their accelerators, and the one of the smallest domain."""
    if not chosen:
        return {}
    first = chosen[0].labels
    shared = {key for key in first if all(one.labels.get(key) == first[key] for one in chosen)}
    made = {key: first[key] for key in MODEL_LABELS if key in shared}
    domains = sorted(key for key in shared if key in LEVELS or key.startswith(names.TOPOLOGY_PREFIX))
    if domains:
        everywhere = list(fleet)
        sizes = {key: sum(1 for node in everywhere if node.labels.get(key) == first[key]) for key in domains}
        smallest = min(domains, key=lambda key: (sizes[key], key != HOSTNAME, key))
        made[smallest] = first[smallest]
    return made


def refused(rejection: Rejection, retries: int) -> Answer:
    """Retry with Berth's reasons; each retry waits twice as long as the one before."""
    told = [reason.message for reason in rejection.reasons] or [rejection.summary]
    helps = [f"would help: {remedy}" for remedy in rejection.remedies]
    wait = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(retries, 10))
    return Answer("Retry", "berth: " + "; ".join((*told, *helps)), retry_seconds=wait)


def state_of(check: str, answer: Answer, at: str) -> dict[str, Any]:
    """The entry of `status.admissionChecks`. `at`: RFC 3339."""
    made: dict[str, Any] = {
        "name": check,
        "state": answer.state,
        "message": answer.message[:LONGEST_MESSAGE],
        "lastTransitionTime": at,
    }
    if answer.retry_seconds is not None:
        made["requeueAfterSeconds"] = answer.retry_seconds
    if answer.selectors:
        made["podSetUpdates"] = [
            {"name": name, "nodeSelector": dict(selector)} for name, selector in answer.selectors.items()
        ]
    return made
