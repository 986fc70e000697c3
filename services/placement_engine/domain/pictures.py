"""The complete state of an engine as data, captured and revived.

A capture walks the graph of objects from the engine and copies what can change (facts, columns, queues, caches
that are told to the outside), so nothing that a part of the core comes to hold is left out in silence: a value
that cannot be kept raises SnapshotError with its path. Messages are immutable and are shared with the running
engine. What follows from the rest is named in DERIVED and made anew.

Only classes of this package are made, without their constructors: to revive runs no code.
"""

import gc
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

import numpy as np

from placement_engine.domain.engine import Engine

__all__ = ["DERIVED", "PACKAGE", "Part", "Picture", "Ref", "SnapshotError", "attributes_of", "capture", "revive"]

PACKAGE = "placement_engine.domain"

DERIVED: dict[str, Callable[[], Any]] = {
    "tables.Tables._tables": OrderedDict,
    "tables.Tables._counts": tuple,
    "fleet.Fleet._rank": lambda: None,
    "selection.Selection._reaches": dict,
    "selection.Selection._keys": dict,
    "selection.Selection._taints": lambda: None,
}
"""Attributes that are caches of other state, and what they start as."""

SCALARS = frozenset({type(None), bool, int, float, str, bytes})
MESSAGES = frozenset({"model", "node_constraints", "policy", "shapes", "readouts"})
"""Modules whose frozen classes hold nothing that changes."""


class SnapshotError(ValueError):
    """A state that cannot be kept, or a snapshot that cannot be read; says where and what to do."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for the part of that number."""

    number: int


@dataclass(frozen=True, slots=True)
class Part:
    """One mutable object. `kind` is the class; `values` are its items (a dict's keys and values in turn), the
    attributes of an instance in the order of `attributes_of`, or an array."""

    kind: type
    values: Any
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """An engine at one moment: parts by number, the engine is number 0."""

    parts: tuple[Part, ...]


def capture(engine: Engine) -> Picture:
    """The engine as it is now; later changes of the engine do not show. SnapshotError: a value cannot be kept."""
    walk = _Walk()
    collects = gc.isenabled()
    gc.disable()  # nothing becomes garbage here, and to look for it takes longer than the walk
    try:
        walk.value(engine, "engine")
        walk.finish()
    finally:
        if collects:
            gc.enable()
    return Picture(tuple(walk.parts))


def revive(picture: Picture) -> Engine:
    """An engine of its own with the captured state: equal digest, equal decisions from here on."""
    made = [_shell(part) for part in picture.parts]
    for part, shell in zip(picture.parts, made, strict=True):
        _fill(part, shell, made)
    engine = made[0]
    if not isinstance(engine, Engine):
        raise SnapshotError(f"the snapshot holds a {type(engine).__name__}, not an engine")
    return engine


def name_of(kind: type) -> str:
    """`fleet.Fleet`: how a class of the core is named in DERIVED and in files."""
    return f"{kind.__module__.removeprefix(PACKAGE + '.')}.{kind.__qualname__}"


@cache
def attributes_of(kind: type) -> tuple[str, ...] | None:
    """The attributes that every instance of a slotted class has; None: an instance has a __dict__."""
    if is_dataclass(kind) and "__slots__" in kind.__dict__:
        return tuple(field.name for field in fields(kind))
    if any("__slots__" not in one.__dict__ for one in kind.__mro__[:-1]):
        return None
    return tuple(name for one in reversed(kind.__mro__) for name in one.__dict__.get("__slots__", ()))


def _of_core(kind: type) -> bool:
    return kind.__module__.startswith(PACKAGE + ".")


@cache
def _is_frozen(kind: type) -> bool:
    return is_dataclass(kind) and _of_core(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]


@cache
def _is_message(kind: type) -> bool:
    return _is_frozen(kind) and kind.__module__.rpartition(".")[2] in MESSAGES


@cache
def _fresh(kind: type, names: tuple[str, ...]) -> tuple[tuple[int, Callable[[], Any]], ...]:
    known = [(position, DERIVED.get(f"{name_of(kind)}.{name}")) for position, name in enumerate(names)]
    return tuple((position, fresh) for position, fresh in known if fresh is not None)


_PENDING = Part(type(None), ())


class _Walk:
    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._numbers: dict[int, Ref] = {}
        self._todo: list[tuple[int, Any, str]] = []
        self._kept: list[Any] = []

    def value(self, value: Any, path: str) -> Any:
        """What stands for the value in a part: itself where nothing in it can change, else a Ref."""
        kind: Any = type(value)
        if kind in SCALARS or _is_message(kind) or isinstance(value, (Enum, np.generic)):
            return value
        known = self._numbers.get(id(value))
        if known is not None:
            return known
        if kind is tuple:
            if SCALARS.issuperset(map(type, value)):
                return value
            items = tuple(self.value(one, path) for one in value)
            return value if all(a is b for a, b in zip(items, value, strict=True)) else Part(tuple, items)
        if kind is frozenset or kind is MappingProxyType:
            return value
        if _is_frozen(kind):
            names = attributes_of(kind) or tuple(vars(value))
            values = [self.value(getattr(value, name), f"{path}.{name}") for name in names]
            if all(now is getattr(value, name) for name, now in zip(names, values, strict=True)):
                return value
            ref = self._numbers[id(value)] = Ref(len(self.parts))
            self.parts.append(Part(kind, values, names))
            return ref
        if kind is MethodType and _of_core(type(value.__self__)):
            return Part(MethodType, (self.value(value.__self__, path), value.__name__))
        if kind is FunctionType and value.__module__.startswith(PACKAGE) and "<" not in value.__qualname__:
            return Part(FunctionType, (value.__module__, value.__qualname__))
        if kind is type and _of_core(value):
            return Part(type, (name_of(value),))
        if kind in _CONTAINERS or kind is np.ndarray or _of_core(kind):
            # What is inside waits its turn: a chain of facts may be longer than the stack.
            ref = self._numbers[id(value)] = Ref(len(self.parts))
            self.parts.append(_PENDING)
            self._todo.append((ref.number, value, path))
            return ref
        raise SnapshotError(
            f"{path}: a {kind.__module__}.{kind.__qualname__} cannot be kept in a snapshot: hold plain data, or name "
            f"the attribute in pictures.DERIVED if it follows from other state"
        )

    def finish(self) -> None:
        while self._todo:
            number, value, path = self._todo.pop()
            self.parts[number] = self._part(value, path)
        # A subclass adds what watches the engine, not what it decides by: that is in the attributes alone.
        root = self.parts[0]
        self.parts[0] = Part(Engine, root.values, root.names)

    def _part(self, value: Any, path: str) -> Part:
        kind: Any = type(value)
        if kind is np.ndarray:
            return Part(kind, value.copy())
        if kind in _CONTAINERS:
            take = self.value
            if isinstance(value, dict):
                factory = getattr(value, "default_factory", None)
                if factory not in _FACTORIES:
                    raise SnapshotError(f"{path}: a defaultdict of {factory!r} cannot be kept")
                flat: list[Any] = [factory] if kind is defaultdict else []
                for key, item in value.items():
                    flat.append(take(key, path))
                    flat.append(take(item, path))
                    if type(flat[-2]) is Ref:
                        raise SnapshotError(f"{path}: the key {key!r:.80} can change: use a frozen one")
                return Part(kind, flat)
            items = sorted(value) if kind is set else value
            return Part(kind, [take(one, path) for one in items])
        names = attributes_of(kind)
        if names is None:
            names = tuple(vars(value))
        values = [getattr(value, name) for name in names]
        derived = _fresh(kind, names)
        for position, fresh in derived:
            values[position] = fresh()
            self._kept.append(values[position])  # while it lives its id is its own
        for position, attribute in enumerate(values):
            if type(attribute) not in SCALARS:
                values[position] = self.value(attribute, f"{path}.{names[position]}")
        return Part(kind, values, names)


_CONTAINERS = frozenset({dict, list, set, deque, OrderedDict, defaultdict, Counter})
_FACTORIES = frozenset({int, float, list, dict, set, None})


def _shell(part: Part) -> Any:
    if part.kind is np.ndarray:
        return part.values.copy()
    if part.kind is defaultdict:
        return defaultdict(part.values[0])
    if part.kind in _CONTAINERS:
        return part.kind()
    return object.__new__(part.kind)


def _fill(part: Part, shell: Any, made: list[Any]) -> None:
    kind, values = part.kind, part.values

    def take(value: Any) -> Any:
        if type(value) is Ref:
            return made[value.number]
        return _rebuilt(value, take) if type(value) is Part else value

    if kind is np.ndarray:
        return
    if isinstance(shell, dict):
        start = 1 if kind is defaultdict else 0
        for key, value in zip(values[start::2], values[start + 1 :: 2], strict=True):
            shell[take(key)] = take(value)
    elif isinstance(shell, set):
        shell.update(map(take, values))
    elif isinstance(shell, (list, deque)):
        shell.extend(map(take, values))
    else:
        put = object.__setattr__
        for name, value in zip(part.names, values, strict=True):
            put(shell, name, value if type(value) in SCALARS else take(value))


def _rebuilt(part: Part, take: Callable[[Any], Any]) -> Any:
    """What has no identity of its own: tuples, functions, classes, an empty cache."""
    if part.kind is tuple:
        return tuple(map(take, part.values))
    if part.kind is MethodType:
        return getattr(take(part.values[0]), part.values[1])
    if part.kind is FunctionType:
        return getattr(sys.modules[part.values[0]], part.values[1])
    if part.kind is type:
        return class_named(part.values[0])
    return part.kind()


def class_named(name: str) -> type:
    """The class of the core of that name. SnapshotError: there is none."""
    module, _, qualname = name.partition(".") if name.count(".") == 1 else name.rpartition(".")
    found: Any = sys.modules.get(f"{PACKAGE}.{module}")
    found = getattr(found, qualname, None)
    if not isinstance(found, type) or not _of_core(found):
        raise SnapshotError(f"the snapshot speaks of {name}, which this version of Berth has not")
    return found


PLAIN = {kind.__name__: kind for kind in (*_CONTAINERS, tuple, MappingProxyType)}
"""Kinds of containers by the name that files use."""
