"""Opens a model as it lies in a file or folder, finds out what it is, and says what Berth knows of it.

A file: an artefact of jax.export, StableHLO as text or bytecode, an ONNX model. A folder: a package of Berth
(model.yaml), a model folder of Triton (config.pbtxt). What is none of these, is broken or lacks a part is an
InvalidInput, whatever its bytes are.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from berth.errors import FieldError, InvalidInput
from berth.models.artefact import Artefact
from berth.models.documents import parse_artefact
from berth.models.formats import KINDS as _KINDS
from berth.models.triton_folder import CONFIGURATION, read_folder

__all__ = [
    "Opened",
    "answer_of",
    "check_no_links",
    "check_size",
    "digest_of",
    "name_of",
    "open_artefact",
    "path_of",
    "read_artefact",
]

MAX_BYTES = 16 * 2**30
"""Of a folder, which is copied and summed piece by piece."""
MAX_FILE_BYTES = 2 * 2**30
"""Of one file, which is read whole. ONNX and jax.export cannot write a larger one."""
MAX_FILES = 10_000
MANIFEST = "model.yaml"
SECONDS = 60
"""Within which a file must be read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """`content`: the artefact's own file or folder, within its package where it came in one."""

    artefact: Artefact
    content: Path
    in_package: bool = False


def path_of(uri: str) -> Path:
    """The path that a job's `model.uri` means. Raises InvalidInput."""
    if not uri or "\0" in uri:
        raise InvalidInput.of("model.uri", uri, f"write the path of {_KINDS}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", uri):
        parts = urlparse(uri)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise InvalidInput.of("model.uri", uri, "write a path, or file:///path: nothing else is fetched")
        return Path(unquote(parts.path))
    return Path(uri)


def open_artefact(path: Path | str, *, name: str = "", batch: int | None = None) -> Opened:
    """What lies at `path`. `batch`: taken for a free first dimension of the inputs. Raises InvalidInput."""
    at = Path(path)
    try:
        if at.is_dir():
            return _open_folder(at, name, batch)
        size = at.stat().st_size
        if not at.is_file():
            raise InvalidInput.of("file", path, f"it is no file: give {_KINDS}")
        check_size(path, size)
        content = at.read_bytes()
    except OSError as error:
        raise InvalidInput.of("file", path, f"{error.strerror or error}: name a file that can be read") from error
    except ValueError as error:
        raise InvalidInput.of("file", path, f"{error}: name a file that can be read") from error
    return Opened(read_artefact(content, name or name_of(at), source=str(path), batch=batch), at)


def read_artefact(content: bytes, name: str, *, source: str = "", batch: int | None = None) -> Artefact:
    """The artefact that the bytes of one file are. Raises InvalidInput.

    They are read by a process of its own: MLIR's readers end theirs on some broken bytes, and turn for ever on others.
    It takes a second or two.
    """
    source = source or name
    check_size(source, len(content))
    arguments = (name, source, "" if batch is None else str(batch))
    return parse_artefact(answer_of("berth.models.reading", arguments, content, source), "artefact")


def answer_of(module: str, arguments: Sequence[str], content: bytes, source: str) -> dict[str, Any]:
    """What the process `python -m module` says of the bytes. Raises InvalidInput."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    remedy = f"broken, or none of these: {_KINDS}"
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidInput.of("file", source, f"not read within {SECONDS} s: {remedy}") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        if done.returncode > 0:
            raise RuntimeError(f"the reader of models failed: {done.stderr[-500:].decode(errors='replace')}") from error
        raise InvalidInput.of("file", source, remedy) from error
    if "errors" in answer:
        raise InvalidInput([FieldError(*one) for one in answer["errors"]])
    return dict(answer)


def digest_of(path: Path) -> str:
    """SHA-256, in hex: of a file's bytes; of a folder over every file's path, length and bytes, by path."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    made = hashlib.sha256()
    for one in _files(path):
        inner = one.relative_to(path).as_posix().encode()
        made.update(b"%d:%s:%d:" % (len(inner), inner, one.stat().st_size))
        with one.open("rb") as file:
            for piece in iter(lambda: file.read(2**20), b""):
                made.update(piece)
    return made.hexdigest()


def check_no_links(path: Path) -> None:
    """Raises InvalidInput where the folder `path` holds a link, or more than is read."""
    try:
        if path.is_dir():
            _files(path)
    except OSError as error:
        raise InvalidInput.of("folder", path, f"{error.strerror or error}: name a folder that can be read") from error


def name_of(path: Path) -> str:
    """The file's name without its ending, as a model's name may be written."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().stem).strip("-.")[:63] or "model"


def check_size(source: Path | str, size: int) -> None:
    """Of an artefact's file. Raises InvalidInput."""
    if not size:
        raise InvalidInput.of("file", source, f"it is empty: give {_KINDS}")
    if size > MAX_FILE_BYTES:
        remedy = (
            f"at most {MAX_FILE_BYTES} bytes of one file are read: give weights as inputs, or a Triton model folder"
        )
        raise InvalidInput.of("file", f"{source}: {size} bytes", remedy)


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    total = 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in (*names, *folders):
            one = Path(root) / name
            if one.is_symlink():
                raise InvalidInput.of("folder", one, "a link: copy what it names into the folder")
        for name in names:
            one = Path(root) / name
            if not one.is_file():
                raise InvalidInput.of("folder", one, "it is no file: take it out")
            found.append(one)
            total += one.stat().st_size
        if len(found) > MAX_FILES or total > MAX_BYTES:
            raise InvalidInput.of("folder", folder, f"at most {MAX_FILES} files and {MAX_BYTES} bytes are read")
    return sorted(found, key=lambda one: one.relative_to(folder).as_posix())


def _open_folder(folder: Path, name: str, batch: int | None) -> Opened:
    if (folder / MANIFEST).is_file():
        # Within, for a package holds an artefact and is read with it.
        from berth.models.package import read_package

        return read_package(folder, batch=batch)
    if (folder / CONFIGURATION).is_file():
        if batch is not None:
            raise InvalidInput.of("batch", batch, "a Triton model folder says nothing of its cost: leave --batch out")
        given, inputs, outputs = read_folder(folder)
        size = sum(one.stat().st_size for one in _files(folder))
        made = Artefact(name or given, "triton", digest_of(folder), size, inputs, outputs)
        return Opened(made, folder)
    # What is in it is not told: a job's message reaches whoever may name a path of the binder's machine.
    raise InvalidInput.of("folder", folder, f"no model in it: a model folder has {MANIFEST} or {CONFIGURATION}")
