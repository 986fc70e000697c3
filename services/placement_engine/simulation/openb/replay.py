"""The openb protocol: arrivals drawn from the trace with a seed, no departures, no retries, no migration."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from placement_engine.simulation.openb.policies import POLICIES
from placement_engine.simulation.openb.power import PowerModel
from placement_engine.simulation.openb.state import State
from placement_engine.simulation.openb.trace import Node, Workload

__all__ = ["Row", "arrivals", "means", "renamed", "replay"]

MOST_ARRIVALS = 1.3


@dataclass(frozen=True, slots=True)
class Row:
    """How a policy stood once the requests of devices reached `arrival` times the fleet's capacity.

    `failed_pods`: tasks so far that fitted nowhere. `power_kw`: None where a model's power is not known.
    `decisions_per_second`: so far, by the wall clock. `failed_cpu_pods`: those of the failed that ask for no device.
    """

    policy: str
    seed: int
    arrival: float
    allocation_percent: float
    failed_pods: int
    power_kw: float | None
    decisions_per_second: float
    failed_cpu_pods: int = 0


def renamed(nodes: Sequence[Node], seed: int) -> list[Node]:
    """The nodes in the order of random names: ties go to the first."""
    order = np.random.default_rng([seed, 1]).permutation(len(nodes))
    return [nodes[index] for index in order]


def arrivals(workload: Workload, seed: int, capacity: int) -> Iterator[int]:
    """Classes of the tasks as they come: shuffled, then drawn with replacement up to 1.3 x the capacity in milli."""
    dice = np.random.default_rng([seed, 0])
    tasks = np.array(workload.tasks)
    dice.shuffle(tasks)
    requested = 0
    while requested < MOST_ARRIVALS * capacity:
        for index in tasks[dice.integers(0, tasks.size, size=1024)].tolist():
            yield index
            requested += workload.classes[index].total_milli
            if requested >= MOST_ARRIVALS * capacity:
                return


def replay(
    nodes: Sequence[Node],
    workload: Workload,
    policy: str,
    seed: int,
    marks: Sequence[float],
    *,
    progress: Callable[[float], None] = lambda share: None,
    observe: Callable[[State, int, int, int], None] = lambda state, index, node, device: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """A row for each of the marks, ascending. `observe` sees every placement. Raises InvalidInput from the policy."""
    state = State(renamed(nodes, seed))
    chooser = POLICIES[policy](state, workload, seed)
    power = PowerModel(state)
    waiting = sorted(set(marks), reverse=True)
    rows: list[Row] = []
    requested = failed = failed_cpu = 0
    begin = clock()
    for decisions, index in enumerate(arrivals(workload, seed, state.capacity), start=1):
        task = workload.classes[index]
        chooser.arrived(requested / state.capacity)
        choice = chooser.choose(index)
        if choice is None:
            failed += 1
            failed_cpu += not task.devices
        else:
            state.place(task, *choice)
            chooser.placed(choice[0])
            observe(state, index, *choice)
        requested += task.total_milli
        if decisions % 256 == 0:
            progress(requested / state.capacity)
        while waiting and requested >= waiting[-1] * state.capacity:
            rows.append(
                Row(
                    policy=policy,
                    seed=seed,
                    arrival=waiting.pop(),
                    allocation_percent=round(100 * state.allocated() / state.capacity, 4),
                    failed_pods=failed,
                    power_kw=power.kilowatts(),
                    decisions_per_second=round(decisions / max(clock() - begin, 1e-9), 1),
                    failed_cpu_pods=failed_cpu,
                )
            )
        if not waiting:
            break
    return rows


def means(rows: Sequence[Row]) -> list[dict[str, str | float | None]]:
    """Mean over the seeds of each policy and arrival, in the order of the rows."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.policy, row.arrival), []).append(row)
    found: list[dict[str, str | float | None]] = []
    for (policy, arrival), group in groups.items():
        watts = [row.power_kw for row in group if row.power_kw is not None]
        found.append(
            {
                "policy": policy,
                "arrival": arrival,
                "allocation_percent": round(sum(row.allocation_percent for row in group) / len(group), 4),
                "power_kw": round(sum(watts) / len(watts), 3) if len(watts) == len(group) else None,
            }
        )
    return found
