"""Best fit: fill what is begun, keep empty nodes, whole devices and rare models for those who need them."""

import numpy as np

from placement_engine.domain.columns import ACCELERATORS, CPU, CPU_TOTAL, DEVICES, FREE, SLICES, Bools, Floats, View
from placement_engine.domain.model import WHOLE_DEVICE
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask


class Fragmentation:
    name = "Fragmentation"

    def weight(self, weights: Weights) -> float:
        return weights.fragmentation

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        if ask.shape.needs_devices:
            return _of_devices(view, usable, ask)
        return _of_hosts(view, ask)

    def detail(self, value: float, ask: Ask, model: int) -> str:
        if ask.shape.needs_devices:
            return "tighter is higher; rare models are kept"
        return "nodes without accelerators first"


def _of_hosts(view: View, ask: Ask) -> Floats:
    """The CPUs of nodes with accelerators are kept for the work of those accelerators."""
    left = (view.rows(CPU) - ask.shape.cpu_milli) / np.maximum(view.rows(CPU_TOTAL), 1.0)
    value: Floats = 0.7 * (view.rows(ACCELERATORS) == 0) + 0.3 * (1.0 - np.clip(left, 0.0, 1.0))
    return value


def _of_devices(view: View, usable: Bools, ask: Ask) -> Floats:
    shape = ask.shape
    free, slots = view.devices(FREE), np.maximum(view.rows(DEVICES), 1.0)
    empty = np.add.reduce(free >= WHOLE_DEVICE, axis=0, dtype=np.float64)
    if shape.whole:
        fit = 1.0 - np.maximum(empty - shape.whole, 0.0) / slots
    elif ask.cuts is not None:
        # A partition fits well where larger ones lose least; empty devices are kept, as for fractions.
        tight = ask.cuts.tightness[view.model, view.devices(SLICES).astype(np.intp)]
        tightest = np.maximum.reduce(np.where(usable, tight, 0.0), axis=0)
        opened = np.minimum.reduce(np.where(usable, view.devices(SLICES), np.inf), axis=0) == 0
        begun = np.logical_or.reduce(usable & (view.devices(SLICES) > 0), axis=0)
        empty -= opened & ~begun
        fit = 0.6 * tightest + 0.4 * (1.0 - empty / slots)
    else:
        milli = shape.milli if ask.milli is None else ask.milli.take(view.model)
        tightest = np.minimum.reduce(np.where(usable, free, 2.0 * WHOLE_DEVICE), axis=0)
        empty -= tightest == WHOLE_DEVICE
        left_over = np.minimum((tightest - milli) / WHOLE_DEVICE, 1.0)
        fit = 0.6 * (1.0 - left_over) + 0.4 * (1.0 - empty / slots)
    value: Floats = 0.75 * fit + 0.25 * (1.0 - ask.scarcity.take(view.model))
    return value
