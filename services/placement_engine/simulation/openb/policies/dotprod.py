"""Dot product: the node whose free vector is least aligned with the task's, after Tetris (SIGCOMM'14)."""

import numpy as np

from placement_engine.simulation.openb.policies.base import ScoringPolicy, tightest_device
from placement_engine.simulation.openb.policies.bestfit import LARGEST_CPU, LARGEST_MILLI
from placement_engine.simulation.openb.state import Floats, Ints

__all__ = ["DotProduct"]


class DotProduct(ScoringPolicy):
    """Dimensions: CPU, and the devices of a node together. Whole points of 100; a share goes to the tightest device."""

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, state = self.workload.classes[index], self.state
        left = state.left[:, nodes]
        cpu = state.cpu[nodes] * task.cpu / LARGEST_CPU**2
        milli = left.sum(axis=0) * task.total_milli / LARGEST_MILLI**2
        return np.trunc((1 - (cpu + milli) / 2) * 100), tightest_device(left, task)
