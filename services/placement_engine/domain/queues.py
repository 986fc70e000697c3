"""Who is next: priority, then weighted fair share down the tree of queues, then submit time, then id.

No job starves: within a priority, if jobs end, one that asks for no more than what a job that ends leaves is
placed in the end: without quotas in every queue, with them in each without children that stays within its own,
as long as quotas promise no more than there is. Each placement raises the standing of its queue, and what a
queue held in the past halves with each half-life: while a job waits, others are given, by weight, at most what
its queue was given before and one job each. Larger jobs wait for a reservation; what is borrowed is not promised.
"""

import bisect
import heapq
import math
from dataclasses import dataclass, field

from placement_engine.domain.model import Job
from placement_engine.domain.models import Models
from placement_engine.domain.quotas import Needs, within_nominal
from placement_engine.domain.shapes import Shape, gang_of, shape_of
from placement_engine.domain.usage import PastUse, QueueTree, Totals, Usage

__all__ = ["Group", "Likeness", "PastUse", "Queues", "Totals", "Turn", "Usage", "likeness_of", "place_of"]

Place = tuple[int, float, str]
"""Order within a queue: (-priority, submitted at, job id)."""

Rank = tuple[int, bool, float, Place, str]
"""Order among siblings: (-priority, not within its quota, standing, place of the job it would try, queue)."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """Jobs of one queue that get the same answer: if one does not fit now, none does."""

    queue: str
    shape: Shape
    gang: tuple[object, ...]
    deadline: float | None
    duration: float | None
    """Where a deadline binds, as declared; else its power of two, since the short may be backfilled."""
    mark: int = 0
    """What else sets jobs apart: see `Queues.mark`."""


def likeness_of(job: Job, mark: int = 0) -> Likeness:
    bound, duration = job.deadline is not None, job.expected_duration_seconds
    return Likeness(
        queue=job.queue,
        shape=shape_of(job),
        gang=gang_of(job),
        deadline=job.deadline,
        duration=duration if bound or duration is None else 2.0 ** math.frexp(duration)[1],
        mark=mark,
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
    needs: tuple[int, Needs] = (-1, ())
    """The version of the quotas, and what one job needs of them."""


class Queues(QueueTree):
    """The tree of queues, what each uses, and the waiting jobs."""

    def __init__(self, models: Models | None = None, half_life_seconds: float = 0.0) -> None:
        super().__init__(models, half_life_seconds)
        self.jobs: dict[str, Job] = {}
        self.groups: dict[Likeness, Group] = {}
        self.order: dict[str, list[Place]] = {}
        self._groups_of: dict[str, dict[Likeness, Group]] = {}
        self._group: dict[str, Group] = {}
        self._deferred: list[tuple[float, str]] = []
        self._held_back: dict[str, float] = {}
        self._marks: dict[str, int] = {}

    # -- waiting jobs ----------------------------------------------------------------------------

    def add(self, job: Job, now_known: float = float("-inf")) -> None:
        self.discard(job.job_id)
        self.jobs[job.job_id] = job
        bisect.insort(self.order.setdefault(job.queue, []), place_of(job))
        self._count_waiting(job, 1)
        if job.not_before > now_known:
            self._held_back[job.job_id] = job.not_before
            heapq.heappush(self._deferred, (job.not_before, job.job_id))
        else:
            self._enter(job)

    def _enter(self, job: Job) -> None:
        likeness = likeness_of(job, self._marks.get(job.job_id, 0))
        group = self.groups.get(likeness)
        if group is None:
            group = self.groups[likeness] = Group(likeness)
            self._groups_of.setdefault(job.queue, {})[likeness] = group
        bisect.insort(group.order, place_of(job))
        group.untold.add(job.job_id)
        self._group[job.job_id] = group

    def discard(self, job_id: str) -> Job | None:
        job = self.jobs.pop(job_id, None)
        if job is None:
            return None
        place = place_of(job)
        order = self.order[job.queue]
        del order[bisect.bisect_left(order, place)]
        if not order:
            del self.order[job.queue]
        self._count_waiting(job, -1)
        self._held_back.pop(job_id, None)
        self._marks.pop(job_id, None)
        self._leave(job)
        return job

    def _leave(self, job: Job) -> bool:
        """Takes the job out of its group; False: it is in none."""
        group = self._group.pop(job.job_id, None)
        if group is None:
            return False
        del group.order[bisect.bisect_left(group.order, place_of(job))]
        group.untold.discard(job.job_id)
        if not group.order:
            del self.groups[group.likeness]
            del self._groups_of[job.queue][group.likeness]
        return True

    def mark(self, job_id: str, mark: int) -> None:
        """Sets a waiting job apart from those alike with another mark, since it gets another answer. Between cycles,
        or before the turn of one."""
        job = self.jobs.get(job_id)
        if job is None or self._marks.get(job_id, 0) == mark:
            return
        self._marks[job_id] = mark
        if self._leave(job):
            self._enter(job)

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
        return self.waiting.get(name, 0)

    def turn(self, totals: Totals) -> "Turn":
        self.refresh()
        return Turn(self, totals, self._groups_of)


class Branch:
    """A queue in a turn, or the jobs of a queue itself beside its children: those are one more child.

    `head`: what it would try next; None: nothing is left.
    """

    __slots__ = ("above", "below", "direct", "entry", "head", "line", "name", "own", "standing")

    def __init__(self, name: str, above: "Branch | None", standing: float = 0.0, *, direct: bool = False) -> None:
        self.name = name
        self.above = above
        self.standing = standing
        self.direct = direct
        self.own: list[tuple[int, bool, Place, Group]] = []
        """Heads of the queue's own groups, (-priority, not within its quota, place, group): a heap."""
        self.below: dict[str, Branch] = {}
        self.line: list[Rank] = []
        """The children in order: a heap, whose outdated entries are passed over."""
        self.entry: Rank | None = None
        self.head: tuple[bool, Place, Group] | None = None

    def settle(self) -> None:
        """Finds its head, and its place among its siblings, anew; so does each queue above it."""
        line, below = self.line, self.below
        while line and below[line[0][4]].entry is not line[0]:
            heapq.heappop(line)
        own = self.own
        while own and not own[0][1] and not within_nominal(own[0][3].needs[1]):
            priority, _, place, group = own[0]
            heapq.heapreplace(own, (priority, True, place, group))
        if own:
            self.head = own[0][1:]
        else:
            self.head = below[line[0][4]].head if line else None
        if self.above is None:
            return
        if self.head is None:
            self.entry = None
        else:
            borrows, place, _ = self.head
            self.entry = (place[0], borrows, self.standing, place, self.name)
            heapq.heappush(self.above.line, self.entry)
        self.above.settle()


class Turn:
    """One cycle's walk over the waiting jobs. After `fits` the job has left the queue; after `skip`
    its whole group is passed over until the next cycle.

    Among siblings the highest priority goes first; then, where there are quotas, what stays within its queue's
    own before what borrows or has none: so nobody borrows what its owner waits for; then the least standing
    (see `usage`), the earliest submitted of the jobs they would try, and the name.
    """

    def __init__(self, queues: Queues, totals: Totals, groups: dict[str, dict[Likeness, Group]]) -> None:
        self._queues = queues
        self._totals = totals
        self._root = Branch("", None)
        self._branches: dict[str, Branch] = {}
        self._leaves: dict[str, Branch] = {}
        """Branches with jobs, by queue."""
        for name in sorted(name for name in groups if groups[name]):
            branch = self._leaves[name] = self._leaf(name)
            branch.own = [self._entry(group) for group in groups[name].values()]
            heapq.heapify(branch.own)
        for branch in self._leaves.values():
            branch.settle()

    def _entry(self, group: Group, at: int = 0) -> tuple[int, bool, Place, Group]:
        place, quotas = group.order[at], self._queues.quotas
        if group.needs[0] != quotas.version:
            group.needs = (quotas.version, quotas.needs(self._queues.jobs[place[2]]))
        return place[0], not within_nominal(group.needs[1]), place, group

    def _leaf(self, name: str) -> Branch:
        above = self._root
        for at in self._queues.path(name):
            branch = self._branches.get(at)
            if branch is None:
                branch = self._branches[at] = Branch(at, above, self._queues.standing(at, self._totals))
                above.below[at] = branch
            above = branch
        if self._queues.children(name):
            standing = self._queues.own_standing(name, self._totals)
            above.below[name] = above = Branch(name, above, standing, direct=True)
        return above

    def next(self) -> tuple[Job, Group] | None:
        """The job to try next, or None."""
        head = self._root.head
        return None if head is None else (self._queues.jobs[head[1][2]], head[2])

    def skip(self, group: Group) -> None:
        """Passes over the head group of its queue."""
        branch = self._leaves[group.likeness.queue]
        heapq.heappop(branch.own)
        branch.settle()

    def fits(self, group: Group) -> None:
        """The head job was placed, is charged and has left its group, or a place is kept for it: the group's next
        one stands in line."""
        branch = self._leaves[group.likeness.queue]
        place = branch.own[0][2]
        after = bisect.bisect_right(group.order, place)
        if after < len(group.order):
            heapq.heapreplace(branch.own, self._entry(group, after))
        else:
            heapq.heappop(branch.own)
        at: Branch | None = branch
        while at is not None and at.above is not None:
            standing = self._queues.own_standing if at.direct else self._queues.standing
            at.standing = standing(at.name, self._totals)
            at = at.above
        branch.settle()
