"""How much room for heat and power each rack has: a tie-break that spreads work over racks."""

from dataclasses import dataclass, field

SIXTEENTHS = 16
STEPS = 8
"""Of a rack's mean: coarse, so that one device's flicker moves no rack."""


@dataclass(slots=True)
class Rack:
    """Sums over its nodes, in integers, so that they are exact. `heat`: sixteenths, over `devices` devices."""

    heat: int = 0
    devices: int = 0
    nodes: dict[str, tuple[int, int]] = field(default_factory=dict)


class HeatSpread:
    """Mean heat score (0..1, higher is cooler) of each domain of one topology level, in steps of 1/8."""

    def __init__(self) -> None:
        self._racks: dict[str, Rack] = {}

    def put(self, rack: str, node: str, heat: int, devices: int) -> bool:
        """Takes a node's devices: the sum of their scores in sixteenths. Whether the rack's mean moved a step."""
        one = self._racks.setdefault(rack, Rack())
        before, was = one.nodes.get(node), self.mean(rack)
        if before == (heat, devices):
            return False
        if before is not None:
            one.heat -= before[0]
            one.devices -= before[1]
        one.nodes[node] = (heat, devices)
        one.heat += heat
        one.devices += devices
        return self.mean(rack) != was

    def drop(self, rack: str, node: str) -> bool:
        one = self._racks.get(rack)
        if one is None or node not in one.nodes:
            return False
        was = self.mean(rack)
        heat, devices = one.nodes.pop(node)
        one.heat -= heat
        one.devices -= devices
        return self.mean(rack) != was

    def mean(self, rack: str) -> float | None:
        """None: no devices are known there."""
        one = self._racks.get(rack)
        if one is None or one.devices == 0:
            return None
        return round(one.heat / one.devices * STEPS / SIXTEENTHS) / STEPS

    def nodes(self, rack: str) -> list[str]:
        one = self._racks.get(rack)
        return [] if one is None else list(one.nodes)
