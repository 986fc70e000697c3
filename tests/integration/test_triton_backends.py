"""The backends on a real Triton server: what is served answers as the program does, and Triton's words come through."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from berth.backends import onnx, triton_python, xla
from berth.backends.base import Backend, Health, Placement, Prepared, Refused, Unanswered
from berth.backends.triton_client import TritonClient
from berth.embedded.triton import TritonServer
from berth.models.artefact_file import open_artefact
from tests.serving import ask, exported, model_folder, triton_server

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
DOUBLED = [3.0, 5.0, 7.0, 9.0, 11.0, 13.0]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TritonServer]:
    async with triton_server(tmp_path_factory.mktemp("triton")) as made:
        yield made


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("model") / "double.jax_export", rows=2)


def placed(server: TritonServer, **parameters: str) -> Placement:
    return Placement("n1", "CPU", (), server.address, parameters)


async def prepare(backend: Backend, content: Path, placement: Placement) -> Prepared:
    return await backend.prepare(open_artefact(content).artefact, content, placement)


async def settled(client: TritonClient, name: str) -> dict[str, Any]:
    """The statistics of a model that was asked, once they rest: the server counts after it has answered."""
    for _ in range(100):
        found = await client.statistics(name)
        await asyncio.sleep(0.1)
        if found is not None and found["inference_count"] and await client.statistics(name) == found:
            return dict(found)
    raise AssertionError(f"{name}: no request was counted")


async def test_an_artefact_answers_as_its_function_and_is_loaded_once(server: TritonServer, artefact: Path) -> None:
    backend, placement = xla.backend(), placed(server)
    assert (await backend.look("once", placement)).health is Health.ABSENT
    prepared = await prepare(backend, artefact, placement)
    serving = await backend.serve("once", prepared, placement)
    assert serving.health is Health.READY
    assert serving.endpoint == f"{server.address}/v2/models/once"
    assert await ask(serving.endpoint, ROWS) == DOUBLED
    async with TritonClient(server.address) as client:
        before = await settled(client, "once")
        assert before["inference_count"] == 1
        assert await xla.backend().serve("once", prepared, placement) == serving
        # A second load would have begun the counts anew.
        assert await client.statistics("once") == before
        with pytest.raises(Refused, match=r"unexpected shape for input '[a-z_0-9]+'"):
            await ask(serving.endpoint, [[1.0, 2.0]])
        other = Prepared("xla", "0" * 64, prepared.files, prepared.configuration)
        with pytest.raises(Refused, match="serves another model as 'once'"):
            await backend.serve("once", other, placement)
        assert await client.statistics("once") is not None
    await backend.release("once", placement)
    assert (await backend.look("once", placement)).health is Health.ABSENT
    await backend.release("once", placement)
    await backend.close()


async def test_requests_are_joined_to_the_rows_of_the_program(server: TritonServer, artefact: Path) -> None:
    backend, placement = xla.backend(), placed(server, max_batch_size="2", max_queue_delay_microseconds="1000")
    serving = await backend.serve("joined", await prepare(backend, artefact, placement), placement)
    # One row of two: the missing one is filled up and its answer dropped.
    assert await ask(serving.endpoint, ROWS[:1]) == DOUBLED[:3]
    await backend.release("joined", placement)
    with pytest.raises(Refused, match=r"max_batch_size: '4': double takes 2 rows"):
        await prepare(backend, artefact, placed(server, max_batch_size="4"))
    await backend.close()


async def test_a_model_folder_and_an_artefact_side_by_side(
    server: TritonServer, artefact: Path, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "doubler")
    plain, portable, placement = triton_python.backend(), xla.backend(), placed(server)
    one = await plain.serve("folder", await prepare(plain, folder, placement), placement)
    two = await portable.serve("portable", await prepare(portable, artefact, placement), placement)
    assert await ask(one.endpoint, [1.0, 2.0, 3.0]) == [3.0, 6.0, 9.0]
    assert await ask(two.endpoint, ROWS) == DOUBLED
    async with TritonClient(server.address) as client:
        assert {"folder", "portable"} <= set(await client.loaded())
        configuration = await client.configuration("folder")
        assert configuration is not None
        # The folder says four on GPUs: the placement says one on the CPU.
        assert [(one["kind"], one["count"]) for one in configuration["instance_group"]] == [("KIND_CPU", 1)]
    await plain.release("folder", placement)
    assert (await portable.look("portable", placement)).health is Health.READY
    await portable.release("portable", placement)
    for backend in (plain, portable):
        await backend.close()


async def test_tritons_own_words_come_through(server: TritonServer, tmp_path: Path, artefact: Path) -> None:
    backend = triton_python.backend()
    placement = placed(server, trouble="the moon")
    prepared = await prepare(backend, model_folder(tmp_path / "doubler"), placement)
    with pytest.raises(Refused, match="RuntimeError: no weights of the moon"):
        await backend.serve("troubled", prepared, placement)
    assert (await backend.look("troubled", placement)).health is Health.ABSENT
    corrupt = await prepare(xla.backend(), artefact, placed(server))
    half = Prepared("xla", "1" * 64, {**corrupt.files, "1/model.jax_export": b"half"}, corrupt.configuration)
    portable = xla.backend()
    with pytest.raises(Refused, match="load failed for model 'half'"):
        await portable.serve("half", half, placed(server))
    nonsense = Prepared("xla", "1" * 64, {}, {**corrupt.configuration, "max_batch_size": -3})
    with pytest.raises(Refused, match="'half'"):
        await portable.serve("half", nonsense, placed(server))
    on_a_gpu = Placement("n1", "H100-SXM", (0,), server.address)
    with pytest.raises(Refused, match="unsupported gpu id 0"):
        await portable.serve("half", await prepare(portable, artefact, on_a_gpu), on_a_gpu)
    for one in (backend, portable):
        await one.close()


STABLEHLO = """
module @affine {
  func.func public @main(%x: tensor<2x3xf32> loc("x"), %b: tensor<3xbf16> loc("b"), %n: tensor<i64> loc("n"))
      -> (tensor<2x3xf32>, tensor<i64>) {
    %0 = stablehlo.convert %b : (tensor<3xbf16>) -> tensor<3xf32>
    %1 = stablehlo.broadcast_in_dim %0, dims = [1] : (tensor<3xf32>) -> tensor<2x3xf32>
    %2 = func.call @sum(%x, %1) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    %3 = stablehlo.add %n, %n : tensor<i64>
    return %2, %3 : tensor<2x3xf32>, tensor<i64>
  }
  func.func private @sum(%x: tensor<2x3xf32>, %y: tensor<2x3xf32>) -> tensor<2x3xf32> {
    %0 = stablehlo.add %x, %y : tensor<2x3xf32>
    return %0 : tensor<2x3xf32>
  }
}
"""


async def test_bare_stablehlo_is_served_as_an_artefact_is(server: TritonServer, tmp_path: Path) -> None:
    """Inputs of several types, one of them wider than jax has them by itself."""
    path = tmp_path / "affine.mlir"
    path.write_text(STABLEHLO)
    backend, placement = xla.backend(), placed(server)
    prepared = await prepare(backend, path, placement)
    assert (await prepare(xla.backend(), path, placement)).digest == prepared.digest
    await backend.serve("affine", prepared, placement)
    async with TritonClient(server.address) as client:
        answer = await client.infer(
            "affine",
            {
                "inputs": [
                    {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": ROWS},
                    {"name": "b", "shape": [3], "datatype": "FP32", "data": [10.0, 20.0, 30.0]},
                    {"name": "n", "shape": [1], "datatype": "INT64", "data": [2**40]},
                ]
            },
        )
    assert [one["data"] for one in answer["outputs"]] == [[11.0, 22.0, 33.0, 14.0, 25.0, 36.0], [2**41]]
    await backend.release("affine", placement)
    await backend.close()
    # A file of bytecode, such as jax.export writes within its artefact.
    code = tmp_path / "double.mlirbc"
    code.write_bytes(stablehlo_of(exported(tmp_path / "double.jax_export", platforms=("cpu",))))
    serving = await backend.serve("code", await prepare(backend, code, placement), placement)
    assert await ask(serving.endpoint, ROWS) == DOUBLED
    await backend.release("code", placement)
    await backend.close()


def stablehlo_of(path: Path) -> bytes:
    import jax.export

    return bytes(jax.export.deserialize(bytearray(path.read_bytes())).mlir_module_serialized)


OWN_MODEL = """
{path}
import numpy
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        array = triton.get_input_tensor_by_name(requests[0], "x")
        array = {read}
        return [triton.InferenceResponse([{write}])]
"""
HERE = 'import os, sys; sys.path[:0] = os.environ["BERTH_TRITON_PYTHONPATH"].split(":")'


@pytest.mark.parametrize(
    ("path", "read", "write", "expected"),
    [
        ("", "array.as_numpy()", 'triton.Tensor("y", array)', "No module named 'numpy'"),
        (HERE, "array.as_numpy()", 'triton.Tensor("y", array)', "output tensor shape does not match size of output"),
        (HERE, "array.as_numpy().copy()", 'triton.Tensor.from_dlpack("y", array)', [1.0, 1.0, 1.0]),
        (HERE, "numpy.from_dlpack(array)", 'triton.Tensor.from_dlpack("y", array * 1)', [1.0, 2.0, 3.0]),
    ],
)
async def test_what_docs_say_of_numpy_2_in_ones_own_model(
    server: TritonServer, tmp_path: Path, path: str, read: str, write: str, expected: object
) -> None:
    """docs/backends.md: the wheel's Python backend was built for numpy 1. Where this fails, the server has changed."""
    folder = model_folder(tmp_path / "doubler")
    (folder / "1" / "model.py").write_text(OWN_MODEL.format(path=path, read=read, write=write))
    backend, placement = triton_python.backend(), placed(server)
    try:
        serving = await backend.serve("own", await prepare(backend, folder, placement), placement)
        answer: object = await ask(serving.endpoint, ROWS[0])
    except (Refused, Unanswered) as error:
        answer = str(error)
    if isinstance(expected, str):
        assert expected in str(answer)
    else:
        assert answer == expected
    await backend.release("own", placement)
    await backend.close()


async def test_onnx_is_served_by_onnxruntime_in_python_where_triton_has_no_backend_for_it(
    server: TritonServer, tmp_path: Path
) -> None:
    path = onnx_double(tmp_path / "double.onnx")
    backend, placement = onnx.backend(), placed(server, max_batch_size="8")
    serving = await backend.serve("onnx", await prepare(backend, path, placement), placement)
    assert await ask(serving.endpoint, ROWS) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    await backend.release("onnx", placement)
    await backend.close()


async def test_a_killed_server_comes_back_empty(tmp_path: Path) -> None:
    async with triton_server(tmp_path / "own") as own:
        backend, placement = triton_python.backend(), placed(own)
        prepared = await prepare(backend, model_folder(tmp_path / "doubler"), placement)
        await backend.serve("gone", prepared, placement)
        own.kill()
        with pytest.raises(Unanswered):
            await backend.look("gone", placement)
        with pytest.raises(Unanswered):
            await backend.release("gone", placement)
        await own.start()
        assert (await backend.look("gone", placement)).health is Health.ABSENT
        assert (await backend.serve("gone", prepared, placement)).health is Health.READY
        await backend.close()


def onnx_double(path: Path) -> Path:
    import onnx as onnx_format
    from onnx import TensorProto, helper

    shape: Any = ["n", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx_format.save(model, str(path))
    return path
