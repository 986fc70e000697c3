"""Latencies from Triton's metrics page, as the real server 2.51 writes it."""

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from binder.domain.work import Member
from binder.executors import triton_latency
from binder.executors.triton_copies import Servers, read_pages, served_name
from binder.executors.triton_latency import Pages, Quantiles, page_of, quantiles_of
from binder.executors.triton_speed import reading_of
from tests.unit.binder.builders import make_command

SECOND = 10**9
PAGE = """\
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m-1",version="1"} 20
# HELP nv_inference_request_summary_us Summary of inference request duration in microseconds (includes cached requests)
# TYPE nv_inference_request_summary_us summary
nv_inference_request_summary_us_count{model="m-1",version="1"} 20
nv_inference_request_summary_us_sum{model="m-1",version="1"} 45604
nv_inference_request_summary_us{model="m-1",version="1",quantile="0.5"} 430
nv_inference_request_summary_us{model="m-1",version="1",quantile="0.9"} 822
nv_inference_request_summary_us{model="m-1",version="1",quantile="0.95"} 1223
nv_inference_request_summary_us{model="m-1",version="1",quantile="0.99"} 1223
nv_inference_request_summary_us{model="idle",version="1",quantile="0.5"} Nan
nv_inference_request_summary_us{model="idle",version="1",quantile="0.9"} 0
nv_inference_request_summary_us{model="two",version="1",quantile="0.5"} 100
nv_inference_request_summary_us{model="two",version="2",quantile="0.5"} 300
nv_inference_queue_summary_us{model="m-1",version="1",quantile="0.5"} 40
"""


def test_the_page_tells_requests_quantiles_and_an_empty_window_tells_none() -> None:
    assert quantiles_of(PAGE) == {"m-1": Quantiles(430e-6, 822e-6, 1223e-6), "two": Quantiles(300e-6)}
    assert quantiles_of("") == {}


@given(st.text(max_size=80))
def test_a_page_that_is_none_is_an_error_and_nothing_worse(text: str) -> None:
    try:
        found = quantiles_of('nv_inference_request_summary_us{model="m",' + text)
    except ValueError:
        return
    assert all(value > 0 for one in found.values() for value in one if value is not None)


def test_where_the_page_is() -> None:
    named = read_pages("n1=http://a:9000/metrics, n2=https://b")
    assert page_of("http://h:8000", "n1", named) == "http://a:9000/metrics"
    assert page_of("http://h:8000", "n3", named) == "http://h:8002/metrics"
    assert page_of("http://[::1]:8000", "n3", named) == "http://[::1]:8002/metrics"
    assert page_of("", "n3", named) == ""
    assert read_pages("http://{node}:8002/metrics").address("n9") == "http://n9:8002/metrics"
    with pytest.raises(InvalidInput, match=r"BERTH_TRITON_METRICS: .*8002/metrics"):
        read_pages("n1=a:8002")


def told(*members: dict[int, tuple[int, int]], **latencies: Quantiles) -> list[tuple[int | None, float | None]]:
    reading = reading_of(
        "", dict(enumerate(members)), members=len(members), started_at=0.0, at=100.0,
        latencies={int(member.removeprefix("m")): one for member, one in latencies.items()},
    )  # fmt: skip
    return [(speed.batch_size, speed.latency_p99_seconds) for speed in reading.speeds]


def test_the_window_is_told_of_the_batch_size_that_most_of_it_is() -> None:
    one = Quantiles(0.1, 0.2, 0.3)
    assert told({1: (10, SECOND), 4: (10, SECOND)}, m0=one) == [(1, None), (4, 0.3)]
    assert told({1: (40, SECOND), 4: (10, SECOND)}, m0=one) == [(1, None), (4, None)]
    assert told({1: (40, SECOND)}) == [(1, None)]
    # Of a gang the slowest member's, once all have told.
    both = {1: (40, SECOND)}, {1: (40, SECOND)}
    assert told(*both, m0=one, m1=Quantiles(0.1, 0.2, 0.7)) == [(1, 0.7)]
    assert told(*both, m1=Quantiles(0.1, 0.2, 0.7)) == [(1, None)]
    # And where most of each one's work was of that batch size.
    unlike = {1: (40, SECOND), 4: (1, SECOND)}, {1: (4, SECOND), 4: (40, SECOND)}
    assert told(*unlike, m0=one, m1=Quantiles(0.1, 0.2, 0.7)) == [(1, None), (4, None)]


async def test_a_page_is_read_once_a_look_and_its_silence_raises_nothing() -> None:
    first, second = (Member(number, "n1") for number in (0, 1))
    served = make_command("served", "none", members=2)
    asked: list[str] = []

    async def page(request: web.Request) -> web.Response:
        asked.append(request.path)
        name = served_name(served, first)
        return web.Response(text=PAGE.replace("m-1", name), status=200 if request.path == "/metrics" else 404)

    application = web.Application()
    application.router.add_get("/{any:.*}", page)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        (port,) = {address[1] for address in runner.addresses}
        here = f"http://127.0.0.1:{port}"
        look = Pages(Servers(), read_pages(f"n1={here}/metrics,n2={here}/other,n3=http://127.0.0.1:1/metrics")).look()
        members = [first, second, replace(first, node="n2"), replace(first, node="n3"), replace(first, node="n4")]
        found = await asyncio.gather(*(look(served, member) for member in members))
        assert found == [Quantiles(430e-6, 822e-6, 1223e-6), *[Quantiles()] * 4]
        assert sorted(asked) == ["/metrics", "/other"]
    finally:
        await runner.cleanup()


async def test_a_page_that_gives_no_answer_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def text(address: str) -> str:
        asked.append(address)
        if len(asked) == 1:
            raise TimeoutError
        return PAGE

    monkeypatch.setattr(triton_latency, "_text", text)
    monkeypatch.setattr(triton_latency, "PAUSE_SECONDS", 0.2)
    pages = Pages(Servers(), Servers())
    assert [await pages.quantiles("a"), await pages.quantiles("a")] == [{}, {}]
    assert await pages.quantiles("b")
    assert asked == ["a", "b"]
    await asyncio.sleep(0.25)
    assert await pages.quantiles("a")
