"""The Gavel protocol: jobs arrive for ever and are planned anew at each round; what is measured is a window of jobs."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from placement_engine.simulation.gavel.policies import POLICIES, Plan, Policy, Setting, View
from placement_engine.simulation.gavel.trace import Floats, Ints, Workload

__all__ = ["COLUMNS", "Row", "replay"]

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Row:
    """How the jobs of the window fared.

    `mean_jct_hours`, `p99_jct_hours`: from arrival to completion. `makespan_hours`: from the first arrival of all jobs
    to the last completion in the window. `utilisation`: device-seconds in which a job ran, of all device-seconds of
    the makespan; a shared device counts once. `worst_finish_time_fairness`: the largest rho of Themis (NSDI'20), the
    completion time over that with a private 1/n of every kind, n being the mean number of unfinished jobs while the
    job was there; above 1: worse off than alone.
    """

    policy: str
    mean_jct_hours: float
    p99_jct_hours: float
    makespan_hours: float
    utilisation: float
    worst_finish_time_fairness: float


COLUMNS = tuple(field.name for field in fields(Row))


def replay(
    workload: Workload,
    setting: Setting,
    policy: str,
    window: tuple[int, int],
    *,
    progress: Callable[[float], None] = lambda share: None,
    observe: Callable[[View, Plan], None] = lambda view, plan: None,
) -> Row:
    """Runs until every job from the first to the last of `window` has ended. `observe` sees every plan."""
    first, last = window
    chooser = POLICIES[policy](setting)
    finish, census, busy = _run(workload, setting, chooser, window, progress, observe)
    jct = (finish - workload.arrival)[first : last + 1]
    makespan = finish[first : last + 1].max() - workload.arrival[0]
    alone = isolated_seconds(workload, setting, census)[first : last + 1]
    return Row(
        policy,
        float(jct.mean() / HOUR),
        float(np.percentile(jct, 99) / HOUR),
        float(makespan / HOUR),
        float(busy / (setting.cluster.size * makespan)),
        float((jct / alone).max()),
    )


def isolated_seconds(workload: Workload, setting: Setting, census: Floats) -> Floats:
    """Seconds that each job needs with a private 1/n of every kind, n = `census`; it runs on one kind at a time."""
    devices = np.array(setting.cluster.devices, dtype=np.float64)
    # A job cannot use more than its scale factor: its time is then split in proportion.
    time_share = devices / np.maximum(devices.sum(), census * workload.scale)[:, None]
    seconds: Floats = workload.steps / (setting.table.alone[workload.shape] * time_share).sum(axis=1)
    return seconds


def _run(
    workload: Workload,
    setting: Setting,
    chooser: Policy,
    window: tuple[int, int],
    progress: Callable[[float], None],
    observe: Callable[[View, Plan], None],
) -> tuple[Floats, Floats, float]:
    """Completion times (nan: not ended), mean number of unfinished jobs over each job's rounds, busy device-seconds."""
    first, last = window
    count = workload.arrival.size
    done, finish = np.zeros(count), np.full(count, np.nan)
    crowd, rounds = np.zeros(count), np.zeros(count)
    live: Ints = np.empty(0, dtype=np.int64)
    now, busy, coming, left = float(workload.arrival[0]), 0.0, 0, last - first + 1
    while left:
        # 1. Arrivals; with nothing to run, time jumps to the next.
        if not live.size and coming < count:
            now = max(now, float(workload.arrival[coming]))
        arrived = coming
        while arrived < count and workload.arrival[arrived] <= now:
            chooser.arrived(arrived, int(workload.shape[arrived]), int(workload.scale[arrived]), now)
            arrived += 1
        live, coming = np.concatenate([live, np.arange(coming, arrived)]), arrived
        # 2. The plan.
        view = View(
            now, live, workload.shape[live], workload.scale[live], workload.arrival[live], done[live],
            (workload.steps - done)[live] if chooser.knows_durations else np.empty(0),
        )  # fmt: skip
        plan = chooser.plan(view)
        observe(view, plan)
        # 3. The round: a job that ends leaves its devices idle until the next.
        rate = rates(setting, view, plan)
        with np.errstate(divide="ignore"):
            need = np.where(rate > 0, (workload.steps - done)[live] / rate, np.inf)
        ends = need <= setting.round_s
        seconds = np.where(rate > 0, np.minimum(need, setting.round_s), 0.0)
        shared = np.where(plan.partner >= 0, np.maximum(seconds, seconds[plan.partner]), seconds)
        leads = (plan.kind >= 0) & ((plan.partner < 0) | (np.arange(live.size) < plan.partner))
        busy += float((shared * view.scale)[leads].sum())
        crowd[live] += live.size
        rounds[live] += 1
        done[live] += rate * seconds
        finish[live[ends]] = now + need[ends]
        for at in np.flatnonzero(leads).tolist():
            other = int(plan.partner[at])
            chooser.ran(int(live[at]), int(plan.kind[at]), int(live[other]) if other >= 0 else -1, float(shared[at]))
        # 4. Completions.
        for job in live[ends].tolist():
            chooser.completed(job, int(workload.shape[job]), float(workload.steps[job]))
            left -= first <= job <= last
        live = live[~ends]
        now += setting.round_s
        progress(0.9 * min(coming / (last + 1), 1.0) + 0.1 * (1 - left / (last - first + 1)))
    return finish, crowd / np.maximum(rounds, 1), busy


def rates(setting: Setting, view: View, plan: Plan) -> Floats:
    """Steps a second of each job of the view under the plan; 0 where it waits."""
    table = setting.table
    alone = table.alone[view.shape, plan.kind]
    if setting.share:
        paired = table.paired[view.shape, view.shape[plan.partner], plan.kind]
        alone = np.where(plan.partner >= 0, paired, alone)
    rate: Floats = np.where(plan.kind >= 0, alone, 0.0)
    return rate
