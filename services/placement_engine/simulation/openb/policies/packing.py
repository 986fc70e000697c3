"""Packing: shared devices first, then free devices of used nodes, then unused nodes."""

import numpy as np

from placement_engine.simulation.openb.policies.base import ScoringPolicy, tightest_device
from placement_engine.simulation.openb.state import Floats, Ints
from placement_engine.simulation.openb.trace import MILLI

__all__ = ["Packing"]


class Packing(ScoringPolicy):
    """The tiers of the published simulator, of 100 points; tasks without devices go to the first node that fits."""

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, state = self.workload.classes[index], self.state
        if not task.devices:
            return np.zeros(nodes.size), np.zeros(nodes.size, dtype=np.int64)
        left = state.left[:, nodes]
        free = (left == MILLI).sum(axis=0)
        device = tightest_device(left, task)
        if task.fraction:
            tightest = left[device, np.arange(nodes.size)]
            opened = tightest == MILLI
            shared = np.maximum(100 - (tightest * 100 // MILLI) // 10, 50)
        else:
            opened = np.ones(nodes.size, dtype=bool)
            shared = np.zeros(nodes.size, dtype=np.int64)
        points = np.where(opened, np.maximum(50 - task.devices, 33), shared)
        unused = free == state.devices[nodes]
        return np.where(unused, np.maximum(33 - free, free), points).astype(np.float64), device
