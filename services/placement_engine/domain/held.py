"""What claims hold, by the model of the devices as the fleet numbers it now."""

from collections.abc import Iterable

from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Member

__all__ = ["Milli", "add_milli", "model_at"]

Milli = dict[int, int]
"""Thousandths of devices by model number."""


def model_at(fleet: Fleet, node: str, device_id: str) -> int | None:
    """The model number of a device; None: the node, or the device on it, is not known any more."""
    facts = fleet.nodes.get(node)
    device = facts.devices.get(device_id) if facts is not None else None
    return None if device is None else fleet.by_row[device.row][1].model


def add_milli(fleet: Fleet, milli: Milli, members: Iterable[Member]) -> None:
    """Adds what these members hold; what is not known any more counts nowhere."""
    for member in members:
        for claim in member.devices:
            model = model_at(fleet, member.node, claim.device_id)
            if model is not None:
                milli[model] = milli.get(model, 0) + claim.milli
