"""Least attained service without regard to the kinds: max-min fairness over device-time."""

import random
from collections.abc import Sequence

import numpy as np

from placement_engine.simulation.gavel.policies.base import Setting, View
from placement_engine.simulation.gavel.policies.max_min_fairness import max_min_share
from placement_engine.simulation.gavel.policies.rounds import AllocationPolicy
from placement_engine.simulation.gavel.trace import Floats, Ints

__all__ = ["LeastAttainedService"]

SEED = 5


class LeastAttainedService(AllocationPolicy):
    """Every kind counts the same, and the kinds are filled in an order drawn anew each round, as published."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._dice = random.Random(SEED)
        self._order = list(super().order())

    def order(self) -> Sequence[int]:
        self._dice.shuffle(self._order)
        return self._order

    def allocate(self, view: View, members: Ints) -> Floats:
        devices = np.array(self.setting.cluster.devices, dtype=np.float64)
        worth = np.repeat(view.scale[:, None].astype(np.float64), devices.size, axis=1)
        return max_min_share(worth, view.scale, devices).T
