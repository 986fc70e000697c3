"""How a gang is spread over a fleet: the tightest domain that holds it, in that the fewest domains of every level.

Pure arithmetic over arrays of rows; nothing is claimed here. The order of choice:
1. as many members as fit, up to the wished number (within the required level);
2. the tightest level of which one domain holds them all;
3. of its domains the one with the least room left over (members, then free thousandths), rather one that is in use
   than an untouched one, then the better mean score, then the name; of single nodes the best scored;
4. inside it, level by level downwards, the fewest domains: the largest first, the last by rule 3. So what spans
   several racks spans racks of one block before racks of two.
Members are numbered in that order, so those of one domain follow each other.
"""

from dataclasses import dataclass

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
    free: Floats
    """Thousandths of devices not claimed, of CPU for a shape without devices."""
    untouched: Bools
    """Nothing is claimed here."""

    def only(self, keep: Bools | Ints) -> "Room":
        return Room(
            self.row[keep], self.fits[keep], self.score[keep], self.rank[keep], self.free[keep], self.untouched[keep]
        )


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
    groups = _groups(topology, wishes, room)
    last = places[-1]
    size = int(reach(room.fits, last.domain[room.row], last.count, groups, need).max(initial=0))
    if size == 0:
        return None
    for place in places:
        domain = place.domain[room.row]
        able = np.flatnonzero(reach(room.fits, domain, place.count, groups, need) >= size)
        if able.shape[0]:
            break
    if place.level == NODE:
        inside = (domain >= 0) & np.isin(domain, able)
        at = np.flatnonzero(inside)
        at = at[[_best_row(room.only(at))]]
    else:
        number = np.where((domain < 0) | (domain > place.count), place.count, domain)
        bins = _bins(room, np.arange(room.row.shape[0]), number, place.count + 1)
        at = np.flatnonzero(domain == able[_tightest(bins.only(able))])
    chain = topology.chain(wishes.named) if wishes.named else ()
    below = chain[1 : chain.index(place.level)] if place.level in chain else chain[1:]
    levels = [topology.level(name).domain[room.row] for name in reversed(below if place.level != NODE else ())]
    if need.group_size > 1 and wishes.group_level in below and place.level != NODE:
        depth = len(below) - 1 - below.index(wishes.group_level)
        picks = _spread_groups(room, at, size, need.group_size, levels[: depth + 1], levels[depth + 1 :])
    else:
        picks = _spread(room, at, size, levels)
    return _judged(room, picks, size, topology, wishes)


def _judged(room: Room, picks: Picks, size: int, topology: Topology, wishes: Wishes) -> Plan:
    at = np.array([position for position, _ in picks])
    taken = np.array([take for _, take in picks])
    rows = room.row[at]
    return Plan(
        picks=tuple((int(row), take) for row, (_, take) in zip(rows.tolist(), picks, strict=True)),
        size=size,
        score=float((room.score[at] * taken).sum() / size),
        tightness=tightness(topology, wishes, rows),
    )


def tightness(topology: Topology, wishes: Wishes, rows: Ints) -> float:
    """0..1: the mean over "node" and the levels that the job names for the gang of 1 / (domains it spans).
    1 is on one node; on four nodes of two racks, racks named, it is (1/4 + 1/2) / 2."""
    names = dict.fromkeys((NODE, wishes.required, *wishes.preferred))
    spans = [len(set(topology.level(name).domain[rows].tolist())) for name in names if name]
    return float(np.mean([1.0 / span for span in spans]))


def _groups(topology: Topology, wishes: Wishes, room: Room) -> Ints:
    if wishes.group_size == 1:
        return np.zeros(room.row.shape[0], dtype=np.intp)
    return topology.level(wishes.group_level).domain[room.row]


def _sums(at: Ints, values: npt.NDArray[np.float64] | Ints, count: int) -> Ints:
    return np.bincount(at, weights=values, minlength=count).astype(np.intp)


def _bins(room: Room, at: Ints, number: Ints, count: int) -> Room:
    """The domains as a room of their own: `number` of each row's domain, `fits` what the domain holds."""
    fits = _sums(number, room.fits[at], count)
    used = np.bincount(number, weights=~room.untouched[at], minlength=count)
    return Room(
        row=np.arange(count, dtype=np.intp),
        fits=fits,
        score=np.bincount(number, weights=room.fits[at] * room.score[at], minlength=count) / np.maximum(fits, 1),
        rank=np.arange(count, dtype=np.intp),
        free=np.bincount(number, weights=room.free[at], minlength=count).astype(np.float64),
        untouched=used == 0,
    )


def _tightest(bins: Room) -> int:
    """Of domains that all hold what is asked: rule 3."""
    return int(np.lexsort((bins.rank, -bins.score, bins.untouched, bins.free, bins.fits))[0])


def _best_row(room: Room) -> int:
    """Of rows that all hold what is asked: the best scored, then the tightest, then by name."""
    return int(np.lexsort((room.rank, room.fits, -room.score))[0])


def _fewest(bins: Room, need: int, *, rows: bool) -> Picks:
    """Rule 4: the fewest of the bins that hold `need` together, which is at most what all of them hold."""
    enough = np.flatnonzero(bins.fits >= need)
    picks: Picks = []
    if enough.shape[0] == 0:
        keys = (bins.rank, -bins.score, -bins.fits)
        order = np.lexsort(keys if rows else (bins.rank, -bins.score, bins.untouched, bins.free, -bins.fits))
        capacity = bins.fits[order]
        left = need - np.concatenate(([0], np.cumsum(capacity)[:-1]))
        stop = int((capacity >= left).argmax())
        picks = list(zip(order[:stop].tolist(), capacity[:stop].tolist(), strict=True))
        need = int(left[stop])
        enough = order[stop:][capacity[stop:] >= need]
    last = bins.only(enough)
    picks.append((int(enough[_best_row(last) if rows else _tightest(last)]), need))
    return picks


def _spread(room: Room, at: Ints, need: int, levels: list[Ints]) -> Picks:
    """Over the rows `at` (positions), through the levels, the loosest first, down to the nodes."""
    if not levels:
        return [(int(at[index]), take) for index, take in _fewest(room.only(at), need, rows=True)]
    numbers, _, number = distinct(levels[0][at])
    picks: Picks = []
    for index, take in _fewest(_bins(room, at, number, numbers.shape[0]), need, rows=False):
        picks += _spread(room, at[number == index], take, levels[1:])
    return picks


def _spread_groups(room: Room, at: Ints, need: int, size: int, outer: list[Ints], inner: list[Ints]) -> Picks:
    """Whole groups of `size` over the domains of the last of `outer`, then the members of each inside it."""
    numbers, first, number = distinct(outer[-1][at])
    cells = _bins(room, at, number, numbers.shape[0])
    capacity = cells.fits
    whole, rest = divmod(need, size)
    picks: Picks = []
    used = np.zeros_like(capacity)
    if whole:
        cells_of_groups = Room(cells.row, capacity // size, cells.score, cells.rank, cells.free, cells.untouched)
        above = [level[at[first]] for level in outer]
        for cell, groups in _spread_over(cells_of_groups, whole, above):
            used[cell] = groups * size
            picks += _spread(room, at[number == cell], groups * size, inner)
    if rest:
        left = capacity - used
        able = np.flatnonzero(left >= rest)
        cell = int(able[np.lexsort((able, left[able], used[able] == 0))[0]])
        fits = room.fits.copy()
        for position, take in picks:
            fits[position] -= take
        others = Room(room.row, fits, room.score, room.rank, room.free, room.untouched)
        picks += _spread(others, at[number == cell], rest, inner)
    return picks


def _spread_over(cells: Room, need: int, levels: list[Ints]) -> Picks:
    """As `_spread`, ending at domains rather than nodes: the last level is that of the cells themselves."""
    everywhere = np.arange(cells.row.shape[0])

    def down(at: Ints, need: int, levels: list[Ints]) -> Picks:
        if len(levels) == 1:
            return [(int(at[index]), take) for index, take in _fewest(cells.only(at), need, rows=False)]
        numbers, _, number = distinct(levels[0][at])
        picks: Picks = []
        for index, take in _fewest(_bins(cells, at, number, numbers.shape[0]), need, rows=False):
            picks += down(at[number == index], take, levels[1:])
        return picks

    return down(everywhere, need, levels)
