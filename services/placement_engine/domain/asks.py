"""From a job's shape to what it means on every accelerator of the fleet."""

import math
from dataclasses import replace

import numpy as np

from placement_engine.domain.columns import Floats
from placement_engine.domain.estimates import Estimate
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, Expectation, Job, Provenance
from placement_engine.domain.outlook import NEUTRAL, NOTHING_KNOWN, Option, Outlook, counts_between, too_slow
from placement_engine.domain.partitions import Cuts, cut, cuts_of, milli_of
from placement_engine.domain.shapes import Ask, Shape


def make_ask(fleet: Fleet, shape: Shape) -> Ask:
    """Valid until profiles, catalogue, executors, the counts of models or `fleet.selection` change."""
    models = fleet.models
    size = len(models)
    allowed = np.array(
        [
            models.admits(m, shape.models, shape.classes, shape.stacks) and models.cuts[m] in ("", shape.partition)
            for m in range(size)
        ],
        dtype=np.bool_,
    )
    memory, watts = np.zeros(size), np.zeros(size)
    objective = np.full(size, NEUTRAL)
    known, meets = np.zeros(size, dtype=np.bool_), np.ones(size, dtype=np.bool_)
    reach = fleet.selection.reach(shape.nodes)
    if not shape.needs_devices:
        bit = fleet.executor_bit(shape.executor)
        return Ask(shape, bit, allowed, memory, watts, objective, known, meets, meets, reach=reach)
    candidates = [m for m in range(size) if allowed[m] and models.counts[m] > 0]
    outlook = _outlook(fleet, shape, candidates)
    for m in candidates:
        option = (shape.whole, m)
        estimate, value = outlook.estimates[option], outlook.values.get(option)
        memory[m] = shape.share_bytes or shape.device_memory or estimate.memory_bytes or 0
        watts[m] = estimate.peak_watts or 0.0
        if value is not None:
            objective[m], known[m] = value, True
        meets[m] = option not in outlook.too_slow
    milli, cuts = _divide(fleet, shape, memory) if shape.by_model else (None, None)
    # In whole W, rounded up, as claims count it.
    watts = np.ceil(watts * (shape.fraction if milli is None else milli / WHOLE_DEVICE))
    return Ask(
        shape=shape,
        executor_bit=fleet.executor_bit(shape.executor),
        allowed=allowed,
        memory=memory,
        watts=watts,
        objective=objective,
        objective_known=known,
        meets_latency=meets,
        in_time=np.ones(size, dtype=np.bool_),
        models=fleet.models.names,
        outlook=outlook,
        milli=milli,
        cuts=cuts,
        reach=reach,
        trait_sets=models.traits,
    )


def _outlook(fleet: Fleet, shape: Shape, candidates: list[int]) -> Outlook:
    names, estimator = fleet.models.names, fleet.models.estimator
    estimates: dict[Option, Estimate] = {}
    impossible: set[Option] = set()
    for count in counts_of(fleet, shape):
        devices = shape.members * max(1, count)
        for m in candidates:
            estimates[count, m] = found = estimator.estimate(shape.workload, names[m], devices, shape.character)
            entry, need = estimator.accelerator(names[m]), shape.device_memory or found.memory_bytes or 0
            small = entry is not None and entry.memory_bytes is not None and need > entry.memory_bytes
            if small or fleet.models.counts[m] < shape.members * count:
                impossible.add((count, m))
    target = math.inf if shape.latency_target is None else shape.latency_target
    slow, by_mean = too_slow(estimates, impossible, target)
    impossible |= slow
    possible = [option for option in estimates if option not in impossible]
    values = estimator.objective_values(
        shape.objective, [(estimates[option], shape.members * max(1, option[0])) for option in possible]
    )
    return Outlook(
        estimates=estimates,
        values={option: round(v, 6) for option, v in zip(possible, values, strict=True) if v is not None},
        least=shape.least,
        impossible=frozenset(impossible),
        too_slow=slow,
        latency_by_mean=by_mean,
    )


def counts_of(fleet: Fleet, shape: Shape) -> tuple[int, ...]:
    """Numbers of whole devices that a member may get, ascending, thinned out to a few."""
    if not shape.flexible:
        return (shape.whole,)
    measured = fleet.models.estimator.measured_counts(shape.workload)
    return counts_between(shape.least, shape.most, [n // shape.members for n in measured if n % shape.members == 0])


def _divide(fleet: Fleet, shape: Shape, memory: Floats) -> tuple[Floats, Cuts | None]:
    """Thousandths of a device of each model that a share or partition is, and the partition's tables.

    `memory`: what the work needs on each model; replaced by what the partition has. A share's thousandths go by
    the model's nominal size here, and by the size of the very device where it is placed.
    """
    models = fleet.models
    milli = np.zeros(len(models))
    if not shape.partition:
        for m, name in enumerate(models.names):
            entry = models.estimator.accelerator(name)
            total = (entry.memory_bytes if entry else None) or models.sizes[m]
            milli[m] = min(WHOLE_DEVICE, math.ceil(shape.share_bytes * WHOLE_DEVICE / total)) if total else 0
        return milli, None
    found = []
    for m in range(len(models)):
        one = cut(models.partitions_of(m), shape.partition)
        if one is not None and memory[m] > one.partition.memory_bytes > 0:
            one = None  # too small for the work
        if one is not None:
            milli[m], memory[m] = milli_of(one.partition), one.partition.memory_bytes
        found.append(one)
    return milli, cuts_of(found)


def with_deadline(fleet: Fleet, ask: Ask, job: Job, now: float) -> Ask:
    """The ask with the accelerators struck out on which the job would end too late.

    Only what a profile or the roofline tells is struck out.
    """
    if job.deadline is None or ask.outlook is NOTHING_KNOWN:
        return ask
    work = ask.outlook.work(job.expected_duration_seconds)
    if work is None:
        return ask
    met, by_mean, too_late = ask.outlook.in_time(now, job.deadline, work)
    in_time = ask.in_time.copy()
    for (count, model), meets in met.items():
        if count == ask.shape.whole:
            in_time[model] = meets
    return replace(ask, in_time=in_time, deadline_by_mean=by_mean, too_late=too_late)


def expectation(fleet: Fleet, ask: Ask, job: Job, model: int) -> Expectation:
    if not ask.shape.needs_devices:
        duration = job.expected_duration_seconds
        provenance = Provenance.UNKNOWN if duration is None else Provenance.DECLARED
        return Expectation("", 0, duration, provenance=provenance)
    return ask.outlook.expectation(
        (ask.shape.whole, model),
        fleet.models.names[model],
        job.replicas,
        ask.shape.slots,
        job.expected_duration_seconds,
    )
