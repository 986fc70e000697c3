"""Gavel's round mechanism (OSDI'20, section 5): an allocation is a share of time of each job, or pair, on each kind;
who has had least of its share so far comes first."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from placement_engine.simulation.gavel.policies.base import Plan, Policy, Setting, View
from placement_engine.simulation.gavel.trace import Floats, Ints

__all__ = ["AllocationPolicy"]

LEAST_BETWEEN_ALLOCATIONS_S = 1920.0
NEVER_RAN = 1e9


class AllocationPolicy(Policy):
    """As the published simulator does it: the allocation is made anew after arrivals and completions, but not within
    32 minutes of the last; a unit (a job or a pair) starts with half a round to its account; the kinds are filled one
    after the other by priority, then by the time it is owed; jobs of no share take what is left. A job that has
    arrived since the last allocation has no share and, as there, holds what it is given but does not run.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        kinds = len(setting.cluster.kinds)
        self._members: Ints = np.empty((0, 2), dtype=np.int64)  # numbers of the jobs; alone: the second is -1
        self._time: Floats = np.empty((kinds, 0))  # since the last allocation
        self._owed: Floats = np.empty((kinds, 0))
        self._share: Floats = np.empty((kinds, 0))
        self._allocated: set[int] = set()
        self._kind_time = np.zeros(kinds)
        self._row: dict[tuple[int, int], int] = {}
        self._stale = True
        self._last: float | None = None

    @abstractmethod
    def allocate(self, view: View, members: Ints) -> Floats:
        """Share of time of each unit on each kind, shape (kinds, units). `members`: positions in the view."""

    def order(self) -> Sequence[int]:
        """The kinds in the order in which they are filled."""
        return range(len(self.setting.cluster.kinds))

    def arrived(self, job: int, shape: int, scale: int, now: float) -> None:
        fresh = [(job, -1)]
        if self.setting.share:
            fresh += [(other, job) for other, _ in self._members[self._members[:, 1] < 0].tolist()]
        new = np.array(fresh, dtype=np.int64)
        kinds = len(self.setting.cluster.kinds)
        self._row.update({(int(a), int(b)): len(self._row) + index for index, (a, b) in enumerate(fresh)})
        self._members = np.concatenate([self._members, new])
        self._time = np.concatenate([self._time, np.full((kinds, len(new)), self.setting.round_s / 2)], axis=1)
        self._owed = np.concatenate([self._owed, np.zeros((kinds, len(new)))], axis=1)
        self._share = np.concatenate([self._share, np.zeros((kinds, len(new)))], axis=1)
        self._stale = True

    def ran(self, job: int, kind: int, partner: int, seconds: float) -> None:
        self._time[kind, self._row[job, partner]] += seconds
        self._kind_time[kind] += seconds

    def completed(self, job: int, shape: int, steps: float) -> None:
        kept = ~(self._members == job).any(axis=1)
        self._members = self._members[kept]
        self._time, self._owed, self._share = self._time[:, kept], self._owed[:, kept], self._share[:, kept]
        self._row = {(a, b): index for index, (a, b) in enumerate(self._members.tolist())}
        self._allocated.discard(job)
        self._stale = True

    def plan(self, view: View) -> Plan:
        if self._stale and (self._last is None or view.now - self._last >= LEAST_BETWEEN_ALLOCATIONS_S):
            self._reset(view)
        return self._fill(view)

    def _reset(self, view: View) -> None:
        elapsed = view.now - (self._last or 0.0)
        start = self.setting.round_s / 2
        self._owed += self._share * elapsed - (self._time - start)
        self._time = np.full_like(self._time, start)
        self._kind_time = self._time.sum(axis=1)
        position = np.searchsorted(view.jobs, self._members)
        self._share = self.allocate(view, np.where(self._members >= 0, position, -1))
        self._allocated = set(view.jobs.tolist())
        self._stale, self._last = False, view.now

    def _fill(self, view: View) -> Plan:
        plan = Plan.empty(view.jobs.size)
        fraction = self._time / np.maximum(self._kind_time, 1e-9)[:, None]
        priority = np.where(fraction > 0, self._share / np.maximum(fraction, 1e-300), self._share * NEVER_RAN)
        position = np.where(self._members >= 0, np.searchsorted(view.jobs, self._members), -1)
        scale = view.scale[position[:, 0]].tolist()
        taken = [False] * view.jobs.size
        waiting = view.jobs.size
        table, alone = self.setting.table, self._members[:, 1] < 0
        for kind in self.order():
            free = self.setting.cluster.devices[kind]
            # A pair without a share is never made up.
            units = np.flatnonzero(alone | (self._share[kind] > 0))
            runs = table.alone[view.shape[position[units, 0]], kind] > 0
            units = units[runs]
            ranked = units[
                np.lexsort((units, -self._share[kind, units], -self._owed[kind, units], -priority[kind, units]))
            ]
            for unit, (one, other) in zip(ranked.tolist(), position[ranked].tolist(), strict=True):
                if not free or not waiting:
                    break
                if taken[one] or (other >= 0 and taken[other]) or scale[unit] > free:
                    continue
                free -= scale[unit]
                taken[one] = True
                waiting -= 1
                if other >= 0:
                    taken[other] = True
                    waiting -= 1
                if int(view.jobs[one]) not in self._allocated:
                    continue
                plan.kind[one] = kind
                if other >= 0:
                    plan.kind[other], plan.partner[one], plan.partner[other] = kind, other, one
        return plan
