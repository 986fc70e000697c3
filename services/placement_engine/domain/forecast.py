"""When a waiting job would fit, as running jobs end.

A running job is expected to end its expected duration (what it declared, scaled to the accelerator it
sits on) after its start; one of unknown duration never ends by itself. A job that is overdue is expected
to run on for a tenth of the time that it has run: the longer it is late, the less is known. A job that is
being stopped ends now.

The forecast takes jobs out in order of those ends, in doubling steps, until the waiting job fits, then
halves the last step: the cost grows with how many must end, not with how many run.
"""

import bisect
import heapq
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from placement_engine.domain.asks import expectation, make_ask, with_deadline
from placement_engine.domain.device_counts import held_shape
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.gangs import as_placed
from placement_engine.domain.model import Claim, Expectation, Job, Member
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask, Shape, gang_of, lead_job, shape_of
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.surplus import working
from placement_engine.domain.tables import Tables

OVERDUE_FRACTION = 0.1
"""Part of its run time that an overdue job is expected to run on."""


@dataclass(frozen=True, slots=True)
class Start:
    """A job could start at `at`, on these members, once the running jobs `after` have ended.

    `members` say what it would hold; `after` is in order of the expected ends, and empty where it fits now.
    """

    at: float
    members: tuple[Member, ...]
    after: tuple[str, ...]


class Ends:
    """Expected ends of the running jobs, in order."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._order: list[tuple[float, str]] = []
        self._claims: dict[str, tuple[Claim, float | None]] = {}
        self._expected: dict[tuple[Shape, str, tuple[object, ...], float | None], Expectation] = {}
        self._counts: tuple[int, ...] = ()

    def put(self, claim: Claim) -> None:
        """Adds a running job; the claim that was known for it is replaced."""
        self.drop(claim.job.job_id)
        end, began = None, began_at(claim)
        if began is not None:
            seconds = self._seconds(claim)
            # A gang that was resized has done what it did with the members that it had.
            since = began if claim.resized_at is None else claim.resized_at
            done = claim.worked / max(1, working(claim))
            end = None if seconds is None else since + max(0.0, seconds - done)
        self._claims[claim.job.job_id] = claim, end
        if end is not None:
            bisect.insort(self._order, (end, claim.job.job_id))

    def _seconds(self, claim: Claim) -> float | None:
        """How long its members will take, as they were placed."""
        job = claim.job
        if _unforeseeable(job):
            return None
        model = claim.members[0].devices[0].model if claim.members and claim.members[0].devices else ""
        shape = shape_of(job)
        if shape.flexible:
            shape = held_shape(shape, claim.members[0])
        return as_placed(self.expectation(job, model, shape), job, claim.members).duration_seconds

    def drop(self, job_id: str) -> None:
        _, end = self._claims.pop(job_id, (None, None))
        if end is not None:
            del self._order[bisect.bisect_left(self._order, (end, job_id))]

    def forget(self) -> None:
        """Profiles or the catalogue changed: durations may have."""
        self._expected.clear()
        for claim, _ in list(self._claims.values()):
            self.put(claim)

    def _sync(self) -> None:
        """What is fastest depends on the models that are there."""
        counts = tuple(self._fleet.models.counts)
        if counts != self._counts:
            self._counts = counts
            self.forget()

    def expectation(self, job: Job, model: str, shape: Shape | None = None) -> Expectation:
        """Of the job on this accelerator: `duration_seconds` None is unknown. `shape`: the job's at the number of
        devices that it has; None: as it asks."""
        if _unforeseeable(job):
            return Expectation(model, 0)
        declared = job.expected_duration_seconds
        shape = shape or shape_of(job)
        key = (shape, model, gang_of(job), declared)
        known = self._expected.get(key)
        if known is None:
            models = self._fleet.models
            ask = make_ask(self._fleet, shape)
            present = (m for m, n in enumerate(models.names) if n == model and ask.allowed[m] and models.counts[m] > 0)
            number = next(present, 0)
            if ask.shape.needs_devices and not number:
                return Expectation(model, 0, declared)  # claims of the ledger may sit where nobody would put them
            if len(self._expected) > 4096:
                self._expected.clear()
            known = self._expected[key] = expectation(self._fleet, ask, lead_job(job), number)
        return known

    def of(self, job_id: str, now: float) -> float | None:
        """When a running job is expected to end, not before `now`; None: unknown."""
        self._sync()
        claim, end = self._claims.get(job_id, (None, None))
        if claim is None or end is None:
            return None
        return end if end > now else _overdue(claim, now)

    def in_order(self, now: float, ending: Collection[str] = ()) -> Iterator[tuple[float, Claim]]:
        """(end, claim) of those that end, the soonest first, names breaking ties. `ending` are being stopped."""
        self._sync()
        first = bisect.bisect_right(self._order, (now, "\U0010ffff"))
        late = sorted((_overdue(self._claims[j][0], now), j) for _, j in self._order[:first])
        stopped = [(now, job_id) for job_id in sorted(ending) if job_id in self._claims]
        for end, job_id in heapq.merge(stopped, late, self._order[first:]):
            if end <= now or job_id not in ending:
                yield end, self._claims[job_id][0]


def began_at(claim: Claim) -> float | None:
    """When the job started, or else was placed; None: not known."""
    return claim.placed_at if claim.started_at is None else claim.started_at


def _overdue(claim: Claim, now: float) -> float:
    began = began_at(claim)
    return now + OVERDUE_FRACTION * max(0.0, now - (now if began is None else began))


def could_use(fleet: Fleet, ask: Ask, claim: Claim) -> bool:
    """Whether the end of this job could help one that asks so: it sits where that one could go."""
    for member in claim.members:
        facts = fleet.nodes.get(member.node)
        if facts is None or not ask.reach.admits(facts.number):
            continue
        if not ask.shape.needs_devices:
            return True
        for row in facts.rows:
            if ask.allowed[row.model] and ask.in_time[row.model]:
                return True
    return False


def earliest_start(
    fleet: Fleet,
    tables: Tables,
    reserver: Reserver,
    ends: Ends,
    *,
    job: Job,
    ask: Ask,
    now: float,
    ending: Collection[str] = (),
    most: int = 1024,
) -> Start | None:
    """The earliest time at which the job fits as running jobs end, `most` of them at most; None: not so.

    Jobs that wait too are not in it. Everything is put back before it returns.
    """
    with Supposition(fleet, tables, reserver) as suppose:
        members = suppose.placement(job, ask, now)
        if members is not None:
            return Start(now, members, ())
        coming = ((end, claim) for end, claim in ends.in_order(now, ending) if could_use(fleet, ask, claim))
        out: list[tuple[float, Claim]] = []
        fits_not, step = 0, 1
        while members is None:
            batch = list(itertools.islice(coming, min(step, most - len(out))))
            if not batch:
                return None
            fits_not, step = len(out), 2 * step
            out += batch
            for _, claim in batch:
                suppose.end(claim)
            members = suppose.placement(job, ask, now)
        fits = len(out)
        while fits - fits_not > 1:
            middle = (fits + fits_not) // 2
            for position, (_, claim) in enumerate(out):
                if position >= middle:
                    suppose.resume(claim.job.job_id)
                else:
                    suppose.end(claim)
            found = suppose.placement(job, ask, now)
            if found is None:
                fits_not = middle
            else:
                fits, members = middle, found
        at, last = out[fits - 1]
        if not _in_time(fleet, ask, job, at, members):
            return None
        waited = {claim.job.job_id: claim for _, claim in out[:fits]}
        return Start(at, members, waited_for(members, waited, last.job.job_id))


def _in_time(fleet: Fleet, ask: Ask, job: Job, at: float, members: tuple[Member, ...]) -> bool:
    """Whether a job that starts so late still meets its deadline."""
    first = members[0]
    if not first.devices:
        return True
    row = fleet.nodes[first.node].devices[first.devices[0].device_id].row
    return bool(with_deadline(fleet, ask, job, at).in_time[fleet.by_row[row][1].model])


def waited_for(members: tuple[Member, ...], waited: Mapping[str, Claim], last: str) -> tuple[str, ...]:
    """Those that hold a device the members would have (all on their nodes, where they have none), and the last."""
    devices = {(m.node, d.device_id) for m in members for d in m.devices}
    nodes = {m.node for m in members}

    def in_the_way(claim: Claim) -> bool:
        if devices:
            return any((m.node, d.device_id) in devices for m in claim.members for d in m.devices)
        return any(m.node in nodes for m in claim.members)

    return tuple(job_id for job_id, claim in waited.items() if job_id == last or in_the_way(claim))


def _unforeseeable(job: Job) -> bool:
    """Nothing tells how much work it is."""
    return job.expected_duration_seconds is None and job.character is None
