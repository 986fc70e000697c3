"""The accelerator catalogue: what is known of each model, with its source; None is unknown.

`accelerators.yaml` beside this module is the only place where the figures stand.
"""

import difflib
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

import yaml

__all__ = [
    "DEVICE_CLASSES",
    "Accelerator",
    "Partition",
    "Peak",
    "Price",
    "by_name",
    "load",
    "nearest",
    "parse",
    "resolve",
]

DEVICE_CLASSES = ("GPU", "ASIC", "LPU", "WAFER", "RDU", "CPU")

GIGA = 10**9
TERA = 10**12
CONFIDENCES = ("S", "A", "U")
COMPUTE_SLICES, MEMORY_SLICES = 7, 8
# fmt: off
KEYS = frozenset([
    "name", "vendor", "class", "stack", "memory_gb", "memory_kind", "bandwidth_tb_s", "peaks",
    "tdp_watts", "idle_watts", "link_gb_s", "link_kind", "scale_up", "prices", "confidence",
    "sources", "partitions", "aliases", "note",
])
# fmt: on


@dataclass(frozen=True, slots=True)
class Peak:
    """TFLOPS or TOPS at a precision, "fp16" (also bf16), "fp8" or "int8"; `sparse`: with structured sparsity."""

    precision: str
    tera_operations: float
    sparse: bool


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars an hour for one device on demand."""

    per_hour: float
    provider: str


@dataclass(frozen=True, slots=True)
class Partition:
    """A hardware cut: slices it takes of 7 for compute and of 8 for memory, and its allowed first memory slices."""

    name: str
    compute_slices: int
    memory_slices: int
    starts: tuple[int, ...]
    # Memory slices' part of the device's; None where that is unknown.
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One model. Bytes, bytes a second, W and dollars are per device; None is unknown."""

    name: str
    vendor: str
    device_class: str
    stack: str
    memory_bytes: int | None
    memory_kind: str
    memory_bandwidth: float | None
    peaks: tuple[Peak, ...]
    tdp_watts: float | None
    idle_watts: float | None
    link_bandwidth: float | None
    link_kind: str
    scale_up_size: int | None
    prices: tuple[Price, ...]
    confidence: str
    sources: tuple[str, ...]
    partitions: tuple[Partition, ...]
    aliases: tuple[str, ...]
    # Kubernetes resource of the device plugin; "": the operator names it.
    kubernetes_resource: str
    note: str

    @property
    def price_per_hour(self) -> float | None:
        """The lowest price."""
        return min((price.per_hour for price in self.prices), default=None)

    @property
    def price_source(self) -> str:
        """The provider of the lowest price; "" where there is none."""
        return min(self.prices, key=lambda price: price.per_hour).provider if self.prices else ""

    def peak(self, precision: str) -> float | None:
        """The dense peak in TFLOPS or TOPS; None where unknown or known only with sparsity."""
        wanted = "fp16" if precision.casefold() in {"bf16", "bfloat16", "float16"} else precision.casefold()
        for peak in self.peaks:
            if peak.precision == wanted and not peak.sparse:
                return peak.tera_operations
        return None


@cache
def load() -> tuple[Accelerator, ...]:
    """Every entry, in the file's order."""
    return parse((importlib.resources.files("berth") / "accelerators.yaml").read_text(encoding="utf-8"))


def by_name(name: str) -> Accelerator | None:
    """The entry of that catalogue name, whatever its case."""
    return _names().get(name.strip().casefold())


def resolve(reported_name: str) -> Accelerator | None:
    """The entry that an exporter's model name means; None where no entry has it as name or alias."""
    return _aliases().get(_bare(reported_name))


def nearest(name: str, count: int = 3) -> list[str]:
    """Catalogue names that look or are called most alike, best first."""
    wanted = _bare(name)
    known = _aliases()
    # What holds the typed name is meant more often than difflib's ratio of short names says.
    close = sorted((alias for alias in known if len(wanted) >= 2 and wanted in alias), key=len)
    alike = difflib.get_close_matches(wanted, known, n=count * 4, cutoff=0.5)
    # A model's letters and first digits say more than how many characters two names share anywhere.
    begins = {
        alias: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, alias, strict=False)))
        for alias in alike
    }
    close += sorted(alike, key=lambda alias: -begins[alias] if begins[alias] > 1 else 0)
    return list(dict.fromkeys(known[alias].name for alias in close))[:count]


def parse(text: str) -> tuple[Accelerator, ...]:
    """The entries of a catalogue file. Raises ValueError that names entry, key and remedy."""
    document = yaml.safe_load(text)
    sources, stacks, layouts = document["sources"], document["stacks"], document.get("layouts", {})
    entries = tuple(_entry(raw, sources, stacks, layouts) for raw in document["accelerators"])
    owners: dict[str, str] = {}
    for entry in entries:
        for alias in (entry.name, *entry.aliases):
            owner = owners.setdefault(_bare(alias), entry.name)
            if owner != entry.name:
                raise ValueError(f"{entry.name}: aliases: {alias!r} means {owner} already: keep one")
        if len({_bare(alias) for alias in (entry.name, *entry.aliases)}) <= len(entry.aliases):
            raise ValueError(f"{entry.name}: aliases: one repeats the name or another alias: drop it")
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("accelerators: a name stands twice: merge the entries")
    return entries


def _entry(
    raw: Mapping[str, Any], sources: Mapping[str, str], stacks: Mapping[str, str | None], layouts: Mapping[str, Any]
) -> Accelerator:
    name = raw.get("name", "?")
    if unknown := sorted(set(raw) - KEYS):
        raise ValueError(f"{name}: unknown keys {unknown}: one of {sorted(KEYS)}")
    for key, allowed in (("class", DEVICE_CLASSES), ("stack", tuple(stacks)), ("confidence", CONFIDENCES)):
        if raw.get(key) not in allowed:
            raise ValueError(f"{name}: {key}: {raw.get(key)!r}: one of {', '.join(allowed)}")
    if missing := [key for key in raw["sources"] if key not in sources]:
        raise ValueError(f"{name}: sources: {missing}: declare them under `sources` first")
    memory = _whole(_positive(raw, "memory_gb", GIGA))
    return Accelerator(
        name=raw["name"],
        vendor=raw["vendor"],
        device_class=raw["class"],
        stack=raw["stack"],
        memory_bytes=memory,
        memory_kind=raw.get("memory_kind", ""),
        memory_bandwidth=_positive(raw, "bandwidth_tb_s", TERA),
        peaks=tuple(_peak(name, precision, value) for precision, value in raw.get("peaks", {}).items()),
        tdp_watts=_positive(raw, "tdp_watts"),
        idle_watts=_positive(raw, "idle_watts"),
        link_bandwidth=_positive(raw, "link_gb_s", GIGA),
        link_kind=raw.get("link_kind", ""),
        scale_up_size=_whole(_positive(raw, "scale_up")),
        prices=tuple(Price(float(price["usd"]), price["provider"]) for price in raw.get("prices", ())),
        confidence=raw["confidence"],
        sources=tuple(sources[key] for key in raw["sources"]),
        partitions=tuple(_partition(name, one, layouts, memory) for one in raw.get("partitions", {}).items()),
        aliases=tuple(raw.get("aliases", ())),
        kubernetes_resource=stacks[raw["stack"]] or "",
        note=raw.get("note", ""),
    )


def _partition(name: str, named: tuple[str, str], layouts: Mapping[str, Any], memory: int | None) -> Partition:
    layout = layouts.get(named[1])
    if layout is None:
        raise ValueError(f"{name}: partitions.{named[0]}: {named[1]!r}: one of {', '.join(layouts)}")
    compute, slices, starts = layout["compute"], layout["memory"], tuple(layout["starts"])
    if not (1 <= compute <= COMPUTE_SLICES and starts and all(0 <= one <= MEMORY_SLICES - slices for one in starts)):
        raise ValueError(f"layouts.{named[1]}: does not lie within {COMPUTE_SLICES} and {MEMORY_SLICES} slices")
    return Partition(named[0], compute, slices, starts, None if memory is None else memory * slices // MEMORY_SLICES)


def _peak(name: str, precision: str, value: float | Mapping[str, Any]) -> Peak:
    tera, sparse = (value["tera"], value["sparse"]) if isinstance(value, Mapping) else (value, False)
    if tera <= 0:
        raise ValueError(f"{name}: peaks.{precision}: {tera!r}: leave it out where it is unknown")
    return Peak(precision, float(tera), bool(sparse))


def _positive(raw: Mapping[str, Any], key: str, unit: int = 1) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{raw.get('name')}: {key}: {value!r}: a number above 0; leave it out where it is unknown")
    # Rounded: 3.35 x 10^12 must not carry the binary fraction of 3.35.
    return float(round(value * unit, 3))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _bare(name: str) -> str:
    """Letters and digits only, without (R) and (TM): exporters differ in the rest."""
    return re.sub(r"[^0-9a-z]", "", re.sub(r"\((?:r|tm|c)\)", "", name.casefold()))


@cache
def _names() -> dict[str, Accelerator]:
    return {entry.name.casefold(): entry for entry in load()}


@cache
def _aliases() -> dict[str, Accelerator]:
    return {_bare(alias): entry for entry in load() for alias in (entry.name, *entry.aliases)}
