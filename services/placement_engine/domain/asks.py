"""From a job's shape to what it means on every accelerator of the fleet."""

import math
from dataclasses import replace

import numpy as np

from placement_engine.domain.columns import Floats
from placement_engine.domain.estimates import Estimate, duration_on
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, Expectation, Job
from placement_engine.domain.partitions import Cuts, cut, cuts_of, milli_of
from placement_engine.domain.shapes import Ask, Shape

NEUTRAL = 0.5


def make_ask(fleet: Fleet, shape: Shape) -> Ask:
    """Valid until profiles, catalogue, executors or the counts of models change."""
    models = fleet.models
    size = len(models)
    allowed = np.array(
        [models.admits(m, shape.models, shape.classes, shape.stacks) for m in range(size)], dtype=np.bool_
    )
    memory, watts, scarcity = np.zeros(size), np.zeros(size), np.zeros(size)
    objective = np.full(size, NEUTRAL)
    known, meets = np.zeros(size, dtype=np.bool_), np.ones(size, dtype=np.bool_)
    if not shape.needs_devices:
        bit = fleet.executor_bit(shape.executor)
        return Ask(shape, bit, allowed, memory, watts, known.copy(), objective, known, meets, meets, scarcity)
    candidates = [m for m in range(size) if allowed[m] and models.counts[m] > 0]
    estimates = [models.estimator.estimate(shape.workload, models.names[m], shape.gang_devices) for m in candidates]
    values = models.estimator.objective_values(shape.objective, estimates, shape.gang_devices)
    most = max(models.counts)
    for m, estimate, value in zip(candidates, estimates, values, strict=True):
        memory[m] = shape.share_bytes or shape.device_memory or estimate.memory_bytes or 0
        watts[m] = estimate.peak_watts or 0.0
        if value is not None:
            objective[m], known[m] = round(value, 6), True
        latency = estimate.latency_seconds
        if shape.latency_target is not None and latency is not None:
            meets[m] = latency <= shape.latency_target
        if not shape.models:
            scarcity[m] = 1.0 - models.counts[m] / most
    milli, cuts = _divide(fleet, shape, memory) if shape.by_model else (None, None)
    # In whole W, rounded up, as claims count it.
    watts = np.ceil(watts * (shape.fraction if milli is None else milli / WHOLE_DEVICE))
    return Ask(
        shape=shape,
        executor_bit=fleet.executor_bit(shape.executor),
        allowed=allowed,
        memory=memory,
        watts=watts,
        watts_known=watts > 0,
        objective=objective,
        objective_known=known,
        meets_latency=meets,
        in_time=np.ones(size, dtype=np.bool_),
        scarcity=scarcity,
        milli=milli,
        cuts=cuts,
    )


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
    for m, name in enumerate(models.names):
        entry = models.estimator.accelerator(name)
        one = cut(entry.partitions, shape.partition) if entry else None
        if one is not None and memory[m] > one.partition.memory_bytes > 0:
            one = None  # too small for the work
        if one is not None:
            milli[m], memory[m] = milli_of(one.partition), one.partition.memory_bytes
        found.append(one)
    return milli, cuts_of(found)


def with_deadline(fleet: Fleet, ask: Ask, job: Job, now: float) -> Ask:
    """The ask with the accelerators struck out on which the job would end too late.

    Only what a profile or the roofline scales from the declared duration is struck out.
    """
    if job.deadline is None or job.expected_duration_seconds is None or not job.workload:
        return ask
    estimates, fastest = estimates_of(fleet, ask)
    in_time = ask.in_time.copy()
    for m, estimate in estimates.items():
        seconds, _ = duration_on(estimate, fastest, job.expected_duration_seconds)
        in_time[m] = not (estimate.speed and seconds is not None and now + seconds > job.deadline)
    return replace(ask, in_time=in_time)


def estimates_of(fleet: Fleet, ask: Ask) -> tuple[dict[int, Estimate], float | None]:
    """Estimate per present model that the ask allows, and the highest speed among them."""
    shape, models = ask.shape, fleet.models
    found = {
        m: models.estimator.estimate(shape.workload, models.names[m], shape.gang_devices)
        for m in range(len(ask.allowed))
        if ask.allowed[m] and models.counts[m] > 0
    }
    return found, max((e.speed for e in found.values() if e.speed), default=None)


def expectation(fleet: Fleet, ask: Ask, job: Job, model: int) -> Expectation:
    devices = job.replicas * ask.shape.slots
    if not ask.shape.needs_devices:
        duration = job.expected_duration_seconds
        estimate = fleet.models.estimator.estimate("", "", 1)
        return fleet.models.estimator.expectation(estimate, None, "", 0, duration)
    estimates, fastest = estimates_of(fleet, ask)
    return fleet.models.estimator.expectation(
        estimates[model], fastest, fleet.models.names[model], devices, job.expected_duration_seconds
    )
