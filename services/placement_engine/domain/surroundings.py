"""What a node shares with others: the power budgets above it (rack, row, ...) and the heat of its rack.

Sums are integers, so they are exact whatever the order of events. What a reader gets moves in steps, so that small
changes disturb nobody; each change answers with the nodes for which a step was taken.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from placement_engine.domain.facts import NodeFacts
from placement_engine.domain.model import Node, PowerDomain

SIXTEENTHS = 16
STEPS = 8
"""Of a rack's mean heat: coarse, so that one device's flicker moves no rack."""


@dataclass(slots=True)
class DomainFacts:
    """A power budget above the node and what draws on it, in whole W."""

    cap: float
    draw: int = 0
    nodes: set[str] = field(default_factory=set)
    headroom: float = float("inf")
    """In steps of a thousandth of the cap, rounded down; inf: not yet known."""

    def moved(self) -> bool:
        """Brings the headroom up to date; whether it took a step."""
        step = max(1.0, self.cap / 1000)
        before, self.headroom = self.headroom, math.floor((self.cap - self.draw) / step) * step
        return self.headroom != before


@dataclass(slots=True)
class Rack:
    """Heat scores of its nodes: sums of sixteenths, over the number of devices."""

    heat: int = 0
    devices: int = 0
    nodes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def put(self, node: str, heat: int, devices: int) -> bool:
        """Replaces a node's part, 0 devices takes it out; whether the mean took a step."""
        old_heat, old_devices = self.nodes.get(node, (0, 0))
        if (old_heat, old_devices) == (heat, devices):
            return False
        before = self.mean
        self.heat += heat - old_heat
        self.devices += devices - old_devices
        if devices:
            self.nodes[node] = (heat, devices)
        else:
            del self.nodes[node]
        return self.mean != before

    @property
    def mean(self) -> float | None:
        """0..1, higher is cooler; None without devices."""
        return round(self.heat / self.devices * STEPS / SIXTEENTHS) / STEPS if self.devices else None


class Surroundings:
    def __init__(self, heat_level: str) -> None:
        self._heat_level = heat_level
        self._racks: dict[str, Rack] = {}
        self.domains: dict[tuple[str, str], DomainFacts] = {}

    def set_domains(self, domains: Iterable[PowerDomain], nodes: Iterable[Node]) -> None:
        """Replaces the budgets; nothing is known to draw on them yet."""
        self.domains = {(d.level, d.name): DomainFacts(cap=d.cap_watts) for d in domains}
        for node in nodes:
            self.join(node)
        for domain in self.domains.values():
            domain.moved()

    def join(self, node: Node) -> None:
        for domain in self._above(node):
            domain.nodes.add(node.name)

    def leave(self, facts: NodeFacts) -> list[str]:
        """Other nodes that now have more room, or a cooler rack."""
        touched: list[str] = []
        for domain in self._above(facts.node):
            if facts.node.name in domain.nodes:
                domain.nodes.discard(facts.node.name)
                domain.draw -= facts.total_watts
                if domain.moved():
                    touched += domain.nodes
        return touched + self.warm(facts.node, 0, 0)

    def draw(self, node: Node, change: int) -> list[str]:
        """A node's draw changed, W: nodes under budgets whose headroom took a step."""
        touched: list[str] = []
        for domain in self._above(node):
            domain.draw += change
            if domain.moved():
                touched += domain.nodes
        return touched

    def warm(self, node: Node, heat: int, devices: int) -> list[str]:
        """The sum of a node's heat scores in sixteenths: nodes of its rack, where its mean took a step."""
        name = node.topology.get(self._heat_level, "")
        if not name:
            return []
        rack = self._racks.get(name)
        if rack is None:
            rack = self._racks[name] = Rack()
        return list(rack.nodes) if rack.put(node.name, heat, devices) else []

    def _above(self, node: Node) -> list[DomainFacts]:
        return [domain for key in node.topology.items() if (domain := self.domains.get(key)) is not None]

    def budget(self, facts: NodeFacts) -> tuple[float, float]:
        """(W of headroom, 0..1 part of the budget left), the least of node and domains above."""
        headroom, part, cap = facts.headroom, 1.0, facts.node.power_cap_watts
        if cap:
            part = headroom / cap
        for domain in self._above(facts.node) if self.domains else ():
            headroom = min(headroom, domain.headroom)
            part = min(part, domain.headroom / domain.cap if domain.cap > 0 else 0.0)
        return headroom, round(min(max(part, 0.0), 1.0) * 32) / 32

    def room(self, node: Node) -> float | None:
        """0..1: how cool the node's rack is and, by a power budget, what part is left. None: no rack."""
        name = node.topology.get(self._heat_level, "")
        rack = self._racks.get(name) if name and node.devices else None
        mean = None if rack is None else rack.mean
        domain = self.domains.get((self._heat_level, name)) if mean is not None else None
        if mean is None or domain is None or domain.cap <= 0:
            return mean
        left = min(max(domain.headroom / domain.cap, 0.0), 1.0)
        return round((mean + left) / 2 * STEPS) / STEPS
