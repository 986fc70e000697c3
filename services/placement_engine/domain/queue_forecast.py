"""When a waiting job is expected to start, with the jobs that stand before it.

The queue is run forward on the real columns, which a Supposition puts back to the last bit: the jobs ahead and the
job itself are tried in order at each expected end of a running job, and what is placed ends after its expected
duration on its accelerator. So it is the engine's own cycle with time, but for three things: the order of queues is
that of their standing now, nobody is stopped for anybody, and no job comes. Its cost is bounded by counts, never by
a clock: where they are reached the answer is a time before which the job will not start.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from placement_engine.domain.forecast import Ends, Start, waited_for
from placement_engine.domain.model import Claim, Job, Member
from placement_engine.domain.queues import Place, Queues, Totals, likeness_of, place_of
from placement_engine.domain.shapes import Ask
from placement_engine.domain.supposition import Supposition

__all__ = ["MOST_AHEAD", "Expected", "QueueForecast", "jobs_ahead"]

MOST_AHEAD = 64
"""Jobs ahead that are simulated."""
MOST_TRIES = 512
"""Placements that are tried."""


@dataclass(frozen=True, slots=True)
class Expected:
    """`at_least`: it does not start before `at`, more is not known. `after`: running jobs whose end it waits for."""

    at: float
    at_least: bool
    after: tuple[str, ...]


def jobs_ahead(queues: Queues, totals: Totals, job: Job, most: int = MOST_AHEAD) -> tuple[list[Job], bool]:
    """At most `most` waiting jobs that stand before this one, in order; whether there are more.

    By priority, then the queue with the least standing, then place. Of its own queue only those with an earlier place.
    """
    own = place_of(job)
    mine = _shares(queues, totals, job.queue)
    found: list[tuple[tuple[int, tuple[float, ...], str], Place]] = []
    cut = False
    for name in sorted(queues.order):
        shares = _shares(queues, totals, name)
        before = list(
            itertools.islice(
                itertools.takewhile(
                    lambda place, name=name, shares=shares: (  # type: ignore[misc]
                        place < own if name == job.queue else (place[0], shares, name) < (own[0], mine, job.queue)
                    ),
                    queues.order[name],
                ),
                most + 1,
            )
        )
        cut |= len(before) > most
        found += [((place[0], shares, name), place) for place in before]
    found.sort()
    ahead = [queues.jobs[place[2]] for _, place in found if place[2] != job.job_id]
    return ahead[:most], cut or len(ahead) > most


def _shares(queues: Queues, totals: Totals, name: str) -> tuple[float, ...]:
    """Standings from the root's child down: where two queues part, the lesser goes first."""
    return tuple(queues.standing(at, totals) for at in queues.path(name))


class QueueForecast:
    """One simulated queue. `ask_of` and `gate` are the engine's own; `charge` counts a claim for its queue."""

    def __init__(
        self,
        suppose: Supposition,
        ends: Ends,
        *,
        ask_of: Callable[[Job, float], Ask],
        blocked: Callable[[Job, float], bool],
        charge: Callable[[Claim, int], None],
    ) -> None:
        self._suppose = suppose
        self._ends = ends
        self._ask_of = ask_of
        self._blocked = blocked
        self._charge = charge
        self._placed: list[tuple[Claim, bool]] = []
        self._ended: dict[str, Claim] = {}
        self._tries = 0

    def expected(self, ahead: Sequence[Job], job: Job, alone: Start, now: float, *, cut: bool) -> Expected | None:
        """When the job starts; None: not by the end of anything that is known to end. All is put back.

        `alone`: its start if nobody stood before it, which it cannot start before. `cut`: there are more ahead.
        """
        if not ahead and not self._blocked(job, now):
            return Expected(alone.at, False, alone.after)
        with self._suppose:
            try:
                return self._run([*ahead, job], job, alone, now, cut)
            finally:
                self._put_back()

    def _run(self, pending: list[Job], job: Job, alone: Start, now: float, cut: bool) -> Expected | None:
        coming = self._coming(now)
        soon: list[tuple[float, int, Claim]] = []
        at, last = now, ""
        while True:
            members = self._start_what_fits(pending if at >= alone.at else pending[:-1], pending, job, at, soon)
            if members is not None:
                after = waited_for(members, self._ended, last) if self._ended else ()
                return Expected(at, cut, after)
            if self._tries >= MOST_TRIES:
                return Expected(max(at, alone.at), True, alone.after)
            following = next(coming, None)
            if following is not None and (not soon or following[0] <= soon[0][0]):
                at, claim = max(at, following[0]), following[1]
                self._ended[claim.job.job_id] = claim
                last = claim.job.job_id
            elif soon:
                if following is not None:
                    coming = itertools.chain([following], coming)
                at, _, claim = heapq.heappop(soon)
            else:
                return Expected(max(at, alone.at), True, alone.after) if cut else None
            self._suppose.end(claim)
            self._charge(claim, -1)
            if claim.job.job_id not in self._ended:
                self._placed = [(one, one is not claim and held) for one, held in self._placed]

    def _coming(self, now: float) -> Iterator[tuple[float, Claim]]:
        return self._ends.in_order(now)

    def _start_what_fits(
        self, tried: Sequence[Job], pending: list[Job], wanted: Job, at: float, soon: list[tuple[float, int, Claim]]
    ) -> tuple[Member, ...] | None:
        """Starts the pending jobs to be tried that fit, in order; the members of the wanted one if it is among them."""
        failed = set()
        for job in tuple(tried):
            likeness = likeness_of(job)
            if likeness in failed:
                continue
            self._tries += 1
            members = None if self._blocked(job, at) else self._suppose.start(job, self._ask_of(job, at), at)
            if members is None:
                failed.add(likeness)
                continue
            claim = Claim(job, members, placed_at=at)
            self._charge(claim, 1)
            self._placed.append((claim, True))
            if job is wanted:
                return members
            pending.remove(job)
            model = members[0].devices[0].model if members[0].devices else ""
            seconds = self._ends.expectation(job, model).duration_seconds
            if seconds is not None:
                heapq.heappush(soon, (at + seconds, len(self._placed), claim))
        return None

    def _put_back(self) -> None:
        for claim in self._ended.values():
            self._charge(claim, 1)
        for claim, held in reversed(self._placed):
            self._suppose.resume(claim.job.job_id)
            self._suppose.stop(claim)
            if held:
                self._charge(claim, -1)
