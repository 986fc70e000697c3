"""What the bytes of one file are, found out and read in this very process. `artefact_file` does it in another."""

import hashlib
import re
from dataclasses import replace
from typing import Any

from berth.errors import InvalidInput
from berth.models.analysis import analyse
from berth.models.artefact import Analysis, Artefact, Tensor
from berth.models.missing import need
from berth.models.onnx_model import read_onnx
from berth.models.program import Program
from berth.models.stablehlo import read_program

__all__ = ["KINDS", "read"]

KINDS = "an artefact of jax.export, StableHLO, an ONNX model, a Triton model folder, or a model package"
BYTECODE = b"ML\xefR"


def read(content: bytes, name: str, source: str, batch: int | None = None) -> Artefact:
    """The artefact. Raises InvalidInput; on some broken bytes the process ends."""
    bare = Artefact(name, "", hashlib.sha256(content).hexdigest(), len(content))
    if content.startswith(BYTECODE) or _is_mlir_text(content):
        if batch is not None:
            remedy = "it is not applied to StableHLO: leave it out, and write the sizes into the program"
            raise InvalidInput.of("batch", batch, remedy)
        return _from_program(bare, read_program(content))
    # ONNX begins with its version of the format, field 1 of the message, which no flat buffer of jax.export does.
    if source.endswith(".onnx") or (content[:1] == b"\x08" and 1 <= content[1] <= 64):
        return _from_onnx(bare, content, batch)
    return _from_jax(bare, content, source, batch)


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


def _from_onnx(bare: Artefact, content: bytes, batch: int | None) -> Artefact:
    model = read_onnx(content, batch=batch)
    found = analyse(model.program)
    if model.opaque:
        found = Analysis(
            operations=None, bytes_moved=None, constant_bytes=found.constant_bytes,
            argument_bytes=found.argument_bytes, output_bytes=found.output_bytes, uncounted_calls=model.opaque,
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
        raise InvalidInput.of("file", source, f"broken, or none of these: {KINDS}") from error
    if not module.startswith(BYTECODE) or not platforms or any(not 0 <= one < len(avals) for one in kept):
        raise InvalidInput.of("file", source, f"broken, or none of these: {KINDS}")
    program = read_program(module)
    given = len(program.main.inputs) - len(kept)
    if given < 0:
        raise InvalidInput.of("file", source, "broken: its signature and its program do not agree; export it again")
    names = {at: name for at, name in zip(kept, program.input_names[given:], strict=True) if name}
    free = any(None in shape for _, shape in inputs)
    if batch is not None and not free:
        remedy = "no input has a free dimension: leave --batch out, or export it with one, such as float32[b,8]"
        raise InvalidInput.of("batch", batch, remedy)
    if batch is not None:
        analysed, skip = _refined(exported, batch, source)
    else:
        analysed, skip = program, given
    # The first of several inputs that the runtime gives is the platform's number.
    found = [analyse(analysed, skip_inputs=skip, platform=at) for at in range(len(platforms))]
    differ = any(one != found[0] for one in found)
    return replace(
        bare, format="jax-export", platforms=platforms, custom_calls=program.custom_calls, analysis=found[0],
        by_platform=dict(zip(platforms, found, strict=True)) if differ else {},
        inputs=tuple(Tensor(names.get(at, f"input_{at}"), *one) for at, one in enumerate(inputs)),
        outputs=tuple(Tensor(f"output_{at}", *one) for at, one in enumerate(outputs)),
    )  # fmt: skip


def _shape(aval: Any) -> tuple[int | None, ...]:
    return tuple(int(one) if isinstance(one, int) else None for one in aval.shape)


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
    program = read_program(bytes(refined))
    return program, len(program.main.inputs) - kept
