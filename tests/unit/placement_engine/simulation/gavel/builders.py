"""Small tables and job lists."""

from collections.abc import Mapping, Sequence

import numpy as np

from placement_engine.simulation.gavel.policies import Plan, Setting, View
from placement_engine.simulation.gavel.replay import Row, replay
from placement_engine.simulation.gavel.trace import Cluster, Table, Workload

Schedule = list[tuple[float, dict[int, str]]]


def table(
    rates: Mapping[tuple[str, int], Sequence[float]], pairs: Mapping[tuple[int, int], float] | None = None
) -> Table:
    """`pairs`: by two shapes the rate of the first beside the second, the same on every kind."""
    alone = np.array(list(rates.values()), dtype=np.float64)
    paired = np.zeros((len(rates), *alone.shape))
    for (one, other), rate in (pairs or {}).items():
        paired[one, other] = rate
    return Table(tuple(rates), alone, paired)


def setting(rates: Table, devices: Mapping[str, int], *, round_s: float = 10.0, share: bool = False) -> Setting:
    return Setting(rates, Cluster(tuple(devices), tuple(devices.values())), round_s, share)


def workload(rates: Table, jobs: Sequence[tuple[float, int, float]]) -> Workload:
    """Jobs as (arrival, shape, steps)."""
    arrival, shape, steps = (np.array(column) for column in zip(*jobs, strict=True))
    scale = np.array([rates.shapes[one][1] for one in shape.tolist()])
    return Workload(arrival.astype(np.float64), shape, scale, steps.astype(np.float64))


def run(policy: str, jobs: Workload, where: Setting, window: tuple[int, int] | None = None) -> tuple[Row, Schedule]:
    """The row, and for each round its start and the kind of each job that ran; `a+` where devices were shared."""
    schedule: Schedule = []

    def see(view: View, plan: Plan) -> None:
        names = where.cluster.kinds
        schedule.append((view.now, {
            job: names[kind] + "+" * (partner >= 0)
            for job, kind, partner in zip(view.jobs.tolist(), plan.kind.tolist(), plan.partner.tolist(), strict=True)
            if kind >= 0
        }))  # fmt: skip

    row = replay(jobs, where, policy, window or (0, jobs.arrival.size - 1), observe=see)
    return row, schedule
