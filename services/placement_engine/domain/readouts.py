"""What the core tells of its state: read-only values for gRPC, the CLI and tests."""

from dataclasses import dataclass
from enum import Enum

from placement_engine.domain.model import Device, DeviceSample, Node, NodeSample, Reason


@dataclass(frozen=True, slots=True)
class GangSize:
    """An elastic gang that runs: members that it holds and keeps, at least and at most; `leaving` are on their way out.
    `why`: what stands in the way of more of them; None: nothing that is known."""

    job_id: str
    members: int
    least: int
    wished: int
    leaving: int
    why: Reason | None
    summary: str


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as the engine sees it. `blocked` is "" or why it takes no new work."""

    device: Device
    used_milli: int
    claimed_memory_bytes: int
    sample: DeviceSample | None
    age_seconds: float | None
    blocked: str
    job_ids: tuple[str, ...]
    margin_celsius: float | None = None
    forecast_celsius: float | None = None
    """The margin as it is expected the policy's horizon ahead."""
    free_slices: int | None = None
    """Memory slices that no partition uses; None: it is not partitionable."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the engine sees it; `devices_free` counts whole devices that could take work now."""

    node: Node
    used_cpu_milli: int
    used_memory_bytes: int
    sample: NodeSample | None
    age_seconds: float | None
    devices_free: int
    devices: tuple[DeviceView, ...]
    blocked: str = ""
    used_pods: int = 0


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """A queue's account for one accelerator (catalogue name, class, or "" for every device), in milli."""

    accelerator: str
    nominal: int
    """What it owns: its quota, or its children's together where that is more."""
    used: int
    borrowed: int
    """Used beyond nominal."""
    lent: int
    """Owned and not used, but held by others now."""
    borrowable: int
    """What it could take now beyond what is its own and not used."""


@dataclass(frozen=True, slots=True)
class QueueUsage:
    """A queue's standing: what its subtree uses and waits for.

    `share`: dominant share in normalised units / weight; `past_share`: the same with decay, as of the last
    cycle. The lesser sum of both goes first. `quotas`: of the accelerators on which a quota limits it.
    """

    name: str
    parent: str
    weight: float
    device_limit: int | None
    used_milli: int
    used_cpu_milli: int
    used_memory_bytes: int
    running_jobs: int
    pending_jobs: int
    share: float
    past_share: float = 0.0
    quotas: tuple[QuotaUsage, ...] = ()


class VerdictKind(Enum):
    FAULTY = "faulty"
    """An error or stated ill health; it is cordoned."""
    THROTTLED = "throttled"
    """It was throttled for long; it is cordoned."""
    HOT = "hot"
    """Its heat margin is too small now, or will be in a moment."""


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """Why a device takes no new work. `code`: the error's, else 0."""

    device_id: str
    node: str
    kind: VerdictKind
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class DeviceVerdicts:
    found: tuple[DeviceVerdict, ...]
    unheard: frozenset[str]
    """Devices that no telemetry told of yet, such as after a take-over: an earlier verdict may still hold."""


@dataclass(frozen=True, slots=True)
class MatchingCapacity:
    """What a job could ever get, were the pool empty and healthy."""

    devices: int
    """Present devices whose model, class, stack and executor match."""
    members: int
    """Members of the gang that would fit at once, host CPU and memory counted, of the best single model."""
    pool_devices: int
    pool_nodes: int
