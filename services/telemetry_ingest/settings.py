"""Settings of telemetry-ingest (`BERTH_...`)."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from berth.settings import ServiceSettings

__all__ = ["TelemetryIngestSettings"]

# Where the vendors' operators, clouds and monitoring run exporters. A tenant makes no pods there.
OPERATORS = (
    "kube-system", "monitoring", "prometheus", "kepler",
    "gpu-operator", "nvidia-gpu-operator", "kube-amd-gpu", "openshift-amd-gpu", "habana-system", "habana-ai-operator",
    "openshift-monitoring", "gke-managed-system", "amazon-cloudwatch",
)  # fmt: skip


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
    exporter_namespaces: Annotated[tuple[str, ...], NoDecode] = OPERATORS
    """Comma-separated: of a cluster, where a pod or an endpoint is believed to be a node's exporter. "*": anywhere."""

    @field_validator("exporter_namespaces", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
