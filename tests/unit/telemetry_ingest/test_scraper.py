"""Exporters that answer well, badly, slowly, for ever, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from berth.testing.servers import free_port
from telemetry_ingest.adapters.scraper import ScrapeFailed, Scraper, fetch
from telemetry_ingest.domain.targets import Target

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"# nothing yet\n")
        await asyncio.sleep(0.01)


async def silent(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(64):
        await response.write(b"#" * 4096)
    return response


async def broken_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"m 1\n")
    assert request.transport is not None
    request.transport.close()
    return response


async def good(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="m 1\n", content_type="text/plain")


async def failing(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="boom")


async def moved(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "/good"})


@pytest.fixture
async def exporters() -> AsyncIterator[str]:
    application = web.Application()
    for handler in (endless, silent, huge, broken_off, good, failing, moved):
        application.router.add_get(f"/{handler.__name__}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_good_page(exporters: str) -> None:
    async with aiohttp.ClientSession() as session:
        assert await fetch(session, f"{exporters}/good", timeout_seconds=5) == ("m 1\n", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("endless", "no whole answer within 0.3 s"),
        ("silent", "no whole answer within 0.3 s"),
        ("huge", "larger than 65536 bytes"),
        ("broken_off", "ClientPayloadError"),
        ("failing", "HTTP 500"),
        ("moved", "HTTP 302"),
        ("nothing-here", "HTTP 404"),
    ],
)
async def test_a_bad_answer_says_why(exporters: str, path: str, says: str) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ScrapeFailed, match=says):
            await fetch(session, f"{exporters}/{path}", timeout_seconds=0.3, largest=65536)


async def test_nobody_listens() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ScrapeFailed, match="is the exporter running there"):
            await fetch(session, f"http://127.0.0.1:{free_port()}/", timeout_seconds=5)


async def test_one_bad_target_holds_no_other_up(exporters: str) -> None:
    pages: dict[str, int] = {}
    failures: dict[str, str] = {}
    names = ("good", "silent", "failing", "raises")
    targets = {name: Target(name, f"{exporters}/{'good' if name == 'raises' else name}", "auto") for name in names}
    twice = asyncio.Event()

    async def on_page(target: Target, text: str, kind: str) -> None:
        if target.node == "raises":
            raise RuntimeError("a bug of ours")
        pages[target.node] = pages.get(target.node, 0) + 1
        if pages[target.node] >= 3 and len(failures) == 3:
            twice.set()

    def on_failure(target: Target, message: str) -> None:
        failures[target.node] = message

    scraper = Scraper(on_page, on_failure, interval_seconds=0.05, timeout_seconds=0.3, concurrency=8)
    scraper.set_targets(targets.values())
    running = asyncio.create_task(scraper.run())
    await asyncio.wait_for(twice.wait(), 20)
    scraper.set_targets([])
    await asyncio.sleep(0.2)
    count = dict(pages)
    await asyncio.sleep(0.3)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert pages == count, "a target that was taken away is scraped no more"
    assert "HTTP 500" in failures["failing"]
    assert "within 0.3 s" in failures["silent"]
    assert "a bug of ours" in failures["raises"]
