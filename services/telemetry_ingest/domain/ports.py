"""What the domain needs from outside."""

from collections.abc import Sequence
from typing import Protocol

from telemetry_ingest.domain.inventory import NodeRecord

__all__ = ["InventoryStore", "Overtaken"]


class Overtaken(Exception):
    """Another process wrote one of the nodes, or an earlier `save` went through whose answer was lost.

    `stored`: what is there of these nodes.
    """

    def __init__(self, stored: Sequence[NodeRecord]) -> None:
        self.stored = tuple(stored)
        super().__init__(", ".join(f"{record.name} is at version {record.version}" for record in self.stored))


class InventoryStore(Protocol):
    async def save(self, records: Sequence[NodeRecord]) -> None:
        """Stores and publishes all of them, or none and raises. Raises Overtaken where one is there in that version."""
