"""The fill of a row by samples: the same drawn sequences of work come by every row, and what fits stays.

Closer to what happens than ExpectedFill, at some hundred times its cost for a state that was not seen before: a
fraction goes to the tightest device of the row, so that whole devices stay for whole-device work.
"""

import numpy as np

from placement_engine.domain.columns import Floats
from placement_engine.domain.hosting_value import Mix, Room
from placement_engine.domain.model import WHOLE_DEVICE

__all__ = ["SampledFill"]

SEQUENCES = 32
DRAWS = 64


class SampledFill:
    """Mean over SEQUENCES drawn with `seed`; states that were seen are remembered."""

    def __init__(self, mix: Mix, seed: int = 0) -> None:
        self._seen: dict[bytes, float] = {}
        self._cpu, self._memory = mix.column("cpu"), mix.column("memory")
        self._count, self._milli = mix.column("devices").astype(np.int64), mix.column("milli").astype(np.int64)
        dice = np.random.default_rng([seed, mix.allowed.shape[1]])
        order = np.lexsort((self._cpu, mix.column("total_milli")))
        self._drawn = []
        for model in range(mix.allowed.shape[1]):
            # Each position is drawn from as many strata of the mix as there are sequences: every sequence another.
            weight = np.cumsum((np.array(mix.shares) * mix.allowed[:, model])[order])
            strata = dice.permuted(np.tile(np.arange(SEQUENCES), (DRAWS, 1)), axis=1).T
            at = (strata + dice.random(strata.shape)) / SEQUENCES * (weight[-1] if weight.size else 0.0)
            drawn = np.minimum(np.searchsorted(weight, at), max(weight.size - 1, 0))
            self._drawn.append(order[drawn] if weight.size and weight[-1] > 0 else None)

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
        return np.array([self._seen[key] for key in keys])

    def _filled(self, model: int, left: np.ndarray, cpu: Floats, memory: Floats) -> Floats:  # type: ignore[type-arg]
        """Rows of one model; left: (k, slots)."""
        drawn = self._drawn[model]
        width = int((left > 0).sum(axis=1).max(initial=0))
        if drawn is None or not width:
            return np.zeros(left.shape[0])
        rows = left.shape[0]
        left = np.repeat(left[:, :width], SEQUENCES, axis=0)
        before = left.sum(axis=1)
        cpu, memory = (np.repeat(one.astype(np.float64), SEQUENCES) for one in (cpu, memory))
        sequence = np.tile(np.arange(SEQUENCES), rows)
        for draw in range(DRAWS):
            kind = drawn[:, draw][sequence]
            milli, count = self._milli[kind], self._count[kind]
            able = np.flatnonzero((cpu >= self._cpu[kind]) & (memory >= self._memory[kind]))
            holds = left[able] >= milli[able, None]
            enough = np.count_nonzero(holds, axis=1) >= count[able]
            able, holds = able[enough], holds[enough]
            if not able.size:
                continue
            kind, milli, count = kind[able], milli[able], count[able]
            mine = np.where(holds, left[able], WHOLE_DEVICE + 1)
            device = mine.argmin(axis=1)
            left[able, device] -= milli
            several = np.flatnonzero(count > 1)
            for at in several.tolist():
                row = able[at]
                left[row, np.flatnonzero(holds[at])[: count[at]]] = 0
            cpu[able] -= self._cpu[kind]
            memory[able] -= self._memory[kind]
        filled: Floats = (before - left.sum(axis=1)).reshape(rows, SEQUENCES).mean(axis=1)
        return filled
