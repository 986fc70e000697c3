"""Thrift: power while there is room, packing when there is not.

A device draws nearly its full power as soon as any of it works, and so does a CPU package: work that goes where both
are awake already wakes nobody. While the fleet is emptier than `thrifty_until` the watts that a placement would wake
count as lost hosting value; from `packing_from` they count nothing, for then what is wasted is what cannot run at all.
"""

import numpy as np

from placement_engine.domain.columns import CPU, CPU_TOTAL, FREE, Bools, Floats, View
from placement_engine.domain.hosting_value import Kind
from placement_engine.domain.model import WHOLE_DEVICE
from placement_engine.domain.models import Models
from placement_engine.domain.policy import Policy

__all__ = ["Thrift"]


class Thrift:
    """What the watts woken by a kind of work count on each row, in milli of hosting value."""

    def __init__(self, models: Models, policy: Policy) -> None:
        self._models = models
        self._policy = policy
        self._room = 0.0

    @property
    def on(self) -> bool:
        return self._policy.thrift_milli_per_watt > 0

    def review(self, free: float) -> None:
        """`free`: part of the fleet's devices that is free, 0..1."""
        policy = self._policy
        room = (policy.packing_from - (1.0 - free)) / (policy.packing_from - policy.thrifty_until)
        self._room = min(max(room, 0.0), 1.0)

    def milli(self, view: View, usable: Bools, kind: Kind) -> Floats:
        """Of each row (k), 0 or more; a device whose power nobody knows wakes for nothing."""
        if not self.on or not self._room:
            return np.zeros(view.model.shape[0])
        woken = self._policy.cpu_package_watts * self._packages(view, kind)
        if kind.devices:
            woken += self._watts()[view.model] * self._devices(view, usable, kind)
        milli: Floats = self._policy.thrift_milli_per_watt * self._room * woken
        return milli

    def _packages(self, view: View, kind: Kind) -> Floats:
        size = float(self._policy.cpu_package_milli)
        taken = np.maximum(view.rows(CPU_TOTAL) - view.rows(CPU), 0.0)
        packages: Floats = np.ceil((taken + kind.cpu) / size) - np.ceil(taken / size)
        return packages

    def _devices(self, view: View, usable: Bools, kind: Kind) -> Floats:
        """Sleeping devices that would be woken: a fraction goes to the device that holds it most tightly."""
        free = view.devices(FREE)
        if not kind.fraction:
            return np.full(view.model.shape[0], float(kind.devices))
        awake = np.logical_or.reduce(usable & (free >= kind.milli) & (free < WHOLE_DEVICE), axis=0)
        sleeping: Floats = (~awake).astype(np.float64)
        return sleeping

    def _watts(self) -> Floats:
        """W that a device of each model draws more when it works, by the number of the model."""
        watts = np.zeros(len(self._models))
        for number, name in enumerate(self._models.names):
            entry = self._models.estimator.accelerator(name)
            if entry is not None and entry.tdp_watts is not None:
                idle = entry.idle_watts
                if idle is None:
                    idle = self._policy.idle_power_fraction * entry.tdp_watts
                watts[number] = max(entry.tdp_watts - idle, 0.0)
        return watts
