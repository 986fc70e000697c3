"""What the core speaks: immutable messages, all units stated.

Times are seconds since the epoch as floats, handed in by the caller: the core reads no clock.
`None` means unknown. Devices are shared in thousandths ("milli"), 1000 being a whole device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from placement_engine.domain.node_constraints import ANYWHERE, NodeConstraints, Taint

WHOLE_DEVICE = 1000

_EMPTY: Mapping[str, str] = MappingProxyType({})
_NO_NUMBERS: Mapping[str, float] = MappingProxyType({})


class JobKind(Enum):
    TRAINING = "training"
    INFERENCE = "inference"
    BATCH = "batch"


class Objective(Enum):
    COST = "cost"
    TIME = "time"
    LATENCY = "latency"
    ENERGY = "energy"


class Provenance(Enum):
    """Where an estimate comes from, best first; what was observed on running jobs is a measurement too."""

    OBSERVED = "observed"
    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    TRANSFERRED = "transferred"
    ROOFLINE = "roofline"
    DECLARED = "declared"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator (or the CPU of a node that runs work without one)."""

    device_id: str
    index: int
    model: str = ""
    device_class: str = ""
    stack: str = ""
    memory_bytes: int | None = None
    power_limit_watts: float | None = None
    present: bool = True
    topology: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Level ("numa", "link") to domain within the node."""
    partitionable: bool = False
    """May be cut into the partitions of its model (MIG)."""
    held_by: str = ""
    """Who has it outside Berth: it takes no new work meanwhile."""
    partition: str = ""
    """It is itself such a partition of its model, and takes only work that asks for this one."""
    traits: tuple[str, ...] = ()
    """What else it may be asked by, such as the resource claims that it may serve."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node with its devices. `topology` maps a level ("rack", "zone") to the node's domain."""

    name: str
    pool: str = "default"
    devices: tuple[Device, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    topology: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    power_cap_watts: float | None = None
    executors: tuple[str, ...] = ("simulated",)
    schedulable: bool = True
    cordon_reason: str = ""
    telemetry_exempt: bool = False
    taints: tuple[Taint, ...] = ()
    cpu_milli_elsewhere: int = 0
    """Of `cpu_milli`, what work outside Berth has."""
    memory_bytes_elsewhere: int = 0
    pod_limit: int | None = None
    """Most members that it takes at once, whatever they ask for; None: not known, no limit."""
    pods_elsewhere: int = 0
    """Of `pod_limit`, what work outside Berth has."""


@dataclass(frozen=True, slots=True)
class PowerDomain:
    """A power budget above the node, in W. `level` is a topology level."""

    level: str
    name: str
    cap_watts: float


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """What a device said of itself last. Bytes, degrees Celsius, W, utilisation 0..1."""

    device_id: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    slowdown_celsius: float | None = None
    memory_max_celsius: float | None = None
    margin_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    utilisation: float | None = None
    throttle_bits: int | None = None
    error_code: int | None = None
    healthy: bool | None = None


@dataclass(frozen=True, slots=True)
class NodeSample:
    """The telemetry of one node. `received_at` is the receive time: ages count from it."""

    node: str
    received_at: float
    devices: tuple[DeviceSample, ...] = ()
    power_watts: float | None = None
    cpu_utilisation: float | None = None
    memory_used_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What a queue owns of one kind of accelerator, in thousandths of a device.

    `accelerator` is a catalogue name, a class such as "GPU", or "" for every device. `borrowing_limit`: most
    beyond `milli` that it may take of what its siblings do not use; `lending_limit`: most of its own that
    siblings may use. None: no limit.
    """

    accelerator: str = ""
    milli: int = 0
    borrowing_limit: int | None = None
    lending_limit: int | None = None


class Reclaim(Enum):
    """Whose borrowed devices a queue takes back when its own jobs wait."""

    ANY = "any"
    LOWER_PRIORITY = "lower_priority"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Queue:
    """A node of the tree of queues. `parent` "" is the root; `device_limit` None is no limit.

    Without quotas a queue owns nothing in particular. A job of the queue that runs is not preempted or
    reclaimed before it has run `protected_seconds`.
    """

    name: str
    parent: str = ""
    weight: float = 1.0
    tenants: tuple[str, ...] = ()
    device_limit: int | None = None
    quotas: tuple[Quota, ...] = ()
    reclaim: Reclaim = Reclaim.ANY
    protected_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Character:
    """What work is made of: operations (FLOP) and bytes moved of the whole job, the dense part (0..1) of the
    operations, and their precision ("fp16", "fp8", "int8"). `calls`: requests that it all answers one after another;
    None: unknown."""

    operations: float
    bytes_moved: float
    dense_fraction: float = 1.0
    precision: str = "fp16"
    calls: float | None = None


@dataclass(frozen=True, slots=True)
class MemberGroup:
    """`replicas` members of one shape in a gang of several shapes; at least `min_replicas` of them.

    The fields of the shape are `Job`'s. Empty selectors: the job's.
    """

    name: str
    replicas: int = 1
    min_replicas: int = 1
    devices: int = 0
    device_milli: int = 0
    device_share_bytes: int = 0
    partition: str = ""
    device_memory_bytes: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    models: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    nodes: NodeConstraints | None = None
    """None: the job's."""
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A job that waits or runs. The gang is `replicas` members of equal shape, or those of `groups`.

    A member takes `devices` whole devices, or `device_milli` (1..999) of one, or a share of one stated as
    `device_share_bytes` of its memory, or a `partition` of one, or none of these (CPU only). Where
    `max_devices` is above `devices` it may get any number between both. `min_replicas` 0 is `replicas`: the
    gang is not elastic. `models`, `classes` and `stacks` are each "any of"; empty accepts all.
    A device must have each of `traits`.
    """

    job_id: str
    name: str = ""
    tenant: str = "default"
    queue: str = "default"
    pool: str = "default"
    priority: int = 0
    kind: JobKind = JobKind.BATCH
    replicas: int = 1
    devices: int = 0
    device_milli: int = 0
    device_memory_bytes: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    models: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    workload: str = ""
    objective: Objective = Objective.COST
    deadline: float | None = None
    latency_target_seconds: float | None = None
    topology_level: str = ""
    topology_required: bool = False
    preemptible: bool = False
    expected_duration_seconds: float | None = None
    executor: str = ""
    submitted_at: float = 0.0
    attempt: int = 0
    not_before: float = 0.0
    """Back-off after a failed bind: not tried before this time."""
    min_replicas: int = 0
    max_devices: int = 0
    device_share_bytes: int = 0
    partition: str = ""
    groups: tuple[MemberGroup, ...] = ()
    preferred_level: str = ""
    """Tighter than `topology_level`, preferred within it."""
    group_size: int = 0
    """Members in order form groups of this size that each share one domain of `group_level`; 0: none."""
    group_level: str = ""
    character: Character | None = None
    checkpoint_seconds: float | None = None
    """How often it saves its work; None: what it did is lost when it is stopped."""
    nodes: NodeConstraints = ANYWHERE
    traits: tuple[str, ...] = ()

    @property
    def milli_per_member(self) -> int:
        return self.devices * WHOLE_DEVICE + self.device_milli


@dataclass(frozen=True, slots=True)
class Profile:
    """Measured behaviour of a workload on an accelerator; `devices` used together."""

    workload: str
    accelerator: str
    devices: int = 1
    throughput: float | None = None
    latency_p99_seconds: float | None = None
    memory_bytes: int | None = None
    power_watts: float | None = None
    peak_power_watts: float | None = None
    price_per_hour: float | None = None
    provenance: Provenance = Provenance.MEASURED
    relative_uncertainty: float | None = None
    latency_p99_high_seconds: float | None = None
    """Upper end of the interval, where the latency was predicted."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A hardware cut of a device (MIG): compute slices of 7, memory slices of 8, bytes, and where it may start.

    `starts`: first memory slices that are allowed. It occupies `memory_slices` from there.
    """

    name: str
    compute_slices: int
    memory_slices: int
    starts: tuple[int, ...]
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The catalogue's entry of one model; dense peak in TFLOPS, bandwidth in bytes a second."""

    name: str
    device_class: str = ""
    stack: str = ""
    memory_bytes: int | None = None
    memory_bandwidth: float | None = None
    dense_fp16_tflops: float | None = None
    tdp_watts: float | None = None
    price_per_hour: float | None = None
    dense_fp8_tflops: float | None = None
    dense_int8_tops: float | None = None
    partitions: tuple[Partition, ...] = ()
    idle_watts: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    device_id: str
    index: int
    milli: int
    memory_bytes: int
    model: str = ""
    partition: str = ""
    partition_start: int = 0
    """First memory slice of the partition."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where one member of a gang sits."""

    member: int
    node: str
    devices: tuple[DeviceClaim, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    group: str = ""
    pods: int = 1
    """Of its node's `pod_limit`; 0 only for what is kept for a member whose pod another one will leave."""


@dataclass(frozen=True, slots=True)
class ScoreTerm:
    """One plugin's weighted term; the sum of `value * weight` is the score, higher is better."""

    plugin: str
    value: float
    weight: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    node: str
    accelerator: str
    score: float
    terms: tuple[ScoreTerm, ...] = ()
    devices: int = 0
    """Whole devices of a member there."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the engine expects of the job where it was put."""

    accelerator: str
    devices: int
    duration_seconds: float | None = None
    cost_dollars: float | None = None
    energy_joules: float | None = None
    latency_seconds: float | None = None
    provenance: Provenance = Provenance.UNKNOWN
    relative_uncertainty: float | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """A rejection as data: which filter, its stable code, how much it excludes, the numbers behind it."""

    plugin: str
    code: str
    nodes: int
    devices: int
    message: str
    numbers: Mapping[str, float] = field(default_factory=lambda: _NO_NUMBERS)


@dataclass(frozen=True, slots=True)
class Decision:
    """A job is put on these members. `candidates` has the chosen first, then the next best."""

    job_id: str
    attempt: int
    members: tuple[Member, ...]
    candidates: tuple[Candidate, ...]
    expectation: Expectation
    nodes_considered: int
    summary: str


class RemedyKind(Enum):
    FEWER_DEVICES = "fewer_devices"
    FEWER_REPLICAS = "fewer_replicas"
    OTHER_KIND = "other_kind"
    LOOSER_TOPOLOGY = "looser_topology"
    AFTER_JOB_ENDS = "after_job_ends"
    QUOTA = "quota"
    HEAT = "heat"
    OTHER_NODES = "other_nodes"


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that would admit a waiting job. `subjects`: accelerators, jobs, devices or queues it speaks of."""

    kind: RemedyKind
    message: str
    numbers: Mapping[str, float] = field(default_factory=lambda: _NO_NUMBERS)
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A job that waits: reasons sorted by how much of the fleet each excludes; remedies are sentences.

    `changes` are the remedies as data, the smallest first. `expected_start`: by the simulated queue, see
    `queue_forecast`; None is not known, or not said: only `Engine.explain` says both.
    """

    job_id: str
    attempt: int
    reasons: tuple[Reason, ...]
    remedies: tuple[str, ...]
    nodes_considered: int
    queue_position: int
    summary: str
    changes: tuple[Remedy, ...] = ()
    expected_start: float | None = None
    expected_start_at_least: bool = False
    """More jobs stand before it than were simulated: it starts then or later."""
    expected_start_after: tuple[str, ...] = ()
    """Running jobs whose end it waits for."""
    nominated: tuple[str, ...] = ()
    """Nodes kept for it, by member, while others make room there; only `Engine.explain` says them."""


class PreemptionKind(Enum):
    PRIORITY = "priority"
    RECLAIM = "reclaim"
    DEFRAGMENT = "defragment"
    ROUND = "round"
    """Its turn is over, or it goes on where it is faster."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """A running job is to be stopped, whole, and to wait again, so that `for_job_id` fits."""

    job_id: str
    attempt: int
    for_job_id: str
    kind: PreemptionKind
    work_lost_seconds: float
    """Run time times devices that is lost: since its last checkpoint, else since its start."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Resize:
    """A running elastic gang gets members, or gives some of those above its minimum to `for_job_id`; it runs on.

    Members keep their numbers, and a new one takes the lowest that is free. What is `added` is claimed at once; what
    is `removed` holds its claims until `Engine.members_gone`. One of both is empty.
    """

    job_id: str
    attempt: int
    size: int
    """Members once this is done, from the gang's least to its `wished` number."""
    wished: int
    added: tuple[Member, ...] = ()
    removed: tuple[Member, ...] = ()
    for_job_id: str = ""
    kind: PreemptionKind | None = None
    """By which right members are taken."""
    work_lost_seconds: float = 0.0
    """Run time times devices of the removed members since their last checkpoint, else since they began."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """A running job that would sit elsewhere in a plan: node names by member."""

    job_id: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]


class AdviceKind(Enum):
    CORDON = "cordon"
    """A device takes no new work: sustained throttling, or an error."""
    MIGRATE = "migrate"
    """Work should leave a cordoned device."""
    DEFRAGMENT = "defragment"
    """A few moves would make a waiting gang fit."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What the engine proposes, or says that it did, beyond placing jobs. `subject`: a device or job id."""

    kind: AdviceKind
    subject: str
    message: str
    moves: tuple[Move, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=lambda: _NO_NUMBERS)


@dataclass(frozen=True, slots=True)
class CycleResult:
    decisions: tuple[Decision, ...]
    rejections: tuple[Rejection, ...]
    considered: int
    """Jobs looked at in this cycle."""
    preemptions: tuple[Preemption, ...] = ()
    """Jobs to stop. Their claims stay until `release`."""
    advice: tuple[Advice, ...] = ()
    resizes: tuple[Resize, ...] = ()
    """Running gangs that change their size. In the order in which they were decided, those that give first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job holds, as the ledger has it: read at start-up and after a take-over.

    `placed_at`, `started_at`: seconds since the epoch; None is not known, or not yet.
    """

    job: Job
    members: tuple[Member, ...]
    placed_at: float | None = None
    started_at: float | None = None
    stoppable: bool = True
    """False: nobody here can stop it, such as a pod that another scheduler bound."""
    resized_at: float | None = None
    """When it got or lost members last; None: it has those that it was placed with."""
    worked: float = 0.0
    """Member-seconds of work done until `resized_at`."""
