"""The targets file: which nodes there are, and where they are scraped.

YAML or JSON, a list of nodes (or a mapping with the one key `nodes`):

    - node: gpu-007                      # required, unique
      pool: default
      topology: {rack: r01, zone: a}
      labels: {owner: vision}
      cpu_milli: 64000                   # thousandths of a core
      memory_bytes: 549755813888
      power_cap_watts: 6500              # budget of the node; leave out where there is none
      executors: [simulated]
      triton: "http://10.0.0.7:8000"     # its Triton server; or {url: ..., metrics: ...}
      scrape:
        - {url: "http://10.0.0.7:9400/metrics", format: dcgm}
        - {url: "http://10.0.0.7:9100/metrics", format: node_exporter}

`format` is a name of the registry, or left out: then the page decides. `node_exporter_cpu` makes the host's CPUs
a device that takes work. A node that leaves the file is removed from the fleet.

A node with `triton` offers the executor `triton` while that server says that it is ready. Its metrics are scraped from
port 8002 of the same host unless `metrics` says otherwise; `metrics: ""`: they are not. Of a node that a Kubernetes
cluster declares, only `power_cap_watts`, `scrape` and `triton` count.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from berth.errors import FieldError, InvalidInput
from telemetry_ingest.domain.formats import check_format

__all__ = ["NodeDeclaration", "Target", "parse_targets"]

NODE_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,251}[a-zA-Z0-9])?")
KEYS = frozenset(
    (
        "node",
        "pool",
        "topology",
        "labels",
        "cpu_milli",
        "memory_bytes",
        "power_cap_watts",
        "executors",
        "scrape",
        "triton",
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """A page that is scraped for a node."""

    node: str
    url: str
    format: str

    @property
    def source(self) -> str:
        """What the target is called among the node's sources."""
        return f"{self.format} {self.url}"


@dataclass(frozen=True, slots=True)
class NodeDeclaration:
    """What the operator says of a node. 0: not said. `triton`: address of its Triton server, whose metrics are among
    the targets."""

    name: str
    pool: str = "default"
    topology: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    power_cap_watts: float = 0.0
    executors: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    triton: str = ""


def parse_targets(document: object) -> tuple[NodeDeclaration, ...]:
    """The nodes of a decoded targets file. Raises InvalidInput with every error found."""
    if isinstance(document, Mapping) and set(document) == {"nodes"}:
        document = document["nodes"]
    if document is None:
        document = []
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise InvalidInput.of("targets", type(document).__name__, "write a list of nodes, each with the key node")
    errors: list[FieldError] = []
    found: dict[str, NodeDeclaration] = {}
    urls: dict[str, str] = {}
    for position, entry in enumerate(document):
        where = f"[{position}]"
        try:
            declaration = _node(where, entry)
            if declaration.name in found:
                raise InvalidInput.of(f"{where}.node", declaration.name, "stands twice; keep one entry a node")
            for target in declaration.targets:
                owner = urls.setdefault(target.url, declaration.name)
                if owner != declaration.name:
                    raise InvalidInput.of(
                        f"{where}.scrape", target.url, f"is node {owner!r}'s page; a page is one node's"
                    )
        except InvalidInput as error:
            errors.extend(error.errors)
            continue
        found[declaration.name] = declaration
    if errors:
        raise InvalidInput(errors)
    return tuple(found.values())


def _node(where: str, entry: object) -> NodeDeclaration:
    if not isinstance(entry, Mapping):
        raise InvalidInput.of(where, entry, "write a mapping with the key node")
    for key in entry:
        if key not in KEYS:
            raise InvalidInput.of(f"{where}.{key}", entry[key], f"is no known key; use: {', '.join(sorted(KEYS))}")
    name = entry.get("node")
    if not isinstance(name, str) or not NODE_NAME.fullmatch(name):
        raise InvalidInput.of(
            f"{where}.node", name, "write a name of letters, digits, dots and dashes, at most 253 characters"
        )
    where = f"{where} ({name})"
    executors = entry.get("executors") or []
    if not isinstance(executors, list) or not all(isinstance(kind, str) and kind for kind in executors):
        raise InvalidInput.of(f"{where}.executors", executors, "write a list of names, for example [simulated]")
    pool = entry.get("pool", "default")
    if not isinstance(pool, str) or not pool:
        raise InvalidInput.of(f"{where}.pool", pool, "write the name of a pool, or leave it out")
    triton, metrics = _triton(f"{where}.triton", name, entry.get("triton"))
    scrape = entry.get("scrape") or []
    if not isinstance(scrape, list):
        raise InvalidInput.of(f"{where}.scrape", scrape, "write a list of {url, format}")
    return NodeDeclaration(
        name=name,
        pool=pool,
        topology=_pairs(f"{where}.topology", entry.get("topology")),
        labels=_pairs(f"{where}.labels", entry.get("labels")),
        cpu_milli=int(_amount(f"{where}.cpu_milli", entry.get("cpu_milli"))),
        memory_bytes=int(_amount(f"{where}.memory_bytes", entry.get("memory_bytes"))),
        power_cap_watts=_amount(f"{where}.power_cap_watts", entry.get("power_cap_watts")),
        executors=tuple(executors),
        targets=(*(_target(f"{where}.scrape[{index}]", name, item) for index, item in enumerate(scrape)), *metrics),
        triton=triton,
    )


def _triton(where: str, node: str, item: object) -> tuple[str, tuple[Target, ...]]:
    """The server's address, and where its metrics are."""
    if item is None:
        return "", ()
    if isinstance(item, str):
        item = {"url": item}
    if not isinstance(item, Mapping) or "url" not in item or not set(item) <= {"url", "metrics"}:
        raise InvalidInput.of(where, item, "write the server's address, or {url: ..., metrics: ...}")
    url = _address(f"{where}.url", item["url"], "http://host:8000").rstrip("/")
    metrics = item.get("metrics")
    if metrics is None:
        host = str(urlsplit(url).hostname)
        metrics = f"http://{f'[{host}]' if ':' in host else host}:8002/metrics"
    if metrics == "":
        return url, ()
    return url, (Target(node, _address(f"{where}.metrics", metrics, "http://host:8002/metrics"), "triton"),)


def _target(where: str, node: str, item: object) -> Target:
    if isinstance(item, str):
        item = {"url": item}
    if not isinstance(item, Mapping) or not set(item) <= {"url", "format"}:
        raise InvalidInput.of(where, item, "write {url: ..., format: ...}")
    url, format = item.get("url"), item.get("format", "auto")
    url = _address(f"{where}.url", url, "http://host:9400/metrics")
    try:
        return Target(node, url, check_format(str(format)))
    except InvalidInput as error:
        raise InvalidInput.of(f"{where}.format", format, error.errors[0].remedy) from None


def _address(where: str, url: object, example: str) -> str:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        sound = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not isinstance(url, str):
        raise InvalidInput.of(where, url, f"write an http or https address, for example {example}")
    return url


def _pairs(where: str, value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping) or any(isinstance(inner, Mapping | list) for inner in value.values()):
        raise InvalidInput.of(where, value, "write a mapping of names to texts")
    return tuple(sorted((str(key), str(inner)) for key, inner in value.items()))


def _amount(where: str, value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidInput.of(where, value, "write a number of at least 0, or leave it out")
    return value
