"""What a profile must be before it is stored: a figure that cannot be true would steer placements for everybody."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from berth.catalogue import Accelerator
from berth.errors import FieldError, InvalidInput
from profile_store.domain.profile import (
    CONFIGURATION,
    THROUGHPUT_UNITS,
    Profile,
    ProfileKey,
    Provenance,
    configuration_of,
    stream_alone,
)

__all__ = ["MAX_NAME", "SUM_TOLERANCE", "Catalogue", "encodable", "known_accelerator", "validate"]

MAX_DEVICES = 1_000_000
MAX_NAME = 200
MAX_TEXT = 500
MAX_ERRORS = 20
# A vendor's 80 GB is up to 80 GiB on the device.
MEMORY_TOLERANCE = 1.1
SUM_TOLERANCE = 1.01
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


class Catalogue(Protocol):
    """What the domain asks of the accelerator catalogue."""

    def resolve(self, reported_name: str) -> Accelerator | None: ...

    def nearest(self, name: str) -> list[str]: ...


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
                low_confidence=profile.low_confidence or stream_alone(profile),
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
        self._shares(profile)
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

    def _shares(self, profile: Profile) -> None:
        for name, value in profile.operations_by_precision:
            field = f"operations_by_precision[{encodable(name)[:MAX_NAME]}]"
            if not name.isprintable() or not 1 <= len(name) <= MAX_NAME:
                self._wrong(field, name, f"name the precision in 1 to {MAX_NAME} printable characters")
            self._amount(field, value, AMOUNTS["operations"], zero=True)
        total = sum(value for _, value in profile.operations_by_precision)
        most = profile.operations or 0.0
        if total > most * SUM_TOLERANCE:
            self._wrong("operations_by_precision", total, f"at most all operations, {most:g}")

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
