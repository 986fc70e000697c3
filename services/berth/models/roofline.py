"""How fast a program runs at best on an accelerator, from its analysis and the catalogue alone: an estimate.

    seconds = max(sum over precisions of operations / (dense peak x compute), bytes / (bandwidth x streaming))

The parts of the data sheet that are reached are those that placement and the profile store assume of each class.
"""

from dataclasses import dataclass

from berth.catalogue import Accelerator
from berth.models.artefact import Analysis

__all__ = ["COMPUTE", "DEFAULT", "STREAMING", "Estimate", "estimate", "peak"]

COMPUTE = {"CPU": 0.60, "GPU": 0.45, "RDU": 0.40, "ASIC": 0.45, "LPU": 0.40, "WAFER": 0.30}
STREAMING = {"CPU": 0.80, "GPU": 0.75, "RDU": 0.70, "ASIC": 0.75, "LPU": 0.60, "WAFER": 0.50}
DEFAULT = (0.30, 0.50)
"""Compute and streaming of a class that is not named."""
UNCERTAINTY = 0.5
"""Relative: assumed, as placement has it. Small programs take longer by what starting a kernel takes."""
WIDE = 0.5
"""Of the 16-bit peak that 32-bit work reaches on matrix units (TF32), where the catalogue has no figure of its own."""


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
    narrow = precision in ("fp8", "fp6", "fp4", "int8", "int4", "int2")
    found = accelerator.peak("int8" if precision.startswith("int") and narrow else "fp8" if narrow else precision)
    if found is not None:
        return found
    base = accelerator.peak("fp16")
    if base is None:
        return None
    return base * {"fp32": WIDE, "int32": WIDE, "fp64": WIDE / 16}.get(precision, 1.0)


def estimate(analysis: Analysis | None, accelerator: Accelerator) -> Estimate | None:
    """Of one call on one device; None where analysis or catalogue lack what it needs."""
    if analysis is None or analysis.operations is None or analysis.bytes_moved is None:
        return None
    compute_part = COMPUTE.get(accelerator.device_class, DEFAULT[0])
    streaming_part = STREAMING.get(accelerator.device_class, DEFAULT[1])
    compute = 0.0
    for precision, count in analysis.by_precision.items():
        tera = peak(accelerator, precision)
        if tera is None:
            return None
        compute += count / (tera * 1e12 * compute_part)
    if accelerator.memory_bandwidth is None:
        return None
    memory = analysis.bytes_moved / (accelerator.memory_bandwidth * streaming_part)
    seconds = max(compute, memory)
    return Estimate(seconds, "compute" if compute >= memory else "memory") if seconds > 0 else None
