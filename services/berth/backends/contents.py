"""What lies under a model's path: its format, its digest, its inputs and outputs."""

import hashlib
from pathlib import Path
from typing import Any

from berth.errors import InvalidInput
from berth.models.artefact import Artefact, Tensor
from berth.models.missing import need

__all__ = ["content_digest", "read_artefact"]

_REMEDY = "name a jax.export artefact, an ONNX file or a Triton model folder"


def content_digest(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and bytes; of a folder over the paths and contents of its files, in order."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    files = [one for one in files if "__pycache__" not in one.parts]
    total = sum(one.stat().st_size for one in files)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest(), total
    whole = hashlib.sha256()
    for one in files:
        whole.update(f"{one.relative_to(path).as_posix()}\0{hashlib.sha256(one.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest(), total


def read_artefact(path: Path) -> Artefact:
    """Raises InvalidInput. Blocks, and imports jax or onnx."""
    if path.is_dir():
        if not (path / "config.pbtxt").is_file():
            raise InvalidInput.of("model.uri", path, f"no config.pbtxt in this folder: {_REMEDY}")
        digest, size = content_digest(path)
        return Artefact(path.name, "triton", digest, size)
    if not path.is_file():
        raise InvalidInput.of("model.uri", path, f"not there, or not readable by the binder: {_REMEDY}")
    digest, size = content_digest(path)
    if path.suffix == ".onnx":
        return _onnx(path, digest, size)
    try:
        exported = need("jax.export").deserialize(bytearray(path.read_bytes()))
    except InvalidInput:
        raise
    # Its reader raises whatever flatbuffers and MLIR raise on bytes that are something else.
    except Exception as error:
        raise InvalidInput.of(
            "model.uri", path, f"no artefact that jax can read ({error!r:.200}): {_REMEDY}"
        ) from error
    return Artefact(
        path.name,
        "jax-export",
        digest,
        size,
        inputs=_avals("input", exported.in_avals),
        outputs=_avals("output", exported.out_avals),
        platforms=tuple(exported.platforms),
    )


def _avals(kind: str, avals: Any) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(f"{kind}_{at}", aval.dtype.name, tuple(size if isinstance(size, int) else None for size in aval.shape))
        for at, aval in enumerate(avals)
    )


def _onnx(path: Path, digest: str, size: int) -> Artefact:
    onnx = need("onnx")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise InvalidInput.of("model.uri", path, f"no sound ONNX model ({error!r:.200}): {_REMEDY}") from error
    weights = {one.name for one in model.graph.initializer}

    def described(value: Any) -> Tensor:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        shape = tuple(one.dim_value if one.HasField("dim_value") else None for one in kind.shape.dim)
        return Tensor(value.name, "string" if dtype == "object" else dtype, shape)

    inputs = tuple(described(one) for one in model.graph.input if one.name not in weights)
    return Artefact(path.name, "onnx", digest, size, inputs, tuple(described(one) for one in model.graph.output))
