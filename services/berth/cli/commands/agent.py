"""`berth agent`: the node agent, in the foreground."""

import os
import sys

import click

__all__ = ["agent"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def agent(arguments: tuple[str, ...]) -> None:
    """Report this machine's devices and telemetry."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "berth.agent", *arguments])
