"""Berth's own rule: the core's service index gives each job a worth, the core's round assignment fills the kinds.

Known: the throughput table, the jobs that have arrived and the work they have received, and the sizes of jobs that
have ended. Not known: when a running or waiting job will end.
"""

from typing import ClassVar

import numpy as np

from placement_engine.domain.round_assignment import assign_kinds, assign_shared, overdue
from placement_engine.domain.service_index import IndexWeights, ServiceIndex
from placement_engine.simulation.gavel.policies.base import Plan, Policy, Setting, View
from placement_engine.simulation.gavel.trace import Floats

__all__ = ["Berth", "BerthKnownDurations"]

# A job that has waited so long goes first, the longest-waiting before the others: none starves.
PATIENCE_S = 6 * 3600.0
# Without arrivals or completions a plan is kept for this many rounds: each change of place costs a real job time.
KEPT_ROUNDS = 4


class Berth(Policy):
    shares: ClassVar[bool] = True

    def __init__(self, setting: Setting, weights: IndexWeights | None = None) -> None:
        super().__init__(setting)
        table = setting.table
        scale = np.array([scale for _, scale in table.shapes], dtype=np.int64)
        self._devices = np.array(setting.cluster.devices, dtype=np.int64)
        fits = scale[:, None] <= self._devices
        self._fastest = np.where(fits, table.alone, 0.0).max(axis=1)
        full = np.maximum(self._fastest, 1e-300)[:, None]
        self._speed = np.where(fits, table.alone / full, 0.0)
        self._paired = np.where(fits, table.paired / full[:, None], 0.0)
        self._index = ServiceIndex(self._speed, scale, self._devices, weights)
        self._work: dict[int, float] = {}
        self._idle_since: dict[int, float] = {}
        self._kept = Plan.empty(0)
        self._rounds_left = 0

    def arrived(self, job: int, shape: int, scale: int, now: float) -> None:
        self._index.arrived(shape)
        self._work[job] = 0.0
        self._idle_since[job] = now
        self._rounds_left = 0

    def completed(self, job: int, shape: int, steps: float) -> None:
        work = steps / float(self._fastest[shape])
        self._index.served(np.array([shape]), np.array([work - self._work.pop(job)]))
        self._index.ended(shape, work)
        del self._idle_since[job]
        self._rounds_left = 0

    def plan(self, view: View) -> Plan:
        if not self._rounds_left:
            self._kept = self._decide(view)
            self._rounds_left = KEPT_ROUNDS
        self._rounds_left -= 1
        for at in np.flatnonzero(self._kept.kind >= 0).tolist():
            self._idle_since[int(view.jobs[at])] = view.now + self.setting.round_s
        return self._kept

    def _decide(self, view: View) -> Plan:
        work = view.done / self._fastest[view.shape]
        self._serve(view, work)
        worth, speed = self.worth(view, work), self._speed[view.shape]
        waited = np.array([view.now - self._idle_since[job] for job in view.jobs.tolist()])
        first = overdue(waited, PATIENCE_S)
        if self.setting.share:
            paired = self._paired[view.shape[:, None], view.shape]
            kind, partner = assign_shared(worth, speed, paired, view.scale, self._devices, first)
        else:
            kind = assign_kinds(worth[:, None] * speed, view.scale, self._devices, first)
            partner = np.full(view.jobs.size, -1, dtype=np.int64)
        return Plan(kind, partner)

    def worth(self, view: View, work: Floats) -> Floats:
        return self._index.worth(view.shape, work, view.now - view.arrival)

    def _serve(self, view: View, work: Floats) -> None:
        before = np.array([self._work[job] for job in view.jobs.tolist()])
        self._index.served(view.shape, work - before)
        self._work.update(zip(view.jobs.tolist(), work.tolist(), strict=True))


class BerthKnownDurations(Berth):
    """The same with the work to go of every job known: what better forecasts could bring."""

    knows_durations: ClassVar[bool] = True

    def worth(self, view: View, work: Floats) -> Floats:
        remaining = view.remaining / self._fastest[view.shape]
        return self._index.worth(view.shape, work, view.now - view.arrival, remaining)
