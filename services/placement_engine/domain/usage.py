"""The tree of queues and what each holds: now, in normalised units, and in the past with decay.

A queue's standing, by which the next job is chosen, is (share + past share) / weight:
- share: the dominant one (Ghodsi et al., NSDI 2011) of devices in the queue's own normalised units
  (`units`), host CPU and host memory, each as a part of the pool;
- past share: the mean of the share over time, weighted by 2 ** (-age / half-life), as Slurm decays usage
  (priority/multifactor). It needs no units of its own: were the share always s, the past share would be s.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from placement_engine.domain.model import Job, Queue
from placement_engine.domain.models import Models
from placement_engine.domain.quotas import Quotas, refuse_bad_quotas
from placement_engine.domain.units import UNIT, Units

NEGLIGIBLE = 1e-12
"""A past share below this is forgotten."""


@dataclass(slots=True)
class Usage:
    """What a queue's subtree holds: milli of devices, in all and by model name (casefolded), milli of CPU,
    bytes of host memory. `normal`: devices in the queue's normalised units, thousandths of milli."""

    devices: int = 0
    cpu: int = 0
    memory: int = 0
    jobs: int = 0
    normal: int = 0
    models: dict[str, int] = field(default_factory=dict)

    def add(self, models: Mapping[str, int], cpu: int, memory: int, sign: int) -> None:
        for name, milli in models.items():
            self.devices += sign * milli
            left = self.models.get(name, 0) + sign * milli
            if left:
                self.models[name] = left
            else:
                self.models.pop(name, None)
        self.cpu += sign * cpu
        self.memory += sign * memory
        self.jobs += sign


@dataclass(slots=True)
class Totals:
    """What the pool has: the denominators of shares."""

    devices: int = 0
    cpu: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class PastUse:
    """A queue's past share (1: always held the pool) as of `at`, seconds since the epoch. `own`: that of the
    queue's own jobs alone, which is kept apart where it has children."""

    queue: str
    share: float
    at: float
    own: bool = False


class QueueTree:
    """Queues, what each uses and owns. A queue that only jobs name is at the root.

    Everything but the past is a function of the queues, the fleet, the profiles, the waiting jobs and the
    claims: rebuilt from those, it is the same. Charges are kept by model in whole milli and undone exactly;
    normalised figures follow from them, so they cannot be undone in other units than they were made with.
    """

    def __init__(self, models: Models | None = None, half_life_seconds: float = 0.0) -> None:
        self.known: dict[str, Queue] = {}
        self.usage: dict[str, Usage] = {}
        self.own: dict[str, Usage] = {}
        """Of jobs of the very queue, children not counted."""
        self.waiting: dict[str, int] = {}
        """Waiting jobs of the subtree."""
        models = models or Models()
        self.models = models
        self.units = Units(models)
        self.quotas = Quotas(models)
        self._half_life = half_life_seconds
        self._past: dict[tuple[str, bool], float] = {}
        """By queue, and whether of its own jobs alone."""
        self._past_at: float | None = None
        self._work: dict[str, dict[str, int]] = {}
        """Milli asked for by workload, of the subtree's waiting and running jobs."""
        self._own_work: dict[str, dict[str, int]] = {}
        self._own_waiting: dict[str, int] = {}
        self._priced: dict[str, tuple[dict[str, int], int]] = {}
        """Units, and the pool's capacity in them."""
        self._stale: set[str] = set()
        self._paths: dict[str, tuple[str, ...]] = {}
        self._children: dict[str, tuple[str, ...]] = {}

    # -- the tree --------------------------------------------------------------------------------

    def set_queues(self, queues: Iterable[Queue]) -> None:
        """Replaces the tree; what jobs hold stays charged. ValueError: see the message; nothing changed."""
        known: dict[str, Queue] = {}
        for queue in queues:
            if not queue.name:
                raise ValueError("queue name must not be empty")
            if not (queue.weight > 0 and math.isfinite(queue.weight)):
                raise ValueError(f"queue {queue.name!r}: weight must be above 0, got {queue.weight}")
            if not queue.protected_seconds >= 0:
                raise ValueError(
                    f"queue {queue.name!r}: protected_seconds must not be negative, got {queue.protected_seconds}"
                )
            refuse_bad_quotas(queue)
            known[queue.name] = queue
        for queue in known.values():
            seen = {queue.name}
            at = queue
            while at.parent:
                if at.parent not in known:
                    raise ValueError(f"queue {at.name!r}: parent {at.parent!r} is not a queue; define it too")
                at = known[at.parent]
                if at.name in seen:
                    raise ValueError(f"queue {queue.name!r}: its parents form a loop at {at.name!r}")
                seen.add(at.name)
        self.known = known
        children: dict[str, list[str]] = {}
        for name in sorted(known):
            children.setdefault(known[name].parent, []).append(name)
        self._children = {name: tuple(below) for name, below in children.items()}
        self._paths.clear()
        self._sum_up()
        self.quotas.set_queues(known, self._children)
        self.quotas.recount(self.own)

    def _sum_up(self) -> None:
        """Subtree figures anew from those of each queue alone."""
        self.usage, self.waiting, self._work = {}, {}, {}
        self._priced.clear()
        self._stale.clear()
        for name, own in self.own.items():
            for at in self.path(name):
                usage = self.usage.setdefault(at, Usage())
                usage.add(own.models, own.cpu, own.memory, 1)
                usage.jobs += own.jobs - 1
        for name, count in self._own_waiting.items():
            for at in self.path(name):
                self.waiting[at] = self.waiting.get(at, 0) + count
        for name, work in self._own_work.items():
            for at in self.path(name):
                above = self._work.setdefault(at, {})
                for workload, milli in work.items():
                    above[workload] = above.get(workload, 0) + milli
        for name in self.usage:
            self._price(name)

    def path(self, name: str) -> tuple[str, ...]:
        """From the root's child down to the queue."""
        path = self._paths.get(name)
        if path is None:
            names, at = [name], self.known.get(name)
            while at is not None and at.parent:
                names.append(at.parent)
                at = self.known.get(at.parent)
            path = self._paths[name] = tuple(reversed(names))
        return path

    def children(self, name: str) -> tuple[str, ...]:
        """Queues right below, by name; "" is the root, under which queues stand that only jobs name."""
        below = self._children.get(name, ())
        if name:
            return below
        unknown = {at for at in (*self.own, *self._own_waiting) if at not in self.known}
        return tuple(sorted({*below, *unknown})) if unknown else below

    def weight(self, name: str) -> float:
        queue = self.known.get(name)
        return queue.weight if queue else 1.0

    def at_work(self, name: str) -> bool:
        """Whether jobs of the subtree run or wait."""
        usage = self.usage.get(name)
        return (usage is not None and (usage.jobs > 0 or usage.devices > 0)) or self.waiting.get(name, 0) > 0

    # -- charges ---------------------------------------------------------------------------------

    def charge(self, job: Job, models: Mapping[str, int], cpu: int, memory: int, sign: int) -> None:
        """Counts (1) or undoes (-1) what a job holds: milli by model name, milli of CPU, bytes."""
        name, demand = job.queue, demand_of(job)
        own = self.own.get(name)
        if own is None:
            own = self.own[name] = Usage()
        models = {model.casefold(): milli for model, milli in models.items()}
        own.add(models, cpu, memory, sign)
        if not own.jobs and not own.models and not own.cpu and not own.memory:
            del self.own[name]
        for at in self.path(name):
            usage = self.usage.get(at)
            if usage is None:
                usage = self.usage[at] = Usage()
            units = self._priced_of(at)[0]
            usage.add(models, cpu, memory, sign)
            for model, milli in models.items():
                usage.normal += sign * milli * units.get(model, UNIT)
        if self.quotas.ledgers:
            self.quotas.charge(name, models, sign)
        self._count_work(name, job.workload, sign * demand)

    def _count_waiting(self, job: Job, sign: int) -> None:
        name = job.queue
        _count(self._own_waiting, name, sign)
        for at in self.path(name):
            _count(self.waiting, at, sign)
        self._count_work(name, job.workload, sign * demand_of(job))

    def _count_work(self, name: str, workload: str, milli: int) -> None:
        if not milli:
            return
        _count(self._own_work.setdefault(name, {}), workload, milli)
        for at in self.path(name):
            _count(self._work.setdefault(at, {}), workload, milli)
            self._stale.add(at)

    # -- normalised units ------------------------------------------------------------------------

    def reprice(self) -> None:
        """Profiles or the catalogue changed: units are found anew, and classes may be other ones."""
        self.units.forget()
        self._stale.update(self._priced)
        self.quotas.forget_classes()

    def refresh(self) -> None:
        """Brings units up to date with the fleet and with each queue's present work. Cheap when nothing
        changed; a cycle begins with it, and keeps its units to the end."""
        if self.units.moved():
            self._stale.update(self._priced)
            self.quotas.forget_classes()
        if self.quotas.outdated:
            self.quotas.recount(self.own)
        for name in self._stale:
            self._price(name)
        self._stale.clear()

    def _price(self, name: str) -> tuple[dict[str, int], int]:
        units = self.units.of(self._work.get(name, {}))
        known = self._priced.get(name)
        if known is None or known[0] != units or self.units.capacity(units) != known[1]:
            known = self._priced[name] = (units, self.units.capacity(units))
            usage = self.usage.get(name)
            if usage is not None:
                usage.normal = sum(milli * units.get(model, UNIT) for model, milli in usage.models.items())
        return known

    def _priced_of(self, name: str) -> tuple[dict[str, int], int]:
        return self._priced.get(name) or self._price(name)

    def units_of(self, name: str) -> Mapping[str, int]:
        """The queue's units: thousandths by model name (casefolded); a model not in the fleet counts whole."""
        return self._priced_of(name)[0]

    # -- shares ----------------------------------------------------------------------------------

    def dominant(self, name: str, totals: Totals, *, own: bool = False) -> float:
        """Dominant share of the subtree, or of the queue's `own` jobs: 0 holds nothing, 1 holds the pool."""
        usage = (self.own if own else self.usage).get(name)
        if usage is None:
            return 0.0
        share = 0.0
        if usage.models:
            units, capacity = self._priced_of(name)
            normal = usage.normal
            if own:
                normal = sum(milli * units.get(model, UNIT) for model, milli in usage.models.items())
            share = normal / capacity if capacity else 0.0
        if usage.cpu and totals.cpu:
            share = max(share, usage.cpu / totals.cpu)
        if usage.memory and totals.memory:
            share = max(share, usage.memory / totals.memory)
        return share

    def share(self, name: str, totals: Totals) -> float:
        """Dominant share of the subtree, by weight."""
        return self.dominant(name, totals) / self.weight(name)

    def past_share(self, name: str) -> float:
        """Past dominant share with decay, by weight, as of the last cycle."""
        return self._past.get((name, False), 0.0) / self.weight(name)

    def standing(self, name: str, totals: Totals) -> float:
        """What siblings are ordered by, the least first: (share + past share) / weight."""
        return (self.dominant(name, totals) + self._past.get((name, False), 0.0)) / self.weight(name)

    def own_standing(self, name: str, totals: Totals) -> float:
        """That of a queue's own jobs among its children: as a child of weight 1."""
        return self.dominant(name, totals, own=True) + self._past.get((name, True), 0.0)

    def limit_hit(self, name: str, milli: int) -> Queue | None:
        """The queue, of this one and those above it, whose device limit this many more would break."""
        for at in self.path(name):
            queue = self.known.get(at)
            if queue is None or queue.device_limit is None:
                continue
            usage = self.usage.get(at)
            if (usage.devices if usage else 0) + milli > queue.device_limit * 1000:
                return queue
        return None

    # -- the past --------------------------------------------------------------------------------

    def advance(self, now: float, totals: Totals) -> None:
        """Adds what each queue held since the last time to its past. The first time starts the count."""
        if self._half_life <= 0 or (self._past_at is not None and now <= self._past_at):
            return
        self.refresh()
        if self._past_at is not None:
            kept = math.exp2(-(now - self._past_at) / self._half_life)
            for key in {*self._past, *((name, False) for name in self.usage), *self._apart(self.own)}:
                share = self._past.get(key, 0.0) * kept
                share += self.dominant(key[0], totals, own=key[1]) * (1.0 - kept)
                if share > NEGLIGIBLE:
                    self._past[key] = share
                else:
                    self._past.pop(key, None)
        self._past_at = now

    def _apart(self, names: Iterable[str]) -> list[tuple[str, bool]]:
        """Those of which the own jobs' past is kept apart."""
        return [(name, True) for name in names if self._children.get(name)]

    def shares_with(self, name: str, totals: Totals) -> dict[tuple[str, bool], float]:
        """Shares on the queue's path, for `ended`."""
        keys = [*((at, False) for at in self.path(name)), *self._apart((name,))]
        return {key: self.dominant(key[0], totals, own=key[1]) for key in keys}

    def ended(self, before: Mapping[tuple[str, bool], float], now: float, totals: Totals) -> None:
        """Adds what a job held from the last advance to its end at `now`. `before`: shares with the job.

        Noted as of the last advance: divided by the decay that the next one brings.
        """
        if self._half_life <= 0 or self._past_at is None or now <= self._past_at:
            return
        kept = math.exp2(-min(now - self._past_at, 100 * self._half_life) / self._half_life)
        for key, share in before.items():
            held = max(0.0, share - self.dominant(key[0], totals, own=key[1]))
            if held > 0:
                self._past[key] = self._past.get(key, 0.0) + held * (1.0 - kept) / kept

    def usage_history(self) -> tuple[PastUse, ...]:
        """The past of every queue, by name, to be kept across a restart: nothing else can tell it."""
        if self._past_at is None:
            return ()
        return tuple(PastUse(name, self._past[name, own], self._past_at, own) for name, own in sorted(self._past))

    def restore_usage(self, history: Iterable[PastUse]) -> None:
        """Takes the past as it was kept, in place of what is known. From its latest time on, what is held
        now is counted. ValueError: a share or a time that is none."""
        entries = list(history)
        for entry in entries:
            if not (entry.share >= 0 and math.isfinite(entry.share) and math.isfinite(entry.at)):
                raise ValueError(
                    f"past use of queue {entry.queue!r}: share and time must be finite and the share not negative, "
                    f"got {entry.share} at {entry.at}; leave the entry out to start it at 0"
                )
        self.refresh()
        self._past = {}
        self._past_at = max((entry.at for entry in entries), default=None)
        if self._past_at is None or self._half_life <= 0:
            return
        for entry in entries:
            share = entry.share * math.exp2((entry.at - self._past_at) / self._half_life)
            if share > NEGLIGIBLE:
                self._past[entry.queue, entry.own] = share


def demand_of(job: Job) -> int:
    """Milli of devices that the whole job asks for; a share or a partition of unknown size counts 1."""
    if not job.groups:
        part = 1 if job.device_share_bytes or job.partition else 0
        return job.replicas * (job.milli_per_member or part)
    return sum(
        group.replicas
        * (group.devices * 1000 + group.device_milli or (1 if group.device_share_bytes or group.partition else 0))
        for group in job.groups
    )


def _count(counts: dict[str, int], key: str, change: int) -> None:
    """Adds, and drops what has become 0, so that a count is the same whatever was before."""
    left = counts.get(key, 0) + change
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)
