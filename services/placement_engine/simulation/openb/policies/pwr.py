"""PWR (CCGrid'25): the node whose power grows least."""

import numpy as np

from berth.errors import InvalidInput
from placement_engine.simulation.openb.policies.base import ScoringPolicy, best_device
from placement_engine.simulation.openb.power import PowerModel
from placement_engine.simulation.openb.state import Floats, Ints, State
from placement_engine.simulation.openb.trace import MILLI, Workload

__all__ = ["Pwr"]


class Pwr(ScoringPolicy):
    """Power alone, without the published blend with FGD. Raises InvalidInput for a model without figures."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        self._power = PowerModel(state)
        if self._power.unknown:
            raise InvalidInput.of(
                "model", ", ".join(self._power.unknown), "no power figures are known: leave the policy pwr out"
            )

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, state = self.workload.classes[index], self.state
        left, cpu = state.left[:, nodes], state.cpu[nodes]
        free = (left == MILLI).sum(axis=0)
        before = self._power.watts(nodes, cpu, free)
        if not task.fraction:
            after = self._power.watts(nodes, cpu - task.cpu, free - task.devices)
            return (before - after).astype(np.float64), np.zeros(nodes.size, dtype=np.int64)
        device, column = np.nonzero(left >= task.milli)
        taken = free[column] - (left[device, column] == MILLI)
        after = self._power.watts(nodes[column], cpu[column] - task.cpu, taken)
        return best_device((before[column] - after).astype(np.float64), device, column, nodes.size)
