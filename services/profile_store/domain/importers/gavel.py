"""Gavel's throughput tables (OSDI'20, simulation_throughputs.json): training steps a second.

{accelerator: {"('job type', scale factor)": {"null": alone, "('other job', scale factor)": [this, other]}}}

The scale factor is the number of devices. Each row gives one profile alone and one for each other job that
shared the devices; the pair's second figure is the other job's, which has a row of its own.
"""

import ast
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, json_of, number_at
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_gavel"]

ALONE = "null"
UNCONSOLIDATED = "_unconsolidated"
# literal_eval of a longer key costs more than any key is worth.
LONGEST_KEY = 400
BATCH = re.compile(r"(.+) \(batch size (\d{1,9})\)")


def read_gavel(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    """Raises InvalidInput where the document is not such a table."""
    table = _mapping("content", json_of(content))
    profiles: list[Profile] = []
    skipped: list[str] = []
    for kind, jobs in table.items():
        rows = _mapping(kind, jobs)
        if kind.endswith(UNCONSOLIDATED):
            skipped.append(
                f"{kind}: {len(rows)} jobs: devices spread over servers have no key of their own in a profile"
            )
            continue
        idle: Counter[str] = Counter()
        for text, row in rows.items():
            path = f"{kind}[{text}]"
            workload, devices = _job(path, text)
            batch = BATCH.fullmatch(workload)
            for other, value in _mapping(path, row).items():
                steps, partner = _figure(f"{path}[{other}]", other, value, devices)
                if steps == 0:
                    idle["pairs" if partner else "jobs"] += 1
                    continue
                profiles.append(
                    Profile(
                        key=ProfileKey(workload, kind, devices, partner),
                        provenance=Provenance.MEASURED,
                        source=source,
                        task="training",
                        throughput=steps,
                        throughput_unit="steps/s",
                        model=batch[1] if batch else "",
                        batch_size=int(batch[2]) if batch else None,
                    )
                )
        for what, count in sorted(idle.items()):
            skipped.append(f"{kind}: {count} {what}: 0 steps/s, which says that they do not run there")
    if not profiles:
        raise InvalidInput.of("content", f"{len(table)} accelerators", "holds no throughput that can be kept")
    return Imported(tuple(profiles), tuple(skipped))


def _figure(path: str, other: str, value: Any, devices: int) -> tuple[float, str]:
    """Steps a second and the name of the other job, "" where the job was alone."""
    if other == ALONE:
        return number_at(path, value), ""
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidInput.of(path, repr(value), "two numbers were expected: this job's and the other's")
    partner, partner_devices = _job(path, other)
    if partner_devices != devices:
        raise InvalidInput.of(path, partner_devices, f"jobs that share devices share all {devices} of them")
    number_at(path, value[1])
    return number_at(path, value[0]), partner


def _job(path: str, text: str) -> tuple[str, int]:
    remedy = "a key such as \"('ResNet-50 (batch size 64)', 2)\" was expected"
    if len(text) > LONGEST_KEY:
        raise InvalidInput.of(path[:80], f"{len(text)} characters", remedy)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InvalidInput.of(path, text, remedy) from error
    match value:
        case (str(workload), int(devices)) if not isinstance(devices, bool):
            return workload, devices
    raise InvalidInput.of(path, text, remedy)


def _mapping(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise InvalidInput.of(path, repr(value)[:80], "a JSON object with entries was expected")
    return value
