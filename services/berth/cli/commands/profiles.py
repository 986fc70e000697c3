"""`berth profiles`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from berth.cli.commands.profiles_bench import bench
from berth.cli.commands.profiles_roofline import roofline
from berth.cli.output import format_option
from berth.cli.session import Session, connected

if TYPE_CHECKING:
    from berth.v1 import profiles_pb2 as pb

__all__ = ["profiles"]

# Those of profile-store, which `--format` of an older or newer one may not know.
FORMATS = (
    "mlperf", "vllm", "aiperf", "genai-perf", "perf-analyzer", "gavel", "zeus", "splitwise", "nsight-compute",
    "nsight-systems", "vtune", "torch", "csv", "yaml",
)  # fmt: skip


@click.group()
def profiles() -> None:
    """What workloads do on which accelerator: measured, imported, compared, predicted."""


@profiles.command("list")
@click.option("--workload", default="", help="This workload only")
@click.option("--accelerator", default="", help="This accelerator only")
@format_option
@connected
async def list_profiles(session: Session, workload: str, accelerator: str, output: str) -> None:
    """List profiles."""
    from berth.cli.kinds import PROFILE
    from berth.cli.output import print_items

    print_items(PROFILE, await _all(session, workload, accelerator), output)


async def _all(session: Session, workload: str, accelerator: str) -> "list[pb.Profile]":
    from berth.v1 import profiles_pb2 as pb

    found: list[pb.Profile] = []
    token = ""
    while True:
        page = await session.profiles.ListProfiles(
            pb.ListProfilesRequest(workload=workload, accelerator=accelerator, page_size=1000, page_token=token)
        )
        found.extend(page.profiles)
        token = page.next_page_token
        if not token:
            return found


def _unknown(workload: str, suggestions: "Sequence[str]") -> Exception:
    from berth.cli.failures import Failed

    near = f"did you mean {', '.join(suggestions)}?" if suggestions else "`berth profiles list` shows all"
    return Failed(f"workload: {workload!r}: no profile of it; {near}")


@profiles.command("show")
@click.argument("workload")
@click.option("--accelerator", default="", help="On this accelerator only")
@format_option
@connected
async def show(session: Session, workload: str, accelerator: str, output: str) -> None:
    """Show all that is known of WORKLOAD: every configuration, and where its figures come from."""
    from berth.cli.kinds import PROFILE
    from berth.cli.output import print_items
    from berth.cli.profile_views import details, learnt
    from berth.v1 import profiles_pb2 as pb

    found = [one for one in await _all(session, workload, accelerator) if not one.co_located_with]
    told = await session.profiles.ListLearnt(pb.ListLearntRequest(workload=workload))
    taught = [one for one in told.learnt if accelerator in ("", one.accelerator)]
    if not found and not (taught and output in ("table", "wide")):
        ranking = await session.profiles.QueryProfiles(pb.QueryProfilesRequest(workload=workload))
        raise _unknown(workload, ranking.suggestions)
    if output in ("table", "wide"):
        shown = details(found) if found else [f"{workload}: no profile yet"]
        click.echo("\n".join([*shown, *learnt(taught)]))
    else:
        print_items(PROFILE, found, output)


@profiles.command("compare")
@click.argument("workload")
@click.option("--devices", type=click.IntRange(min=1), help="With this many devices only [any]")
@format_option
@connected
async def compare(session: Session, workload: str, devices: int | None, output: str) -> None:
    """Compare accelerators for WORKLOAD, fastest first: each in its best configuration, with its price."""
    from berth import catalogue
    from berth.cli.kinds import PROFILE
    from berth.cli.output import print_items
    from berth.cli.profile_views import comparison
    from berth.v1 import profiles_pb2 as pb

    ranking = await session.profiles.QueryProfiles(pb.QueryProfilesRequest(workload=workload, devices=devices or 0))
    if not ranking.profiles:
        raise _unknown(workload, ranking.suggestions)
    if output in ("table", "wide"):
        prices = {entry.name: entry.price_per_hour for entry in catalogue.load() if entry.price_per_hour is not None}
        click.echo("\n".join(comparison(ranking.profiles, prices)))
    else:
        print_items(PROFILE, ranking.profiles, output)


@profiles.command("predict")
@click.argument("workload", required=False)
@click.option("--accelerator", default="", help="On this accelerator only")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="With this many devices")
@click.option("--batch-size", type=click.IntRange(min=1), help="At this batch size [that of its best configuration]")
@click.option("--concurrency", type=click.IntRange(min=1), help="With so many requests in flight")
@click.option("--precision", default="", help="At this precision, such as fp8")
@click.option("--power-limit", type=click.FloatRange(min=1), help="With each device capped at so many W")
@click.option(
    "--analysis",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What WORKLOAD's program does, as `berth model analyse -o json` writes it",
)
@click.option("--model", metavar="MODEL", help="WORKLOAD's program: a package, an artefact's file or module:function")
@click.option("--keep", is_flag=True, help="Store the predictions, so that placement knows them")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@connected
async def predict(
    session: Session,
    workload: str | None,
    accelerator: str,
    devices: int,
    batch_size: int | None,
    concurrency: int | None,
    precision: str,
    power_limit: float | None,
    analysis: Path | None,
    model: str | None,
    keep: bool,
    output: str,
) -> None:
    """Predict how fast WORKLOAD would be where it was never measured, how late, hot and dear.

    Each answer says how it was made, and an interval that holds the truth nine times of ten. With one accelerator
    each figure is told with its own.
    """
    from berth.cli.analysing import program_of
    from berth.cli.output import as_data, dump
    from berth.cli.profile_views import forecast
    from berth.v1 import profiles_pb2 as pb

    workload, program, batch_size = program_of(workload, analysis, model, batch_size)
    request = pb.PredictProfileRequest(
        workload=workload, accelerator=accelerator, devices=devices, precision=precision, keep=keep,
        batch_size=batch_size, concurrency=concurrency, power_limit_watts=power_limit,
        analysis=program,
    )  # fmt: skip
    answer = await session.profiles.PredictProfile(request)
    if not answer.predictions and not answer.unknown:
        raise _unknown(workload, answer.suggestions)
    if output in ("json", "yaml"):
        click.echo(dump(as_data(answer), output))
        return
    if answer.predictions:
        click.echo("\n".join(forecast(answer.predictions)))
    for sentence in answer.unknown:
        click.echo(f"nothing can be said of {sentence}", err=True)


@profiles.command("accelerators")
@click.argument("names", nargs=-1)
@format_option
def accelerators(names: tuple[str, ...], output: str) -> None:
    """List the accelerator catalogue, or those NAMES of it. It needs no running system."""
    from dataclasses import asdict

    from berth import catalogue, errors
    from berth.cli import units
    from berth.cli.output import dump, render_table

    found = [entry for entry in catalogue.load() if not names]
    for name in names:
        entry = catalogue.resolve(name)
        if entry is None:
            near = ", ".join(catalogue.nearest(name)) or "`berth profiles accelerators` lists all"
            raise errors.InvalidInput.of("accelerator", name, f"not in the catalogue; nearest: {near}")
        found.append(entry)
    if output in ("json", "yaml"):
        # Through JSON: tuples become lists, which YAML can write too.
        import json

        click.echo(dump(json.loads(json.dumps([asdict(entry) for entry in found])), output))
        return
    if output == "name":
        click.echo("\n".join(f"accelerator/{entry.name}" for entry in found))
        return
    titles = ["NAME", "VENDOR", "CLASS", "STACK", "MEMORY", "FP16 TFLOPS", "TDP", "PRICE/H"]
    rows = []
    for entry in found:
        peak, price = entry.peak("fp16"), entry.price_per_hour
        memory = f"{entry.memory_bytes / 1e9:g}GB" if entry.memory_bytes else units.UNKNOWN
        row = [entry.name, entry.vendor, entry.device_class, entry.stack, memory]
        row += [units.UNKNOWN if peak is None else f"{peak:g}", units.watts(entry.tdp_watts)]
        row += [units.UNKNOWN if price is None else f"${price:.2f}"]
        rows.append(row + ([", ".join(entry.aliases), entry.note] if output == "wide" else []))
    titles += ["ALIASES", "NOTE"] if output == "wide" else []
    click.echo("\n".join(render_table(titles, rows, right=[False] * 4 + [True] * 4)))


@profiles.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), help="Format of FILE [found out from its content]")
@click.option("--workload", default="", help="Name of the workload, where the file has none or another")
@click.option("--accelerator", default="", help="Accelerator it ran on, where the file does not say")
@click.option("--devices", type=click.IntRange(min=1), help="Devices it ran on, where the file does not say [1]")
@click.option("--precision", default="", help="Such as fp16, where the file does not say")
@click.option("--batch-size", type=click.IntRange(min=1), help="Batch size, where the file does not say")
@click.option("--decimal", type=click.Choice([".", ","]), help="Sign before decimals, where the file leaves it open")
@click.option("--source", default="", help="Where the figures come from [the file's name]")
@connected
async def import_profiles(
    session: Session,
    file: Path,
    form: str | None,
    workload: str,
    accelerator: str,
    devices: int | None,
    precision: str,
    batch_size: int | None,
    decimal: str | None,
    source: str,
) -> None:
    """Import the figures of a benchmark or profiler from FILE, which may be packed with gzip.

    All of it is stored or, where anything is wrong, nothing. Importing it again changes nothing.
    """
    from berth.cli.uploading import show_import, upload
    from berth.v1 import profiles_pb2 as pb

    hints = pb.ImportHints(
        workload=workload,
        accelerator=accelerator,
        devices=devices or 0,
        precision=precision,
        batch_size=batch_size or 0,
        decimal=decimal or "",
    )
    first = pb.UploadProfilesRequest(format=form or "", source=source or file.name, hints=hints)
    show_import(file.name, await upload(session.profiles, file, first))


profiles.add_command(roofline)
profiles.add_command(bench)
