"""Exporters that run in the cluster: which pods and endpoints give a node's page.

Only exporters of devices that Berth can read are taken, by their names; `berth.dev/exporter: <format>` on a pod makes
any other one of them. That a pod is annotated for Prometheus does not say what its page is about.
"""

from collections.abc import Mapping
from typing import Any

from berth.errors import InvalidInput
from berth.kubernetes import names
from telemetry_ingest.domain.formats import AUTO, check_format
from telemetry_ingest.domain.targets import Target

__all__ = ["targets_of_pod", "targets_of_slice"]

# Part of a workload's or service's name, and the format of its page.
KNOWN = {
    "dcgm-exporter": "dcgm",
    "amd-metrics-exporter": "amd",
    "amdgpu-metrics-exporter": "amd",
    "device-metrics-exporter": "amd",
    "habana-metric-exporter": "gaudi",
    "gaudi-metric-exporter": "gaudi",
    "metric-exporter-habana": "gaudi",
    "xpumanager": AUTO,
    "xpum-exporter": AUTO,
    "xpumd": AUTO,
    "sambanova-exporter": AUTO,
    "node-exporter": "node_exporter",
    "kepler": AUTO,
}
NAME_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app", "k8s-app", "name")
SERVICE_LABEL = "kubernetes.io/service-name"
METRIC_PORTS = ("metrics", "http-metrics", "prometheus")


def targets_of_pod(pod: Mapping[str, Any]) -> tuple[Target, ...]:
    """By its annotations prometheus.io/scrape, port, path and scheme, where it runs on a node and has an address."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    asked = annotations.get(names.EXPORTER)
    if asked is None and annotations.get("prometheus.io/scrape") != "true":
        return ()
    node, address = spec.get("nodeName") or "", status.get("podIP") or ""
    if not node or not address or status.get("phase") != "Running" or metadata.get("deletionTimestamp"):
        return ()
    labels = metadata.get("labels") or {}
    form = _format([labels.get(label, "") for label in NAME_LABELS]) if asked is None else _asked(asked)
    port = annotations.get("prometheus.io/port") or _container_port(spec)
    if form is None or not str(port).isdigit() or not 0 < int(port) < 65536:
        return ()
    path = annotations.get("prometheus.io/path") or "/metrics"
    scheme = "https" if annotations.get("prometheus.io/scheme") == "https" else "http"
    return (Target(node, _url(scheme, address, int(port), path), form),)


def targets_of_slice(endpoints: Mapping[str, Any]) -> tuple[Target, ...]:
    """Of an EndpointSlice of a known exporter's service: one for each endpoint that is ready and on a node."""
    service = (endpoints["metadata"].get("labels") or {}).get(SERVICE_LABEL, "")
    form = _format([service])
    ports = [one for one in endpoints.get("ports") or () if one.get("port")]
    chosen = next(
        (one for name in METRIC_PORTS for one in ports if one.get("name") == name), ports[0] if ports else None
    )
    if form is None or chosen is None or endpoints.get("addressType") == "FQDN":
        return ()
    scheme = "https" if "https" in (chosen.get("name") or "", chosen.get("appProtocol") or "") else "http"
    found = []
    for endpoint in endpoints.get("endpoints") or ():
        node, addresses = endpoint.get("nodeName"), endpoint.get("addresses") or ()
        # Absent means ready (discovery.k8s.io/v1, EndpointConditions).
        if node and addresses and (endpoint.get("conditions") or {}).get("ready") is not False:
            found.append(Target(node, _url(scheme, addresses[0], int(chosen["port"]), "/metrics"), form))
    return tuple(found)


def _format(called: list[str]) -> str | None:
    return next((form for part, form in KNOWN.items() for name in called if part in name), None)


def _asked(name: str) -> str | None:
    try:
        return check_format(name.strip())
    except InvalidInput:
        return AUTO


def _container_port(spec: Mapping[str, Any]) -> str:
    ports = [port for container in spec.get("containers") or () for port in container.get("ports") or ()]
    named = [port for port in ports if port.get("name") in METRIC_PORTS]
    return str((named or ports or [{}])[0].get("containerPort", ""))


def _url(scheme: str, address: str, port: int, path: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}:{port}/{path.lstrip('/')}"
