"""How a service runs: its parts start, its tasks are watched, and it stops when asked.

A task that ends by itself ends the service with exit code 1: whoever runs it starts it again, and the state is
in PostgreSQL.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from berth.grpc import GrpcServer
from berth.observability import configure_logging, configure_tracing, shutdown_tracing
from berth.settings import ServiceSettings

__all__ = ["App", "authority_key", "run"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """A service that is put together: what runs, and what keeps it from being ready ([] when it is)."""

    tasks: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    not_ready: Callable[[], list[str]] = list
    grpc: GrpcServer | None = None


def authority_key(settings: ServiceSettings) -> str | None:
    return settings.auth_key.get_secret_value() if settings.auth_key else None


def run(
    name: str,
    load_settings: Callable[[], ServiceSettings],
    build: Callable[[ServiceSettings], AbstractAsyncContextManager[App]],
) -> int:
    """The whole life of a service process. Gives the exit code: 0 asked to stop, 1 failed, 2 bad settings."""
    try:
        settings = load_settings()
    except ValidationError as error:
        for one in error.errors():
            field_name = "BERTH_" + "_".join(map(str, one["loc"])).upper()
            print(f"berth-{name}: {field_name}: {one.get('input')!r}: {one['msg']}", file=sys.stderr)
        return 2
    configure_logging(name, level=settings.log_level, format=settings.log_format)
    configure_tracing(name, span_dir=settings.span_dir)
    try:
        return uvloop.run(_serve(name, settings, build))
    finally:
        shutdown_tracing()


async def _serve(
    name: str,
    settings: ServiceSettings,
    build: Callable[[ServiceSettings], AbstractAsyncContextManager[App]],
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    reasons: Callable[[], list[str]] = lambda: ["starting"]  # noqa: E731
    site, http_address = await _serve_http(settings.http_listen, lambda: reasons())
    opening = asyncio.ensure_future(_until_stopped(name, settings, build, stop, http_address))
    try:
        running = await opening
        reasons = running.reasons
        return await running.end()
    except _StoppedEarly:
        return 0
    finally:
        await site.cleanup()


class _StoppedEarly(Exception):
    """Asked to stop before everything was up."""


@dataclass(slots=True)
class _Running:
    reasons: Callable[[], list[str]]
    end: Callable[[], Awaitable[int]]


async def _until_stopped(
    name: str,
    settings: ServiceSettings,
    build: Callable[[ServiceSettings], AbstractAsyncContextManager[App]],
    stop: asyncio.Event,
    http_address: str,
) -> _Running:
    context = build(settings)
    entering = asyncio.ensure_future(context.__aenter__())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({entering, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not entering.done():
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        raise _StoppedEarly
    app = entering.result()
    grpc_address = await app.grpc.start() if app.grpc else ""
    tasks: dict[asyncio.Future[Any], str] = {asyncio.ensure_future(start()): task for task, start in app.tasks.items()}
    if settings.endpoint_file is not None:
        _write_endpoints(settings.endpoint_file, grpc_address, http_address)
    log.info("up", grpc=grpc_address, http=http_address)

    async def end() -> int:
        code = 0
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done & set(tasks):
                code = 1
                error = task.exception() if not task.cancelled() else None
                log.error("task ended", task=tasks[task], exc_info=error)
        finally:
            if app.grpc is not None:
                await app.grpc.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await context.__aexit__(None, None, None)
            log.info("down", code=code)
        return code

    return _Running(app.not_ready, end)


async def _serve_http(listen: str, reasons: Callable[[], list[str]]) -> tuple[web.AppRunner, str]:
    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def alive(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_request: web.Request) -> web.Response:
        waiting = reasons()
        return web.Response(status=503 if waiting else 200, text="\n".join(waiting or ["ok"]) + "\n")

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/livez", alive), web.get("/readyz", ready)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]"), int(port))
    await site.start()
    bound = runner.addresses[0]
    return runner, f"{host}:{bound[1]}"


def _write_endpoints(path: Path, grpc_address: str, http_address: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"grpc": grpc_address, "http": http_address, "pid": os.getpid()}))
    temporary.replace(path)
