"""Who runs on which kind in the next round, within what priorities, queues and quotas allow.

Priorities go first, the highest before all others. Where all contenders are of one queue that nothing limits, the
assignment of the highest total value is the plan. Else jobs are drawn one by one: the queue whose turn it is, as in a
cycle (what stays within its quota first, then by standing down the tree), takes its best job, on the kind where that
is worth most of those with room by fleet and quota. That says who runs; on which kinds follows from the assignment
among them, unless a quota does not hold that or somebody drawn would be left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import Floats, Ints
from placement_engine.domain.model import WHOLE_DEVICE, Claim, Job
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.quotas import within_nominal
from placement_engine.domain.round_assignment import WAITS, assign_kinds

__all__ = ["Contenders", "share_out"]


@dataclass(frozen=True, slots=True)
class Contenders:
    """The jobs among which a round is shared out; one entry a job everywhere.

    value: worth of the round on each model, shape (jobs, models), 0: cannot run there. scale: devices. sits: the
    model on which it runs, -1: it waits. overdue: rank among those that have waited too long, the longest first, from
    0; -1: it has not.
    """

    jobs: tuple[Job, ...]
    value: Floats
    scale: Ints
    sits: Ints
    overdue: Ints

    def first(self, among: Ints) -> Ints:
        """Positions in `among` of the overdue, the longest-waiting first."""
        rank = self.overdue[among]
        late = np.flatnonzero(rank >= 0)
        return late[np.argsort(rank[late], kind="stable")]


def share_out(
    contenders: Contenders,
    capacity: Ints,
    queues: Queues,
    totals: Totals,
    names: list[str],
    running: Sequence[Claim],
    charge: Callable[[Claim, int], None],
) -> Ints:
    """Model of each contender, -1: it waits. capacity: devices of each model; `names`: of the models. `charge` takes
    (-1) what the running contenders hold from their queues, and gives it back (1)."""
    kind = np.full(len(contenders.jobs), WAITS, dtype=np.int64)
    free = capacity.astype(np.int64).copy()
    limited = bool(queues.quotas.ledgers) or any(queue.device_limit is not None for queue in queues.known.values())
    simple = not limited and len({job.queue for job in contenders.jobs}) <= 1
    if simple:
        _by_level(contenders, kind, free, None)
        return kind
    for claim in running:
        charge(claim, -1)
    draw = _Draw(contenders, queues, totals, names)
    _by_level(contenders, kind, free, draw)
    draw.undo()
    for claim in running:
        charge(claim, 1)
    return kind


def _by_level(contenders: Contenders, kind: Ints, free: Ints, draw: "_Draw | None") -> None:
    """Writes the kinds, priority after priority, and takes them from what is free."""
    priority = np.array([job.priority for job in contenders.jobs], dtype=np.int64)
    for one in np.unique(priority)[::-1].tolist():
        level = np.flatnonzero(priority == one)
        if draw is None:
            kind[level] = _assigned(contenders, level, free)
        else:
            draw.level(kind, level, free)
        runs = level[kind[level] != WAITS]
        np.subtract.at(free, kind[runs], contenders.scale[runs])


def _assigned(contenders: Contenders, level: Ints, free: Ints) -> Ints:
    return assign_kinds(contenders.value[level], contenders.scale[level], free, contenders.first(level))


Key = tuple[object, ...]


class _Draw:
    """Charges what is drawn to its queue, so that the queue's standing and quotas count it, until `undo`."""

    def __init__(self, contenders: Contenders, queues: Queues, totals: Totals, names: list[str]) -> None:
        self._contenders, self._queues, self._totals, self._names = contenders, queues, totals, names
        self._charged: list[tuple[int, int]] = []

    def undo(self) -> None:
        for at, model in reversed(self._charged):
            self._charge(at, model, -1)
        self._charged.clear()

    def level(self, kind: Ints, level: Ints, free: Ints) -> None:
        """Draws jobs of one priority, and writes their kinds."""
        mark = len(self._charged)
        drawn = self._drawn(level, free.copy())
        if not drawn:
            return
        who, kinds = np.array(list(drawn), dtype=np.int64), np.array(list(drawn.values()), dtype=np.int64)
        better = _assigned(self._contenders, who, free)
        if bool((better != WAITS).all()) and not np.array_equal(better, kinds) and self._recharge(mark, who, better):
            kinds = better
        kind[who] = kinds

    def _drawn(self, level: Ints, free: Ints) -> dict[int, int]:
        jobs, value, scale = self._contenders.jobs, self._contenders.value, self._contenders.scale
        rank = np.where(self._contenders.overdue >= 0, self._contenders.overdue, len(jobs))
        density = value.max(axis=1, initial=0.0) / scale
        lines: dict[str, list[int]] = {}
        for at in sorted(level.tolist(), key=lambda at: (-rank[at], density[at], -at)):
            lines.setdefault(jobs[at].queue, []).append(at)  # the best at the end
        keys = {name: self._key(name, line[-1]) for name, line in lines.items()}
        drawn: dict[int, int] = {}
        while keys:
            name = min(keys, key=keys.__getitem__)
            at = lines[name].pop()
            model = self._best(at, free)
            if model != WAITS:
                drawn[at] = model
                free[model] -= scale[at]
                self._put(at, model)
            top = self._queues.path(name)[0]
            for other in [other for other in keys if self._queues.path(other)[0] == top]:
                if lines[other]:
                    keys[other] = self._key(other, lines[other][-1])
                else:
                    del keys[other]
        return drawn

    def _key(self, name: str, at: int) -> Key:
        """The order of queues, as `queues.Rank`."""
        queues = self._queues
        needs = queues.quotas.needs(self._contenders.jobs[at]) if queues.quotas.ledgers else ()
        path = [(queues.standing(one, self._totals), one) for one in queues.path(name)]
        if queues.children(name):
            path.append((queues.own_standing(name, self._totals), name))
        return (not within_nominal(needs), *path)

    def _best(self, at: int, free: Ints) -> int:
        """The model where the job is worth most, of those with room by fleet, quota and limit; -1: there is none.
        What it has it may keep, whatever a quota says: to take that back is reclaim's part."""
        job, scale, sits = self._contenders.jobs[at], self._contenders.scale[at], int(self._contenders.sits[at])
        worth = np.where(free >= scale, self._contenders.value[at], 0.0)
        if not worth.max(initial=0.0) > 0:
            return WAITS
        may = self._queues.quotas.mask(job)
        if self._queues.limit_hit(job.queue, int(scale) * WHOLE_DEVICE) is not None:
            may = np.zeros(worth.size, dtype=np.bool_)
        if may is not None:
            kept = np.arange(worth.size) == sits
            worth = np.where(may | kept, worth, 0.0)
        best = int(worth.argmax())
        return best if worth[best] > 0 else WAITS

    def _recharge(self, mark: int, who: Ints, kinds: Ints) -> bool:
        """Charges these kinds in place of what was charged since `mark`, if the quotas hold them."""
        before = self._charged[mark:]
        self._take_back(mark)
        for at, model in zip(who.tolist(), kinds.tolist(), strict=True):
            may = self._queues.quotas.mask(self._contenders.jobs[at])
            if may is not None and not may[model] and model != self._contenders.sits[at]:
                self._take_back(mark)
                for one in before:
                    self._put(*one)
                return False
            self._put(at, model)
        return True

    def _put(self, at: int, model: int) -> None:
        self._charge(at, model, 1)
        self._charged.append((at, model))

    def _take_back(self, mark: int) -> None:
        for at, model in reversed(self._charged[mark:]):
            self._charge(at, model, -1)
        del self._charged[mark:]

    def _charge(self, at: int, model: int, sign: int) -> None:
        job = self._contenders.jobs[at]
        milli = int(self._contenders.scale[at]) * WHOLE_DEVICE
        cpu, memory = job.cpu_milli * job.replicas, job.memory_bytes * job.replicas
        self._queues.charge(job, {self._names[model]: milli}, cpu, memory, sign)
