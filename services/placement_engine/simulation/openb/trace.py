"""Reads the two files of the openb trace. Bad input raises InvalidInput with file, line, column, value, remedy."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from berth.errors import InvalidInput

__all__ = ["MILLI", "SLOTS", "Node", "TaskClass", "Workload", "read_nodes", "read_pods"]

MILLI = 1000  # a whole device
SLOTS = 8  # devices on a node at most
NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")


@dataclass(frozen=True, slots=True)
class Node:
    """One node. CPU in thousandths of a core, memory in MiB; `model` is empty without devices."""

    name: str
    cpu: int
    memory: int
    devices: int
    model: str


@dataclass(frozen=True, slots=True, order=True)
class TaskClass:
    """What a task asks for: `devices` with `milli` on each; `milli` below 1000 is a share of one device.

    `models`: the device models it accepts, in order; empty: any.
    """

    cpu: int
    memory: int
    devices: int
    milli: int
    models: tuple[str, ...]

    @property
    def total_milli(self) -> int:
        return self.devices * self.milli

    @property
    def fraction(self) -> bool:
        return self.devices == 1 and self.milli < MILLI


@dataclass(frozen=True, slots=True)
class Workload:
    """`classes`, the share of all tasks that each is, and the class of each task in the order of the tasks' names."""

    classes: tuple[TaskClass, ...]
    shares: tuple[float, ...]
    tasks: tuple[int, ...]


def read_nodes(path: Path) -> tuple[Node, ...]:
    """The fleet, in the order of the file."""
    nodes: dict[str, Node] = {}
    for line, row in _rows(path, NODE_COLUMNS):
        name = _text(path, line, row, "sn")
        if name in nodes:
            raise InvalidInput.of(f"{path.name}:{line} sn", name, "a node stands in the file once")
        devices = _whole(path, line, row, "gpu")
        if devices > SLOTS:
            raise InvalidInput.of(f"{path.name}:{line} gpu", devices, f"at most {SLOTS} devices a node")
        model = _text(path, line, row, "model") if devices else ""
        nodes[name] = Node(
            name, _whole(path, line, row, "cpu_milli"), _whole(path, line, row, "memory_mib"), devices, model
        )
    if not any(node.devices for node in nodes.values()):
        raise InvalidInput.of(path.name, "", "give at least one node with a device")
    return tuple(nodes.values())


def read_pods(path: Path) -> Workload:
    """The tasks as classes of equal requests, sorted by name."""
    named: dict[str, TaskClass] = {}
    for line, row in _rows(path, POD_COLUMNS):
        name = _text(path, line, row, "name")
        if name in named:
            raise InvalidInput.of(f"{path.name}:{line} name", name, "a task stands in the file once")
        devices, milli = _whole(path, line, row, "num_gpu"), _whole(path, line, row, "gpu_milli")
        if devices > SLOTS:
            raise InvalidInput.of(f"{path.name}:{line} num_gpu", devices, f"at most {SLOTS} devices, those of one node")
        if devices and not 0 < milli <= MILLI:
            raise InvalidInput.of(f"{path.name}:{line} gpu_milli", milli, f"1 to {MILLI} where devices are asked for")
        if devices > 1 and milli != MILLI:
            raise InvalidInput.of(f"{path.name}:{line} gpu_milli", milli, f"{MILLI}: several devices are taken whole")
        models = tuple(sorted({one.strip() for one in (row.get("gpu_spec") or "").split("|")} - {""}))
        named[name] = TaskClass(
            _whole(path, line, row, "cpu_milli"),
            _whole(path, line, row, "memory_mib"),
            devices,
            milli if devices else 0,
            models if devices else (),
        )
    if not any(task.devices for task in named.values()):
        raise InvalidInput.of(path.name, "", "give at least one task that asks for a device")
    classes = tuple(sorted(set(named.values())))
    number = {task: index for index, task in enumerate(classes)}
    tasks = tuple(number[named[name]] for name in sorted(named))
    counts = [0] * len(classes)
    for index in tasks:
        counts[index] += 1
    return Workload(classes, tuple(count / len(tasks) for count in counts), tasks)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise InvalidInput.of(f"{path.name}:1", ",".join(missing), "the header lacks these columns")
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise InvalidInput.of("file", path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput.of("file", path, "is not UTF-8 text") from error


def _text(path: Path, line: int, row: dict[str, str], column: str) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise InvalidInput.of(f"{path.name}:{line} {column}", "", "must not be empty")
    return value


def _whole(path: Path, line: int, row: dict[str, str], column: str) -> int:
    value = (row[column] or "").strip()
    if not (value.isascii() and value.isdigit()):
        raise InvalidInput.of(f"{path.name}:{line} {column}", value, "a whole number, 0 or more")
    return int(value)
