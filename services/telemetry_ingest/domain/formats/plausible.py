"""What of a raw value is a reading. Sentinels, NaN, infinities and impossible values are unknown."""

import math

__all__ = ["celsius", "count", "finite", "mib", "ratio", "sensor_celsius", "size", "watts"]

MIB = 1 << 20
LONGEST_MEMORY = 1 << 50


def finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def celsius(value: float | None) -> float | None:
    """Degrees Celsius between -40 and 250."""
    return None if value is None or not -40.0 <= value <= 250.0 else value


def sensor_celsius(value: float | None) -> float | None:
    """The same, where 0 means that there is no sensor."""
    return None if value == 0 else celsius(value)


def watts(value: float | None) -> float | None:
    """W between 0 and 100,000 (a wafer-scale system draws some 23,000)."""
    return None if value is None or not 0.0 <= value <= 100_000.0 else value


def ratio(value: float | None, whole: float = 1.0) -> float | None:
    """A share of `whole` as 0..1; up to 1 % of rounding above the whole is cut off."""
    if value is None or not 0.0 <= value <= whole * 1.01:
        return None
    return min(value / whole, 1.0)


def size(value: float | None) -> int | None:
    """Bytes, up to 1 PiB."""
    return None if value is None or not 0.0 <= value <= LONGEST_MEMORY else int(value)


def mib(value: float | None) -> int | None:
    """MiB to bytes. DCGM's blanks (2147483632, 140737488355328, 9223372036854775794 and near) are too large."""
    return None if value is None or not 0.0 <= value < 0x7FFFFFF0 else int(value * MIB)


def count(value: float | None) -> int | None:
    """A code or a bit set, below DCGM's 32-bit blanks."""
    return None if value is None or not 0.0 <= value < 0x7FFFFFF0 else int(value)
