"""`berth demo` and `berth dev` for real: four services, embedded servers, processes of this machine."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from berth.embedded.triton import unavailable
from tests.e2e.processes import berth, processes_of

READY_SECONDS = 120.0


@pytest.mark.timeout(300)
def test_the_demonstration_places_runs_and_explains_every_job(tmp_path: Path) -> None:
    with berth(tmp_path, "demo") as demo:
        code = demo.wait(280)
        text = demo.text()
        assert code == 0, text
        for expected in (
            "61 nodes known",
            "200 jobs: 200 succeeded; 0 lost",
            "audit: every invariant holds",
            "gangs bound whole: 30",
            "berth explain ",
            "Candidates, of 61 nodes considered:",
            "step 3",
            "berth trace steps",
            "Where to go next",
        ):
            assert expected in text, text
        if unavailable() is None:
            for expected in (
                "accepted for CUDA (17 accelerators), ROCm (4 accelerators), XLA (4 accelerators)",
                "compiled and served by Triton on",
                "the function itself says the same",
                "its own running is a profile now",
                "cancelled: the model is unloaded",
            ):
                assert expected in text, text
        # One trace, from the publisher to the end of the run.
        waterfall = text.partition("berth trace steps")[2]
        for span in ("submit", "accept", "queue wait", "plan", "publish placements.decided", "bind", "run"):
            assert f" {span} " in waterfall, waterfall
        assert processes_of(demo.state) == []
        assert not demo.context.exists()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("moment", ["embedded PostgreSQL", "four services", "The fleet", "200 jobs:"])
@pytest.mark.parametrize("number", [signal.SIGINT])
def test_an_interrupt_at_any_moment_leaves_no_process(tmp_path: Path, moment: str, number: int) -> None:
    with berth(tmp_path, "demo", "--nodes", "5") as demo:
        demo.until(lambda: moment in demo.text().partition("emulated nodes, 200 jobs")[2], READY_SECONDS)
        demo.interrupt(number)
        demo.interrupt(number)  # an impatient second one must not spoil the clean-up
        assert demo.wait(30) == 130, demo.text()
        assert processes_of(demo.state) == [], demo.text()
        assert "Traceback" not in demo.text()


@pytest.mark.timeout(240)
def test_a_job_of_ones_own_runs_and_ends_with_the_system(tmp_path: Path) -> None:
    """submit, wait, logs, describe, trace, cancel in another terminal; then Ctrl-C while a job still runs."""
    with berth(tmp_path, "dev") as dev:
        dev.until(lambda: "ready; Ctrl-C ends it" in dev.text(), READY_SECONDS)

        assert dev.call("submit", "--name", "greet", "--", "sh", "-c", "echo hello $BERTH_NODE").returncode == 0
        finished = dev.call("wait", "greet", "--timeout", "60s")
        assert (finished.returncode, finished.stdout) == (0, "job/greet succeeded\n"), finished.stderr
        node = json.loads(dev.call("get", "nodes", "-o", "json").stdout)["items"][0]["node"]["name"]
        assert dev.call("logs", "greet").stdout == f"hello {node}\n"
        assert "Succeeded" in dev.call("describe", "job", "greet").stdout
        assert "placed on" in dev.call("explain", "greet").stdout

        assert dev.call("submit", "--name", "fails", "--", "sh", "-c", "exit 3").returncode == 0
        failed = dev.call("wait", "fails", "--timeout", "60s")
        assert failed.returncode == 1
        assert "job/fails failed" in failed.stdout

        refused = dev.call("submit", "--name", "x", "--queue", "nope", "--", "true")
        assert refused.returncode == 2
        assert "unknown queue" in refused.stderr
        assert dev.call("audit").returncode == 0

        for name in ("stopped", "left"):
            assert dev.call("submit", "--name", name, "--cpu", "100m", "--", "sleep", "300").returncode == 0
            assert dev.call("wait", name, "--for=bound", "--timeout", "60s").returncode == 0
        assert dev.call("cancel", "stopped").returncode == 0
        dev.call("wait", "stopped", "--timeout", "60s")
        sleeping = [one for one in processes_of(dev.state) if one.name() == "sleep"]
        assert len(sleeping) == 1, "the cancelled job's process is gone, the other's runs"

        dev.interrupt()
        assert dev.wait(40) == 130, dev.text()
        assert processes_of(dev.state) == [], dev.text()
        _, alive = psutil.wait_procs(sleeping, timeout=1)
        assert alive == []


@pytest.mark.timeout(240)
def test_a_service_that_is_killed_comes_back_at_its_address(tmp_path: Path) -> None:
    with berth(tmp_path, "dev", "--no-agent") as dev:
        dev.until(lambda: "ready; Ctrl-C ends it" in dev.text(), READY_SECONDS)
        before = json.loads(dev.context.read_text())
        psutil.Process(before["service_pids"]["placement_engine"]).kill()
        dev.until(lambda: json.loads(dev.context.read_text())["service_pids"] != before["service_pids"], READY_SECONDS)
        after = json.loads(dev.context.read_text())
        assert after["services"] == before["services"]
        assert dev.call("get", "queues", "-o", "name").stdout == "queue/default\n"
