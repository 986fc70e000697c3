"""An Ingest with a store in memory and a clock that the test turns."""

from collections.abc import Sequence

from telemetry_ingest.domain.board import Board
from telemetry_ingest.domain.inventory import Inventory, NodeRecord
from telemetry_ingest.domain.ports import InventoryStore
from telemetry_ingest.domain.targets import NodeDeclaration, Target
from telemetry_ingest.handlers import Clock, Ingest, KnownModel

MODELS = {
    "NVIDIA H100 80GB HBM3": KnownModel("H100-SXM", "GPU", "CUDA", 80 * 10**9, 700.0),
    "H100-SXM": KnownModel("H100-SXM", "GPU", "CUDA", 80 * 10**9, 700.0),
    "CPU": KnownModel("CPU", "CPU", "oneDNN"),
}


class MemoryStore:
    """Keeps what was saved; `broken` makes it fail."""

    def __init__(self) -> None:
        self.saved: list[NodeRecord] = []
        self.broken = False

    async def save(self, records: Sequence[NodeRecord]) -> None:
        if self.broken:
            raise ConnectionError("the database is away")
        self.saved += records

    def names(self) -> list[tuple[str, int]]:
        return [(record.name, record.version) for record in self.saved]


class World:
    """`store`: another one than in memory."""

    def __init__(self, store: InventoryStore | None = None) -> None:
        self.store = MemoryStore()
        self.wall, self.monotonic = 1000.0, 10.0
        self.scraped: list[Target] = []
        self.ingest = Ingest(
            inventory=Inventory(),
            board=Board(),
            store=store or self.store,
            clock=Clock(lambda: self.wall, lambda: self.monotonic),
            resolve=MODELS.get,
            targets_changed=lambda targets: self.scraped.__setitem__(slice(None), list(targets)),
        )

    async def declare(self, *targets: Target) -> None:
        names = dict.fromkeys(target.node for target in targets)
        await self.ingest.on_targets(
            [NodeDeclaration(name, targets=tuple(one for one in targets if one.node == name)) for name in names]
        )

    def tick(self, seconds: float = 5.0) -> None:
        self.wall += seconds
        self.monotonic += seconds
