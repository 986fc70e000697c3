"""Kueue's own custom resource definitions, and a stand-in for what its controller does to a Workload."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from berth.kubernetes.client import Kubernetes, Object
from tests.conftest import ROOT
from tests.kubernetes.extending import GPU

VERSION = "kueue.x-k8s.io/v1beta2"
API = f"/apis/{VERSION}"
WORKLOADS = f"{API}/namespaces/default/workloads"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def definitions() -> Path | str:
    """The folder of the definitions in Kueue's module, fetched by Go; a line that says what is missing."""
    if shutil.which("go") is None:
        return "go is not on the PATH: Kueue's definitions come from its module"
    done = subprocess.run(
        ["go", "mod", "download", "-json", "sigs.k8s.io/kueue"],
        cwd=ROOT / "deploy/controlplane/kueue", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return f"Kueue's module cannot be fetched: {done.stderr.strip() or done.stdout.strip()}"
    return Path(json.loads(done.stdout)["Dir"]) / "config/components/crd/bases"


def a_pod_set(name: str = "main", count: int = 1, devices: int = 8, **spec: Any) -> Object:
    metadata = {"annotations": spec.pop("annotations", {})}
    topology = spec.pop("topology", None)
    asked = {"cpu": "1", GPU: str(devices)}
    container = {"name": "main", "image": "none", "resources": {"limits": {GPU: str(devices)}, "requests": asked}}
    template = {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": [container], **spec}}
    more = {"topologyRequest": {"required": topology}} if topology else {}
    return {"name": name, "count": count, "template": template, **more}


class KueueStandIn:
    """Sets a Workload's status as Kueue's controller would: the controller itself does not run in these tests."""

    def __init__(self, client: Kubernetes) -> None:
        self._client = client

    async def reserves_quota(self, name: str, check: str, *pod_sets: Object, flavor: str = "") -> None:
        """A Workload with its quota and our check pending."""
        manifest = {
            "apiVersion": VERSION,
            "kind": "Workload",
            "metadata": {"name": name},
            "spec": {"podSets": pod_sets},
        }
        made = await self._client.post(WORKLOADS, {**manifest, "spec": {"podSets": list(pod_sets)}})
        assignments = [
            {"name": one["name"], "count": one["count"], **({"flavors": {GPU: flavor}} if flavor else {})}
            for one in pod_sets
        ]
        made["status"] = {
            "admission": {"clusterQueue": "all", "podSetAssignments": assignments},
            "conditions": [_condition("QuotaReserved", "True")],
            "admissionChecks": [_pending(check), _pending("somebody-elses")],
        }
        await self._client.put(f"{WORKLOADS}/{name}/status", made)

    async def asks_again(self, name: str, check: str) -> None:
        """After a Retry: evicted, queued again, and with its quota once more."""
        made = await self._client.get(f"{WORKLOADS}/{name}")
        made["status"]["admissionChecks"] = [{**_pending(check), "retryCount": 1}, _pending("somebody-elses")]
        await self._client.put(f"{WORKLOADS}/{name}/status", made)


def _pending(check: str) -> Object:
    return {"name": check, "state": "Pending", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def _condition(kind: str, status: str) -> Object:
    return {
        "type": kind, "status": status, "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
