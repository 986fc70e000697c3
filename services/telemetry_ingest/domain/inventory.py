"""Who is who: nodes and their devices, merged from what the operator declares and what is observed.

A device is known by its UUID: it may vanish (present=False) and come back under another index. A record's version
rises with each change and only then. All methods that begin with `plan_` compute records and change nothing;
`commit` makes them the state, after they were stored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from berth.errors import InvalidInput, NotFound
from telemetry_ingest.domain.targets import NodeDeclaration

__all__ = [
    "AGENT",
    "CORDON_PREFIX",
    "FROM_AGENT",
    "FROM_KUBERNETES",
    "FROM_OPERATOR",
    "FROM_TARGETS",
    "TRITON",
    "DeviceRecord",
    "Inventory",
    "NodeRecord",
    "TaintRecord",
]

AGENT = "agent"
FROM_TARGETS = "targets"
FROM_OPERATOR = "operator"
FROM_AGENT = "agent"
FROM_KUBERNETES = "kubernetes"

TRITON = "triton"
"""The executor of a node whose Triton server is ready."""

CORDON_PREFIX = "Kubernetes: "
"""How a cordon reason begins that the cluster gave, not an operator of Berth."""

# Exporters round each part of a device's memory on its own, so that the sum flickers.
MEMORY_TOLERANCE_BYTES = 64 << 20
POWER_TOLERANCE_WATTS = 1.0


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device of the fleet. Bytes and W; 0 is unknown.

    `held_by`: who has it outside Berth. `partition`: it is itself such a cut of its model.
    """

    device_id: str
    index: int = 0
    model: str = ""
    device_class: str = ""
    stack: str = ""
    memory_bytes: int = 0
    power_limit_watts: float = 0.0
    present: bool = True
    reported_model: str = ""
    topology: tuple[tuple[str, str], ...] = ()
    partitionable: bool = False
    held_by: str = ""
    partition: str = ""
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class TaintRecord:
    """Keeps work away that does not tolerate it."""

    key: str
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node of the fleet. `origin` says who declared it: targets, operator, agent or kubernetes."""

    name: str
    pool: str = "default"
    devices: tuple[DeviceRecord, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    topology: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    power_cap_watts: float = 0.0
    executors: tuple[str, ...] = ()
    schedulable: bool = True
    cordon_reason: str = ""
    boot_id: str = ""
    version: int = 0
    updated_at: float = 0.0
    telemetry_exempt: bool = False
    removed: bool = False
    origin: str = FROM_AGENT
    taints: tuple[TaintRecord, ...] = ()
    cpu_milli_elsewhere: int = 0
    memory_bytes_elsewhere: int = 0

    @property
    def of_kubernetes(self) -> bool:
        """The cluster says what it is; others add telemetry only."""
        return self.origin == FROM_KUBERNETES and not self.removed


class Inventory:
    """Every node that was ever declared, by name."""

    def __init__(self, records: Iterable[NodeRecord] = ()) -> None:
        self.nodes: dict[str, NodeRecord] = {}
        self._owner: dict[str, str] = {}
        # Node to source (a url, or AGENT) to the devices on its last page. Empty after a restart.
        self._seen: dict[str, dict[str, frozenset[str]]] = {}
        # Whether the Triton server of a node is ready; nothing where none is declared, or none has answered yet.
        self._triton_ready: dict[str, bool] = {}
        self._triton_of_agent: dict[str, bool] = {}
        self.commit(records)

    def commit(self, records: Iterable[NodeRecord]) -> None:
        for record in records:
            before = self.nodes.get(record.name)
            if before is not None:
                for device in before.devices:
                    if self._owner.get(device.device_id) == record.name:
                        del self._owner[device.device_id]
            self.nodes[record.name] = record
            if record.removed:
                self._seen.pop(record.name, None)
                continue
            for device in record.devices:
                if device.present or device.device_id not in self._owner:
                    self._owner[device.device_id] = record.name

    def plan_targets(self, declarations: Sequence[NodeDeclaration], now: float) -> list[NodeRecord]:
        """What a new targets file changes; nodes that an earlier one declared and this one does not are removed."""
        planned = []
        for declared in declarations:
            before = self.nodes.get(declared.name) or NodeRecord(declared.name)
            if before.of_kubernetes:
                # A cluster knows no power budgets; all else is its own to say.
                executors = _with_triton(before.executors, self._triton_ready.get(before.name, False))
                planned.append(replace(before, power_cap_watts=declared.power_cap_watts, executors=executors))
                continue
            after = replace(
                before,
                pool=declared.pool,
                topology=declared.topology,
                labels=declared.labels,
                cpu_milli=declared.cpu_milli or before.cpu_milli,
                memory_bytes=declared.memory_bytes or before.memory_bytes,
                power_cap_watts=declared.power_cap_watts,
                executors=_with_triton(declared.executors, self._offers_triton(before))
                if declared.triton
                else declared.executors,
                telemetry_exempt=False,
                removed=False,
                origin=FROM_TARGETS,
            )
            planned.append(after)
        names = {declared.name for declared in declarations}
        planned += [
            replace(record, removed=True)
            for record in self.nodes.values()
            if record.origin == FROM_TARGETS and not record.removed and record.name not in names
        ]
        planned += [
            replace(
                record,
                power_cap_watts=0.0,
                executors=_with_triton(record.executors, self._triton_ready.get(record.name, False)),
            )
            for record in self.nodes.values()
            if record.of_kubernetes and record.name not in names
        ]
        return self._changed(planned, now)

    def _offers_triton(self, before: NodeRecord) -> bool:
        """Of a node with a declared server: until that is heard, what was known of it before a restart stands."""
        known = TRITON in before.executors and not before.removed
        return self._triton_ready.get(before.name, known)

    def plan_triton(self, node: str, ready: bool, now: float) -> list[NodeRecord]:
        """Its Triton server is ready, or is not."""
        before = self.nodes.get(node)
        if before is None or before.removed:
            return []
        return self._changed([replace(before, executors=_with_triton(before.executors, ready))], now)

    def heard_triton(self, node: str, ready: bool) -> None:
        """Remembers it for a targets file that is read again."""
        self._triton_ready[node] = ready

    def forget_triton(self, keep: Iterable[str]) -> None:
        """Drops the memory of the servers of other nodes."""
        kept = set(keep)
        self._triton_ready = {node: ready for node, ready in self._triton_ready.items() if node in kept}

    def heard_agent(self, reported: NodeRecord) -> None:
        """Remembers, after the commit, whether the node's agent offered its Triton server."""
        self._triton_of_agent[reported.name] = TRITON in reported.executors

    def plan_operator(self, records: Sequence[NodeRecord], now: float) -> list[NodeRecord]:
        """Static nodes as an operator declares them. Raises InvalidInput, then nothing is applied."""
        planned: dict[str, NodeRecord] = {}
        owners = dict(self._owner)
        for record in records:
            if record.name in planned:
                raise InvalidInput.of("nodes", record.name, "stands twice in the request; keep one entry a node")
            before = self.nodes.get(record.name)
            if before is not None and before.of_kubernetes:
                raise InvalidInput.of(
                    "nodes", record.name, "is a node of the Kubernetes cluster: label or annotate it there instead"
                )
            for device in record.devices:
                owner = owners.setdefault(device.device_id, record.name)
                if owner != record.name:
                    raise InvalidInput.of(
                        "device_id", device.device_id, f"is on node {owner!r} already; ids are unique"
                    )
            cordoned = bool(record.cordon_reason)
            kept = before is not None and not before.removed and not cordoned
            planned[record.name] = replace(
                record,
                devices=tuple(replace(device, present=True) for device in record.devices),
                schedulable=before.schedulable if kept and before else not cordoned,
                cordon_reason=before.cordon_reason if kept and before else record.cordon_reason,
                boot_id=before.boot_id if before else record.boot_id,
                origin=FROM_OPERATOR,
            )
        return self._changed(list(planned.values()), now)

    def plan_cordon(
        self, node: str, cordoned: bool, reason: str, now: float, *, of_cluster: str | None = None
    ) -> list[NodeRecord]:
        """`of_cluster`: why a cluster's node takes no work by the cluster's word, which stays beside the operator's;
        None: not heard yet. Raises NotFound for a node that is not there, InvalidInput where the cluster must act.
        """
        before = self.nodes.get(node)
        if before is None or before.removed:
            raise NotFound(f"node: {node!r}: no such node; `berth get nodes` lists them")
        if not cordoned and before.of_kubernetes and before.cordon_reason.startswith(CORDON_PREFIX):
            raise InvalidInput.of("node", node, f"{before.cordon_reason}: use kubectl uncordon, or mend the node")
        if cordoned:
            return self._changed([replace(before, schedulable=False, cordon_reason=reason)], now)
        if before.of_kubernetes and of_cluster is None:
            raise InvalidInput.of("node", node, "the cluster has not told of it yet; try again in a moment")
        left = of_cluster or "" if before.of_kubernetes else ""
        return self._changed([replace(before, schedulable=not left, cordon_reason=left)], now)

    def plan_kubernetes(
        self, records: Sequence[NodeRecord], now: float, *, gone: Iterable[str] = ()
    ) -> list[NodeRecord]:
        """Nodes of the cluster as it has them now; those that are `gone` from it are removed."""
        # The cluster knows nothing of a Triton server that the targets file names.
        records = [
            replace(record, executors=_with_triton(record.executors, self._triton_ready.get(record.name, False)))
            for record in records
        ]
        removed = [
            replace(record, removed=True)
            for name in gone
            if (record := self.nodes.get(name)) is not None and record.of_kubernetes
        ]
        return self._changed([*records, *removed], now)

    def plan_observed(
        self,
        node: str,
        source: str,
        devices: Sequence[DeviceRecord],
        *,
        sources: Iterable[str],
        now: float,
        memory_bytes: int = 0,
        boot_id: str = "",
    ) -> list[NodeRecord]:
        """What one whole page (`source`) of the node says of its devices.

        `sources`: all that speak for the node; a device is gone when all of them were heard and none names it.
        Raises NotFound for an undeclared node and InvalidInput where another node has one of the devices.
        """
        before = self.nodes.get(node)
        if before is None or before.removed:
            raise NotFound(f"node: {node!r}: not declared; add it to the targets file, or send its inventory")
        fresh = {device.device_id: device for device in devices}
        if before.of_kubernetes:
            filled = tuple(_filled(old, fresh.get(old.device_id)) for old in before.devices)
            return self._changed([replace(before, devices=filled, telemetry_exempt=False)], now)
        for identity in fresh:
            owner = self._owner.get(identity, node)
            if owner != node and self._is_present(owner, identity):
                raise InvalidInput.of(
                    "device", identity, f"node {owner!r} has it already: do two targets read the same exporter?"
                )
        seen = {**self._seen.get(node, {}), source: frozenset(fresh)}
        named = frozenset[str]().union(*seen.values())
        all_heard = set(sources) <= set(seen)
        merged = []
        for old in before.devices:
            new = fresh.pop(old.device_id, None)
            if new is not None:
                merged.append(_same_device(old, new))
            else:
                present = old.device_id in named or (old.present and not all_heard)
                merged.append(old if old.present == present else replace(old, present=present))
        merged += fresh.values()
        merged.sort(key=lambda device: (device.index, device.device_id))
        after = replace(
            before,
            devices=tuple(merged),
            memory_bytes=before.memory_bytes or memory_bytes,
            boot_id=boot_id or before.boot_id,
        )
        return self._changed([after], now)

    def plan_agent(self, reported: NodeRecord, now: float) -> list[NodeRecord]:
        """An agent's own inventory. What the targets file or an operator declared of the node stands."""
        before = self.nodes.get(reported.name)
        if before is not None and before.of_kubernetes:
            return self.plan_observed(reported.name, AGENT, reported.devices, sources=(AGENT,), now=now)
        if before is None or before.removed or before.origin == FROM_AGENT:
            base = replace(
                reported,
                schedulable=before.schedulable if before and not before.removed else True,
                cordon_reason=before.cordon_reason if before and not before.removed else "",
                devices=before.devices if before else (),
                version=before.version if before else 0,
                telemetry_exempt=False,
                removed=False,
                origin=FROM_AGENT,
            )
        else:
            base = replace(
                before,
                cpu_milli=before.cpu_milli or reported.cpu_milli,
                memory_bytes=before.memory_bytes or reported.memory_bytes,
                executors=self._joined_executors(before, reported),
            )
        scratch = Inventory()
        scratch.nodes = {**self.nodes, base.name: base}
        scratch._owner, scratch._seen = self._owner, self._seen
        sources = {AGENT, *self._seen.get(reported.name, {})}
        planned = scratch.plan_observed(
            base.name, AGENT, reported.devices, sources=sources, now=now, boot_id=reported.boot_id
        )
        return self._changed(planned or [base], now)

    def _joined_executors(self, before: NodeRecord, reported: NodeRecord) -> tuple[str, ...]:
        joined = tuple(dict.fromkeys((*before.executors, *reported.executors)))
        if before.name in self._triton_ready:
            return _with_triton(joined, TRITON in before.executors)
        if TRITON not in reported.executors and self._triton_of_agent.get(before.name):
            return _with_triton(joined, False)
        return joined

    def heard(self, node: str, source: str, identities: Iterable[str]) -> None:
        """Remembers, after the commit, what a page named."""
        self._seen.setdefault(node, {})[source] = frozenset(identities)

    def forget_sources(self, keep: Mapping[str, frozenset[str]]) -> None:
        """Drops the memory of sources that are not scraped any more; agents stay."""
        for node, sources in self._seen.items():
            for source in set(sources) - keep.get(node, frozenset()) - {AGENT}:
                del sources[source]

    def _is_present(self, node: str, identity: str) -> bool:
        record = self.nodes.get(node)
        return (
            record is not None
            and not record.removed
            and any(device.device_id == identity and device.present for device in record.devices)
        )

    def _changed(self, planned: Sequence[NodeRecord], now: float) -> list[NodeRecord]:
        changed = []
        for after in planned:
            before = self.nodes.get(after.name)
            version = before.version if before else 0
            after = replace(after, version=version, updated_at=before.updated_at if before else 0.0)
            if after != before:
                changed.append(replace(after, version=version + 1, updated_at=now))
        return changed


def _with_triton(executors: Sequence[str], ready: bool) -> tuple[str, ...]:
    """In place, so that the same executors in the same order are no change."""
    if ready and TRITON not in executors:
        return (*executors, TRITON)
    return tuple(executors) if ready else tuple(one for one in executors if one != TRITON)


def _same_device(old: DeviceRecord, new: DeviceRecord) -> DeviceRecord:
    """The new record, with what flickers or is not said this time taken from the old one."""
    near = abs(old.memory_bytes - new.memory_bytes) <= MEMORY_TOLERANCE_BYTES
    steady = abs(old.power_limit_watts - new.power_limit_watts) <= POWER_TOLERANCE_WATTS
    return replace(
        new,
        memory_bytes=old.memory_bytes if near or not new.memory_bytes else new.memory_bytes,
        power_limit_watts=old.power_limit_watts if steady or not new.power_limit_watts else new.power_limit_watts,
        reported_model=new.reported_model or old.reported_model,
        model=new.model or old.model,
        present=True,
        topology=new.topology or old.topology,
        partitionable=new.partitionable or old.partitionable,
        held_by=old.held_by,
        partition=old.partition,
    )


def _filled(old: DeviceRecord, new: DeviceRecord | None) -> DeviceRecord:
    """A device that the cluster advertises, with what only its exporter knows."""
    if new is None:
        return old
    steady = abs(old.power_limit_watts - new.power_limit_watts) <= POWER_TOLERANCE_WATTS
    return replace(
        old,
        model=old.model or new.model,
        device_class=old.device_class or new.device_class,
        memory_bytes=old.memory_bytes or new.memory_bytes,
        reported_model=old.reported_model or new.reported_model,
        power_limit_watts=old.power_limit_watts if steady or not new.power_limit_watts else new.power_limit_watts,
    )
