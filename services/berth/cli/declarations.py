"""Queues, pools and static nodes as a person declares them (`berth apply -f`).

queues:
  - {name: research, weight: 2, tenants: [vision, speech], device_limit: 64}
  - name: vision
    parent: research
    quotas:                                 # what it owns; accelerator: a model, a class, or nothing for all
      - {accelerator: H100-SXM, devices: 16, borrowing_limit: 8, lending_limit: 4}
    reclaim: any                            # any | lower_priority | never: whose borrowed devices it takes back
    protected: 10m                          # its jobs run so long before they are stopped for others
pools:
  - name: default
    power_domains: [{level: rack, name: r07, cap_watts: 40000}]
nodes:
  - name: n-001
    pool: default
    devices: {model: H100-SXM, count: 8, numa: 2, link: 1, partitionable: false}    # or a list of such;
                                            # numa, link: the devices are spread evenly over so many domains
    cpu: 96
    memory: 1Ti
    topology: {rack: r07, zone: a}
    labels: {owner: vision}
    power_cap: 10200                        # W
    executors: [simulated]
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from berth.jobs import parse_duration, parse_quantity
from berth.v1 import fleet_pb2 as pb

__all__ = ["Declarations", "devices_of", "parse_declarations"]

KINDS: dict[str, tuple[str, ...]] = {
    "queues": ("name", "parent", "weight", "tenants", "device_limit", "quotas", "reclaim", "protected"),
    "pools": ("name", "power_domains"),
    "nodes": ("name", "pool", "devices", "cpu", "memory", "topology", "labels", "power_cap", "executors"),
}


QUOTA_FIELDS = ("accelerator", "devices", "borrowing_limit", "lending_limit")
DEVICE_FIELDS = ("model", "count", "numa", "link", "partitionable")
RECLAIM = {"any": pb.RECLAIM_ANY, "lower_priority": pb.RECLAIM_LOWER_PRIORITY, "never": pb.RECLAIM_NEVER}


@dataclass(slots=True)
class Declarations:
    queues: list[pb.Queue] = field(default_factory=list)
    pools: list[pb.Pool] = field(default_factory=list)
    nodes: list[pb.Node] = field(default_factory=list)


def devices_of(node: str, model: catalogue.Accelerator, count: int, *, first: int = 0) -> list[pb.Device]:
    """`count` devices of a catalogue model, with indices from `first`."""
    return [
        pb.Device(
            device_id=f"{node}/{index}",
            index=index,
            model=model.name,
            device_class=model.device_class,
            stack=model.stack,
            memory_bytes=model.memory_bytes or 0,
            power_limit_watts=model.tdp_watts or 0.0,
            present=True,
            reported_model=model.name,
        )
        for index in range(first, first + count)
    ]


def parse_declarations(documents: Sequence[Any]) -> Declarations:
    """Raises InvalidInput with every error found."""
    reader = _Reader()
    for document in documents:
        reader.document(document)
    if reader.errors:
        raise InvalidInput(reader.errors)
    return reader.made


class _Reader:
    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.made = Declarations()

    def fail(self, field: str, value: Any, remedy: str) -> None:
        self.errors.append(FieldError(field, str(value), remedy))

    def document(self, document: Any) -> None:
        if not isinstance(document, Mapping):
            self.fail("file", type(document).__name__, "write a mapping with queues, pools or nodes")
            return
        for kind, entries in document.items():
            if kind not in KINDS:
                self.unknown(str(kind), str(kind), list(KINDS))
                continue
            if not isinstance(entries, list):
                self.fail(kind, type(entries).__name__, "write a list")
                continue
            for position, entry in enumerate(entries):
                where = f"{kind}[{position}]"
                if not isinstance(entry, Mapping) or not entry.get("name"):
                    self.fail(f"{where}.name", "", "give it a name")
                    continue
                for key in entry:
                    if key not in KINDS[kind]:
                        self.unknown(f"{where}.{key}", str(key), KINDS[kind])
                try:
                    {"queues": self.queue, "pools": self.pool, "nodes": self.node}[kind](where, entry)
                except InvalidInput as error:
                    self.errors.extend(error.errors)
                except (TypeError, ValueError, AttributeError) as error:
                    self.fail(where, entry["name"], f"a value is of the wrong type: {error}")

    def unknown(self, field: str, value: str, known: Sequence[str]) -> None:
        near = difflib.get_close_matches(value, known, n=1)
        self.fail(field, value, (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known)}")

    def queue(self, where: str, entry: Mapping[str, Any]) -> None:
        weight = float(entry.get("weight", 1.0))
        if not weight > 0:
            self.fail(f"{where}.weight", weight, "write a number above 0")
        limit = int(entry.get("device_limit", 0))
        if limit < 0:
            self.fail(f"{where}.device_limit", limit, "write 0 for no limit, or more")
            limit = 0
        self.made.queues.append(
            pb.Queue(
                name=str(entry["name"]),
                parent=str(entry.get("parent") or ""),
                weight=weight,
                tenants=[str(tenant) for tenant in entry.get("tenants") or ()],
                device_limit=limit,
                quotas=self.quotas(f"{where}.quotas", entry.get("quotas") or ()),
                reclaim=self.reclaim(f"{where}.reclaim", entry.get("reclaim", "any")),
                protected_seconds=parse_duration(f"{where}.protected", entry["protected"])
                if entry.get("protected")
                else 0.0,
            )
        )

    def quotas(self, where: str, entries: Sequence[Mapping[str, Any]]) -> list[pb.Quota]:
        made = []
        for position, entry in enumerate(entries):
            at = f"{where}[{position}]"
            for key in entry:
                if key not in QUOTA_FIELDS:
                    self.unknown(f"{at}.{key}", str(key), QUOTA_FIELDS)
            quota = pb.Quota(devices=float(entry.get("devices", 0)))
            if given := str(entry.get("accelerator") or ""):
                model = catalogue.resolve(given)
                if model is None and given not in catalogue.DEVICE_CLASSES:
                    near = ", ".join(catalogue.nearest(given)) or ", ".join(catalogue.DEVICE_CLASSES)
                    self.fail(f"{at}.accelerator", given, f"neither a model of the catalogue nor a class; near: {near}")
                quota.accelerator = model.name if model else given
            for limit in ("borrowing_limit", "lending_limit"):
                if entry.get(limit) is not None:
                    setattr(quota, limit, float(entry[limit]))
            made.append(quota)
        return made

    def reclaim(self, where: str, given: Any) -> Any:
        if given not in RECLAIM:
            self.fail(where, given, f"write one of: {', '.join(RECLAIM)}")
        return RECLAIM.get(given, pb.RECLAIM_ANY)

    def spread(self, where: str, group: Mapping[str, Any], devices: Sequence[pb.Device]) -> None:
        for level in ("numa", "link"):
            domains = int(group.get(level, 0))
            if not 0 <= domains <= len(devices):
                self.fail(f"{where}.{level}", domains, f"write 1 to {len(devices)} domains, or leave it out")
                continue
            for position, device in enumerate(devices if domains else ()):
                device.topology[level] = str(position * domains // len(devices))
        for device in devices:
            device.partitionable = bool(group.get("partitionable", False))

    def pool(self, where: str, entry: Mapping[str, Any]) -> None:
        domains = []
        for position, domain in enumerate(entry.get("power_domains") or ()):
            at = f"{where}.power_domains[{position}]"
            cap = float(domain.get("cap_watts", 0))
            if not domain.get("level") or not domain.get("name") or not cap > 0:
                self.fail(at, domain, "give level, name and cap_watts above 0")
            domains.append(pb.PowerDomain(level=str(domain.get("level")), name=str(domain.get("name")), cap_watts=cap))
        self.made.pools.append(pb.Pool(name=str(entry["name"]), power_domains=domains))

    def node(self, where: str, entry: Mapping[str, Any]) -> None:
        name = str(entry["name"])
        devices: list[pb.Device] = []
        groups = entry.get("devices") or ()
        for group in [groups] if isinstance(groups, Mapping) else groups:
            model = catalogue.resolve(str(group.get("model", "")))
            if model is None:
                near = ", ".join(catalogue.nearest(str(group.get("model", "")))) or "`berth get devices`"
                self.fail(f"{where}.devices.model", group.get("model"), f"not in the catalogue; nearest: {near}")
                continue
            count = int(group.get("count", 1))
            if not 1 <= count <= 1024:
                self.fail(f"{where}.devices.count", count, "write 1 to 1024")
                continue
            for key in group:
                if key not in DEVICE_FIELDS:
                    self.unknown(f"{where}.devices.{key}", str(key), DEVICE_FIELDS)
            made = devices_of(name, model, count, first=len(devices))
            self.spread(f"{where}.devices", group, made)
            devices += made
        self.made.nodes.append(
            pb.Node(
                name=name,
                pool=str(entry.get("pool") or "default"),
                devices=devices,
                cpu_milli=round(parse_quantity(f"{where}.cpu", entry.get("cpu", 0)) * 1000),
                memory_bytes=round(parse_quantity(f"{where}.memory", entry.get("memory", 0))),
                topology={str(level): str(domain) for level, domain in (entry.get("topology") or {}).items()},
                labels={str(key): str(value) for key, value in (entry.get("labels") or {}).items()},
                power_cap_watts=float(entry.get("power_cap", 0)),
                executors=[str(one) for one in entry.get("executors") or ("simulated",)],
                schedulable=True,
                telemetry_exempt=True,
            )
        )
