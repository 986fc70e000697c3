"""A profile: what one workload was seen to do on one kind of chip in one configuration.

Figures that nobody knows are None. What cannot be true is refused before it is stored (validation.py).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

__all__ = [
    "CONFIGURATION",
    "PREDICTED",
    "SEEN",
    "SUREST_FIRST",
    "THROUGHPUT_UNITS",
    "Profile",
    "ProfileKey",
    "Provenance",
    "best_fitting",
    "configuration_of",
    "rank",
    "stream_alone",
]

THROUGHPUT_UNITS = ("steps/s", "tokens/s", "samples/s", "queries/s", "epochs/s")


class Provenance(IntEnum):
    """Where a figure comes from; the numbers are those of the contract."""

    MEASURED = 1
    INTERPOLATED = 2
    TRANSFERRED = 3
    ROOFLINE = 4
    DECLARED = 5
    OBSERVED = 6
    """Learnt from jobs that ran here: the store's own word, which nobody puts or imports."""


SEEN = (Provenance.OBSERVED, Provenance.MEASURED)
"""By somebody's clock: these say something of others."""
PREDICTED = (Provenance.INTERPOLATED, Provenance.TRANSFERRED, Provenance.ROOFLINE)
SUREST_FIRST = (
    Provenance.OBSERVED,
    Provenance.MEASURED,
    Provenance.INTERPOLATED,
    Provenance.DECLARED,
    Provenance.TRANSFERRED,
    Provenance.ROOFLINE,
)


@dataclass(frozen=True, slots=True, order=True)
class ProfileKey:
    """`co_located_with` is the other workload on the same devices; "" is alone. `configuration` is how it was run,
    as `configuration_of` writes it; "" where nobody said."""

    workload: str
    accelerator: str
    devices: int
    co_located_with: str = ""
    configuration: str = ""

    def __str__(self) -> str:
        plain = f"{self.workload}|{self.accelerator}|{self.devices}|{self.co_located_with}"
        return f"{plain}|{self.configuration}" if self.configuration else plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Throughput is of all devices together; memory, power and price are per device. Seconds, W, J, bytes."""

    key: ProfileKey
    # The contract's number; 0 is unspecified, which validation refuses.
    provenance: int
    source: str
    task: str = ""
    precision: str = ""
    software_stack: str = ""
    throughput: float | None = None
    throughput_unit: str = ""
    latency_mean_seconds: float | None = None
    latency_p50_seconds: float | None = None
    latency_p90_seconds: float | None = None
    latency_p95_seconds: float | None = None
    latency_p99_seconds: float | None = None
    # Upper end of the 90 % interval of the line above, where that was predicted.
    latency_p99_high_seconds: float | None = None
    # Time to the first token, and from one token to the next.
    first_token_p50_seconds: float | None = None
    first_token_p99_seconds: float | None = None
    token_p50_seconds: float | None = None
    token_p99_seconds: float | None = None
    memory_bytes: int | None = None
    power_watts: float | None = None
    peak_power_watts: float | None = None
    # Of all devices for one unit of work.
    energy_joules_per_unit: float | None = None
    price_per_hour: float | None = None
    # What is run, where the workload's name says more than that.
    model: str = ""
    # How it is run: these make `ProfileKey.configuration`.
    batch_size: int | None = None
    concurrency: int | None = None
    request_rate: float | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    power_limit_watts: float | None = None
    # Anything else that makes it another run: "optimizer=adam".
    settings: str = ""
    # Tokens a second that one stream sees: never a throughput of the system.
    stream_throughput: float | None = None
    # A published or second-hand figure that nobody here could check.
    low_confidence: bool = False
    # What one run does on all devices: floating point operations, bytes to and from memory, seconds of work.
    operations: float | None = None
    bytes_moved: float | None = None
    busy_seconds: float | None = None
    # Of the operations by the precision of their operands, names rising; empty: all of `precision`.
    operations_by_precision: tuple[tuple[str, float], ...] = ()
    # Relative standard deviation of throughput.
    relative_uncertainty: float | None = None
    measured_at: datetime | None = None
    samples: int = 0
    # Raised by the store with each change; 0 is not stored yet.
    version: int = 0


CONFIGURATION = {
    "precision": "precision",
    "batch_size": "batch",
    "concurrency": "concurrency",
    "request_rate": "rate",
    "tensor_parallel": "tp",
    "pipeline_parallel": "pp",
    "data_parallel": "dp",
    "input_tokens": "in",
    "output_tokens": "out",
    "power_limit_watts": "cap",
    "settings": "",
}
"""Field and its short name in the configuration's text."""


def configuration_of(profile: Profile) -> str:
    """How the workload was run, in one fixed spelling: "precision=fp8 batch=64 tp=8"."""
    parts = []
    for field, short in CONFIGURATION.items():
        value = getattr(profile, field)
        if value is None or value == "":
            continue
        text = f"{value:.12g}" if isinstance(value, float) else str(value)
        parts.append(f"{short}={text}" if short else text)
    if stream_alone(profile):
        # A stream's speed must not take the place of the system's.
        parts.append("one-stream")
    if profile.provenance == Provenance.OBSERVED:
        # What was learnt here stands beside what was measured or imported, never in its place.
        parts.append("observed")
    return " ".join(parts)


def stream_alone(profile: Profile) -> bool:
    """Whether it says what one stream sees and nothing of the system."""
    return profile.stream_throughput is not None and profile.throughput is None


def best_fitting(profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Of several configurations of one workload, accelerator, devices and partner the one that speaks for them:
    sure before unsure, observed and measured before predicted, then the fastest. In the keys' order."""
    best: dict[ProfileKey, Profile] = {}
    for profile in profiles:
        key = replace(profile.key, configuration="")
        other = best.get(key)
        if other is None or _fit(profile) < _fit(other):
            best[key] = profile
    return tuple(best[key] for key in sorted(best))


def _fit(profile: Profile) -> tuple[bool, bool, int, float, str]:
    return (
        profile.throughput is None,
        profile.low_confidence,
        SUREST_FIRST.index(Provenance(profile.provenance)),
        -(profile.throughput or 0.0),
        profile.key.configuration,
    )


def rank(profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Fastest first; then those of which only a latency is known, quickest first; then the rest by key."""

    def order(profile: Profile) -> tuple[float, float, ProfileKey]:
        speed = -math.inf if profile.throughput is None else profile.throughput
        latency = math.inf if profile.latency_p99_seconds is None else profile.latency_p99_seconds
        return -speed, latency, profile.key

    return tuple(sorted(profiles, key=order))
