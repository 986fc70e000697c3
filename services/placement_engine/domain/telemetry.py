"""Pure rules that turn what a device said of itself into what a scheduler may rely on."""

from dataclasses import dataclass

from placement_engine.domain.model import DeviceSample
from placement_engine.domain.policy import Policy, UnknownPolicy

SOFTWARE_POWER_CAP = 0x4
BLOCKING_BITS = 0x8 | 0x20 | 0x40 | 0x80
"""Hardware slowdown, software thermal, hardware thermal, hardware power brake (NVML event reasons)."""


def heat_margin(sample: DeviceSample | None) -> float | None:
    """Degrees Celsius to slowdown: the device's own margin, else the least of core and memory. None: unknown.

    A memory temperature of 0 or less means there is no sensor.
    """
    if sample is None:
        return None
    if sample.margin_celsius is not None:
        return sample.margin_celsius
    margins = []
    if sample.slowdown_celsius is not None and sample.temperature_celsius is not None:
        margins.append(sample.slowdown_celsius - sample.temperature_celsius)
    memory = sample.memory_temperature_celsius
    if sample.memory_max_celsius is not None and memory is not None and memory > 0:
        margins.append(sample.memory_max_celsius - memory)
    return min(margins) if margins else None


@dataclass(slots=True)
class HeatTrend:
    """Where a device's margin goes: the last one known, its receive time, and a smoothed slope."""

    margin: float | None = None
    heard_at: float | None = None
    slope: float | None = None
    """Degrees a second, below 0 where it heats up; None: not known, as after a gap."""

    def add(self, margin: float, at: float, policy: Policy) -> None:
        """Exponential smoothing by elapsed time (a backward Euler step), so irregular intervals weigh what they
        last. It starts from rest: sensors tell whole degrees, and a single step of one says little."""
        if self.margin is not None and self.heard_at is not None:
            seconds = at - self.heard_at
            if seconds > policy.telemetry_gap_seconds:
                self.slope = None
            elif seconds > 0:
                slope = self.slope or 0.0
                weight = seconds / (seconds + policy.heat_slope_seconds)
                self.slope = slope + weight * ((margin - self.margin) / seconds - slope)
        self.margin, self.heard_at = margin, at

    def forecast(self, policy: Policy) -> float | None:
        """The margin the policy's horizon ahead, never above the present one."""
        if self.margin is None or self.slope is None or self.slope >= 0:
            return self.margin
        return self.margin + self.slope * policy.heat_forecast_seconds


def takes_heat(margin: float | None, was_cool: bool, policy: Policy) -> bool:
    """Whether a device takes new work: once below the floor, only from floor + hysteresis again."""
    if margin is None:
        return policy.unknown_heat is not UnknownPolicy.REFUSE
    floor = policy.heat_floor_celsius
    return margin >= (floor if was_cool else floor + policy.heat_hysteresis_celsius)


def heat_score(margin: float | None, throttle_bits: int | None, policy: Policy, *, worn: bool = False) -> float:
    """0..1 in steps of 1/16, so that a flicker of a degree is no change. 30 degrees above the floor is 1; a
    software power cap or worn memory halves it."""
    if margin is None:
        value = 0.25 if policy.unknown_heat is UnknownPolicy.PENALISE else 0.5
    else:
        value = min(max((margin - policy.heat_floor_celsius) / 30.0, 0.0), 1.0)
    if worn or (throttle_bits or 0) & SOFTWARE_POWER_CAP:
        value *= 0.5
    return round(value * 16) / 16


def blocking_throttle(sample: DeviceSample | None) -> bool:
    return sample is not None and bool((sample.throttle_bits or 0) & BLOCKING_BITS)


@dataclass(slots=True)
class Draw:
    """Exponentially weighted mean and variance of a power draw, in W. `mean` None: never heard."""

    mean: float | None = None
    variance: float = 0.0

    def add(self, watts: float, alpha: float) -> None:
        if self.mean is None:
            self.mean = watts
            return
        step = watts - self.mean
        self.mean += alpha * step
        self.variance = (1 - alpha) * (self.variance + alpha * step * step)

    def upper(self, sigma: float) -> float | None:
        """Mean + sigma deviations, W."""
        return None if self.mean is None else self.mean + sigma * float(self.variance**0.5)
