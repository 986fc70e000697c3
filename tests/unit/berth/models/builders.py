"""Programs for the tests: exported once each, read in this process."""

from functools import cache
from typing import Any

from berth.models.analysis import analyse
from berth.models.artefact import Analysis
from berth.models.program import Program
from berth.models.stablehlo import read_program

TRANSFORMER = "examples/models/transformer.py:forward"


def exported(function: Any, *arguments: Any, platforms: tuple[str, ...] = ("cpu",)) -> Any:
    import jax
    from jax import export

    return export.export(jax.jit(function), platforms=platforms)(*arguments)


def program(function: Any, *arguments: Any) -> Program:
    return read_program(exported(function, *arguments).mlir_module_serialized)


def analysis(function: Any, *arguments: Any) -> Analysis:
    return analyse(program(function, *arguments))


def shape(*sizes: int, dtype: str = "float32") -> Any:
    import jax

    return jax.ShapeDtypeStruct(sizes, dtype)


@cache
def transformer() -> Any:
    """The example, exported for every platform: its bytes and the names of its inputs."""
    from berth.models.export import export

    return export(TRANSFORMER)


@cache
def onnx_bytes(batch: int | str = "batch") -> bytes:
    """[batch, 16] x [16, 8], then Relu."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((16, 8), np.float32), "weights")
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 16])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, 8])],
        [weights],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
