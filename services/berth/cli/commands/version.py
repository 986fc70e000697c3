"""`berth version`."""

import click

__all__ = ["version"]


@click.command()
def version() -> None:
    """Print the version."""
    import importlib.metadata
    import platform

    click.echo(f"berth {importlib.metadata.version('berth')}, Python {platform.python_version()}")
