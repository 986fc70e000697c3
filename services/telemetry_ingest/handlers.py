"""A message in, an effect out: pages, reports, declarations.

Every change of the inventory is planned, stored together with its outbox row, and only then becomes the state:
a failure in between leaves all as it was, and the next page plans it again.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import structlog
from prometheus_client import Counter, Gauge

from berth.errors import InvalidInput, NotFound
from berth.kubernetes.devices import DeviceResources
from telemetry_ingest.domain.board import Board, NodeSnapshot, SourceReading
from telemetry_ingest.domain.counters import Counters
from telemetry_ingest.domain.formats import normalise, triton
from telemetry_ingest.domain.inventory import AGENT, DeviceRecord, Inventory, NodeRecord
from telemetry_ingest.domain.kubernetes.nodes import NodeFacts
from telemetry_ingest.domain.kubernetes.pods import PodUse
from telemetry_ingest.domain.kubernetes.records import joined, record_of
from telemetry_ingest.domain.model import Observation, ObservedDevice
from telemetry_ingest.domain.ports import InventoryStore, Overtaken
from telemetry_ingest.domain.targets import NodeDeclaration, Target

__all__ = ["Clock", "Ingest", "KnownModel", "TargetStatus"]

log = structlog.get_logger(__name__)

SCRAPES = Counter("berth_ingest_scrapes_total", "Scrapes by result.", ["result"])
SAMPLES = Counter("berth_ingest_samples_total", "Device samples taken in.", ["source"])
REPORTS = Counter("berth_ingest_reports_total", "Reports of node agents by result.", ["result"])
TARGETS = Gauge("berth_ingest_targets", "Targets that are scraped.")
NODES = Gauge("berth_ingest_nodes", "Nodes in the inventory that are not removed.")

# Pages above this are parsed beside the event loop.
LARGE_PAGE = 256 << 10


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall`: seconds since the epoch; `monotonic`: seconds that never run backwards."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the catalogue says of a reported model name. Bytes and W; 0 is unknown."""

    name: str
    device_class: str
    stack: str
    memory_bytes: int = 0
    power_limit_watts: float = 0.0


ObservedIdentity = tuple[str, int, str, str, str, int | None, float | None]


@dataclass(slots=True)
class TargetStatus:
    """How a target does. `last_success`: seconds since the epoch, 0 for never."""

    target: Target
    counters: Counters = field(default_factory=Counters)
    healthy: bool = False
    last_error: str = ""
    last_success: float = 0.0
    devices: int = 0
    # What the last page said of devices, and the node's version after it: the same again needs no plan.
    settled: tuple[list[ObservedIdentity], str, int, int] | None = None


class Ingest:
    """The service's state and its handlers. One instance a process."""

    def __init__(
        self,
        *,
        inventory: Inventory,
        board: Board,
        store: InventoryStore,
        clock: Clock,
        resolve: Callable[[str], KnownModel | None],
        targets_changed: Callable[[Sequence[Target]], None],
    ) -> None:
        self.inventory = inventory
        self.board = board
        self._store = store
        self._clock = clock
        self._resolve = resolve
        self._targets_changed = targets_changed
        self._changing = asyncio.Lock()
        self._targets: dict[Target, TargetStatus] = {}
        self._node_sources: dict[str, frozenset[str]] = {}
        self._reported: dict[str, tuple[str, int]] = {}
        self._declared: tuple[NodeDeclaration, ...] = ()
        self.triton_servers: dict[str, str] = {}
        """Node to the address of its Triton server, by the targets file, else by the cluster's annotation."""
        self._cluster_servers: dict[str, str] = {}
        self._found: tuple[Target, ...] = ()
        # Nodes of a cluster: an agent's own name of a device to the fleet's.
        self._agent_devices: dict[str, dict[str, str]] = {}
        # And why the cluster keeps work away from each, "" where it does not.
        self._cordons: dict[str, str] = {}
        self._count_nodes()

    # -- targets ---------------------------------------------------------------------------------

    async def on_targets(self, declarations: Sequence[NodeDeclaration]) -> None:
        """A new, valid targets file."""
        self._serve(declarations)
        await self._change(lambda: self.inventory.plan_targets(declarations, self._clock.wall()))
        self._declared = tuple(declarations)
        self._retarget()

    def on_found_targets(self, targets: Iterable[Target]) -> None:
        """The exporters that run in the cluster at present, beside the targets file; the file's pages are its own."""
        found = tuple(dict.fromkeys(targets))
        if found != self._found:
            self._found = found
            self._retarget()

    def _retarget(self) -> None:
        declared = [target for declaration in self._declared for target in declaration.targets]
        pages = {target.url for target in declared}
        wanted = [*declared, *(target for target in self._found if target.url not in pages)]
        self._targets = {target: self._targets.get(target) or TargetStatus(target) for target in wanted}
        sources: dict[str, set[str]] = {declaration.name: set() for declaration in self._declared}
        for target in wanted:
            sources.setdefault(target.node, set()).add(target.source)
        self._node_sources = kept = {node: frozenset(names) for node, names in sources.items()}
        self.inventory.forget_sources(kept)
        self.board.retain(kept, always=AGENT)
        TARGETS.set(len(self._targets))
        self._targets_changed(wanted)

    def _serve(self, declarations: Iterable[NodeDeclaration]) -> None:
        declared = {one.name: one.triton for one in declarations if one.triton}
        self.triton_servers = {**self._cluster_servers, **declared}
        self.inventory.forget_triton(self.triton_servers)

    def targets(self) -> list[TargetStatus]:
        return sorted(self._targets.values(), key=lambda status: (status.target.node, status.target.url))

    # -- scrapes ---------------------------------------------------------------------------------

    async def on_page(self, target: Target, text: str, content_type: str) -> None:
        """A page of a target. Raises InvalidInput where the page is of no use; nothing changes then."""
        status = self._targets.get(target)
        if status is None:
            return
        received, monotonic = self._clock.wall(), self._clock.monotonic()

        def read() -> Observation:
            return normalise(
                text,
                format=target.format,
                node=target.node,
                now=monotonic,
                counters=status.counters,
                content_type=content_type,
            )

        observation = await asyncio.to_thread(read) if len(text) > LARGE_PAGE else read()
        observation = self._joined(target.node, observation)
        if observation.fills:
            observation = self._of_others(target.node, observation)
        else:
            await self._settle(status, observation, received)
        if target not in self._targets:
            return
        named = () if observation.fills else tuple(device.device_id for device in observation.devices)
        self.inventory.heard(target.node, target.source, named)
        readings = tuple((device.device_id, device.reading) for device in observation.devices)
        self.board.put(
            target.node,
            target.source,
            SourceReading(
                readings,
                observation.node,
                received,
                monotonic,
                observation.shared,
                observation.source_time,
                fills=observation.fills,
            ),
        )
        status.healthy, status.last_error = True, ""
        status.last_success, status.devices = received, len(observation.devices)
        SCRAPES.labels("success").inc()
        SAMPLES.labels(observation.format).inc(len(observation.devices))

    async def _settle(self, status: TargetStatus, observation: Observation, now: float) -> None:
        """Brings the inventory in line with a page; nearly always there is nothing to do."""
        target = status.target
        boot_id = f"boot-{int(observation.node.boot_time)}" if observation.node.boot_time else ""
        memory_bytes = observation.node.memory_total_bytes or 0
        said = [
            (
                one.device_id,
                one.index,
                one.reported_model,
                one.device_class,
                one.stack,
                one.memory_bytes,
                one.power_limit_watts,
            )
            for one in observation.devices
        ]
        record = self.inventory.nodes.get(target.node)
        if record is not None and status.settled == (said, boot_id, memory_bytes, record.version):
            return
        devices = [self._device(device) for device in observation.devices]
        await self._change(
            lambda: self.inventory.plan_observed(
                target.node,
                target.source,
                devices,
                sources=self._sources(target.node),
                now=now,
                memory_bytes=memory_bytes,
                boot_id=boot_id,
            )
        )
        status.settled = (said, boot_id, memory_bytes, self.inventory.nodes[target.node].version)

    def _of_others(self, node: str, observation: Observation) -> Observation:
        """Of a page that makes no devices: those that the node has. Raises NotFound for an undeclared node."""
        record = self.inventory.nodes.get(node)
        if record is None or record.removed:
            raise NotFound(f"node: {node!r}: not declared; add it to the targets file, or send its inventory")
        own = {device.device_id for device in record.devices}
        return replace(observation, devices=tuple(one for one in observation.devices if one.device_id in own))

    async def on_triton(self, node: str, ready: bool) -> None:
        """The node's Triton server answered that it is ready, or is not."""
        if node not in self.triton_servers:
            return
        self.inventory.heard_triton(node, ready)
        await self._change(lambda: self.inventory.plan_triton(node, ready, self._clock.wall()))

    def on_scrape_failed(self, target: Target, message: str) -> None:
        """A target gave no page, or one that is of no use. What it said before grows old by itself."""
        status = self._targets.get(target)
        if status is None:
            return
        if status.healthy or not status.last_error:
            log.warning("target failed", node=target.node, url=target.url, error=message)
        status.healthy, status.last_error = False, message
        SCRAPES.labels("failure").inc()

    def _joined(self, node: str, observation: Observation) -> Observation:
        """On a cluster's node the devices are those that the kubelet offers, under the fleet's names of them."""
        record = self.inventory.nodes.get(node)
        if record is None or not record.of_kubernetes:
            return observation
        ours = joined(record.devices, [(one.device_id, one.index, one.stack) for one in observation.devices])
        return replace(
            observation,
            devices=tuple(
                replace(one, device_id=ours[one.device_id].device_id, index=ours[one.device_id].index)
                for one in observation.devices
                if one.device_id in ours
            ),
        )

    # -- a cluster -------------------------------------------------------------------------------

    async def on_cluster(
        self,
        nodes: Iterable[tuple[NodeFacts, Sequence[PodUse]]],
        resources: DeviceResources,
        *,
        gone: Iterable[str] = (),
    ) -> None:
        """Nodes of the cluster as they are now, each with what its pods take; `gone`: it has these no longer."""
        nodes, gone = list(nodes), list(gone)
        self._cordons.update((facts.name, facts.cordon_reason) for facts, _ in nodes)
        for name in gone:
            self._cordons.pop(name, None)
            self._cluster_servers.pop(name, None)
        for facts, _ in nodes:
            if facts.triton:
                self._cluster_servers[facts.name] = facts.triton
            else:
                self._cluster_servers.pop(facts.name, None)
        self._serve(self._declared)

        def plan() -> list[NodeRecord]:
            records = [
                record_of(
                    facts,
                    uses,
                    self.inventory.nodes.get(facts.name),
                    resources,
                    self._named,
                    has_sources=bool(self._sources(facts.name)),
                )
                for facts, uses in nodes
            ]
            return self.inventory.plan_kubernetes(records, self._clock.wall(), gone=gone)

        await self._change(plan)

    def nodes_of_cluster(self) -> list[str]:
        """Names of the nodes that are in the inventory by a cluster's word."""
        return [record.name for record in self.inventory.nodes.values() if record.of_kubernetes]

    # -- agents ----------------------------------------------------------------------------------

    async def on_agent_inventory(self, reported: NodeRecord) -> None:
        """An agent's inventory of its own node. Raises InvalidInput."""
        record = self.inventory.nodes.get(reported.name)
        if record is not None and record.of_kubernetes:
            ours = joined(record.devices, [(one.device_id, one.index, one.stack) for one in reported.devices])
            self._agent_devices[reported.name] = {theirs: one.device_id for theirs, one in ours.items()}
            reported = replace(
                reported,
                devices=tuple(
                    replace(one, device_id=ours[one.device_id].device_id, index=ours[one.device_id].index)
                    for one in reported.devices
                    if one.device_id in ours
                ),
            )
        known = replace(reported, devices=tuple(map(self._named, reported.devices)))
        await self._change(lambda: self.inventory.plan_agent(known, self._clock.wall()))
        self.inventory.heard(reported.name, AGENT, (device.device_id for device in reported.devices))
        self.inventory.heard_agent(reported)

    def on_agent_telemetry(self, node: str, boot_id: str, sequence: int, reading: SourceReading) -> None:
        """An agent's telemetry of its own node.

        Raises NotFound before its inventory came, InvalidInput for a record that is not newer than the last of
        the same boot, or that names a device of another node.
        """
        record = self.inventory.nodes.get(node)
        if record is None or record.removed:
            raise NotFound(f"node: {node!r}: not known; send its inventory first")
        if record.of_kubernetes:
            if (names := self._agent_devices.get(node)) is None:
                raise NotFound(f"node: {node!r}: its devices are not joined yet; send its inventory first")
            reading = replace(
                reading, devices=tuple((names[one], said) for one, said in reading.devices if one in names)
            )
        boot, last = self._reported.get(node, ("", -1))
        if boot == boot_id and sequence <= last:
            raise InvalidInput.of(
                "telemetry.sequence", sequence, f"must be above {last} within one boot; it was dropped"
            )
        own = {device.device_id for device in record.devices}
        for identity, _ in reading.devices:
            if identity not in own:
                raise InvalidInput.of(
                    "telemetry.devices", identity, f"is no device of node {node!r}; send the inventory with it first"
                )
        self._reported[node] = (boot_id, sequence)
        self.board.put(node, AGENT, reading)
        SAMPLES.labels(AGENT).inc(len(reading.devices))

    # -- operators -------------------------------------------------------------------------------

    async def apply_nodes(self, records: Sequence[NodeRecord]) -> int:
        """Declares static nodes: all or none. Gives how many are as asked now. Raises InvalidInput."""
        named = [replace(record, devices=tuple(map(self._named, record.devices))) for record in records]
        await self._change(lambda: self.inventory.plan_operator(named, self._clock.wall()))
        return len(named)

    async def cordon(self, node: str, cordoned: bool, reason: str) -> NodeRecord:
        """Raises NotFound, and InvalidInput where only the cluster can lift it."""

        def plan() -> list[NodeRecord]:
            return self.inventory.plan_cordon(
                node, cordoned, reason, self._clock.wall(), of_cluster=self._cordons.get(node)
            )

        await self._change(plan)
        return self.inventory.nodes[node]

    # -- out -------------------------------------------------------------------------------------

    def drain(self) -> list[tuple[NodeSnapshot, str]]:
        """What is due on telemetry.devices, with each node's boot id."""
        return [
            (snapshot, record.boot_id)
            for snapshot in self.board.drain()
            if (record := self.inventory.nodes.get(snapshot.node)) is not None and not record.removed
        ]

    # -- inside ----------------------------------------------------------------------------------

    async def _change(self, plan: Callable[[], list[NodeRecord]]) -> None:
        # Most pages change nothing: no lock, no transaction.
        if not plan():
            return
        async with self._changing:
            while records := plan():
                try:
                    await self._store.save(records)
                except Overtaken as overtaken:
                    # What is stored counts, and is changed in turn; memory alone would drop every later change.
                    log.warning("the inventory was written elsewhere; planned again", nodes=str(overtaken))
                    self._took(overtaken.stored)
                else:
                    self._took(records)
                    return

    def _took(self, records: Sequence[NodeRecord]) -> None:
        self.inventory.commit(records)
        for record in records:
            if record.removed:
                self.board.drop(record.name)
        self._count_nodes()

    def _sources(self, node: str) -> frozenset[str]:
        # Of Triton's page nobody waits to hear which devices there are.
        scraped = {one for one in self._node_sources.get(node, ()) if not one.startswith(f"{triton.NAME} ")}
        return frozenset(scraped) | ({AGENT} if node in self._reported else frozenset())

    def _count_nodes(self) -> None:
        NODES.set(sum(not record.removed for record in self.inventory.nodes.values()))

    def _device(self, device: ObservedDevice) -> DeviceRecord:
        return self._named(
            DeviceRecord(
                device_id=device.device_id,
                index=device.index,
                device_class=device.device_class,
                stack=device.stack,
                memory_bytes=device.memory_bytes or 0,
                power_limit_watts=device.power_limit_watts or 0.0,
                reported_model=device.reported_model,
            )
        )

    def _named(self, device: DeviceRecord) -> DeviceRecord:
        """With the catalogue's name, and what it knows where the device says nothing."""
        said = device.model or device.reported_model
        known = self._resolve(said) if said else None
        if known is None and device.device_class == "CPU":
            # There are too many names of CPUs to list; any of them is one.
            known = self._resolve("CPU")
        if known is None:
            return device
        return replace(
            device,
            model=known.name,
            device_class=device.device_class or known.device_class,
            stack=device.stack or known.stack,
            memory_bytes=device.memory_bytes or known.memory_bytes,
            power_limit_watts=device.power_limit_watts or known.power_limit_watts,
        )
