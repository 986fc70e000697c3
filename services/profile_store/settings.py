"""Settings of profile-store (`BERTH_...`)."""

from pathlib import Path

from pydantic import Field

from berth.settings import ServiceSettings

__all__ = ["ProfileStoreSettings"]


class ProfileStoreSettings(ServiceSettings):
    seed_demo: bool = True
    """Adds the declared profiles of Berth's demo workloads where there are none."""
    learn: bool = True
    """Learns from the observed speed of running jobs."""
    seed_directory: Path | None = None
    """A folder of *.yaml files in Berth's own profile format, added at each start where a key is free."""
    republish: bool = True
    """Announces all profiles again from time to time; off where the broker's log is kept and compacted."""
    republish_seconds: float = Field(default=60.0, ge=1.0)
