"""Max-min fairness over normalised throughput (Gavel, OSDI'20, section 4.1)."""

from typing import ClassVar

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from placement_engine.simulation.gavel.policies.base import View
from placement_engine.simulation.gavel.policies.rounds import AllocationPolicy
from placement_engine.simulation.gavel.trace import Floats, Ints

__all__ = ["MaxMinFairness", "max_min"]


class MaxMinFairness(AllocationPolicy):
    shares: ClassVar[bool] = True

    def allocate(self, view: View, members: Ints) -> Floats:
        alone = self.setting.table.alone[view.shape]
        devices = np.array(self.setting.cluster.devices, dtype=np.float64)
        worth = alone / (alone @ (devices / devices.sum()))[:, None] * view.scale[:, None]
        return max_min(worth, view.scale, devices)


def max_min(worth: Floats, scale: Ints, devices: Floats) -> Floats:
    jobs, kinds = worth.shape
    n = jobs * kinds
    var = np.arange(n)
    job, kind = var // kinds, var % kinds
    # rows: jobs (v - sum worth x <= 0), jobs (sum x <= 1), kinds
    rows = np.concatenate([job, np.arange(jobs), jobs + job, 2 * jobs + kind])
    cols = np.concatenate([var, np.full(jobs, n), var, var])
    vals = np.concatenate([-worth.ravel(), np.ones(jobs), np.ones(n), scale[job].astype(float)])
    a = coo_array((vals, (rows, cols)), shape=(2 * jobs + kinds, n + 1)).tocsr()
    b = np.concatenate([np.zeros(jobs), np.ones(jobs), devices])
    c = np.zeros(n + 1); c[-1] = -1
    res = linprog(c, A_ub=a, b_ub=b, bounds=(0, None), method=METHOD)
    return res.x[:n].reshape(jobs, kinds).T.clip(0, 1)
METHOD="highs"
