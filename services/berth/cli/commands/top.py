"""`berth top`."""

import asyncio
import sys
from typing import Any

import click

from berth.cli.commands.get import ALIASES, fetch_nodes
from berth.cli.session import Session, connected

__all__ = ["top"]

SORTS = ("name", "heat", "power", "memory", "busy")


@click.command()
@click.argument("kind", default="nodes")
@click.option("-p", "--pool", default="", help="This pool only")
@click.option("--sort", type=click.Choice(SORTS), default="name", show_default=True, help="Highest first, but names")
@click.option("-w", "--watch", is_flag=True, help="Refresh every 2 s until Ctrl-C")
@connected
async def top(session: Session, kind: str, pool: str, sort: str, watch: bool) -> None:
    """Show live memory, heat and power of KIND: nodes or devices."""
    if ALIASES.get(kind) not in ("nodes", "devices"):
        raise click.UsageError(f"no kind {kind!r}: one of nodes, devices")
    while True:
        statuses = await fetch_nodes(session, (), pool)
        lines = device_lines(statuses, sort) if ALIASES[kind] == "devices" else node_lines(statuses, sort)
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo("\n".join(lines))
        if not watch:
            return
        await asyncio.sleep(2.0)


def _most(values: list[float]) -> float | None:
    return max(values) if values else None


def _samples(status: Any, field: str) -> list[float]:
    return [
        getattr(device.sample, field)
        for device in status.devices
        if device.HasField("sample") and device.sample.HasField(field)
    ]


def node_figures(status: Any) -> dict[str, float | None]:
    """Sums and hottest of what the devices of a node say; None where none says it."""
    used, power = _samples(status, "memory_used_bytes"), _samples(status, "power_watts")
    busy = _samples(status, "utilisation")
    return {
        "memory": sum(used) if used else None,
        "heat": _most(_samples(status, "temperature_celsius")),
        "power": status.power_watts if status.HasField("power_watts") else sum(power) if power else None,
        "busy": sum(busy) / len(busy) if busy else None,
    }


def node_lines(statuses: list[Any], sort: str) -> list[str]:
    from berth.cli import units
    from berth.cli.kinds import optional
    from berth.cli.output import render_table

    figures = {status.node.name: node_figures(status) for status in statuses}
    if sort != "name":
        statuses = sorted(statuses, key=lambda status: -(figures[status.node.name][sort] or 0.0))
    rows = []
    for status in statuses:
        mine = figures[status.node.name]
        rows.append(
            (
                status.node.name,
                str(len(status.devices)),
                units.bytes_of(mine["memory"]),
                units.celsius(mine["heat"]),
                units.watts(mine["power"]),
                units.percent(mine["busy"]),
                units.percent(optional(status, "cpu_utilisation")),
                units.bytes_of(optional(status, "memory_used_bytes")),
                units.duration(optional(status, "age_seconds")),
            )
        )
    titles = ("NODE", "DEVICES", "DEVICE MEMORY", "HOTTEST", "POWER", "BUSY", "CPU", "HOST MEMORY", "HEARD")
    return render_table(titles, rows, right=(False, *[True] * 8))


def device_lines(statuses: list[Any], sort: str) -> list[str]:
    from berth.cli.kinds import DEVICE
    from berth.cli.output import table_lines

    fields = {"heat": "temperature_celsius", "power": "power_watts", "memory": "memory_used_bytes"}
    devices = [device for status in statuses for device in status.devices]
    if sort != "name":
        field = fields.get(sort, "utilisation")
        devices.sort(key=lambda device: -getattr(device.sample, field))
    return table_lines(DEVICE, devices, "table")
