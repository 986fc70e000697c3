"""How a gang is spread over a fleet: the tightest domain that holds it, in that the fewest domains of every level.

Pure arithmetic over arrays of rows; nothing is claimed here. The order of choice:
1. as many members as fit, up to the wished number (within the required level);
2. the tightest level of which one domain holds them all;
3. of its domains the one in which it spans the fewest of the preferred level, then the one with the least room left
   over (members, then free thousandths), rather one that is in use than an untouched one, then the better mean
   score, then the name; of single nodes the best scored;
4. inside it, level by level downwards, the fewest domains: the largest first, the last by rule 3. So what spans
   several racks spans racks of one block before racks of two.
Members are numbered in that order, so those of one domain follow each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from placement_engine.domain.columns import Bools, Floats, Ints
from placement_engine.domain.topology import NODE, Topology, Wishes, distinct

Picks = list[tuple[int, int]]
"""Position in a room, members taken there."""


@dataclass(frozen=True, slots=True)
class Need:
    """`least` to `wished` members. Members in order form groups of `group_size`, of which only the last may be
    smaller: a gang of less than the wished size consists of whole groups."""

    least: int
    wished: int
    group_size: int = 1

    @classmethod
    def of(cls, least: int, wished: int, group_size: int) -> "Need":
        least = min(max(least, 1), wished)
        return cls(min(wished, -(-least // group_size) * group_size), wished, group_size)


@dataclass(frozen=True, slots=True)
class Room:
    """Rows that take members of one shape on one accelerator model: arrays (k)."""

    row: Ints
    fits: Ints
    """Members each could take, at most the wished number."""
    score: Floats
    rank: Ints
    """Order of the node names."""
    stock: "Stock"

    def only(self, keep: Bools | Ints) -> "Room":
        return Room(self.row[keep], self.fits[keep], self.score[keep], self.rank[keep], self.stock)


@dataclass(frozen=True, slots=True)
class Stock:
    """What all rows of the model have, also those that take no member: arrays over the rows of the fleet."""

    free: Floats
    """Thousandths of devices not claimed, of CPU for a shape without devices."""
    used: Bools
    """Something is claimed here."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Domains of one level, or rows, that members are taken to: arrays (n)."""

    fits: Ints
    score: Floats
    name: Ints
    """Order of their names."""
    spans: Ints
    """Domains of the preferred level that the whole gang would span here, where that is asked."""
    free: Floats
    used: Bools

    def only(self, at: Ints) -> "Bins":
        return Bins(self.fits[at], self.score[at], self.name[at], self.spans[at], self.free[at], self.used[at])


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows and how many members each takes, in order of the members' numbers. `score` is the members' mean."""

    picks: tuple[tuple[int, int], ...]
    size: int
    score: float
    tightness: float


@dataclass(frozen=True, slots=True)
class Container:
    """Domains of one level as places for a whole gang; level "" is the whole fleet, as one domain."""

    level: str
    domain: Ints
    """Per row of the fleet; below 0 or from `count` on where the row is in none."""
    count: int


def containers(topology: Topology, wishes: Wishes, rows: int) -> tuple[Container, ...]:
    """Where a gang may be whole, the tightest level first. The last one is what is required of it."""
    everything = Container("", np.zeros(rows, dtype=np.intp), 1)
    if not wishes.named:
        return (everything,)
    chain = topology.chain(wishes.named)
    if wishes.required:
        names = chain[: chain.index(wishes.required) + 1] if wishes.required in chain else (wishes.required,)
        required = topology.level(wishes.required)
        outside = required.domain >= len(required.names)
    else:
        names, outside = chain, np.zeros(rows, dtype=np.bool_)
    found = []
    for name in names:
        level = topology.level(name)
        found.append(Container(name, np.where(outside, -1, level.domain), len(level.names)))
    return tuple(found) if wishes.required else (*found, everything)


def reach(fits: Ints, domain: Ints, count: int, groups: Ints, need: Need) -> Ints:
    """Per domain the members of the wished number that it holds, 0 where fewer than the least: (count)."""
    inside = (domain >= 0) & (domain < count)
    domain, fits, groups = domain[inside], fits[inside], groups[inside]
    size = need.group_size
    if size == 1:
        most = np.minimum(_sums(domain, fits, count), need.wished)
    else:
        span = int(groups.max(initial=0)) + 1
        cells, _, cell = distinct(domain * span + groups)
        capacity, owner = _sums(cell, fits, cells.shape[0]), cells // span
        whole = _sums(owner, capacity // size, count)
        spare = np.zeros(count, dtype=np.intp)
        np.maximum.at(spare, owner, capacity % size)
        groups_wished, rest = divmod(need.wished, size)
        all_fit = (whole > groups_wished) | ((whole == groups_wished) & (spare >= rest))
        most = np.where(all_fit, need.wished, np.minimum(whole, groups_wished) * size)
    least_met: Ints = np.where(most >= need.least, most, 0)
    return least_met


def plan(room: Room, need: Need, topology: Topology, wishes: Wishes, places: tuple[Container, ...]) -> Plan | None:
    """The best spread of a gang of one shape over a room, or None: fewer than the least fit."""
    groups = topology.level(wishes.group_level).domain if wishes.group_size > 1 else places[-1].domain

    def held(place: Container) -> Ints:
        return reach(room.fits, place.domain[room.row], place.count, groups[room.row], need)

    size = int(held(places[-1]).max(initial=0))
    if size == 0:
        return None
    for place in places:
        able = np.flatnonzero(held(place) >= size)
        if able.shape[0]:
            break
    domain = place.domain[room.row]
    at = np.flatnonzero(np.isin(domain, able))
    if place.level == NODE:
        at = at[[_best_row(_rows(room.only(at)))]]
    elif able.shape[0] > 1:
        number, bins = _bins(room, at, place.domain)
        spans = _spans(room, at, number, topology, wishes, size) if place.level else bins.spans
        at = at[number == _tightest(replace(bins, spans=spans))]
    outer, inner = _levels_below(place, topology, wishes)
    picks = _spread_groups(room, at, size, need.group_size, outer, inner) if outer else _spread(room, at, size, inner)
    positions, taken = (np.array(values) for values in zip(*picks, strict=True))
    rows = room.row[positions]
    return Plan(
        picks=tuple(zip(rows.tolist(), taken.tolist(), strict=True)),
        size=size,
        score=float((room.score[positions] * taken).sum() / size),
        tightness=tightness(topology, wishes, rows),
    )


def _levels_below(place: Container, topology: Topology, wishes: Wishes) -> tuple[list[Ints], list[Ints]]:
    """Domains of the levels inside a place, the loosest first: down to that of the groups, which is the last of
    the first list, and those below it. The first is empty where every gang of the place is within one group's domain.
    """
    chain = topology.chain(wishes.named) if wishes.named else (NODE,)
    below = chain[: chain.index(place.level)] if place.level in chain else chain
    # A level that no node declares has every node for a domain.
    of_groups = wishes.group_level if wishes.group_level in chain else NODE
    levels = [topology.level(name).domain for name in reversed(below)]
    if wishes.group_size == 1 or of_groups not in below:
        return [], levels[:-1]
    depth = len(below) - below.index(of_groups)
    return levels[:depth], levels[depth:-1]


def tightness(topology: Topology, wishes: Wishes, rows: Ints) -> float:
    """0..1: the mean over "node" and the levels that the job names for the gang of 1 / (domains it spans).
    1 is on one node; on four nodes of two racks, racks named, it is (1/4 + 1/2) / 2."""
    names = dict.fromkeys((NODE, wishes.required, *wishes.preferred))
    spans = [len(set(topology.level(name).domain[rows].tolist())) for name in names if name]
    return float(np.mean([1.0 / span for span in spans]))


def _sums(at: Ints, values: npt.NDArray[np.float64] | Ints, count: int) -> Ints:
    return np.bincount(at, weights=values, minlength=count).astype(np.intp)


def _rows(room: Room) -> Bins:
    nothing = np.zeros(room.row.shape[0])
    return Bins(room.fits, room.score, room.rank, nothing.astype(np.intp), nothing, nothing > 0)


def _bins(room: Room, at: Ints, domain: Ints) -> tuple[Ints, Bins]:
    """The domains in which the rows `at` (positions) lie, and the number of each row's. `domain`: of all rows."""
    names, _, number = distinct(domain[room.row[at]])
    count = names.shape[0]
    fits = _sums(number, room.fits[at], count)
    score = np.bincount(number, weights=room.fits[at] * room.score[at], minlength=count) / np.maximum(fits, 1)
    every = np.maximum(domain, 0)
    inside = domain >= 0
    free: Floats = np.bincount(every, weights=room.stock.free * inside)[names].astype(np.float64)
    used = np.bincount(every, weights=room.stock.used & inside)[names] > 0
    return number, Bins(fits, score, names, np.zeros(count, dtype=np.intp), free, used)


def _spans(room: Room, at: Ints, number: Ints, topology: Topology, wishes: Wishes, size: int) -> Ints:
    """How many domains of the tightest preferred level `size` members span in each bin, the largest first."""
    count = int(number.max()) + 1
    level = next((name for name in wishes.preferred if name in topology.chain(wishes.named)), "")
    if not level:
        return np.zeros(count, dtype=np.intp)
    domain = topology.level(level).domain[room.row[at]]
    domain = domain - domain.min()
    # By bin and domain: where the bins are of a tighter level, several of them share a domain.
    cells, _, cell = distinct(number * (int(domain.max()) + 1) + domain)
    capacity, owner = _sums(cell, room.fits[at], cells.shape[0]), cells // (int(domain.max()) + 1)
    order = np.lexsort((-capacity, owner))
    capacity, owner = capacity[order], owner[order]
    before = np.cumsum(capacity) - capacity
    starts = np.searchsorted(owner, np.arange(count))
    return _sums(owner, (before - before[starts][owner] < size).astype(np.intp), count)


def _tightest(bins: Bins) -> int:
    """Of domains that all hold what is asked: rule 3."""
    return int(np.lexsort((bins.name, -bins.score, ~bins.used, bins.free, bins.fits, bins.spans))[0])


def _best_row(bins: Bins) -> int:
    """Of rows that all hold what is asked: the best scored, then the tightest, then by name."""
    return int(np.lexsort((bins.name, bins.fits, -bins.score))[0])


def _fewest(bins: Bins, need: int, best: Callable[[Bins], int]) -> Picks:
    """Rule 4: the fewest of the bins that hold `need` together, which is at most what all of them hold. `best`
    picks the last one, of those that hold the rest."""
    enough = np.flatnonzero(bins.fits >= need)
    picks: Picks = []
    if enough.shape[0] == 0:
        order = np.lexsort((bins.name, -bins.score, ~bins.used, bins.free, -bins.fits))
        capacity = bins.fits[order]
        left = need - (np.cumsum(capacity) - capacity)
        stop = int((capacity >= left).argmax())
        picks = list(zip(order[:stop].tolist(), capacity[:stop].tolist(), strict=True))
        need = int(left[stop])
        enough = order[stop:][capacity[stop:] >= need]
    picks.append((int(enough[best(bins.only(enough))]), need))
    return picks


def _spread(room: Room, at: Ints, need: int, levels: list[Ints]) -> Picks:
    """Over the rows `at` (positions), through the levels, the loosest first, down to the nodes."""
    if not levels:
        return [(int(at[index]), take) for index, take in _fewest(_rows(room.only(at)), need, _best_row)]
    number, bins = _bins(room, at, levels[0])
    picks: Picks = []
    for index, take in _fewest(bins, need, _tightest):
        picks += _spread(room, at[number == index], take, levels[1:])
    return picks


def _spread_groups(room: Room, at: Ints, need: int, size: int, outer: list[Ints], inner: list[Ints]) -> Picks:
    """Whole groups of `size` over the domains of the last of `outer`, then the members of each inside it."""
    _, first, cell = distinct(outer[-1][room.row[at]])
    capacity = _sums(cell, room.fits[at], first.shape[0])
    whole, rest = divmod(need, size)
    cells = room.only(at[first])
    cells = replace(cells, fits=capacity // size)
    picks: Picks = []
    used = np.zeros_like(capacity)
    for index, groups in _spread_cells(cells, np.arange(first.shape[0]), whole, outer) if whole else ():
        used[index] = groups * size
        picks += _spread(room, at[cell == index], groups * size, inner)
    if rest:
        left = capacity - used
        able = np.flatnonzero(left >= rest)
        index = int(able[np.lexsort((able, left[able], used[able] == 0))[0]])
        fits = room.fits.copy()
        for position, take in picks:
            fits[position] -= take
        picks += _spread(replace(room, fits=fits), at[cell == index], rest, inner)
    return picks


def _spread_cells(cells: Room, at: Ints, need: int, levels: list[Ints]) -> Picks:
    """As `_spread`, of groups over the domains that hold them: a cell stands for the domain of the last level."""
    number, bins = _bins(cells, at, levels[0])
    picks = _fewest(bins, need, _tightest)
    if len(levels) == 1:
        return [(int(at[np.flatnonzero(number == index)[0]]), take) for index, take in picks]
    return [pick for index, take in picks for pick in _spread_cells(cells, at[number == index], take, levels[1:])]
