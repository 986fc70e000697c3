"""Models and Triton servers for tests: what is served, and what it is asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from berth.backends.triton_client import TritonClient
from berth.embedded.triton import TritonServer


@asynccontextmanager
async def triton_server(folder: Path) -> AsyncIterator[TritonServer]:
    server = TritonServer(folder)
    await server.start()
    try:
        yield server
    finally:
        server.stop()


def double(values: Any) -> Any:
    """[rows, 3] -> [rows, 3]."""
    return values * 2.0 + 1.0


def exported(path: Path, *, rows: "int | str" = 2, platforms: tuple[str, ...] = ("cpu", "cuda", "rocm", "tpu")) -> Path:
    """`double` as a jax.export artefact; rows "b": a free first dimension."""
    import jax
    import jax.export

    shape = jax.export.symbolic_shape(f"{rows}, 3")
    argument = jax.ShapeDtypeStruct(shape, "float32")  # type: ignore[no-untyped-call]
    path.write_bytes(bytes(jax.export.export(jax.jit(double), platforms=platforms)(argument).serialize()))
    return path


FOLDER_CONFIGURATION = """
# As a person writes it.
name: "doubler"
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output { name: "y", data_type: TYPE_FP32, dims: 3 }
instance_group [ { kind: KIND_GPU count: 4 gpus: [ 0, 1 ] } ]
parameters { key: "factor" value { string_value: "3" } }
"""
FOLDER_MODEL = """
import json, os, sys
sys.path[:0] = os.environ["BERTH_TRITON_PYTHONPATH"].split(":")
import numpy
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        given = json.loads(args["model_config"])["parameters"]
        if "trouble" in given:
            raise RuntimeError("no weights of " + given["trouble"]["string_value"])
        if "first_refuses" in given:
            # The first server that is asked refuses for good.
            place = given["first_refuses"]["string_value"]
            if not os.path.exists(place):
                open(place, "w").write(os.getcwd())
            if open(place).read() == os.getcwd():
                raise RuntimeError("this server has no room")
        if "slow" in given:
            import time
            time.sleep(float(given["slow"]["string_value"]))
        self.factor = float(given["factor"]["string_value"])

    def execute(self, requests):
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor.from_dlpack(
                        "y", numpy.from_dlpack(triton.get_input_tensor_by_name(one, "x")) * numpy.float32(self.factor)
                    )
                ]
            )
            for one in requests
        ]
"""

SLEEPER = """
import os, sys, time
sys.path[:0] = os.environ["BERTH_TRITON_PYTHONPATH"].split(":")
import numpy
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(SECONDS)
        ones = [numpy.ones(3, dtype=numpy.float32) for _ in requests]
        return [triton.InferenceResponse([triton.Tensor.from_dlpack("y", one)]) for one in ones]
"""


def model_folder(folder: Path) -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(FOLDER_CONFIGURATION)
    (folder / "1" / "model.py").write_text(FOLDER_MODEL)
    return folder


def sleeping_folder(folder: Path, *, seconds: float) -> Path:
    """A model whose every execution takes so long, and answers ones."""
    (model_folder(folder) / "1" / "model.py").write_text(SLEEPER.replace("SECONDS", repr(seconds)))
    return folder


async def ask(endpoint: str, values: Any) -> Any:
    """A request to an endpoint as a job shows it; the first output as nested lists of rows."""
    address, _, model = endpoint.partition("/v2/models/")
    flat = [one for row in values for one in row] if isinstance(values[0], list) else values
    shape = [len(values), len(values[0])] if isinstance(values[0], list) else [len(values)]
    async with TritonClient(address) as client:
        configuration = await client.configuration(model)
        assert configuration is not None
        name = configuration["input"][0]["name"]
        request = {"inputs": [{"name": name, "shape": shape, "datatype": "FP32", "data": flat}]}
        return (await client.infer(model, request))["outputs"][0]["data"]
