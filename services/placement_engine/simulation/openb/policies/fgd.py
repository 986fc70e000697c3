"""Fragmentation gradient descent (FGD, USENIX ATC'23): the node whose expected fragmentation grows least.

Fragmentation of a node: the free milli that a typical task could not use, expected over the typical tasks.
"""

from collections import Counter

import numpy as np

from placement_engine.simulation.openb.policies.base import ScoringPolicy, best_device, devices_that_differ
from placement_engine.simulation.openb.state import Floats, Ints, State
from placement_engine.simulation.openb.trace import MILLI, TaskClass, Workload

__all__ = ["Fgd", "typical_tasks"]

# Typical tasks: the most frequent requests that together are this share of all tasks, those without devices too.
TYPICAL_SHARE = 0.95


def typical_tasks(workload: Workload) -> list[tuple[TaskClass, float]]:
    """The typical tasks (memory does not count) and their shares, which sum up to 1."""
    counts: Counter[TaskClass] = Counter()
    for index in workload.tasks:
        task = workload.classes[index]
        counts[TaskClass(task.cpu, 0, task.devices, task.milli, task.models)] += 1
    ranked = sorted(
        counts.items(), key=lambda item: (item[1], item[0].cpu, item[0].milli, item[0].devices), reverse=True
    )
    kept, covered = [], 0
    for task, count in ranked:
        if covered >= TYPICAL_SHARE * len(workload.tasks):
            break
        kept.append((task, count))
        covered += count
    return [(task, count / covered) for task, count in kept]


class Fgd(ScoringPolicy):
    """Whole points of a sigmoid, as the published simulator counts: near equals tie."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        typical = [(task, share) for task, share in typical_tasks(workload) if task.devices]
        milli = np.array([task.milli for task, _ in typical])
        self._cpu = np.array([task.cpu for task, _ in typical])
        self._count = np.array([task.devices for task, _ in typical])
        # Shape (models, typical): the share where the model is allowed, else 0.
        self._shares = np.array([state.allowed(task) * share for task, share in typical]).T
        values = np.arange(MILLI + 1)[:, None]
        # By what is left of a device: does it hold each typical task's milli, and how much is then not a fragment.
        self._holds = (values >= milli).astype(np.float64)
        self._useful = self._holds * values

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, state = self.workload.classes[index], self.state
        left, cpu, model = state.left[:, nodes], state.cpu[nodes], state.model[nodes]
        holds = self._holds[left].sum(axis=0)
        useful = self._useful[left].sum(axis=0)
        total = left.sum(axis=0)
        before = self._fragments(total, cpu, holds, useful, model)
        if not task.fraction:
            # Whole devices that are taken held everything before and hold nothing after.
            after = self._fragments(
                total - task.total_milli, cpu - task.cpu, holds - task.devices, useful - task.total_milli, model
            )
            return _points(before - after), np.zeros(nodes.size, dtype=np.int64)
        device, column = devices_that_differ(left, task.milli)
        old = left[device, column]
        after = self._fragments(
            total[column] - task.milli,
            cpu[column] - task.cpu,
            holds[column] - self._holds[old] + self._holds[old - task.milli],
            useful[column] - self._useful[old] + self._useful[old - task.milli],
            model[column],
        )
        return best_device(_points(before[column] - after), device, column, nodes.size)

    def _fragments(self, total: Ints, cpu: Ints, holds: Floats, useful: Floats, model: Ints) -> Floats:
        """Expected milli of fragments. holds, useful: shape (states, typical)."""
        hosted = (cpu[:, None] >= self._cpu) & (holds >= self._count)
        fragments: Floats = total - np.einsum("sk,sk,sk->s", hosted, useful, self._shares[model])
        return fragments


def _points(gain: Floats) -> Floats:
    # Rounded first, so that equal sums in another order of addition tie as they should.
    points: Floats = np.trunc(100 / (1 + np.exp(-np.round(gain, 6) / 1000)))
    return points
