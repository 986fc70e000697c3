"""What a queue owns, and from whom it may take it back: the two questions of a reclaim.

Ownership, for each accelerator that a quota names (its ledger) and for the rest of the pool together:
- a queue with a quota owns it, or what its children own where that is more;
- queues without one share by weight what their parent owns beyond its children's quotas, counting only
  queues that have work; the root owns the pool;
- a queue's own jobs, where it has children too, own what the children do not.
The rest of the pool is measured in each queue's own normalised units (`units`), the ledgers in milli.

Both answers look at the same figures from two sides: who is entitled stays at or below what it owns, who
loses stays at or above. So what was reclaimed cannot be reclaimed back, and no chain of reclaims goes round
in a circle: each lowers what some queue holds beyond what it owns, and raises that of none.
"""

from collections.abc import Iterable, Mapping

from placement_engine.domain.model import Reclaim
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.quotas import Ledger
from placement_engine.domain.units import UNIT


def entitled(
    queues: Queues, totals: Totals, queue: str, asked: Mapping[int, int], *, against: str | None = None
) -> bool:
    """Whether the queue, with `asked` (milli by model number) more, stays within what it owns at every
    level of its path; with `against`, the victim's queue, at those below the least common ancestor of both:
    what is taken within a parent changes nothing above. A job without devices is entitled to nobody else's.
    """
    change = _by_name(queues, asked)
    if not totals.devices or not change:
        return False
    asking = frozenset(queues.path(queue))
    return all(
        stake.used(at) + stake.amount(at, change) <= stake.owned(at)
        for stake in _stakes(queues, change, asking)
        for at in (_levels(queues, queue) if against is None else _below_common(queues, queue, against))
    )


def may_take_from(
    queues: Queues,
    totals: Totals,
    victim_queue: str,
    for_queue: str,
    freed: Mapping[int, int],
    *,
    victim_priority: int = 0,
    for_priority: int = 0,
) -> bool:
    """Whether `for_queue` may take `freed` (milli by model number) from jobs of `victim_queue`.

    Below the least common ancestor of both, every queue on the victim's side must still hold at least what
    it owns afterwards. `for_queue`'s reclaim policy is kept: the priorities matter for `lower_priority`
    only. Within one queue nothing is reclaimed. Whether `for_queue` is `entitled` is asked apart.
    """
    change = _by_name(queues, freed)
    if victim_queue == for_queue or not totals.devices or not change:
        return False
    known = queues.known.get(for_queue)
    policy = known.reclaim if known else Reclaim.ANY
    if policy is Reclaim.NEVER or (policy is Reclaim.LOWER_PRIORITY and victim_priority >= for_priority):
        return False
    stakes = _stakes(queues, change, frozenset(queues.path(for_queue)))
    return all(
        stake.used(at) - stake.amount(at, change) >= stake.owned(at)
        for stake in stakes
        for at in _below_common(queues, victim_queue, for_queue)
    )


def keeps_its_quotas(queues: Queues, victim_queue: str, for_queue: str, freed: Mapping[int, int]) -> bool:
    """Whether, `freed` (milli by model number) gone from jobs of `victim_queue`, it and each queue above it that
    has a quota, below the least common ancestor with `for_queue`, still hold that quota: else it is taken back."""
    change = _by_name(queues, freed)
    if victim_queue == for_queue or not change:
        return True
    return all(
        stake.owned(at) <= stake.used(at) - stake.amount(at, change)
        for stake in _stakes(queues, change, frozenset())
        for at in _below_common(queues, victim_queue, for_queue)
        if not at.direct and stake.has_quota(at.name)
    )


def reclaimable(queues: Queues, ledger: Ledger, victim_queue: str, for_queue: str) -> int:
    """Milli of the ledger's accelerator that jobs of `victim_queue` hold and `for_queue` could take."""
    stake = Stake(queues, ledger, frozenset(queues.path(for_queue)))
    if victim_queue == for_queue:
        return 0
    beyond = [stake.used(at) - stake.owned(at) for at in _below_common(queues, victim_queue, for_queue)]
    return max(0, min([stake.used(Level(victim_queue, True)), *beyond]))


class Level:
    """A queue on a path, or (`direct`) only the jobs of the very queue, beside its children."""

    __slots__ = ("direct", "name")

    def __init__(self, name: str, direct: bool = False) -> None:
        self.name = name
        self.direct = direct


class Stake:
    """One ledger, or with None the accelerators that no ledger covers, and what each queue owns of it."""

    def __init__(self, queues: Queues, ledger: Ledger | None, asking: frozenset[str]) -> None:
        self._queues = queues
        self._ledger = ledger
        self._asking = asking
        self._parts: dict[str, float] = {}

    def used(self, level: Level) -> int:
        """What the level holds, in milli, or for None in the queue's normalised units."""
        usage = (self._queues.own if level.direct else self._queues.usage).get(level.name)
        return self.amount(level, usage.models) if usage else 0

    def amount(self, level: Level, models: Mapping[str, int]) -> int:
        covered = {name: milli for name, milli in models.items() if self._covers(name)}
        if self._ledger is not None:
            return sum(covered.values())
        units = self._queues.units_of(level.name)
        return sum(milli * units.get(name, UNIT) for name, milli in covered.items())

    def _covers(self, model: str) -> bool:
        covering = self._queues.quotas.covering(model)
        return not covering if self._ledger is None else self._ledger in covering

    def owned(self, level: Level) -> int:
        """Of the ledger in milli; of the rest its part of the pool in the queue's units."""
        own = self._part_of(level.name)
        if level.direct:
            own = max(0.0, own - sum(self._part_of(child) for child in self._queues.children(level.name)))
        return round(own if self._ledger else own * self._pool(level.name))

    def _part_of(self, name: str) -> float:
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = self._of_ledger(name) if self._ledger else self._of_rest(name)
        return part

    def _of_ledger(self, name: str) -> float:
        nominal = self._nominal(name)
        if self.has_quota(name):
            return nominal
        queue = self._queues.known.get(name)
        parent = queue.parent if queue else ""
        above = self._part_of(parent) if parent else float(self._pool(""))
        siblings = self._queues.children(parent)
        shared = max(0.0, above - sum(self._nominal(sibling) for sibling in siblings))
        sharing = [one for one in siblings if not self.has_quota(one)]
        return nominal + shared * self._weighed(name, sharing)

    def _of_rest(self, name: str) -> float:
        queue = self._queues.known.get(name)
        parent = queue.parent if queue else ""
        above = self._part_of(parent) if parent else 1.0
        return above * self._weighed(name, self._queues.children(parent))

    def _weighed(self, name: str, siblings: Iterable[str]) -> float:
        """The queue's weight among those of its siblings that have work or ask for some."""
        if name not in self._asking and not self._queues.at_work(name):
            return 0.0
        working = (at for at in siblings if at in self._asking or self._queues.at_work(at))
        total = sum(self._queues.weight(at) for at in sorted({*working, name}))
        return self._queues.weight(name) / total

    def _pool(self, name: str) -> int:
        devices = self._queues.units.devices()
        return self.amount(Level(name), {model: 1000 * count for model, count in devices.items()})

    def _nominal(self, name: str) -> int:
        line = self._ledger.lines.get(name) if self._ledger else None
        return line.nominal if line else 0

    def has_quota(self, name: str) -> bool:
        line = self._ledger.lines.get(name) if self._ledger else None
        return line is not None and line.quota is not None


def _stakes(queues: Queues, change: Mapping[str, int], asking: frozenset[str]) -> list[Stake]:
    """Of every ledger that covers one of the models, and of the rest if one is covered by none."""
    queues.refresh()
    covering = [queues.quotas.covering(name) for name in sorted(change)]
    ledgers = {ledger.key: ledger for found in covering for ledger in found}
    stakes = [Stake(queues, ledgers[key], asking) for key in sorted(ledgers)]
    if not all(covering):
        stakes.append(Stake(queues, None, asking))
    return stakes


def _levels(queues: Queues, queue: str) -> list[Level]:
    levels = [Level(at) for at in queues.path(queue)]
    if queues.children(queue):
        levels.append(Level(queue, direct=True))
    return levels


def _below_common(queues: Queues, queue: str, other: str) -> list[Level]:
    """The first one's levels below the least common ancestor of both."""
    above = set(queues.path(other))
    return [level for level in _levels(queues, queue) if level.direct or level.name not in above]


def _by_name(queues: Queues, milli: Mapping[int, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, amount in milli.items():
        if amount > 0:
            name = queues.models.names[number].casefold()
            found[name] = found.get(name, 0) + amount
    return found
