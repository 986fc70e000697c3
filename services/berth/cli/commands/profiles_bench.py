"""`berth profiles bench`."""

import click

__all__ = ["bench"]


@click.command("bench")
def bench() -> None:
    """Measure a workload on this machine."""
