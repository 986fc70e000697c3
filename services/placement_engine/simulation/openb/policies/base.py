"""What every scoring policy shares: per class of task the score of each node, redone for touched nodes only."""

from abc import ABC, abstractmethod

import numpy as np

from placement_engine.simulation.openb.state import Floats, Ints, State
from placement_engine.simulation.openb.trace import MILLI, TaskClass, Workload

__all__ = ["Policy", "ScoringPolicy", "best_device", "devices_that_differ", "tightest_device"]

_LOWER = np.tri(8, k=-1, dtype=bool)[:, :, None]


class Policy(ABC):
    """Chooses a node for each task as it comes. One instance a replay."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        self.state = state
        self.workload = workload
        self.seed = seed

    @abstractmethod
    def choose(self, index: int) -> tuple[int, int] | None:
        """Node and, for a share, device for a task of class `index`; None where none fits."""

    def arrived(self, share: float) -> None:  # noqa: B027
        """Device requests arrived so far, as a share of the capacity; told before each choice."""

    def placed(self, node: int) -> None:  # noqa: B027
        """Something was placed on the node."""


class ScoringPolicy(Policy):
    """The feasible node of the highest score; ties go to the first node."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        classes, nodes = len(workload.classes), len(state.nodes)
        self._scores = np.full((classes, nodes), -np.inf)
        self._devices = np.zeros((classes, nodes), dtype=np.int64)
        self._touched: list[int] = []
        self._seen = [-1] * classes  # how many of `_touched` the class has been scored for; -1: never scored

    @abstractmethod
    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        """Score of each node for the class, higher is better, and the device for a share. The nodes all fit."""

    def placed(self, node: int) -> None:
        self._touched.append(node)

    def choose(self, index: int) -> tuple[int, int] | None:
        stale = self.stale(index)
        if stale.size:
            self.refresh(index, stale)
        scores = self._scores[index]
        best = int(scores.argmax())
        return None if scores[best] == -np.inf else (best, int(self._devices[index, best]))

    def stale(self, index: int) -> Ints:
        """Nodes whose score for the class is out of date; they count as done after the call."""
        seen, self._seen[index] = self._seen[index], len(self._touched)
        if seen < 0:
            return np.arange(len(self.state.nodes))
        return np.array(sorted(set(self._touched[seen:])), dtype=np.int64)

    def refresh(self, index: int, nodes: Ints) -> None:
        """Scores the nodes anew for the class."""
        task = self.workload.classes[index]
        fits = self.state.fits(task, nodes)
        self._scores[index, nodes[~fits]] = -np.inf
        nodes = nodes[fits]
        if nodes.size:
            self._scores[index, nodes], self._devices[index, nodes] = self.score(index, nodes)


def tightest_device(left: Ints, task: TaskClass) -> Ints:
    """For each node (left: shape (8, nodes)) the device with least left that holds the share; the first of equals."""
    if not task.fraction:
        return np.zeros(left.shape[1], dtype=np.int64)
    tightest: Ints = np.where(left >= task.milli, left, MILLI + 1).argmin(axis=0)
    return tightest


def devices_that_differ(left: Ints, milli: int) -> tuple[Ints, Ints]:
    """Device and column of every place where a share may go; of devices with equal left only the first."""
    same = ((left[:, None, :] == left[None, :, :]) & _LOWER).any(axis=1)
    device, column = np.nonzero((left >= milli) & ~same)
    return device, column


def best_device(scores: Floats, device: Ints, column: Ints, nodes: int) -> tuple[Floats, Ints]:
    """The best score of each column and its device; the first device of equals."""
    table = np.full((8, nodes), -np.inf)
    table[device, column] = scores
    best = table.argmax(axis=0)
    return table[best, np.arange(nodes)], best
