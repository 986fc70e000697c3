"""The backend xla: one jax.export artefact, served by Triton's Python backend on CPU, CUDA, ROCm or TPU. Bare StableHLO
is made into such an artefact first, for the platform where it is to run."""

import asyncio
import importlib.resources
from pathlib import Path
from typing import Any

from berth.backends.base import Placement, Prepared, Verdict
from berth.backends.batching import batching_of, whole_number
from berth.backends.content import Files, read_content
from berth.backends.triton_serving import (
    TritonServing,
    instance_group,
    platform_of,
    prepared_digest,
    strings,
    tensors,
)
from berth.catalogue import Accelerator
from berth.models.artefact import Artefact
from berth.models.portable import portable_of
from berth.models.support import PLATFORMS, supports

__all__ = ["XlaBackend", "backend"]


class XlaBackend(TritonServing):
    name = "xla"
    stacks = tuple(PLATFORMS)

    def __init__(self, *, answer_seconds: float = 10.0, load_seconds: float = 600.0) -> None:
        super().__init__(answer_seconds=answer_seconds, load_seconds=load_seconds)
        self._exporting = asyncio.Lock()
        self._last: tuple[tuple[str, str], bytes] | None = None

    def can_run(self, artefact: Artefact, accelerator: Accelerator) -> Verdict:
        if artefact.format not in ("jax-export", "stablehlo"):
            words = "the backend xla serves jax-export and StableHLO: make one with `berth model analyse --out`"
            return Verdict((f"format: {artefact.format!r}: {words}",))
        free = [one.name for one in (*artefact.inputs, *artefact.outputs) if None in one.shape]
        if artefact.format == "stablehlo" and free:
            words = "StableHLO with a free dimension is not served: write its size into the program, or use jax.export"
            return Verdict((f"shape: {', '.join(free)}: {words}",))
        return Verdict(supports(artefact, accelerator))

    async def prepare(self, artefact: Artefact, content: Path, placement: Placement) -> Prepared:
        accelerator = self.fitting(artefact, placement)
        read = await read_content(artefact, content)
        exported = read.files[""]
        if artefact.format == "stablehlo":
            exported = await self._exported(artefact, exported, platform_of(accelerator))
        model = importlib.resources.files("berth.backends") / "triton_xla_model.py"
        configuration, rows = described(artefact, placement, accelerator)
        configuration["parameters"] |= strings(
            {
                "berth_platform": platform_of(accelerator),
                "berth_devices": ",".join(str(index) for index in placement.indices),
                "berth_rows": str(rows),
            }
        )
        files = Files({"1/model.jax_export": exported, "1/model.py": model.read_bytes()})
        files.content = read
        digest = await asyncio.to_thread(prepared_digest, self.name, configuration, files)
        return Prepared(self.name, digest, files, configuration)

    async def _exported(self, artefact: Artefact, content: bytes, platform: str) -> bytes:
        """Made once for the members of a gang, which ask for the same one after another. Raises InvalidInput."""
        async with self._exporting:
            key = (artefact.digest, platform)
            if self._last is None or self._last[0] != key:
                self._last = key, await asyncio.to_thread(portable_of, content, artefact.name, platform)
            return self._last[1]


def described(artefact: Artefact, placement: Placement, accelerator: Accelerator) -> tuple[dict[str, Any], int]:
    """A model configuration for Triton's Python backend, and the rows that the program takes (0: any).

    Of the placement's parameters `max_batch_size`, `instances` and `max_queue_delay_microseconds` are Triton's own;
    the rest goes into the model's parameters. Raises Refused.
    """
    given = dict(placement.parameters)
    batching = batching_of(artefact, whole_number("max_batch_size", given.pop("max_batch_size", "0"), 0))
    instances = whole_number("instances", given.pop("instances", "1"), 1)
    delay = whole_number("max_queue_delay_microseconds", given.pop("max_queue_delay_microseconds", "0"), 0)
    configuration: dict[str, Any] = {
        "backend": "python",
        "max_batch_size": batching.most,
        "input": tensors(artefact.inputs, "input", batched=batching.most > 0),
        "output": tensors(artefact.outputs, "output", batched=batching.most > 0),
        "instance_group": instance_group(placement, accelerator, "berth", instances),
        "parameters": strings({key: value for key, value in given.items() if not key.startswith("berth_")}),
    }
    if batching.most > 0:
        configuration["dynamic_batching"] = {"max_queue_delay_microseconds": delay} if delay else {}
    return configuration, batching.rows


def backend() -> XlaBackend:
    """For the registry."""
    return XlaBackend()
