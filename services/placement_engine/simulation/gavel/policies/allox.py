"""AlloX (EuroSys'20) as the Gavel paper runs it: a matching of jobs to places in the queues of the devices."""

from typing import ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from placement_engine.simulation.gavel.policies.base import Setting, View
from placement_engine.simulation.gavel.policies.rounds import AllocationPolicy
from placement_engine.simulation.gavel.trace import Floats, Ints

__all__ = ["AlloX"]

CANNOT = 1e10


class AlloX(AllocationPolicy):
    """Least mean completion time of the jobs at hand. Knows every duration, preempts nobody, single devices only."""

    knows_durations: ClassVar[bool] = True
    multi: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._placed: dict[int, int] = {}  # job to kind, until it ends

    def completed(self, job: int, shape: int, steps: float) -> None:
        super().completed(job, shape, steps)
        self._placed.pop(job, None)

    def allocate(self, view: View, members: Ints) -> Floats:
        devices = list(self.setting.cluster.devices)
        for kind in self._placed.values():
            devices[kind] -= 1
        column = np.repeat(np.arange(len(devices)), devices)
        waiting = np.array([at for at, job in enumerate(view.jobs.tolist()) if job not in self._placed], dtype=np.int64)
        if waiting.size and column.size:
            rate = self.setting.table.alone[view.shape[waiting]][:, column]
            seconds = view.remaining[waiting][:, None] / np.where(rate > 0, rate, 1 / CANNOT)
            # A job that is the k-th from the end of a device's queue delays k jobs, itself included.
            cost = (np.arange(1, waiting.size + 1)[None, :, None] * seconds[:, None, :]).reshape(waiting.size, -1)
            row, place = linear_sum_assignment(cost)
            device, turn = place % column.size, place // column.size
            for one in range(column.size):
                queue = np.flatnonzero(device == one)
                if queue.size:
                    head = queue[turn[queue].argmax()]
                    self._placed[int(view.jobs[waiting[row[head]]])] = int(column[one])
        share = np.zeros((len(devices), view.jobs.size))
        for at, job in enumerate(view.jobs.tolist()):
            if job in self._placed:
                share[self._placed[job], at] = 1.0
        return share
