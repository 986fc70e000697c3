"""The agent: this machine as a node; what the host does not tell stays unknown."""

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from berth.agent import Host, run_agent
from berth.auth import Authenticator
from berth.grpc import GrpcServer
from berth.testing.servers import free_port
from berth.v1 import telemetry_pb2
from berth.v1.telemetry_pb2_grpc import TelemetryServiceServicer, add_TelemetryServiceServicer_to_server


class FakeNvml:
    """Two GPUs: one that knows all, one virtual that knows its name only."""

    NVML_TEMPERATURE_GPU = 0
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"Tesla T4" if handle == 0 else b"GRID"

    def __getattr__(self, name: str) -> Any:
        values: dict[str, Any] = {
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=16 << 30, used=1 << 30),
            "nvmlDeviceGetEnforcedPowerLimit": 70000,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=25),
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetTemperatureThreshold": 93,
            "nvmlDeviceGetPowerUsage": 31500,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
        }

        def call(handle: int, *_: object) -> Any:
            if handle == 1:
                raise RuntimeError("not supported")
            return values[name]

        return call


def test_this_machine(tmp_path: Path) -> None:
    host = Host("me", nvml=FakeNvml(), powercap=tmp_path, labels={"a": "b"}, topology={"rack": "r"})
    inventory, telemetry = host.report()
    assert [(one.device_id, one.index, one.model, one.device_class) for one in inventory.devices] == [
        ("GPU-0", 0, "T4", "GPU"),
        ("GPU-1", 1, "", "GPU"),
        ("me/cpu", 0, inventory.devices[2].model, "CPU"),
    ]
    assert inventory.devices[2].model in {"CPU", "EPYC", "Xeon-AMX"}
    assert inventory.devices[2].memory_bytes == psutil.virtual_memory().total
    assert (dict(inventory.labels), dict(inventory.topology), list(inventory.executors)) == (
        {"a": "b"},
        {"rack": "r"},
        ["process"],
    )
    assert inventory.cpu_milli >= 1000
    assert inventory.boot_id
    assert telemetry.devices[0] == telemetry_pb2.DeviceSample(
        device_id="GPU-0",
        memory_used_bytes=1 << 30,
        memory_total_bytes=16 << 30,
        temperature_celsius=40,
        slowdown_celsius=93,
        power_watts=31.5,
        power_limit_watts=70.0,
        utilisation=0.25,
        throttle_bits=0,
    )
    assert telemetry.devices[1] == telemetry_pb2.DeviceSample(device_id="GPU-1")
    # psutil's first answer covers no time: unknown, not 0.
    assert not telemetry.devices[2].HasField("utilisation")
    assert not telemetry.devices[2].HasField("power_watts")
    assert not telemetry.HasField("node_power_watts")
    _, again = host.report()
    assert again.sequence == telemetry.sequence + 1
    assert again.devices[2].HasField("utilisation")
    # An agent that starts again goes on above its predecessor.
    assert Host("me", nvml=FakeNvml()).report()[1].sequence >= telemetry.sequence


def test_power_of_the_packages_is_a_difference(tmp_path: Path) -> None:
    for zone, joules in (("intel-rapl:0", 10), ("intel-rapl:1", 20), ("intel-rapl:0:0", 999)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{joules * 10**6}\n")
    host = Host("me", powercap=tmp_path)
    host.nvml = None
    assert not host.report()[1].HasField("node_power_watts")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text(f"{520 * 10**6}\n")
    telemetry = host.report()[1]
    assert telemetry.devices[0].power_watts > 0
    assert telemetry.node_power_watts == telemetry.devices[0].power_watts
    # The counter wrapped around.
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("0\n")
    assert not host.report()[1].devices[0].HasField("power_watts")
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert not host.report()[1].HasField("node_power_watts")


class Ingest(TelemetryServiceServicer):
    def __init__(self) -> None:
        self.reports: list[telemetry_pb2.NodeReport] = []
        self.enough = asyncio.Event()

    async def ReportTelemetry(  # type: ignore[override]
        self, request_iterator: AsyncIterator[telemetry_pb2.ReportTelemetryRequest], context: object
    ) -> telemetry_pb2.ReportTelemetryResponse:
        count = 0
        async for request in request_iterator:
            self.reports.append(request.report)
            count += 1
            if count >= 3:
                self.enough.set()
        return telemetry_pb2.ReportTelemetryResponse(accepted=count)


def test_the_node_offers_triton_while_its_server_says_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    says = [503, 200, None, 200, None, None, 200, "gone"]

    def answer(url: str, timeout: float) -> Any:
        assert url == "http://here:8000/v2/health/live"
        match says.pop(0):
            case None:
                raise TimeoutError
            case int(status) if status == 200:
                return contextlib.nullcontext(SimpleNamespace(status=status))
            case _:
                raise urllib.error.URLError("no")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    host = Host("me", executors=("process",), triton="http://here:8000/", nvml=FakeNvml())
    offered = [list(host.report()[0].executors) == ["process", "triton"] for _ in range(8)]
    # Busy once is not gone; busy twice is.
    assert offered == [False, True, True, True, True, False, True, False]
    assert list(Host("me", executors=("process",), nvml=FakeNvml()).report()[0].executors) == ["process"]


@pytest.mark.parametrize("restart", [False, True])
async def test_reports_arrive_also_after_ingest_was_away(restart: bool) -> None:
    port = free_port()
    authenticator = Authenticator("k" * 32)
    token = authenticator.issue("agent", roles=["agent"], node="me")
    running = asyncio.create_task(run_agent(f"127.0.0.1:{port}", "me", token, interval=0.02))
    try:
        for _ in range(2 if restart else 1):
            ingest = Ingest()
            server = GrpcServer(
                f"127.0.0.1:{port}",
                authenticator,
                [(add_TelemetryServiceServicer_to_server, ingest, "berth.v1.TelemetryService")],
            )
            await server.start()
            await asyncio.wait_for(ingest.enough.wait(), 30)
            await server.stop(0)
            # Inventory first, then telemetry alone while nothing changes.
            assert [report.HasField("inventory") for report in ingest.reports[:3]] == [True, False, False]
            sequences = [report.telemetry.sequence for report in ingest.reports[:3]]
            assert sequences == [sequences[0], sequences[0] + 1, sequences[0] + 2]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not asyncio.all_tasks() - {asyncio.current_task()} & {running}
