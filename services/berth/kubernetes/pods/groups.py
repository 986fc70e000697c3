"""Which gang a pod belongs to, by what the cluster's other projects write on pods. Pure.

| asked for by | gang |
|---|---|
| `spec.schedulingGroup.podGroupName` | scheduling.k8s.io PodGroup: gang.minCount; policy basic: none |
| annotation berth.dev/gang: <name>, with berth.dev/gang-size and berth.dev/gang-minimum | of that name |
| annotation scheduling.k8s.io/group-name (or scheduling.volcano.sh/group-name) | Volcano PodGroup |
| label scheduling.x-k8s.io/pod-group | PodGroup of scheduler-plugins |
| annotation pod-group-name | KAI's PodGroup |
| label leaderworkerset.sigs.k8s.io/name and group-index | one leader and its workers |
| label jobset.sigs.k8s.io/jobset-name | the JobSet: replicas x parallelism of its jobs |
| label training.kubeflow.org/job-name | the PyTorchJob, TFJob, MPIJob...: its replicas, or runPolicy's minAvailable |
| label ray.io/cluster | the RayCluster: head and workers; the fewest workers where it scales by itself |
| annotation berth.dev/gang: "true", owned by a Job | the Job's parallelism |

Where one part is only started once another runs (a JobSet in order, a LeaderWorkerSet whose leader comes first), the
parts that are there make the minimum. `berth.dev/gang: "false"` schedules such pods one by one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from berth.errors import FieldError, InvalidInput
from berth.kubernetes import names
from berth.kubernetes.client import Object
from berth.kubernetes.pods.wishes import level_of

__all__ = ["GROUP_PATHS", "Gang", "GangRef", "gang_of", "place_of", "ref_of"]

NATIVE, VOLCANO, PLUGINS, KAI = "scheduling.k8s.io", "scheduling.volcano.sh", "scheduling.x-k8s.io", "scheduling.run.ai"
OWN, BATCH, LWS, JOBSET = names.DOMAIN, "batch", "leaderworkerset.x-k8s.io", "jobset.x-k8s.io"
KUBEFLOW, RAY = "kubeflow.org", "ray.io"

GROUP_PATHS: Mapping[str, tuple[str, ...]] = {
    NATIVE: ("/apis/scheduling.k8s.io/v1beta1/podgroups", "/apis/scheduling.k8s.io/v1alpha3/podgroups"),
    VOLCANO: ("/apis/scheduling.volcano.sh/v1beta1/podgroups",),
    PLUGINS: ("/apis/scheduling.x-k8s.io/v1alpha1/podgroups",),
    KAI: ("/apis/scheduling.run.ai/v2alpha2/podgroups",),
}
"""Collections that hold groups, by API group; the first that the server knows counts."""

LWS_LABEL = "leaderworkerset.sigs.k8s.io"
JOBSET_LABEL, KUBEFLOW_LABEL = "jobset.sigs.k8s.io/jobset-name", "training.kubeflow.org/job-name"
ROLES = (
    "jobset.sigs.k8s.io/replicatedjob-name",
    "training.kubeflow.org/replica-type",
    "ray.io/group",
    "ray.io/node-type",
    "volcano.sh/task-spec",
)
INDICES = (
    f"{LWS_LABEL}/worker-index",
    "jobset.sigs.k8s.io/job-global-index",
    "training.kubeflow.org/replica-index",
    "batch.kubernetes.io/job-completion-index",
    "apps.kubernetes.io/pod-index",
)
FIRST_ROLES = ("launcher", "master", "chief", "leader", "head", "headgroup", "driver")
# Kinds whose pods are counted by their owner only, so that without it nothing can be said.
OWNED = (BATCH, JOBSET, KUBEFLOW, RAY)
NOT_IN_A_NAME = re.compile(r"[^a-z0-9.-]+")


@dataclass(frozen=True, slots=True, order=True)
class GangRef:
    """A gang by name. `api`: whose group it is; with an object of its own where `GROUP_PATHS` knows the API."""

    api: str
    namespace: str
    name: str
    path: str = ""
    """Of the object that owns the gang's pods and says how many they are, to be read when needed; "": none does."""

    @property
    def shown(self) -> str:
        if self.path:
            return f"{self.path.split('/')[-2]} {self.name}"
        return f"PodGroup {self.name} ({self.api})" if self.api in GROUP_PATHS else f"gang {self.name}"


@dataclass(frozen=True, slots=True)
class Gang:
    """`size` 0: not known, then those that are there after a quiet moment are all. `thing`: the group's object."""

    ref: GangRef
    uid: str
    minimum: int
    size: int = 0
    level: str = ""
    level_required: bool = False
    queue: str = ""
    priority: int | None = None
    thing: Object | None = None

    @property
    def name(self) -> str:
        return self.ref.name


def ref_of(pod: Object) -> GangRef | None:
    """The gang that the pod names; None: it is on its own."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    namespace = str(metadata.get("namespace", "default"))
    if name := (spec.get("schedulingGroup") or {}).get("podGroupName"):
        return GangRef(NATIVE, namespace, name)
    own = annotations.get(names.GANG) or labels.get(names.GANG) or ""
    if own == "false":
        return None
    if own not in ("", "true"):
        return GangRef(OWN, namespace, own)
    if own == "true" and (owner := _owner(metadata)):
        if owner[0] == "Job":
            return GangRef(BATCH, namespace, owner[1], _path("batch/v1", namespace, "jobs", owner[1]))
        return GangRef(OWN, namespace, owner[1])
    if name := annotations.get("scheduling.k8s.io/group-name") or annotations.get(f"{VOLCANO}/group-name"):
        return GangRef(VOLCANO, namespace, name)
    if name := labels.get("scheduling.x-k8s.io/pod-group"):
        return GangRef(PLUGINS, namespace, name)
    if name := annotations.get("pod-group-name"):
        return GangRef(KAI, namespace, name)
    if (name := labels.get(f"{LWS_LABEL}/name")) and (index := labels.get(f"{LWS_LABEL}/group-index")):
        path = _path(f"{LWS}/v1", namespace, "leaderworkersets", name)
        return GangRef(LWS, namespace, f"{name}-{index}", path)
    if name := labels.get(JOBSET_LABEL):
        return GangRef(JOBSET, namespace, name, _path(f"{JOBSET}/v1alpha2", namespace, "jobsets", name))
    if (name := labels.get(KUBEFLOW_LABEL)) and (owner := _owner(metadata)):
        return GangRef(KUBEFLOW, namespace, name, _path(f"{KUBEFLOW}/v1", namespace, f"{owner[0].lower()}s", name))
    if name := labels.get("ray.io/cluster"):
        return GangRef(RAY, namespace, name, _path(f"{RAY}/v1", namespace, "rayclusters", name))
    return None


def _path(version: str, namespace: str, plural: str, name: str) -> str:
    return f"/apis/{version}/namespaces/{namespace}/{plural}/{name}"


def gang_of(ref: GangRef, thing: Object | None, pods: list[Object]) -> Gang | None:
    """The gang's facts from its object, else from its pods; None: its pods are on their own.

    Raises InvalidInput where they contradict themselves, and LookupError where the object is not there (yet).
    """
    if ref.api in GROUP_PATHS:
        if thing is None:
            raise LookupError(f"{ref.shown} does not exist yet: create it in namespace {ref.namespace}")
        return _native(ref, thing) if ref.api == NATIVE else _foreign(ref, thing)
    if ref.path and thing is not None:
        return _owned(ref, thing, pods)
    if ref.api == LWS and (size := _number(pods, f"{LWS_LABEL}/size")):
        return Gang(ref, _uid(ref, pods), minimum=size, size=size)
    if ref.api in OWNED and not any(_number(pods, one) for one in (names.GANG_SIZE, names.GANG_MINIMUM)):
        raise LookupError(f"{ref.shown} cannot be read, so how many pods it has is not known: say {names.GANG_SIZE}")
    size, minimum = _number(pods, names.GANG_SIZE), _number(pods, names.GANG_MINIMUM)
    if size and minimum > size:
        raise InvalidInput.of(f"metadata.annotations[{names.GANG_MINIMUM}]", minimum, f"write at most {size}, the size")
    if not size and not minimum:
        raise InvalidInput(
            [FieldError(f"metadata.annotations[{names.GANG_SIZE}]", "", f"say how many pods make gang {ref.name}")]
        )
    return Gang(ref, _uid(ref, pods), minimum=minimum or size, size=size)


def place_of(pod: Object) -> tuple[int, str, int]:
    """(0 for a role that leads, the role, the index in it): what the members of a gang are ordered by."""
    metadata = pod.get("metadata") or {}
    labels = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    role = next((str(labels[one]) for one in ROLES if labels.get(one)), "")
    if not role and (worker := labels.get(f"{LWS_LABEL}/worker-index")):
        role = "leader" if worker == "0" else "worker"
    role = NOT_IN_A_NAME.sub("-", role.lower()).strip("-.")[:50]
    index = next((int(labels[one]) for one in INDICES if str(labels.get(one, "")).isdigit()), 0)
    return 0 if role in FIRST_ROLES else 1, role, index


def _native(ref: GangRef, thing: Object) -> Gang | None:
    spec = thing.get("spec") or {}
    gang = (spec.get("schedulingPolicy") or {}).get("gang")
    if gang is None:
        return None
    topology = (spec.get("schedulingConstraints") or {}).get("topology") or ()
    level = ""
    for constraint in topology:
        level = level_of(str(constraint.get("key", "")))
        if not level:
            raise InvalidInput.of(
                f"{ref.shown}: spec.schedulingConstraints.topology.key", constraint.get("key"),
                f"is no level that Berth knows: name a label such as {names.TOPOLOGY_PREFIX}rack",
            )  # fmt: skip
    return Gang(
        ref, str(thing["metadata"]["uid"]), minimum=max(1, int(gang.get("minCount") or 1)), level=level,
        level_required=bool(level), priority=spec.get("priority"), thing=thing,
    )  # fmt: skip


def _foreign(ref: GangRef, thing: Object) -> Gang:
    spec = thing.get("spec") or {}
    level, required = "", False
    # Volcano: networkTopology.highestTierAllowed counts tiers, which no label names. KAI names node labels.
    constraint = spec.get("topologyConstraint") or {}
    for field, must in (("requiredTopologyLevel", True), ("preferredTopologyLevel", False)):
        if not level and constraint.get(field):
            level, required = level_of(str(constraint[field])), must
    return Gang(
        ref, str(thing["metadata"]["uid"]), minimum=max(1, int(spec.get("minMember") or 1)), level=level,
        level_required=required, queue=str(spec.get("queue") or ""), thing=thing,
    )  # fmt: skip


def _owned(ref: GangRef, thing: Object, pods: list[Object]) -> Gang | None:
    """By the object that owns the pods; the counts are those that its controller will make."""
    spec = thing.get("spec") or {}
    sizes: dict[str, int] = {}
    minimum, queue, by_parts = 0, "", False
    if ref.api == BATCH:
        parallelism = _count(spec.get("parallelism"))
        sizes["job"] = min(parallelism, _count(spec.get("completions"), parallelism))
    elif ref.api == LWS:
        size = _count((spec.get("leaderWorkerTemplate") or {}).get("size"))
        sizes = {"leader": 1, "worker": size - 1}
        by_parts = spec.get("startupPolicy") == "LeaderReady"
    elif ref.api == JOBSET:
        by_parts = (spec.get("startupPolicy") or {}).get("startupPolicyOrder") == "InOrder"
        for job in spec.get("replicatedJobs") or ():
            template = (job.get("template") or {}).get("spec") or {}
            sizes[str(job.get("name", ""))] = _count(job.get("replicas")) * _count(template.get("parallelism"))
            by_parts = by_parts or bool(job.get("dependsOn"))
    elif ref.api == KUBEFLOW:
        for key, replicas in spec.items():
            if key.endswith("ReplicaSpecs"):
                sizes = {str(role): _count((one or {}).get("replicas")) for role, one in (replicas or {}).items()}
        policy = (spec.get("runPolicy") or {}).get("schedulingPolicy") or {}
        minimum, queue = _count(policy.get("minAvailable"), 0), str(policy.get("queue") or "")
    elif ref.api == RAY:
        scales = bool(spec.get("enableInTreeAutoscaling"))
        groups = spec.get("workerGroupSpecs") or ()
        sizes["head"] = 1
        for group in groups:
            hosts = _count(group.get("numOfHosts"))
            sizes[str(group.get("groupName", ""))] = _count(group.get("replicas"), 0) * hosts
            minimum += _count(group.get("minReplicas"), 0) * hosts if scales else 0
        minimum += 1 if scales else 0
    roles = {place_of(pod)[1] for pod in pods}
    if by_parts:
        minimum = sum(size for role, size in sizes.items() if role.lower() in roles)
    size = sum(sizes.values())
    thing_uid = str(thing["metadata"]["uid"])
    uid = f"{thing_uid}.{ref.name}" if ref.api == LWS else thing_uid
    return Gang(ref, uid, minimum=max(1, minimum or size), size=0 if by_parts else size, queue=queue, thing=thing)


def _count(value: Any, default: int = 1) -> int:
    """How many, where the API's default is another than none; what is no count is the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _number(pods: list[Object], name: str) -> int:
    """The largest that a pod's annotation or label says; 0: none says it."""
    largest = 0
    for pod in pods:
        metadata: dict[str, Any] = pod.get("metadata") or {}
        written = str((metadata.get("annotations") or {}).get(name) or (metadata.get("labels") or {}).get(name) or "")
        if written and not (written.isdigit() and 0 < int(written) <= 65536):
            raise InvalidInput.of(f"metadata.annotations[{name}]", written, "write a whole number of pods, 1 to 65536")
        largest = max(largest, int(written or 0))
    return largest


def _owner(metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    """(kind, name) of what controls the pod."""
    for one in metadata.get("ownerReferences") or ():
        if one.get("controller"):
            return str(one.get("kind", "")), str(one.get("name", ""))
    return None


def _uid(ref: GangRef, pods: list[Object]) -> str:
    """Of a gang without an object: its owner's uid, else its name; its members' uids are in the digest."""
    owners = {
        str(owner.get("uid", ""))
        for pod in pods
        for owner in pod["metadata"].get("ownerReferences") or ()
        if owner.get("controller")
    }
    return owners.pop() if len(owners) == 1 else f"{ref.api}/{ref.namespace}/{ref.name}"[:200]
