"""How long work takes at least on one device, from its own character and the catalogue alone.

    seconds = max(dense operations / (peak x compute), bytes / (bandwidth x streaming)) + irregular / rate

The first part is the roofline (Williams, Waterman, Patterson, CACM 2009). Operations that are not dense
(sparse, branching, pointer chasing) do not run on the matrix units: their rate follows the bandwidth that
scattered accesses reach, up to a limit of the device class, and never the dense peak.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from placement_engine.domain.model import Accelerator, Character

TERA = 1e12
BYTES_PER_IRREGULAR_OPERATION = 8.0
ROOFLINE_UNCERTAINTY = 0.5
IRREGULAR_UNCERTAINTY = 0.5
"""Added for work that is irregular in whole."""


@dataclass(frozen=True, slots=True)
class ClassRates:
    """What one device of a class reaches of its data sheet: parts 0..1, and operations a second."""

    device_class: str
    """"" is every class that the table does not name."""
    compute: float
    """Part of the dense peak that dense work reaches."""
    streaming: float
    """Part of the bandwidth that dense work reaches."""
    scattered: float
    """Part of the bandwidth that irregular accesses reach."""
    irregular_limit: float
    """Most irregular operations a second, whatever the bandwidth."""

    def __post_init__(self) -> None:
        for name in ("compute", "streaming", "scattered"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"class rates of {self.device_class!r}: {name} must be in (0, 1]")
        if not self.irregular_limit > 0:
            raise ValueError(f"class rates of {self.device_class!r}: irregular_limit must be above 0")


# ASSUMPTIONS, not measurements: orders of magnitude that rank the classes. A CPU keeps most of its bandwidth
# under branches and scattered loads, a GPU some; statically scheduled and systolic chips fall back to a few
# scalar units, however wide they are. Any profile replaces them, and `Policy.class_rates` overrides them.
ASSUMED_RATES = (
    ClassRates("CPU", compute=0.60, streaming=0.80, scattered=0.35, irregular_limit=2e11),
    ClassRates("GPU", compute=0.45, streaming=0.75, scattered=0.10, irregular_limit=1e12),
    ClassRates("RDU", compute=0.40, streaming=0.70, scattered=0.04, irregular_limit=2e10),
    ClassRates("ASIC", compute=0.45, streaming=0.75, scattered=0.02, irregular_limit=1e10),
    ClassRates("LPU", compute=0.40, streaming=0.60, scattered=0.001, irregular_limit=5e9),
    ClassRates("WAFER", compute=0.30, streaming=0.50, scattered=0.001, irregular_limit=5e9),
    ClassRates("", compute=0.30, streaming=0.50, scattered=0.001, irregular_limit=5e9),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds of the whole work on one device, and what bounds it: "compute", "memory" or "irregular"."""

    seconds: float
    by: str
    relative_uncertainty: float


class Roofline:
    """The table of class rates, asked for work on an accelerator."""

    def __init__(self, rates: Iterable[ClassRates] = ASSUMED_RATES) -> None:
        self._rates = {one.device_class.casefold(): one for one in (*ASSUMED_RATES, *rates)}

    def rates(self, accelerator: Accelerator) -> ClassRates:
        return self._rates.get(accelerator.device_class.casefold(), self._rates[""])

    def bound(self, work: Character, accelerator: Accelerator) -> Bound | None:
        """None: the catalogue lacks a peak or the bandwidth that the work needs. Unknown is never fast."""
        rates, bandwidth = self.rates(accelerator), accelerator.memory_bandwidth
        dense = work.operations * work.dense_fraction
        irregular = work.operations - dense
        peak = peak_tflops(accelerator, work.precision)
        if (dense > 0 and not peak) or ((work.bytes_moved > 0 or irregular > 0) and not bandwidth):
            return None
        parts = {
            "compute": dense / (peak * TERA * rates.compute) if peak else 0.0,
            "memory": work.bytes_moved / (bandwidth * rates.streaming) if bandwidth else 0.0,
            "irregular": irregular / _irregular_rate(rates, bandwidth) if bandwidth else 0.0,
        }
        seconds = max(parts["compute"], parts["memory"]) + parts["irregular"]
        if not seconds > 0:
            return None
        return Bound(
            seconds=seconds,
            by=max(parts, key=lambda name: parts[name]),
            relative_uncertainty=ROOFLINE_UNCERTAINTY + IRREGULAR_UNCERTAINTY * parts["irregular"] / seconds,
        )


def _irregular_rate(rates: ClassRates, bandwidth: float) -> float:
    return min(bandwidth * rates.scattered / BYTES_PER_IRREGULAR_OPERATION, rates.irregular_limit)


def peak_tflops(accelerator: Accelerator, precision: str) -> float | None:
    """The dense peak at a precision, else that of the next wider one: wider units do narrower work."""
    wanted = precision.casefold()
    eight_bit = accelerator.dense_int8_tops if wanted.startswith("int") else accelerator.dense_fp8_tflops
    if wanted in {"fp16", "bf16", "float16", "bfloat16"}:
        return accelerator.dense_fp16_tflops
    if wanted in {"fp8", "fp4", "mxfp4", "int8", "int4"}:
        return eight_bit or accelerator.dense_fp16_tflops
    return None
