"""Triton's `model.py` of the backend onnx, where the server has no onnxruntime backend of its own.

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


class TritonPythonModel:
    """One instance, on one device."""

    def initialize(self, args):
        import onnxruntime

        configuration = json.loads(args["model_config"])
        provider = "CPUExecutionProvider"
        options = {}
        if args["model_instance_kind"] == "GPU":
            provider, options = "CUDAExecutionProvider", {"device_id": args["model_instance_device_id"]}
        known = onnxruntime.get_available_providers()
        if provider not in known:
            raise RuntimeError(f"{provider}: onnxruntime has {', '.join(known)} here: install onnxruntime-gpu")
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=[(provider, options)])
        self.most = int(configuration["max_batch_size"])
        self.inputs = [one["name"] for one in configuration["input"]]
        self.texts = {one["name"] for one in configuration["input"] if one["data_type"] == "TYPE_STRING"}
        self.scalars = {one.name for one in self.session.get_inputs() if not one.shape}
        self.outputs = [one["name"] for one in configuration["output"]]

    def execute(self, requests):
        asked = [
            {name: self.read(name, triton.get_input_tensor_by_name(request, name)) for name in self.inputs}
            for request in requests
        ]
        if self.most == 0:
            return [self.answer(self.session.run(self.outputs, arrays)) for arrays in asked]
        counts = [arrays[self.inputs[0]].shape[0] for arrays in asked]
        made = self.session.run(
            self.outputs, {name: numpy.concatenate([arrays[name] for arrays in asked]) for name in self.inputs}
        )
        ends = numpy.cumsum(counts)
        return [self.answer([one[end - count : end] for one in made]) for count, end in zip(counts, ends)]

    def read(self, name, tensor):
        # Not as_numpy(): a stub built for numpy 1 reads a wrong item size from numpy 2. Texts have no other way.
        array = tensor.as_numpy() if name in self.texts else numpy.from_dlpack(tensor)
        # Triton has no scalars: a vector of one.
        return array.reshape(()) if name in self.scalars else array

    def answer(self, arrays):
        whole = [numpy.array(one, order="C", ndmin=1) for one in arrays]
        return triton.InferenceResponse(
            [
                triton.Tensor(name, array) if array.dtype.kind in "OSU" else triton.Tensor.from_dlpack(name, array)
                for name, array in zip(self.outputs, whole)
            ]
        )
