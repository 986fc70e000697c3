"""What a member of a gang demands, apart from whose it is: jobs of one shape share their scores."""

from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import Bools, Floats
from placement_engine.domain.model import WHOLE_DEVICE, Job, Objective


@dataclass(frozen=True, slots=True)
class Shape:
    """One member's demand. `whole` devices, or `milli` of one device, or neither: CPU only."""

    whole: int
    milli: int
    device_memory: int
    cpu_milli: int
    memory: int
    models: tuple[str, ...]
    classes: tuple[str, ...]
    stacks: tuple[str, ...]
    executor: str
    workload: str
    objective: Objective
    latency_target: float | None
    gang_devices: int
    """Devices of the whole gang, at least 1: a profile is picked by it."""

    @property
    def needs_devices(self) -> bool:
        return self.whole > 0 or self.milli > 0

    @property
    def slots(self) -> int:
        """Devices a member sits on."""
        return self.whole if self.whole else int(self.milli > 0)

    @property
    def milli_per_device(self) -> int:
        return WHOLE_DEVICE if self.whole else self.milli

    @property
    def fraction(self) -> float:
        return self.milli_per_device / WHOLE_DEVICE


def shape_of(job: Job) -> Shape:
    return Shape(
        whole=job.devices,
        milli=0 if job.devices else job.device_milli,
        device_memory=job.device_memory_bytes,
        cpu_milli=job.cpu_milli,
        memory=job.memory_bytes,
        models=job.models,
        classes=job.classes,
        stacks=job.stacks,
        executor=job.executor,
        workload=job.workload,
        objective=job.objective,
        latency_target=job.latency_target_seconds,
        gang_devices=max(1, job.replicas * max(1, job.devices)),
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """A shape with what it means on each accelerator; arrays are indexed by the fleet's model id."""

    shape: Shape
    executor_bit: int
    """Mask on the executors column; 0 accepts all, -1 is an executor that no node has."""
    allowed: Bools
    memory: Floats
    """Bytes a device must have free."""
    watts: Floats
    """Peak draw on one device for this share, W; 0 where unknown."""
    watts_known: Bools
    objective: Floats
    """0..1, 1 the best accelerator of the fleet for the objective, 0.5 where nothing is known."""
    objective_known: Bools
    meets_latency: Bools
    in_time: Bools
    """False where a profile tells that the deadline cannot be met."""

    @property
    def time_bound(self) -> bool:
        return not bool(np.all(self.in_time))
