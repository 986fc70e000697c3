"""A model package: a folder with model.yaml, which says what the model is, and the artefact beside it.

    name: transformer
    format: jax-export
    file: artefact.bin            # of a Triton model folder: the folder `artefact`
    digest: <SHA-256 of the artefact>
    content_bytes: 4358028
    inputs: [{name: tokens, dtype: int32, shape: [4, 64]}]      # null: free
    outputs: [...]
    platforms: [cpu, cuda, rocm, tpu]
    custom_calls: {}
    analysis: {operations: ..., bytes_moved: ..., by_precision: {bf16: ...}, constant_bytes: ..., ...}
    berth: 0.1.0

It is written whole or not at all, and what is read is checked against its digest.
"""

import contextlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from berth.errors import FieldError, InvalidInput
from berth.models.artefact import FORMATS, Analysis, Artefact, Tensor
from berth.models.artefact_file import MANIFEST, Opened, digest_of, open_artefact

__all__ = ["MANIFEST", "artefact_document", "read_manifest", "read_package", "write_package"]

MAX_MANIFEST_BYTES = 2**20
HEX = frozenset("0123456789abcdef")
_FILES = {"jax-export": "artefact.bin", "stablehlo": "artefact.mlir", "onnx": "model.onnx", "triton": "artefact"}
_FIELDS = ("name", "format", "file", "digest", "content_bytes", "inputs", "outputs", "platforms", "custom_calls",
           "analysis", "berth")  # fmt: skip
_BYTES = ("constant_bytes", "argument_bytes", "output_bytes", "temporary_bytes")


def artefact_document(artefact: Artefact) -> dict[str, Any]:
    """As model.yaml and `-o json` have it; what is unknown is null."""

    def tensors(given: tuple[Tensor, ...]) -> list[dict[str, Any]]:
        return [{"name": one.name, "dtype": one.dtype, "shape": list(one.shape)} for one in given]

    analysis = artefact.analysis
    costs = None if analysis is None else {**asdict(analysis), "unknown_loops": list(analysis.unknown_loops)}
    return {
        "name": artefact.name,
        "format": artefact.format,
        "digest": artefact.digest,
        "content_bytes": artefact.content_bytes,
        "inputs": tensors(artefact.inputs),
        "outputs": tensors(artefact.outputs),
        "platforms": list(artefact.platforms),
        "custom_calls": dict(artefact.custom_calls),
        "analysis": costs,
    }


def write_package(folder: Path, artefact: Artefact, content: bytes | Path) -> Path:
    """Writes the package at `folder`, which must not be there yet or be empty. Raises InvalidInput."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidInput.of("out", folder, "something is there already: name a folder that is not, or is empty")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
        try:
            made.mkdir()
            inner = made / _FILES[artefact.format]
            if isinstance(content, bytes):
                inner.write_bytes(content)
            elif content.is_dir():
                shutil.copytree(content, inner, symlinks=True)
            else:
                shutil.copyfile(content, inner)
            if (found := digest_of(inner)) != artefact.digest:
                raise InvalidInput.of("out", found, f"the artefact changed while it was copied, from {artefact.digest}")
            document = artefact_document(artefact)
            document = {**document, "file": inner.name, "berth": _version()}
            text = yaml.safe_dump({name: document[name] for name in _FIELDS}, sort_keys=False, allow_unicode=True)
            (made / MANIFEST).write_text(text, encoding="utf-8")
            _settle(made)
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
        finally:
            if made.exists():
                shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise InvalidInput.of("out", folder, f"{error.strerror or error}: name a folder that can be written") from error
    return folder


def read_package(folder: Path, *, batch: int | None = None) -> Opened:
    """The package: its artefact as model.yaml says, once the content's digest is that of model.yaml. With `batch` the
    content is read again. Raises InvalidInput."""
    artefact, file = read_manifest(folder)
    content = folder / file
    if content.is_symlink() or not content.exists():
        raise InvalidInput.of(f"{MANIFEST}: file", file, "not in the package: write the package again")
    found = digest_of(content)
    if found != artefact.digest:
        raise InvalidInput.of(
            f"{MANIFEST}: digest", artefact.digest, f"the content's is {found}: it was changed; write the package again"
        )
    if batch is not None:
        again = open_artefact(content, name=artefact.name, batch=batch).artefact
        artefact = replace(artefact, analysis=again.analysis)
    return Opened(artefact, content, in_package=True)


def read_manifest(folder: Path) -> tuple[Artefact, str]:
    """What model.yaml says, and the artefact's name in the folder; it is not opened. Raises InvalidInput."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InvalidInput.of(MANIFEST, f"{path.stat().st_size} bytes", f"at most {MAX_MANIFEST_BYTES}")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput.of(MANIFEST, path, f"{error.strerror}: give a package that can be read") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput.of(MANIFEST, line, "write valid YAML, or the package again") from error
    if not isinstance(document, Mapping):
        raise InvalidInput.of(MANIFEST, type(document).__name__, "a mapping must stand here: write the package again")
    reader = _Reader(document)
    artefact = reader.artefact()
    if reader.errors:
        raise InvalidInput(reader.errors)
    return artefact, str(document["file"])


class _Reader:
    def __init__(self, document: Mapping[Any, Any]) -> None:
        self.document = document
        self.errors: list[FieldError] = []

    def fail(self, field: str, value: object, remedy: str) -> None:
        self.errors.append(FieldError(f"{MANIFEST}: {field}", str(value), f"{remedy}; or write the package again"))

    def artefact(self) -> Artefact:
        document = self.document
        for name in document:
            if name not in _FIELDS:
                self.fail(str(name), document[name], f"unknown field; known: {', '.join(_FIELDS)}")
        self._holds("name", lambda value: isinstance(value, str) and 0 < len(value) <= 255, "write a name")
        self._holds("format", lambda value: value in FORMATS, f"write one of: {', '.join(FORMATS)}")
        self._holds(
            "file", lambda value: isinstance(value, str) and Path(value).name == value and value not in ("", ".", ".."),
            "write the name of the file in this folder",
        )  # fmt: skip
        self._holds(
            "digest", lambda value: isinstance(value, str) and len(value) == 64 and not set(value) - HEX,
            "write SHA-256 in hex",
        )  # fmt: skip
        self._holds("content_bytes", _is_size, "write a whole number, 0 or more")
        platforms, calls = document.get("platforms") or [], document.get("custom_calls") or {}
        if not isinstance(platforms, list) or not all(isinstance(one, str) for one in platforms):
            self.fail("platforms", platforms, "write a list of texts")
            platforms = []
        if not isinstance(calls, Mapping) or not all(isinstance(one, str) and _is_size(n) for one, n in calls.items()):
            self.fail("custom_calls", calls, "write a mapping of targets to whole numbers")
            calls = {}
        return Artefact(
            name=str(document.get("name")),
            format=str(document.get("format")),
            digest=str(document.get("digest")),
            content_bytes=document["content_bytes"] if _is_size(document.get("content_bytes")) else 0,
            inputs=self._tensors("inputs"),
            outputs=self._tensors("outputs"),
            platforms=tuple(platforms),
            custom_calls=dict(calls),
            analysis=self._analysis(),
        )

    def _holds(self, field: str, test: Callable[[Any], bool], remedy: str) -> None:
        if not test(self.document.get(field)):
            self.fail(field, self.document.get(field), remedy)

    def _tensors(self, field: str) -> tuple[Tensor, ...]:
        given = self.document.get(field) or []
        made = []
        for one in given if isinstance(given, list) else [given]:
            shape = one.get("shape") if isinstance(one, Mapping) else None
            if (
                not isinstance(one, Mapping)
                or not (isinstance(one.get("name"), str) and isinstance(one.get("dtype"), str))
                or not isinstance(shape, list)
                or not all(size is None or _is_size(size) for size in shape)
            ):
                self.fail(field, one, "write name, dtype and shape of each, null for a free dimension")
                continue
            made.append(Tensor(one["name"], one["dtype"], tuple(shape)))
        return tuple(made)

    def _analysis(self) -> Analysis | None:
        given = self.document.get("analysis")
        if given is None:
            return None
        known = ("operations", "bytes_moved", "by_precision", *_BYTES, "unknown_loops")
        if not isinstance(given, Mapping) or any(name not in known for name in given):
            self.fail("analysis", given, f"write a mapping with {', '.join(known)}")
            return None
        for name in ("operations", "bytes_moved"):
            if given.get(name) is not None and not _is_amount(given[name]):
                self.fail(f"analysis.{name}", given[name], "write a finite number, 0 or more, or null")
                return None
        for name in _BYTES:
            if given.get(name) is not None and not _is_size(given[name]):
                self.fail(f"analysis.{name}", given[name], "write a whole number, 0 or more, or null")
                return None
        shares, loops = given.get("by_precision") or {}, given.get("unknown_loops") or []
        if not isinstance(shares, Mapping) or not all(_is_amount(one) for one in shares.values()):
            self.fail("analysis.by_precision", shares, "write a mapping of precisions to numbers")
            return None
        if not isinstance(loops, list) or not all(isinstance(one, str) for one in loops):
            self.fail("analysis.unknown_loops", loops, "write a list of texts")
            return None
        return Analysis(
            operations=_number(given.get("operations")),
            bytes_moved=_number(given.get("bytes_moved")),
            by_precision={str(name): float(count) for name, count in shares.items()},
            **{name: given.get(name) for name in _BYTES},
            unknown_loops=tuple(loops),
        )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _version() -> str:
    try:
        return version("berth")
    except PackageNotFoundError:
        return "unknown"


def _settle(folder: Path) -> None:
    """On the disk before its name is: after a crash the package is whole or not there."""
    for one in (*folder.rglob("*"), folder):
        if one.is_symlink():
            continue
        handle = os.open(one, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.fsync(handle)
        os.close(handle)
