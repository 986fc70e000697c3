"""`berth profiles roofline`."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from berth.cli.session import Session, connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from berth.v1 import profiles_pb2 as pb

__all__ = ["roofline", "work_of_call"]


@click.command("roofline")
@click.argument("workload", required=False)
@click.option("--accelerator", "names", multiple=True, help="This accelerator only; again for more [all; 8 drawn]")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="With this many devices")
@click.option("--precision", default="", help="At this precision [the workload's]")
@click.option("--batch-size", type=click.IntRange(min=1), help="At this batch size")
@click.option(
    "--analysis",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What WORKLOAD's program does, as `berth model analyse -o json` writes it",
)
@click.option("--model", metavar="MODEL", help="WORKLOAD's program: a package, an artefact's file or module:function")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Picture to write, .svg or .png")
@click.option("-o", "--output", type=click.Choice(["table", "none"]), default="table", show_default=True)
@connected
async def roofline(
    session: Session,
    workload: str | None,
    names: tuple[str, ...],
    devices: int,
    precision: str,
    batch_size: int | None,
    analysis: Path | None,
    model: str | None,
    out: Path | None,
    output: str,
) -> None:
    """Show WORKLOAD under the roofs of accelerators: what each could attain, what it does or is predicted to do.

    What the workload does must be known: from a profiler's import, from `bench`, or by --analysis or --model.
    """
    from berth import catalogue
    from berth.cli.analysing import program_of
    from berth.cli.commands.profiles import _all, _unknown
    from berth.cli.failures import Failed
    from berth.cli.rooflines import COPY, FALLBACK, MATMUL, foremost, picture_of, table
    from berth.errors import InvalidInput
    from berth.v1 import profiles_pb2 as pb

    form = "" if out is None else out.suffix.lstrip(".").casefold()
    if out is not None and form not in ("svg", "png"):
        raise InvalidInput.of("out", out.name, "a name that ends in .svg or .png")
    if out is not None and not _writable(out):
        raise InvalidInput.of("out", str(out), "cannot be written: name a file in a folder that exists and is yours")
    wanted = []
    for name in names:
        entry = catalogue.resolve(name)
        if entry is None:
            near = ", ".join(catalogue.nearest(name)) or "`berth profiles accelerators` lists all"
            raise InvalidInput.of("accelerator", name, f"not in the catalogue; nearest: {near}")
        wanted.append(entry.name)
    workload, given, batch_size = program_of(workload, analysis, model, batch_size)
    answer = await session.profiles.PredictProfile(
        pb.PredictProfileRequest(
            workload=workload, devices=devices, precision=precision, batch_size=batch_size, analysis=given
        )
    )
    if not answer.predictions and not answer.unknown:
        raise _unknown(workload, answer.suggestions)
    own = await _all(session, workload, "")
    predicted = [one.profile for one in answer.predictions if not wanted or one.profile.accelerator in wanted]
    work = work_of_call(given, batch_size, predicted, own)
    if work is None:
        raise Failed(
            f"workload: {workload!r}: nobody said how many operations and bytes it is: give --model or "
            "--analysis, or import a profiler's file"
        )
    shares = dict(given.operations_by_precision) if given is not None else {}
    main = max(sorted(shares), key=lambda name: shares[name], default="")
    first = next((one.precision for one in own if one.precision), "")
    roofs = await _all(session, COPY, "")
    chosen = precision or main or first
    for measured in dict.fromkeys((chosen or FALLBACK, FALLBACK)):
        roofs += await _all(session, f"{MATMUL}{measured}", "")
    operations, moved, batch = work
    picture = picture_of(workload, chosen, operations, moved, answer.predictions, roofs, wanted, batch=batch)
    if not picture.roofs:
        raise Failed(
            f"no roof is known at {chosen or 'fp16'}: {', '.join(picture.left_out)} lack a peak or bandwidth: "
            "`berth profiles bench matmul` and `berth profiles bench copy` on such a machine measure them"
        )
    if output == "table":
        click.echo("\n".join(table(picture)))
    if out is not None:
        try:
            from berth.cli.roofline_picture import draw

            drawn = picture if wanted else foremost(picture)
            content = draw(drawn, form)
        except ImportError as error:
            raise Failed(f"a picture needs matplotlib: pip install 'berth[pictures]' ({error})") from error
        try:
            await asyncio.to_thread(out.write_bytes, content)
        except OSError as error:
            raise Failed(f"out: {out}: {error.strerror or error}: free it or name another file") from error
        click.echo(f"wrote {out.name}: {len(drawn.roofs)} accelerators, {len(drawn.points)} points", err=True)
        if drawn.undrawn:
            click.echo(f"{drawn.undrawn} more are in the table only: --accelerator picks what is drawn", err=True)


def _writable(out: Path) -> bool:
    return os.access(out if out.exists() else out.parent, os.W_OK) and out.parent.is_dir()


def work_of_call(
    given: "pb.ProgramAnalysis | None",
    batch_size: int | None,
    predicted: "Sequence[pb.Profile]",
    own: "Sequence[pb.Profile]",
) -> tuple[float, float, int] | None:
    """Operations and bytes of one call, and its batch: of the analysis, else of what was predicted, the fastest first,
    else of the workload's profile most like the fastest in precision and batch."""
    if given is not None and given.operations and given.bytes_moved:
        return given.operations, given.bytes_moved, batch_size or 1
    first = predicted[0] if predicted else None
    precision, batch = (first.precision, first.batch_size) if first is not None else ("", batch_size or 0)
    like = sorted(own, key=lambda one: (one.precision != precision, one.batch_size != batch))
    for one in (*predicted, *like):
        if one.operations and one.bytes_moved:
            return one.operations, one.bytes_moved, one.batch_size or 1
    return None
