"""What the domain needs from outside."""

from collections.abc import Sequence
from typing import Protocol

from telemetry_ingest.domain.inventory import NodeRecord

__all__ = ["InventoryStore"]


class InventoryStore(Protocol):
    async def save(self, records: Sequence[NodeRecord]) -> None:
        """Stores and publishes all of them, or none and raises."""
