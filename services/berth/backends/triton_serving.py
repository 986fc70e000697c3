"""Serving a Prepared on a Triton server: what the backends xla, onnx and triton-python share.

Whose a model is stands in its configuration, in `berth_digest`: serving the same again loads nothing, and a model of
that name with another digest, or with none, is somebody else's and is neither replaced nor unloaded.

Triton tells nothing of a model that came with its files and is not ready: one that is loading, one that failed and one
that was unloaded look alike, and the repository's index has none of them. So `look` says LOADING only of what this
process is loading itself; elsewhere it says ABSENT, and to serve it again is right in each case: Triton takes up the
second load after the first, finds the same model and changes nothing.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from berth import catalogue
from berth.backends.base import Health, Placement, Prepared, Refused, Serving, Unanswered, Verdict
from berth.backends.triton_client import TritonClient
from berth.catalogue import Accelerator
from berth.models.artefact import Artefact, Tensor
from berth.models.support import PLATFORMS, supports

__all__ = [
    "DIGEST", "OWNER", "TRITON_TYPES", "TritonServing", "check_address", "instance_group", "platform_of",
    "prepared_digest", "strings", "tensors",
]  # fmt: skip

DIGEST = "berth_digest"
OWNER = "berth_owner"
TRITON_TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    # numpy has none of these, and Triton's Python backend passes numpy arrays: requests carry FP32, the model converts.
    "bfloat16": "FP32", "float8_e4m3fn": "FP32", "float8_e5m2": "FP32",
    "string": "STRING",
}  # fmt: skip


def platform_of(accelerator: Accelerator) -> str:
    """ "" where no stack of XLA runs there."""
    return PLATFORMS.get(accelerator.stack, "")


def check_address(placement: Placement) -> str:
    """The address of the node's Triton. Raises Refused."""
    parts = urlsplit(placement.address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        words = f"{placement.address!r}: no Triton server is known: name it in BERTH_TRITON_SERVERS"
        raise Refused(f"node {placement.node}: address: {words}")
    return placement.address.rstrip("/")


def instance_group(placement: Placement, accelerator: Accelerator, name: str, instances: int) -> list[dict[str, Any]]:
    """`instances` on each device. Triton counts the GPUs that CUDA has; elsewhere the model itself picks its device."""
    if accelerator.stack == "CUDA" and placement.indices:
        return [{"name": name, "kind": "KIND_GPU", "count": instances, "gpus": list(placement.indices)}]
    return [{"name": name, "kind": "KIND_CPU", "count": instances * max(1, len(placement.indices))}]


def strings(values: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Parameters as the model configuration has them."""
    return {key: {"string_value": value} for key, value in sorted(values.items())}


def tensors(described: tuple[Tensor, ...], field: str, *, batched: bool) -> list[dict[str, Any]]:
    """Of the model configuration; with `batched` without the first dimension. Raises Refused."""
    made = []
    for one in described:
        kind = TRITON_TYPES.get(one.dtype)
        if kind is None:
            raise Refused(f"{field} {one.name}: dtype: {one.dtype!r}: Triton has no such type: convert it to float32")
        shape = one.shape[1:] if batched else one.shape
        entry: dict[str, Any] = {
            "name": one.name,
            "data_type": f"TYPE_{kind}",
            "dims": [-1 if size is None else size for size in shape],
        }
        if not shape:
            # Triton has no scalars: a vector of one. Only beside a batch's dimension may it be dropped again.
            entry |= {"dims": [1], **({"reshape": {"shape": []}} if batched else {})}
        made.append(entry)
    return made


def prepared_digest(backend: str, configuration: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """SHA-256 over what the server would be given."""
    parts = [backend, json.dumps(configuration, sort_keys=True)]
    parts += [f"{path}:{hashlib.sha256(files[path]).hexdigest()}" for path in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class TritonServing:
    """Of a Backend the part that speaks to the server. `name` and `can_run` are the backend's."""

    name = "triton"
    stacks: tuple[str, ...] = ()

    def __init__(self, *, answer_seconds: float = 10.0, load_seconds: float = 600.0) -> None:
        self._answer_seconds = answer_seconds
        self._load_seconds = load_seconds
        self._clients: dict[str, TritonClient] = {}
        self._loading: dict[tuple[str, str], int] = {}

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    def client(self, placement: Placement) -> TritonClient:
        address = check_address(placement)
        if address not in self._clients:
            self._clients[address] = TritonClient(
                address, answer_seconds=self._answer_seconds, load_seconds=self._load_seconds
            )
        return self._clients[address]

    def fitting(self, artefact: Artefact, placement: Placement) -> Accelerator:
        """The placement's accelerator, which can run the artefact. Raises Refused."""
        accelerator = catalogue.by_name(placement.accelerator)
        if accelerator is None:
            raise Refused(f"accelerator: {placement.accelerator!r}: not in the catalogue")
        verdict = self.can_run(artefact, accelerator)
        if not verdict.can:
            raise Refused("; ".join(verdict.reasons))
        return accelerator

    def can_run(self, artefact: Artefact, accelerator: Accelerator) -> Verdict:
        return Verdict(supports(artefact, accelerator))

    async def serve(self, name: str, prepared: Prepared, placement: Placement) -> Serving:
        client = self.client(placement)
        key = (client.address, name)
        self._loading[key] = self._loading.get(key, 0) + 1
        try:
            held = await client.configuration(name)
            if held is not None and parameter(held, DIGEST) != prepared.digest:
                raise Refused(_others(name, client.address))
            if held is None:
                await self.load(client, name, self.configuration(name, prepared, placement), prepared)
        finally:
            self._loading[key] -= 1
            if not self._loading[key]:
                del self._loading[key]
        serving = await self.look(name, placement)
        if serving.health is Health.ABSENT:
            raise Unanswered(f"Triton at {client.address} took {name} and does not have it ready: {serving.message}")
        return serving

    @staticmethod
    def configuration(name: str, prepared: Prepared, placement: Placement) -> dict[str, Any]:
        """What is given to the server: as prepared, and whose it is."""
        given: dict[str, Any] = dict(prepared.configuration)
        owner = {
            DIGEST: prepared.digest,
            **({OWNER: placement.parameters[OWNER]} if OWNER in placement.parameters else {}),
        }
        return {**given, "parameters": {**given.get("parameters", {}), **strings(owner)}}

    async def load(self, client: TritonClient, name: str, configuration: dict[str, Any], prepared: Prepared) -> None:
        await client.load(name, configuration, prepared.files)

    async def look(self, name: str, placement: Placement) -> Serving:
        client = self.client(placement)
        endpoint = f"{client.address}/v2/models/{name}"
        if (client.address, name) in self._loading:
            return Serving(Health.LOADING, endpoint, "Triton is loading it")
        held = await client.configuration(name)
        if held is None:
            words = "Triton has no such model ready: it was unloaded, the server began anew, or the load failed"
            return Serving(Health.ABSENT, "", words)
        if not parameter(held, DIGEST):
            return Serving(Health.FAILED, endpoint, _others(name, client.address))
        if not await client.model_ready(name):
            return Serving(Health.FAILED, endpoint, f"Triton holds {name} and says that it is not ready")
        return Serving(Health.READY, endpoint)

    async def release(self, name: str, placement: Placement) -> None:
        client = self.client(placement)
        held = await client.configuration(name)
        if held is not None and not parameter(held, DIGEST):
            return
        try:
            # Also where nothing is seen: a load on its way ends first, and then it is unloaded.
            await client.unload(name)
        except (Refused, Unanswered) as error:
            # It answered just before, so it may have it still: not Unreachable.
            raise Unanswered(f"Triton at {client.address} does not unload {name}: {error}") from error
        deadline = asyncio.get_running_loop().time() + self._answer_seconds
        while await client.configuration(name) is not None:
            # Requests that it has begun are answered first.
            if asyncio.get_running_loop().time() > deadline:
                raise Unanswered(f"Triton at {client.address} still has {name}")
            await asyncio.sleep(0.05)


def parameter(configuration: Mapping[str, Any], key: str) -> str:
    return str(configuration.get("parameters", {}).get(key, {}).get("string_value", ""))


def _others(name: str, address: str) -> str:
    return f"Triton at {address} serves another model as {name!r}: it is left alone: unload it, or choose another name"
