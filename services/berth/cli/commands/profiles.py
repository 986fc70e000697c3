"""`berth profiles`."""

from pathlib import Path

import click

from berth.cli.output import format_option
from berth.cli.session import Session, connected

__all__ = ["profiles"]


@click.group()
def profiles() -> None:
    """List or import what workloads measured on which accelerator."""


@profiles.command("list")
@click.option("--workload", default="", help="This workload only")
@click.option("--accelerator", default="", help="This accelerator only")
@format_option
@connected
async def list_profiles(session: Session, workload: str, accelerator: str, output: str) -> None:
    """List profiles."""
    from berth.cli.kinds import PROFILE
    from berth.cli.output import print_items
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
            break
    print_items(PROFILE, found, output)


@profiles.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(["gavel"]), default="gavel", show_default=True)
@click.option("--source", default="", help="Where the figures come from [the file's name]")
@connected
async def import_profiles(session: Session, file: Path, form: str, source: str) -> None:
    """Import FILE, such as Gavel's throughput JSON."""
    import asyncio

    from berth.v1 import profiles_pb2 as pb

    content = await asyncio.to_thread(file.read_bytes)
    answer = await session.profiles.ImportProfiles(
        pb.ImportProfilesRequest(format=form, content=content, source=source or file.name)
    )
    click.echo(f"{answer.changed} changed, {answer.unchanged} unchanged, {len(answer.skipped)} left out")
    for reason in answer.skipped[:20]:
        click.echo(f"  left out: {reason}", err=True)
