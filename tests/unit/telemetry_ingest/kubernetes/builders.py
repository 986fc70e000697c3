"""Nodes, pods and endpoints as the API has them; a test states only what it is about."""

from typing import Any

READY = {"type": "Ready", "status": "True", "reason": "KubeletReady"}


def a_node(
    name: str = "n1",
    resources: dict[str, Any] | None = None,
    *,
    labels: dict[str, str] | None = None,
    allocatable: dict[str, Any] | None = None,
    conditions: tuple[dict[str, str], ...] = (READY,),
    **spec: Any,
) -> dict[str, Any]:
    """`resources` are its capacity; `allocatable` what differs from it."""
    capacity = {"cpu": "64", "memory": "512Gi", **(resources or {})}
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
        "status": {
            "capacity": capacity,
            "allocatable": {**capacity, **(allocatable or {})},
            "conditions": list(conditions),
            "nodeInfo": {"bootID": "b1"},
        },
    }


def a_pod(
    name: str = "p1",
    requests: dict[str, Any] | None = None,
    *,
    node: str = "n1",
    phase: str = "Running",
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    address: str = "10.0.0.9",
    **spec: Any,
) -> dict[str, Any]:
    containers = [{"name": "main", "resources": {"requests": requests or {}}}]
    return {
        "metadata": {"namespace": "ml", "name": name, "annotations": annotations or {}, "labels": labels or {}},
        "spec": {"nodeName": node, "containers": containers, **spec},
        "status": {"phase": phase, "podIP": address},
    }
