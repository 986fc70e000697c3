"""Packing: lose least of what the row could still host (hosting_value), for the mix of work that was seen."""

import numpy as np

from placement_engine.domain.columns import ACCELERATORS, CPU, CPU_TOTAL, DEVICES, FREE, SLICES, Bools, Floats, View
from placement_engine.domain.hosting import Hosting
from placement_engine.domain.hosting_value import Kind
from placement_engine.domain.model import WHOLE_DEVICE
from placement_engine.domain.plugins import Form, Formed, Hosted
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask

SCALE = 500.0
"""Milli wasted at which the score is halfway from its middle to its end."""


class Fragmentation(Formed):
    name = "Fragmentation"

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    def weight(self, weights: Weights) -> float:
        return weights.fragmentation

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        shape = ask.shape
        if ask.cuts is not None:
            return _of_partitions(view, usable, ask)
        if ask.milli is not None:
            return self._of_shares(view, usable, ask, ask.milli)
        return self._of_kind(view, usable, ask, shape.milli_per_device)

    def _of_kind(self, view: View, usable: Bools, ask: Ask, milli: int) -> Floats:
        shape, kind = ask.shape, _kind(ask, milli)
        lost = self._hosting.lost(view, usable, kind)
        if not shape.needs_devices:
            return _of_hosts(view, lost, ask)
        # Below 0 where the row is worth less than the job takes: the rest was lost before.
        wasted = (lost - kind.total_milli) / SCALE
        value: Floats = 0.5 - 0.5 * wasted / (1.0 + np.abs(wasted))
        return value

    def form(self, ask: Ask) -> Form | None:
        shape = ask.shape
        if shape.by_model or not self._hosting.plain:
            return None
        return Hosted(_kind(ask, shape.milli_per_device), SCALE)

    def _of_shares(self, view: View, usable: Bools, ask: Ask, milli: Floats) -> Floats:
        """A share of memory is another part of a device on each model."""
        value = np.zeros(view.model.shape[0])
        for model in np.unique(view.model).tolist():
            if part := int(milli[model]):
                mine = np.flatnonzero(view.model == model)
                value[mine] = self._of_kind(view.only(mine), usable[:, mine], ask, part)
        return value

    def detail(self, value: float, ask: Ask, model: int) -> str:
        if ask.shape.needs_devices:
            return "the less of what the node could still host is lost, the higher"
        return "nodes without accelerators, or whose accelerators lose nothing by it, first"


def _kind(ask: Ask, milli: int) -> Kind:
    return Kind(ask.shape.cpu_milli, ask.shape.memory, ask.shape.slots, milli)


def _of_partitions(view: View, usable: Bools, ask: Ask) -> Floats:
    """Where larger partitions lose least, on devices that are cut already: undivided ones are kept."""
    assert ask.cuts is not None
    slices = view.devices(SLICES)
    tight = ask.cuts.tightness[view.model, slices.astype(np.intp)]
    tightest = np.maximum.reduce(np.where(usable, tight, 0.0), axis=0)
    opened = np.minimum.reduce(np.where(usable, slices, np.inf), axis=0) == 0
    begun = np.logical_or.reduce(usable & (slices > 0), axis=0)
    empty = np.add.reduce(view.devices(FREE) >= WHOLE_DEVICE, axis=0, dtype=np.float64) - (opened & ~begun)
    value: Floats = 0.6 * tightest + 0.4 * (1.0 - empty / np.maximum(view.rows(DEVICES), 1.0))
    return value


def _of_hosts(view: View, lost: Floats, ask: Ask) -> Floats:
    """The CPUs of nodes with accelerators are kept for the work of those accelerators."""
    left = (view.rows(CPU) - ask.shape.cpu_milli) / np.maximum(view.rows(CPU_TOTAL), 1.0)
    value: Floats = 0.7 + 0.2 * (view.rows(ACCELERATORS) == 0) + 0.1 * (1.0 - np.clip(left, 0.0, 1.0))
    value /= 1.0 + lost / SCALE
    return value
