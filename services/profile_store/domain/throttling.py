"""When each device was slowed down by heat or power, as far as telemetry told. Pure, in memory.

What is lost at a restart is unknown, not clear: of a span that began before the watch did, or on a node of which
nothing was heard since, nobody can say that it was not throttled.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from profile_store.domain.learning import Watched

__all__ = ["Reported", "ThrottleWatch"]

SLOWED: Final = 0x8 | 0x20 | 0x40 | 0x80
"""Hardware slowdown, software and hardware thermal, power brake: as the engine keeps work away from."""
POWER_CAP: Final = 0x4
LOWERED: Final = 0.95
"""A card at its own power limit is the card; one whose limit was set below this part of the TDP is throttled."""
APART_SECONDS: Final = 60.0
EPISODES: Final = 16


@dataclass(frozen=True, slots=True)
class Reported:
    """One device as telemetry told: throttle bits as in DeviceSample; None is unknown."""

    device_id: str
    throttle_bits: int | None
    power_limit_watts: float | None = None


@dataclass(slots=True)
class _Episode:
    first: float
    last: float
    limit_watts: float | None
    """Of a power cap alone; None: slowed down whatever its limit."""


class ThrottleWatch:
    """Times in seconds since the epoch, by the clock that received the telemetry."""

    def __init__(self) -> None:
        self._heard: dict[str, list[float]] = {}
        self._episodes: dict[str, list[_Episode]] = {}

    def hear(self, at: float, devices: Iterable[Reported]) -> None:
        for device in devices:
            if device.throttle_bits is None:
                continue
            times = self._heard.setdefault(device.device_id, [at, at])
            if at - times[1] > APART_SECONDS:
                times[0] = at  # nobody knows what was in between
            times[1] = max(times[1], at)
            if device.throttle_bits & SLOWED:
                self._slowed(device.device_id, at, None)
            elif device.throttle_bits & POWER_CAP and device.power_limit_watts is not None:
                self._slowed(device.device_id, at, device.power_limit_watts)

    def _slowed(self, device_id: str, at: float, limit: float | None) -> None:
        episodes = self._episodes.setdefault(device_id, [])
        for one in episodes:
            # Not the last one alone: heat and a power cap may take turns.
            if one.limit_watts == limit and one.first - APART_SECONDS <= at <= one.last + APART_SECONDS:
                one.first, one.last = min(one.first, at), max(one.last, at)
                return
        episodes.append(_Episode(at, at, limit))
        if len(episodes) > EPISODES:
            dropped = min(episodes, key=lambda one: one.last)
            episodes.remove(dropped)
            # Of a span that it touches nobody can say any more that it was clear.
            times = self._heard[device_id]
            times[0] = max(times[0], math.nextafter(dropped.last + APART_SECONDS, math.inf))

    def during(self, device_ids: Iterable[str], start: float, end: float, tdp_watts: float | None) -> Watched:
        """THROTTLED where any of the devices was; CLEAR where telemetry of all covers the span but for its ends."""
        ids = list(device_ids)
        for device_id in ids:
            for one in self._episodes.get(device_id, ()):
                lowered = one.limit_watts is None or (tdp_watts is not None and one.limit_watts < LOWERED * tdp_watts)
                if lowered and one.first <= end and one.last >= start:
                    return Watched.THROTTLED
        heard: Mapping[str, list[float]] = self._heard
        covered = all(
            device_id in heard
            and heard[device_id][0] <= start + APART_SECONDS
            and heard[device_id][1] >= end - APART_SECONDS
            and heard[device_id][0] <= end
            for device_id in ids
        )
        return Watched.CLEAR if ids and covered else Watched.UNKNOWN
