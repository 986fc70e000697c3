"""The openb trace (Alibaba cluster-trace-gpu-v2023) as nodes and jobs of Berth."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from berth import catalogue
from berth.cli.declarations import devices_of
from berth.errors import InvalidInput
from berth.v1 import fleet_pb2, jobs_pb2

__all__ = ["percentile", "read_nodes", "read_pods"]

MIB = 1024 * 1024
NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")


def read_nodes(path: Path, *, pool: str = "default") -> list[fleet_pb2.Node]:
    """Static nodes with the simulated executor, for which no telemetry is expected. Raises InvalidInput."""
    nodes = []
    for number, row in _rows(path, NODE_COLUMNS):
        count = _whole(path, number, row, "gpu")
        devices: list[fleet_pb2.Device] = []
        if count:
            model = catalogue.resolve(row["model"])
            if model is None:
                near = ", ".join(catalogue.nearest(row["model"])) or "see accelerators.yaml"
                raise InvalidInput.of(
                    f"{path.name}:{number} model", row["model"], f"not in the catalogue; nearest: {near}"
                )
            devices = devices_of(row["sn"], model, count)
        nodes.append(
            fleet_pb2.Node(
                name=row["sn"],
                pool=pool,
                devices=devices,
                cpu_milli=_whole(path, number, row, "cpu_milli"),
                memory_bytes=_whole(path, number, row, "memory_mib") * MIB,
                executors=["simulated"],
                schedulable=True,
                telemetry_exempt=True,
                labels={"trace": "openb"},
            )
        )
    return nodes


def read_pods(
    path: Path, *, tenant: str, pool: str = "default", queue: str = "default", hold_seconds: float = 5.0, limit: int = 0
) -> list[jobs_pb2.JobSpec]:
    """Jobs in the order of the trace, each simulated for `hold_seconds`. Raises InvalidInput."""
    specs: list[jobs_pb2.JobSpec] = []
    for number, row in _rows(path, POD_COLUMNS):
        if limit and len(specs) == limit:
            break
        count, milli = _whole(path, number, row, "num_gpu"), _whole(path, number, row, "gpu_milli")
        spec = jobs_pb2.JobSpec(
            name=row["name"],
            tenant=tenant,
            queue=queue,
            pool=pool,
            kind=jobs_pb2.JOB_KIND_BATCH,
            replicas=1,
            executor="simulated",
            labels={"trace": "openb"},
        )
        spec.resources.cpu_milli = _whole(path, number, row, "cpu_milli")
        spec.resources.memory_bytes = _whole(path, number, row, "memory_mib") * MIB
        if count == 1 and 0 < milli < 1000:
            spec.resources.device_milli = milli
        else:
            spec.resources.devices = count
        for name in filter(None, (row.get("gpu_spec") or "").split("|")):
            model = catalogue.resolve(name)
            spec.accelerators.models.append(model.name if model else name)
        spec.expected_duration.FromMilliseconds(round(hold_seconds * 1000))
        specs.append(spec)
    return specs


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of the values lie (nearest rank); None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise InvalidInput.of(
                    path.name, ",".join(reader.fieldnames or ()), f"needs the columns {', '.join(missing)}"
                )
            return [(number, row) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.of("file", str(path), f"name a CSV file that can be read: {error}") from error


def _whole(path: Path, number: int, row: dict[str, str], column: str) -> int:
    text = row.get(column) or "0"
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise InvalidInput.of(f"{path.name}:{number} {column}", text, "a whole number from 0")
    return value
