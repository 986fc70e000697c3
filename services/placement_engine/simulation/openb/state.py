"""What is left on every node, as columns: nodes stand in the order in which ties are broken."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from placement_engine.simulation.openb.trace import MILLI, SLOTS, Node, TaskClass

__all__ = ["Floats", "Ints", "State"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class State:
    """Free CPU (milli) and memory (MiB), shape (nodes,); free milli of each device, shape (8, nodes).

    A device that a node does not have has nothing left.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self.models = tuple(sorted({node.model for node in nodes}))
        self.model = np.array([self.models.index(node.model) for node in nodes])
        self.devices: Ints = np.array([node.devices for node in nodes], dtype=np.int64)
        self.cpu_capacity: Ints = np.array([node.cpu for node in nodes], dtype=np.int64)
        self.cpu = self.cpu_capacity.copy()
        self.memory: Ints = np.array([node.memory for node in nodes], dtype=np.int64)
        self.left: Ints = np.where(np.arange(SLOTS)[:, None] < self.devices, MILLI, 0).astype(np.int64)
        self.capacity = int(self.left.sum())

    def allowed(self, task: TaskClass) -> NDArray[np.bool_]:
        """Whether each of `models` suits the task, shape (models,)."""
        return np.array([not task.models or model in task.models for model in self.models])

    def fits(self, task: TaskClass, nodes: Ints) -> NDArray[np.bool_]:
        """Whether the task fits each of the nodes now, models included."""
        fits = (self.cpu[nodes] >= task.cpu) & (self.memory[nodes] >= task.memory)
        if task.devices:
            fits &= (self.left[:, nodes] >= task.milli).sum(axis=0) >= task.devices
        if task.models:
            fits &= self.allowed(task)[self.model[nodes]]
        return fits

    def place(self, task: TaskClass, node: int, device: int) -> None:
        """Takes what the task asks for. A share goes to `device`, whole devices are the first free ones."""
        self.cpu[node] -= task.cpu
        self.memory[node] -= task.memory
        if task.fraction:
            self.left[device, node] -= task.milli
        elif task.devices:
            free = np.flatnonzero(self.left[:, node] == MILLI)[: task.devices]
            self.left[free, node] = 0

    def allocated(self) -> int:
        """Milli of devices that are taken."""
        return self.capacity - int(self.left.sum())
