"""From a job's shape to what it means on every accelerator of the fleet."""

from dataclasses import replace

import numpy as np

from placement_engine.domain.estimates import Estimate, duration_on
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Expectation, Job
from placement_engine.domain.shapes import Ask, Shape

NEUTRAL = 0.5


def make_ask(fleet: Fleet, shape: Shape) -> Ask:
    """Valid until profiles, catalogue, executors or the counts of models change."""
    models = fleet.models
    size = len(models)
    allowed = np.array(
        [models.admits(m, shape.models, shape.classes, shape.stacks) for m in range(size)], dtype=np.bool_
    )
    memory, watts = np.zeros(size), np.zeros(size)
    objective = np.full(size, NEUTRAL)
    known, meets = np.zeros(size, dtype=np.bool_), np.ones(size, dtype=np.bool_)
    if not shape.needs_devices:
        bit = fleet.executor_bit(shape.executor)
        return Ask(shape, bit, allowed, memory, watts, known.copy(), objective, known, meets, meets)
    candidates = [m for m in range(size) if allowed[m] and models.counts[m] > 0]
    estimates = [models.estimator.estimate(shape.workload, models.names[m], shape.gang_devices) for m in candidates]
    values = models.estimator.objective_values(shape.objective, estimates, shape.gang_devices)
    for m, estimate, value in zip(candidates, estimates, values, strict=True):
        memory[m] = shape.device_memory or estimate.memory_bytes or 0
        watts[m] = (estimate.peak_watts or 0.0) * shape.fraction
        if value is not None:
            objective[m], known[m] = round(value, 6), True
        latency = estimate.latency_seconds
        if shape.latency_target is not None and latency is not None:
            meets[m] = latency <= shape.latency_target
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
    )


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
