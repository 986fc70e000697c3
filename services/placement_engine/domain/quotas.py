"""Quotas: what queues own of each kind of accelerator, lend and borrow, in whole milli.

Each accelerator that some quota names (a catalogue name, a class, or "" for every device) has a ledger of
its own, a tree as Kueue's cohorts are: the siblings under one parent, and so on upwards.

- A queue owns its quota, or what its children own together where that is more. What a parent owns beyond
  its children's quotas is shared by them. (Kueue's cohort quota comes on top of its members' instead.)
- Of what it owns a queue keeps back all beyond its `lending_limit`; the rest is the parent's to give, first
  come, to whichever child asks, and a child takes at most its `borrowing_limit` beyond its own.
- A queue is limited by a ledger if it or a queue above it has a quota there. One that is not is none of the
  ledger's business: it neither borrows nor lends, and only fair share and device limits hold it.

A device counts in every ledger that covers its model, and must have room in each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from placement_engine.domain.columns import Bools
from placement_engine.domain.model import WHOLE_DEVICE, Job, MemberGroup, Queue
from placement_engine.domain.models import Models
from placement_engine.domain.partitions import cut, milli_of
from placement_engine.domain.shapes import Ask


class Holds(Protocol):
    """What jobs of one queue hold: milli by model name (casefolded)."""

    @property
    def models(self) -> Mapping[str, int]: ...


@dataclass(slots=True, eq=False)
class Line:
    """One queue in a ledger. `used` counts what it holds beyond what its children kept back for themselves."""

    name: str
    parent: "Line | None"
    limited: bool
    quota: int | None
    """Its own, None where it has none."""
    borrowing: int | None
    nominal: int = 0
    """What the subtree owns."""
    stored: int = 0
    """Of that, what is not kept back below."""
    kept: int = 0
    """Of `stored`, what is not lent."""
    used: int = 0
    held: int = 0
    """By jobs of the subtree that the ledger limits."""

    def owner(self) -> "Line":
        """The nearest one upwards that has a quota: itself or what it shares in."""
        line = self
        while line.quota is None and line.parent is not None:
            line = line.parent
        return line

    def room(self) -> int:
        """Most milli that may be taken now. What is kept back stays there even where quotas were cut below
        what the siblings hold already."""
        if self.parent is None:
            return max(0, self.stored - self.used)
        above = self.parent.room()
        if self.borrowing is not None:
            above = min(above, self.stored - self.kept - max(0, self.used - self.kept) + self.borrowing)
        return max(0, self.kept - self.used) + max(0, above)

    def add(self, milli: int) -> None:
        """Counts milli, or takes them back where below 0. The parent sees what is beyond `kept`."""
        seen = max(0, self.used - self.kept)
        self.used += milli
        change = max(0, self.used - self.kept) - seen
        if change and self.parent is not None:
            self.parent.add(change)


class Ledger:
    """The quotas of one accelerator, catalogue name or class or ""; its key is casefolded."""

    def __init__(self, accelerator: str, known: Mapping[str, Queue], children: Mapping[str, Sequence[str]]) -> None:
        self.accelerator = accelerator
        self.key = accelerator.casefold()
        self.lines: dict[str, Line] = {}
        self._write("", None, False, known, children)

    def _write(
        self,
        name: str,
        parent: Line | None,
        limited: bool,
        known: Mapping[str, Queue],
        children: Mapping[str, Sequence[str]],
    ) -> Line:
        quotas = known[name].quotas if name else ()
        quota = next((q for q in quotas if q.accelerator.casefold() == self.key), None)
        line = self.lines[name] = Line(
            name=name,
            parent=parent,
            limited=limited or quota is not None,
            quota=quota.milli if quota else None,
            borrowing=quota.borrowing_limit if quota else None,
        )
        below = [self._write(child, line, line.limited, known, children) for child in children.get(name, ())]
        line.nominal = max(line.quota or 0, sum(child.nominal for child in below))
        shared = line.nominal - sum(child.nominal for child in below)
        line.stored = shared + sum(child.stored - child.kept for child in below)
        if quota is not None and quota.lending_limit is not None:
            line.kept = max(0, line.stored - quota.lending_limit)
        return line

    def line(self, queue: str) -> Line | None:
        """Of a queue that this ledger limits."""
        line = self.lines.get(queue)
        return line if line is not None and line.limited else None

    def lent(self, queue: str) -> int:
        """Of what the queue owns and leaves unused, what others hold now: as much of what all its siblings
        lend as its part of what they leave unused."""
        line = self.lines[queue]
        if line.parent is None:
            return 0
        unused = {
            other.name: max(0, other.stored - other.kept - max(0, other.used - other.kept))
            for other in self.lines.values()
            if other.parent is line.parent
        }
        total = sum(unused.values())
        parent = line.parent
        left = max(0, min(parent.stored - parent.used, parent.room()))
        return max(0, total - left) * unused[queue] // total if total else 0


Needs = tuple[tuple[int, tuple[Line, ...]], ...]
"""Ways to place a job by quota: milli, and the lines that must own them."""


def within_nominal(needs: Needs) -> bool:
    """Whether one of them borrows nothing now."""
    return any(all(line.held + asked <= line.nominal for line in owners) for asked, owners in needs)


class Quotas:
    """All ledgers of a tree of queues, and which of them cover a model."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self.ledgers: tuple[Ledger, ...] = ()
        self.outdated = False
        """Models or their classes changed: `recount` is due."""
        self.version = 0
        """Moves when it may have become another question which quotas a job needs."""
        self._covering: dict[str, tuple[Ledger, ...]] = {}
        self._lines: dict[str, tuple[tuple[Ledger, Line], ...]] = {}

    def set_queues(self, known: Mapping[str, Queue], children: Mapping[str, Sequence[str]]) -> None:
        named: dict[str, str] = {}
        for name in sorted(known):
            for quota in known[name].quotas:
                named.setdefault(quota.accelerator.casefold(), quota.accelerator)
        self.ledgers = tuple(Ledger(named[key], known, children) for key in sorted(named))
        self._covering.clear()
        self._lines.clear()
        self.version += 1

    def forget_classes(self) -> None:
        if self.ledgers:
            self._covering.clear()
            self.version += 1
            self.outdated = True

    def covering(self, model: str) -> tuple[Ledger, ...]:
        """Ledgers in which a device of the model (casefolded name) counts."""
        found = self._covering.get(model)
        if found is None:
            kinds = {"", model}
            for name, device_class in zip(self._models.names[1:], self._models.classes[1:], strict=True):
                if name.casefold() == model:
                    kinds.add(device_class.casefold())
            entry = self._models.estimator.accelerator(model)
            if entry is not None:
                kinds.add(entry.device_class.casefold())
            found = self._covering[model] = tuple(ledger for ledger in self.ledgers if ledger.key in kinds)
        return found

    def recount(self, own: Mapping[str, Holds]) -> None:
        """Use anew from what the jobs of each queue hold."""
        self.outdated = False
        for ledger in self.ledgers:
            for line in ledger.lines.values():
                line.used = line.held = 0
        for name in own:
            self.charge(name, own[name].models, 1)

    def charge(self, queue: str, models: Mapping[str, int], sign: int) -> None:
        for model, milli in models.items():
            for ledger in self.covering(model):
                line = ledger.line(queue)
                if line is not None:
                    line.add(sign * milli)
                    at: Line | None = line
                    while at is not None:
                        at.held += sign * milli
                        at = at.parent

    def limits(self, queue: str) -> bool:
        """Whether any ledger limits the queue."""
        return bool(self._lines_of(queue))

    def _lines_of(self, queue: str) -> tuple[tuple[Ledger, Line], ...]:
        lines = self._lines.get(queue)
        if lines is None:
            found = ((ledger, ledger.line(queue)) for ledger in self.ledgers)
            lines = self._lines[queue] = tuple((ledger, line) for ledger, line in found if line is not None)
        return lines

    def room(self, queue: str, model: str) -> int | None:
        """Most milli of the model (casefolded name) that the queue may take now; None: no quota limits it."""
        rooms = [line.room() for ledger in self.covering(model) if (line := ledger.line(queue)) is not None]
        return min(rooms, default=None)

    def needs(self, job: Job) -> Needs:
        """For each accelerator of the fleet that the job admits and a quota of its queue covers: the least that it
        asks for, and whose quotas that is to come from."""
        found: list[tuple[int, tuple[Line, ...]]] = []
        lines = dict(self._lines_of(job.queue))
        models = self._models
        for number in range(1, len(models)) if lines else ():
            if not models.counts[number]:
                continue
            if not job.groups and not models.admits(number, job.models, job.classes, job.stacks):
                continue
            asked = least_milli(job, models, number)
            covering = self.covering(models.names[number].casefold())
            owners = tuple(lines[ledger].owner() for ledger in covering if ledger in lines)
            if asked and owners and (asked, owners) not in found:
                found.append((asked, owners))
        return tuple(found)

    def mask(self, job: Job) -> Bools | None:
        """By model number: where the job's queue may take what the whole gang, or its minimum, asks for now.
        None: wherever it likes."""
        lines = self._lines_of(job.queue)
        if not lines:
            return None
        rooms = {ledger.key: line.room() for ledger, line in lines}
        models, least = self._models, min(rooms.values())
        if not job.groups and 0 < job.milli_per_member * (job.min_replicas or job.replicas) <= least:
            return None
        may = np.ones(len(models), dtype=np.bool_)
        for number in range(1, len(models)):
            asked = least_milli(job, models, number)
            if asked > least:
                covering = self.covering(models.names[number].casefold())
                may[number] = all(rooms.get(ledger.key, asked) >= asked for ledger in covering)
        return None if bool(may.all()) else may


def within_quota(ask: Ask, may: Bools | None) -> Ask:
    """The ask with the accelerators struck out on which the queue has no room."""
    return ask if may is None else replace(ask, in_time=ask.in_time & may, within_quota=may)


def least_milli(job: Job, models: Models, number: int) -> int:
    """Milli that the gang takes at least, were all of it that can be put on this model. A partition that
    it has not, and a share of a model whose memory is not known, count as a whole device."""
    if not job.groups:
        return (job.min_replicas or job.replicas) * member_milli(job, models, number)
    return sum(
        group.min_replicas * member_milli(group, models, number)
        for group in job.groups
        if models.admits(number, group.models or job.models, group.classes or job.classes, group.stacks or job.stacks)
    )


def member_milli(one: Job | MemberGroup, models: Models, number: int) -> int:
    """Milli that a member takes of this model."""
    milli = one.devices * WHOLE_DEVICE + one.device_milli
    if milli or not (one.device_share_bytes or one.partition):
        return milli
    entry = models.estimator.accelerator(models.names[number])
    if one.partition:
        made = cut(entry.partitions, one.partition) if entry is not None else None
        return WHOLE_DEVICE if made is None else milli_of(made.partition)
    size = (entry.memory_bytes if entry is not None else None) or models.sizes[number]
    return min(WHOLE_DEVICE, -(-one.device_share_bytes * WHOLE_DEVICE // size)) if size else WHOLE_DEVICE


def refuse_bad_quotas(queue: Queue) -> None:
    """ValueError naming the queue, the value and the remedy. Any accelerator may be named: one that no
    device has matches nothing."""
    seen: set[str] = set()
    for quota in queue.quotas:
        where = f"queue {queue.name!r}: quota for {quota.accelerator or 'every device'!r}"
        if quota.accelerator.casefold() in seen:
            raise ValueError(f"{where} is given twice; keep one of them")
        seen.add(quota.accelerator.casefold())
        limits: Iterable[tuple[str, int | None]] = (
            ("milli", quota.milli),
            ("borrowing_limit", quota.borrowing_limit),
            ("lending_limit", quota.lending_limit),
        )
        for field, value in limits:
            if value is not None and value < 0:
                remedy = "0 or more" if field == "milli" else "0 for none, or leave it out for no limit"
                raise ValueError(f"{where}: {field} must not be negative, got {value}; write {remedy}")
