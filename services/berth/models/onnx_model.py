"""An ONNX model as a `Program`: its operators in the terms of the analysis, after ONNX's own inference of shapes.

The weights are constants. An operator of another domain than ONNX's own is a custom call. Recurrent operators,
Einsum and functions of the model's own are not taken apart: then the operations are unknown.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from berth.errors import InvalidInput
from berth.models.artefact import Tensor
from berth.models.missing import need
from berth.models.program import Graph, Node, Program, Value

__all__ = ["OnnxModel", "read_onnx"]

_REMEDY = "give an ONNX model as onnx.save writes it"
_PLAIN = {
    "Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Neg": "negate", "Abs": "abs",
    "Max": "maximum", "Min": "minimum", "Relu": "maximum", "LeakyRelu": "maximum", "PRelu": "maximum", "Clip": "clamp",
    "Sigmoid": "logistic", "Tanh": "tanh", "Exp": "exponential", "Log": "log", "Sqrt": "sqrt", "Pow": "power",
    "Erf": "erf", "Sin": "sine", "Cos": "cosine", "Reciprocal": "divide", "Gelu": "erf", "Elu": "exponential",
    "Softplus": "log", "HardSigmoid": "add", "HardSwish": "multiply", "Floor": "floor", "Ceil": "ceil",
    "Round": "round_nearest_even", "Sign": "sign", "Mod": "remainder", "Where": "select", "Cast": "convert",
    "QuantizeLinear": "convert", "DequantizeLinear": "convert", "Reshape": "reshape", "Flatten": "reshape",
    "Squeeze": "reshape", "Unsqueeze": "reshape", "Identity": "reshape", "Dropout": "reshape",
    "Transpose": "transpose", "Expand": "broadcast_in_dim", "Tile": "broadcast_in_dim", "Slice": "slice",
    "Split": "slice", "Gather": "gather", "GatherElements": "gather", "Concat": "concatenate", "Pad": "pad",
    "Equal": "compare", "Less": "compare", "Greater": "compare", "Not": "not", "And": "and", "Or": "or",
    "Sum": "add", "Softmax": "batch_norm", "LogSoftmax": "batch_norm", "LayerNormalization": "batch_norm",
    "BatchNormalization": "batch_norm", "InstanceNormalization": "batch_norm", "GroupNormalization": "batch_norm",
    "RMSNormalization": "batch_norm", "LRN": "batch_norm",
}  # fmt: skip
_PRODUCTS = {"MatMul": (0, 1), "Gemm": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
_POOLS = ("MaxPool", "AveragePool", "LpPool")
_OPAQUE = ("LSTM", "GRU", "RNN", "Einsum", "Attention", "DFT", "STFT", "DeformConv", "Scan")
_OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """`opaque`: operators whose operations nobody counted."""

    program: Program
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opaque: tuple[str, ...]


def read_onnx(content: bytes, field: str = "file", batch: int | None = None) -> OnnxModel:
    """`batch`: taken for a free first dimension of the inputs. Raises InvalidInput."""
    onnx = need("onnx")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise InvalidInput.of(field, str(error)[:200], _REMEDY) from error
    if not model.graph.node or not model.opset_import or not model.ir_version:
        raise InvalidInput.of(field, "no operators, operator set or version", _REMEDY)
    for one in model.graph.initializer:
        if one.data_location == onnx.TensorProto.EXTERNAL:
            raise InvalidInput.of(
                field, one.name, "its weights lie in another file: save it as one, with save_as_external_data=False"
            )
    _free_negative(model.graph)
    held = {one.name for one in model.graph.initializer}
    signature = [_tensor(onnx, one) for one in model.graph.input if one.name not in held]
    outputs = [_tensor(onnx, one) for one in model.graph.output]
    if batch is not None:
        if not any(one.shape and one.shape[0] is None for one in signature):
            remedy = "no input has a free first dimension: leave --batch out, or export it with one"
            raise InvalidInput.of("batch", batch, remedy)
        for one in model.graph.input:
            if one.type.tensor_type.shape.dim and _size(one.type.tensor_type.shape.dim[0]) is None:
                one.type.tensor_type.shape.dim[0].dim_value = batch
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidInput.of(field, line[:200], f"ONNX's own checker refuses it: {_REMEDY}") from error
    reader = _Reader(onnx, inferred, field)
    return OnnxModel(reader.program(), tuple(signature), tuple(outputs), tuple(sorted(reader.opaque)))


def _size(dimension: Any) -> int | None:
    return int(dimension.dim_value) if dimension.HasField("dim_value") else None


def _free_negative(graph: Any) -> None:
    """Some exporters write -1 for a free dimension, which ONNX's own inference takes for a size."""
    for one in (*graph.input, *graph.output, *graph.value_info):
        for dimension in one.type.tensor_type.shape.dim:
            if dimension.HasField("dim_value") and dimension.dim_value < 0:
                dimension.ClearField("dim_value")


def _dtype(onnx: Any, number: int) -> str:
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(number).name)
    except (KeyError, TypeError, ValueError):
        return "object"


def _tensor(onnx: Any, value: Any) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(_size(one) for one in kind.shape.dim)
    return Tensor(value.name, _dtype(onnx, kind.elem_type), shape)


class _Reader:
    def __init__(self, onnx: Any, model: Any, field: str) -> None:
        self.onnx, self.model, self.field = onnx, model, field
        self.values: dict[int, Value] = {}
        self.numbers: dict[str, int] = {}
        self.custom_calls: Counter[str] = Counter()
        self.opaque: set[str] = set()
        self.nodes: list[Node] = []

    def program(self) -> Program:
        graph = self.model.graph
        known: dict[str, Value] = {}
        for one in (*graph.input, *graph.output, *graph.value_info):
            tensor = _tensor(self.onnx, one)
            has_shape = one.type.tensor_type.HasField("shape")
            known[one.name] = Value(tensor.shape if has_shape else (None,), tensor.dtype)
        for one in graph.initializer:
            number = self._new(one.name, Value(tuple(one.dims), _dtype(self.onnx, one.data_type)))
            self.nodes.append(Node("constant", (), (number,), sizes={"splat": 0.0}))
        inputs = tuple(self._new(one.name, known[one.name]) for one in graph.input if one.name not in self.numbers)
        for node in graph.node:
            self._node(node, known)
        outputs = tuple(self.numbers[one.name] for one in graph.output if one.name in self.numbers)
        main = Graph(inputs, tuple(self.nodes), outputs)
        return Program(main, self.values, tuple(one.name for one in graph.input), dict(self.custom_calls))

    def _new(self, name: str, value: Value) -> int:
        number = len(self.values)
        self.values[number] = value
        self.numbers[name] = number
        return number

    def _node(self, node: Any, known: dict[str, Value]) -> None:
        operands = tuple(self.numbers[name] for name in node.input if name in self.numbers)
        if node.op_type == "Constant":
            tensor = next((one.t for one in node.attribute if one.name == "value"), None)
            shape = tuple(tensor.dims) if tensor is not None else ()
            dtype = _dtype(self.onnx, tensor.data_type) if tensor is not None else "float32"
            number = self._new(node.output[0], Value(shape, dtype))
            self.nodes.append(Node("constant", (), (number,), sizes={"splat": float(math.prod(shape) <= 1)}))
            return
        results = tuple(self._new(name, known.get(name, Value((None,), "float32"))) for name in node.output if name)
        if node.domain not in _OWN_DOMAINS:
            self.custom_calls[f"{node.domain}::{node.op_type}"] += 1
        operation, sizes = self._meaning(node, operands, results)
        self.nodes.append(Node(operation, operands, results, sizes=sizes, place=node.name or node.op_type))

    def _meaning(self, node: Any, operands: Sequence[int], results: Sequence[int]) -> tuple[str, dict[str, float]]:
        kind = node.op_type if node.domain in _OWN_DOMAINS else ""
        shapes = [self.values[one].shape for one in operands]
        if kind in _PRODUCTS and shapes:
            turned = any(one.name == "transA" and one.i for one in node.attribute)
            contracted = _free(shapes[0][0 if turned else -1] if shapes[0] else 1)
            return "dot_general", {"contracted": contracted, "right": float(_PRODUCTS[kind][1])}
        if kind in _CONVOLUTIONS and len(shapes) > _CONVOLUTIONS[kind]:
            return "convolution", self._convolution(kind, shapes, self.values[results[0]].shape)
        if kind in _POOLS:
            window = next((list(one.ints) for one in node.attribute if one.name == "kernel_shape"), [])
            return "reduce_window", {"window": float(math.prod(window)), "body": 1.0}
        if kind.startswith("Reduce") or kind in ("GlobalAveragePool", "GlobalMaxPool"):
            return "reduce", {"body": 1.0}
        if kind in _PLAIN:
            return _PLAIN[kind], {}
        if kind in _OPAQUE or not kind or (node.attribute and any(one.HasField("g") for one in node.attribute)):
            self.opaque.add(kind or f"{node.domain}::{node.op_type}")
        return f"onnx.{kind}", {}

    def _convolution(self, kind: str, shapes: Sequence[Any], result: Any) -> dict[str, float]:
        kernel = shapes[_CONVOLUTIONS[kind]]
        # Each element of the output (of the input, where the convolution is transposed) meets the whole kernel.
        over = shapes[0] if kind == "ConvTranspose" else result
        places = math.prod(_free(one) for one in over[2:])
        return {
            "right": float(_CONVOLUTIONS[kind]),
            "batch": _free(result[0] if result else None),
            "filters": _free(kernel[0]),
            "features": _free(kernel[1]),
            "positions": places * math.prod(_free(one) for one in kernel[2:]),
        }


def _free(size: int | None) -> float:
    return math.nan if size is None else float(size)
