"""The node agent: reports this machine's devices to telemetry-ingest.

NVIDIA GPUs through NVML where there are any, and the CPUs as one device "<node>/cpu". What the host does not
tell (temperature and power in most virtual machines) stays unknown.
"""

import asyncio
import os
import platform
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from berth import catalogue
from berth.grpc import connect
from berth.retry import delays
from berth.v1 import fleet_pb2, telemetry_pb2
from berth.v1.telemetry_pb2_grpc import TelemetryServiceStub

__all__ = ["POWERCAP", "Host", "cpu_accelerator", "run_agent"]

log = structlog.get_logger(__name__)

# A stream is ended and begun anew so often: the answer at its end says what was refused.
REPORTS_A_STREAM = 30
POWERCAP = Path("/sys/class/powercap")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


async def run_agent(
    ingest_address: str,
    node_name: str,
    token: str | None = None,
    interval: float = 2.0,
    executors: Sequence[str] = ("process",),
    topology: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    triton: str = "",
) -> None:
    """Reports every `interval` seconds until cancelled. Comes back with back-off after each failure.

    `triton`: address of this node's Triton server; the node offers the executor of that name while it is ready.
    """
    host = Host(node_name, executors=executors, topology=topology or {}, labels=labels or {}, triton=triton)
    tries = delays(first=0.2, longest=10.0)
    try:
        while True:
            channel = connect(ingest_address, token)
            try:
                answer = await TelemetryServiceStub(channel).ReportTelemetry(_reports(host, interval))
                if answer.refused:
                    log.warning("reports refused", refused=answer.refused, message=answer.message)
                tries = delays(first=0.2, longest=10.0)
                continue
            except grpc.aio.AioRpcError as error:
                log.warning("ingest does not take reports", code=error.code().name, details=error.details())
            finally:
                await channel.close()
            await asyncio.sleep(next(tries))
    finally:
        host.close()


async def _reports(host: "Host", interval: float) -> AsyncIterator[telemetry_pb2.ReportTelemetryRequest]:
    """Inventory with the first report and whenever it changes; telemetry with each."""
    sent = b""
    for count in range(REPORTS_A_STREAM):
        if count:
            await asyncio.sleep(interval)
        # NVML and /sys can block for tens of milliseconds.
        inventory, telemetry = await asyncio.to_thread(host.report)
        report = telemetry_pb2.NodeReport(telemetry=telemetry)
        encoded = inventory.SerializeToString(deterministic=True)
        if encoded != sent:
            report.inventory.CopyFrom(inventory)
            sent = encoded
        yield telemetry_pb2.ReportTelemetryRequest(report=report)


@dataclass(slots=True)
class Host:
    """This machine. `nvml` None: NVIDIA's library where it is there."""

    node: str
    executors: Sequence[str] = ("process",)
    topology: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    triton: str = ""
    nvml: Any = None
    powercap: Path = POWERCAP
    _sequence: int = field(init=False)
    _boot_id: str = field(init=False)
    _joules: tuple[float, float] | None = field(init=False, default=None)
    _cpu_seen: bool = field(init=False, default=False)
    _triton_ready: bool = field(init=False, default=False)
    _triton_late: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        # An agent that starts again within one boot must go on above its predecessor.
        self._sequence = int(time.monotonic() * 1000)
        self._boot_id = _boot_id()
        self.nvml = self.nvml if self.nvml is not None else _open_nvml()

    def close(self) -> None:
        if self.nvml is not None:
            with suppress(Exception):
                self.nvml.nvmlShutdown()

    def report(self) -> tuple[fleet_pb2.Node, telemetry_pb2.NodeTelemetry]:
        """Inventory and telemetry of this moment."""
        memory = psutil.virtual_memory()
        usage = psutil.cpu_percent(None) / 100.0
        # psutil's first answer covers no time and is always 0.
        utilisation = min(usage, 1.0) if self._cpu_seen else None
        self._cpu_seen = True
        devices: list[fleet_pb2.Device] = []
        samples: list[telemetry_pb2.DeviceSample] = []
        for device, sample in self._gpus():
            devices.append(device)
            samples.append(sample)
        gpu_draws = [sample.power_watts if sample.HasField("power_watts") else None for sample in samples]
        model = _cpu_model()
        devices.append(
            fleet_pb2.Device(
                device_id=f"{self.node}/cpu",
                index=0,
                model=_cpu_catalogue_name(model),
                device_class="CPU",
                stack="oneDNN",
                memory_bytes=memory.total,
                present=True,
                reported_model=model,
            )
        )
        heat, slowdown = _cpu_heat()
        cpu_watts = self._cpu_watts()
        samples.append(
            telemetry_pb2.DeviceSample(
                device_id=f"{self.node}/cpu",
                memory_used_bytes=memory.total - memory.available,
                memory_total_bytes=memory.total,
                temperature_celsius=heat,
                slowdown_celsius=slowdown,
                power_watts=cpu_watts,
                utilisation=utilisation,
            )
        )
        node_watts = None
        if cpu_watts is not None and None not in gpu_draws:
            node_watts = cpu_watts + sum(draw for draw in gpu_draws if draw is not None)
        inventory = fleet_pb2.Node(
            name=self.node,
            pool="default",
            devices=devices,
            cpu_milli=_usable_cpus() * 1000,
            memory_bytes=memory.total,
            topology=dict(self.topology),
            labels=dict(self.labels),
            executors=[*self.executors, *self._triton_executor()],
            schedulable=True,
            boot_id=self._boot_id,
        )
        self._sequence += 1
        now = time.time_ns()
        telemetry = telemetry_pb2.NodeTelemetry(
            node=self.node,
            boot_id=self._boot_id,
            sequence=self._sequence,
            observed_at=Timestamp(seconds=now // 10**9, nanos=now % 10**9),
            devices=samples,
            node_power_watts=node_watts,
            cpu_utilisation=utilisation,
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
        )
        return inventory, telemetry

    def _triton_executor(self) -> tuple[str, ...]:
        if not self.triton:
            return ()
        try:
            with urllib.request.urlopen(f"{self.triton.rstrip('/')}/v2/health/live", timeout=2.0) as answer:
                ready, self._triton_late = answer.status == 200, False
        except TimeoutError:
            # It may only be busy, once.
            ready, self._triton_late = self._triton_ready and not self._triton_late, True
        except (OSError, ValueError):
            ready, self._triton_late = False, False
        if ready != self._triton_ready:
            log.info("triton server", address=self.triton, ready=ready)
        self._triton_ready = ready
        return ("triton",) if ready else ()

    def _gpus(self) -> Iterator[tuple[fleet_pb2.Device, telemetry_pb2.DeviceSample]]:
        nvml = self.nvml
        if nvml is None:
            return
        for index in range(_ask(nvml.nvmlDeviceGetCount) or 0):
            handle = _ask(nvml.nvmlDeviceGetHandleByIndex, index)
            identity = None if handle is None else _text(_ask(nvml.nvmlDeviceGetUUID, handle))
            if not identity:
                continue
            name = _text(_ask(nvml.nvmlDeviceGetName, handle))
            known = catalogue.resolve(name)
            memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
            limit = _watts(_ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle))
            usage = _ask(nvml.nvmlDeviceGetUtilizationRates, handle)
            yield (
                fleet_pb2.Device(
                    device_id=identity,
                    index=index,
                    model=known.name if known else "",
                    device_class="GPU",
                    stack="CUDA",
                    memory_bytes=memory.total if memory else 0,
                    power_limit_watts=limit or 0.0,
                    present=True,
                    reported_model=name,
                ),
                telemetry_pb2.DeviceSample(
                    device_id=identity,
                    memory_used_bytes=memory.used if memory else None,
                    memory_total_bytes=memory.total if memory else None,
                    temperature_celsius=_ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
                    slowdown_celsius=_ask(
                        nvml.nvmlDeviceGetTemperatureThreshold, handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
                    ),
                    power_watts=_watts(_ask(nvml.nvmlDeviceGetPowerUsage, handle)),
                    power_limit_watts=limit,
                    utilisation=usage.gpu / 100.0 if usage else None,
                    throttle_bits=_ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
                ),
            )

    def _cpu_watts(self) -> float | None:
        """Mean draw of all CPU packages since the last call, from RAPL; None where it cannot be read."""
        total = 0.0
        packages = 0
        for zone in sorted(self.powercap.glob("intel-rapl:[0-9]*")):
            # intel-rapl:0 is a package, intel-rapl:0:0 a part of it.
            if zone.name.count(":") != 1:
                continue
            try:
                total += int((zone / "energy_uj").read_text()) / 1e6
                packages += 1
            except (OSError, ValueError):
                return None
        if not packages:
            return None
        now = time.monotonic()
        before, self._joules = self._joules, (now, total)
        if before is None or now <= before[0] or total < before[1]:
            return None
        return (total - before[1]) / (now - before[0])


def _open_nvml() -> Any:
    """The library, initialised; None on a machine without NVIDIA GPUs."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:
        log.debug("no NVML here", error=repr(error))
        return None
    return pynvml


def _ask(call: Any, *arguments: Any) -> Any:
    """What NVML says; None where this device or driver does not know."""
    try:
        return call(*arguments)
    except Exception:
        return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000.0


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{int(psutil.boot_time())}"


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_accelerator() -> str:
    """The catalogue's name of this machine's CPU."""
    return _cpu_catalogue_name(_cpu_model())


def _cpu_catalogue_name(model: str) -> str:
    known = catalogue.resolve(model) or (catalogue.by_name("EPYC") if "EPYC" in model else None)
    known = known or catalogue.by_name("CPU")
    return known.name if known else ""


def _cpu_heat() -> tuple[float | None, float | None]:
    """The hottest CPU sensor and the lowest critical temperature, degrees Celsius."""
    sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)() or {}
    entries = [entry for name in CPU_SENSORS for entry in sensors.get(name, ())]
    return (
        max((entry.current for entry in entries if entry.current), default=None),
        min((entry.critical for entry in entries if entry.critical), default=None),
    )
