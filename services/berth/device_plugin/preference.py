"""Which of the free devices a container should have: those nearest to one another.

First as few link groups as possible, then as few NUMA nodes; among equals, the order of the inventory. Of groups that
hold all that is still needed, the one with the fewest free devices is taken, so that large groups stay whole.

What is not known here is which pod asks: the kubelet's call does not say. Devices that Berth's binding names in an
annotation of the pod can therefore not be preferred.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

from berth.device_plugin.inventory import Device, Refusal, Resource

__all__ = ["preferred"]

_Level = Callable[[Device], Hashable]
# A device that declares nothing at a level shares one group with all such, taken after the others.
_LEVELS: tuple[_Level, ...] = (lambda device: device.link or None, lambda device: device.numa or None)


def preferred(resource: Resource, available: Iterable[str], required: Iterable[str], size: int) -> list[str]:
    """Ids of `size` devices out of `available`, all of `required` among them. Devices that the inventory does not list
    or that are unhealthy come last: the kubelet may know of a change later than we do. Raises Refusal where no answer
    is possible."""
    offered, must = dict.fromkeys(available), dict.fromkeys(required)
    if missing := sorted(must.keys() - offered.keys()):
        raise Refusal(f"{resource.name}: required but not among those available: {', '.join(missing)}")
    if not len(must) <= size <= len(offered):
        raise Refusal(
            f"{resource.name}: {size} devices cannot be chosen from {len(offered)} available, {len(must)} required"
        )
    known = {device.id: device for device in resource.devices}
    chosen = [known[one] for one in must if one in known]
    free = [device for device in resource.devices if device.id in offered and device.id not in must and device.healthy]
    picked = [device.id for device in _pick(free, chosen, size - len(must), _LEVELS)]
    ids = [*must, *picked]
    rest = [one for one in offered if one not in set(ids)]
    return [*ids, *rest[: size - len(ids)]]


def _pick(free: Sequence[Device], chosen: Sequence[Device], need: int, levels: Sequence[_Level]) -> list[Device]:
    if not levels or need >= len(free):
        return list(free[:need])
    level, deeper = levels[0], levels[1:]
    groups: dict[Hashable, list[Device]] = {}
    for device in free:
        groups.setdefault(level(device), []).append(device)
    begun = {level(device) for device in chosen} - {None}
    picked: list[Device] = []
    while need > len(picked):
        left = need - len(picked)

        def rank(group: Hashable, left: int = left) -> tuple[bool, bool, bool, int]:
            count = len(groups[group])
            fits = count >= left
            return (group not in begun, group is None, not fits, count if fits else -count)

        best = min(groups, key=rank)
        group = groups.pop(best)
        taken = _pick(group, [*chosen, *picked], min(left, len(group)), deeper)
        picked += taken
    return picked
