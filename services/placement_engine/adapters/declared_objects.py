"""Objects Queue and Pool as the contract's messages, and what their status says. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from berth.errors import FieldError, InvalidInput
from berth.jobs import parse_duration
from berth.kubernetes.client import Object
from berth.v1 import fleet_pb2

__all__ = ["parents_first", "pool_of", "queue_of", "queue_status"]

Message = TypeVar("Message")
RECLAIM = {
    "Any": fleet_pb2.RECLAIM_ANY,
    "LowerPriority": fleet_pb2.RECLAIM_LOWER_PRIORITY,
    "Never": fleet_pb2.RECLAIM_NEVER,
}


def queue_of(thing: Object) -> fleet_pb2.Queue:
    """Raises InvalidInput where the spec cannot be read: an older CustomResourceDefinition lets more through."""
    return _reading(thing, _queue)


def pool_of(thing: Object) -> fleet_pb2.Pool:
    """Raises InvalidInput."""
    return _reading(thing, _pool)


def _reading(thing: Object, read: Callable[[str, Mapping[str, Any]], Message]) -> Message:
    spec = thing.get("spec") or {}
    try:
        return read(thing["metadata"]["name"], spec)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InvalidInput(
            [FieldError("spec", str(spec), f"a value is missing or of the wrong type: {error!r}")]
        ) from error


def _queue(name: str, spec: Mapping[str, Any]) -> fleet_pb2.Queue:
    reclaim = spec.get("reclaim", "Any")
    if reclaim not in RECLAIM:
        raise InvalidInput.of("spec.reclaim", reclaim, f"write one of: {', '.join(RECLAIM)}")
    return fleet_pb2.Queue(
        name=name,
        parent=spec.get("parent", ""),
        weight=float(spec.get("weight", 1)),
        tenants=spec.get("tenants", ()),
        device_limit=int(spec.get("deviceLimit", 0)),
        quotas=[_quota(one) for one in spec.get("quotas", ())],
        reclaim=RECLAIM[reclaim],
        protected_seconds=parse_duration("spec.protected", spec["protected"]) if spec.get("protected") else 0.0,
    )


def _quota(spec: Mapping[str, Any]) -> fleet_pb2.Quota:
    quota = fleet_pb2.Quota(accelerator=spec.get("accelerator", ""), devices=float(spec["devices"]))
    if "borrowingLimit" in spec:
        quota.borrowing_limit = float(spec["borrowingLimit"])
    if "lendingLimit" in spec:
        quota.lending_limit = float(spec["lendingLimit"])
    return quota


def _pool(name: str, spec: Mapping[str, Any]) -> fleet_pb2.Pool:
    return fleet_pb2.Pool(
        name=name,
        power_domains=[
            fleet_pb2.PowerDomain(level=one["level"], name=one["name"], cap_watts=float(one["capWatts"]))
            for one in spec.get("powerDomains", ())
        ],
    )


def parents_first(queues: Iterable[fleet_pb2.Queue]) -> list[fleet_pb2.Queue]:
    """In an order in which each parent comes before its children; queues of a loop come last."""
    left = {queue.name: queue for queue in queues}
    ordered: list[fleet_pb2.Queue] = []
    while left:
        ready = [name for name, queue in sorted(left.items()) if queue.parent not in left]
        for name in ready or sorted(left):
            ordered.append(left.pop(name))
    return ordered


def queue_status(usage: fleet_pb2.Queue) -> dict[str, Any]:
    return {
        "pendingJobs": usage.pending_jobs,
        "runningJobs": usage.running_jobs,
        "devicesInUse": round(usage.devices_in_use, 3),
        "devicesBorrowed": round(usage.devices_borrowed, 3),
    }
