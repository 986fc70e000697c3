"""The mirror's patience, on a server that answers as the test says; what it mirrors is tested on a real one."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from berth.kubernetes.claims.allocation import allocated_devices
from berth.kubernetes.client import Gone, KubernetesError, Object, Unanswered, WatchEvent
from berth.kubernetes.informer import Informer

Answer = Exception | Sequence[WatchEvent]


class FakeServer:
    """Each watch takes the next answer, and the last for ever; lists are empty."""

    def __init__(self, *watches: Answer) -> None:
        self.watches = list(watches)
        self.asked: list[str] = []

    async def list(self, path: str, **query: Any) -> tuple[list[Object], str]:
        self.asked.append("list")
        return [], "1"

    async def watch(self, path: str, version: str, **query: Any) -> AsyncGenerator[WatchEvent, None]:
        self.asked.append(f"watch {version}")
        answer = self.watches.pop(0) if len(self.watches) > 1 else self.watches[0]
        if isinstance(answer, Exception):
            raise answer
        for event in answer:
            yield event
            if event[0] == "BOOKMARK":
                raise Unanswered("cut")


def thing(version: int) -> Object:
    return {"metadata": {"name": "a", "uid": "u", "resourceVersion": str(version)}}


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the mirror makes; none of them takes time. After 20 it is ended."""
    taken: list[float] = []
    real = asyncio.sleep

    async def nap(seconds: float) -> None:
        taken.append(seconds)
        await real(0)
        if len(taken) >= 20:
            raise asyncio.CancelledError

    monkeypatch.setattr("berth.kubernetes.informer.asyncio.sleep", nap)
    return taken


async def followed(
    server: FakeServer, changed: Callable[[Object | None, Object | None], None] | None = None
) -> Informer:
    client: Any = server
    informer = Informer(client, "/things", changed)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(20):
            await informer._follow()
    return informer


async def test_a_watch_that_ends_at_once_is_not_asked_for_without_pause(naps: list[float]) -> None:
    server = FakeServer([])
    await followed(server)
    assert len(server.asked) == 1 + len(naps)
    assert naps[-1] > 5


async def test_pauses_begin_anew_once_a_watch_has_told_something(naps: list[float]) -> None:
    told: Answer = [("BOOKMARK", thing(7))]
    await followed(FakeServer(*[Unanswered("cut"), told] * 12, Unanswered("cut")))
    assert max(naps[:12]) <= 0.1


async def test_a_busy_server_is_given_the_time_it_asks_for_and_not_asked_for_everything(naps: list[float]) -> None:
    server = FakeServer(KubernetesError(429, "TooManyRequests", "busy", retry_after=3.0))
    await followed(server)
    assert server.asked.count("list") == 1
    assert set(naps) == {3.0}


async def test_a_version_that_gives_no_answer_again_and_again_is_left_for_a_new_list(naps: list[float]) -> None:
    server = FakeServer(Unanswered("Too large resource version"))
    await followed(server)
    assert server.asked[:8] == ["list", *["watch 1"] * 5, "list", "watch 1"]


async def test_a_version_that_is_gone_is_listed_again_with_a_pause(naps: list[float]) -> None:
    server = FakeServer(Gone(410, "Expired", "too old"))
    await followed(server)
    assert server.asked[:4] == ["list", "watch 1", "list", "watch 1"]
    assert len(server.asked) == 2 * len(naps)


async def test_a_listener_that_fails_keeps_nobody_from_hearing(naps: list[float]) -> None:
    heard: list[str] = []

    def fails(old: Object | None, new: Object | None) -> None:
        heard.append("fails")
        raise KeyError("strange")

    server = FakeServer([("ADDED", thing(2)), ("MODIFIED", thing(3))], Unanswered("cut"))
    client: Any = server
    informer = Informer(client, "/things", fails)
    informer.listen(lambda old, new: heard.append(str((new or old or {})["metadata"]["resourceVersion"])))
    with pytest.raises(asyncio.CancelledError):
        await informer._follow()
    assert heard[:4] == ["fails", "2", "fails", "3"]


def test_a_device_that_serves_a_claim_twice_is_held_once() -> None:
    share = {"driver": "d.x", "pool": "n1", "device": "g0"}
    results = [{**share, "shareID": "1"}, {**share, "shareID": "2"}, {**share, "device": "g1"}]
    assert allocated_devices({"status": {"allocation": {"devices": {"results": results}}}}) == [
        "d.x/n1/g0",
        "d.x/n1/g1",
    ]
