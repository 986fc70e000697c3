"""Who is next: priority, then weighted fair share down the tree of queues, then submit time, then id."""

import bisect
import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from placement_engine.domain.model import Job, Queue
from placement_engine.domain.shapes import Shape, gang_of, shape_of

Place = tuple[int, float, str]
"""Order within a queue: (-priority, submitted at, job id)."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """Jobs of one queue that get the same answer: if one does not fit now, none does."""

    queue: str
    shape: Shape
    gang: tuple[object, ...]
    deadline: float | None
    duration: float | None
    """Where a deadline binds, as declared; else its power of two, since the short may be backfilled."""


def likeness_of(job: Job) -> Likeness:
    bound, duration = job.deadline is not None, job.expected_duration_seconds
    return Likeness(
        queue=job.queue,
        shape=shape_of(job),
        gang=gang_of(job),
        deadline=job.deadline,
        duration=duration if bound or duration is None else 2.0 ** math.frexp(duration)[1],
    )


def place_of(job: Job) -> Place:
    return (-job.priority, job.submitted_at, job.job_id)


@dataclass(slots=True)
class Group:
    """Waiting jobs alike. `told`: reason codes of the last rejection that was given out for them."""

    likeness: Likeness
    order: list[Place] = field(default_factory=list)
    told: tuple[str, ...] | None = None
    untold: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Usage:
    """What a queue's subtree holds: milli of devices, milli of CPU, bytes of host memory."""

    devices: int = 0
    cpu: int = 0
    memory: int = 0
    jobs: int = 0

    def add(self, devices: int, cpu: int, memory: int, jobs: int) -> None:
        self.devices += devices
        self.cpu += cpu
        self.memory += memory
        self.jobs += jobs


@dataclass(slots=True)
class Totals:
    """What the pool has: the denominators of shares."""

    devices: int = 0
    cpu: int = 0
    memory: int = 0


class Queues:
    """The tree of queues, what each uses, and the waiting jobs. A queue that only jobs name is at the root."""

    def __init__(self) -> None:
        self.known: dict[str, Queue] = {}
        self.usage: dict[str, Usage] = {}
        self.jobs: dict[str, Job] = {}
        self.groups: dict[Likeness, Group] = {}
        self.order: dict[str, list[Place]] = {}
        self._groups_of: dict[str, dict[Likeness, Group]] = {}
        self._likeness: dict[str, Likeness] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._deferred: list[tuple[float, str]] = []
        self._held_back: dict[str, float] = {}

    def set_queues(self, queues: Iterable[Queue]) -> None:
        known: dict[str, Queue] = {}
        for queue in queues:
            if not queue.name:
                raise ValueError("queue name must not be empty")
            if not queue.weight > 0:
                raise ValueError(f"queue {queue.name!r}: weight must be above 0, got {queue.weight}")
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
        leaves = {name: self.usage_alone(name) for name in self.usage}
        self.known = known
        self._paths.clear()
        self.usage = {}
        for name, own in leaves.items():
            self.charge(name, own.devices, own.cpu, own.memory, own.jobs)

    def usage_alone(self, name: str) -> Usage:
        """What jobs of this very queue hold, children not counted."""
        own = self.usage.get(name, Usage())
        result = Usage(own.devices, own.cpu, own.memory, own.jobs)
        for child in self.known.values():
            if child.parent == name:
                below = self.usage.get(child.name, Usage())
                result.add(-below.devices, -below.cpu, -below.memory, -below.jobs)
        return result

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

    def charge(self, name: str, devices: int, cpu: int, memory: int, jobs: int) -> None:
        for queue in self.path(name):
            usage = self.usage.get(queue)
            if usage is None:
                usage = self.usage[queue] = Usage()
            usage.add(devices, cpu, memory, jobs)

    def share(self, name: str, totals: Totals) -> float:
        """Dominant share of the subtree, by weight: 0 holds nothing, 1 with weight 1 holds the pool."""
        usage = self.usage.get(name)
        if usage is None:
            return 0.0
        queue = self.known.get(name)
        parts = (
            usage.devices / totals.devices if totals.devices else 0.0,
            usage.cpu / totals.cpu if totals.cpu else 0.0,
            usage.memory / totals.memory if totals.memory else 0.0,
        )
        return max(parts) / (queue.weight if queue else 1.0)

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

    # -- waiting jobs ----------------------------------------------------------------------------

    def add(self, job: Job, now_known: float = float("-inf")) -> None:
        self.discard(job.job_id)
        self.jobs[job.job_id] = job
        bisect.insort(self.order.setdefault(job.queue, []), place_of(job))
        if job.not_before > now_known:
            self._held_back[job.job_id] = job.not_before
            heapq.heappush(self._deferred, (job.not_before, job.job_id))
        else:
            self._enter(job)

    def _enter(self, job: Job) -> None:
        likeness = likeness_of(job)
        group = self.groups.get(likeness)
        if group is None:
            group = self.groups[likeness] = Group(likeness)
            self._groups_of.setdefault(job.queue, {})[likeness] = group
        bisect.insort(group.order, place_of(job))
        group.untold.add(job.job_id)
        self._likeness[job.job_id] = likeness

    def discard(self, job_id: str) -> Job | None:
        job = self.jobs.pop(job_id, None)
        if job is None:
            return None
        place = place_of(job)
        order = self.order[job.queue]
        del order[bisect.bisect_left(order, place)]
        if not order:
            del self.order[job.queue]
        self._held_back.pop(job_id, None)
        likeness = self._likeness.pop(job_id, None)
        if likeness is not None:
            group = self.groups[likeness]
            del group.order[bisect.bisect_left(group.order, place)]
            group.untold.discard(job_id)
            if not group.order:
                del self.groups[likeness]
                del self._groups_of[job.queue][likeness]
        return job

    def wake(self, now: float) -> None:
        """Jobs whose back-off is over join the others."""
        while self._deferred and self._deferred[0][0] <= now:
            not_before, job_id = heapq.heappop(self._deferred)
            if self._held_back.get(job_id) == not_before:
                del self._held_back[job_id]
                self._enter(self.jobs[job_id])

    def position(self, job: Job) -> int:
        """1 is next in its queue; for a job that does not wait, where it would stand."""
        return bisect.bisect_left(self.order.get(job.queue, []), place_of(job)) + 1

    def waiting_below(self, name: str) -> int:
        return sum(len(order) for queue, order in self.order.items() if name in self.path(queue))

    def turn(self, totals: Totals) -> "Turn":
        return Turn(self, totals, self._groups_of)


class Turn:
    """One cycle's walk over the waiting jobs. After `fits` the job has left the queue; after `skip`
    its whole group is passed over until the next cycle."""

    def __init__(self, queues: Queues, totals: Totals, groups: dict[str, dict[Likeness, Group]]) -> None:
        self._queues = queues
        self._totals = totals
        self._heads: dict[str, list[tuple[Place, int, Group]]] = {}
        ticket = 0
        for name in sorted(groups):
            heads: list[tuple[Place, int, Group]] = []
            for group in groups[name].values():
                ticket += 1
                heads.append((group.order[0], ticket, group))
            if heads:
                heapq.heapify(heads)
                self._heads[name] = heads
        self._children: dict[str, set[str]] = {}
        for name in self._heads:
            above = ""
            for at in queues.path(name):
                self._children.setdefault(above, set()).add(at)
                above = at

    def _best_priority(self, name: str) -> int | None:
        heads = self._heads.get(name)
        best = None if not heads else -heads[0][0][0]
        for child in self._children.get(name, ()):
            below = self._best_priority(child)
            if below is not None and (best is None or below > best):
                best = below
        return best

    def next(self) -> tuple[Job, Group] | None:
        """The job to try next, or None."""
        at = ""
        while True:
            children = sorted(self._children.get(at, ()))
            options = [(p, c) for c in children if (p := self._best_priority(c)) is not None]
            own = self._heads.get(at)
            if not options and not own:
                return None
            top = max([p for p, _ in options] + ([-own[0][0][0]] if own else []))
            if own and -own[0][0][0] == top:
                # Jobs in a queue that also has children go before its children's.
                group = own[0][2]
                return self._queues.jobs[own[0][0][2]], group
            best = [c for p, c in options if p == top]
            if len(best) == 1:
                at = best[0]
            else:
                shares = [self._queues.share(c, self._totals) for c in best]
                least = min(shares)
                owed = [c for c, share in zip(best, shares, strict=True) if share == least]
                at = owed[0] if len(owed) == 1 else min(owed, key=lambda c: (self._first(c, top), c))

    def _first(self, name: str, priority: int) -> Place:
        """The earliest head of that priority in the subtree."""
        found = [h[0][0] for n in self._below(name) if (h := self._heads.get(n)) and -h[0][0][0] == priority]
        return min(found)

    def _below(self, name: str) -> Iterator[str]:
        yield name
        for child in self._children.get(name, ()):
            yield from self._below(child)

    def skip(self, group: Group) -> None:
        """Passes over the head group of its queue."""
        heads = self._heads[group.likeness.queue]
        heapq.heappop(heads)
        if not heads:
            del self._heads[group.likeness.queue]

    def fits(self, group: Group) -> None:
        """The head job was placed and has left its group, or a place is kept for it: the group's next one
        stands in line."""
        heads = self._heads[group.likeness.queue]
        place, ticket, _ = heads[0]
        after = bisect.bisect_right(group.order, place)
        if after < len(group.order):
            heapq.heapreplace(heads, (group.order[after], ticket, group))
        else:
            self.skip(group)
