"""Values of the core as JSON, to the last bit: what is read back is equal and of the same types.

Scalars are themselves; all else is a list that begins with a tag:

    ["f", "inf"]                a float that JSON has not           ["y", base64]               bytes
    ["t", ...]                  tuple                               ["e", class, name]          enum member
    ["d", key, value, ...]      dict ("p": read-only)               ["s", ...]                  frozenset
    ["l", ...]                  list                                ["n", dtype, value]         numpy scalar
    ["m", number]               message of that number              ["a", dtype, shape, data]   array, deflated
    ["r", number]               part of that number                 ["v", kind, values...]      value without identity

A document has its tables beside its values: `classes` ([name, attributes]) and `messages` ([class, values...]),
each message once however often it is used.
"""

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

import numpy as np

from placement_engine.domain.pictures import (
    PLAIN,
    Part,
    Picture,
    Ref,
    SnapshotError,
    attributes_of,
    class_named,
    name_of,
)

__all__ = ["FORMAT", "Reader", "Writer"]

FORMAT = 1
_KINDS = {**PLAIN, "ndarray": np.ndarray, "method": MethodType, "function": FunctionType, "class": type}
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}
_FACTORIES: dict[str, Any] = {"int": int, "float": float, "list": list, "dict": dict, "set": set, "": None}


class Writer:
    """Writes values and keeps the tables that they use."""

    def __init__(self) -> None:
        self.classes: list[list[Any]] = []
        self.messages: list[list[Any]] = []
        self._class_numbers: dict[tuple[type, tuple[str, ...]], int] = {}
        self._message_numbers: dict[int, int] = {}
        self._kept: list[object] = []
        """Written messages: while they live their ids are theirs."""

    def tables(self) -> dict[str, Any]:
        return {"format": FORMAT, "classes": self.classes, "messages": self.messages}

    def value(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is int or kind is str:
            return value
        if kind is float:
            return value if math.isfinite(value) else ["f", str(value)]
        if kind is Ref:
            return ["r", value.number]
        if kind is tuple:
            return ["t", *map(self.value, value)]
        if kind is dict or kind is MappingProxyType:
            return ["d" if kind is dict else "p", *(self.value(one) for pair in value.items() for one in pair)]
        if kind is list:
            return ["l", *map(self.value, value)]
        if kind is frozenset:
            return ["s", *map(self.value, sorted(value))]
        if kind is Part:
            return ["v", _kind_name(value.kind), *map(self.value, value.values)]
        if kind is bytes:
            return ["y", base64.b64encode(value).decode()]
        if isinstance(value, Enum):
            return ["e", name_of(kind), value.name]
        if kind is np.ndarray:
            return _array(value)
        if isinstance(value, np.generic):
            return ["n", value.dtype.str, value.item()]
        if is_dataclass(kind):
            return ["m", self._message(value)]
        raise SnapshotError(f"a {kind.__module__}.{kind.__qualname__} cannot be written: {value!r:.80}")

    def _message(self, message: Any) -> int:
        number = self._message_numbers.get(id(message))
        if number is None:
            kind = type(message)
            names = tuple(field.name for field in fields(kind))
            values = [self.value(getattr(message, name)) for name in names]
            number = self._message_numbers[id(message)] = len(self.messages)
            self._kept.append(message)
            self.messages.append([self._class(kind, names), *values])
        return number

    def _class(self, kind: type, names: tuple[str, ...]) -> int:
        number = self._class_numbers.get((kind, names))
        if number is None:
            number = self._class_numbers[kind, names] = len(self.classes)
            self.classes.append([name_of(kind), list(names)])
        return number

    def picture(self, picture: Picture) -> list[Any]:
        written: list[Any] = []
        for part in picture.parts:
            if part.kind is np.ndarray:
                written.append(_array(part.values))
            elif part.kind in _KIND_NAMES:
                values = list(part.values)
                if part.kind.__name__ == "defaultdict":
                    values[0] = values[0].__name__ if values[0] else ""
                written.append([_KIND_NAMES[part.kind], *map(self.value, values)])
            else:
                written.append([self._class(part.kind, part.names), *map(self.value, part.values)])
        return written


class Reader:
    """Reads values back by the tables of their document. SnapshotError says what is wrong with it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, Mapping) else type(document).__name__
            raise SnapshotError(
                f"format {found!r}: this version of Berth reads format {FORMAT}; take the snapshot anew"
            )
        self._classes = [(class_named(name), tuple(names)) for name, names in document["classes"]]
        for kind, names in self._classes:
            wanted = attributes_of(kind)
            if wanted is not None and wanted != names:
                odd = ", ".join(sorted(set(wanted) ^ set(names))) or "their order"
                raise SnapshotError(f"{name_of(kind)} was another class when this was taken ({odd}); take it anew")
        self._messages: list[Any] = []
        for number, *values in document["messages"]:
            kind, names = self._classes[number]
            message = object.__new__(kind)
            for name, value in zip(names, values, strict=True):
                object.__setattr__(message, name, self.value(value))
            self._messages.append(message)

    def value(self, value: Any) -> Any:
        if type(value) is not list:
            return value
        tag = value[0]
        if tag == "m":
            return self._messages[value[1]]
        if tag == "t":
            return tuple(map(self.value, value[1:]))
        if tag == "f":
            return float(value[1])
        if tag == "r":
            return Ref(value[1])
        if tag in ("d", "p"):
            made = dict(zip(map(self.value, value[1::2]), map(self.value, value[2::2]), strict=True))
            return made if tag == "d" else MappingProxyType(made)
        if tag == "l":
            return list(map(self.value, value[1:]))
        if tag == "s":
            return frozenset(map(self.value, value[1:]))
        if tag == "e":
            return class_named(value[1])[value[2]]  # type: ignore[index]
        if tag == "v":
            return Part(_kind(value[1]), tuple(map(self.value, value[2:])))
        if tag == "y":
            return base64.b64decode(value[1])
        if tag == "n":
            return np.dtype(value[1]).type(value[2])
        if tag == "a":
            return _array_back(value)
        raise SnapshotError(f"the snapshot has a value with the unknown tag {tag!r}")

    def picture(self, written: Sequence[Any]) -> Picture:
        parts = []
        for head, *rest in written:
            if head == "a":
                parts.append(Part(np.ndarray, _array_back([head, *rest])))
            elif isinstance(head, int):
                kind, names = self._classes[head]
                parts.append(Part(kind, list(map(self.value, rest)), names))
            else:
                kind = _kind(head)
                if head == "defaultdict":
                    rest = [_FACTORIES[rest[0]], *map(self.value, rest[1:])]
                    parts.append(Part(kind, rest))
                else:
                    parts.append(Part(kind, list(map(self.value, rest))))
        return Picture(tuple(parts))


def _kind_name(kind: type) -> str:
    return _KIND_NAMES.get(kind, kind.__name__)


def _kind(name: str) -> type:
    if name not in _KINDS:
        raise SnapshotError(f"the snapshot has a container of the unknown kind {name!r}")
    return _KINDS[name]


def _array(array: Any) -> list[Any]:
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()
    return ["a", array.dtype.str, list(array.shape), packed]


def _array_back(value: list[Any]) -> Any:
    _, dtype, shape, packed = value
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=dtype).reshape(shape).copy()
