"""Partitions of a device (MIG): which slices are free, where one may start, what is left afterwards.

A device has 8 memory slices, kept as a bit mask of the used ones. A partition occupies consecutive slices from
one of a few allowed starts, and no two overlap: NVIDIA's rule of placement (NVML nvmlGpuInstancePlacement_t,
`nvidia-smi mig -lgipp`; MIG User Guide, "Supported MIG Profiles"). With only 256 masks every question is a
table, made once for a model's partitions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from placement_engine.domain.columns import Bools, Floats, Ints
from placement_engine.domain.model import WHOLE_DEVICE, Partition

COMPUTE_SLICES = 7
MEMORY_SLICES = 8
MASKS = 1 << MEMORY_SLICES

# What the column of used slices holds beside masks.
UNPARTITIONABLE = MASKS
UNDIVIDED = MASKS + 1
"""In use as a whole or by fractions: partitions do not mix with them."""
STATES = MASKS + 2

NOWHERE = -1


def slices(partition: Partition, start: int) -> int:
    """The mask of what it occupies."""
    return ((1 << partition.memory_slices) - 1) << start


def milli_of(partition: Partition) -> int:
    return WHOLE_DEVICE * partition.compute_slices // COMPUTE_SLICES


def used_slices(partitions: tuple[Partition, ...], held: Iterable[tuple[str, int]]) -> int:
    """Mask of (name, start) pairs; UNDIVIDED where a name is not one of the model's: nothing is known then."""
    by_name = {partition.name: partition for partition in partitions}
    mask = 0
    for name, start in held:
        partition = by_name.get(name)
        if partition is None:
            return UNDIVIDED
        mask |= slices(partition, start)
    return mask & (MASKS - 1)


@dataclass(frozen=True, slots=True)
class Cut:
    """What one partition means on one model, by state of a device (STATES entries each)."""

    partition: Partition
    start: tuple[int, ...]
    """The best start, or NOWHERE."""
    count: tuple[int, ...]
    """How many of it fit at once."""
    loss: tuple[int, ...]
    """What larger work loses by it, an exact code that orders devices: less is better."""
    tightness: tuple[float, ...]
    """0..1, 1 where least is lost."""


@cache
def cut(partitions: tuple[Partition, ...], name: str) -> Cut | None:
    """None: the model has no such partition."""
    partition = next((one for one in partitions if one.name == name), None)
    if partition is None:
        return None
    worth = _worths(partitions)
    starts, losses = [NOWHERE] * STATES, [0] * STATES
    for mask in range(MASKS):
        options = [
            (worth[mask] - worth[mask | slices(partition, start)], start)
            for start in partition.starts
            if not mask & slices(partition, start)
        ]
        if options:
            losses[mask], starts[mask] = min(options)
    ranked = {loss: rank for rank, loss in enumerate(sorted({losses[m] for m in range(MASKS) if starts[m] >= 0}))}
    most = max(1, len(ranked) - 1)
    return Cut(
        partition=partition,
        start=tuple(starts),
        count=(*(_count(partition, mask) for mask in range(MASKS)), 0, 0),
        loss=tuple(losses),
        tightness=tuple(1.0 - ranked[losses[m]] / most if starts[m] >= 0 else 0.0 for m in range(STATES)),
    )


def _count(partition: Partition, mask: int) -> int:
    found = 0
    for start in sorted(partition.starts):  # of equal sizes the leftmost first is the most that fit
        occupied = slices(partition, start)
        if not mask & occupied:
            mask |= occupied
            found += 1
    return found


@cache
def _worths(partitions: tuple[Partition, ...]) -> tuple[int, ...]:
    """Of each mask: how many of each partition could still be placed, the largest first: one digit each."""
    by_size = sorted(partitions, key=lambda p: (-p.compute_slices, -p.memory_slices, p.name))
    worths = []
    for mask in range(MASKS):
        worth = 0
        for partition in by_size:
            worth = worth * (MEMORY_SLICES + 1) + _count(partition, mask)
        worths.append(worth)
    return tuple(worths)


@dataclass(frozen=True, slots=True)
class Cuts:
    """A partition on every model of the fleet; arrays are (models, STATES)."""

    by_model: tuple[Cut | None, ...]
    count: Ints
    tightness: Floats

    def counts(self, model: Ints, state: Floats) -> Ints:
        """How many of it each device takes: state (slots, k), model (k)."""
        found: Ints = self.count[model, state.astype(np.intp)]
        return found

    def fits(self, model: Ints, state: Floats) -> Bools:
        found: Bools = self.count[model, state.astype(np.intp)] > 0
        return found


def cuts_of(by_model: Iterable[Cut | None]) -> Cuts:
    found = tuple(by_model)
    count = np.zeros((len(found), STATES), dtype=np.intp)
    tightness = np.zeros((len(found), STATES))
    for number, one in enumerate(found):
        if one is not None:
            count[number], tightness[number] = one.count, one.tightness
    return Cuts(found, count, tightness)
