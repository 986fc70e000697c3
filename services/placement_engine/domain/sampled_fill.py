"""The fill of a row by samples: the same drawn sequences of work come by every row, and what fits stays.

Closer to what happens than ExpectedFill, at some hundred times its cost for a state that was not seen before: a
fraction goes to the tightest device of the row, so that whole devices stay for whole-device work.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from placement_engine.domain.columns import Floats, Ints
from placement_engine.domain.hosting_value import ExpectedFill, Mix, Room
from placement_engine.domain.model import WHOLE_DEVICE

__all__ = ["SampledFill"]

SEQUENCES = 64
DRAWS = 64
LARGE_FIRST = 0.3
"""Work of more milli is drawn more often, by this power: a fleet that fills up has more holes than small work."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What each draw asks for: (SEQUENCES, DRAWS). `whole`: whole devices, 0 for a fraction of one.

    `levels`: the different values of each, ascending; `ranks`: which of them each draw asks for. Small whole numbers
    are what is compared over and over.
    """

    cpu: Floats
    memory: Floats
    milli: Ints
    whole: Ints
    levels: tuple[Floats, ...]
    ranks: tuple[npt.NDArray[np.uint16], ...]


class SampledFill:
    """Mean over SEQUENCES drawn with `seed`; states that were seen are remembered."""

    # Samples run out of CPU themselves, so that less has to be added.
    cpu_only_weight: ClassVar[float] = 0.16
    cpu_only_rise: ClassVar[float] = 1.0
    cpu_only_from: ClassVar[float] = 0.45

    def __init__(self, mix: Mix, seed: int = 0) -> None:
        self._seen: dict[bytes, float] = {}
        self._expected = ExpectedFill(mix)
        cpu, memory, milli = mix.column("cpu"), mix.column("memory"), mix.column("milli").astype(np.intp)
        whole = np.where(milli == WHOLE_DEVICE, mix.column("devices"), 0).astype(np.intp)
        dice = np.random.default_rng([seed, mix.allowed.shape[1]])
        total = mix.column("total_milli")
        order = np.lexsort((cpu, total))
        shares = np.array(mix.shares) * (total / WHOLE_DEVICE) ** LARGE_FIRST
        self._drawn: list[Drawn | None] = []
        for model in range(mix.allowed.shape[1]):
            # Each position is drawn from as many strata of the mix as there are sequences: every sequence another.
            weight = np.cumsum((shares * mix.allowed[:, model])[order])
            strata = dice.permuted(np.tile(np.arange(SEQUENCES), (DRAWS, 1)), axis=1).T
            at = (strata + dice.random(strata.shape)) / SEQUENCES * (weight[-1] if weight.size else 0.0)
            if not weight.size or weight[-1] <= 0:
                self._drawn.append(None)
                continue
            kind = order[np.minimum(np.searchsorted(weight, at), weight.size - 1)]
            asked = (cpu[kind], memory[kind], milli[kind], whole[kind])
            levels = tuple(np.unique(one).astype(np.float64) for one in asked)
            ranks = tuple(level.searchsorted(one).astype(np.uint16) for level, one in zip(levels, asked, strict=True))
            self._drawn.append(Drawn(*asked, levels, ranks))

    def of(self, room: Room) -> Floats:
        left = -np.sort(-room.left, axis=0)
        states = np.vstack((room.model, room.cpu.astype(np.int64), room.memory.astype(np.int64), left)).T
        keys = [row.tobytes() for row in np.ascontiguousarray(states, dtype=np.int64)]
        fresh = {key: at for at, key in enumerate(keys) if key not in self._seen}
        by_model: dict[int, list[int]] = {}
        for at in fresh.values():
            by_model.setdefault(int(room.model[at]), []).append(at)
        for model, rows in by_model.items():
            filled = self._filled(model, left[:, rows].T, room.cpu[rows], room.memory[rows])
            self._seen.update(zip((keys[at] for at in rows), filled.tolist(), strict=True))
        # Sequences never end, so that small work fills every rest in them, however rarely it comes.
        return self._expected.bounded(replace(room, left=left), np.array([self._seen[key] for key in keys]))

    def _filled(self, model: int, left: Ints, cpu: Floats, memory: Floats) -> Floats:
        """Rows of one model; left: (k, slots). Every round each sequence goes on to its next draw that fits."""
        drawn = self._drawn[model]
        width = int((left > 0).sum(axis=1).max(initial=0))
        rows = left.shape[0]
        if drawn is None or not width:
            return np.zeros(rows)
        filled = np.zeros(rows * SEQUENCES)
        at = np.arange(rows * SEQUENCES)  # those that still find something that fits
        left = np.repeat(left[:, :width], SEQUENCES, axis=0)
        cpu, memory = np.repeat(cpu, SEQUENCES), np.repeat(memory, SEQUENCES)
        sequence = np.tile(np.arange(SEQUENCES), rows)
        open_ = np.ones((at.size, DRAWS), dtype=np.bool_)
        while True:
            has = (cpu, memory, left.max(axis=1), (left == WHOLE_DEVICE).sum(axis=1))
            for levels, ranks, value in zip(drawn.levels, drawn.ranks, has, strict=True):
                open_ &= levels.searchsorted(value, "right").astype(np.uint16)[:, None] > ranks.take(sequence, axis=0)
            goes_on = open_.any(axis=1)
            if not goes_on.any():
                mean: Floats = filled.reshape(rows, SEQUENCES).mean(axis=1)
                return mean
            if not goes_on.all():
                at, left, cpu, memory = at[goes_on], left[goes_on], cpu[goes_on], memory[goes_on]
                sequence, open_ = sequence[goes_on], open_[goes_on]
            each = np.arange(at.size)
            draw = open_.argmax(axis=1)
            # Draws before this one have gone by: they did not fit, and less is left now.
            open_[each, draw] = False
            milli, whole = drawn.milli[sequence, draw], drawn.whole[sequence, draw]
            device = np.where(left >= milli[:, None], left, WHOLE_DEVICE + 1).argmin(axis=1)
            left[each, device] -= milli
            for several in np.flatnonzero(whole > 1).tolist():
                left[several, np.flatnonzero(left[several] == WHOLE_DEVICE)[: whole[several] - 1]] = 0
            cpu -= drawn.cpu[sequence, draw]
            memory -= drawn.memory[sequence, draw]
            filled[at] += milli * np.maximum(whole, 1)
