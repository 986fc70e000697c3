"""Random: any node that fits, and any device of it that holds the share."""

import numpy as np

from placement_engine.simulation.openb.policies.base import Policy
from placement_engine.simulation.openb.state import State
from placement_engine.simulation.openb.trace import Workload

__all__ = ["Random"]


class Random(Policy):
    """Draws with the replay's seed."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        self._dice = np.random.default_rng([seed, 2])
        self._all = np.arange(len(state.nodes))

    def choose(self, index: int) -> tuple[int, int] | None:
        task = self.workload.classes[index]
        fitting = np.flatnonzero(self.state.fits(task, self._all))
        if not fitting.size:
            return None
        node = int(self._dice.choice(fitting))
        if not task.fraction:
            return node, 0
        return node, int(self._dice.choice(np.flatnonzero(self.state.left[:, node] >= task.milli)))
