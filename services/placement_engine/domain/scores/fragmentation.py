"""Packing: lose least of what the row could still host (hosting_value), for the mix of work that was seen."""

import numpy as np

from placement_engine.domain.columns import ACCELERATORS, CPU, CPU_TOTAL, Bools, Floats, View
from placement_engine.domain.hosting import Hosting
from placement_engine.domain.hosting_value import Kind
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask

SCALE = 500.0
"""Milli wasted at which the score is halfway from its middle to its end."""


class Fragmentation:
    name = "Fragmentation"

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    def weight(self, weights: Weights) -> float:
        return weights.fragmentation

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        shape = ask.shape
        kind = Kind(shape.cpu_milli, shape.memory, shape.slots, shape.milli_per_device)
        lost = self._hosting.lost(view, usable, kind)
        if not shape.needs_devices:
            return _of_hosts(view, lost, ask)
        # Below 0 where the row is worth less than the job takes: the rest was lost before.
        wasted = (lost - kind.total_milli) / SCALE
        value: Floats = 0.5 - 0.5 * wasted / (1.0 + np.abs(wasted))
        return value

    def detail(self, value: float, ask: Ask, model: int) -> str:
        if ask.shape.needs_devices:
            return "the less of what the node could still host is lost, the higher"
        return "nodes without accelerators, or whose accelerators lose nothing by it, first"


def _of_hosts(view: View, lost: Floats, ask: Ask) -> Floats:
    """The CPUs of nodes with accelerators are kept for the work of those accelerators."""
    left = (view.rows(CPU) - ask.shape.cpu_milli) / np.maximum(view.rows(CPU_TOTAL), 1.0)
    value: Floats = 0.7 / (1.0 + lost / SCALE) + 0.2 * (view.rows(ACCELERATORS) == 0)
    value += 0.1 * (1.0 - np.clip(left, 0.0, 1.0))
    return value
