"""Fill and scarcity: the node that loses least of the value of what it could still host.

Fill: the milli that the known mix of tasks can be expected to fill, device by device, within the node's CPU and
memory. Scarcity: how many of the special tasks (several devices, or a demanded model) the node can still host,
weighed by how many are still to come against how much room the fleet has for them.
"""

import numpy as np

from placement_engine.simulation.openb.policies.base import ScoringPolicy, best_device, devices_that_differ
from placement_engine.simulation.openb.state import Floats, Ints, State
from placement_engine.simulation.openb.trace import MILLI, TaskClass, Workload

__all__ = ["Berth", "fill_table"]

FILL_STEPS = 32
SCARCITY_WEIGHT = 0.05
DEMANDED_MODEL_WEIGHT = 10.0
HORIZON = 1.1  # arrivals that are planned for, as a share of the capacity
LEAST_TO_COME = 0.05
REVIEW_EVERY = 0.05  # the scarcity is reviewed each time this share of the capacity has arrived


def fill_table(classes: list[TaskClass], shares: list[float]) -> Floats:
    """Milli that the tasks fill of a device with l milli left, l = 0..1000, drawing FILL_STEPS tasks."""
    weight: dict[int, float] = {}
    for task, share in zip(classes, shares, strict=True):
        weight[task.milli] = weight.get(task.milli, 0.0) + share * task.devices
    total = sum(weight.values())
    table = np.zeros(MILLI + 1)
    for _ in range(FILL_STEPS if total else 0):
        after = np.zeros(MILLI + 1)
        for milli, part in weight.items():
            drawn = table.copy()
            drawn[milli:] = milli + table[: MILLI + 1 - milli]
            after += part / total * drawn
        table = after
    return table


class Berth(ScoringPolicy):
    """The policy of Berth's placement engine on this protocol. Deterministic: the seed only orders the nodes."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        known = [(task, share) for task, share in zip(workload.classes, workload.shares, strict=True) if task.devices]
        allowed = np.array([state.allowed(task) for task, _ in known])  # (classes, models)
        milli = np.array([task.total_milli for task, _ in known], dtype=np.float64)
        share = np.array([share for _, share in known])
        self._fill = np.zeros((len(state.models), MILLI + 1))
        weights = np.zeros((len(state.models), len(known)))
        for model in range(len(state.models)):
            mine = [one for one, suits in zip(known, allowed[:, model], strict=True) if suits]
            self._fill[model] = fill_table([task for task, _ in mine], [part for _, part in mine])
            weight = share * milli * allowed[:, model]
            weights[model] = weight / weight.sum() if mine else weight
        self._milli_per_cpu = milli / np.maximum([task.cpu for task, _ in known], 1e-9)
        self._milli_per_memory = milli / np.maximum([task.memory for task, _ in known], 1e-9)
        self._weights = weights
        self._special = _Special(state, [one for one in known if one[0].devices > 1 or one[0].models], known)
        self._fill_lost: list[Floats] = [np.full((8, len(state.nodes)), np.nan) for _ in workload.classes]
        self._reviews = 0
        self._weighed = [0] * len(workload.classes)

    def arrived(self, share: float) -> None:
        if share >= self._reviews * REVIEW_EVERY:
            self._special.weigh(self.state, share)
            self._reviews = int(share / REVIEW_EVERY + 1e-9) + 1

    def refresh(self, index: int, nodes: Ints) -> None:
        super().refresh(index, nodes)
        if self._weighed[index] != self._reviews:
            self._weighed[index] = self._reviews
            self._combine(index, np.flatnonzero(self._scores[index] != -np.inf))

    def choose(self, index: int) -> tuple[int, int] | None:
        if self._weighed[index] != self._reviews and self._seen[index] == len(self._touched):
            self.refresh(index, np.zeros(0, dtype=np.int64))
        return super().choose(index)

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, state = self.workload.classes[index], self.state
        left, cpu, memory, model = state.left[:, nodes], state.cpu[nodes], state.memory[nodes], state.model[nodes]
        holds = self._fill[model, left].sum(axis=0)
        before = self._filled(holds, self._bound(cpu, memory), model)
        bound = self._bound(cpu - task.cpu, memory - task.memory)
        table = self._fill_lost[index]
        if task.fraction:
            device, column = devices_that_differ(left, task.milli)
            old, kind = left[device, column], model[column]
            after = holds[column] - self._fill[kind, old] + self._fill[kind, old - task.milli]
            lost = before[column] - self._filled(after, bound[column], kind)
            table[:, nodes] = np.nan
            table[device, nodes[column]] = lost
        else:
            table[0, nodes] = before - self._filled(holds - task.devices * self._fill[model, MILLI], bound, model)
        return self._total(index, nodes)

    def _combine(self, index: int, nodes: Ints) -> None:
        if nodes.size:
            self._scores[index, nodes], self._devices[index, nodes] = self._total(index, nodes)

    def _total(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        task, table = self.workload.classes[index], self._fill_lost[index][:, nodes]
        if task.fraction:
            device, column = np.nonzero(~np.isnan(table))
            lost = table[device, column] + SCARCITY_WEIGHT * self._special.lost(self.state, task, nodes, device, column)
            return best_device(-lost, device, column, nodes.size)
        everywhere = np.arange(nodes.size)
        scarcity = self._special.lost(self.state, task, nodes, np.zeros_like(everywhere), everywhere)
        return -(table[0] + SCARCITY_WEIGHT * scarcity), np.zeros(nodes.size, dtype=np.int64)

    def _bound(self, cpu: Ints, memory: Ints) -> Floats:
        """Milli of each class that the CPU and memory could feed, shape (states, classes)."""
        return np.minimum(cpu[:, None] * self._milli_per_cpu, memory[:, None] * self._milli_per_memory)

    def _filled(self, holds: Floats, bound: Floats, model: Ints) -> Floats:
        filled: Floats = np.einsum("sk,sk->s", np.minimum(holds[:, None], bound), self._weights[model])
        return filled


class _Special:
    """How many of each special class the nodes can still host, and what one is worth."""

    def __init__(
        self, state: State, special: list[tuple[TaskClass, float]], known: list[tuple[TaskClass, float]]
    ) -> None:
        tasks = [task for task, _ in special]
        self._share = np.array([share for _, share in special])
        self._cpu = np.array([max(task.cpu, 1e-9) for task in tasks])
        self._memory = np.array([max(task.memory, 1e-9) for task in tasks])
        self._count = np.array([task.devices for task in tasks], dtype=np.float64)
        self._milli = np.array([task.total_milli for task in tasks], dtype=np.float64)
        self._rank = np.array([DEMANDED_MODEL_WEIGHT if task.models else 1.0 for task in tasks])
        self._allowed = np.array([state.allowed(task) for task in tasks]).reshape(len(tasks), len(state.models)).T
        # By what is left of a device: how many shares, or whole devices, of each class it holds.
        milli = np.array([task.milli for task in tasks], dtype=np.int64)
        self._slots = (np.arange(MILLI + 1)[:, None] // milli).astype(np.float64)
        self._devices = state.capacity / MILLI
        self._per_task = sum(share * task.total_milli for task, share in known) / MILLI
        self._worth = np.zeros(len(tasks))

    def weigh(self, state: State, arrived: float) -> None:
        """Sets the worth of one more host of each class by what is to come and what room there is."""
        room = self._hosted(self._slots[state.left].sum(axis=0), state.cpu, state.memory, state.model).sum(axis=0)
        to_come = self._share * self._devices / self._per_task * max(HORIZON - arrived, LEAST_TO_COME)
        self._worth = self._rank * to_come / (self._per_task * np.maximum(room, 1.0)) * self._milli

    def lost(self, state: State, task: TaskClass, nodes: Ints, device: Ints, column: Ints) -> Floats:
        """Scarcity lost by the task on `device` of the node in `column` of `nodes`; whole devices: the first free."""
        if not self._worth.size:
            return np.zeros(column.size)
        left, cpu, memory, model = state.left[:, nodes], state.cpu[nodes], state.memory[nodes], state.model[nodes]
        slots = self._slots[left].sum(axis=0)
        before = self._hosted(slots, cpu, memory, model) @ self._worth
        if task.fraction:
            old = left[device, column]
            after = slots[column] - self._slots[old] + self._slots[old - task.milli]
        else:
            after = slots[column] - task.devices * self._slots[MILLI]
        hosted = self._hosted(after, cpu[column] - task.cpu, memory[column] - task.memory, model[column])
        lost: Floats = before[column] - hosted @ self._worth
        return lost

    def _hosted(self, slots: Floats, cpu: Ints, memory: Ints, model: Ints) -> Floats:
        """Hosts of each class, shape (states, classes): not rounded, but 0 where not one fits."""
        of_cpu, of_memory = cpu[:, None] / self._cpu, memory[:, None] / self._memory
        hosts = np.minimum(np.minimum(slots // self._count, of_cpu), of_memory)
        hosted: Floats = np.where(hosts >= 1, hosts, 0.0) * self._allowed[model]
        return hosted
