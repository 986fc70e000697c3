"""The backend triton-python: a Triton model folder as it is, with the instance group of the placement."""

import asyncio
from pathlib import Path

from berth.backends.base import Placement, Prepared, Refused, Verdict
from berth.backends.batching import whole_number
from berth.backends.content import Content, Files, read_content
from berth.backends.triton_serving import TritonServing, instance_group, prepared_digest, strings
from berth.catalogue import Accelerator
from berth.errors import InvalidInput
from berth.models import pbtxt
from berth.models.artefact import Artefact
from berth.models.support import supports

__all__ = ["TritonFolderBackend", "backend"]

CONFIGURATION = "config.pbtxt"


class TritonFolderBackend(TritonServing):
    name = "triton-python"
    stacks = ("CUDA", "oneDNN")

    def can_run(self, artefact: Artefact, accelerator: Accelerator) -> Verdict:
        if artefact.format != "triton":
            return Verdict((f"format: {artefact.format!r}: the backend triton-python serves model folders",))
        if accelerator.stack not in self.stacks:
            words = f"{accelerator.name}: Triton runs on {', '.join(self.stacks)}"
            return Verdict((f"stack: {accelerator.stack!r}: {words}",))
        return Verdict(supports(artefact, accelerator))

    async def prepare(self, artefact: Artefact, content: Path, placement: Placement) -> Prepared:
        accelerator = self.fitting(artefact, placement)
        files = _files(content.name, await read_content(artefact, content))
        try:
            configuration = pbtxt.parse(files.pop(CONFIGURATION).decode("utf-8"))
        except (InvalidInput, UnicodeDecodeError) as error:
            raise Refused(f"{content.name}: {error}") from error
        given = dict(placement.parameters)
        configuration.pop("name", None)
        most = whole_number("max_batch_size", given.pop("max_batch_size", "0"), 0)
        if most:
            configuration["max_batch_size"] = most
        instances = whole_number("instances", given.pop("instances", "1"), 1)
        configuration["instance_group"] = instance_group(placement, accelerator, "berth", instances)
        kept = {key: value for key, value in given.items() if not key.startswith("berth_")}
        configuration["parameters"] = {**configuration.get("parameters", {}), **strings(kept)}
        digest = await asyncio.to_thread(prepared_digest, self.name, configuration, files)
        return Prepared(self.name, digest, files, configuration)


def _files(name: str, content: Content) -> Files:
    """What of the folder is the model's. Raises Refused."""
    if CONFIGURATION not in content.files:
        raise Refused(f"{name}: {CONFIGURATION}: not there: name a Triton model folder")
    found = Files({path: read for path, read in content.files.items() if "__pycache__" not in path.split("/")})
    found.content = content
    if not any(path.split("/")[0].isdigit() for path in found):
        raise Refused(f"{name}: no version folder: put the model into {name}/1")
    return found


def backend() -> TritonFolderBackend:
    """For the registry."""
    return TritonFolderBackend()
