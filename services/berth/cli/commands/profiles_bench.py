"""`berth profiles bench`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from berth.cli.session import Session, connected, session_options

if TYPE_CHECKING:
    from datetime import datetime

    from berth.benchmarking.machine import Machine
    from berth.v1 import profiles_pb2 as pb

__all__ = ["bench", "measure"]


@click.command("bench")
@click.argument("target", required=False)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", default="", help="Name of the workload [that of TARGET]")
@click.option("--size", type=click.IntRange(1, 10**10), help="Of a built-in one: rows, numbers, tokens")
@click.option("--precision", default="", help="fp32, bf16, fp16 or int8 [fp32 for a built-in one]")
@click.option("--batch-size", type=click.IntRange(1, 10**6), help="Of one call")
@click.option("--accelerator", default="", help="What it ran on, where the machine does not say")
@click.option("--warmup", type=click.IntRange(0, 1000), default=3, show_default=True, help="Calls before the first")
@click.option(
    "--tolerance",
    type=click.FloatRange(0.001, 1.0),
    default=0.02,
    show_default=True,
    help="Half width of the mean's 90 % interval to reach, relative",
)
@click.option(
    "--time-limit", type=click.FloatRange(0.1, 86400), default=20.0, show_default=True, help="Seconds at most"
)
@click.option("--dry-run", is_flag=True, help="Print it, store nothing; needs no running system")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@session_options
def bench(
    target: str | None,
    command: tuple[str, ...],
    name: str,
    size: int | None,
    precision: str,
    batch_size: int | None,
    accelerator: str,
    warmup: int,
    tolerance: float,
    time_limit: float,
    dry_run: bool,
    output: str,
    context_file: Path | None,
    token: str,
) -> None:
    """Measure a workload on this machine and store it as its profile.

    TARGET is built in (matmul, copy, attention; matmul and copy also tell the roofs of this machine), or a model
    package or artefact of jax.export, or package.module:function or file.py:function, called with what
    example_arguments() of its module gives.

    Or: bench --name NAME -- COMMAND..., which appends lines such as {"units": 120, "unit": "steps", "seconds": 10.2} to
    the file that BERTH_REPORT names.
    """  # fmt: skip
    import difflib
    import shutil

    from berth.benchmarking.workloads import BUILT_IN
    from berth.cli.output import as_data, dump
    from berth.cli.profile_views import details
    from berth.embedded.context import Context, context_path
    from berth.errors import InvalidInput

    if not dry_run:
        # Before minutes of measuring, not after.
        Context.load(context_path(context_file))
    given = tuple(one for one in (target, *command) if one)
    if not given:
        raise click.UsageError(f"name what to measure: {', '.join(BUILT_IN)}, module:function, or -- COMMAND")
    if given[0] in BUILT_IN or (len(given) == 1 and (":" in given[0] or _is_model(given[0]))):
        if len(given) > 1:
            raise InvalidInput.of("target", " ".join(given), f"{given[0]} takes no arguments; -- starts a command")
        measured, remarks = measure(
            given[0], name, size, precision, batch_size, accelerator, warmup, tolerance, time_limit
        )
    else:
        if not name:
            # One word that nothing runs is a slip of the pen; `bench --name` alone is how a command is measured.
            if len(given) == 1 and shutil.which(given[0]) is None:
                near = difflib.get_close_matches(given[0], BUILT_IN, n=1) or ["matmul"]
                remedy = f"no such built-in one, file, package or command; did you mean {near[0]}?"
                raise InvalidInput.of("target", given[0], f"{remedy} Built in: {', '.join(BUILT_IN)}")
            raise InvalidInput.of("name", "absent", "say --name NAME: whose profile the command's speed is")
        measured, remarks = _command(given, name, precision, accelerator, time_limit)
    if output == "table":
        click.echo("\n".join(details([measured])))
    else:
        click.echo(dump(as_data(measured), output))
    for remark in remarks:
        click.echo(remark, err=True)
    if not dry_run:
        _store(context_file=context_file, token=token, profile=measured)


def _is_model(target: str) -> bool:
    """A folder, or a file that nobody would run."""
    path = Path(target)
    return path.is_dir() or (path.is_file() and not os.access(path, os.X_OK))


def measure(
    target: str, name: str, size: int | None, precision: str, batch: int | None, accelerator: str, warmup: int,
    tolerance: float, limit: float,
) -> "tuple[pb.Profile, list[str]]":  # fmt: skip
    """The profile of what was measured, and remarks for a person. It takes the machine for up to `limit` seconds."""
    import sys

    from berth.benchmarking.machine import cpu_machine, jax_machine
    from berth.benchmarking.measuring import repeat
    from berth.benchmarking.results import profile_of_timing
    from berth.benchmarking.workloads import BUILT_IN, built_in, of_function, of_model
    from berth.cli.failures import Failed

    if target in BUILT_IN:
        import psutil

        workload = built_in(target, size, precision or "fp32", batch or 1, psutil.virtual_memory().available)
    elif _is_model(target):
        workload = of_model(target, name, precision, batch)
    else:
        workload = of_function(target, name, precision, batch)
    try:
        call = workload.make()
    except ImportError as error:
        raise Failed(f"{target} needs jax: pip install 'berth[models]' ({error})") from error
    machine = _named(jax_machine() if "jax" in sys.modules else cpu_machine("python"), accelerator)
    try:
        for _ in range(warmup):
            call()
        machine.power.start()
        timing = repeat(call, warmups=0, tolerance=tolerance, limit_seconds=limit)
        watts = machine.power.stop()
    except Exception as error:  # whatever the workload raises is its own
        raise Failed(f"{target} failed: {type(error).__name__}: {error}") from error
    made = profile_of_timing(workload, timing, machine, watts, _now())
    remarks = [f"{len(timing.seconds)} calls, mean within {timing.half_width:.1%} nine times of ten", *machine.remarks]
    if not timing.tight:
        remarks.append(f"the time limit came first: --tolerance {tolerance:g} was not reached")
    return made, remarks + _unknown_power(watts)


def _command(
    command: tuple[str, ...], name: str, precision: str, accelerator: str, limit: float
) -> "tuple[pb.Profile, list[str]]":
    import tempfile
    from pathlib import Path

    from berth.benchmarking.machine import cpu_machine
    from berth.benchmarking.reports import read_reports, run_command
    from berth.benchmarking.results import profile_of_reports
    from berth.cli.failures import Failed

    machine = _named(cpu_machine("command", children=True), accelerator)
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        report = Path(folder) / "report"
        machine.power.start()
        status, ended = run_command(command, report, limit)
        watts = machine.power.stop()
        if status != 0:
            raise Failed(f"{command[0]} ended with status {status}: nothing is stored")
        reports, left = read_reports(report)
    made = profile_of_reports(name, precision, reports, machine, watts, _now())
    remarks = [f"{len(reports)} reports", *machine.remarks, *(f"left out: {one}" for one in left)]
    if ended:
        remarks.append(f"ended by the time limit of {limit:g} s")
    return made, remarks + _unknown_power(watts)


def _named(machine: "Machine", accelerator: str) -> "Machine":
    from dataclasses import replace

    from berth import catalogue
    from berth.errors import InvalidInput

    if not accelerator:
        return machine
    entry = catalogue.resolve(accelerator)
    if entry is None:
        near = ", ".join(catalogue.nearest(accelerator)) or "`berth profiles accelerators` lists all"
        raise InvalidInput.of("accelerator", accelerator, f"not in the catalogue; nearest: {near}")
    return replace(machine, accelerator=entry.name)


def _unknown_power(watts: float | None) -> list[str]:
    return ["power is unknown: neither NVML nor RAPL can be read here"] if watts is None else []


def _now() -> "datetime":
    from datetime import UTC, datetime

    return datetime.now(UTC)


@connected
async def _store(session: Session, profile: "pb.Profile") -> None:
    from berth.v1 import profiles_pb2 as pb

    answer = await session.profiles.PutProfiles(pb.PutProfilesRequest(profiles=[profile]))
    click.echo("stored" if answer.changed else "as it was", err=True)
