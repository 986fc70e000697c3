"""Bytes that one graph of a program moves and holds, were it fused: see `analysis`."""

from collections.abc import Callable, Mapping

from berth.models.program import Graph, Node
from berth.models.turns import unchanged

__all__ = ["ARITHMETIC", "KNOWN_CALLS", "TRANSCENDENTAL", "Traffic"]

TRANSCENDENTAL = frozenset([
    "exponential", "exponential_minus_one", "log", "log_plus_one", "sqrt", "rsqrt", "cbrt", "power", "sine", "cosine",
    "tan", "tanh", "logistic", "atan2", "erf", "erf_inv", "erfc", "lgamma", "digamma", "zeta", "polygamma", "acos",
    "acosh", "asin", "asinh", "atan", "atanh", "sinh", "cosh", "bessel_i1e", "square",
])  # fmt: skip
ARITHMETIC = frozenset([
    "add", "subtract", "multiply", "divide", "negate", "abs", "maximum", "minimum", "remainder", "sign", "floor",
    "ceil", "round_nearest_afz", "round_nearest_even", "clamp", "complex", "reduce_precision",
])  # fmt: skip
_VIEWS = frozenset(["reshape", "transpose", "broadcast_in_dim", "slice", "dynamic_slice", "convert", "bitcast_convert",
                    "dynamic_reshape", "dynamic_broadcast_in_dim", "reverse", "optimization_barrier"])  # fmt: skip
_PARTS = frozenset(["slice", "dynamic_slice", "real_dynamic_slice"])
_LIGHT = frozenset([
    *TRANSCENDENTAL, *ARITHMETIC, *_VIEWS, *_PARTS, "compare", "select", "and", "or", "not", "xor", "iota",
    "constant", "is_finite", "real", "imag", "pad", "concatenate", "shift_left", "shift_right_logical",
    "shift_right_arithmetic", "popcnt", "count_leading_zeros", "map", "dynamic_iota", "dynamic_pad",
    "get_tuple_element", "tuple", "sharding_constraint", "reduce", "create_token", "after_all",
])  # fmt: skip
NEUTRAL_CALLS = frozenset(["Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "annotate_device_placement",
                           "shape_assertion"])  # fmt: skip
KNOWN_CALLS = NEUTRAL_CALLS | frozenset([
    "ApproxTopK", "cu_threefry2x32_ffi", "hip_threefry2x32_ffi", "cu_threefry2x32", "hip_threefry2x32",
    "cu_lu_pivots_to_permutation", "hip_lu_pivots_to_permutation",
])  # fmt: skip
"""Custom calls without floating operations: they compare, or work on whole numbers."""


class Traffic:
    """Bytes moved and held by one graph, its loops' and branches' insides apart."""

    def __init__(self, size: Callable[[int], float], graph: Graph, inner: Mapping[int, float], is_main: bool) -> None:
        """`size`: of a value, bytes. `inner`: what loops and branches hold inside, by their position."""
        self.size, self.graph, self.inner, self.is_main = size, graph, inner, is_main
        self.maker: dict[int, int] = {}
        for position, node in enumerate(graph.nodes):
            self.maker.update(dict.fromkeys(node.results, position))
        self.light = [
            node.operation in _LIGHT or (node.operation == "custom_call" and node.place in NEUTRAL_CALLS)
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
        # A group that leaves nothing in memory is views alone, taken along by what reads through them.
        made = {self._find(self.maker[value]) for value in stored}
        read = sum(size for (group, _), size in reads.items() if group < 0 or group in made)
        return read + written, self._peak(stored)

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
            size = self.size(operand)
            if node.operation in _PARTS:
                size = min(size, sum(self.size(one) for one in node.results))
            self._read(reads, group, operand, size)
            self._store(operand, position, stored)

    def _read(self, reads: dict[tuple[int, int], float], group: int, value: int, size: float) -> None:
        """Parts of one value are taken to be others each, up to the whole of it."""
        whole = max(self.size(value), size)
        reads[group, value] = min(reads.get((group, value), 0.0) + size, whole)

    def _heavy_reads(
        self, position: int, node: Node, reads: dict[tuple[int, int], float], stored: dict[int, int]
    ) -> None:
        within = set() if node.operation == "call" else {used for graph in node.graphs for used in _used(graph)}
        skip = node.operation in ("while", "case", "if", "call")
        for operand in {*node.operands, *within}:
            root, size = self._root(operand)
            self._store(root, position, stored)
            maker = self.maker.get(root)
            if skip or (maker is not None and _is_free(self.graph.nodes[maker])):
                continue
            if node.operation == "gather" and operand == node.operands[0]:
                size = min(size, self.size(node.results[0]))
            if node.operation in ("dynamic_update_slice", "scatter") and operand == node.operands[0]:
                size = 0.0
            self._read(reads, -1 - position, root, size)
        for value in node.results:
            self._store(value, position, stored)

    def _written(self, node: Node, value: int) -> float:
        if node.operation in ("while", "case", "if", "call"):
            return 0.0
        if node.operation == "dynamic_update_slice":
            return self.size(node.operands[1])
        if node.operation == "scatter":
            return self.size(node.operands[-1])
        return self.size(value)

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
        size = self.size(value)
        while True:
            maker = self.maker.get(value)
            if maker is None or self.graph.nodes[maker].operation not in _VIEWS:
                return value, size
            value = self.graph.nodes[maker].operands[0]
            size = min(size, self.size(value))

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
                taken_over = sum(self.size(one) for one in dying & roots if one not in outputs)
                kept = unchanged(node)
                taken_over += sum(
                    self.size(node.results[at])
                    for at in kept
                    if node.results[at] in stored and self._root(node.operands[at])[0] not in dying
                )
            made = sum(self.size(one) for one in node.results if one in stored and one not in outputs)
            live += max(made - taken_over, 0.0) if taken_over else made
            most = max(most, live + self.inner.get(position, 0.0))
            freed = sum(self.size(one) for one in ends.get(position, ()) if one not in outputs)
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


def _used(graph: Graph) -> set[int]:
    """Values of the graphs around it."""
    own = set(graph.inputs)
    found: set[int] = set()
    for node in graph.nodes:
        found |= {one for one in node.operands if one not in own}
        for inner in node.graphs if node.operation != "call" else ():
            found |= _used(inner) - own
        own |= set(node.results)
    return found | {one for one in graph.outputs if one not in own}
