"""Settings of telemetry-ingest (`BERTH_...`)."""

from pathlib import Path

from pydantic import Field

from berth.settings import ServiceSettings

__all__ = ["TelemetryIngestSettings"]


class TelemetryIngestSettings(ServiceSettings):
    targets_file: Path | None = None
    """Nodes and where they are scraped; see telemetry_ingest.domain.targets. Unset: agents and static nodes only."""
    scrape_interval_seconds: float = Field(default=5.0, ge=0.1)
    scrape_timeout_seconds: float = Field(default=3.0, gt=0)
    """For one whole answer of an exporter."""
    scrape_concurrency: int = Field(default=64, ge=1)
    publish_interval_seconds: float = Field(default=0.25, ge=0.01)
    """How long telemetry is gathered before it is published; one record a node."""
    republish_seconds: float = Field(default=30.0, ge=1.0)
    """How often the whole inventory is published again, for brokers that do not keep it."""
