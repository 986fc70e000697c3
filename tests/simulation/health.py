"""The oracle's own book of what telemetry said of each device, and for how long that keeps work away."""

from dataclasses import dataclass

from placement_engine.domain.model import DeviceSample
from placement_engine.domain.policy import Policy

__all__ = ["BLOCKING_THROTTLE", "Health"]

BLOCKING_THROTTLE = 0x8 | 0x20 | 0x40 | 0x80


@dataclass(slots=True)
class Health:
    """Of one device, since the core last started: what it knew before is lost with it."""

    reading: DeviceSample | None = None
    margin: float | None = None
    at: float | None = None
    slope: float = 0.0
    hot: bool = False
    faulty: bool = False
    """Cordoned after a fault, and not stated well for long enough since."""
    by_error: bool = False
    """The fault was an error code."""
    well_since: float | None = None
    spoke_at: float | None = None

    def hear(self, reading: DeviceSample, at: float, policy: Policy) -> None:
        self.reading = reading
        if reading.margin_celsius is not None:
            self._heat(reading.margin_celsius, at, policy)
        if self.spoke_at is not None and at - self.spoke_at > policy.telemetry_gap_seconds:
            self.well_since = None
        self.spoke_at = at
        if is_faulty(reading):
            self.by_error = bool(reading.error_code) if not self.faulty else self.by_error
            self.faulty, self.well_since = True, None
        elif self.faulty:
            stated = reading.error_code == 0 if self.by_error else reading.healthy is True
            if not stated:
                self.well_since = None
            elif self.well_since is None:
                self.well_since = at
            if self.well_since is not None and at - self.well_since >= policy.cordon_clear_seconds:
                self.faulty = False

    def _heat(self, margin: float, at: float, policy: Policy) -> None:
        """The margin where its smoothed slope leads within the policy's horizon, if it falls."""
        if self.margin is not None and self.at is not None:
            seconds = at - self.at
            if seconds > policy.telemetry_gap_seconds:
                self.slope = 0.0
            elif seconds > 0:
                part = seconds / (seconds + policy.heat_slope_seconds)
                self.slope = (1 - part) * self.slope + part * (margin - self.margin) / seconds
        self.margin, self.at = margin, at
        ahead = margin + min(self.slope, 0.0) * policy.heat_forecast_seconds
        if ahead < policy.heat_floor_celsius - 1e-9:
            self.hot = True
        elif ahead >= policy.heat_floor_celsius + policy.heat_hysteresis_celsius - 1e-9:
            self.hot = False

    def why_not(self) -> str:
        """What keeps new work away; "" is nothing."""
        if self.hot:
            return f"too hot, or heating up: margin {self.margin}, {self.slope:+.2f} a second"
        if self.reading is not None and (self.reading.throttle_bits or 0) & BLOCKING_THROTTLE:
            return "throttled"
        if self.reading is not None and is_faulty(self.reading):
            return "unhealthy"
        return "cordoned after a fault" if self.faulty else ""


def is_faulty(reading: DeviceSample) -> bool:
    """79, the one error that histories have, is a fault of any device."""
    return reading.healthy is False or bool(reading.error_code)
