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
    by_platform: {}               # an analysis for each, where they differ
    berth: 0.1.0

It is written whole or not at all, and what is read is checked against its digest.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from berth.errors import InvalidInput
from berth.models.artefact import Artefact
from berth.models.artefact_file import MANIFEST, Opened, check_size, digest_of, open_artefact
from berth.models.documents import FIELDS, artefact_document, parse_artefact

__all__ = ["MANIFEST", "read_manifest", "read_package", "write_package"]

MAX_MANIFEST_BYTES = 2**20
_FILES = {"jax-export": "artefact.bin", "stablehlo": "artefact.mlir", "onnx": "model.onnx", "triton": "artefact"}


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, by which a few lines mean gigabytes. A package has none."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name): write out what it stands for")
        return super().compose_node(parent, index)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def write_package(folder: Path, artefact: Artefact, content: bytes | Path) -> Path:
    """Writes the package at `folder`, which must not be there yet or be empty. Raises InvalidInput."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidInput.of("out", folder, "something is there already: name a new or an empty folder")
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
            document = {**artefact_document(artefact), "file": inner.name, "berth": _version()}
            shown = {name: document[name] for name in FIELDS}
            text = yaml.dump(shown, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
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
    if content.is_file():
        check_size(content, content.stat().st_size)
    found = digest_of(content)
    if found != artefact.digest:
        raise InvalidInput.of(
            f"{MANIFEST}: digest", artefact.digest, f"the content's is {found}: it was changed; write the package again"
        )
    if batch is not None:
        again = open_artefact(content, name=artefact.name, batch=batch).artefact
        artefact = replace(artefact, analysis=again.analysis, by_platform=again.by_platform)
    return Opened(artefact, content, in_package=True)


def read_manifest(folder: Path) -> tuple[Artefact, str]:
    """What model.yaml says, and the artefact's name in the folder; it is not opened. Raises InvalidInput."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InvalidInput.of(MANIFEST, f"{path.stat().st_size} bytes", f"at most {MAX_MANIFEST_BYTES}")
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except OSError as error:
        raise InvalidInput.of(MANIFEST, path, f"{error.strerror}: give a package that can be read") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput.of(MANIFEST, line, "write valid YAML, or the package again") from error
    if not isinstance(document, Mapping):
        raise InvalidInput.of(MANIFEST, type(document).__name__, "a mapping must stand here: write the package again")
    file = document.get("file")
    if not isinstance(file, str) or Path(file).name != file or file in ("", ".", "..", MANIFEST):
        raise InvalidInput.of(f"{MANIFEST}: file", file, "write the name of the artefact in this folder")
    return parse_artefact(document, MANIFEST), file


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
