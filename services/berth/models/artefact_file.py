"""Opens a model as it lies in a file or folder, finds out what it is, and says what Berth knows of it.

A file: an artefact of jax.export, StableHLO as text or bytecode, an ONNX model. A folder: a package of Berth
(model.yaml), a model folder of Triton (config.pbtxt). What is none of these, is broken or lacks a part is an
InvalidInput, whatever its bytes are.
"""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from berth.errors import InvalidInput
from berth.models.analysis import analyse
from berth.models.artefact import Analysis, Artefact, Tensor
from berth.models.missing import need
from berth.models.onnx_model import read_onnx
from berth.models.program import Program
from berth.models.stablehlo import read_program
from berth.models.triton_folder import CONFIGURATION, read_folder

__all__ = ["Opened", "digest_of", "name_of", "open_artefact", "path_of", "read_artefact"]

MAX_BYTES = 16 * 2**30
MAX_FILES = 10_000
MANIFEST = "model.yaml"
BYTECODE = b"ML\xefR"
_KINDS = "an artefact of jax.export, StableHLO, an ONNX model, a Triton model folder, or a model package"


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
        _check_size(path, size)
        content = at.read_bytes()
    except OSError as error:
        raise InvalidInput.of("file", path, f"{error.strerror or error}: name a file that can be read") from error
    except ValueError as error:
        raise InvalidInput.of("file", path, f"{error}: name a file that can be read") from error
    return Opened(read_artefact(content, name or name_of(at), source=str(path), batch=batch), at)


def read_artefact(content: bytes, name: str, *, source: str = "", batch: int | None = None) -> Artefact:
    """The artefact that the bytes of one file are. Raises InvalidInput."""
    source = source or name
    _check_size(source, len(content))
    bare = Artefact(name, "", hashlib.sha256(content).hexdigest(), len(content))
    if content.startswith(BYTECODE) or _is_mlir_text(content):
        return _from_program(bare, read_program(content, source))
    # ONNX begins with its version of the format, field 1 of the message, which no flat buffer of jax.export does.
    if source.endswith(".onnx") or (content[:1] == b"\x08" and 1 <= content[1] <= 64):
        return _from_onnx(bare, content, source, batch)
    return _from_jax(bare, content, source, batch)


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


def name_of(path: Path) -> str:
    """The file's name without its ending, as a model's name may be written."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().stem).strip("-.")[:63] or "model"


def _check_size(source: Path | str, size: int) -> None:
    if not size:
        raise InvalidInput.of("file", source, f"it is empty: give {_KINDS}")
    if size > MAX_BYTES:
        raise InvalidInput.of("file", f"{source}: {size} bytes", f"at most {MAX_BYTES} bytes are read")


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
        given, inputs, outputs = read_folder(folder)
        size = sum(one.stat().st_size for one in _files(folder))
        made = Artefact(name or given, "triton", digest_of(folder), size, inputs, outputs)
        return Opened(made, folder)
    held = ", ".join(sorted(one.name for one in folder.iterdir())[:8]) or "nothing"
    raise InvalidInput.of(
        "folder", folder, f"no model in it ({held}): a model folder has {MANIFEST} or {CONFIGURATION}"
    )


def _is_mlir_text(content: bytes) -> bool:
    if b"\0" in content[:4096]:
        return False
    try:
        head = content[:65536].decode("utf-8", errors="strict" if len(content) <= 65536 else "ignore")
    except UnicodeDecodeError:
        return False
    return bool(re.search(r"^\s*(?:module\b|func\.func\b|\"builtin\.module\")", head, re.MULTILINE))


def _from_program(bare: Artefact, program: Program) -> Artefact:
    inputs = tuple(
        _tensor(program, number, program.input_names[at] or f"input_{at}")
        for at, number in enumerate(program.main.inputs)
    )
    return replace(
        bare, format="stablehlo", inputs=inputs, outputs=_outputs(program), custom_calls=program.custom_calls,
        analysis=analyse(program),
    )  # fmt: skip


def _tensor(program: Program, number: int, name: str) -> Tensor:
    value = program.values[number]
    return Tensor(name, value.dtype, value.shape)


def _outputs(program: Program) -> tuple[Tensor, ...]:
    return tuple(_tensor(program, number, f"output_{at}") for at, number in enumerate(program.main.outputs))


def _from_onnx(bare: Artefact, content: bytes, source: str, batch: int | None) -> Artefact:
    model = read_onnx(content, source, batch)
    found = analyse(model.program)
    if model.opaque:
        found = Analysis(
            operations=None, bytes_moved=None, constant_bytes=found.constant_bytes,
            argument_bytes=found.argument_bytes, output_bytes=found.output_bytes,
        )  # fmt: skip
    return replace(
        bare, format="onnx", inputs=model.inputs, outputs=model.outputs, custom_calls=model.program.custom_calls,
        analysis=found,
    )  # fmt: skip


def _from_jax(bare: Artefact, content: bytes, source: str, batch: int | None) -> Artefact:
    jax_export = need("jax.export")
    try:
        exported = jax_export.deserialize(bytearray(content))
        module = bytes(exported.mlir_module_serialized)
        platforms = tuple(str(one) for one in exported.platforms)
        avals = list(exported.in_avals)
        kept = tuple(int(one) for one in exported.module_kept_var_idx)
        inputs = [(str(aval.dtype.name), _shape(aval)) for aval in avals]
        outputs = [(str(aval.dtype.name), _shape(aval)) for aval in exported.out_avals]
    # A flat buffer has no check sum: broken bytes fail wherever they are first used.
    except Exception as error:
        raise InvalidInput.of("file", source, f"broken, or none of these: {_KINDS}") from error
    if not module.startswith(BYTECODE) or not platforms or any(not 0 <= one < len(avals) for one in kept):
        raise InvalidInput.of("file", source, f"broken, or none of these: {_KINDS}")
    program = read_program(module, source)
    given = len(program.main.inputs) - len(kept)
    if given < 0:
        raise InvalidInput.of("file", source, "broken: its signature and its program do not agree; export it again")
    names = {at: name for at, name in zip(kept, program.input_names[given:], strict=True) if name}
    free = any(None in shape for _, shape in inputs)
    if free and batch is not None:
        refined, skip = _refined(exported, batch, source)
        analysis = analyse(refined, skip_inputs=skip)
    else:
        analysis = analyse(program, skip_inputs=given)
    return replace(
        bare, format="jax-export", platforms=platforms, custom_calls=program.custom_calls, analysis=analysis,
        inputs=tuple(Tensor(names.get(at, f"input_{at}"), *one) for at, one in enumerate(inputs)),
        outputs=tuple(Tensor(f"output_{at}", *one) for at, one in enumerate(outputs)),
    )  # fmt: skip


def _shape(aval: object) -> tuple[int | None, ...]:
    return tuple(int(one) if isinstance(one, int) else None for one in aval.shape)  # type: ignore[attr-defined]


def _refined(exported: Any, batch: int, source: str) -> tuple[Program, int]:
    """The program with `batch` for every free dimension, and how many leading inputs the runtime gives."""
    jax, jax_export, compiler = need("jax"), need("jax.export"), need("jaxlib._jax")
    try:
        given = [
            jax.ShapeDtypeStruct(tuple(batch if size is None else size for size in _shape(aval)), aval.dtype)
            for aval in exported.in_avals
        ]
        arguments, keywords = jax.tree_util.tree_unflatten(exported.in_tree, given)
        whole = jax_export.export(jax.jit(exported.call), platforms=exported.platforms)(*arguments, **keywords)
        refined = compiler.mlir.refine_polymorphic_shapes(
            whole.mlir_module().encode(), enable_shape_assertions=True, validate_static_shapes=True, enable_shardy=False
        )
        kept = len(whole.module_kept_var_idx)
    # Jax's own checks of the sizes, and whatever a broken artefact meets first.
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidInput.of("batch", batch, f"{source} does not take it: {line[:200]}") from error
    program = read_program(bytes(refined), source)
    return program, len(program.main.inputs) - kept
