"""How fast a program runs at best on an accelerator, from its analysis and the catalogue alone: an estimate.

    seconds = max(sum over precisions of operations / (dense peak x compute), bytes / (bandwidth x streaming))

The profile store predicts by the same peaks (`served`) and parts of the data sheet; placement assumes the same parts.
"""

from dataclasses import dataclass

from berth.catalogue import Accelerator
from berth.models.artefact import Analysis

__all__ = [
    "COMPUTE",
    "DEFAULT",
    "FROM_PEAKS",
    "SMALL_PART",
    "STREAMING",
    "Estimate",
    "estimate",
    "peak",
    "served",
    "widened",
]

COMPUTE = {"CPU": 0.60, "GPU": 0.45, "RDU": 0.40, "ASIC": 0.45, "LPU": 0.40, "WAFER": 0.30}
STREAMING = {"CPU": 0.80, "GPU": 0.75, "RDU": 0.70, "ASIC": 0.75, "LPU": 0.60, "WAFER": 0.50}
DEFAULT = (0.30, 0.50)
"""Compute and streaming of a class that is not named."""
UNCERTAINTY = 0.5
"""Relative: assumed, as placement has it. Small programs take longer by what starting a kernel takes."""
SMALL_PART = 0.05
"""Of all operations: fewer than this are left out where no peak is known for their precision, as fp32 norms on a V100.
At an eighth of the 16-bit peak, which its other units reach, so many would add two fifths: within the uncertainty.
Never fp64, which may take a hundred times as long."""
FROM_PEAKS: dict[str, tuple[tuple[str, float], ...]] = {
    "fp64": (("fp16", 1 / 32),),
    "fp32": (("fp16", 0.5),),
    "fp16": (("fp16", 1.0),),
    "bf16": (("fp16", 1.0),),
    "fp8": (("fp8", 1.0), ("fp16", 1.0)),
    "fp6": (("fp8", 1.0), ("fp16", 1.0)),
    "fp4": (("fp8", 1.0), ("fp16", 1.0)),
    "int64": (("fp16", 0.25),),
    "int32": (("fp16", 0.5),),
    "int16": (("fp16", 1.0),),
    "int8": (("int8", 1.0), ("fp16", 1.0)),
    "int4": (("int8", 1.0), ("fp8", 1.0), ("fp16", 1.0)),
    "int2": (("int8", 1.0), ("fp8", 1.0), ("fp16", 1.0)),
}
"""Which peaks of the catalogue serve a precision that has none of its own, the best first, and which part of them.
Wider units do narrower work; fp32 runs on matrix units as TF32; other parts are assumed."""
_NARROW = ("fp8", "fp6", "fp4", "int8", "int4", "int2")
_WIDE = ("fp64", "fp32", "int64", "int32", "int16")
_BEFORE_TF32 = frozenset(["V100-16", "V100-32", "T4", "P100", "K80"])
"""Their matrix units take 16 bits alone: nothing follows from those for wider work."""
_WITHOUT_FP64 = frozenset(["L4", "L40S", "A10", "Inferentia2", "Groq-LPU-v1", "TPU-v5e", "TPU-v5p", "TPU-v6e", "TPU7x"])
"""They compute fp64 in a small part of what others do, or in software."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """`by`: "compute" or "memory"."""

    seconds: float
    by: str

    @property
    def calls_per_second(self) -> float:
        return 1 / self.seconds


def peak(accelerator: Accelerator, precision: str) -> float | None:
    """Dense operations a second, x 10^12; of the next wider units where there are none of that width."""
    found = served(accelerator, precision)
    return None if found is None else found[1]


def widened(analysis: Analysis | None, accelerator: Accelerator) -> dict[str, str]:
    """Precisions of the program that are reckoned at the peak of a wider one, and that one: "fp4" -> "fp8"."""
    found = {}
    for precision in sorted(analysis.by_precision if analysis is not None else ()):
        wider = served(accelerator, precision) if precision in _NARROW else None
        if wider is not None and wider[0] != precision:
            found[precision] = wider[0]
    return found


def served(accelerator: Accelerator, precision: str) -> tuple[str, float] | None:
    """The catalogue's peak by which the precision is reckoned, and what it comes to, x 10^12 a second; None where no
    peak stands in: unknown, rather than a part of what its units never reach."""
    own = accelerator.peak(precision)
    if own is not None:
        return precision, own
    if precision in _WIDE and accelerator.name in _BEFORE_TF32:
        return None
    if precision == "fp64" and accelerator.name in _WITHOUT_FP64:
        return None
    for name, part in FROM_PEAKS.get(precision, ()):
        tera = accelerator.peak(name)
        if tera is not None:
            return name, tera * part
    return None


def estimate(analysis: Analysis | None, accelerator: Accelerator) -> Estimate | None:
    """Of one call on one device; None where analysis or catalogue lack what it needs."""
    if analysis is None or analysis.operations is None or analysis.bytes_moved is None:
        return None
    compute_part = COMPUTE.get(accelerator.device_class, DEFAULT[0])
    streaming_part = STREAMING.get(accelerator.device_class, DEFAULT[1])
    compute, unpriced = 0.0, 0.0
    for precision, count in analysis.by_precision.items():
        tera = peak(accelerator, precision)
        if tera is not None:
            compute += count / (tera * 1e12 * compute_part)
        elif precision == "fp64" and count > 0:
            return None
        else:
            unpriced += count
    if unpriced > 0 and unpriced >= SMALL_PART * analysis.operations:
        return None
    if accelerator.memory_bandwidth is None:
        return None
    memory = analysis.bytes_moved / (accelerator.memory_bandwidth * streaming_part)
    seconds = max(compute, memory)
    return Estimate(seconds, "compute" if compute >= memory else "memory") if seconds > 0 else None
