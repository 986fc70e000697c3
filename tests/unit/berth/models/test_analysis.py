"""What one call costs: against XLA's own figures where no loop is, and against arithmetic where one is."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.models import formats
from berth.models.analysis import analyse
from berth.models.artefact import Analysis
from berth.models.stablehlo import read_program
from tests.unit.berth.models.builders import analysis, exported, onnx_bytes, program, shape


def perceptron(x: Any, up: Any, down: Any) -> Any:
    return jax.nn.gelu(x @ up) @ down


def convolution(image: Any, kernel: Any) -> Any:
    return jax.lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pooling(image: Any) -> Any:
    return jax.lax.reduce_window(image, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def attention(query: Any, key: Any, value: Any) -> Any:
    return jax.nn.softmax(query @ key.T) @ value


LOOP_FREE: list[tuple[Any, Sequence[Any]]] = [
    (lambda a, b: a @ b, (shape(128, 256), shape(256, 64))),
    (perceptron, (shape(128, 256), shape(256, 512), shape(512, 256))),
    (jax.nn.softmax, (shape(512, 1000),)),
    (convolution, (shape(4, 32, 32, 8), shape(3, 3, 8, 16))),
    (pooling, (shape(4, 32, 32, 8),)),
    (attention, (shape(64, 32), shape(96, 32), shape(96, 16))),
    (lambda x: jnp.sort(x), (shape(4096),)),
    (lambda a, b: jnp.einsum("bij,bjk->bik", a, b).sum(), (shape(3, 20, 30), shape(3, 30, 10))),
]


@pytest.mark.parametrize(("function", "arguments"), LOOP_FREE)
def test_operations_and_memory_are_those_of_xla_where_no_loop_is(function: Any, arguments: Sequence[Any]) -> None:
    found = analysis(function, *arguments)
    compiled = jax.jit(function).lower(*arguments).compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    # XLA keeps transcendental operations apart; ours hold one each.
    assert found.operations == pytest.approx(cost["flops"] + cost.get("transcendentals", 0.0), rel=0.005)
    assert (found.argument_bytes, found.output_bytes) == (memory.argument_size_in_bytes, memory.output_size_in_bytes)
    # XLA's fusion on a CPU is another than what is reckoned with: the same order.
    assert found.bytes_moved is not None
    assert cost["bytes accessed"] / 4 <= found.bytes_moved <= cost["bytes accessed"] * 4
    assert found.temporary_bytes is not None
    assert found.temporary_bytes <= 4 * memory.temp_size_in_bytes + 4096


@given(st.lists(st.integers(1, 40), min_size=3, max_size=6))
@settings(max_examples=15, deadline=None)
def test_a_chain_of_products_costs_the_sum_of_its_products(sizes: list[int]) -> None:
    matrices = [shape(rows, columns) for rows, columns in itertools.pairwise(sizes)]

    def chain(*given: Any) -> Any:
        made = given[0]
        for one in given[1:]:
            made = made @ one
        return made

    links = [2 * sizes[0] * inner * outer for inner, outer in itertools.pairwise(sizes[1:])]
    between = [4 * sizes[0] * size for size in sizes[2:-1]]
    found = analysis(chain, *matrices)
    read = sum(4 * a * b for a, b in itertools.pairwise(sizes))
    assert found == Analysis(
        operations=sum(links),
        bytes_moved=read + 2 * sum(between) + 4 * sizes[0] * sizes[-1],
        by_precision={"fp32": sum(links)},
        constant_bytes=0,
        argument_bytes=read,
        output_bytes=4 * sizes[0] * sizes[-1],
        temporary_bytes=max((a + b for a, b in zip(between, [*between[1:], 0], strict=False)), default=0),
    )


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 9)), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_loops_within_loops_count_as_often_as_they_turn(bounds: list[tuple[int, int]]) -> None:
    def nested(x: Any) -> Any:
        def inside(depth: int, value: Any) -> Any:
            if depth == len(bounds):
                return value @ value
            start, turns = bounds[depth]
            return jax.lax.fori_loop(start, start + turns, lambda _, held: inside(depth + 1, held), value)

        return inside(0, x)

    found = analysis(nested, shape(6, 6))
    assert found.operations == 2 * 6**3 * math.prod(turns for _, turns in bounds)
    assert found.unknown_loops == ()


def test_a_scan_costs_its_body_as_often_as_it_turns() -> None:
    def step(held: Any, weight: Any) -> Any:
        return jnp.tanh(held @ weight), held.sum()

    def scanned(x: Any, weights: Any) -> Any:
        return jax.lax.scan(step, x, weights)

    once = analysis(lambda x, w: step(x, w), shape(16, 16), shape(16, 16))
    found = analysis(scanned, shape(16, 16), shape(7, 16, 16))
    assert once.operations is not None
    assert found.operations == 7 * once.operations
    backwards = analysis(lambda x, w: jax.lax.scan(step, x, w, reverse=True), shape(16, 16), shape(7, 16, 16))
    assert backwards.operations == found.operations
    # Each turn looks at its own slice of the weights, not at all of them.
    longer = analysis(scanned, shape(16, 16), shape(70, 16, 16))
    assert found.bytes_moved is not None
    assert longer.bytes_moved == pytest.approx(10 * found.bytes_moved, rel=0.01)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cumulative_sum_costs_an_operation_an_element(reverse: bool) -> None:
    found = analysis(lambda x: jax.lax.cumsum(x, axis=1, reverse=reverse), shape(8, 4096))
    assert found.operations == 8 * 4096
    whole = analysis(lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (8, 9), (1, 1), "VALID"), shape(8, 9))
    assert whole.operations == 8 * 9 - 1


def test_a_loop_that_the_data_ends_counts_once_and_is_named() -> None:
    def settle(x: Any) -> Any:
        return jax.lax.while_loop(lambda held: jnp.sum(held) < 10.0, lambda held: held @ held, x)

    found = analysis(settle, shape(8, 8))
    assert found.operations == 2 * 8**3 + 63
    assert len(found.unknown_loops) == 1
    assert "while" in found.unknown_loops[0]


def test_the_dearest_branch_counts() -> None:
    def choose(which: Any, x: Any) -> Any:
        return jax.lax.switch(which, [lambda v: v, lambda v: v @ v, lambda v: v + v], x)

    assert analysis(choose, shape(dtype="int32"), shape(8, 8)).operations == 2 * 8**3


def by_platform(function: Any, *arguments: Any, batch: int | None = None) -> dict[str, Analysis]:
    made = exported(function, *arguments, platforms=("cpu", "cuda", "rocm", "tpu"))
    return dict(formats.read(bytes(made.serialize()), "m", "m", batch).by_platform)


def dispatched(x: Any) -> Any:
    other = jax.lax.platform_dependent(x, tpu=lambda v: v @ v, default=lambda v: v + v)
    return jax.lax.fori_loop(0, 3, lambda _, held: held @ held, other)


def test_what_the_platform_chooses_counts_as_that_platforms_arm() -> None:
    found = by_platform(dispatched, shape(8, 8))
    assert found["tpu"].by_precision == {"fp32": 4 * 2 * 8**3}
    assert found["cpu"] == found["cuda"] == found["rocm"]
    assert found["cuda"].by_precision == {"fp32": 3 * 2 * 8**3 + 64}
    assert by_platform(lambda x: x @ x, shape(8, 8)) == {}


def test_the_platform_is_known_within_functions_that_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.models.stablehlo.INLINED_NODES", 0)
    found = by_platform(jax.jit(lambda x: jax.jit(dispatched)(x) @ x), shape(8, 8))
    assert found["tpu"].by_precision == {"fp32": 5 * 2 * 8**3}
    assert found["cuda"].by_precision == {"fp32": 4 * 2 * 8**3 + 64}


def test_a_free_dimension_leaves_the_platforms_choice_known() -> None:
    free = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 8, 8"), "float32")
    found = by_platform(dispatched, free, batch=2)
    assert found["tpu"].operations == 2 * 4 * 2 * 8**3
    assert found["cuda"].operations == 2 * (3 * 2 * 8**3 + 64)


def test_precisions_are_told_apart_and_whole_numbers_count_in_products_only() -> None:
    def mixed(a: Any, b: Any) -> Any:
        counted = jax.lax.dot(a, a, preferred_element_type=jnp.int32)
        return counted + counted, (b @ b).astype(jnp.float32) * 2

    found = analysis(mixed, shape(8, 8, dtype="int8"), shape(4, 4, dtype="bfloat16"))
    assert found.by_precision == {"int8": 2 * 8**3, "bf16": 2 * 4**3, "fp32": 16}


def test_weights_are_constants_and_held_once() -> None:
    import numpy as np

    weights = np.random.default_rng(1).standard_normal((32, 32)).astype(np.float32)

    def twice(x: Any) -> Any:
        return (x @ weights) @ weights

    found = analysis(twice, shape(2, 32))
    assert found.constant_bytes == 4 * 32 * 32
    assert found.memory_bytes == 4 * 32 * 32 + 3 * 4 * 2 * 32


CALLS = """
func.func @main(%x: tensor<4x4xf32>) -> tensor<4x4xf32> {{
  %a = call @f{depth}(%x) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  return %a : tensor<4x4xf32>
}}
func.func private @f0(%x: tensor<4x4xf32>) -> tensor<4x4xf32> {{
  %a = stablehlo.add %x, %x : tensor<4x4xf32>
  return %a : tensor<4x4xf32>
}}
"""
TWICE = """
func.func private @f{at}(%x: tensor<4x4xf32>) -> tensor<4x4xf32> {{
  %a = call @f{below}(%x) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %b = call @f{below}(%a) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  return %b : tensor<4x4xf32>
}}
"""


def test_functions_count_at_each_call_however_many_they_are() -> None:
    text = CALLS.format(depth=40) + "".join(TWICE.format(at=at, below=at - 1) for at in range(1, 41))
    assert analyse(read_program(text.encode())).operations == 16 * 2**40


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TWICE.format(at=1, below=1) + CALLS.format(depth=1), "calls itself"),
        ("module { func.func @other() { return } }", "no function `main`"),
        ("module { func.func @main() { return }", "StableHLO"),
        ("module { func.func @main(%x: tensor<99999999999999999999xf32>) { return } }", "StableHLO"),
    ],
)
def test_what_is_no_program_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_program(text.encode())


def test_a_free_dimension_leaves_the_cost_unknown() -> None:
    from jax import export

    free = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), "float32")
    found = analyse(read_program(exported(lambda x: x @ x.T, free).mlir_module_serialized))
    assert (found.operations, found.bytes_moved, found.memory_bytes) == (None, None, None)


def test_custom_calls_are_counted() -> None:
    assert program(jnp.linalg.cholesky, shape(8, 8)).custom_calls == {"lapack_spotrf_ffi": 1}


def test_a_custom_call_that_is_reached_leaves_the_cost_unknown() -> None:
    found = analysis(lambda x: jnp.linalg.cholesky(x) @ x, shape(8, 8))
    assert (found.operations, found.bytes_moved, found.temporary_bytes, found.memory_bytes) == (None, None, None, None)
    assert (found.uncounted_calls, found.output_bytes) == (("lapack_spotrf_ffi",), 256)
    everywhere = by_platform(jnp.linalg.cholesky, shape(8, 8))
    assert everywhere["cuda"].uncounted_calls == ("cusolver_potrf_ffi",)
    assert everywhere["tpu"].uncounted_calls == ()
    assert everywhere["tpu"].operations
    compared = analysis(lambda x: jax.lax.approx_max_k(x, 4)[0] * 2, shape(8, 64))
    assert (compared.operations, compared.uncounted_calls) == (8 * 4, ())


def test_several_parts_of_a_tensor_are_read_each_and_the_whole_once() -> None:
    rows = analysis(lambda x: sum(x[at] for at in range(6)), shape(8, 1000))
    assert rows.bytes_moved == 4 * (6 * 1000 + 1000)
    halves = analysis(lambda x: x[:, :32] @ x[:, 32:].T, shape(16, 64))
    assert halves.bytes_moved == 4 * (16 * 64 + 16 * 16)
    again = analysis(lambda x: x[1:] * x[:-1] + x[1:], shape(1000))
    assert again.bytes_moved == 4 * (1000 + 999)
    square = analysis(lambda x: x @ x.T, shape(16, 64))
    assert square.bytes_moved == 4 * (16 * 64 + 16 * 16)


def onnx_analysis(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **constants: Any) -> Analysis:
    """Of a model of these operators; shapes of inputs and outputs by name, all float32."""
    from onnx import TensorProto, helper, numpy_helper

    tensors = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in given.items()]
        for given in (inputs, outputs)
    ]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", *tensors, held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = formats.read(made.SerializeToString(), "m", "m.onnx").analysis
    assert found is not None
    return found


def test_a_split_reads_all_of_its_parts() -> None:
    from onnx import helper

    split = helper.make_node("Split", ["x"], ["a", "b"], axis=0, num_outputs=2)
    add = helper.make_node("Add", ["a", "b"], ["y"])
    assert onnx_analysis([split, add], {"x": [20, 50]}, {"y": [10, 50]}).bytes_moved == 4 * (1000 + 500)


def test_pools_and_reductions_of_onnx_count() -> None:
    from onnx import helper

    image = {"x": [1, 3, 8, 8]}
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    assert onnx_analysis([pool], image, {"y": [1, 3, 4, 4]}).operations == 3 * 16 * 3
    whole = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    assert onnx_analysis([whole], image, {"y": [1, 3, 1, 1]}).operations == 3 * 63
    total = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=1)
    assert onnx_analysis([total], image, {"y": [1, 1, 1, 1]}).operations == 3 * 64 - 1


PRODUCT = """
func.func @main(%x: tensor<8x8x{left}>, %y: tensor<8x8x{right}>) -> tensor<8x8xf32> {{
  %a = stablehlo.dot_general %x, %y, contracting_dims = [1] x [0]
    : (tensor<8x8x{left}>, tensor<8x8x{right}>) -> tensor<8x8xf32>
  return %a : tensor<8x8xf32>
}}
"""


@pytest.mark.parametrize(
    ("left", "right", "precision"),
    [
        ("f8E4M3FN", "bf16", "bf16"),
        ("bf16", "f8E4M3FN", "bf16"),
        ("i8", "bf16", "bf16"),
        ("i4", "i8", "int8"),
        ("bf16", "f32", "fp32"),
    ],
)
def test_a_product_is_in_the_wider_precision_of_its_sides(left: str, right: str, precision: str) -> None:
    found = analyse(read_program(PRODUCT.format(left=left, right=right).encode()))
    assert found.by_precision == {precision: 2 * 8**3}


def test_a_sort_counts_by_the_axis_that_is_sorted() -> None:
    """XLA's own figure takes the logarithm of the whole tensor, whatever is sorted."""
    assert analysis(lambda x: jnp.sort(x, axis=0), shape(16, 64)).operations == 16 * 64 * 4
    assert analysis(lambda x: jnp.sort(x, axis=-1), shape(16, 64)).operations == 16 * 64 * 6


def test_a_negative_dimension_of_onnx_is_free() -> None:
    free = onnx_bytes(-1)
    unknown = formats.read(free, "m", "m")
    assert unknown.inputs[0].shape == (None, 16)
    sized = formats.read(free, "m", "m", batch=4).analysis
    assert sized is not None
    assert sized.operations == 2 * 4 * 16 * 8 + 4 * 8


def test_a_batch_that_is_not_applied_is_refused() -> None:
    fixed = exported(lambda x: x @ x, shape(8, 8))
    for content, says in [
        (bytes(fixed.serialize()), "no input has a free dimension"),
        (bytes(fixed.mlir_module_serialized), "not applied to StableHLO"),
        (onnx_bytes(4), "free first dimension"),
    ]:
        with pytest.raises(InvalidInput, match=says):
            formats.read(content, "m", "m", batch=8)
