"""The backend onnx: by Triton's onnxruntime backend where the server has it, else by onnxruntime in its Python one."""

import asyncio
import importlib.resources
from pathlib import Path
from typing import Any

from berth.backends.base import Placement, Prepared, Refused, Verdict
from berth.backends.content import Files, read_content
from berth.backends.triton_client import TritonClient
from berth.backends.triton_serving import TritonServing, prepared_digest
from berth.backends.xla import described
from berth.catalogue import Accelerator
from berth.models.artefact import Artefact
from berth.models.support import supports

__all__ = ["OnnxBackend", "backend"]

_NO_SUCH_BACKEND = "unable to find backend library"


class OnnxBackend(TritonServing):
    name = "onnx"
    stacks = ("CUDA", "oneDNN")

    def can_run(self, artefact: Artefact, accelerator: Accelerator) -> Verdict:
        if artefact.format != "onnx":
            return Verdict((f"format: {artefact.format!r}: the backend onnx serves onnx",))
        if accelerator.stack not in self.stacks:
            words = f"{accelerator.name}: onnxruntime is served on {', '.join(self.stacks)}"
            return Verdict((f"stack: {accelerator.stack!r}: {words}",))
        return Verdict(supports(artefact, accelerator))

    async def prepare(self, artefact: Artefact, content: Path, placement: Placement) -> Prepared:
        accelerator = self.fitting(artefact, placement)
        configuration, rows = described(artefact, placement, accelerator)
        if rows:
            # onnxruntime would refuse a shorter batch; it is not padded as a compiled program is.
            raise Refused(
                f"max_batch_size: '{configuration['max_batch_size']}': {artefact.name} takes {rows} rows, no fewer: "
                "export it with a free first dimension, or leave max_batch_size out"
            )
        read = await read_content(artefact, content)
        model = importlib.resources.files("berth.backends") / "triton_onnx_model.py"
        files = Files({"1/model.onnx": read.files[""], "1/model.py": model.read_bytes()})
        files.content = read
        configuration["backend"] = "onnxruntime"
        digest = await asyncio.to_thread(prepared_digest, self.name, configuration, files)
        return Prepared(self.name, digest, files, configuration)

    async def load(self, client: TritonClient, name: str, configuration: dict[str, Any], prepared: Prepared) -> None:
        try:
            await client.load(name, {**configuration, "default_model_filename": "model.onnx"}, prepared.files)
        except Refused as error:
            if _NO_SUCH_BACKEND not in str(error):
                raise
            await client.load(name, {**configuration, "backend": "python"}, prepared.files)


def backend() -> OnnxBackend:
    """For the registry."""
    return OnnxBackend()
