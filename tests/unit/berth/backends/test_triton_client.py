"""What Triton's answers mean: its own no, or nobody knows."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from berth.backends.base import Refused, Unanswered, Unreachable
from berth.backends.triton_client import TritonClient
from berth.embedded.process import free_port


@asynccontextmanager
async def fake_triton(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]], *, seconds: float = 20.0
) -> AsyncIterator[TritonClient]:
    """FakeTriton: answers every request as `handle` does."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with TritonClient(f"http://127.0.0.1:{port}", answer_seconds=seconds, load_seconds=seconds) as client:
            yield client
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "text", "error", "words"),
    [
        (400, '{"error":"load failed for model \'m\': no memory"}', Refused, "^load failed for model 'm': no memory$"),
        (404, "nothing here", Refused, "^nothing here$"),
        (500, '{"error":"failed to load \'m\', failed to poll from model repository"}', Refused, "failed to load 'm'"),
        (500, '{"error":"something else"}', Unanswered, "500: something else"),
        (503, "<html>no upstream</html>", Unanswered, "503: <html>no upstream"),
        (200, "<html>a login page</html>", Unanswered, "is no Triton server"),
    ],
)
async def test_an_answer_to_a_load(status: int, text: str, error: type[Exception], words: str) -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text)

    async with fake_triton(handle) as client:
        with pytest.raises(error, match=words):
            await client.load("m", {"backend": "python"}, {"1/model.py": b""})


async def test_no_answer_in_time_is_unknown() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        await asyncio.sleep(5)
        return web.Response()

    async with fake_triton(handle, seconds=0.2) as client:
        with pytest.raises(Unanswered, match="gave no answer in time"):
            await client.unload("m")
        assert not await client.ready()


async def test_no_server_is_unknown() -> None:
    async with TritonClient(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unanswered, match="cannot be asked"):
            await client.configuration("m")


async def test_names_are_quoted_and_files_encoded() -> None:
    seen: list[object] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.extend([request.raw_path, await request.json()])
        return web.Response()

    async with fake_triton(handle) as client:
        await client.load("a/../b", {"backend": "python"}, {"1/model.py": b"x"})
    assert seen == [
        "/v2/repository/models/a%2F..%2Fb/load",
        {"parameters": {"config": '{"backend": "python", "name": "a/../b"}', "file:1/model.py": "eA=="}},
    ]


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (400, '{"error":"Request for unknown model: \'m\' is not found"}', None),
        (404, '{"error":"Request for unknown model: \'m\' is not found"}', None),
        (404, "404 page not found", Unreachable),
        (404, "The page is not found", Unreachable),
        (401, '{"error":"who are you"}', Unreachable),
        (503, "the service is not available", Unreachable),
        (500, '{"error":"internal"}', Unanswered),
    ],
)
async def test_that_a_model_is_not_there_is_believed_in_tritons_words_alone(
    status: int, text: str, said: type[Exception] | None
) -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text)

    async with fake_triton(handle) as client:
        if said is None:
            assert await client.configuration("m") is None
            return
        with pytest.raises(Unanswered) as caught:
            await client.configuration("m")
        assert caught.type is said


async def test_a_large_model_is_sent_piece_by_piece_and_leaves_the_loop_to_others() -> None:
    content = {"1/a": b"\x01" * (3 * 2**22 + 1), "1/b": b"", "1/c": bytes(range(256)) * 4096}
    seen: dict[str, str] = {}
    sizes: list[tuple[int | None, int]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        pieces = bytearray()
        async for piece in request.content.iter_any():
            pieces += piece
        sizes.append((request.content_length, len(pieces)))
        seen.update(json.loads(pieces)["parameters"])
        return web.Response()

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with fake_triton(handle) as client:
        counting = asyncio.create_task(others())
        await client.load("m", {"backend": "python"}, content)
        counting.cancel()
    assert {path: base64.b64decode(seen[f"file:{path}"]) for path in content} == content
    assert sizes[0][0] == sizes[0][1]
    assert turns > 40


async def test_a_load_that_is_answered_before_it_was_read_is_answered() -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text='{"error":"no memory"}')

    async with fake_triton(handle) as client:
        with pytest.raises((Refused, Unanswered)):
            await client.load("m", {}, {"1/a": bytes(2**24)})
