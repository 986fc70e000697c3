"""Whether an accelerator's software stack takes a program, and whether its memory holds it: of the program alone.

It knows what OpenXLA and ONNX can do, not which servers there are; a backend may ask for more.
"""

import re
from collections.abc import Iterable, Mapping

from berth.catalogue import Accelerator
from berth.models.artefact import Analysis, Artefact

__all__ = ["HEADROOM", "PLATFORMS", "analysis_on", "fits", "fits_none", "pinned_calls", "supports"]

PLATFORMS: Mapping[str, str] = {"CUDA": "cuda", "ROCm": "rocm", "XLA": "tpu", "CPU": "cpu", "oneDNN": "cpu"}
"""Stack of the catalogue -> platform, as jax names it."""
HEADROOM = 1.2
"""Of the memory that the analysis finds: what the allocator, the compiler's workspace and the runtime take."""
_OWNERS = (
    ("cpu", re.compile(r"lapack_|blas_|__onednn|__cpu\$|cpu_")),
    ("cuda", re.compile(r"cusolver|cublas|cudnn|cufft|cusparse|cuda|cu_|cuhybrid|__cu|nccl")),
    ("rocm", re.compile(r"hip|__hip|rocm|rocblas|rocsolver|miopen|rccl")),
    ("tpu", re.compile(r"tpu_custom_call|tpu_|mosaic_tpu|Mosaic_TPU")),
    # Triton kernels of Pallas run where XLA's GPU compiler does.
    ("gpu", re.compile(r"__gpu\$|triton_kernel_call|mosaic_gpu|gpu_")),
)  # fmt: skip
_GPU = ("cuda", "rocm")
_FP8_FIRST = re.compile(r"fp8|fp4|fp6")


def supports(artefact: Artefact, accelerator: Accelerator) -> tuple[str, ...]:
    """Why not, each a sentence with its remedy; empty: the stack takes it and the memory holds it."""
    reasons = [*_platform(artefact, accelerator), *_calls(artefact, accelerator), *_precision(artefact, accelerator)]
    too_large = fits(artefact, accelerator)
    return tuple(reasons + ([too_large] if too_large else []))


def analysis_on(artefact: Artefact, accelerator: Accelerator) -> Analysis | None:
    """What one call costs there: of the part of the program that is the platform's own."""
    return artefact.analysis_on(PLATFORMS.get(accelerator.stack))


def pinned_calls(artefact: Artefact, platform: str) -> tuple[str, ...]:
    """Custom calls that only another platform has. An artefact lowered for that one too calls them only there."""
    found = []
    for call in sorted(artefact.custom_calls):
        owners = _owners(call)
        if owners and platform not in owners and not set(owners) & set(artefact.platforms):
            found.append(call)
    return tuple(found)


def fits(artefact: Artefact, accelerator: Accelerator) -> str:
    """Why the device's memory does not hold it; "" where it does, or nobody knows."""
    analysis = analysis_on(artefact, accelerator)
    needed = None if analysis is None else analysis.memory_bytes
    if needed is None or accelerator.memory_bytes is None or needed * HEADROOM <= accelerator.memory_bytes:
        return ""
    return (
        f"{artefact.name} needs {needed * HEADROOM / 1e9:.3g} GB with headroom, {accelerator.name} has "
        f"{accelerator.memory_bytes / 1e9:.3g} GB: take a smaller batch or precision, or a larger device"
    )


def fits_none(artefact: Artefact, accelerators: Iterable[Accelerator]) -> bool:
    """Whether it is larger than every one of these whose memory is known."""
    known = [one for one in accelerators if one.memory_bytes is not None]
    return bool(known) and all(fits(artefact, one) for one in known)


def _owners(call: str) -> tuple[str, ...]:
    for platform, pattern in _OWNERS:
        if pattern.match(call):
            return _GPU if platform == "gpu" else (platform,)
    return ()


def _platform(artefact: Artefact, accelerator: Accelerator) -> list[str]:
    stack = accelerator.stack
    if artefact.format in ("onnx", "triton"):
        # Which of them a Triton server of that node takes, the server says.
        return [] if stack in PLATFORMS and stack != "XLA" else [
            f"no runtime is built in that takes {artefact.format} on {stack} ({accelerator.name}): "
            + (f"export {artefact.name} with jax.export" if stack == "XLA" else _commands(stack))
        ]  # fmt: skip
    platform = PLATFORMS.get(stack)
    if platform is None:
        return [f"no OpenXLA plugin is built in for {stack} ({accelerator.name}): {_commands(stack)}"]
    if artefact.platforms and platform not in artefact.platforms:
        return [
            f"{artefact.name} was lowered for {', '.join(artefact.platforms)}, not for {platform} "
            f"({accelerator.name}): export it for {platform} too"
        ]
    return []


def _commands(stack: str) -> str:
    return f"give an operator's command backend for {stack}"


def _calls(artefact: Artefact, accelerator: Accelerator) -> list[str]:
    platform = PLATFORMS.get(accelerator.stack)
    if platform is None or artefact.format == "onnx":
        return []
    return [
        f"{artefact.name} calls {call}, which only {' and '.join(_owners(call))} has, not {platform} "
        f"({accelerator.name}): export the function for {platform} too, or without that call"
        for call in pinned_calls(artefact, platform)
    ]


def _precision(artefact: Artefact, accelerator: Accelerator) -> list[str]:
    """Only where the catalogue knows the chip's peaks with confidence, and has none at eight bits."""
    analysis = analysis_on(artefact, accelerator)
    if analysis is None or accelerator.confidence != "S" or accelerator.peak("fp16") is None:
        return []
    known = {peak.precision for peak in accelerator.peaks}
    return [
        f"{artefact.name} computes in {precision}, for which {accelerator.name} has no units: export it in bf16"
        for precision in sorted(analysis.by_precision)
        if _FP8_FIRST.match(precision) and "fp8" not in known
    ]
