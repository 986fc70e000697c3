"""What pods that Berth did not place take of their nodes.

A pod counts from its binding (spec.nodeName) until it has ended. One that carries Berth's annotation `berth.dev/job` is
a claim in Berth's ledger already, whoever bound it, and counts for nothing here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from berth.errors import InvalidInput
from berth.kubernetes import names
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.quantities import milli_at_least, units_at_least
from telemetry_ingest.domain.inventory import DeviceRecord
from telemetry_ingest.domain.kubernetes.nodes import resource_of

__all__ = ["PodUse", "holders", "requests_of", "use_of"]

ENDED = frozenset({"Succeeded", "Failed"})
UNAVAILABLE = "kubelet/not-allocatable"
"""Who holds a device that the node has and its plugin does not offer: it is unhealthy."""


@dataclass(frozen=True, slots=True)
class PodUse:
    """What a pod means to its node.

    `elsewhere`: it is not Berth's, and takes the amounts and `devices` (resource to count, sorted). A pod of Berth's
    only names devices (`named`) that foreign ones should not be thought to sit on.
    """

    node: str
    pod: str
    elsewhere: bool
    cpu_milli: int = 0
    memory_bytes: int = 0
    devices: tuple[tuple[str, int], ...] = ()
    named: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def use_of(pod: Mapping[str, Any], resources: DeviceResources) -> PodUse | None:
    """None: it is on no node, or has ended."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    node = spec.get("nodeName") or ""
    if not node or (pod.get("status") or {}).get("phase") in ENDED:
        return None
    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
    annotations = metadata.get("annotations") or {}
    if annotations.get(names.JOB):
        said = annotations.get(names.DEVICES) or ""
        return PodUse(node, name, False, named=tuple(sorted(filter(None, map(str.strip, said.split(","))))))
    problems: list[str] = []
    asked = requests_of(spec, problems)
    return PodUse(
        node,
        name,
        True,
        cpu_milli=asked.get("cpu", 0),
        memory_bytes=asked.get("memory", 0),
        devices=tuple(
            (resource, amount)
            for resource, amount in sorted(asked.items())
            if amount > 0 and resources.claim_of(resource) is not None
        ),
        problems=tuple(problems),
    )


def requests_of(spec: Mapping[str, Any], problems: list[str] | None = None) -> dict[str, int]:
    """What the scheduler and the kubelet count for a pod, by resource: CPU in thousandths of a core, the rest in units.

    The containers and the restartable init containers (sidecars) together, or what one init container needs beside
    the sidecars before it, whichever is more; the pod's own `resources` instead, where given; and its overhead
    (kubernetes.io/docs: "Resource Management for Pods and Containers", "Sidecar Containers", "Pod Overhead").
    A limit stands for a request that is missing: the API server fills it in so. What cannot be read counts as nothing
    and is named among the `problems`.
    """
    running: dict[str, int] = {}
    for index, container in enumerate(spec.get("containers") or ()):
        _add(running, _asked(f"containers[{index}]", container.get("resources"), problems))
    sidecars: dict[str, int] = {}
    starting: dict[str, int] = {}
    for index, container in enumerate(spec.get("initContainers") or ()):
        asked = _asked(f"initContainers[{index}]", container.get("resources"), problems)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, asked)
            asked = {}
        for resource in {*asked, *sidecars}:
            needed = asked.get(resource, 0) + sidecars.get(resource, 0)
            starting[resource] = max(starting.get(resource, 0), needed)
    _add(running, sidecars)
    total = {key: max(running.get(key, 0), starting.get(key, 0)) for key in {*running, *starting}}
    total.update(_asked("resources", spec.get("resources"), problems))
    _add(total, _read("overhead", spec.get("overhead"), problems))
    return total


def holders(
    devices: Sequence[DeviceRecord],
    uses: Sequence[PodUse],
    resources: DeviceResources,
    *,
    allocatable: Mapping[str, str],
    unavailable: Sequence[tuple[str, int]],
) -> tuple[DeviceRecord, ...]:
    """The devices with `held_by` set for as many as pods outside Berth request, and no others.

    Which device a pod got only its kubelet knows. So that a pod of Berth's changes nothing where it need not: a pod
    keeps the devices that it was thought to hold; else it gets those that no pod of Berth's names, from the highest
    index down; and only where these run out, the others. The same state and pods give the same answer.
    """
    named = {identity for use in uses for identity in use.named}
    wanted: list[tuple[str, str, int]] = [
        (UNAVAILABLE, resource.replace("/", "-"), count) for resource, count in sorted(unavailable)
    ]
    for use in sorted((use for use in uses if use.elsewhere and use.devices), key=lambda use: use.pod):
        for resource, amount in use.devices:
            taken, count = resources.devices_taken(resource, amount, allocatable)
            wanted.append((use.pod, taken.replace("/", "-"), count))
    if not wanted:
        return tuple(replace(one, held_by="") if one.held_by else one for one in devices)
    by_resource: dict[str, list[DeviceRecord]] = {}
    for device in devices:
        if device.present:
            by_resource.setdefault(resource_of(device.device_id), []).append(device)
    held: dict[str, str] = {}
    left: list[tuple[str, str, int]] = []
    for holder, resource, count in wanted:
        kept = [
            one
            for one in by_resource.get(resource, ())
            if one.held_by == holder and one.device_id not in named and one.device_id not in held
        ]
        kept = sorted(kept, key=lambda one: -one.index)[:count]
        held.update((one.device_id, holder) for one in kept)
        left.append((holder, resource, count - len(kept)))
    for holder, resource, count in left:
        free = [one for one in by_resource.get(resource, ()) if one.device_id not in held]
        free.sort(key=lambda one: (one.device_id in named, -one.index))
        held.update((one.device_id, holder) for one in free[:count])
    return tuple(
        one if one.held_by == held.get(one.device_id, "") else replace(one, held_by=held.get(one.device_id, ""))
        for one in devices
    )


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for key, amount in more.items():
        total[key] = total.get(key, 0) + amount


def _asked(where: str, resources: Mapping[str, Any] | None, problems: list[str] | None) -> dict[str, int]:
    given = resources or {}
    merged = {**(given.get("limits") or {}), **(given.get("requests") or {})}
    return _read(f"spec.{where}", merged, problems)


def _read(where: str, amounts: Mapping[str, Any] | None, problems: list[str] | None) -> dict[str, int]:
    found = {}
    for resource, written in (amounts or {}).items():
        try:
            exact = milli_at_least if resource == "cpu" else units_at_least
            found[resource] = max(0, exact(f"{where}.{resource}", written))
        except InvalidInput as error:
            if problems is not None:
                problems.append(str(error))
    return found
