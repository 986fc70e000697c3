"""Reads the throughput table and a job file. Bad input raises InvalidInput with file, line, column, value, remedy."""

import ast
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from berth.errors import InvalidInput

__all__ = ["Cluster", "Floats", "Ints", "Table", "Workload", "read_jobs", "read_throughputs"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

JOB_COLUMNS = ("job", "arrival_s", "job_type", "scale_factor", "total_steps")
ALONE = "null"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices of each kind, in the order of the command line: a scheduler that goes by kind starts with the first."""

    kinds: tuple[str, ...]
    devices: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.devices)


@dataclass(frozen=True, slots=True)
class Table:
    """Profiles. A shape is a job type with a scale factor, `shapes[i]`.

    `alone`: steps a second of a job by itself, shape (shapes, kinds); 0: cannot run there.
    `paired`: steps a second of the first shape while the second shares the devices, shape (shapes, shapes, kinds);
    0: cannot share. Only equal scale factors share.
    """

    shapes: tuple[tuple[str, int], ...]
    alone: Floats
    paired: Floats


@dataclass(frozen=True, slots=True)
class Workload:
    """The jobs in order of arrival. `arrival` in seconds, `shape` an index into the table, `steps` in total."""

    arrival: Floats
    shape: Ints
    scale: Ints
    steps: Floats


def read_throughputs(path: Path, cluster: Cluster) -> Table:
    """The profiles on the cluster's kinds."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput.of("file", path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput.of(path.name, error, "must be JSON: steps a second by kind, job type, partner") from error
    if not isinstance(content, dict):
        raise InvalidInput.of(path.name, type(content).__name__, "must be an object of device kinds")
    for kind in cluster.kinds:
        if not isinstance(content.get(kind), dict):
            raise InvalidInput.of("--cluster", kind, f"kinds in {path.name}: {', '.join(sorted(content))}")
    names = list(dict.fromkeys(name for kind in cluster.kinds for name in content[kind]))
    shapes = tuple(_shape(path, name) for name in names)
    alone = np.zeros((len(names), len(cluster.kinds)))
    paired = np.zeros((len(names), len(names), len(cluster.kinds)))
    number = {name: index for index, name in enumerate(names)}
    for column, kind in enumerate(cluster.kinds):
        for name, row in content[kind].items():
            where = f"{path.name} {kind} {name}"
            if not isinstance(row, Mapping) or ALONE not in row:
                raise InvalidInput.of(where, "", f"give the steps a second of the job alone as {ALONE!r}")
            alone[number[name], column] = _rate(where, row[ALONE])
            for other, pair in row.items():
                if other in number:
                    if not isinstance(pair, Sequence) or len(pair) != 2:
                        raise InvalidInput.of(f"{where} {other}", pair, "two numbers, the steps a second of each")
                    paired[number[name], number[other], column] = _rate(f"{where} {other}", pair[0])
    # A pair of which one makes no step is none.
    both = (paired > 0) & (paired.transpose(1, 0, 2) > 0)
    return Table(shapes, alone, np.where(both, paired, 0.0))


def read_jobs(path: Path, table: Table, cluster: Cluster) -> Workload:
    """The jobs, in the order of the file, which must be that of their arrival."""
    number = {shape: index for index, shape in enumerate(table.shapes)}
    arrival: list[float] = []
    shape: list[int] = []
    scale: list[int] = []
    steps: list[float] = []
    for line, row in _rows(path):
        where = f"{path.name}:{line}"
        if (name := row["job"]) != str(len(arrival)):
            raise InvalidInput.of(f"{where} job", name, f"{len(arrival)}: jobs are numbered from 0")
        arrival.append(_number(f"{where} arrival_s", row["arrival_s"], least=arrival[-1] if arrival else 0.0))
        factor = row["scale_factor"] or ""
        if not (factor.isascii() and factor.isdigit() and int(factor)):
            raise InvalidInput.of(f"{where} scale_factor", factor, "a whole number of devices, 1 or more")
        key = (row["job_type"] or "", int(factor))
        if key not in number:
            raise InvalidInput.of(f"{where} job_type", key[0], f"with {factor} devices it is not in the throughputs")
        index = number[key]
        if not any(
            rate > 0 and devices >= key[1] for rate, devices in zip(table.alone[index], cluster.devices, strict=True)
        ):
            raise InvalidInput.of(f"{where} job_type", key[0], f"no kind of the cluster runs it on {factor} devices")
        shape.append(index)
        scale.append(key[1])
        steps.append(_number(f"{where} total_steps", row["total_steps"], least=1e-9))
    if not arrival:
        raise InvalidInput.of(path.name, "", "give at least one job")
    return Workload(np.array(arrival), np.array(shape), np.array(scale), np.array(steps))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in JOB_COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InvalidInput.of(f"{path.name}:1", ",".join(missing), "the header lacks these columns")
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise InvalidInput.of("file", path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput.of("file", path, "is not UTF-8 text") from error


def _shape(path: Path, name: str) -> tuple[str, int]:
    try:
        job_type, scale = ast.literal_eval(name)
        return str(job_type), int(scale)
    except (ValueError, SyntaxError, TypeError) as error:
        raise InvalidInput.of(f"{path.name} job type", name, "such as ('A3C', 1): the type and its devices") from error


def _rate(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidInput.of(where, value, "steps a second, 0 or more")
    return float(value)


def _number(where: str, text: str | None, *, least: float) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise InvalidInput.of(where, text or "", f"a number, {least:g} or more")
    return value
