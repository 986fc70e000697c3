"""Which nodes of the fleet constraints allow, for all nodes at once.

Labels are looked at a value at a time and taints a set at a time, each once for a state of the fleet: ten thousand
nodes cost a few milliseconds for a key that is new, and a lookup afterwards. Everything here follows from the nodes.
"""

from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import Bools, Ints
from placement_engine.domain.facts import NodeFacts
from placement_engine.domain.node_constraints import (
    KEEPING_AWAY,
    NAME_KEY,
    NodeConstraints,
    NodeRequirement,
    Taint,
    first_not_tolerated,
    matches,
)
from placement_engine.domain.shapes import Reach

__all__ = ["Selection"]

MOST_KEPT = 4096


@dataclass(frozen=True, slots=True)
class _Key:
    """Of a label: the number of its value by node number (0: the node has no such label), and the values by number."""

    numbers: Ints
    values: tuple[str | None, ...]
    number_of: dict[str, int]


class Selection:
    """`nodes` and `names` are the fleet's own: what is asked is read from them."""

    def __init__(self, nodes: dict[str, NodeFacts], names: list[str]) -> None:
        self._nodes = nodes
        self._names = names
        self.version = 0
        """Moves when a node comes, or its labels or taints change: answers from before are for nodes of then."""
        self._reaches: dict[NodeConstraints, Reach] = {}
        self._keys: dict[str, _Key] = {}
        self._taints: tuple[Ints, tuple[tuple[Taint, ...], ...]] | None = None

    def moved(self) -> None:
        """A node came, or says another thing of its labels or taints."""
        self.version += 1
        self._reaches.clear()
        self._keys.clear()
        self._taints = None

    def reach(self, constraints: NodeConstraints) -> Reach:
        """The last place of each mask is that of a node that was not there yet: it is not reached."""
        known = self._reaches.get(constraints)
        if known is None:
            if len(self._reaches) >= MOST_KEPT:
                self._reaches.clear()
            known = self._reaches[constraints] = Reach(self._selected(constraints), *self._tolerated(constraints))
        return known

    def _selected(self, constraints: NodeConstraints) -> Bools | None:
        if not constraints.required:
            return None
        found = np.zeros(len(self._names) + 1, dtype=np.bool_)
        for term in constraints.required:
            if term:
                met = np.ones_like(found)
                for requirement in term:
                    met &= self._met(requirement)
                found |= met
        found[-1] = False
        return found

    def _met(self, requirement: NodeRequirement) -> Bools:
        key = self._key(requirement.key)
        if requirement.operator in ("In", "NotIn"):  # of a host name there are as many values as nodes
            by_value = np.zeros(len(key.values), dtype=np.bool_)
            by_value[[number for value in requirement.values if (number := key.number_of.get(value)) is not None]] = (
                True
            )
            if requirement.operator == "NotIn":
                by_value = ~by_value
        else:
            by_value = np.array([matches(requirement, value) for value in key.values], dtype=np.bool_)
        return by_value.take(key.numbers)

    def _key(self, name: str) -> _Key:
        known = self._keys.get(name)
        if known is None:
            numbers = np.zeros(len(self._names) + 1, dtype=np.intp)
            number_of: dict[str, int] = {}
            for facts in self._nodes.values():
                value = facts.node.name if name == NAME_KEY else facts.node.labels.get(name)
                if value is not None:
                    numbers[facts.number] = number_of.setdefault(value, len(number_of) + 1)
            known = self._keys[name] = _Key(numbers, (None, *number_of), number_of)
        return known

    def _tolerated(self, constraints: NodeConstraints) -> tuple[Ints | None, tuple[Taint, ...]]:
        """By node number the place of the taint that keeps the work away, -1 where none does; and those taints."""
        if self._taints is None:
            numbers = np.zeros(len(self._names) + 1, dtype=np.intp)
            sets: dict[tuple[Taint, ...], int] = {(): 0}
            for facts in self._nodes.values():
                if facts.node.taints:
                    kept = tuple(one for one in facts.node.taints if one.effect in KEEPING_AWAY)
                    numbers[facts.number] = sets.setdefault(kept, len(sets))
            self._taints = numbers, tuple(sets)
        numbers, tainted = self._taints
        if len(tainted) == 1:
            return None, ()
        places: dict[Taint, int] = {}
        by_set = np.full(len(tainted), -1, dtype=np.intp)
        for number, taints in enumerate(tainted):
            if (taint := first_not_tolerated(constraints, taints)) is not None:
                by_set[number] = places.setdefault(taint, len(places))
        if not places:
            return None, ()
        barred = by_set.take(numbers)
        barred[-1] = 0
        return barred, tuple(places)
