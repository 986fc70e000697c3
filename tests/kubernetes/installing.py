"""Puts Berth's own resources and rights into a test cluster, as deploy/kubernetes does."""

import json
import subprocess
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.conftest import ROOT

MANIFESTS = ROOT / "deploy/kubernetes"
NAMESPACE = "berth"
SERVICES = ("telemetry-ingest", "profile-store", "placement-engine", "binder")
EXTENDER = "engine-as-extender"
"""A service account with the rights of placement-engine where components/extender is installed."""


class Cluster(Protocol):
    def kubectl(self, *arguments: str, stdin: str = "") -> str: ...


class Reached:
    """A cluster by its kubeconfig file alone."""

    def __init__(self, kubectl: Path, kubeconfig: Path) -> None:
        self._command = [str(kubectl), f"--kubeconfig={kubeconfig}"]

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run([*self._command, *arguments], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def install_crds(cluster: Cluster) -> None:
    files = sorted((MANIFESTS / "crds").glob("*.yaml"))
    cluster.kubectl("apply", "--server-side", *(f"--filename={path}" for path in files))
    cluster.kubectl("wait", "--for=condition=Established", "crd", *(path.stem for path in files), "--timeout=20s")


def install_rights(cluster: Cluster) -> None:
    """Namespace, service accounts and RBAC."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    files = [*sorted((MANIFESTS / "rbac").glob("*.yaml")), MANIFESTS / "components/extender/rbac.yaml"]
    objects = [namespace, *(one for path in files for one in documents(path.read_text(encoding="utf-8")))]
    objects.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": EXTENDER}})
    for one in objects:
        if one["kind"] == "ServiceAccount":
            one["metadata"]["namespace"] = NAMESPACE
        if one["kind"] == "ClusterRoleBinding":
            accounts = one["subjects"]
            if one["metadata"]["name"] == "berth-extender":
                accounts[0]["name"] = EXTENDER  # the engine itself stays without
            elif accounts[0]["name"] == "placement-engine":
                accounts.append({**accounts[0], "name": EXTENDER})
    cluster.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(objects))


def kubeconfig_of_service(cluster: Cluster, service: str, folder: Path, *, like: Path | None = None) -> Path:
    """As the service's pod would have it: by a token of its service account, with its rights alone. `like`: another
    kubeconfig than the cluster's own to take the server's address of."""
    source = like or cluster.kubeconfig  # type: ignore[attr-defined]
    document: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    token = cluster.kubectl("create", "token", service, "--namespace", NAMESPACE, "--duration=2h").strip()
    document["users"][0]["user"] = {"token": token}
    path = folder / f"{service}.kubeconfig"
    path.write_text(json.dumps(document), encoding="utf-8")
    path.chmod(0o600)
    return path


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]
