"""What is written into a claim's status: the devices, their configuration, and the node that it ties its pods to."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from berth.kubernetes.claims.matching import Grant
from berth.kubernetes.claims.slices import device_id
from berth.kubernetes.client import Object

__all__ = ["FINALIZER", "allocated_devices", "allocation_of", "consumer", "is_reserved_for", "node_terms"]

FINALIZER = "resource.kubernetes.io/delete-protection"
MOST_CONSUMERS = 256


def allocation_of(claim: Object, grants: Sequence[Grant], classes: Mapping[str, Object]) -> Object:
    """status.allocation of a claim whose requests got `grants`."""
    devices: Object = {"results": [_result(grant) for grant in grants]}
    if config := _configuration(claim, grants, classes):
        devices["config"] = config
    allocation: Object = {"devices": devices}
    if selector := _node_selector(grants):
        allocation["nodeSelector"] = selector
    return allocation


def _result(grant: Grant) -> Object:
    offer = grant.offer
    result: Object = {
        "request": grant.request,
        "driver": offer.driver,
        "pool": offer.pool,
        "device": offer.name,
    }
    if grant.admin:
        result["adminAccess"] = True
    if grant.tolerations:
        result["tolerations"] = [dict(one) for one in grant.tolerations]
    return result


def _configuration(claim: Object, grants: Sequence[Grant], classes: Mapping[str, Object]) -> list[Object]:
    """That of the classes first, then the claim's own: a driver lets later ones win."""
    served = list(dict.fromkeys((grant.request, grant.device_class) for grant in grants))
    requests = [request["name"] for request in claim["spec"]["devices"].get("requests") or ()]
    found: list[Object] = []
    for name in dict.fromkeys(device_class for _, device_class in served):
        names = [request for request, device_class in served if device_class == name]
        for config in (classes.get(name) or {"spec": {}})["spec"].get("config") or ():
            found.append({"source": "FromClass", "requests": names, **config})
    # A claim's entry that speaks of requests is kept where one of them, or the alternative that was taken, is served.
    spoken_of = {*requests, *(request for request, _ in served)}
    for config in claim["spec"]["devices"].get("config") or ():
        if not config.get("requests") or spoken_of & set(config["requests"]):
            found.append({"source": "FromClaim", **config})
    for config in found:
        named = set(config.get("requests") or ())
        chosen = {request.partition("/")[0]: request for request, _ in served}
        if named and all(one in named or chosen.get(one) in named for one in requests):
            del config["requests"]  # "none" means all of them
    return found


def _node_selector(grants: Iterable[Grant]) -> Object | None:
    terms: dict[str, list[Any]] = {"matchFields": [], "matchExpressions": []}
    for grant in grants:
        if grant.offer.node_name:
            name = {"key": "metadata.name", "operator": "In", "values": [grant.offer.node_name]}
            return {"nodeSelectorTerms": [{"matchFields": [name]}]}
        for term in (grant.offer.node_selector or {}).get("nodeSelectorTerms") or ():
            for kind, known in terms.items():
                known += [one for one in term.get(kind) or () if one not in known]
    whole = {kind: known for kind, known in terms.items() if known}
    return {"nodeSelectorTerms": [whole]} if whole else None


def node_terms(claim: Object) -> list[Mapping[str, Any]]:
    """Of an allocated claim: the node selector's terms; none: every node will do."""
    selector = (claim.get("status") or {}).get("allocation", {}).get("nodeSelector") or {}
    return list(selector.get("nodeSelectorTerms") or ())


def allocated_devices(claim: Object) -> list[str]:
    """Ids of the devices that the claim holds, each once. Access for administration holds nothing."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    # A device whose capacity is consumed in shares may serve a claim twice.
    found = {
        device_id(result["driver"], result["pool"], result["device"]): None
        for result in (allocation.get("devices") or {}).get("results") or ()
        if not result.get("adminAccess")
    }
    return list(found)


def consumer(pod: Object) -> Object:
    metadata = pod["metadata"]
    return {"resource": "pods", "name": metadata["name"], "uid": metadata["uid"]}


def is_reserved_for(claim: Object, pod: Object) -> bool:
    reserved = (claim.get("status") or {}).get("reservedFor") or ()
    return any(one.get("uid") == pod["metadata"]["uid"] for one in reserved)
