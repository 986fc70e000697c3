"""Topology: the domains of every level, and which level lies inside which.

Levels are what nodes declare (`Node.topology`: rack, block, zone, any name); "node" is implicit, each node being
its own domain. No order is declared: a level is inside another where each of its domains lies in one domain of
the other. A domain's name is unique within its level: "r07" of two zones is one rack across both.
Levels of `DEVICE_LEVELS` are within a node: devices declare them, and they concern the devices of one member.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import Bools, Ints
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, Job

NODE = "node"
DEVICE_LEVELS = ("numa", "link")


@dataclass(frozen=True, slots=True)
class Level:
    """Number of each row's domain. Numbers follow the names; a node that declares none has a number of its own,
    from `len(names)` on, and shares it with no other node."""

    name: str
    domain: Ints
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a job asks of topology. Levels are "" where not asked for.

    `required` holds the whole gang; `preferred` (the tightest first) are only preferred. `group_size` members in
    order share one domain of `group_level`, always. `device_required` and `device_preferred`: devices of one member.
    """

    required: str = ""
    preferred: tuple[str, ...] = ()
    group_size: int = 1
    group_level: str = ""
    device_required: str = ""
    device_preferred: str = ""

    @property
    def device_level(self) -> str:
        return self.device_required or self.device_preferred

    @property
    def named(self) -> tuple[str, ...]:
        """Levels between nodes that the job names, the hardest first."""
        return tuple(dict.fromkeys(level for level in (self.group_level, self.required, *self.preferred) if level))


def wishes_of(job: Job) -> Wishes:
    required, preferred = "", []
    device_required, device_preferred = "", ""
    for level, hard in ((job.preferred_level, False), (job.topology_level, job.topology_required)):
        if level in DEVICE_LEVELS:
            if hard:
                device_required = level
            else:
                device_preferred = device_preferred or level
        elif level and hard:
            required = level
        elif level:
            preferred.append(level)
    grouped = job.group_size > 1 and bool(job.group_level) and job.group_level not in DEVICE_LEVELS
    return Wishes(
        required=required,
        preferred=tuple(preferred),
        group_size=job.group_size if grouped else 1,
        group_level=job.group_level if grouped else "",
        device_required=device_required,
        device_preferred=device_preferred,
    )


class Topology:
    """Read from the fleet when asked, and remembered until nodes declare something else."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._structure = -1
        self._levels: dict[str, Level] = {}
        self._declared: dict[str, tuple[int, Mapping[str, str]]] = {}
        """Number and topology of each node, as last taken in."""
        self._domain_of: dict[str, dict[int, str]] = {}
        self._of_node: dict[str, tuple[Ints, tuple[str, ...]]] = {}
        """Number of the domain by number of the node, -1 for none, and the names."""
        self._inside: dict[tuple[str, str], bool] = {}
        self._chains: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._devices: dict[str, Ints] = {}

    def _refresh(self) -> None:
        fleet = self._fleet
        if self._structure == fleet.structure:
            return
        self._structure = fleet.structure
        self._devices = {}
        rank, node_of_row = fleet.rank(), fleet.columns.node[: fleet.columns.rows]
        self._levels = {NODE: Level(NODE, rank, tuple(sorted(fleet.nodes)))}
        for level in self._declare():
            self._inside, self._chains = {}, {}
            names = sorted(set(self._domain_of[level].values()))
            number_of = {name: number for number, name in enumerate(names)}
            of_node = np.full(len(fleet.names) + 1, -1, dtype=np.intp)
            of_node[list(self._domain_of[level])] = [number_of[name] for name in self._domain_of[level].values()]
            self._of_node[level] = (of_node, tuple(names))
        for level, (of_node, distinct) in self._of_node.items():
            if of_node.shape[0] <= len(fleet.names):  # nodes came that do not declare it
                of_node = np.concatenate((of_node[:-1], np.full(len(fleet.names) + 2 - of_node.shape[0], -1)))
            of_row = of_node[node_of_row]
            domain = np.where((of_row >= 0) & (node_of_row >= 0), of_row, len(distinct) + rank)
            self._levels[level] = Level(level, domain, distinct)

    def _declare(self) -> set[str]:
        """Takes in what nodes declare that came, changed or left: most changes of nodes are of something else.
        Returns the levels that changed."""
        changed: set[str] = set()
        nodes = self._fleet.nodes
        for name in self._declared.keys() - nodes.keys():
            changed |= self._forget(*self._declared.pop(name))
        for name, facts in nodes.items():
            known = self._declared.get(name)
            topology = facts.node.topology
            if known is not None and (known[1] is topology or known[1] == topology):
                continue
            if known is not None:
                changed |= self._forget(*known)
            self._declared[name] = (facts.number, topology)
            for level, domain in topology.items():
                if domain and level != NODE and level not in DEVICE_LEVELS:
                    self._domain_of.setdefault(level, {})[facts.number] = domain
                    changed.add(level)
        for level in [level for level, of_node in self._domain_of.items() if not of_node]:
            del self._domain_of[level]
            self._of_node.pop(level, None)
            self._inside, self._chains = {}, {}
        return changed & self._domain_of.keys()

    def _forget(self, number: int, topology: Mapping[str, str]) -> set[str]:
        levels = {level for level in topology if number in self._domain_of.get(level, ())}
        for level in levels:
            del self._domain_of[level][number]
        return levels

    def levels(self) -> tuple[str, ...]:
        """Every level that a node declares, and "node", by name."""
        self._refresh()
        return tuple(sorted(self._levels))

    def level(self, name: str) -> Level:
        """A level that no node declares: every node is a domain of its own, and none has a name."""
        self._refresh()
        known = self._levels.get(name)
        return known if known is not None else Level(name, self._fleet.rank(), ())

    def inside(self, tight: str, loose: str) -> bool:
        """Every domain of `tight` lies in one domain of `loose`. Nodes that lack one of the two do not count."""
        self._refresh()
        known = self._inside.get((tight, loose))
        if known is None:
            a, b = self.level(tight), self.level(loose)
            live = self._fleet.columns.node[: self._fleet.columns.rows] >= 0
            both = live & (a.domain < len(a.names)) & (b.domain < len(b.names))
            inner, outer = a.domain[both], b.domain[both]
            of_inner = np.zeros(len(a.names), dtype=np.intp)
            of_inner[inner] = outer
            known = bool(inner.shape[0]) and bool((of_inner[inner] == outer).all())
            self._inside[tight, loose] = known
        return known

    def _below(self, tight: str, loose: str) -> bool:
        """A strict order: two levels with the same domains go by name."""
        return self.inside(tight, loose) and (not self.inside(loose, tight) or tight < loose)

    def chain(self, named: tuple[str, ...]) -> tuple[str, ...]:
        """Levels each inside the next, from "node" on: those named first, then all others that fit in between."""
        self._refresh()
        known = self._chains.get(named)
        if known is None:
            kept: list[str] = []
            declared = [level for level in named if level in self._levels]
            for level in (*declared, *sorted(set(self._levels) - set(declared))):
                if level != NODE and all(self._below(level, k) or self._below(k, level) for k in kept):
                    kept.append(level)
            kept = sorted(kept, key=lambda level: sum(self._below(other, level) for other in kept))
            known = self._chains[named] = (NODE, *kept)
        return known

    def device_domains(self, level: str) -> Ints:
        """Number of each device's domain within its node, (slots, rows); -1 where it declares none."""
        self._refresh()
        known = self._devices.get(level)
        if known is None:
            columns = self._fleet.columns
            known = np.full((columns.device.shape[1], columns.rows), -1, dtype=np.intp)
            for facts in self._fleet.nodes.values():
                declared = {domain for d in facts.node.devices if (domain := d.topology.get(level))}
                if declared:
                    number_of = {domain: number for number, domain in enumerate(sorted(declared))}
                    for device in facts.devices.values():
                        domain = device.device.topology.get(level, "")
                        known[device.slot, device.row] = number_of.get(domain, -1)
            self._devices[level] = known
        return known


def members_in_one_domain(usable: Bools, domains: Ints, devices: int) -> Ints:
    """How many members of `devices` whole devices each row holds, no member across domains: (slots, k) to (k)."""
    members = np.zeros(usable.shape[1], dtype=np.intp)
    for number in range(int(domains.max(initial=-1)) + 1):
        members += np.add.reduce(usable & (domains == number), axis=0, dtype=np.intp) // devices
    return members


def nearest_devices(usable: Bools, domains: Ints, devices: int) -> Bools:
    """One row's usable devices (slots) narrowed to the tightest domain that holds `devices` of them, else to the
    fewest domains: the largest first, the last the one that fits best. A device of no domain is alone."""
    alone = int(domains.max(initial=-1)) + 1 + np.arange(domains.shape[0])
    numbers = np.where(domains >= 0, domains, alone)
    counts = np.bincount(numbers[usable], minlength=1)
    chosen, left = np.zeros_like(usable), devices
    while left > 0:
        enough = np.flatnonzero(counts >= left)
        best = int(enough[counts[enough].argmin()]) if enough.shape[0] else int(counts.argmax())
        if counts[best] == 0:
            break
        chosen |= usable & (numbers == best)
        left -= int(counts[best])
        counts[best] = 0
    return chosen


def wants_near_devices(job: Job) -> bool:
    """Whether a level within the node is named for the devices of a member."""
    return job.topology_level in DEVICE_LEVELS or job.preferred_level in DEVICE_LEVELS


def asks_for_neighbours(wishes: Wishes, milli_per_member: int) -> bool:
    """Whether the level within the node matters: only a member of several whole devices can be across domains."""
    return bool(wishes.device_level) and milli_per_member > WHOLE_DEVICE


def distinct(numbers: Ints) -> tuple[Ints, Ints, Ints]:
    """The distinct numbers in order, where each is first, and for every number its place among them."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    new = np.ones(ordered.shape[0], dtype=np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    place = np.empty_like(order)
    place[order] = np.cumsum(new) - 1
    return ordered[new], order[new], place
