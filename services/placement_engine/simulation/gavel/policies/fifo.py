"""First in, first out: the oldest waiting job takes any kind that has room, and keeps it until it ends."""

import random
from typing import ClassVar

from placement_engine.simulation.gavel.policies.base import Plan, Policy, Setting, View

__all__ = ["Fifo"]

SEED = 0


class Fifo(Policy):
    """Without regard to speed, as published: the kind is drawn, and nobody passes a job that waits."""

    multi: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._dice = random.Random(SEED)
        self._kind: dict[int, int] = {}
        self._free = list(setting.cluster.devices)

    def completed(self, job: int, shape: int, steps: float) -> None:
        self._free[self._kind.pop(job)] += self.setting.table.shapes[shape][1]

    def plan(self, view: View) -> Plan:
        plan = Plan.empty(view.jobs.size)
        for at, (job, shape, scale) in enumerate(
            zip(view.jobs.tolist(), view.shape.tolist(), view.scale.tolist(), strict=True)
        ):
            if job not in self._kind:
                rates = self.setting.table.alone[shape]
                fitting = [kind for kind, free in enumerate(self._free) if free >= scale and rates[kind] > 0]
                if not fitting:
                    break
                self._kind[job] = self._dice.choice(fitting)
                self._free[self._kind[job]] -= scale
            plan.kind[at] = self._kind[job]
        return plan
