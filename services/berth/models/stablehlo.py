"""StableHLO, as text or as a portable artefact, read by jaxlib's own bindings of MLIR into a `Program`."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from berth.errors import InvalidInput
from berth.models.missing import need
from berth.models.program import Graph, Node, Program, Value

__all__ = ["parse_module", "read_program"]

INLINED_NODES = 4000
"""A function with at most so many operations is written out where it is called."""
MAX_NODES = 400_000
MAX_DEPTH = 100
_ELEMENTS = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i1": "bool"}
_REMEDY = "give StableHLO as text or as a portable artefact, made by jax.export or stablehlo-translate --serialize"


def read_program(content: bytes, field: str = "file") -> Program:
    """The program of StableHLO text or bytecode. Raises InvalidInput."""
    with parse_module(content, field) as module:
        try:
            return _Reader(need("jaxlib.mlir.ir"), module, field).program()
        except RecursionError as error:
            raise InvalidInput.of(field, "loops within loops", f"at most {MAX_DEPTH} deep can be read") from error


@contextmanager
def parse_module(content: bytes, field: str = "file") -> Iterator[Any]:
    """MLIR's own module, and its context while it is used. Raises InvalidInput."""
    ir, stablehlo = need("jaxlib.mlir.ir"), need("jaxlib.mlir.dialects.stablehlo")
    context = ir.Context()
    stablehlo.register_dialect(context)
    need("jaxlib.mlir.dialects.chlo").register_dialect(context)
    need("jaxlib.mlir.dialects.sdy").register_dialect(context)
    registry = ir.DialectRegistry()
    need("jaxlib.mlir._mlir_libs._jax_mlir_ext").register_dialects(registry)
    context.append_dialect_registry(registry)
    context.load_all_available_dialects()
    # Dialects beside StableHLO may stand in it as attributes, such as mhlo.num_partitions.
    context.allow_unregistered_dialects = True
    with context:
        try:
            if content.startswith(b"ML\xefR") and b"StableHLO" in content[4:32]:
                # It ends the process on some broken ones; that which gives bytes knows no Shardy.
                module = stablehlo.deserialize_portable_artifact(context, content)
            else:
                module = ir.Module.parse(content)
        # MLIRError has no base of its own in all versions; a corrupt artefact is a ValueError.
        except Exception as error:
            line = next((line for line in str(error).splitlines() if line.strip()), "")
            raise InvalidInput.of(field, line[:200] or type(error).__name__, _REMEDY) from error
        yield module


class _Reader:
    def __init__(self, ir: Any, module: Any, field: str) -> None:
        self.ir, self.field = ir, field
        self.values: dict[int, Value] = {}
        self.custom_calls: Counter[str] = Counter()
        self.functions: dict[str, Any] = {}
        self.shared: dict[str, tuple[Graph, int]] = {}
        self.open: list[str] = []
        self.made = 0
        for operation in module.body.operations:
            if operation.operation.name == "func.func":
                self.functions[str(operation.attributes["sym_name"].value)] = operation

    def fail(self, value: object, remedy: str) -> InvalidInput:
        return InvalidInput.of(self.field, value, remedy)

    def program(self) -> Program:
        main = self.functions.get("main")
        if main is None:
            known = ", ".join(list(self.functions)[:8]) or "none"
            raise self.fail(known, "the module has no function `main`: name the entry main")
        for function in self.functions.values():
            self._count_calls(function.regions, 0)
        graph, _ = self._function("main")
        names = []
        for argument in main.regions[0].blocks[0].arguments:
            match = re.fullmatch(r'loc\("([A-Za-z_][^":]*)"(?:\(.*\))?\)', str(argument.location))
            names.append(match[1] if match else "")
        return Program(graph, self.values, tuple(names), dict(self.custom_calls))

    def _count_calls(self, regions: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.fail(f"{depth} deep", f"at most {MAX_DEPTH} loops within loops can be read")
        for region in regions:
            for block in region.blocks:
                for operation in block.operations:
                    if operation.operation.name == "stablehlo.custom_call":
                        self.custom_calls[str(operation.attributes["call_target_name"].value)] += 1
                    self._count_calls(operation.operation.regions, depth + 1)

    def _function(self, name: str) -> tuple[Graph, int]:
        """Its graph, and how many nodes it has in all."""
        if name in self.shared:
            return self.shared[name]
        if name in self.open:
            raise self.fail(name, "a function that calls itself: a program must end")
        function = self.functions.get(name)
        if function is None or not len(function.regions[0].blocks):
            raise self.fail(name, "the module calls a function that it does not have")
        self.open.append(name)
        graph = self._block(function.regions[0].blocks[0], {})
        self.open.pop()
        self.shared[name] = graph, _nodes_of(graph)
        return self.shared[name]

    def _new(self, kind: Any) -> int:
        number = len(self.values)
        self.values[number] = self._value(kind)
        return number

    def _value(self, kind: Any) -> Value:
        if not isinstance(kind, self.ir.Type):
            kind = kind.type
        text = str(kind)
        if not text.startswith("tensor<"):
            return Value((), "token")
        ranked = self.ir.RankedTensorType(kind)
        shape = tuple(
            None if ranked.is_dynamic_dim(position) else int(ranked.get_dim_size(position))
            for position in range(ranked.rank)
        )
        return Value(shape, _dtype(str(ranked.element_type)))

    def _block(self, block: Any, outer: dict[Any, int]) -> Graph:
        known = dict(outer)
        inputs = tuple(self._new(argument) for argument in block.arguments)
        known.update(zip(block.arguments, inputs, strict=True))
        nodes: list[Node] = []
        outputs = self._operations(block, known, nodes)
        return Graph(inputs, tuple(nodes), outputs)

    def _operations(self, block: Any, known: dict[Any, int], nodes: list[Node]) -> tuple[int, ...]:
        """Appends the block's nodes; what it returns."""
        for view in block.operations:
            operation = view.operation
            name = operation.name
            operands = tuple(known[one] for one in operation.operands)
            if name in ("stablehlo.return", "func.return", "sdy.return"):
                return operands
            self.made += 1
            if self.made > MAX_NODES:
                raise self.fail(f"over {MAX_NODES} operations", "give a smaller program")
            if name in ("func.call", "stablehlo.composite"):
                results = self._call(operation, operands, nodes)
            else:
                node = self._node(view, name, operands, known)
                nodes.append(node)
                results = node.results
            known.update(zip(operation.results, results, strict=True))
        return ()

    def _call(self, operation: Any, operands: tuple[int, ...], nodes: list[Node]) -> tuple[int, ...]:
        attribute = "callee" if operation.name == "func.call" else "decomposition"
        name = str(operation.attributes[attribute].value)
        graph, size = self._function(name)
        if size <= INLINED_NODES and self.made + size <= MAX_NODES:
            self.made += size
            moved = dict(zip(graph.inputs, operands, strict=True))
            nodes.extend(self._copy(node, moved) for node in graph.nodes)
            return tuple(moved.get(one, one) for one in graph.outputs)
        results = tuple(self._new(one) for one in operation.results)
        nodes.append(Node("call", operands, results, (graph,), place=name))
        return results

    def _copy(self, node: Node, moved: dict[int, int]) -> Node:
        """The node with numbers of its own for what it makes."""
        operands = tuple(moved.get(one, one) for one in node.operands)
        # A function's graph uses nothing around it: all calls share it.
        called = node.operation == "call"
        graphs = node.graphs if called else tuple(self._copy_graph(graph, moved) for graph in node.graphs)
        results = []
        for one in node.results:
            moved[one] = len(self.values)
            self.values[moved[one]] = self.values[one]
            results.append(moved[one])
        return Node(
            node.operation, operands, tuple(results), graphs, node.sizes, node.constant, node.place, node.direction
        )

    def _copy_graph(self, graph: Graph, outer: dict[int, int]) -> Graph:
        moved = dict(outer)
        for one in graph.inputs:
            moved[one] = len(self.values)
            self.values[moved[one]] = self.values[one]
        nodes = tuple(self._copy(node, moved) for node in graph.nodes)
        return Graph(
            tuple(moved[one] for one in graph.inputs), nodes, tuple(moved.get(one, one) for one in graph.outputs)
        )

    def _node(self, view: Any, name: str, operands: tuple[int, ...], known: dict[Any, int]) -> Node:
        operation = view.operation
        short = name.partition(".")[2] or name
        shapes = [self.values[one] for one in operands]
        sizes, constant, direction = {}, None, ""
        if short == "constant":
            constant, splat = self._constant(operation)
            sizes = {"splat": float(splat)}
        elif short in _SIZES:
            sizes = _SIZES[short](view, shapes, self._value(operation.results[0]))
        elif short == "compare":
            direction = _direction(str(operation.attributes["comparison_direction"]))
        graphs = tuple(self._block(region.blocks[0], known) for region in operation.regions if len(region.blocks))
        results = tuple(self._new(one) for one in operation.results)
        place = _place(operation.location) if short == "while" else ""
        if short == "custom_call":
            place = str(operation.attributes["call_target_name"].value)
        return Node(short, operands, results, graphs, sizes, constant, place, direction)

    def _constant(self, operation: Any) -> tuple[int | None, bool]:
        """A whole number where it is one alone, and whether all its elements are the same."""
        attribute = operation.attributes["value"]
        splat = bool(getattr(attribute, "is_splat", False))
        shape = self._value(operation.results[0])
        if shape.elements == 1 and (shape.dtype.startswith(("int", "uint")) or shape.dtype == "bool"):
            try:
                return int(self.ir.DenseIntElementsAttr(attribute)[0]), True
            except (ValueError, TypeError, IndexError):
                return None, splat
        return None, splat


def _nodes_of(graph: Graph) -> int:
    return sum(
        1 + (0 if node.operation == "call" else sum(_nodes_of(inner) for inner in node.graphs)) for node in graph.nodes
    )


def _dtype(element: str) -> str:
    if element in _ELEMENTS:
        return _ELEMENTS[element]
    if match := re.fullmatch(r"(ui|i|si)(\d+)", element):
        return f"{'uint' if match[1] == 'ui' else 'int'}{match[2]}"
    if match := re.fullmatch(r"complex<f(32|64)>", element):
        return f"complex{2 * int(match[1])}"
    if match := re.fullmatch(r"f(\d)E(\d)M(\d)(\w*)", element):
        return f"float{match[1]}_e{match[2]}m{match[3]}{match[4].lower()}"
    if match := re.match(r"!quant\.uniform<(i|u)(\d+)", element):
        return f"{'uint' if match[1] == 'u' else 'int'}{match[2]}"
    return element


def _direction(text: str) -> str:
    match = re.search(r"\b(EQ|NE|LT|LE|GT|GE)\b", text)
    return match[1] if match else ""


def _place(location: Any) -> str:
    """The name that the source gave it, and file and line where they are known."""
    text = str(location)
    names = re.findall(r'"([^"]*)"(?::(\d+))?', text)
    return next((f"{name}:{line}" if line else name for name, line in names if name), "an unnamed place")


def _dot_general(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    text = str(view.operation.attributes["dot_dimension_numbers"])
    match = re.search(r"lhs_contracting_dimensions = \[([\d, ]*)\]", text)
    contracted = [int(one) for one in re.findall(r"\d+", match[1])] if match else []
    return {"contracted": _product([shapes[0].shape[one] for one in contracted])}


def _dot(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    return {"contracted": _product(shapes[0].shape[-1:])}


def _convolution(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    """`positions`: pairs of an output and a kernel place that meet input, not padding; `features`: of a kernel."""
    attributes = view.operation.attributes
    text = str(attributes["dimension_numbers"])
    left, right, out = (re.findall(r"[a-z]|\d+", part) for part in re.findall(r"\[([^\]]*)\]", text))
    kernel, image = shapes[1].shape, shapes[0].shape
    spatial = [label for label in right if label.isdigit()]

    def listed(name: str, default: int, width: int = 1) -> list[int]:
        if name not in attributes:
            return [default] * (len(spatial) * width)
        attribute = attributes[name]
        try:
            found = [int(one) for one in attribute]
        except TypeError:
            found = []
        count = len(spatial) * width
        return found if len(found) == count else (found * count if len(found) == 1 else [default] * count)

    strides, left_dilation = listed("window_strides", 1), listed("lhs_dilation", 1)
    right_dilation, padding = listed("rhs_dilation", 1), listed("padding", 0, 2)
    positions = 1.0
    for axis, label in enumerate(spatial):
        size, taps, places = image[left.index(label)], kernel[right.index(label)], result.shape[out.index(label)]
        if size is None or taps is None or places is None:
            return {"positions": math.nan, "features": math.nan}
        positions *= _meetings(
            size, taps, places, strides[axis], padding[2 * axis], left_dilation[axis], right_dilation[axis]
        )
    return {
        "positions": positions,
        "features": _product([kernel[right.index("i")]]),
        "batch": _product([result.shape[out.index("b")]]),
        "filters": _product([result.shape[out.index("f")]]),
    }


def _meetings(size: int, taps: int, places: int, stride: int, low: int, spread: int, dilation: int) -> float:
    """How many pairs of output place and kernel tap lie on an element of the input, along one axis."""
    if taps * places > 1_000_000:
        return float(taps * places)
    width = (size - 1) * spread + 1 if size else 0
    return float(sum(
        0 <= (at := place * stride + tap * dilation - low) < width and at % spread == 0
        for place in range(places) for tap in range(taps)
    ))  # fmt: skip


def _window(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    return {"window": _product(int(one) for one in view.operation.attributes["window_dimensions"])}


def _reduced_window(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    """`window`: elements that one of the result folds in. Along an axis whose window reaches from one end to the
    element itself (cumsum and its like) each takes over what its neighbour has: two."""
    attributes = view.operation.attributes
    window = [int(one) for one in attributes["window_dimensions"]]

    def listed(name: str, default: int, width: int = 1) -> list[int]:
        return [int(one) for one in attributes[name]] if name in attributes else [default] * (len(window) * width)

    strides, padding = listed("window_strides", 1), listed("padding", 0, 2)
    dilations = zip(listed("base_dilations", 1), listed("window_dilations", 1), strict=True)
    made = 1.0
    for axis, (size, places, dilation) in enumerate(zip(window, result.shape, dilations, strict=True)):
        sides = sorted(padding[2 * axis : 2 * axis + 2])
        is_scan = size > 1 and sides == [0, size - 1] and strides[axis] == 1 and dilation == (1, 1)
        made *= 2 if is_scan and places is not None and size >= places else size
    return {"window": made}


def _transform(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    return {"length": _product(int(one) for one in view.operation.attributes["fft_length"])}


def _sorted(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    shape, attributes = shapes[0].shape, view.operation.attributes
    axis = int(attributes["dimension"]) if "dimension" in attributes else -1
    return {"sorted": _product([shape[axis]] if shape else [])}


def _left_side(view: Any, shapes: Sequence[Value], result: Value) -> dict[str, float]:
    return {"order": _product(shapes[0].shape[-1:])}


def _product(sizes: Any) -> float:
    """NaN where one is free."""
    made = 1.0
    for size in sizes:
        made *= math.nan if size is None else size
    return made


_SIZES: dict[str, Callable[[Any, Sequence[Value], Value], dict[str, float]]] = {
    "dot_general": _dot_general,
    "dot": _dot,
    "convolution": _convolution,
    "reduce_window": _reduced_window,
    "select_and_scatter": _window,
    "fft": _transform,
    "sort": _sorted,
    "triangular_solve": _left_side,
    "cholesky": _left_side,
}
