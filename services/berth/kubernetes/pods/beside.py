"""A pod that another scheduler places, as a job for Berth to judge.

What that scheduler looks at itself (affinity between pods, spreading, resource claims, what is no device) is left out,
and refuses nothing here; Kueue's name of a queue is Kueue's, and none of Berth's.
"""

from collections.abc import Mapping
from typing import Any

from berth.kubernetes import names
from berth.kubernetes.client import Object
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.pods.constraints import unhonoured
from berth.kubernetes.pods.translation import job_of
from berth.v1 import jobs_pb2 as pb

__all__ = ["job_beside"]

COUNTED = ("cpu", "memory")
CONTAINERS = ("containers", "initContainers")


def job_beside(pod: Object, resources: DeviceResources) -> pb.JobSpec:
    """A job of one member. Raises InvalidInput that names the field, the value and the remedy."""
    metadata, spec = dict(pod.get("metadata") or {}), dict(pod.get("spec") or {})

    def counted(given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {
            **given,
            **{
                kind: {
                    name: amount
                    for name, amount in given[kind].items()
                    if name in COUNTED or resources.claim_of(name) is not None
                }
                for kind in ("requests", "limits")
                if isinstance(given.get(kind), Mapping)
            },
        }

    spec.pop("resourceClaims", None)
    for field in CONTAINERS:
        if spec.get(field):
            spec[field] = [{**one, "resources": counted(one.get("resources"))} for one in spec[field]]
    if spec.get("resources"):
        spec["resources"] = counted(spec["resources"])
    ignored = ",".join(one.field for one in unhonoured(pod) if one.refused)
    metadata["annotations"] = {**_without_kueue(metadata.get("annotations")), names.IGNORE: ignored}
    metadata["labels"] = _without_kueue(metadata.get("labels"))
    metadata.setdefault("name", metadata.get("generateName", "") + "x" if metadata.get("generateName") else "pod")
    metadata.setdefault("uid", "")
    made = job_of([{**pod, "metadata": metadata, "spec": spec}], None, resources.claim_of).spec
    # Berth starts nothing of it: a payload without a pod of its own, which any number of members may have.
    made.kubernetes.Clear()
    made.kubernetes.manifest = "kind: Pod"
    return made


def _without_kueue(given: Mapping[str, str] | None) -> dict[str, str]:
    return {key: value for key, value in (given or {}).items() if key != names.KUEUE_QUEUE}
