"""A profile: what one workload was seen to do on one kind of chip in one configuration.

Figures that nobody knows are None. A figure that cannot be true is refused here, before it is stored: it would
steer placements for everybody.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Protocol

from berth.catalogue import Accelerator
from berth.errors import FieldError, InvalidInput

__all__ = [
    "CONFIGURATION",
    "PREDICTED",
    "SEEN",
    "SUREST_FIRST",
    "THROUGHPUT_UNITS",
    "Catalogue",
    "Profile",
    "ProfileKey",
    "Provenance",
    "best_fitting",
    "configuration_of",
    "encodable",
    "known_accelerator",
    "rank",
    "validate",
]

THROUGHPUT_UNITS = ("steps/s", "tokens/s", "samples/s", "queries/s", "epochs/s")
MAX_DEVICES = 1_000_000
MAX_NAME = 200
MAX_TEXT = 500
MAX_ERRORS = 20
# A vendor's 80 GB is up to 80 GiB on the device.
MEMORY_TOLERANCE = 1.1
# Draw may pass the TDP for moments, never by this much.
POWER_TOLERANCE = 2.0
LATENCIES = (
    "latency_mean_seconds",
    "latency_p50_seconds",
    "latency_p90_seconds",
    "latency_p95_seconds",
    "latency_p99_seconds",
    "latency_p99_high_seconds",
    "first_token_p50_seconds",
    "first_token_p99_seconds",
    "token_p50_seconds",
    "token_p99_seconds",
)
ORDERED = (
    ("latency_p50_seconds", "latency_p90_seconds"),
    ("latency_p90_seconds", "latency_p95_seconds"),
    ("latency_p95_seconds", "latency_p99_seconds"),
    ("latency_p50_seconds", "latency_p99_seconds"),
    ("latency_p99_seconds", "latency_p99_high_seconds"),
    ("first_token_p50_seconds", "first_token_p99_seconds"),
    ("token_p50_seconds", "token_p99_seconds"),
)
AMOUNTS = {
    "batch_size": 1e9,
    "concurrency": 1e9,
    "request_rate": 1e9,
    "tensor_parallel": 1e6,
    "pipeline_parallel": 1e6,
    "data_parallel": 1e6,
    "input_tokens": 1e9,
    "output_tokens": 1e9,
    "power_limit_watts": 1e5,
    "stream_throughput": 1e6,
    "energy_joules_per_unit": 1e15,
    "operations": 1e30,
    "bytes_moved": 1e24,
    "busy_seconds": 1e8,
}
"""Field and the most that can be true."""
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


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


class Catalogue(Protocol):
    """What the domain asks of the accelerator catalogue."""

    def resolve(self, reported_name: str) -> Accelerator | None: ...

    def nearest(self, name: str) -> list[str]: ...


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
    # The contract's number; 0 is unspecified, which `validate` refuses.
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
    if _stream_alone(profile):
        # A stream's speed must not take the place of the system's.
        parts.append("one-stream")
    if profile.provenance == Provenance.OBSERVED:
        # What was learnt here stands beside what was measured or imported, never in its place.
        parts.append("observed")
    return " ".join(parts)


def _stream_alone(profile: Profile) -> bool:
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


def known_accelerator(catalogue: Catalogue, name: str, field: str = "accelerator") -> Accelerator:
    """The catalogue's entry of a name or alias. Raises InvalidInput with the nearest names."""
    entry = catalogue.resolve(name)
    if entry is None:
        near = catalogue.nearest(name)
        hint = f"did you mean {', '.join(near)}?" if near else "`berth get accelerators` lists them"
        raise InvalidInput.of(field, name, f"not in the accelerator catalogue; {hint}")
    return entry


def validate(
    profiles: Sequence[Profile], catalogue: Catalogue, *, now: datetime, places: Sequence[str] = ()
) -> tuple[Profile, ...]:
    """The profiles under the catalogue's own names, each key once, in the keys' order. `places`: where each stands
    in its document, for the errors.

    Raises InvalidInput with up to 20 errors; then none of the profiles is good to store.
    """
    errors: list[FieldError] = []
    sound: dict[ProfileKey, Profile] = {}
    for index, profile in enumerate(profiles):
        place = f"{places[index]}." if places else f"profiles[{index}]." if len(profiles) > 1 else ""
        check = _Check(place)
        entry = check.profile(profile, catalogue, now)
        errors.extend(check.errors)
        if entry is not None:
            configuration = configuration_of(profile)
            named = replace(
                profile,
                key=replace(profile.key, accelerator=entry.name, configuration=configuration),
                # What a provider publishes of one stream, nobody here can check.
                low_confidence=profile.low_confidence or _stream_alone(profile),
            )
            earlier = sound.setdefault(named.key, named)
            if earlier != named:
                errors.append(
                    FieldError(f"{check.prefix}key", str(named.key), "stands twice with other figures: keep one")
                )
        if len(errors) >= MAX_ERRORS:
            break
    if errors:
        raise InvalidInput(errors[:MAX_ERRORS])
    return tuple(sound[key] for key in sorted(sound))


class _Check:
    """Collects what is wrong with one profile."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.errors: list[FieldError] = []

    def profile(self, profile: Profile, catalogue: Catalogue, now: datetime) -> Accelerator | None:
        """The profile's accelerator; None where anything is wrong."""
        key = profile.key
        entry: Accelerator | None = None
        self._name("workload", key.workload)
        if key.co_located_with:
            self._name("co_located_with", key.co_located_with)
        try:
            entry = known_accelerator(catalogue, key.accelerator, f"{self.prefix}accelerator")
        except InvalidInput as error:
            self.errors.extend(error.errors)
        if not 1 <= key.devices <= MAX_DEVICES:
            self._wrong("devices", key.devices, f"a whole number from 1 to {MAX_DEVICES}")
        if profile.provenance not in tuple(Provenance):
            names = ", ".join(one.name.lower() for one in Provenance if one is not Provenance.OBSERVED)
            self._wrong("provenance", profile.provenance, f"say where the figures come from: {names}")
        self._texts(profile)
        self._figures(profile, entry)
        self._origin(profile, now)
        return None if self.errors else entry

    def _texts(self, profile: Profile) -> None:
        if not profile.source.strip():
            self._wrong("source", profile.source, "name the benchmark, page or person")
        for field in ("task", "precision", "software_stack", "source", "model", "settings"):
            text: str = getattr(profile, field)
            limit = MAX_TEXT if field == "source" else MAX_NAME
            if "|" in text and field in CONFIGURATION:
                self._wrong(field, text, "leave '|' out: it stands between the parts of a key")
            if len(text) > limit or not text.isprintable():
                self._wrong(field, text, f"at most {limit} printable characters")

    def _figures(self, profile: Profile, entry: Accelerator | None) -> None:
        memory = tdp = None
        if entry is not None:
            # An RDU's memory has tiers beyond the one that the catalogue counts.
            memory = entry.memory_bytes if entry.device_class == "GPU" else None
            tdp = entry.tdp_watts if entry.device_class == "GPU" else None
        self._amount("throughput", profile.throughput, 1e12)
        if profile.throughput is not None and profile.throughput_unit not in THROUGHPUT_UNITS:
            self._wrong("throughput_unit", profile.throughput_unit, f"one of {', '.join(THROUGHPUT_UNITS)}")
        if profile.throughput is None and profile.throughput_unit:
            self._wrong("throughput_unit", profile.throughput_unit, "leave it out where throughput is unknown")
        for latency in LATENCIES:
            self._amount(latency, getattr(profile, latency), 86400.0)
        for field, most in AMOUNTS.items():
            self._amount(field, getattr(profile, field), most)
        self._amount("memory_bytes", profile.memory_bytes, memory * MEMORY_TOLERANCE if memory else 1e14)
        watts = tdp * POWER_TOLERANCE if tdp else 1e5
        self._amount("power_watts", profile.power_watts, watts)
        self._amount("peak_power_watts", profile.peak_power_watts, watts)
        self._amount("price_per_hour", profile.price_per_hour, 1e5, zero=True)
        self._amount("relative_uncertainty", profile.relative_uncertainty, 10.0, zero=True)
        for lower, higher in ORDERED:
            name = lower.removesuffix("_seconds").rpartition("_")[2]
            self._ordered(higher, getattr(profile, higher), getattr(profile, lower), name)
        shares = (profile.tensor_parallel or 1) * (profile.pipeline_parallel or 1) * (profile.data_parallel or 1)
        if shares > max(1, profile.key.devices):
            self._wrong("devices", profile.key.devices, f"at least tp x pp x dp, which is {shares}")
        self._ordered("peak_power_watts", profile.peak_power_watts, profile.power_watts, "mean draw")
        if all(
            figure is None
            for figure in (
                profile.throughput,
                profile.memory_bytes,
                profile.power_watts,
                profile.peak_power_watts,
                profile.stream_throughput,
                profile.operations,
                profile.busy_seconds,
                profile.energy_joules_per_unit,
                *(getattr(profile, latency) for latency in LATENCIES),
            )
        ):
            self._wrong("throughput", "absent", "give at least one of throughput, latency, memory and power")

    def _origin(self, profile: Profile, now: datetime) -> None:
        if not 0 <= profile.samples < 2**53:
            self._wrong("samples", profile.samples, "a count of 0 or more")
        moment = profile.measured_at
        # A day of tolerance: clocks of benchmark machines are off, and time zones get lost.
        if moment is not None and not EARLIEST <= moment <= now + timedelta(days=1):
            self._wrong("measured_at", moment.isoformat(), "a time between the year 2000 and now")

    def _name(self, field: str, text: str) -> None:
        if not 1 <= len(text) <= MAX_NAME or not text.isprintable() or "|" in text or text != text.strip():
            self._wrong(field, text, f"1 to {MAX_NAME} printable characters, no '|', no space at either end")

    def _amount(self, field: str, value: float | None, most: float, *, zero: bool = False) -> None:
        if value is None:
            return
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero) or value > most:
            least = "from 0" if zero else "above 0"
            self._wrong(field, value, f"a number {least} up to {most:g}; leave it out where it is unknown")

    def _ordered(self, field: str, larger: float | None, smaller: float | None, name: str) -> None:
        if larger is not None and smaller is not None and larger < smaller:
            self._wrong(field, larger, f"at least the {name}, which is {smaller:g}")

    def _wrong(self, field: str, value: object, remedy: str) -> None:
        self.errors.append(FieldError(self.prefix + field, encodable(str(value)), remedy))


def encodable(text: str) -> str:
    """The text with lone surrogates, which JSON and YAML can smuggle in, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def rank(profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Fastest first; then those of which only a latency is known, quickest first; then the rest by key."""

    def order(profile: Profile) -> tuple[float, float, ProfileKey]:
        speed = -math.inf if profile.throughput is None else profile.throughput
        latency = math.inf if profile.latency_p99_seconds is None else profile.latency_p99_seconds
        return -speed, latency, profile.key

    return tuple(sorted(profiles, key=order))
