"""Numbers with suffixes, as a person writes them."""

import math
import re
from typing import Any

from berth.errors import InvalidInput

__all__ = ["parse_duration", "parse_quantity"]

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_SCALE = {
    None: 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_quantity(field: str, value: Any) -> float:
    """A number with an SI or binary suffix: 0.5, "500m", "40Gi". Raises InvalidInput."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    else:
        match = _QUANTITY.fullmatch(str(value).strip())
        if match is None:
            raise InvalidInput.of(field, value, "write a number with an optional suffix, such as 500m, 4, 40Gi")
        number = float(match[1]) * _SCALE[match[2]]
    if not math.isfinite(number) or number < 0 or number >= 2.0**62:
        raise InvalidInput.of(field, value, "write a number from 0 to 4Ei")
    return number


def parse_duration(field: str, value: Any) -> float:
    """Seconds, from a number or "90s", "1h30m", "200ms". Raises InvalidInput."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip()
        if not text or _DURATION_PART.sub("", text):
            raise InvalidInput.of(
                field, value, "write a duration such as 200ms, 90s, 1h30m: units are us, ms, s, m, h, d"
            )
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if not math.isfinite(seconds) or seconds <= 0 or seconds > 10 * 365 * 86400:
        raise InvalidInput.of(field, value, "write a duration above 0 and up to ten years")
    return seconds
