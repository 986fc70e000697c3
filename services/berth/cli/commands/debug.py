"""`berth debug`: the state of a running engine as a file, and its decisions made again offline."""

import subprocess
import sys
from pathlib import Path

import click

from berth.cli.session import Session, connected

__all__ = ["debug"]

REPLAY = "placement_engine.replay"


@click.group()
def debug() -> None:
    """Dump a running engine, and replay its decisions offline."""


@debug.command()
@click.option("--pool", default="default", show_default=True, help="The pool whose planner is dumped")
@click.option("--out", type=click.Path(path_type=Path), help="File to write [default: berth-POOL.snapshot]")
@connected
async def snapshot(session: Session, pool: str, out: Path | None) -> None:
    """Write the whole state of a pool's planner, and its last events and decisions, to a file.

    The file is for `berth debug replay` and `berth simulate whatif`. It holds names of jobs, tenants and nodes.
    """
    content = await fetch_snapshot(session, pool)
    path = out or Path(f"berth-{pool}.snapshot")
    path.write_bytes(content)
    click.echo(f"{path}: {len(content):,} bytes")


async def fetch_snapshot(session: Session, pool: str) -> bytes:
    """The file's content, as the pool's planner streams it in parts."""
    from berth.v1 import placement_pb2 as pb

    parts = [part.chunk async for part in session.placement.DumpEngine(pb.DumpEngineRequest(pool=pool))]
    return b"".join(parts)


@debug.command(
    # The child has the options and the help: the kit knows no service and imports none.
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def replay(arguments: tuple[str, ...]) -> int:
    """Make the events of a snapshot happen again, and compare every decision."""
    return subprocess.run([sys.executable, "-m", REPLAY, *arguments], check=False).returncode
