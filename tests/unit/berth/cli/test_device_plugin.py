"""`berth device-plugin`, as it is called."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ROOT
from tests.unit.berth.cli.conftest import Berth, Outcome
from tests.unit.berth.device_plugin.kubelet_stand_in import StrictKubeletStandIn


async def test_a_dry_run_shows_what_would_be_advertised(berth: Berth) -> None:
    outcome = await berth("device-plugin", "-f", str(ROOT / "examples/device-plugin.yaml"), "--dry-run")
    assert outcome == Outcome(
        0,
        """\
RESOURCE            DEVICE  HEALTH     NUMA  LINK    GIVES                              REASON
groq.com/lpu        lpu-0   healthy    0     card-a  /dev/groq0 GROQ_VISIBLE_DEVICES=0
groq.com/lpu        lpu-1   healthy    0     card-a  /dev/groq1 GROQ_VISIBLE_DEVICES=1
groq.com/lpu        lpu-2   healthy    1     card-b  /dev/groq2 GROQ_VISIBLE_DEVICES=2
groq.com/lpu        lpu-3   unhealthy  1     card-b  /dev/groq3 GROQ_VISIBLE_DEVICES=3  chip-to-chip link 3 is down
cerebras.net/wafer  wse-0   healthy    -     -       cerebras.net/wafer=0

would advertise groq.com/lpu: 4 (1 unhealthy), cerebras.net/wafer: 1; nothing was advertised
""",
        "",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--file, --command  (empty)  give one of the two"),
        (("-f", "x.yaml", "--command", "y"), 2, "give one of the two"),
        (("-f", "none.yaml"), 2, "--file  none.yaml  there is no such file"),
        (("-f", "none.yaml", "--dry-run"), 2, "--file  none.yaml  there is no such file"),
        (("-f", "good.yaml", "-r", "a.b/rdu", "--dry-run"), 2, "--resource  a.b/rdu  not listed; listed: a.b/lpu"),
        (("-f", "good.yaml", "--kubelet-dir", "none"), 2, "there is no such folder: run this on a node"),
        (("-f", "good.yaml", "--kubelet-dir", ".", "--metrics", "9400"), 2, "write HOST:PORT"),
        (("--command", "sh -c 'echo no driver >&2; exit 3'", "--dry-run"), 1, "ended with exit code 3: no driver"),
        (("--command", "x", "--interval", "soon"), 2, "--interval  soon   write a duration"),
    ],
)
async def test_misuse_says_what_to_do(
    berth: Berth, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "good.yaml").write_text("resources: [{name: a.b/lpu, devices: [x]}]")
    outcome = await berth("device-plugin", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err


async def test_it_serves_until_it_is_told_to_end_and_shows_metrics(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("resources: [{name: a.b/lpu, devices: [x, {id: y, health: unhealthy}]}]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="berth-plugin-") as folder:
        async with StrictKubeletStandIn(Path(folder)) as kubelet:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "from berth.cli.main import main; main()",
                "device-plugin", "-f", str(tmp_path / "d.yaml"), "--kubelet-dir", folder,
                "--metrics", f"127.0.0.1:{port}",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                await kubelet.until(lambda one: one.capacity("a.b/lpu") == (2, 1))
                page = f"http://127.0.0.1:{port}/metrics"
                async with aiohttp.ClientSession() as session, session.get(page) as answer:
                    lines = (await answer.text()).splitlines()
                for line in (
                    'berth_device_plugin_devices{health="healthy",resource="a.b/lpu"} 1.0',
                    'berth_device_plugin_devices{health="unhealthy",resource="a.b/lpu"} 1.0',
                    'berth_device_plugin_registered{resource="a.b/lpu"} 1.0',
                    "berth_device_plugin_source_broken 0.0",
                ):
                    assert line in lines
            finally:
                process.send_signal(signal.SIGTERM)
                out, err = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 130
            assert out.decode() == "advertising a.b/lpu: 2 (1 unhealthy); Ctrl-C ends it\n"
            assert '"registered"' in err.decode()
            await kubelet.until(lambda one: "a.b/lpu" not in one.connected)
            assert os.listdir(folder) == ["kubelet.sock"]
