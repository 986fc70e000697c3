"""Settings of the placement engine (`BERTH_...`)."""

from typing import Any, Literal

from berth.settings import ServiceSettings

__all__ = ["EngineSettings"]


class EngineSettings(ServiceSettings):
    instance: str = ""
    """Name of this instance among several; default: host and process id."""
    planner_lease_seconds: float = 10.0
    """A planner that was not heard of for so long loses its pool to the next."""
    cycle_seconds: float = 0.25
    """Longest time between two looks at the queue; events start one at once."""
    cycle_jobs: int = 500
    """Most decisions of one cycle, and so of one transaction."""
    bind_attempts: int = 5
    """A job whose binds failed so often fails."""
    reconcile_seconds: float = 3.0
    audit_seconds: float = 30.0
    refuse_larger_than_pool: bool = True
    unknown_heat: Literal["allow", "penalise", "refuse"] = "penalise"
    """What a device without temperature gets: allow, penalise or refuse."""
    policy: dict[str, Any] = {}
    """Fields of the core's policy as a JSON object, such as {"heat_floor_celsius": 8, "weights.power": 2}."""
    journal_events: int = 20_000
    """Events that are kept for `berth debug snapshot`; 0 keeps none. Twice in so many events the planner stops to
    take a picture of itself, for some 0.5 ms a node."""
    device_taint_effect: Literal["NoSchedule", "NoExecute"] = "NoSchedule"
    """Of the DeviceTaintRule of a faulty device: NoExecute also has the cluster evict what runs on it."""
