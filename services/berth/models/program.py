"""A program as the analysis reads it: values, operations in order, and the graphs within loops and branches.

Plain data, apart from the format it was read from. A call of a small function is written out in place, as a compiler
would inline it; a larger one is a `call` whose graph is shared by all its places.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Graph", "Node", "Program", "Value", "bits_of", "precision_of"]

_BITS = {
    "bool": 8, "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "complex64": 64, "complex128": 128,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8, "int4": 4, "int2": 2, "uint64": 64, "uint32": 32,
    "uint16": 16, "uint8": 8, "uint4": 4, "uint2": 2, "float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6,
}  # fmt: skip
_PRECISIONS = {
    "float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "complex64": "fp32",
    "complex128": "fp64", "float4_e2m1fn": "fp4", "float6_e2m3fn": "fp6", "float6_e3m2fn": "fp6",
}  # fmt: skip


def bits_of(dtype: str) -> int | None:
    """Of one element; None where the type is not known. A float8 of any kind has 8."""
    return 8 if dtype.startswith("float8") else _BITS.get(dtype)


def precision_of(dtype: str) -> str:
    """ "float32" -> "fp32", "uint8" -> "int8"; "" for a truth value and what is not known."""
    if dtype.startswith("float8"):
        return "fp8"
    if dtype.startswith("uint"):
        return dtype[1:]
    return _PRECISIONS.get(dtype, dtype if dtype.startswith("int") else "")


@dataclass(frozen=True, slots=True)
class Value:
    """`shape`: a dimension None is free. `constant`: of a whole number alone, what it is; `constant_bytes`: of a
    constant that lies in memory."""

    shape: tuple[int | None, ...]
    dtype: str

    @property
    def elements(self) -> int | None:
        count = 1
        for size in self.shape:
            if size is None:
                return None
            count *= size
        return count

    @property
    def bytes(self) -> int | None:
        bits, elements = bits_of(self.dtype), self.elements
        return None if bits is None or elements is None else (bits * elements + 7) // 8


@dataclass(frozen=True, slots=True)
class Node:
    """`operation`: as StableHLO names it, without the dialect. `operands`, `results`: numbers of values. `sizes`: what
    the formula of its cost needs beside the shapes. `place`: where it stands in the source, for a person."""

    operation: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    graphs: tuple["Graph", ...] = ()
    sizes: Mapping[str, float] = field(default_factory=dict)
    constant: int | None = None
    place: str = ""
    direction: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A block. It may use values of the graphs around it. Compared by identity: calls share a graph."""

    inputs: tuple[int, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """`values` by number. `custom_calls`: target and how often it stands in the text."""

    main: Graph
    values: Mapping[int, Value]
    input_names: tuple[str, ...]
    custom_calls: Mapping[str, int]
