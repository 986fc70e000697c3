"""Keeps one resource's plugin registered with the kubelet.

Each registration has a server and a socket of its own: a kubelet that is asked to register a socket that it is still
connected to refuses, and forgets the connection that it has. A registration ends, and the next begins, when the
kubelet's socket is another one (the kubelet started anew), when our socket is gone (a kubelet clears its folder as it
starts), or when nobody has followed our list for a while.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from prometheus_client import Counter, Gauge
from watchfiles import awatch

from berth.device_plugin.plugin import OPTIONS, VERSION, Advertised, DevicePlugin
from berth.errors import InvalidInput
from berth.kubelet.v1beta1 import device_plugin_pb2 as pb
from berth.kubelet.v1beta1 import device_plugin_pb2_grpc as pb_grpc

__all__ = ["KUBELET_SOCKET", "Looks", "Pace", "keep_registered", "remove_stale", "socket_path"]

log = structlog.get_logger(__name__)

KUBELET_SOCKET = "kubelet.sock"
# sockaddr_un.sun_path, less the closing zero.
MAX_SOCKET_PATH = 107

REGISTERED = Gauge("berth_device_plugin_registered", "1 while the kubelet follows the list.", ["resource"])
REGISTRATIONS = Counter("berth_device_plugin_registrations_total", "Tries to register.", ["resource", "outcome"])


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `look`: at most between two looks at the folder, where no event comes. `follow`: a kubelet that has
    registered us and does not follow our list for so long has lost us. `retry`: first and longest wait after a refused
    registration. `call`: limit of a call to the kubelet. `grace`: for calls under way when a server ends."""

    look: float = 5.0
    follow: float = 15.0
    retry: tuple[float, float] = (1.0, 30.0)
    call: float = 15.0
    grace: float = 2.0


class _CannotServe(Exception):
    """No socket could be made."""


class Looks:
    """Wakes all who wait at each change in a folder, at each pulse, and after a while without either."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def pulse(self) -> None:
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    async def wait(self) -> None:
        await self._next.wait()

    async def watch(self, folder: Path, seconds: float) -> None:
        """Runs until cancelled. A folder that cannot be watched, or not for now, is looked at every `seconds`."""
        while True:
            try:
                async for _ in awatch(
                    folder,
                    watch_filter=None,
                    recursive=False,
                    debounce=200,
                    step=20,
                    rust_timeout=round(seconds * 1000),
                    yield_on_timeout=True,
                    ignore_permission_denied=True,
                ):
                    self.pulse()
            except (OSError, RuntimeError) as error:
                log.warning("the folder cannot be watched; it is looked at", folder=str(folder), reason=str(error))
            await asyncio.sleep(seconds)
            self.pulse()


def socket_path(folder: Path, resource: str, suffix: str) -> Path:
    """Raises InvalidInput where the folder's own path is too long for a socket."""
    path = folder / f"{_prefix(resource)}{suffix}.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        path = folder / f"{_short_prefix(resource)}{suffix}.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise InvalidInput.of(
            "--kubelet-dir", folder, f"a socket's path has at most {MAX_SOCKET_PATH} characters: name a shorter folder"
        )
    return path


def _prefix(resource: str) -> str:
    return f"berth-{resource.replace('/', '_')}-"


def _short_prefix(resource: str) -> str:
    return f"berth-{hashlib.sha256(resource.encode()).hexdigest()[:12]}-"


def remove_stale(folder: Path, resource: str) -> None:
    """Removes sockets that an earlier process of ours left behind: those that nobody listens on."""
    prefixes = (_prefix(resource), _short_prefix(resource))
    for path in sorted(folder.glob("berth-*.sock")):
        rest = next((path.name.removeprefix(one) for one in prefixes if path.name.startswith(one)), "")
        # The suffix is our own: "-" in it would be another resource whose name begins like this one's.
        if not rest or "-" in rest.removesuffix(".sock") or _identity(path) is None:
            continue
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
                log.info("removed the socket of an earlier run", socket=path.name)
            except OSError:
                pass
            else:
                log.warning("another device plugin serves this resource", resource=resource, socket=path.name)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Another one whenever the socket was made anew; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_ctime_ns) if stat.S_ISSOCK(found.st_mode) else None


async def keep_registered(advertised: Advertised, folder: Path, looks: Looks, pace: Pace) -> None:
    """Serves and registers, again and again, until cancelled; then the kubelet is sent the last state, and the socket
    is removed."""
    name = advertised.resource.name
    wait, told = pace.retry[0], False
    while True:
        # 1. Is the kubelet there?
        kubelet = _identity(folder / KUBELET_SOCKET)
        if kubelet is None:
            if not told:
                log.warning("waiting for the kubelet", resource=name, socket=str(folder / KUBELET_SOCKET))
            told = True
            await looks.wait()
            continue
        told = False
        try:
            # 2. Serve: the kubelet calls back before its answer to Register.
            async with _serving(advertised, folder, looks, pace) as (plugin, path):
                served = _identity(path)
                # 3. Register.
                failure = await _register(folder / KUBELET_SOCKET, name, path.name, pace.call)
                if not failure:
                    REGISTRATIONS.labels(name, "accepted").inc()
                    log.info("registered", resource=name, socket=path.name, devices=len(advertised.resource.devices))
                    # 4. Until it is lost.
                    followed, why = await _lost(plugin, looks, pace, folder / KUBELET_SOCKET, kubelet, path, served)
                    log.warning("registering again", resource=name, reason=why)
                    if followed:
                        wait = pace.retry[0]
                        continue
        except _CannotServe as error:
            failure = str(error)
        if failure:
            REGISTRATIONS.labels(name, "failed").inc()
            log.error("the resource is not registered", resource=name, reason=failure, again_in=wait)
        # 5. Not at once again, unless the kubelet is another one by then.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while _identity(folder / KUBELET_SOCKET) == kubelet:
                    await looks.wait()
        wait = min(wait * 2, pace.retry[1])


@contextlib.asynccontextmanager
async def _serving(
    advertised: Advertised, folder: Path, looks: Looks, pace: Pace
) -> AsyncIterator[tuple[DevicePlugin, Path]]:
    name = advertised.resource.name
    path = socket_path(folder, name, secrets.token_hex(4))
    server = grpc.aio.server()

    def followed() -> None:
        REGISTERED.labels(name).set(float(plugin.followers > 0))
        looks.pulse()

    plugin = DevicePlugin(advertised, followed)
    pb_grpc.add_DevicePluginServicer_to_server(plugin, server)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise _CannotServe(f"{path} cannot be listened on: may this user write there? {error}") from error
    await server.start()
    try:
        yield plugin, path
    finally:
        plugin.close()
        # It removes the socket. A cancellation that comes while a server stops gets lost in it: it never sees one.
        stopping = asyncio.ensure_future(server.stop(pace.grace))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping
            raise


async def _register(kubelet: Path, resource: str, endpoint: str, seconds: float) -> str:
    """What the kubelet said against it; "" where it took the registration."""
    request = pb.RegisterRequest(version=VERSION, endpoint=endpoint, resource_name=resource, options=OPTIONS)
    async with grpc.aio.insecure_channel(f"unix:{kubelet}") as channel:
        try:
            await pb_grpc.RegistrationStub(channel).Register(request, timeout=seconds)
        except grpc.RpcError as error:
            return f"{error.code().name.lower().replace('_', ' ')}: {error.details()}"
    return ""


async def _lost(
    plugin: DevicePlugin,
    looks: Looks,
    pace: Pace,
    kubelet: Path,
    kubelet_before: tuple[int, int, int],
    own: Path,
    own_before: tuple[int, int, int] | None,
) -> tuple[bool, str]:
    """Waits until the registration is lost: whether the kubelet ever followed the list, and why it is lost."""
    loop = asyncio.get_running_loop()
    followed, alone_since = False, loop.time()
    while True:
        if plugin.followers:
            followed, alone_since = True, loop.time()
        if _identity(kubelet) != kubelet_before:
            return followed, "the kubelet ended, or started anew"
        if _identity(own) != own_before:
            return followed, "our socket was removed"
        if loop.time() - alone_since > pace.follow:
            return followed, f"the kubelet has not followed the list for {pace.follow:g} s"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pace.look):
                await looks.wait()
