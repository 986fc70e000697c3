"""The value of what a node could still host (domain/hosting_value.py): the node that loses least of it.

Deterministic: the seed only orders the nodes.
"""

from functools import lru_cache

import numpy as np

from berth.errors import InvalidInput
from placement_engine.domain.hosting_value import Fill, HostingValue, Kind, Mix, Room
from placement_engine.domain.job_mix import JobMix, Request, Share, prior
from placement_engine.domain.sampled_fill import SampledFill
from placement_engine.simulation.openb.policies.base import ScoringPolicy, tightest_device
from placement_engine.simulation.openb.power import PowerModel
from placement_engine.simulation.openb.state import Floats, Ints, State
from placement_engine.simulation.openb.trace import MILLI, TaskClass, Workload

__all__ = ["Berth", "BerthExpected", "BerthOnline", "BerthPower", "kind_of", "known_mix"]

REVIEW_EVERY = 0.05
"""Scarcity is reviewed each time what is free moved by this share of the devices' capacity, or of the CPU."""


POWER_WEIGHT = 40.0
"""Milli of hosting value that a watt is worth while there is room."""
THRIFTY_UNTIL, PACKING_FROM = 0.7, 0.8
"""Load, the share of devices that are taken: thrifty up to the first, packing from the second, a blend between."""


def kind_of(task: TaskClass) -> Kind:
    return Kind(task.cpu, task.memory, task.devices, task.milli)


def known_mix(state: State, workload: Workload) -> Mix:
    """The mix of the whole trace: what `berth` is told and `berth-online` is not."""
    known = [
        (task, share) for task, share in zip(workload.classes, workload.shares, strict=True) if share and task.devices
    ]
    return Mix(
        tuple(kind_of(task) for task, _ in known),
        tuple(share for _, share in known),
        np.array([state.allowed(task) for task, _ in known]),
        tuple(
            (kind_of(task), share)
            for task, share in zip(workload.classes, workload.shares, strict=True)
            if share and not task.devices
        ),
    )


@lru_cache(maxsize=1)
def _sampled(kinds: tuple[Kind, ...], shares: tuple[float, ...], allowed: bytes) -> SampledFill:
    """One for all seeds of a trace: what a state fills does not depend on how it came about."""
    suits = np.frombuffer(allowed, dtype=np.bool_).reshape(len(kinds), -1)
    return SampledFill(Mix(kinds, shares, suits))


class Berth(ScoringPolicy):
    """Knows the mix; its fill is sampled."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        self._kinds = [kind_of(task) for task in workload.classes]
        self._present = np.array([state.devices[state.model == m].any() for m in range(len(state.models))])
        self._everywhere = np.arange(len(state.nodes))
        self._cpu_capacity = max(int(state.cpu_capacity.sum()), 1)
        self._fill_lost = np.zeros((len(workload.classes), len(state.nodes)))
        self._reviewed = self._reviewed_cpu = 2.0
        self._reviews = 0
        self._weighed = [0] * len(workload.classes)
        self._learn(known_mix(state, workload))

    def _learn(self, mix: Mix) -> None:
        self._value = HostingValue(mix, self._present, self._filled_by(mix))

    def _filled_by(self, mix: Mix) -> Fill | None:
        return _sampled(mix.kinds, mix.shares, mix.allowed.tobytes())

    def room(self, nodes: Ints) -> Room:
        state = self.state
        cpu, memory = state.cpu[nodes].astype(np.float64), state.memory[nodes].astype(np.float64)
        return Room(state.left[:, nodes], cpu, memory, state.model[nodes])

    def arrived(self, share: float) -> None:
        free = 1.0 - self.load()
        moved = max(abs(free - self._reviewed), abs(self._free_cpu() - self._reviewed_cpu))
        if moved >= REVIEW_EVERY:
            self._review(free)

    def _free_cpu(self) -> float:
        return float(self.state.cpu.sum() / self._cpu_capacity)

    def load(self) -> float:
        """Share of the devices' capacity that is taken."""
        return self.state.allocated() / self.state.capacity

    def _review(self, free: float) -> None:
        self._value.review(self.room(self._everywhere), self.state.capacity)
        self._reviewed, self._reviewed_cpu = free, self._free_cpu()
        self._reviews += 1

    def refresh(self, index: int, nodes: Ints) -> None:
        super().refresh(index, nodes)
        if self._weighed[index] != self._reviews:
            self._weighed[index] = self._reviews
            fitting = np.flatnonzero(self._scores[index] != -np.inf)
            if fitting.size:
                self._scores[index, fitting] = self._total(index, fitting)

    def choose(self, index: int) -> tuple[int, int] | None:
        if self._weighed[index] != self._reviews and self._seen[index] == len(self._touched):
            self.refresh(index, np.zeros(0, dtype=np.int64))
        return super().choose(index)

    def score(self, index: int, nodes: Ints) -> tuple[Floats, Ints]:
        room, fill = self.room(nodes), self._value.fill
        self._fill_lost[index, nodes] = fill.of(room) - fill.of(room.without(self._kinds[index]))
        return self._total(index, nodes), tightest_device(room.left, self.workload.classes[index])

    def _total(self, index: int, nodes: Ints) -> Floats:
        room, scarcity = self.room(nodes), self._value.scarcity
        kept: Floats = scarcity(room.without(self._kinds[index])) - scarcity(room) - self._fill_lost[index, nodes]
        return kept


class BerthExpected(Berth):
    """Knows the mix; its fill is the engine's, from tables."""

    def _filled_by(self, mix: Mix) -> Fill | None:
        return None


class BerthOnline(Berth):
    """Is told nothing of the trace: learns the mix from the tasks as they come, from a cold start."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        self._mix = JobMix()
        self._in_use: tuple[Share, ...] = prior(tuple(sorted(set(state.models) - {""})))
        self._learn(self._mix_of(self._in_use))

    def choose(self, index: int) -> tuple[int, int] | None:
        self._mix.observe(Request(self._kinds[index], self.workload.classes[index].models))
        self._mix.review()
        if self._mix.shares and self._mix.shares is not self._in_use:
            self._in_use = self._mix.shares
            self._learn(self._mix_of(self._in_use, self._mix.cpu_only))
            self._seen = [-1] * len(self._seen)
            self._review(1.0 - self.load())
        return super().choose(index)

    def _filled_by(self, mix: Mix) -> Fill | None:
        return SampledFill(mix)

    def _mix_of(self, shares: tuple[Share, ...], cpu_only: tuple[Share, ...] = ()) -> Mix:
        models = self.state.models
        allowed = [[not one.models or model in one.models for model in models] for one, _ in shares]
        return Mix(
            tuple(one.kind for one, _ in shares),
            tuple(share for _, share in shares),
            np.array(allowed, dtype=np.bool_),
            tuple((one.kind, share) for one, share in cpu_only),
        )


class BerthPower(Berth):
    """Power while there is room, packing when there is not: watts count less and less as the fleet fills."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        self._power = PowerModel(state)
        if self._power.unknown:
            raise InvalidInput.of(
                "model", ", ".join(self._power.unknown), "no power figures are known: leave berth-power out"
            )

    def _total(self, index: int, nodes: Ints) -> Floats:
        kept = super()._total(index, nodes)
        room = min(max((PACKING_FROM - self.load()) / (PACKING_FROM - THRIFTY_UNTIL), 0.0), 1.0)
        if room:
            state, after = self.state, self.room(nodes).without(self._kinds[index])
            free = (state.left[:, nodes] == MILLI).sum(axis=0)
            woken = self._power.watts(nodes, after.cpu.astype(np.int64), (after.left == MILLI).sum(axis=0))
            kept -= POWER_WEIGHT * room * (woken - self._power.watts(nodes, state.cpu[nodes], free))
        return kept
