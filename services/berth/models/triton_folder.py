"""A model folder of NVIDIA Triton: config.pbtxt, read as protobuf's text format, and numbered version folders."""

from pathlib import Path
from typing import Any

from berth.errors import InvalidInput
from berth.models.artefact import Tensor
from berth.models.pbtxt import parse

__all__ = ["CONFIGURATION", "read_folder"]

CONFIGURATION = "config.pbtxt"
MAX_BYTES = 4 * 2**20
_TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BF16": "bfloat16", "STRING": "object",
}  # fmt: skip


def read_folder(folder: Path) -> tuple[str, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The model's name, inputs and outputs. Where it batches, a free first dimension is theirs. Raises InvalidInput."""
    path = folder / CONFIGURATION
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput.of(CONFIGURATION, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
        configuration = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput.of(CONFIGURATION, path, f"{error.strerror}: give a folder that can be read") from error
    except UnicodeDecodeError as error:
        raise InvalidInput.of(CONFIGURATION, path, "it is no UTF-8 text: write protobuf's text format") from error
    versions = [one for one in folder.iterdir() if one.name.isdigit() and one.is_dir() and any(one.iterdir())]
    if not versions:
        raise InvalidInput.of("folder", folder, "it has no version folder that holds a model, such as 1/model.onnx")
    batching = _whole(configuration, "max_batch_size", 0) > 0
    name = _text(configuration, "name", folder.name)
    return (
        name,
        tuple(_tensor("input", one, batching) for one in configuration.get("input", ())),
        tuple(_tensor("output", one, batching) for one in configuration.get("output", ())),
    )


def _text(message: dict[str, Any], field: str, default: str) -> str:
    value = message.get(field, default)
    if not isinstance(value, str):
        raise InvalidInput.of(f"{CONFIGURATION}: {field}", value, "write one text")
    return value


def _whole(message: dict[str, Any], field: str, default: int) -> int:
    value = message.get(field, default)
    if type(value) is not int or abs(value) >= 10**18:
        raise InvalidInput.of(f"{CONFIGURATION}: {field}", value, "write a whole number")
    return value


def _tensor(field: str, message: Any, batching: bool) -> Tensor:
    if not isinstance(message, dict):
        raise InvalidInput.of(f"{CONFIGURATION}: {field}", message, "write name, data_type and dims of each")
    name, kind = _text(message, "name", ""), _text(message, "data_type", "")
    dtype = _TYPES.get(kind.removeprefix("TYPE_"))
    if not name:
        raise InvalidInput.of(f"{CONFIGURATION}: {field}.name", "", "give each its name")
    if dtype is None:
        known = ", ".join(f"TYPE_{one}" for one in _TYPES)
        raise InvalidInput.of(f"{CONFIGURATION}: {field}.data_type", kind, f"write one of: {known}")
    shape: list[int | None] = [None] if batching else []
    for one in message.get("dims", ()):
        if type(one) is not int or not -1 <= one < 10**12:
            raise InvalidInput.of(f"{CONFIGURATION}: {field}.dims", one, "write sizes, and -1 where one is free")
        shape.append(None if one == -1 else one)
    return Tensor(name, dtype, tuple(shape))
