"""`berth backends`."""

from pathlib import Path
from typing import Any

import click

from berth.cli.output import FORMATS

__all__ = ["backends"]


@click.command()
@click.option(
    "--backends",
    "declared",
    type=click.Path(path_type=Path),
    envvar="BERTH_BACKENDS",
    metavar="FILE",
    help="The operator's backends [BERTH_BACKENDS]",
)
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format")
def backends(declared: Path | None, output: str) -> None:
    """List what compiles and serves models, for which software stacks, and whether its software is here."""
    from berth.backends.registry import backends as installed
    from berth.cli.output import dump, render_table

    registry = installed(declared)
    rows: list[dict[str, Any]] = [
        {
            "name": offer.backend.name,
            "stacks": list(offer.backend.stacks),
            "origin": offer.origin,
            "software": offer.missing or "here",
        }
        for offer in registry.offers
    ]
    if output == "name":
        for row in rows:
            click.echo(f"backend/{row['name']}")
    elif output in ("json", "yaml"):
        click.echo(dump({"kind": "BackendList", "items": rows, "problems": list(registry.problems)}, output))
    else:
        cells = [[row["name"], ",".join(row["stacks"]), row["origin"], row["software"]] for row in rows]
        for line in render_table(["NAME", "STACKS", "FROM", "SOFTWARE"], cells):
            click.echo(line)
    for problem in registry.problems:
        click.echo(f"left out: {problem}", err=True)
