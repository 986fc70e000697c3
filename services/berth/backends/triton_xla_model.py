"""Triton's `model.py` of the backend xla: deserialises a jax.export artefact and runs it on the instance's device.

It runs in Triton's Python backend, in a process of its own: of Berth nothing can be imported here.
"""

# mypy: ignore-errors
# ruff: noqa: E402, B905
import json
import os
import sys

sys.path[:0] = [path for path in os.environ.get("BERTH_TRITON_PYTHONPATH", "").split(":") if path]

import numpy
import triton_python_backend_utils as triton

WIDE = ("int64", "uint64", "float64", "complex128")
"""jax makes these narrow unless it is told otherwise, and they would not fit the program any more."""


class TritonPythonModel:
    """One instance, on one device."""

    def initialize(self, args):
        configuration = json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in configuration["parameters"].items()}
        platform = given["berth_platform"]
        # Before jax is imported: it would take hold of every device that it finds.
        os.environ["JAX_PLATFORMS"] = {"cuda": "cuda", "rocm": "rocm"}.get(platform, platform)
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax
        import jax.export

        path = os.path.join(args["model_repository"], args["model_version"], "model.jax_export")
        with open(path, "rb") as file:
            exported = jax.export.deserialize(bytearray(file.read()))
        if any(aval.dtype.name in WIDE for aval in (*exported.in_avals, *exported.out_avals)):
            jax.config.update("jax_enable_x64", True)
        devices = jax.devices()
        if args["model_instance_kind"] == "GPU":
            wanted = int(args["model_instance_device_id"])
        else:
            indices = [int(one) for one in given["berth_devices"].split(",") if one]
            number = args["model_instance_name"].rpartition("_")[2]
            wanted = indices[int(number) % len(indices)] if indices and number.isdigit() else (indices or [0])[0]
        if wanted >= len(devices):
            raise RuntimeError(f"device {wanted} of {platform}: jax sees {len(devices)} on this server")
        self.device = devices[wanted]
        self.rows = int(given["berth_rows"])
        self.most = int(configuration["max_batch_size"])
        self.inputs = [one["name"] for one in configuration["input"]]
        self.outputs = [one["name"] for one in configuration["output"]]
        self.types = [aval.dtype for aval in exported.in_avals]
        self.shapes = [len(aval.shape) for aval in exported.in_avals]

        def run(*leaves):
            arguments, keywords = jax.tree_util.tree_unflatten(exported.in_tree, leaves)
            return jax.tree_util.tree_leaves(exported.call(*arguments, **keywords))

        self.run = jax.jit(run)
        self.jax = jax
        fixed = [aval.shape for aval in exported.in_avals]
        if all(isinstance(size, int) for shape in fixed for size in shape):
            # Compiled before it is ready: the first request does not wait for it.
            self.call([numpy.zeros(shape, kind) for shape, kind in zip(fixed, self.types)])

    def call(self, arrays):
        put = [
            self.jax.device_put(numpy.asarray(array).astype(kind), self.device)
            for array, kind in zip(arrays, self.types)
        ]
        made = [numpy.asarray(one) for one in self.run(*put)]
        # What numpy does not have, such as bfloat16, is told as float32.
        return [one if one.dtype.kind in "biufc" else one.astype(numpy.float32) for one in made]

    def execute(self, requests):
        asked = [[self.read(request, at) for at in range(len(self.inputs))] for request in requests]
        if self.most == 0:
            return [self.answer(self.call(arrays)) for arrays in asked]
        counts = [arrays[0].shape[0] for arrays in asked]
        total = sum(counts)
        joined = [numpy.concatenate([arrays[at] for arrays in asked]) for at in range(len(self.inputs))]
        # One shape, compiled once: what is missing to a full batch are zeros, and their answers are dropped.
        missing = (self.rows or self.most) - total
        if missing > 0:
            joined = [numpy.concatenate([one, numpy.zeros((missing, *one.shape[1:]), one.dtype)]) for one in joined]
        made = self.call(joined)
        ends = numpy.cumsum(counts)
        return [self.answer([one[end - count : end] for one in made]) for count, end in zip(counts, ends)]

    def read(self, request, at):
        # Not as_numpy(): a stub built for numpy 1 reads a wrong item size from numpy 2, and all elements are the first.
        array = numpy.from_dlpack(triton.get_input_tensor_by_name(request, self.inputs[at]))
        return array.reshape(()) if self.shapes[at] == 0 else array

    def answer(self, arrays):
        # And not Tensor(name, array), which for the same reason would hold no bytes.
        whole = [numpy.array(one, order="C", ndmin=1) for one in arrays]
        return triton.InferenceResponse(
            [triton.Tensor.from_dlpack(name, array) for name, array in zip(self.outputs, whole)]
        )
