"""Speed from what one run does: seconds = max(operations / (peak x 0.45), bytes / (bandwidth x 0.75)).

The parts of the data sheet are those that placement assumes for GPUs. Where busy seconds of the same run were measured
somewhere, the ratio to its bound there is taken along; the interval is then narrower.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from berth.catalogue import Accelerator
from profile_store.domain.profile import Profile

__all__ = ["Bounded", "bounded", "prior"]

COMPUTE, STREAMING = 0.45, 0.75
HALF_WIDTH, CALIBRATED_HALF_WIDTH = 1.1, 0.7
"""Of the 90 % interval, in logarithms: assumed, not measured; nothing in the real data has operations and bytes."""
BYTES_AN_OPERATION = 1 / 250


@dataclass(frozen=True, slots=True)
class Bounded:
    """Logarithms; `by`: "compute" or "memory"."""

    speed: float
    half_width: float
    by: str


def prior(entries: Iterable[Accelerator]) -> dict[str, float]:
    """Expected speed of each accelerator, in logarithms up to a constant: the mean of peak and bandwidth."""
    found = {}
    for entry in entries:
        peak, bandwidth = entry.peak("fp16"), entry.memory_bandwidth
        parts = [math.log(peak * 1e12 * BYTES_AN_OPERATION)] if peak else []
        parts += [math.log(bandwidth)] if bandwidth else []
        found[entry.name] = sum(parts) / len(parts) if parts else math.log(1e12)
    return found


def bounded(profiles: Sequence[Profile], entry: Accelerator, known: dict[str, Accelerator]) -> Bounded | None:
    """Steps a second on one `entry`, of the first profile that says operations or bytes; None where none does or the
    catalogue lacks what it needs."""
    for profile in profiles:
        bound = _seconds(profile, entry)
        if bound is None:
            continue
        seconds, by = bound
        ratios = [
            math.log(other.busy_seconds / there[0])
            for other in profiles
            if other.busy_seconds
            and other.key.accelerator in known
            and other.key.devices == profile.key.devices
            and (there := _seconds(profile, known[other.key.accelerator])) is not None
        ]
        slower = sum(ratios) / len(ratios) if ratios else 0.0
        return Bounded(-math.log(seconds) - slower, CALIBRATED_HALF_WIDTH if ratios else HALF_WIDTH, by)
    return None


def _seconds(profile: Profile, entry: Accelerator) -> tuple[float, str] | None:
    if not profile.operations and not profile.bytes_moved:
        return None
    peak = entry.peak(profile.precision) if profile.precision else None
    peak = peak or entry.peak("fp16")
    if (profile.operations and not peak) or (profile.bytes_moved and not entry.memory_bandwidth):
        return None
    compute = (profile.operations or 0.0) / ((peak or 1.0) * 1e12 * COMPUTE)
    memory = (profile.bytes_moved or 0.0) / ((entry.memory_bandwidth or 1.0) * STREAMING)
    return max((compute, "compute"), (memory, "memory"))
