"""`berth device-plugin`: advertises a node's devices to its kubelet, in the foreground."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from berth.device_plugin.inventory import Device, Inventory
    from berth.device_plugin.sources import Source

__all__ = ["device_plugin"]

KUBELET_DIR = Path("/var/lib/kubelet/device-plugins")


@click.command("device-plugin")
@click.option("-f", "--file", "file", type=click.Path(path_type=Path), metavar="FILE", help="Inventory; watched")
@click.option("--command", "line", default="", metavar="LINE", help="Program that prints the inventory; no shell")
@click.option(
    "--interval",
    default="10s",
    metavar="DURATION",
    show_default=True,
    help="Time from one run of the command to the next",
)
@click.option(
    "--timeout",
    default="10s",
    metavar="DURATION",
    show_default=True,
    help="Longest run of the command; then it is killed",
)
@click.option(
    "--failures",
    type=click.IntRange(1, 1000),
    metavar="NUMBER",
    default=3,
    show_default=True,
    help="Failed runs in a row until all devices count as unhealthy",
)
@click.option(
    "-r", "--resource", "resources", multiple=True, metavar="NAME", help="Only this one, such as groq.com/lpu; repeat"
)
@click.option(
    "--kubelet-dir",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default=KUBELET_DIR,
    show_default=True,
    help="Folder of kubelet.sock",
)
@click.option("--metrics", "listen", default="", metavar="HOST:PORT", help="Serve /metrics there [not served]")
@click.option("--dry-run", is_flag=True, help="Print what would be advertised, and end")
def device_plugin(
    file: Path | None,
    line: str,
    interval: str,
    timeout: str,
    failures: int,
    resources: tuple[str, ...],
    folder: Path,
    listen: str,
    dry_run: bool,
) -> int:
    """Advertise devices of any vendor to this node's kubelet, until Ctrl-C.

    A file (YAML or JSON) or a program lists them with their health; pods then ask for the resource by its name:

    \b
        resources:
          - name: groq.com/lpu
            devices:
              - {id: lpu-0, numa: 0, link: a, files: [/dev/groq0]}
              - {id: lpu-1, health: unhealthy, reason: link down, files: [/dev/groq1]}

    The list may change at any time. A file that is broken is refused in the log, and what it said before stays.
    examples/device-plugin.yaml shows every field.
    """
    import sys

    from berth.cli.running import run_until_signal
    from berth.device_plugin.running import run_device_plugin
    from berth.device_plugin.sources import Command, File
    from berth.errors import InvalidInput
    from berth.jobs import parse_duration
    from berth.observability import configure_logging

    if (file is None) == (not line):
        given = f"--file {file} --command {line}" if line else ""
        raise InvalidInput.of("--file, --command", given, "give one of the two: where the devices are listed")
    source: Source
    if file is not None:
        source = File(file, resources)
    else:
        every, limit = parse_duration("--interval", interval), parse_duration("--timeout", timeout)
        source = Command(Command.words_of(line), resources, every, limit, failures)
    if dry_run:
        return _dry_run(source)

    configure_logging("device-plugin", format="console" if sys.stderr.isatty() else "json")
    said: list[str] = []

    def say(inventory: "Inventory") -> None:
        now = [_summary(inventory)]
        if now != said:
            click.echo(f"{now[0]}; Ctrl-C ends it" if not said else now[0])
            said[:] = now

    async def body() -> None:
        async with _metrics(listen):
            await run_device_plugin(source, folder, on_show=say)

    return run_until_signal(body)


def _dry_run(source: "Source") -> int:
    import asyncio

    from berth.cli.failures import Failed
    from berth.cli.output import render_table
    from berth.device_plugin.sources import Failure
    from berth.errors import InvalidInput

    found = asyncio.run(source.read())
    if isinstance(found, Failure):
        if found.errors:
            raise InvalidInput(found.errors)
        raise Failed(found.reason)
    rows = [
        [
            resource.name,
            device.id,
            "healthy" if device.healthy else "unhealthy",
            ",".join(map(str, device.numa)) or "-",
            device.link or "-",
            _handed_out(device) or "-",
            device.reason,
        ]
        for resource in found.resources
        for device in resource.devices
    ]
    if rows:
        for text in render_table(("RESOURCE", "DEVICE", "HEALTH", "NUMA", "LINK", "GIVES", "REASON"), rows):
            click.echo(text)
        click.echo()
    click.echo(f"{_summary(found, 'would advertise')}; nothing was advertised")
    return 0


def _handed_out(device: "Device") -> str:
    grant = device.grant
    return " ".join(
        [
            *(one.host for one in grant.files),
            *(f"{one.host}:{one.container}" for one in grant.mounts),
            *(f"{name}={value}" for name, value in grant.environment.items()),
            *grant.cdi,
        ]
    )


def _summary(inventory: "Inventory", verb: str = "advertising") -> str:
    parts = []
    for resource in inventory.resources:
        ill = sum(not device.healthy for device in resource.devices)
        parts.append(f"{resource.name}: {len(resource.devices)}" + (f" ({ill} unhealthy)" if ill else ""))
    return f"{verb} {', '.join(parts) or 'nothing'}"


@contextlib.asynccontextmanager
async def _metrics(listen: str) -> AsyncIterator[None]:
    """Serves the metrics page meanwhile; nothing for an empty address."""
    if not listen:
        yield
        return
    from aiohttp import web
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    from berth.errors import InvalidInput

    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidInput.of("--metrics", listen, "write HOST:PORT, such as 127.0.0.1:9400")

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise InvalidInput.of("--metrics", listen, f"cannot listen there: {error.strerror}") from error
        yield
    finally:
        await runner.cleanup()
