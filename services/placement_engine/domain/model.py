"""What the core speaks: immutable messages, all units stated.

Times are seconds since the epoch as floats, handed in by the caller: the core reads no clock.
`None` means unknown. Devices are shared in thousandths ("milli"), 1000 being a whole device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

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
    """Where an estimate comes from, best first."""

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
class Queue:
    """A node of the tree of queues. `parent` "" is the root; `device_limit` None is no limit."""

    name: str
    parent: str = ""
    weight: float = 1.0
    tenants: tuple[str, ...] = ()
    device_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job that waits or runs. The gang is `replicas` members of equal shape.

    A member takes `devices` whole devices, or `device_milli` (1..999) of one, or neither (CPU only).
    `models`, `classes` and `stacks` are each "any of"; empty accepts all.
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


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    device_id: str
    index: int
    milli: int
    memory_bytes: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """Where one member of a gang sits."""

    member: int
    node: str
    devices: tuple[DeviceClaim, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0


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


@dataclass(frozen=True, slots=True)
class Rejection:
    """A job that waits: reasons sorted by how much of the fleet each excludes; remedies are sentences."""

    job_id: str
    attempt: int
    reasons: tuple[Reason, ...]
    remedies: tuple[str, ...]
    nodes_considered: int
    queue_position: int
    summary: str


@dataclass(frozen=True, slots=True)
class CycleResult:
    decisions: tuple[Decision, ...]
    rejections: tuple[Rejection, ...]
    considered: int
    """Jobs looked at in this cycle."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job holds, as the ledger has it: read at start-up and after a take-over."""

    job: Job
    members: tuple[Member, ...]
