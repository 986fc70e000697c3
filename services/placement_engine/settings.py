"""Settings of the placement engine (`BERTH_...`)."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from berth.settings import LOOPBACK, ServiceSettings

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
    extender_listen: str = ""
    """host:port of the extender for kube-scheduler, such as 127.0.0.1:8700; empty: it is not served."""
    extender_certificate: Path | None = None
    """PEM. With it the extender speaks TLS, and asks each caller for a certificate: beyond loopback it must."""
    extender_key: Path | None = None
    extender_client_authority: Path | None = None
    """PEM of the authority whose client certificates the extender takes: kube-scheduler's."""

    @model_validator(mode="after")
    def _extender_is_guarded(self) -> Self:
        if not self.extender_listen:
            return self
        host, colon, port = self.extender_listen.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"BERTH_EXTENDER_LISTEN {self.extender_listen!r} is no address: write host:port")
        files = (self.extender_certificate, self.extender_key, self.extender_client_authority)
        if any(files) and not all(files):
            raise ValueError(
                "BERTH_EXTENDER_CERTIFICATE, BERTH_EXTENDER_KEY and BERTH_EXTENDER_CLIENT_AUTHORITY go together: "
                "set all three, or none"
            )
        if host not in LOOPBACK and not any(files):
            raise ValueError(
                f"BERTH_EXTENDER_LISTEN {self.extender_listen!r} is reachable from outside without certificates: set "
                "BERTH_EXTENDER_CERTIFICATE, BERTH_EXTENDER_KEY and BERTH_EXTENDER_CLIENT_AUTHORITY, or listen on "
                "127.0.0.1"
            )
        return self
