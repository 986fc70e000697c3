"""What a member of a gang demands, apart from whose it is: jobs of one shape share their scores."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np

from placement_engine.domain.columns import Bools, Floats, Ints
from placement_engine.domain.model import WHOLE_DEVICE, Character, Job, MemberGroup, Objective
from placement_engine.domain.node_constraints import ANYWHERE, NodeConstraints, Taint
from placement_engine.domain.outlook import NOTHING_KNOWN, Outlook, TooLate
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
    character: Character | None = None
    least: int = 0
    """Whole devices that a member may get at least and at most: `whole` is one number between."""
    most: int = 0
    nodes: NodeConstraints = ANYWHERE
    traits: tuple[str, ...] = ()
    _hash: int = field(default=0, init=False, repr=False, compare=False)
    """Found when it is asked for first: shapes are looked up several times for each decision."""

    def __hash__(self) -> int:
        known = self._hash
        if not known:
            known = hash(tuple(getattr(self, name) for name in _COMPARED)) or 1
            object.__setattr__(self, "_hash", known)
        return known

    @property
    def members(self) -> int:
        return self.gang_devices // max(1, self.whole)

    @property
    def flexible(self) -> bool:
        return self.most > self.least

    def at(self, devices: int) -> "Shape":
        """The same demand with another number of whole devices a member."""
        return replace(self, whole=devices, gang_devices=self.members * max(1, devices))

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


_COMPARED = tuple(one.name for one in fields(Shape) if one.compare)


def least_replicas(job: Job) -> int:
    """The fewest members that a job of one shape starts with."""
    return min(job.min_replicas or job.replicas, job.replicas)


def least_milli(job: Job, member_milli: Callable[[Job], int]) -> int:
    """Thousandths of devices that a gang starts with at least. `member_milli`: of a member of a job of one shape."""
    return sum(least_replicas(one) * member_milli(one) for one in jobs_of(job))


def cut_to(job: Job, member_milli: Callable[[Job], int], admits: Callable[[int], bool]) -> Job:
    """The job with the wished sizes of its elastic groups cut, the last group first, until `admits` (thousandths
    of devices) says yes; at its least where it never does."""
    parts = jobs_of(job)
    sizes, each = [one.replicas for one in parts], [member_milli(one) for one in parts]

    def admitted(part: int, size: int) -> bool:
        wished = (*sizes[:part], size, *sizes[part + 1 :])
        return admits(sum(size * milli for size, milli in zip(wished, each, strict=True)))

    for part in reversed(range(len(parts))):
        if admitted(part, sizes[part]):
            break
        options = range(sizes[part], least_replicas(parts[part]) - 1, -1)
        sizes[part] = options[min(bisect_left(options, True, key=partial(admitted, part)), len(options) - 1)]
    if not job.groups:
        return replace(job, replicas=sizes[0], min_replicas=least_replicas(job))
    groups = zip(job.groups, sizes, strict=True)
    return replace(job, groups=tuple(replace(group, replicas=size) for group, size in groups))


def jobs_of(job: Job) -> tuple[Job, ...]:
    """A gang of several shapes as jobs of one shape each, in group order; of one shape: the job itself."""
    if not job.groups:
        return (job,)
    return tuple(_job_of(job, group) for group in job.groups)


def _job_of(job: Job, group: MemberGroup) -> Job:
    demand = {name: getattr(group, name) for name in _DEMAND}
    selectors = {name: getattr(group, name) or getattr(job, name) for name in _SELECTORS}
    nodes = job.nodes if group.nodes is None else group.nodes
    return replace(job, groups=(), max_devices=0, nodes=nodes, **demand, **selectors)


_SELECTORS = ("models", "classes", "stacks", "traits")
_DEMAND = tuple(f.name for f in fields(MemberGroup) if f.name not in ("name", "nodes", *_SELECTORS))


def lead_of(job: Job) -> int:
    """The group whose shape stands for the gang: the one with the most devices in all, the first of equals."""
    wished = [one.replicas * one.milli_per_member for one in jobs_of(job)]
    return wished.index(max(wished))


def lead_job(job: Job) -> Job:
    """The members of the lead group as a job of their own; of one shape: the job itself."""
    return jobs_of(job)[lead_of(job)] if job.groups else job


def gang_of(job: Job) -> tuple[object, ...]:
    """All that tells gangs of one shape apart when they are placed."""
    if job.replicas == 1 and not job.topology_level and not job.preferred_level and not job.groups:
        return ()
    return (
        job.replicas,
        job.min_replicas,
        job.groups,
        job.topology_level,
        job.topology_required,
        job.preferred_level,
        job.group_size,
        job.group_level,
    )


def shapes_of(job: Job) -> tuple[Shape, ...]:
    """The shape of each group, in order; of one shape: that one."""
    if not job.groups:
        return (shape_of(job),)
    parts = jobs_of(job)
    devices = max(1, sum(part.replicas * max(1, part.devices) for part in parts if part.milli_per_member))
    return tuple(replace(shape_of(part), gang_devices=devices) for part in parts)


def shape_of(job: Job) -> Shape:
    """Of a gang of several shapes: its lead group's."""
    if job.groups:
        return shapes_of(job)[lead_of(job)]
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
        character=job.character,
        least=job.devices,
        most=max(job.devices, job.max_devices) if job.devices else 0,
        share_bytes=job.device_share_bytes if divided and not job.partition else 0,
        partition=job.partition if divided else "",
        nodes=job.nodes,
        traits=job.traits,
    )


NO_TRAITS: Mapping[frozenset[str], int] = {frozenset(): 0}


@dataclass(frozen=True, slots=True)
class Reach:
    """Which nodes constraints allow, by node number; what lies beyond the arrays is not reached."""

    selected: Bools | None = None
    """None: every node."""
    barred: Ints | None = None
    """Place among `taints` of the one that keeps the work away, -1: none does. None: no taint does anywhere."""
    taints: tuple[Taint, ...] = ()

    def admits(self, node: int) -> bool:
        """Whether a member may sit on the node of that number."""
        return not (
            (self.selected is not None and not self.selected[min(node, len(self.selected) - 1)])
            or (self.barred is not None and self.barred[min(node, len(self.barred) - 1)] >= 0)
        )


EVERYWHERE = Reach()


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
    objective: Floats
    """0..1, 1 the best accelerator of the fleet for the objective, 0.5 where nothing is known."""
    objective_known: Bools
    meets_latency: Bools
    in_time: Bools
    """False where a profile tells that the deadline cannot be met."""
    within_quota: Bools | None = None
    """False where the queue's quotas leave no room now; None: everywhere there is. `in_time` has it too."""
    models: Sequence[str] = ()
    """Names of the fleet's models, for a person."""
    outlook: Outlook = NOTHING_KNOWN
    """Estimates of every number of devices that the job may get, on every model of the fleet."""
    deadline_by_mean: bool = False
    """No option's upper end meets the deadline, some means do."""
    too_late: TooLate | None = None
    """No number of devices on any model meets the deadline."""
    milli: Floats | None = None
    """Thousandths of a device on each model; None: `shape.milli_per_device` on all of them."""
    cuts: Cuts | None = None
    """What the partition means on each model; None: the shape is no partition."""
    reach: Reach = EVERYWHERE
    """Nodes that the shape's constraints allow."""
    trait_sets: Mapping[frozenset[str], int] = field(default_factory=lambda: NO_TRAITS, repr=False)
    """The fleet's own, which grows: number of each set of traits that a device had."""

    time_bound: bool = field(default=False, init=False, repr=False, compare=False)
    """Whether accelerators are struck out."""
    least_memory: Floats = field(init=False, repr=False, compare=False)
    least_watts: Floats = field(init=False, repr=False, compare=False)
    """`memory` and `watts` to compare with what there is: -inf where nothing is asked for."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "time_bound", not bool(self.in_time.all()))
        put(self, "least_memory", np.where(self.memory > 0, self.memory, -np.inf))
        put(self, "least_watts", np.where(self.watts > 0, self.watts, -np.inf))

    def fraction(self, model: Ints) -> Floats | float:
        """Part of a device that a member takes, for rows of these models."""
        return self.shape.fraction if self.milli is None else self.milli.take(model) / WHOLE_DEVICE


def own_ask(group: Ask, job: Ask) -> Ask:
    """A group's ask with the accelerators struck out that are struck out for its job."""
    if not job.time_bound or not group.shape.needs_devices:
        return group
    return replace(group, in_time=group.in_time & job.in_time)
