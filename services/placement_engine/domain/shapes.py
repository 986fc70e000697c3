"""What a member of a gang demands, apart from whose it is: jobs of one shape share their scores."""

from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import Bools, Floats, Ints
from placement_engine.domain.model import WHOLE_DEVICE, Job, Objective
from placement_engine.domain.partitions import Cuts


@dataclass(frozen=True, slots=True)
class Shape:
    """One member's demand: `whole` devices, or `milli` of one, or `share_bytes` of one's memory, or a `partition`
    of one, or none of these: CPU only."""

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
    share_bytes: int = 0
    partition: str = ""

    @property
    def needs_devices(self) -> bool:
        return self.whole > 0 or self.milli > 0 or self.by_model

    @property
    def by_model(self) -> bool:
        """A share or partition: its thousandths differ by model, and are in `Ask.milli`."""
        return self.share_bytes > 0 or bool(self.partition)

    @property
    def slots(self) -> int:
        """Devices a member sits on."""
        return self.whole if self.whole else int(self.needs_devices)

    @property
    def milli_per_device(self) -> int:
        """Of whole devices and fractions; 0 for a share or partition."""
        return WHOLE_DEVICE if self.whole else self.milli

    @property
    def fraction(self) -> float:
        return self.milli_per_device / WHOLE_DEVICE


def shape_of(job: Job) -> Shape:
    divided = not job.devices and not job.device_milli
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
        share_bytes=job.device_share_bytes if divided and not job.partition else 0,
        partition=job.partition if divided else "",
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
    scarcity: Floats
    """0..1, how rare a model is; 0 for jobs that name models."""
    milli: Floats | None = None
    """Thousandths of a device on each model; None: `shape.milli_per_device` on all of them."""
    cuts: Cuts | None = None
    """What the partition means on each model; None: the shape is no partition."""

    def fraction(self, model: Ints) -> Floats | float:
        """Part of a device that a member takes, for rows of these models."""
        return self.shape.fraction if self.milli is None else self.milli.take(model) / WHOLE_DEVICE

    @property
    def time_bound(self) -> bool:
        return not bool(np.all(self.in_time))
