"""Held-out variants of a list of tasks, named as openb names its own: one property shifted, the rest as it was.

| name | what becomes the number | drawn anew, with replacement | kept |
|---|---|---|---|
| multigpu20 | % of the milli asked for that tasks of several devices ask for | those tasks | all others |
| gpushare40 | % of the milli asked for that shares of a device are | all that ask for devices | their number |
| gpuspec10 | % of the tasks with devices that demand a model | all that ask for devices | their number |
| cpu250 | CPU-only tasks, tenths of a % of all tasks | those tasks | all others |

So the published lists are made, as their counts and the labels of the paper's figures tell; each seed draws others.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from berth.errors import InvalidInput
from placement_engine.simulation.openb.trace import TaskClass, Workload

__all__ = ["PROPERTIES", "varied"]

Dice = np.random.Generator


def varied(workload: Workload, name: str, seed: int) -> Workload:
    """The variant of that name, such as `multigpu50`. The same seed draws the same tasks. Raises InvalidInput."""
    found = re.fullmatch(r"([a-z]+)([0-9]{1,3})", name)
    if found is None or found[1] not in PROPERTIES:
        names = ", ".join(f"{one}NUMBER" for one in PROPERTIES)
        raise InvalidInput.of("--variant", name, f"one of {names}, such as multigpu50")
    shifted, full = PROPERTIES[found[1]]
    share = int(found[2]) / full
    if share > 1.0:
        raise InvalidInput.of("--variant", name, f"a share: {found[1]}0 to {found[1]}{full}")
    tasks = shifted(workload, share, np.random.default_rng([seed, full, *map(ord, found[1])]), name)
    if not any(workload.classes[index].devices for index in tasks):
        raise InvalidInput.of("--variant", name, "no task would ask for a device: a smaller number")
    counts = np.bincount(tasks, minlength=len(workload.classes))
    return replace(workload, shares=tuple((counts / len(tasks)).tolist()), tasks=tuple(tasks))


def _several(workload: Workload, share: float, dice: Dice, name: str) -> list[int]:
    mine, others = _sides(workload, name, lambda task: task.devices > 1, lambda task: task.devices <= 1)
    # The others' requests are what is left of the whole.
    wanted = _milli(workload, others) * share / (1.0 - share) if share < 1.0 else float(_milli(workload, mine))
    kept = others if share < 1.0 else [index for index in others if not workload.classes[index].devices]
    mean = _milli(workload, mine) / len(mine)
    return kept + _drawn(mine, wanted / mean, dice)


def _shared(workload: Workload, share: float, dice: Dice, name: str) -> list[int]:
    mine, others = _sides(
        workload, name, lambda task: task.fraction, lambda task: task.devices > 0 and not task.fraction
    )
    # So many of the n tasks that their milli are the share: s k = share (s k + w (n - k)).
    small, whole = _milli(workload, mine) / len(mine), _milli(workload, others) / len(others)
    of_tasks = share * whole / (small - share * (small - whole))
    number = round(of_tasks * (len(mine) + len(others)))
    without = [index for index in workload.tasks if not workload.classes[index].devices]
    return without + _drawn(mine, number, dice) + _drawn(others, len(mine) + len(others) - number, dice)


def _demanding(workload: Workload, share: float, dice: Dice, name: str) -> list[int]:
    mine, others = _sides(
        workload, name, lambda task: bool(task.models), lambda task: task.devices > 0 and not task.models
    )
    number = round(share * (len(mine) + len(others)))
    without = [index for index in workload.tasks if not workload.classes[index].devices]
    return without + _drawn(mine, number, dice) + _drawn(others, len(mine) + len(others) - number, dice)


def _without_devices(workload: Workload, share: float, dice: Dice, name: str) -> list[int]:
    mine, others = _sides(workload, name, lambda task: not task.devices, lambda task: task.devices > 0)
    return others + _drawn(mine, len(others) * share / max(1.0 - share, 1e-9), dice) if share < 1.0 else mine


PROPERTIES: dict[str, tuple[Callable[[Workload, float, Dice, str], list[int]], int]] = {
    "multigpu": (_several, 100),
    "gpushare": (_shared, 100),
    "gpuspec": (_demanding, 100),
    "cpu": (_without_devices, 1000),
}
"""How each property is shifted, and the number that stands for all."""


def _sides(
    workload: Workload, name: str, mine: Callable[[TaskClass], bool], others: Callable[[TaskClass], bool]
) -> tuple[list[int], list[int]]:
    """The tasks with the property and those that are weighed against it; neither is empty."""
    tasks = [(index, workload.classes[index]) for index in workload.tasks]
    found = [index for index, task in tasks if mine(task)], [index for index, task in tasks if others(task)]
    for side, what in zip(found, ("has", "lacks"), strict=True):
        if not side:
            raise InvalidInput.of("--variant", name, f"no task of the list {what} that property: give another --pods")
    return found


def _drawn(tasks: list[int], number: float, dice: Dice) -> list[int]:
    return np.array(tasks)[dice.integers(0, len(tasks), size=round(number))].tolist()  # type: ignore[no-any-return]


def _milli(workload: Workload, tasks: list[int]) -> int:
    return sum(workload.classes[index].total_milli for index in tasks)
