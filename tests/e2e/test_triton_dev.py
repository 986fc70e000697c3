"""`berth dev --triton` for real: its node offers Triton, also after a crash of the server, and nothing stays behind."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from berth.embedded.triton import unavailable
from tests.e2e.processes import Berth, berth, processes_of

READY_SECONDS = 120.0


def executors(dev: Berth) -> list[str]:
    nodes = json.loads(dev.call("get", "nodes", "-o", "json").stdout)["items"]
    return [executor for node in nodes for executor in node["node"].get("executors", [])]


def tritons(dev: Berth) -> list[psutil.Process]:
    return [process for process in processes_of(dev.state) if process.name() == "tritonserver"]


@pytest.mark.timeout(240)
def test_a_system_with_triton_offers_it_mends_it_and_ends_it(tmp_path: Path) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    with berth(tmp_path, "dev", "--triton") as dev:
        dev.until(lambda: "ready; Ctrl-C ends it" in dev.text(), READY_SECONDS)
        dev.until(lambda: executors(dev) == ["process", "triton"], 60)
        [before] = tritons(dev)
        before.kill()
        dev.until(lambda: "triton ended with -9; starting it again" in dev.text(), 30)
        dev.until(lambda: bool(tritons(dev)) and executors(dev) == ["process", "triton"], 60)
        assert [process.pid for process in tritons(dev)] != [before.pid]
        dev.interrupt(signal.SIGINT)
        assert dev.wait(40) == 130, dev.text()
        assert processes_of(dev.state) == [], dev.text()
        assert "had to kill" not in dev.text()
