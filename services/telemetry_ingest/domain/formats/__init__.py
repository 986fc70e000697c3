"""Pages in, observations out: a registry of exporter formats, by name and by what their pages look like."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from berth.errors import InvalidInput
from telemetry_ingest.domain.counters import Counters
from telemetry_ingest.domain.exposition import PageReader, Sample, refuse_foreign
from telemetry_ingest.domain.formats import amd, dcgm, gaudi, host, intel, sambanova, triton
from telemetry_ingest.domain.formats.context import Context
from telemetry_ingest.domain.model import Observation

__all__ = ["AUTO", "FORMATS", "Format", "check_format", "detect", "normalise"]

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Format:
    """`wanted`: names on the page to canonical names. `markers`: how lines begin that tell the format."""

    name: str
    wanted: Mapping[str, str]
    markers: tuple[str, ...]
    normalise: Callable[[tuple[Sample, ...], Context], Observation]


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(dcgm.NAME, dcgm.WANTED, dcgm.MARKERS, dcgm.normalise),
        Format(gaudi.NAME, gaudi.WANTED, gaudi.MARKERS, gaudi.normalise),
        Format(intel.NAME, intel.WANTED, intel.MARKERS, intel.normalise),
        Format(intel.HW_NAME, intel.HW_WANTED, intel.HW_MARKERS, intel.normalise_hw),
        Format(sambanova.NAME, sambanova.WANTED, sambanova.MARKERS, sambanova.normalise),
        Format(sambanova.XRDU_NAME, sambanova.XRDU_WANTED, sambanova.XRDU_MARKERS, sambanova.normalise_xrdu),
        Format(amd.NAME, amd.WANTED, amd.MARKERS, amd.normalise),
        Format(host.NAME, host.WANTED, host.MARKERS, host.normalise),
        # Never detected: whether a host's CPUs take work is the operator's to say.
        Format(host.CPU_NAME, host.WANTED, (), host.normalise_cpu),
        Format(host.KEPLER_NAME, host.KEPLER_WANTED, host.KEPLER_MARKERS, host.normalise_kepler),
        Format(triton.NAME, triton.WANTED, triton.MARKERS, triton.normalise),
    )
}
_MARKS = {
    entry.name: re.compile("^(?:" + "|".join(map(re.escape, entry.markers)) + ")", re.MULTILINE)
    for entry in FORMATS.values()
    if entry.markers
}


def check_format(name: str) -> str:
    """`name` where it is known or "auto"; "" is "auto". Raises InvalidInput."""
    if name in ("", AUTO):
        return AUTO
    if name not in FORMATS:
        raise InvalidInput.of("format", name, f"use one of: {AUTO}, {', '.join(FORMATS)}")
    return name


def detect(text: str) -> Format:
    """The format whose metrics the page holds. Raises InvalidInput where it is none of ours."""
    for name, mark in _MARKS.items():
        # A plain search first: it is many times faster than the expression, and mostly says no.
        if any(marker in text for marker in FORMATS[name].markers) and mark.search(text):
            return FORMATS[name]
    line = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    raise InvalidInput.of(
        "page", line[:80], f"no metric of a known exporter; known formats: {', '.join(FORMATS)}; check the url"
    )


def normalise(
    text: str, *, format: str = AUTO, node: str, now: float, counters: Counters, content_type: str = ""
) -> Observation:
    """One page of one target as an Observation.

    `now` is monotonic, in seconds; `counters` is the target's memory between pages. Raises InvalidInput that says
    what is wrong with the page; `counters` may have moved then, which costs one rate at most.
    """
    refuse_foreign(text, content_type)
    entry = detect(text) if check_format(format) == AUTO else FORMATS[format]
    reader = counters.readers.get(entry.name)
    if reader is None:
        reader = counters.readers[entry.name] = PageReader(entry.wanted)
    page = reader.read(text)
    if not page.samples:
        raise InvalidInput.of(
            "format", entry.name, "the page holds no metric of this format: check the url, or set format to auto"
        )
    observation = entry.normalise(page.samples, Context(node, now, counters))
    identities = [device.device_id for device in observation.devices]
    if len(set(identities)) != len(identities):
        twice = next(identity for identity in identities if identities.count(identity) > 1)
        raise InvalidInput.of("device", twice, "two devices of the page share this identity")
    return replace(observation, source_time=page.source_time) if page.source_time else observation
