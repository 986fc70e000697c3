"""What the core holds against single devices, for those outside who place work on them too."""

from placement_engine.domain.columns import HEATING, HOT
from placement_engine.domain.facts import DeviceFacts
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.health_watch import Cause
from placement_engine.domain.readouts import DeviceVerdict, DeviceVerdicts, VerdictKind

__all__ = ["device_verdicts"]


def device_verdicts(fleet: Fleet) -> DeviceVerdicts:
    """Of all present devices, by id. A cordoned device is not also told to be hot."""
    found: list[DeviceVerdict] = []
    unheard: set[str] = set()
    for name, facts in fleet.nodes.items():
        for device_id, device in facts.devices.items():
            if not device.device.present:
                continue
            if device.heard_at is None:
                unheard.add(device_id)
            elif device.watch is not None or device.blocked:
                verdict = _verdict(name, device_id, device)
                if verdict is not None:
                    found.append(verdict)
    return DeviceVerdicts(tuple(sorted(found, key=lambda one: one.device_id)), frozenset(unheard))


def _verdict(node: str, device_id: str, device: DeviceFacts) -> DeviceVerdict | None:
    cordon = device.watch.cordon if device.watch is not None else None
    if cordon is not None:
        kind = VerdictKind.THROTTLED if cordon.cause is Cause.THROTTLE else VerdictKind.FAULTY
        code = cordon.code if cordon.cause is Cause.ERROR else 0
        return DeviceVerdict(device_id, node, kind, code, cordon.message)
    if device.margin is not None and device.blocked & (HOT | HEATING):
        return DeviceVerdict(device_id, node, VerdictKind.HOT, 0, "too little heat margin")
    return None
