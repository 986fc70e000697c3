"""`berth model`: what a model is and costs, which accelerators take it, and its package."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from berth.catalogue import Accelerator
    from berth.models.artefact import Artefact

__all__ = ["model"]

output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True,
    help="Output format",
)  # fmt: skip


@click.group()
def model() -> None:
    """What a model is and costs, which accelerators take it, and its package."""


@model.command("analyse")
@click.argument("target", metavar="FILE|MODULE:FUNCTION")
@click.option(
    "--input", "inputs", multiple=True, metavar="TYPE[SHAPE]",
    help="Input of the function, such as tokens=int32[4,64]; repeat",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 2**20), help="Size to take for free dimensions of the inputs")
@click.option("--accelerator", "names", multiple=True, help="On this accelerator only; repeat [all of the catalogue]")
@click.option("--name", default="", help="Name of the model [the file's or the function's]")
@click.option("--out", type=click.Path(path_type=Path), help="Write a model package to this folder")
@output_option
def analyse(
    target: str,
    inputs: tuple[str, ...],
    batch: int | None,
    names: tuple[str, ...],
    name: str,
    out: Path | None,
    output: str,
) -> None:
    """Analyse a model: operations, bytes and memory of one call, and what each accelerator makes of it.

    \b
    berth model analyse examples/models/transformer.py:forward --out model
    berth model analyse package.module:function --input 'float32[8,128]'
    berth model analyse model.onnx --batch 8

    A JAX function is exported for CPU, CUDA, ROCm and TPU as one artefact; a file is an artefact of jax.export,
    StableHLO or ONNX; a folder is a package or a model folder of Triton. It needs no running system.
    """
    from berth.errors import InvalidInput
    from berth.models.artefact_file import open_artefact
    from berth.models.export import is_function
    from berth.models.package import write_package

    accelerators = _accelerators(names)
    content: bytes | Path
    if is_function(target):
        artefact, content = _exported(target, inputs, batch, name)
    else:
        if inputs:
            raise InvalidInput.of("input", inputs[0], "leave it out: a file says its inputs itself")
        opened = open_artefact(target, name=name, batch=batch)
        artefact, content = opened.artefact, opened.content
    written = write_package(out, artefact, content) if out is not None else None
    _show(artefact, accelerators, output, written)


@model.command("show")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--accelerator", "names", multiple=True, help="On this accelerator only; repeat [all of the catalogue]")
@output_option
def show(folder: Path, names: tuple[str, ...], output: str) -> None:
    """Show a model package, once its content is what it says."""
    from berth.models.package import read_package

    accelerators = _accelerators(names)
    _show(read_package(folder).artefact, accelerators, output, None)


def _accelerators(names: tuple[str, ...]) -> "list[Accelerator]":
    from berth import catalogue
    from berth.errors import FieldError, InvalidInput

    if not names:
        return list(catalogue.load())
    found, errors = [], []
    for name in names:
        entry = catalogue.resolve(name)
        if entry is None:
            near = ", ".join(catalogue.nearest(name)) or "`berth profiles accelerators` lists all"
            errors.append(FieldError("accelerator", name, f"not in the catalogue; nearest: {near}"))
        else:
            found.append(entry)
    if errors:
        raise InvalidInput(errors)
    return found


def _exported(target: str, inputs: tuple[str, ...], batch: int | None, name: str) -> "tuple[Artefact, bytes]":
    from dataclasses import replace

    from berth.models.artefact_file import name_of, read_artefact
    from berth.models.export import export

    made = export(target, inputs)
    module, _, function = target.rpartition(":")
    stem = name_of(Path(module)) if module.endswith(".py") else module.rpartition(".")[2]
    artefact = read_artefact(made.content, name or f"{stem}-{function}", source=target, batch=batch)
    if len(made.names) == len(artefact.inputs):
        tensors = zip(artefact.inputs, made.names, strict=True)
        artefact = replace(artefact, inputs=tuple(replace(one, name=given) for one, given in tensors))
    return artefact, made.content


def _show(artefact: "Artefact", accelerators: "list[Accelerator]", output: str, written: Path | None) -> None:
    from berth.cli.model_views import accelerator_lines, artefact_lines, document
    from berth.cli.output import dump

    if output != "table":
        click.echo(dump(document(artefact, accelerators, written), output))
        return
    click.echo("\n".join([*artefact_lines(artefact), "", *accelerator_lines(artefact, accelerators)]))
    if written is not None:
        click.echo(f"\npackage written: {written}")
