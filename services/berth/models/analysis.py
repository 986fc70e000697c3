"""What one call of a program costs: operations by precision, bytes moved, and the most bytes that live at once.

Operations are floating point, and those of whole numbers in matrix products and convolutions; a multiply-add is two.
An elementwise operation is one an element, and so is a transcendental one (exponential, tanh, ...: XLA's own analysis
counts those apart). A reduction is one for each element it folds in. Comparing, selecting, moving and converting are
none. A complex product counts as eight real ones. A sort counts n log2 n, a Fourier transform 5 n log2 n, a Cholesky
factor n^3 / 3, a triangular solve n^2 for each right side. A custom call counts nothing: nobody knows what it does.

A loop counts as often as it turns, where a counter that starts and steps by constants is compared with a constant
(what lax.scan and lax.fori_loop make); any other counts once and is named. A branch counts as its dearest arm.

Bytes are an estimate of a fused program, none is compiled: elementwise operations that feed each other are one group,
which reads what comes in once and writes what others use once; a reduction ends a group. Products, convolutions,
gathers and the like read their operands and write their results. What only looks at a part (slice, dynamic slice,
gather) reads that part; a reshape, transpose, broadcast or conversion before a product is taken along. Temporaries
are what groups leave in memory, from where it is made to its last use; a loop's state is updated in place.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from berth.models.artefact import Analysis
from berth.models.program import Graph, Node, Program, Value, precision_of

__all__ = ["analyse"]

_TRANSCENDENTAL = frozenset([
    "exponential", "exponential_minus_one", "log", "log_plus_one", "sqrt", "rsqrt", "cbrt", "power", "sine", "cosine",
    "tan", "tanh", "logistic", "atan2", "erf", "erf_inv", "erfc", "lgamma", "digamma", "zeta", "polygamma", "acos",
    "acosh", "asin", "asinh", "atan", "atanh", "sinh", "cosh", "bessel_i1e", "square",
])  # fmt: skip
_ARITHMETIC = frozenset([
    "add", "subtract", "multiply", "divide", "negate", "abs", "maximum", "minimum", "remainder", "sign", "floor",
    "ceil", "round_nearest_afz", "round_nearest_even", "clamp", "complex", "reduce_precision",
])  # fmt: skip
_VIEWS = frozenset(["reshape", "transpose", "broadcast_in_dim", "slice", "dynamic_slice", "convert", "bitcast_convert",
                    "dynamic_reshape", "dynamic_broadcast_in_dim", "reverse", "optimization_barrier"])  # fmt: skip
_PARTS = frozenset(["slice", "dynamic_slice", "real_dynamic_slice"])
_LIGHT = frozenset([
    *_TRANSCENDENTAL, *_ARITHMETIC, *_VIEWS, *_PARTS, "compare", "select", "and", "or", "not", "xor", "iota",
    "constant", "is_finite", "real", "imag", "pad", "concatenate", "shift_left", "shift_right_logical",
    "shift_right_arithmetic", "popcnt", "count_leading_zeros", "map", "dynamic_iota", "dynamic_pad",
    "get_tuple_element", "tuple", "sharding_constraint", "reduce", "create_token", "after_all",
])  # fmt: skip
_NEUTRAL_CALLS = frozenset(["Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "annotate_device_placement"])


@dataclass(slots=True)
class _Cost:
    """`peak`: bytes of temporaries. NaN is unknown."""

    operations: Counter[str] = field(default_factory=Counter)
    bytes: float = 0.0
    peak: float = 0.0
    loops: list[str] = field(default_factory=list)

    def take(self, other: "_Cost", times: float = 1.0) -> None:
        for precision, count in other.operations.items():
            self.operations[precision] += count * times  # type: ignore[assignment]
        self.bytes += other.bytes * times
        self.loops += other.loops

    @property
    def weight(self) -> float:
        """By which the dearest arm is chosen: 100 operations are taken to cost what a byte does."""
        total = sum(self.operations.values()) / 100 + self.bytes
        return math.inf if math.isnan(total) else total


def analyse(program: Program, *, skip_inputs: int = 0) -> Analysis:
    """`skip_inputs`: leading inputs that the runtime gives, such as the platform's number.

    Operations, bytes and memory are None where a dimension that they depend on is free.
    """
    walk = _Walk(program.values)
    cost = walk.graph(program.main, {}, is_main=True)
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
    )


def _sum(parts: Iterable[int | None]) -> int | None:
    found = list(parts)
    return None if any(part is None for part in found) else sum(part or 0 for part in found)


class _Walk:
    def __init__(self, values: Mapping[int, Value]) -> None:
        self.values = values
        self.unknown = False
        self.constant_bytes = 0
        self.seen: set[int] = set()
        self.calls: dict[Graph, _Cost] = {}

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
        for position, node in enumerate(graph.nodes):
            if (number := _folded(node, numbers)) is not None:
                numbers[node.results[0]] = number
            if node.operation == "constant" and not node.sizes.get("splat"):
                # Written out in several places, it is still one.
                if id(node.sizes) not in self.seen:
                    self.seen.add(id(node.sizes))
                    self.constant_bytes += round(self.size(node.results[0]))
                continue
            inner[position] = self._node(node, numbers, cost)
        moved, peak = _Memory(self, graph, inner, is_main).figures()
        cost.bytes += moved
        cost.peak = peak
        return cost

    def _node(self, node: Node, numbers: Mapping[int, int], cost: _Cost) -> float:
        """Adds the node's operations, and all of what is within it; its inner peak."""
        if node.operation == "while":
            turns = _turns(node, numbers)
            parts = [self.graph(graph, numbers) for graph in node.graphs]
            for part in parts:
                cost.take(part, 1 if turns is None else turns)
            if turns is None:
                cost.loops.append(node.place)
            return max((part.peak for part in parts), default=0.0)
        if node.operation in ("case", "if"):
            arms = [self.graph(graph, numbers) for graph in node.graphs]
            if not arms:
                return 0.0
            cost.take(max(arms, key=lambda arm: arm.weight))
            return max(arm.peak for arm in arms)
        if node.operation == "call":
            made = self.calls.get(node.graphs[0])
            if made is None:
                made = self.calls[node.graphs[0]] = self.graph(node.graphs[0], {})
            cost.take(made)
            return made.peak
        for precision, count in self._operations(node).items():
            cost.operations[precision] += count  # type: ignore[assignment]
        return 0.0

    def _operations(self, node: Node) -> dict[str, float]:
        name = node.operation
        if not node.results or not node.operands:
            return {}
        left, result = self.values[node.operands[0]], node.results[0]
        precision = precision_of(left.dtype)
        floating = _is_floating(left.dtype)
        complex_factor = 4.0 if left.dtype.startswith("complex") else 1.0
        count = 0.0
        if name in ("dot_general", "dot"):
            count = 2 * self.elements(result) * node.sizes["contracted"] * complex_factor
            floating = bool(precision)
        elif name == "convolution":
            floating = bool(precision)
            count = 2 * node.sizes.get("batch", math.nan) * node.sizes.get("filters", math.nan)
            count *= node.sizes["positions"] * node.sizes["features"] * complex_factor
        elif name in _TRANSCENDENTAL or name in _ARITHMETIC:
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
            length = self.elements(node.operands[0])
            count = length * math.log2(length) if length > 1 else 0.0
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

    def _body(self, node: Node) -> float:
        """Floating operations of one turn of a reduction's body: none where it takes whole numbers."""
        if not node.graphs:
            return 0.0
        return float(sum(
            one.operation in _ARITHMETIC or one.operation in _TRANSCENDENTAL
            for one in node.graphs[0].nodes
            if one.operands and _is_floating(self.values[one.operands[0]].dtype)
        ))  # fmt: skip


class _Memory:
    """Bytes moved and held by one graph, its loops' and branches' insides apart."""

    def __init__(self, walk: _Walk, graph: Graph, inner: Mapping[int, float], is_main: bool) -> None:
        self.walk, self.graph, self.inner, self.is_main = walk, graph, inner, is_main
        self.maker: dict[int, int] = {}
        for position, node in enumerate(graph.nodes):
            self.maker.update(dict.fromkeys(node.results, position))
        self.light = [
            node.operation in _LIGHT or (node.operation == "custom_call" and node.place in _NEUTRAL_CALLS)
            for node in graph.nodes
        ]
        self.parent = list(range(len(graph.nodes)))

    def figures(self) -> tuple[float, float]:
        """Bytes moved, and the most bytes that live at once."""
        nodes = self.graph.nodes
        for position, node in enumerate(nodes):
            if not self.light[position] or _is_free(node):
                continue
            for operand in node.operands:
                maker = self.maker.get(operand)
                # A reduction ends its group: what comes after starts another.
                if maker is not None and self.light[maker] and nodes[maker].operation != "reduce":
                    self._join(maker, position)
        reads: dict[tuple[int, int], float] = {}
        stored: dict[int, int] = {}
        for position, node in enumerate(nodes):
            if self.light[position]:
                self._light_reads(position, node, reads, stored)
            else:
                self._heavy_reads(position, node, reads, stored)
        for output in self.graph.outputs:
            root, _ = self._root(output) if not self.is_main else (output, 0.0)
            self._store(root, len(nodes), stored)
        written = 0.0
        for value in stored:
            maker = self.maker[value]
            written += self._written(nodes[maker], value)
        return sum(reads.values()) + written, self._peak(stored)

    def _light_reads(
        self, position: int, node: Node, reads: dict[tuple[int, int], float], stored: dict[int, int]
    ) -> None:
        group = self._find(position)
        for operand in node.operands:
            maker = self.maker.get(operand)
            if (
                maker is not None
                and (_is_free(self.graph.nodes[maker]) or self._find(maker) == group)
                and (self.light[maker] and self.graph.nodes[maker].operation != "reduce")
            ):
                continue
            size = self.walk.size(operand)
            if node.operation in _PARTS:
                size = min(size, self.walk.size(node.results[0]))
            reads[group, operand] = max(reads.get((group, operand), 0.0), size)
            self._store(operand, position, stored)

    def _heavy_reads(
        self, position: int, node: Node, reads: dict[tuple[int, int], float], stored: dict[int, int]
    ) -> None:
        within = {used for graph in node.graphs for used in _used(graph)} if node.graphs else set()
        skip = node.operation in ("while", "case", "if", "call")
        for operand in {*node.operands, *within}:
            root, size = self._root(operand)
            self._store(root, position, stored)
            maker = self.maker.get(root)
            if skip or (maker is not None and _is_free(self.graph.nodes[maker])):
                continue
            if node.operation == "gather" and operand == node.operands[0]:
                size = min(size, self.walk.size(node.results[0]))
            if node.operation in ("dynamic_update_slice", "scatter") and operand == node.operands[0]:
                size = 0.0
            reads[-1 - position, root] = max(reads.get((-1 - position, root), 0.0), size)
        for value in node.results:
            self._store(value, position, stored)

    def _written(self, node: Node, value: int) -> float:
        if node.operation in ("while", "case", "if", "call"):
            return 0.0
        if node.operation == "dynamic_update_slice":
            return self.walk.size(node.operands[1])
        if node.operation == "scatter":
            return self.walk.size(node.operands[-1])
        return self.walk.size(value)

    def _store(self, value: int, used_at: int, stored: dict[int, int]) -> None:
        """Notes that `value` lies in memory until `used_at`."""
        maker = self.maker.get(value)
        # A constant lies with the program, not among what it makes.
        if maker is None:
            return
        node = self.graph.nodes[maker]
        if node.operation != "constant" and not _is_free(node):
            stored[value] = max(stored.get(value, -1), used_at)

    def _root(self, value: int) -> tuple[int, float]:
        """What a product reads where it reads `value`: through views, to what lies in memory; and the bytes of it."""
        size = self.walk.size(value)
        while True:
            maker = self.maker.get(value)
            if maker is None or self.graph.nodes[maker].operation not in _VIEWS:
                return value, size
            value = self.graph.nodes[maker].operands[0]
            size = min(size, self.walk.size(value)) if value in self.walk.values else size

    def _peak(self, stored: Mapping[int, int]) -> float:
        """Outputs of the whole program lie in buffers of their own; a loop's state takes over that of its start."""
        nodes = self.graph.nodes
        outputs = set(self.graph.outputs) if self.is_main else set()
        ends: dict[int, list[int]] = {}
        live, most = 0.0, 0.0
        for value, last in stored.items():
            ends.setdefault(last, []).append(value)
        for position, node in enumerate(nodes):
            taken_over = 0.0
            if node.operation in ("while", "dynamic_update_slice", "scatter"):
                dying = set(ends.get(position, ()))
                roots = {self._root(one)[0] for one in node.operands}
                taken_over = sum(self.walk.size(one) for one in dying & roots if one not in outputs)
                unchanged = _unchanged(node)
                taken_over += sum(
                    self.walk.size(node.results[at])
                    for at in unchanged
                    if node.results[at] in stored and self._root(node.operands[at])[0] not in dying
                )
            made = sum(self.walk.size(one) for one in node.results if one in stored and one not in outputs)
            live += max(made - taken_over, 0.0) if taken_over else made
            most = max(most, live + self.inner.get(position, 0.0))
            freed = sum(self.walk.size(one) for one in ends.get(position, ()) if one not in outputs)
            live = max(live - max(freed - taken_over, 0.0), 0.0) if taken_over else max(live - freed, 0.0)
        return most

    def _find(self, position: int) -> int:
        while self.parent[position] != position:
            self.parent[position] = self.parent[self.parent[position]]
            position = self.parent[position]
        return position

    def _join(self, left: int, right: int) -> None:
        self.parent[self._find(left)] = self._find(right)


def _is_free(node: Node) -> bool:
    """Made where it is used: never in memory."""
    return node.operation in ("iota", "create_token") or (
        node.operation == "constant" and bool(node.sizes.get("splat"))
    )


def _is_floating(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))


def _used(graph: Graph) -> set[int]:
    """Values of the graphs around it."""
    own = set(graph.inputs)
    found: set[int] = set()
    for node in graph.nodes:
        found |= {one for one in node.operands if one not in own}
        for inner in node.graphs:
            found |= _used(inner) - own
        own |= set(node.results)
    return found | {one for one in graph.outputs if one not in own}


def _unchanged(node: Node) -> list[int]:
    """Positions of a loop's state that no turn changes."""
    if node.operation != "while" or len(node.graphs) != 2:
        return []
    body = node.graphs[1]
    return [at for at, (given, made) in enumerate(zip(body.inputs, body.outputs, strict=True)) if given == made]


def _folded(node: Node, numbers: Mapping[int, int]) -> int | None:
    """The whole number that the node makes; None where it is none or not known before it runs."""
    if node.operation == "constant":
        return node.constant
    given = [numbers.get(one) for one in node.operands]
    if not given or any(one is None for one in given):
        return None
    known = [one for one in given if one is not None]
    if node.operation in ("convert", "reshape", "optimization_barrier") and len(known) == 1:
        return known[0]
    if len(known) != 2:
        return None
    left, right = known
    match node.operation:
        case "add":
            return left + right
        case "subtract":
            return left - right
        case "multiply":
            return left * right
        case "maximum":
            return max(left, right)
        case "minimum":
            return min(left, right)
    return None


def _turns(node: Node, numbers: Mapping[int, int]) -> int | None:
    """How often a loop turns; None where the program decides it as it runs."""
    if len(node.graphs) != 2:
        return None
    condition, body = node.graphs
    start = {
        one: numbers[given] for one, given in zip(condition.inputs, node.operands, strict=True) if given in numbers
    }
    unchanged = {condition.inputs[at] for at in _unchanged(node)}
    inside = {**numbers, **{one: value for one, value in start.items() if one in unchanged}}
    makers = {node.results[0]: node for node in condition.nodes if node.results}
    for one in condition.nodes:
        if (number := _folded(one, inside)) is not None:
            inside[one.results[0]] = number
    test = makers.get(condition.outputs[0]) if condition.outputs else None
    if test is None or test.operation != "compare":
        return None
    left, right = test.operands
    direction = test.direction
    if right in condition.inputs and left in inside:
        left, right = right, left
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if left not in start or left in unchanged or right not in inside:
        return None
    step = _step(body, condition.inputs.index(left), numbers)
    if step is None:
        return None
    return _count(start[left], inside[right], step, direction)


def _step(body: Graph, at: int, numbers: Mapping[int, int]) -> int | None:
    """By how much a turn moves the counter."""
    counter, made = body.inputs[at], body.outputs[at]
    inside = dict(numbers)
    makers: dict[int, Node] = {}
    for node in body.nodes:
        if (number := _folded(node, inside)) is not None:
            inside[node.results[0]] = number
        makers.update(dict.fromkeys(node.results, node))
    last = makers.get(made)
    if last is None or last.operation not in ("add", "subtract") or counter not in last.operands:
        return None
    left, right = last.operands
    if last.operation == "subtract":
        return -inside[right] if left == counter and right in inside else None
    other = right if left == counter else left
    return inside.get(other)


def _count(start: int, bound: int, step: int, direction: str) -> int | None:
    if direction in ("LE", "GE"):
        bound += 1 if direction == "LE" else -1
    elif direction == "NE":
        return (
            (bound - start) // step if step and (bound - start) % step == 0 and (bound - start) // step >= 0 else None
        )
    elif direction not in ("LT", "GT"):
        return None
    rising = direction in ("LT", "LE")
    if (rising and start >= bound) or (not rising and start <= bound):
        return 0
    if step == 0 or (step > 0) != rising:
        return None
    return (
        math.ceil(abs(bound - start) / abs(step)) if abs(bound - start) < 2**50 else -(-abs(bound - start) // abs(step))
    )
