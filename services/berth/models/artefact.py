"""A portable artefact: one compiled-for-nothing program, its signature, and what running it once costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FORMATS", "Analysis", "Artefact", "Tensor"]

FORMATS = ("jax-export", "stablehlo", "onnx", "triton")
"""`jax-export`: what jax.export serialises; `stablehlo`: StableHLO as MLIR text or bytecode; `onnx`: an ONNX model;
`triton`: a model folder of NVIDIA Triton with its config.pbtxt."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`dtype` as numpy writes it ("float32", "bfloat16"); a dimension None is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """One call of the program, on one device. None is unknown.

    `operations`: floating point operations, a multiply-add counts two, loops as often as they run; `by_precision`: the
    same by the precision of the operands ("fp32", "bf16", "fp8", "int8"). `bytes_moved`: to and from memory, each
    operand and result of a fused group once. The memory figures are bytes held at the same time. `unknown_loops` are
    the places of loops whose number of turns the program decides as it runs: each is counted once. `uncounted_calls`:
    custom calls that it reaches and nobody can count; then operations, bytes and temporaries are None.
    """

    operations: float | None
    bytes_moved: float | None
    by_precision: Mapping[str, float] = field(default_factory=dict)
    constant_bytes: int | None = None
    argument_bytes: int | None = None
    output_bytes: int | None = None
    temporary_bytes: int | None = None
    unknown_loops: tuple[str, ...] = ()
    uncounted_calls: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int | None:
        """What a device must hold; None where a part of it is unknown."""
        parts = (self.constant_bytes, self.argument_bytes, self.output_bytes, self.temporary_bytes)
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    @property
    def intensity(self) -> float | None:
        """Operations for each byte moved."""
        if self.operations is None or not self.bytes_moved:
            return None
        return self.operations / self.bytes_moved


@dataclass(frozen=True, slots=True)
class Artefact:
    """`digest`: SHA-256 of the content, in hex. `platforms`: what a jax.export artefact was lowered for, as jax names
    them ("cpu", "cuda", "rocm", "tpu"); empty: any. `custom_calls`: target and how often it stands in the program.
    `analysis` None: the format says nothing of it. Where the program does other things on other platforms, it is that
    of the first of `platforms`, and `by_platform` has each one's; empty: it is the same on all.
    """

    name: str
    format: str
    digest: str
    content_bytes: int
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    platforms: tuple[str, ...] = ()
    custom_calls: Mapping[str, int] = field(default_factory=dict)
    analysis: Analysis | None = None
    by_platform: Mapping[str, Analysis] = field(default_factory=dict)

    def analysis_on(self, platform: str | None) -> Analysis | None:
        """`platform`: as jax names it."""
        return self.analysis if platform is None else self.by_platform.get(platform, self.analysis)
