"""Names that Berth reads and writes on Kubernetes objects. One place, so that documents and code agree.

Annotations of a pod (or labels, where the value is a valid label) that say what is wanted; all are optional.
"""

__all__ = [
    "ACCELERATOR",
    "ALLOCATED_FOR",
    "ATTEMPT",
    "DEVICES",
    "DOMAIN",
    "EXECUTOR",
    "EXPORTER",
    "JOB",
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
GANG = f"{DOMAIN}/gang"
GANG_SIZE = f"{DOMAIN}/gang-size"
GANG_MINIMUM = f"{DOMAIN}/gang-minimum"

ACCELERATOR = f"{DOMAIN}/accelerator"
"""Label of a node: the catalogue's name of its accelerators, where discovery does not tell, or is wrong."""
EXPORTER = f"{DOMAIN}/exporter"
"""Annotation of a pod: it is an exporter of its node's devices; the value is the format of its page, or "auto"."""
# Labels of a node: topology.berth.dev/rack=r7 puts it into the domain r7 of the level "rack".
TOPOLOGY_PREFIX = f"topology.{DOMAIN}/"
