"""Best fit: the node with least CPU and devices left over, each against the largest node, equally weighed."""

import numpy as np

from placement_engine.simulation.openb.policies.base import ScoringPolicy, tightest_device
from placement_engine.simulation.openb.state import Floats, Ints

__all__ = ["LARGEST_CPU", "LARGEST_MILLI", "BestFit"]

# The published simulator's normalisation, in milli.
LARGEST_CPU = 128_000
LARGEST_MILLI = 8_000


class BestFit(ScoringPolicy):
    """Whole points of 100, as the published simulator counts: nodes within a point of each other tie."""

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, state = self.workload.classes[index], self.state
        left = state.left[:, nodes]
        cpu = (state.cpu[nodes] - task.cpu) / LARGEST_CPU
        milli = (left.sum(axis=0) - task.total_milli) / LARGEST_MILLI
        return np.trunc((1.0 - (cpu * 0.5 + milli * 0.5)) * 100), tightest_device(left, task)
