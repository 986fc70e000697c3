"""Puts Berth's own resources and rights into the test cluster, as deploy/kubernetes does."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

MANIFESTS = ROOT / "deploy/kubernetes"
NAMESPACE = "berth"
SERVICES = ("telemetry-ingest", "profile-store", "placement-engine", "binder")


def install_crds(cluster: Any) -> None:
    for path in sorted((MANIFESTS / "crds").glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "-f", str(path))
    names = [path.stem for path in sorted((MANIFESTS / "crds").glob("*.yaml"))]
    cluster.kubectl("wait", "--for=condition=Established", "crd", *names, "--timeout=20s")


def install_rights(cluster: Any) -> None:
    """Namespace, service accounts and RBAC."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    for path in sorted((MANIFESTS / "rbac").glob("*.yaml")):
        cluster.kubectl("apply", "--namespace", NAMESPACE, "-f", str(path))


def kubeconfig_of_service(cluster: Any, service: str, folder: Path) -> Path:
    """As the service's pod would have it: by a token of its service account, with its rights alone."""
    document = json.loads(cluster.kubeconfig.read_text(encoding="utf-8"))
    token = cluster.kubectl("create", "token", service, "--namespace", NAMESPACE).strip()
    document["users"][0]["user"] = {"token": token}
    path = folder / f"{service}.kubeconfig"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]
