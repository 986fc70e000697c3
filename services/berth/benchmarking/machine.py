"""The machine that a benchmark ran on: its name in the catalogue, memory, power. What it does not tell is unknown."""

import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berth import catalogue
from berth.agent import POWERCAP, cpu_accelerator
from berth.errors import InvalidInput

__all__ = ["Machine", "PowerMeter", "cpu_machine", "jax_machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """`devices` used; `memory`: peak bytes a device held, None: it does not say. `remarks` for a person."""

    accelerator: str
    devices: int
    stack: str
    memory: Callable[[], int | None]
    power: "PowerMeter"
    remarks: tuple[str, ...] = ()


@dataclass(slots=True)
class PowerMeter:
    """Mean W a device between `start` and `stop`: NVIDIA's energy counters, or RAPL's of the CPU packages."""

    gpus: int = 0
    powercap: Path = POWERCAP
    _begun: tuple[float, float] | None = field(init=False, default=None)

    def start(self) -> None:
        joules = self._joules()
        self._begun = None if joules is None else (time.monotonic(), joules)

    def stop(self) -> float | None:
        joules, begun = self._joules(), self._begun
        if joules is None or begun is None:
            return None
        seconds = time.monotonic() - begun[0]
        # A counter that wrapped says nothing.
        if seconds <= 0 or joules <= begun[1]:
            return None
        return (joules - begun[1]) / seconds / max(1, self.gpus)

    def _joules(self) -> float | None:
        return self._nvidia() if self.gpus else self._packages()

    def _nvidia(self) -> float | None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(self.gpus)]
            return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1e3
        except Exception:
            return None

    def _packages(self) -> float | None:
        zones = [zone for zone in self.powercap.glob("intel-rapl:[0-9]*") if zone.name.count(":") == 1]
        try:
            return sum(int((zone / "energy_uj").read_text()) for zone in zones) / 1e6 if zones else None
        except (OSError, ValueError):
            return None


def cpu_machine(stack: str, *, children: bool = False) -> Machine:
    """`children`: memory is that of commands that were run, not of this process."""
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return Machine(
        cpu_accelerator(), 1, stack, lambda: resource.getrusage(who).ru_maxrss * 1024 or None, PowerMeter(),
        ("memory is the peak of the whole process",),
    )  # fmt: skip


def jax_machine() -> Machine:
    """What jax computes on by default; it must be importable. Raises InvalidInput for a kind the catalogue lacks."""
    import jax

    device = jax.devices()[0]
    stack = f"jax {jax.__version__} {device.platform}"
    if device.platform == "cpu":
        return cpu_machine(stack)
    kind = str(device.device_kind)
    entry = catalogue.resolve(kind)
    if entry is None:
        near = ", ".join(catalogue.nearest(kind)) or "`berth profiles accelerators` lists all"
        raise InvalidInput.of("accelerator", kind, f"jax's device is not in the catalogue: name it; nearest: {near}")
    return Machine(entry.name, 1, stack, lambda: _peak(device), PowerMeter(gpus=1 if entry.stack == "CUDA" else 0))


def _peak(device: Any) -> int | None:
    with suppress(Exception):
        found = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return None if found is None else int(found)
    return None
