"""`berth-telemetry-ingest`: who is who in the fleet, and how each device does."""

import sys

from berth.service import run
from telemetry_ingest.bootstrap import build
from telemetry_ingest.settings import TelemetryIngestSettings

__all__ = ["main"]


def main() -> int:
    return run("telemetry-ingest", TelemetryIngestSettings, build)


if __name__ == "__main__":
    sys.exit(main())
