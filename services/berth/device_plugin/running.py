"""Follows a source, and serves each resource that it lists."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter, Gauge

from berth.device_plugin.inventory import Inventory, Resource
from berth.device_plugin.plugin import Advertised
from berth.device_plugin.serving import Looks, Pace, keep_registered, remove_stale, socket_path
from berth.device_plugin.sources import Failure, Source
from berth.errors import InvalidInput

__all__ = ["Stations", "next_inventory", "run_device_plugin"]

log = structlog.get_logger(__name__)

DEVICES = Gauge("berth_device_plugin_devices", "Devices that are advertised.", ["resource", "health"])
SOURCE_FAILURES = Counter("berth_device_plugin_source_failures_total", "Times that no inventory could be had.")
SOURCE_BROKEN = Gauge("berth_device_plugin_source_broken", "1 while the last try to have the inventory failed.")


class Stations:
    """The resources that are served now, each by a task of its own."""

    def __init__(self, folder: Path, pace: Pace) -> None:
        self._folder = folder.absolute()
        self._pace = pace
        self._looks = Looks()
        self._served: dict[str, tuple[Advertised, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails where a task of ours does; none of them ends by itself."""

    async def __aenter__(self) -> "Stations":
        self._watching = self._task(self._looks.watch(self._folder, self._pace.look), "watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*(task for _, task in self._served.values()), self._watching]
        for task in tasks:
            task.cancel()
        # A task that ends already is not cancelled twice: it has a server to stop.
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)
        self.failed.cancel()

    def _task(self, body: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None and not self.failed.done():
                self.failed.set_exception(error)

        task = asyncio.create_task(body, name=name)
        task.add_done_callback(done)
        return task

    def show(self, inventory: Inventory) -> None:
        """Advertises exactly this from now on."""
        for resource in inventory.resources:
            if resource.name in self._served:
                advertised = self._served[resource.name][0]
                if advertised.resource != resource:
                    _tell_changes(advertised.resource, resource)
                    advertised.publish(resource)
            else:
                socket_path(self._folder, resource.name, "0" * 8)
                remove_stale(self._folder, resource.name)
                advertised = Advertised(resource)
                task = self._task(keep_registered(advertised, self._folder, self._looks, self._pace), resource.name)
                self._served[resource.name] = (advertised, task)
            for health in ("healthy", "unhealthy"):
                count = sum(device.healthy == (health == "healthy") for device in resource.devices)
                DEVICES.labels(resource.name, health).set(count)
        for name in [name for name in self._served if inventory.resource(name) is None]:
            advertised, task = self._served.pop(name)
            log.warning("no longer listed", resource=name)
            # The kubelet keeps what it saw last for minutes: it is told that there is nothing, then the stream ends.
            advertised.publish(Resource(name))
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            for health in ("healthy", "unhealthy"):
                DEVICES.labels(name, health).set(0)


def _tell_changes(before: Resource, after: Resource) -> None:
    old = {device.id: device for device in before.devices}
    new = {device.id: device for device in after.devices}
    for device in after.devices:
        if device.id not in old:
            log.info("device added", resource=after.name, device=device.id, healthy=device.healthy)
        elif old[device.id].healthy and not device.healthy:
            log.warning("device unhealthy", resource=after.name, device=device.id, reason=device.reason)
        elif device.healthy and not old[device.id].healthy:
            log.info("device healthy again", resource=after.name, device=device.id)
    for name in old.keys() - new.keys():
        log.warning("device gone", resource=after.name, device=name)


@dataclass(frozen=True, slots=True)
class Held:
    """The last good inventory, and how often in a row none was to be had since."""

    inventory: Inventory | None = None
    failures: int = 0
    last_reason: str = field(default="", compare=False)


def next_inventory(held: Held, reading: Inventory | Failure, allowed: int) -> tuple[Held, Inventory | None]:
    """What is advertised after a reading: the inventory itself; after `allowed` failures in a row the last good one
    with no device healthy; None for what is advertised now. `allowed` 0: failures change nothing, ever."""
    if isinstance(reading, Inventory):
        return Held(reading), reading
    count = held.failures + 1
    held = Held(held.inventory, count, reading.reason)
    if not allowed or count < allowed or held.inventory is None:
        return held, None
    times = "the last time" if count == 1 else f"{count} times in a row"
    return held, held.inventory.all_unhealthy(f"their health is not known: {times}, {reading.reason}")


async def run_device_plugin(
    source: Source, folder: Path, *, pace: Pace | None = None, on_show: Callable[[Inventory], None] | None = None
) -> None:
    """Serves until cancelled. Raises InvalidInput where there is no folder, or the source is a file that is broken
    from the start."""
    held = Held()
    if not source.failures and isinstance(first := await source.read(), Failure):
        raise InvalidInput(first.errors)
    if not folder.is_dir():  # noqa: ASYNC240
        raise InvalidInput.of(
            "--kubelet-dir",
            folder,
            "there is no such folder: run this on a node, or name the folder in which its kubelet has kubelet.sock",
        )
    async with Stations(folder, pace or Pace()) as stations:
        following = asyncio.create_task(_follow(source, stations, held, on_show))
        try:
            done, _ = await asyncio.wait({following, stations.failed}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await following


async def _follow(source: Source, stations: Stations, held: Held, on_show: Callable[[Inventory], None] | None) -> None:
    async with contextlib.aclosing(source.follow()) as readings:
        async for reading in readings:
            if isinstance(reading, Failure):
                if reading.reason != held.last_reason:
                    _tell_failure(source, reading, held)
                SOURCE_FAILURES.inc()
            elif held.failures:
                log.info("the inventory is good again", source=str(source))
            SOURCE_BROKEN.set(float(isinstance(reading, Failure)))
            held, shown = next_inventory(held, reading, source.failures)
            if shown is not None:
                stations.show(shown)
                if on_show is not None:
                    on_show(shown)


def _tell_failure(source: Source, failure: Failure, held: Held) -> None:
    if held.inventory is None:
        stays = "nothing is advertised until it succeeds"
    elif source.failures:
        stays = f"the devices count as unhealthy after {source.failures} failures in a row"
    else:
        stays = "what was read last stays advertised"
    errors = [{"field": one.field, "value": one.value, "remedy": one.remedy} for one in failure.errors]
    log.error("no inventory", source=str(source), reason=failure.reason, errors=errors, meanwhile=stays)
