"""Which part's end ends the system, and which does not."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from berth.embedded.supervisor import RESTARTS_A_MINUTE, EmbeddedSystem, Options
from berth.embedded.triton import TritonServer


class FakeChild:
    """Ends at once, each time it is started."""

    name, pid, popen = "triton", 0, type("Popen", (), {"returncode": -11})

    def running(self) -> bool:
        return False

    def last_lines(self) -> str:
        return "Segmentation fault"


class FakeTriton:
    child, started, stopped = FakeChild(), 0, 0

    async def start(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.stopped += 1


async def test_a_triton_that_ends_again_and_again_is_given_up_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant's model that crashed it six times in a minute ended every service of the system."""
    said: list[str] = []
    system = EmbeddedSystem(Options(state_dir=tmp_path, triton=True), say=said.append)
    triton = FakeTriton()
    system._triton = cast(TritonServer, triton)
    monkeypatch.setattr(system, "_publish_context", lambda: None)
    real_sleep: Any = asyncio.sleep
    monkeypatch.setattr("berth.embedded.supervisor.asyncio.sleep", lambda _: real_sleep(0))
    watching = asyncio.create_task(system.watch())
    while not triton.stopped:
        assert not watching.done(), watching.exception()
        await real_sleep(0.01)
    await real_sleep(0.05)
    assert not watching.done()
    watching.cancel()
    assert (triton.started, triton.stopped) == (RESTARTS_A_MINUTE, 1)
    assert [one for one in said if "given up" in one and "Segmentation fault" in one] == said[-1:]
