"""Variants of a list of tasks: the shifted property has the share of the name, what is kept is as it was."""

from collections import Counter
from collections.abc import Callable

import pytest

from berth.errors import InvalidInput
from placement_engine.simulation.openb.trace import TaskClass, Workload
from placement_engine.simulation.openb.variants import varied

CPU, BIG_CPU = TaskClass(1, 1, 0, 0, ()), TaskClass(32, 1, 0, 0, ())
THIRD, WHOLE, ONLY = TaskClass(1, 1, 1, 300, ()), TaskClass(1, 1, 1, 1000, ()), TaskClass(1, 1, 1, 1000, ("T4",))
TWO, EIGHT = TaskClass(1, 1, 2, 1000, ()), TaskClass(1, 1, 8, 1000, ())
COUNTS = {CPU: 60, BIG_CPU: 40, THIRD: 400, WHOLE: 450, ONLY: 50, TWO: 60, EIGHT: 40}


def a_workload(counts: dict[TaskClass, int]) -> Workload:
    classes = tuple(sorted(counts))
    total = sum(counts.values())
    tasks = tuple(index for index, task in enumerate(classes) for _ in range(counts[task]))
    return Workload(classes, tuple(counts[task] / total for task in classes), tasks)


def drawn(name: str, seed: int = 1) -> Counter[TaskClass]:
    workload = varied(a_workload(COUNTS), name, seed)
    counts = Counter(workload.classes[index] for index in workload.tasks)
    assert workload.shares == tuple(counts[task] / counts.total() for task in workload.classes)
    return counts


def share(counts: Counter[TaskClass], of: Callable[[TaskClass], bool], weight: Callable[[TaskClass], int]) -> float:
    return sum(weight(task) * n for task, n in counts.items() if of(task)) / sum(
        weight(task) * n for task, n in counts.items()
    )


def milli(task: TaskClass) -> int:
    return task.total_milli


@pytest.mark.parametrize("percent", [20, 50, 90, 100])
def test_several_devices_make_the_share_of_the_milli_and_the_rest_is_kept(percent: int) -> None:
    counts = drawn(f"multigpu{percent}")
    assert share(counts, lambda task: task.devices > 1, milli) == pytest.approx(percent / 100, abs=0.03)
    kept = (CPU, BIG_CPU, THIRD, WHOLE, ONLY) if percent < 100 else (CPU, BIG_CPU)
    assert {task: counts[task] for task in kept} == {task: COUNTS[task] for task in kept}


@pytest.mark.parametrize("percent", [0, 40, 100])
def test_shares_of_a_device_make_the_share_of_the_milli_and_the_number_is_kept(percent: int) -> None:
    counts = drawn(f"gpushare{percent}")
    assert share(counts, lambda task: task.fraction, milli) == pytest.approx(percent / 100, abs=0.05)
    assert sum(n for task, n in counts.items() if task.devices) == 1000
    assert (counts[CPU], counts[BIG_CPU]) == (60, 40)


def test_demanded_models_and_cpu_only_tasks_are_shares_of_the_tasks() -> None:
    counts = drawn("gpuspec33")
    assert (counts[ONLY], sum(n for task, n in counts.items() if task.devices)) == (330, 1000)
    counts = drawn("cpu250")
    assert (counts.total(), counts[CPU] + counts[BIG_CPU], counts[EIGHT]) == (1333, 333, 40)


def test_the_seed_decides_which_tasks_are_drawn() -> None:
    assert drawn("multigpu50", 1) == drawn("multigpu50", 1) != drawn("multigpu50", 2)


@pytest.mark.parametrize("name", ["multigpu", "gpus50", "multigpu101", "cpu1000", "50", "gpushare-4"])
def test_a_name_that_is_no_variant_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        varied(a_workload(COUNTS), name, 1)
    assert [(error.field, error.value) for error in caught.value.errors] == [("--variant", name)]


def test_a_list_without_the_property_cannot_be_shifted() -> None:
    with pytest.raises(InvalidInput, match="no task of the list has that property"):
        varied(a_workload({WHOLE: 3}), "gpuspec10", 1)
