"""The filters, in the order in which they are asked: the first that says no counts the node."""

from placement_engine.domain.filters.accelerator import Accelerator
from placement_engine.domain.filters.capacity import Capacity
from placement_engine.domain.filters.deadline import Deadline
from placement_engine.domain.filters.device_memory import DeviceMemory
from placement_engine.domain.filters.executor import Executor
from placement_engine.domain.filters.health import Cordon, Health
from placement_engine.domain.filters.heat_margin import HeatForecast, HeatMargin
from placement_engine.domain.filters.held import Held
from placement_engine.domain.filters.host_resources import HostResources
from placement_engine.domain.filters.latency import LatencyTarget
from placement_engine.domain.filters.node_selector import NodeSelector
from placement_engine.domain.filters.pod_limit import PodLimit
from placement_engine.domain.filters.pool import Pool
from placement_engine.domain.filters.power_headroom import DevicePower, NodePower
from placement_engine.domain.filters.queue_quota import QueueQuota
from placement_engine.domain.filters.sharing import KnownMemory, Partitionable, PartitionRoom
from placement_engine.domain.filters.staleness import DeviceStaleness, Staleness
from placement_engine.domain.filters.taints import Taints
from placement_engine.domain.filters.throttle import Throttle
from placement_engine.domain.filters.traits import Traits
from placement_engine.domain.plugins import DeviceFilter, RowFilter
from placement_engine.domain.policy import Policy


def row_filters(policy: Policy) -> tuple[RowFilter, ...]:
    return (
        Accelerator(),
        Executor(),
        NodeSelector(),
        Pool(),
        Taints(),
        LatencyTarget(),
        QueueQuota(),
        Deadline(),
        Staleness(policy),
        HostResources(),
        PodLimit(),
        NodePower(),
    )


def device_filters(policy: Policy) -> tuple[DeviceFilter, ...]:
    return (
        Capacity(),
        Traits(),
        Partitionable(),
        PartitionRoom(),
        KnownMemory(),
        Held(),
        DeviceStaleness(),
        Health(),
        HeatMargin(policy),
        HeatForecast(policy),
        Throttle(),
        Cordon(policy),
        DeviceMemory(),
        DevicePower(),
    )
