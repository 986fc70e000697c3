"""Builders of what Dynamic Resource Allocation is made of: slices, classes, claims."""

from collections.abc import Mapping, Sequence
from typing import Any

from berth.kubernetes.client import Object

DRIVER = "gpu.example.com"


def attributes(**values: Any) -> Object:
    """Attributes by what Python's types say; a tuple ("1.2.3",) is a version."""
    kinds: dict[type, str] = {bool: "bool", int: "int", str: "string"}
    return {
        name.replace("__", "/"): {"version": value[0]} if isinstance(value, tuple) else {kinds[type(value)]: value}
        for name, value in values.items()
    }


def device(
    name: str,
    *,
    model: str = "NVIDIA H100 80GB HBM3",
    memory: str = "80Gi",
    taints: Sequence[Object] = (),
    draws: Mapping[str, Mapping[str, int | str]] | None = None,
    **values: Any,
) -> Object:
    """`draws`: counter set to counters. Any other keyword is an attribute."""
    made: Object = {"name": name, "attributes": attributes(**({"productName": model} if model else {}), **values)}
    if memory:
        made["capacity"] = {"memory": {"value": memory}}
    if taints:
        made["taints"] = [dict(one) for one in taints]
    if draws:
        made["consumesCounters"] = [
            {"counterSet": name, "counters": {key: {"value": str(amount)} for key, amount in counters.items()}}
            for name, counters in draws.items()
        ]
    return made


def gpus(count: int, **fields: Any) -> list[Object]:
    return [device(f"gpu-{number}", **fields) for number in range(count)]


def resource_slice(
    node: str,
    devices: Sequence[Object] = (),
    *,
    driver: str = DRIVER,
    pool: str = "",
    name: str = "",
    generation: int = 1,
    of: int = 1,
    counters: Mapping[str, Mapping[str, int | str]] | None = None,
) -> Object:
    """A slice of the node's pool; `counters`: one that has counter sets in the place of devices."""
    pool = pool or node
    spec: Object = {
        "driver": driver,
        "nodeName": node,
        "pool": {"name": pool, "generation": generation, "resourceSliceCount": of},
    }
    if counters:
        spec["sharedCounters"] = [
            {"name": one, "counters": {key: {"value": str(amount)} for key, amount in held.items()}}
            for one, held in counters.items()
        ]
    else:
        spec["devices"] = [dict(one) for one in devices]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name or f"{pool}-{driver}-{generation}{'-counters' if counters else ''}"},
        "spec": spec,
    }


def device_class(name: str = "gpu", *expressions: str, config: Sequence[Object] = ()) -> Object:
    spec: Object = {"selectors": cel(*(expressions or (f'device.driver == "{DRIVER}"',)))}
    if config:
        spec["config"] = list(config)
    return {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name}, "spec": spec}


def cel(*expressions: str) -> list[Object]:
    return [{"cel": {"expression": one}} for one in expressions]


def wish(count: int = 1, *expressions: str, of: str = "gpu", everything: bool = False, **fields: Any) -> Object:
    """What stands under `exactly`, or is an alternative's content."""
    made: Object = {"deviceClassName": of, **fields}
    if everything:
        made["allocationMode"] = "All"
    else:
        made |= {"allocationMode": "ExactCount", "count": count}
    if expressions:
        made["selectors"] = cel(*expressions)
    return made


def request(name: str = "gpu", wanted: Object | None = None, *, first: Mapping[str, Object] | None = None) -> Object:
    """`first`: alternatives by name, in order."""
    if first:
        return {"name": name, "firstAvailable": [{"name": key, **value} for key, value in first.items()]}
    return {"name": name, "exactly": wanted or wish()}


def claim_spec(*requests: Object, constraints: Sequence[Object] = (), config: Sequence[Object] = ()) -> Object:
    devices: Object = {"requests": list(requests) or [request()]}
    if constraints:
        devices["constraints"] = list(constraints)
    if config:
        devices["config"] = list(config)
    return {"devices": devices}


def claim(name: str, *requests: Object, **fields: Any) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": claim_spec(*requests, **fields),
    }


def template(name: str, *requests: Object, **fields: Any) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"spec": claim_spec(*requests, **fields)},
    }


def node(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}}
