"""What is advertised on this node: resources, their devices, and what a container is handed with each device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["Device", "DeviceFile", "Grant", "Inventory", "Mount", "Refusal", "Resource"]


class Refusal(Exception):
    """A request that cannot be met. The message names the device, says why, and what to do."""


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A device node of the host. `permissions`: of the device cgroup, any of r, w and m."""

    host: str
    container: str
    permissions: str = "rw"


@dataclass(frozen=True, slots=True)
class Mount:
    host: str
    container: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Grant:
    """What a container gets. `cdi`: fully qualified CDI device names."""

    files: tuple[DeviceFile, ...] = ()
    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """`reason` says why it is not healthy. `numa`: NUMA nodes that it is near to, none where unknown. `link`: the
    group of devices that it has a fast link with, "" where unknown."""

    id: str
    healthy: bool = True
    reason: str = ""
    numa: tuple[int, ...] = ()
    link: str = ""
    grant: Grant = field(default_factory=Grant)


@dataclass(frozen=True, slots=True)
class Resource:
    """`grant` is what every container gets once, whichever devices it has."""

    name: str
    devices: tuple[Device, ...] = ()
    grant: Grant = field(default_factory=Grant)

    def grant_of(self, device_ids: Iterable[str]) -> Grant:
        """What a container with these devices gets. Raises Refusal where one is unknown or unhealthy."""
        return merged([self.grant, *(device.grant for device in self.healthy_devices(device_ids))])

    def healthy_devices(self, device_ids: Iterable[str]) -> list[Device]:
        """The devices, in the inventory's order, each once. Raises Refusal where one is unknown or unhealthy."""
        wanted = set(device_ids)
        known = {device.id for device in self.devices}
        if unknown := sorted(wanted - known):
            listed = f"{len(known)} listed now: {', '.join(sorted(known)[:8])}" if known else "none is listed now"
            raise Refusal(f"{self.name}: no device {', '.join(unknown)}; {listed}")
        chosen = [device for device in self.devices if device.id in wanted]
        ill = [device for device in chosen if not device.healthy]
        if ill:
            why = "; ".join(f"{device.id} is unhealthy: {device.reason or 'no reason is given'}" for device in ill)
            raise Refusal(f"{self.name}: {why}")
        return chosen


@dataclass(frozen=True, slots=True)
class Inventory:
    resources: tuple[Resource, ...] = ()

    def resource(self, name: str) -> Resource | None:
        return next((one for one in self.resources if one.name == name), None)

    def all_unhealthy(self, reason: str) -> "Inventory":
        """The same devices, none of them healthy. A device that was unhealthy before keeps its own reason."""
        return Inventory(
            tuple(
                replace(
                    resource,
                    devices=tuple(
                        replace(device, healthy=False, reason=reason) if device.healthy else device
                        for device in resource.devices
                    ),
                )
                for resource in self.resources
            )
        )


def merged(grants: Sequence[Grant]) -> Grant:
    """One grant of all. Where several give the same variable or annotation, the values are joined with commas in the
    order given, each once: two devices with `VISIBLE: "0"` and `VISIBLE: "1"` make `VISIBLE: "0,1"`."""
    return Grant(
        files=tuple(dict.fromkeys(one for grant in grants for one in grant.files)),
        mounts=tuple(dict.fromkeys(one for grant in grants for one in grant.mounts)),
        environment=_joined([grant.environment for grant in grants]),
        annotations=_joined([grant.annotations for grant in grants]),
        cdi=tuple(dict.fromkeys(one for grant in grants for one in grant.cdi)),
    )


def _joined(maps: Sequence[Mapping[str, str]]) -> dict[str, str]:
    values: dict[str, dict[str, None]] = {}
    for one in maps:
        for name, value in one.items():
            values.setdefault(name, {})[value] = None
    return {name: ",".join(each) for name, each in values.items()}
