"""`berth simulate`: the placement engine's own simulations, run as a child process with the same arguments."""

import subprocess
import sys

import click

__all__ = ["simulate"]

MODULE = "placement_engine.simulation"


@click.command(
    # The child has the options and the help: the kit knows no service and imports none.
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> int:
    """Run the engine offline: published traces, scenarios, what-if."""
    return subprocess.run([sys.executable, "-m", MODULE, *arguments], check=False).returncode
