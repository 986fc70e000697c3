"""Names that Berth reads and writes on Kubernetes objects. One place, so that documents and code agree.

Annotations of a pod (or labels, where the value is a valid label) that say what is wanted; all are optional.
"""

__all__ = [
    "ACCELERATOR",
    "ALLOCATED_FOR",
    "ANNOTATIONS",
    "ATTEMPT",
    "BINDER_SCHEDULER_NAME",
    "CREATED_FOR",
    "DEVICES",
    "DOMAIN",
    "EXECUTOR",
    "EXPORTER",
    "JOB",
    "MEMBER",
    "RELEASED",
    "SCHEDULER_NAME",
    "TOPOLOGY_PREFIX",
]

DOMAIN = "berth.dev"
SCHEDULER_NAME = "berth"
EXECUTOR = "kubernetes"

# Written with the binding, by the binder; never read as a wish.
JOB = f"{DOMAIN}/job"
"""Annotation of a bound pod: the job's id."""
ATTEMPT = f"{DOMAIN}/attempt"
"""Annotation of a bound pod: "<job id>.<attempt>"."""
DEVICES = f"{DOMAIN}/devices"
"""Annotation of a bound pod: the ids of the devices claimed for it, comma-separated."""
MEMBER = f"{DOMAIN}/member"
"""Annotation of a bound pod: which member of its gang it is, from 0."""
RELEASED = f"{DOMAIN}/released"
"""Annotation of a pod that was not bound when its attempt was let go: "<job id>.<attempt>". That attempt, and the
job's earlier ones, never bind it any more."""
CREATED_FOR = f"{DOMAIN}/created-for"
"""Label of a pod that the binder made from a job's manifest: a digest of the attempt's id. The annotation of the same
name has the id itself."""
BINDER_SCHEDULER_NAME = "berth-binder"
"""Scheduler of the pods that the binder makes: they are part of a job already, and nobody else's to take up."""
ALLOCATED_FOR = f"{DOMAIN}/allocated-for"
"""Annotation of a resource claim that Berth allocated: the uid of the pod whose job holds the devices in the ledger."""

# Wishes.
QUEUE = f"{DOMAIN}/queue"
TENANT = f"{DOMAIN}/tenant"
POOL = f"{DOMAIN}/pool"
WORKLOAD = f"{DOMAIN}/workload"
OBJECTIVE = f"{DOMAIN}/objective"
KIND = f"{DOMAIN}/kind"
ACCELERATORS = f"{DOMAIN}/accelerators"
TOPOLOGY = f"{DOMAIN}/topology"
"""The level that members should share, if they can."""
REQUIRED_TOPOLOGY = f"{DOMAIN}/required-topology"
"""The level that members must share."""
DEVICE_MEMORY = f"{DOMAIN}/device-memory"
DEADLINE = f"{DOMAIN}/deadline"
EXPECTED_DURATION = f"{DOMAIN}/expected-duration"
LATENCY_TARGET = f"{DOMAIN}/latency-target"
CHECKPOINT_INTERVAL = f"{DOMAIN}/checkpoint-interval"
PREEMPTIBLE = f"{DOMAIN}/preemptible"
IGNORE = f"{DOMAIN}/ignore"
"""Fields of the pod, comma-separated, that Berth does not honour and that the pod is to be scheduled without."""
GANG = f"{DOMAIN}/gang"
"""The gang's name, "true" for the pods of one owner, or "false" for none although the pod's kind would have one."""
GANG_SIZE = f"{DOMAIN}/gang-size"
GANG_MINIMUM = f"{DOMAIN}/gang-minimum"

# Other projects' names, read as wishes.
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"

ACCELERATOR = f"{DOMAIN}/accelerator"
"""Label of a node: the catalogue's name of its accelerators, where discovery does not tell, or is wrong."""
EXPORTER = f"{DOMAIN}/exporter"
"""Annotation of a pod: it is an exporter of its node's devices; the value is the format of its page, or "auto"."""

TRITON = f"{DOMAIN}/triton"
"""Annotation of a node: the address of its Triton server, such as http://10.0.0.7:8000."""
# Labels of a node: topology.berth.dev/rack=r7 puts it into the domain r7 of the level "rack".
TOPOLOGY_PREFIX = f"topology.{DOMAIN}/"

ANNOTATIONS = frozenset(
    value
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, str) and value.startswith(f"{DOMAIN}/")
)
"""Every name under Berth's domain that an object may carry."""

# Device taints that Berth publishes, and what its rules are known by; no pod carries them.
TAINT_FAULTY = f"{DOMAIN}/faulty"
TAINT_THROTTLED = f"{DOMAIN}/throttled"
TAINT_HOT = f"{DOMAIN}/hot"
MANAGED_BY = "app.kubernetes.io/managed-by"
DEVICE = f"{DOMAIN}/device"
"""Annotation of a rule: the device's id, "<driver>/<pool>/<device>"."""
VERDICT = f"{DOMAIN}/verdict"
"""Annotation of a rule: why, in words."""
