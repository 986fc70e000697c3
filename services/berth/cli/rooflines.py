"""A workload over the roofs of accelerators (Williams, Waterman, Patterson, CACM 2009): the figures, and as a table.

A roof is min(dense peak at the workload's precision, intensity x bandwidth); TFLOP/s of one device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from berth import catalogue
from berth.cli import units
from berth.cli.output import render_table
from berth.models import roofline
from berth.v1 import profiles_pb2 as pb

__all__ = ["Picture", "Point", "Roof", "foremost", "picture_of", "table"]

MATMUL, COPY = "berth-matmul-", "berth-copy"
"""Workloads of `berth profiles bench` that measure a roof."""
SEEN = (pb.PROVENANCE_MEASURED, pb.PROVENANCE_OBSERVED)
FALLBACK = "fp32"
"""What `predict` takes for a precision of which nothing was measured there."""
DRAWN = 8
"""Accelerators in a picture where nobody picked them: more cannot be told apart."""
WIDE = {"fp16": "fp16", "bf16": "fp16", "mixed": "fp16", "": "fp16"}


@dataclass(frozen=True, slots=True)
class Roof:
    """TFLOP/s and bytes a second of one device. `measured`: by `berth profiles bench`, not a data sheet's.
    `remark`: what was assumed for it."""

    name: str
    peak: float
    bandwidth: float
    measured: bool = False
    vendor: str = ""
    remark: str = ""

    @property
    def ridge(self) -> float:
        """FLOP/byte from which on the peak bounds."""
        return self.peak * 1e12 / self.bandwidth

    def at(self, intensity: float) -> float:
        return min(self.peak, intensity * self.bandwidth / 1e12)


@dataclass(frozen=True, slots=True)
class Point:
    """What one device of an accelerator attains of the workload, TFLOP/s; `low` and `high`: 90 % interval."""

    accelerator: str
    tflops: float
    measured: bool
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """`left_out`: accelerators of which the catalogue lacks a figure. `remark`: how the peak was taken.
    `undrawn`: how many have a roof that the picture leaves to the table."""

    workload: str
    precision: str
    intensity: float
    roofs: tuple[Roof, ...]
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    remark: str = ""
    sources: tuple[str, ...] = ()
    undrawn: int = 0


def picture_of(
    workload: str,
    precision: str,
    operations: float,
    bytes_moved: float,
    predictions: Iterable[pb.Prediction],
    profiles: Sequence[pb.Profile],
    wanted: Sequence[str] = (),
    *,
    batch: int | None = None,
) -> Picture:
    """`profiles`: those of the workload, and measured roofs. `wanted`: catalogue names; empty is all. `batch`: that of
    one call's operations, None: any. Another batch has another intensity: it is no point of this picture."""
    peaks, bandwidths = _measured_roofs(profiles, precision)
    points = [point for point in (_point(one, operations, batch) for one in predictions) if point is not None]
    seen: dict[str, float] = {}
    for point in points:
        if point.measured:
            seen[point.accelerator] = max(seen.get(point.accelerator, 0.0), point.tflops)
    roofs, left_out = [], []
    used: set[str] = set()
    for entry in catalogue.load():
        if wanted and entry.name not in wanted:
            continue
        sheet, assumed = _peak(entry, precision), ""
        if sheet:
            peak: float | None = sheet
        else:
            peak, assumed = peaks.get(entry.name, (None, ""))
        bandwidth = entry.memory_bandwidth or bandwidths.get(entry.name)
        if not peak or not bandwidth:
            left_out.append(entry.name)
            continue
        roof = Roof(entry.name, peak, bandwidth, not (sheet and entry.memory_bandwidth), entry.vendor, assumed)
        roofs.append(_raised(roof, seen.get(entry.name, 0.0), operations / bytes_moved, not sheet,
                             not entry.memory_bandwidth))  # fmt: skip
        used.update(entry.sources if sheet or entry.memory_bandwidth else ())
    roofs.sort(key=lambda roof: (-roof.peak, -roof.bandwidth, roof.name))
    drawn = {roof.name for roof in roofs}
    points = [point for point in points if point.accelerator in drawn]
    points.sort(key=lambda point: (-point.tflops, point.accelerator, point.measured))
    return Picture(
        workload,
        precision,
        operations / bytes_moved,
        tuple(roofs),
        tuple(points),
        tuple(left_out),
        "fp32 peak taken as half of the fp16 peak (TF32)" if precision in ("fp32", "tf32") else "",
        tuple(sorted(used)),
    )


def foremost(picture: Picture, most: int = DRAWN) -> Picture:
    """The same with `most` accelerators: those measured, then the highest roof of each vendor, then the highest."""
    if len(picture.roofs) <= most:
        return picture
    measured = {point.accelerator for point in picture.points if point.measured}
    ordered = sorted(picture.roofs, key=lambda roof: -roof.at(picture.intensity))
    best = {roof.vendor: roof.name for roof in reversed(ordered)}
    ordered.sort(key=lambda roof: (not roof.measured, roof.name not in measured, best[roof.vendor] != roof.name))
    kept = {roof.name for roof in ordered[:most]}
    return replace(
        picture,
        roofs=tuple(roof for roof in picture.roofs if roof.name in kept),
        points=tuple(point for point in picture.points if point.accelerator in kept),
        sources=tuple(sorted({source for entry in catalogue.load() if entry.name in kept for source in entry.sources})),
        undrawn=picture.undrawn + len(picture.roofs) - most,
    )


def _raised(roof: Roof, attained: float, intensity: float, peak: bool, bandwidth: bool) -> Roof:
    """What the workload attained there is attainable: TFLOP/s. `peak`, `bandwidth`: which of the two was measured."""
    if attained <= roof.at(intensity) or not (peak or bandwidth):
        return roof
    parts = [part for part in (roof.remark, "raised to what the workload attained there") if part]
    return replace(
        roof,
        peak=max(roof.peak, attained) if peak else roof.peak,
        bandwidth=max(roof.bandwidth, attained * 1e12 / intensity) if bandwidth else roof.bandwidth,
        remark="; ".join(parts),
    )


def calls_of(profile: pb.Profile) -> float | None:
    """Calls of the program a second on all devices; None where a unit of throughput is no known part of a call."""
    if not profile.HasField("throughput"):
        return None
    batch = profile.batch_size or 1
    match profile.throughput_unit:
        case "steps/s" | "":
            return profile.throughput
        case "queries/s" | "samples/s":
            return profile.throughput / batch
        case "tokens/s" if profile.output_tokens:
            return profile.throughput / (batch * profile.output_tokens)
    return None


def _point(prediction: pb.Prediction, operations: float, batch: int | None) -> Point | None:
    profile = prediction.profile
    calls = calls_of(profile)
    if not calls or (batch is not None and (profile.batch_size or 1) != batch):
        return None
    tflops = (profile.operations or operations) * calls / max(1, profile.devices) / 1e12
    measured = profile.provenance in SEEN
    if not prediction.HasField("throughput_low") or not profile.throughput:
        return Point(profile.accelerator, tflops, measured)
    low, high = (end / profile.throughput for end in (prediction.throughput_low, prediction.throughput_high))
    return Point(profile.accelerator, tflops, measured, tflops * low, tflops * high)


def _peak(entry: catalogue.Accelerator, precision: str) -> float | None:
    """A roof is drawn of units of that precision, or of fp32 on matrix units where these take it; never of wider ones,
    which do not do better for narrower work."""
    if precision in ("fp32", "tf32"):
        return roofline.peak(entry, "fp32")
    return entry.peak(WIDE.get(precision, "int8" if precision == "uint8" else precision))


def _measured_roofs(
    profiles: Sequence[pb.Profile], precision: str
) -> tuple[dict[str, tuple[float, str]], dict[str, float]]:
    """TFLOP/s with what was assumed, and bytes a second. As `predict` does: where nothing of the precision was
    measured, it is as fast as fp32."""
    peaks: dict[tuple[str, str], float] = {}
    bandwidths: dict[str, float] = {}
    for one in profiles:
        if one.provenance not in SEEN or not one.throughput:
            continue
        rate = one.throughput / max(1, one.devices)
        if one.workload.startswith(MATMUL) and one.operations:
            place = one.accelerator, one.workload.removeprefix(MATMUL)
            peaks[place] = max(peaks.get(place, 0.0), rate * one.operations / 1e12)
        elif one.workload == COPY and one.bytes_moved:
            bandwidths[one.accelerator] = max(bandwidths.get(one.accelerator, 0.0), rate * one.bytes_moved)
    found: dict[str, tuple[float, str]] = {}
    for (name, measured), peak in peaks.items():
        if measured == (precision or FALLBACK):
            found[name] = (peak, "")
        elif measured == FALLBACK and precision != "fp64":
            found.setdefault(name, (peak, f"{precision} as fast as fp32 measured there"))
    return found, bandwidths


def table(picture: Picture) -> list[str]:
    """The same in text, the highest roof first."""
    points = {point.accelerator: point for point in picture.points}
    rows = []
    for roof in picture.roofs:
        point = points.get(roof.name)
        bound = roof.at(picture.intensity)
        interval = units.UNKNOWN
        if point is not None and point.low is not None and point.high is not None:
            interval = f"{point.low:.3g} to {point.high:.3g}"
        rows.append(
            [
                roof.name,
                f"{roof.peak:.4g}",
                f"{roof.bandwidth / 1e12:.3g}",
                f"{roof.ridge:.3g}",
                "memory" if picture.intensity < roof.ridge else "compute",
                f"{bound:.3g}",
                units.UNKNOWN if point is None else f"{point.tflops:.3g}",
                interval,
                units.UNKNOWN if point is None else units.percent(point.tflops / bound),
                "" if point is None else "measured" if point.measured else "predicted",
            ]
        )
    titles = [
        "ACCELERATOR", "PEAK TFLOP/S", "TB/S", "RIDGE", "BOUND BY", "ROOF TFLOP/S", "ATTAINED", "90 % WITHIN",
        "OF ROOF", "HOW",
    ]  # fmt: skip
    head = f"{picture.workload} at {picture.precision or 'fp16'}: {picture.intensity:.3g} FLOP/byte"
    lines = [head, "", *render_table(titles, rows, right=[False, *[True] * 3, False, *[True] * 4, False])]
    if picture.remark:
        lines.append(picture.remark)
    lines += [f"{roof.name}: {roof.remark}" for roof in picture.roofs if roof.remark]
    if picture.left_out:
        lines += [
            f"left out, no peak at this precision or no bandwidth known: {', '.join(picture.left_out)}",
            f"`berth profiles bench matmul --precision {_benched(picture.precision)}` and `berth profiles bench copy` "
            "on such a machine measure its roof",
        ]
    return lines


def _benched(precision: str) -> str:
    """One that `bench` knows."""
    return precision if precision in ("fp32", "bf16", "fp16", "int8") else FALLBACK
