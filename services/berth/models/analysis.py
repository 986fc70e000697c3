"""What one call of a program costs: operations by precision, bytes moved, and the most bytes that live at once.

Operations are floating point, and those of whole numbers in matrix products and convolutions; a multiply-add is two.
An elementwise operation is one an element, and so is a transcendental one (exponential, tanh, ...: XLA's own analysis
counts those apart). A reduction is one for each element it folds in, a scan (cumsum) one for each element. Comparing,
selecting, moving and converting are none. A complex product counts as eight real ones. A sort counts log2 of the sorted
axis for each element, a Fourier transform 5 n log2 n, a Cholesky factor n^3 / 3, a triangular solve n^2 for each right
side. Where a custom call is reached the figures are unknown, for nobody knows what it does.

A loop counts as often as it turns, where a counter that starts and steps by constants is compared with a constant
(what lax.scan and lax.fori_loop make); any other counts once and is named. A branch counts as its dearest arm,
one that is chosen by the platform as that platform's.

Bytes are an estimate of a fused program, none is compiled: elementwise operations that feed each other are one group,
which reads what comes in once and writes what others use once; a reduction ends a group. Products, convolutions,
gathers and the like read their operands and write their results. What only looks at a part (slice, dynamic slice,
gather) reads that part; a reshape, transpose, broadcast or conversion before a product is taken along. Temporaries
are what groups leave in memory, from where it is made to its last use; a loop's state is updated in place.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from berth.models.artefact import Analysis
from berth.models.program import Graph, Node, Program, Value, bits_of, precision_of
from berth.models.traffic import ARITHMETIC, KNOWN_CALLS, TRANSCENDENTAL, Traffic
from berth.models.turns import chosen, folded, turns

__all__ = ["analyse"]

_INDEX = Value((), "int32")
"""What the platform's number is, as jax.export gives it."""


@dataclass(slots=True)
class _Cost:
    """`peak`: bytes of temporaries. NaN is unknown."""

    operations: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes: float = 0.0
    peak: float = 0.0
    loops: list[str] = field(default_factory=list)

    def take(self, other: "_Cost", times: float = 1.0) -> None:
        for precision, count in other.operations.items():
            self.operations[precision] += count * times
        self.bytes += other.bytes * times
        self.loops += other.loops

    @property
    def weight(self) -> float:
        """By which the dearest arm is chosen: 100 operations are taken to cost what a byte does."""
        total = sum(self.operations.values()) / 100 + self.bytes
        return math.inf if math.isnan(total) else total


def analyse(program: Program, *, skip_inputs: int = 0, platform: int | None = None) -> Analysis:
    """`skip_inputs`: leading inputs that the runtime gives, such as the platform's number. `platform`: that number;
    what is chosen by it is then known, and only that platform's part counts.

    Operations, bytes and memory are None where a dimension that they depend on is free, or a custom call is reached.
    """
    walk = _Walk(program.values)
    if platform is not None:
        given = (one for one in program.main.inputs[:skip_inputs] if program.values[one] == _INDEX)
        walk.platform = dict.fromkeys(given, platform)
    cost = walk.graph(program.main, walk.platform, is_main=True)
    values = program.values
    inputs = [values[one].bytes for one in program.main.inputs[skip_inputs:]]
    outputs = [values[one].bytes for one in program.main.outputs]
    operations = {name: float(count) for name, count in sorted(cost.operations.items()) if count}
    total = sum(operations.values())
    known = not any(math.isnan(count) for count in operations.values()) and not walk.unknown
    return Analysis(
        operations=float(total) if known else None,
        bytes_moved=None if math.isnan(cost.bytes) or walk.unknown else cost.bytes,
        by_precision=operations if known else {},
        constant_bytes=walk.constant_bytes,
        argument_bytes=_sum(inputs),
        output_bytes=_sum(outputs),
        temporary_bytes=None if math.isnan(cost.peak) or walk.unknown else round(cost.peak),
        unknown_loops=tuple(dict.fromkeys(cost.loops)),
        uncounted_calls=tuple(walk.uncounted),
    )


def _sum(parts: Iterable[int | None]) -> int | None:
    found = list(parts)
    return None if any(part is None for part in found) else sum(part or 0 for part in found)


class _Walk:
    def __init__(self, values: Mapping[int, Value]) -> None:
        self.values = values
        self.unknown = False
        self.uncounted: dict[str, None] = {}
        self.constant_bytes = 0
        self.seen: set[int] = set()
        self.calls: dict[tuple[Graph, frozenset[tuple[int, int]]], _Cost] = {}
        self.platform: dict[int, int] = {}
        """Values that are the platform's number, in the functions that are being walked."""

    def size(self, number: int) -> float:
        found = self.values[number].bytes
        if found is None:
            self.unknown |= self.values[number].elements is None
            return 0.0
        return float(found)

    def elements(self, number: int) -> float:
        found = self.values[number].elements
        if found is None:
            self.unknown = True
            return 0.0
        return float(found)

    def graph(self, graph: Graph, outer: Mapping[int, int], *, is_main: bool = False) -> _Cost:
        """`outer`: whole numbers known of the graphs around it."""
        cost = _Cost()
        numbers = dict(outer)
        inner: dict[int, float] = {}
        nodes = list(graph.nodes)
        for position, node in enumerate(nodes):
            if node.operation == "case" and node.operands[0] in numbers:
                node = nodes[position] = chosen(node, numbers[node.operands[0]])
            if (number := folded(node, numbers)) is not None:
                numbers[node.results[0]] = number
                if node.operation == "case":
                    self.platform[node.results[0]] = number
            if node.operation == "constant" and not node.sizes.get("splat"):
                # Written out in several places, it is still one.
                if id(node.sizes) not in self.seen:
                    self.seen.add(id(node.sizes))
                    self.constant_bytes += round(self.size(node.results[0]))
                continue
            inner[position] = self._node(node, numbers, cost)
        moved, peak = Traffic(self.size, replace(graph, nodes=tuple(nodes)), inner, is_main).figures()
        cost.bytes += moved
        cost.peak = peak
        return cost

    def _node(self, node: Node, numbers: Mapping[int, int], cost: _Cost) -> float:
        """Adds the node's operations, and all of what is within it; its inner peak."""
        if node.operation == "while":
            turned = turns(node, numbers)
            parts = [self.graph(graph, numbers) for graph in node.graphs]
            for part in parts:
                cost.take(part, 1 if turned is None else turned)
            if turned is None:
                cost.loops.append(node.place)
            return max((part.peak for part in parts), default=0.0)
        if node.operation in ("case", "if"):
            arms = [self.graph(graph, numbers) for graph in node.graphs]
            if not arms:
                return 0.0
            cost.take(max(arms, key=lambda arm: arm.weight))
            return max(arm.peak for arm in arms)
        if node.operation == "call":
            called = node.graphs[0]
            told = {
                inside: self.platform[given]
                for inside, given in zip(called.inputs, node.operands, strict=True)
                if given in self.platform
            }
            key = called, frozenset(told.items())
            made = self.calls.get(key)
            if made is None:
                for inside in called.inputs:
                    self.platform.pop(inside, None)
                self.platform.update(told)
                made = self.calls[key] = self.graph(called, told)
            cost.take(made)
            return made.peak
        if node.operation == "custom_call" and node.place not in KNOWN_CALLS:
            self.unknown = True
            self.uncounted[node.place] = None
        for precision, count in self._operations(node).items():
            cost.operations[precision] += count
        return 0.0

    def _operations(self, node: Node) -> dict[str, float]:
        name = node.operation
        if not node.results or not node.operands:
            return {}
        result = node.results[0]
        dtype = self._dtype(node)
        precision = precision_of(dtype)
        floating = _is_floating(dtype)
        complex_factor = 4.0 if dtype.startswith("complex") else 1.0
        count = 0.0
        if name in ("dot_general", "dot"):
            count = 2 * self.elements(result) * node.sizes["contracted"] * complex_factor
            floating = bool(precision)
        elif name == "convolution":
            floating = bool(precision)
            count = 2 * node.sizes.get("batch", math.nan) * node.sizes.get("filters", math.nan)
            count *= node.sizes["positions"] * node.sizes["features"] * complex_factor
        elif name in TRANSCENDENTAL or name in ARITHMETIC:
            count = self.elements(result)
        elif name in ("reduce", "all_reduce", "reduce_scatter"):
            count = (self.elements(node.operands[0]) - self.elements(result)) * self._body(node)
        elif name == "reduce_window":
            count = self.elements(result) * (node.sizes["window"] - 1) * self._body(node)
        elif name == "select_and_scatter":
            count = self.elements(result) + self.elements(node.operands[1]) * node.sizes["window"]
        elif name == "scatter":
            count = self.elements(node.operands[-1]) * self._body(node)
        elif name == "map":
            count = self.elements(result) * self._body(node)
        elif name == "sort":
            length = node.sizes["sorted"]
            count = self.elements(node.operands[0]) * math.log2(length) if length > 1 else 0.0
        elif name == "fft":
            length = node.sizes["length"]
            count = 5 * self.elements(result) * math.log2(length) if length > 1 else 0.0
        elif name == "cholesky":
            count = self.elements(result) * node.sizes["order"] / 3
        elif name == "triangular_solve":
            count = self.elements(result) * node.sizes["order"]
        elif name.startswith("batch_norm"):
            count = 5 * self.elements(result)
        return (
            {precision: max(count, 0.0)}
            if floating and count == count and count
            else ({precision: count} if floating and count else {})
        )

    def _dtype(self, node: Node) -> str:
        """In which it computes: of a product the wider of both sides', floating before whole numbers."""
        sides = [self.values[node.operands[0]].dtype]
        right = int(node.sizes.get("right", 1))
        if node.operation in ("dot_general", "dot", "convolution") and right < len(node.operands):
            sides.append(self.values[node.operands[right]].dtype)
        return max(sides, key=lambda dtype: (_is_floating(dtype), bits_of(dtype) or 0))

    def _body(self, node: Node) -> float:
        """Floating operations of one turn of a reduction's body: none where it takes whole numbers."""
        if not node.graphs:
            return node.sizes.get("body", 0.0)
        return float(sum(
            one.operation in ARITHMETIC or one.operation in TRANSCENDENTAL
            for one in node.graphs[0].nodes
            if one.operands and _is_floating(self.values[one.operands[0]].dtype)
        ))  # fmt: skip


def _is_floating(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))
