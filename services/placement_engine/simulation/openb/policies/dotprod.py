"""Dot product: the node whose free vector is least aligned with the task's, after Tetris (SIGCOMM'14)."""

import numpy as np

from placement_engine.simulation.openb.policies.base import ScoringPolicy, best_device
from placement_engine.simulation.openb.policies.bestfit import LARGEST_CPU, LARGEST_MILLI
from placement_engine.simulation.openb.state import Floats, Ints
from placement_engine.simulation.openb.trace import MILLI

__all__ = ["DotProduct"]


class DotProduct(ScoringPolicy):
    """Dimensions: CPU, and either one shared device or all free devices of a node together. Whole points of 100."""

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, state = self.workload.classes[index], self.state
        left = state.left[:, nodes]
        free = (left == MILLI).sum(axis=0) * MILLI
        cpu = state.cpu[nodes] * task.cpu / LARGEST_CPU**2
        if not task.fraction:
            points = np.trunc((1 - (cpu + free * task.total_milli / LARGEST_MILLI**2) / 2) * 100)
            return points, np.zeros(nodes.size, dtype=np.int64)
        device, column = np.nonzero(left >= task.milli)
        room = np.where(left[device, column] == MILLI, free[column], left[device, column])
        alignment = (cpu[column] + room * task.milli / LARGEST_MILLI**2) / 2
        best, chosen = best_device(1 - alignment, device, column, nodes.size)
        return np.trunc(best * 100), chosen
