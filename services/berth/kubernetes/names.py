"""Names that Berth reads and writes on Kubernetes objects. One place, so that documents and code agree.

Annotations of a pod (or labels, where the value is a valid label) that say what is wanted; all are optional.
"""

__all__ = [
    "ATTEMPT",
    "BINDER_SCHEDULER_NAME",
    "CREATED_FOR",
    "DEVICES",
    "DOMAIN",
    "EXECUTOR",
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

# Wishes.
QUEUE = f"{DOMAIN}/queue"
TENANT = f"{DOMAIN}/tenant"
POOL = f"{DOMAIN}/pool"
WORKLOAD = f"{DOMAIN}/workload"
OBJECTIVE = f"{DOMAIN}/objective"
KIND = f"{DOMAIN}/kind"
ACCELERATORS = f"{DOMAIN}/accelerators"
TOPOLOGY = f"{DOMAIN}/topology"
GANG = f"{DOMAIN}/gang"
GANG_SIZE = f"{DOMAIN}/gang-size"
GANG_MINIMUM = f"{DOMAIN}/gang-minimum"

# Device taints that Berth publishes, and what its rules are known by.
TAINT_FAULTY = f"{DOMAIN}/faulty"
TAINT_THROTTLED = f"{DOMAIN}/throttled"
TAINT_HOT = f"{DOMAIN}/hot"
MANAGED_BY = "app.kubernetes.io/managed-by"
DEVICE = f"{DOMAIN}/device"
"""Annotation of a rule: the device's id, "<driver>/<pool>/<device>"."""
VERDICT = f"{DOMAIN}/verdict"
"""Annotation of a rule: why, in words."""

# Labels of a node: topology.berth.dev/rack=r7 puts it into the domain r7 of the level "rack".
TOPOLOGY_PREFIX = f"topology.{DOMAIN}/"
