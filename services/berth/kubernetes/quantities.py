"""Quantities as Kubernetes writes them: "500m", "1.5Gi", "12E", "2e3", "100n", exactly.

The grammar is that of the API (k8s.io/apimachinery, resource.Quantity): an optional sign, a decimal number, and a
binary suffix, a decimal one or an exponent of ten. "1E" is an exa, "1E3" a thousand.
"""

import math
import re
from fractions import Fraction
from typing import Any

from berth.errors import InvalidInput

__all__ = ["LARGEST", "milli_at_least", "milli_at_most", "parse_quantity", "units_at_least", "units_at_most"]

LARGEST = 2**63 - 1
"""Of what does not fit, Kubernetes keeps so much."""

_WRITTEN = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d{1,9})?")
_SCALE = {
    "": Fraction(1),
    **{suffix: Fraction(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate(("n", "u", "m"), -3)},
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
}
# Beyond these a number is more than LARGEST, or less than a nano whatever stands before the exponent.
_LARGEST_EXPONENT = 400


def parse_quantity(field: str, value: Any) -> Fraction:
    """The exact number. Raises InvalidInput."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value)
    text = value if isinstance(value, str) else repr(value)
    match = _WRITTEN.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        raise InvalidInput.of(field, value, "write a Kubernetes quantity, such as 500m, 4, 40Gi or 2e3")
    sign, number, suffix = match[1], match[2], match[3] or ""
    if suffix in _SCALE:
        scale = _SCALE[suffix]
    else:
        exponent = max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, int(suffix[1:])))
        scale = Fraction(10) ** exponent
    whole, _, fraction = number.partition(".")
    amount = Fraction(int((whole + fraction) or "0"), 10 ** len(fraction)) * scale
    return -amount if sign == "-" else amount


def units_at_least(field: str, value: Any) -> int:
    """Whole units, rounded up: what a request takes. Raises InvalidInput."""
    return _bounded(math.ceil(parse_quantity(field, value)))


def units_at_most(field: str, value: Any) -> int:
    """Whole units, rounded down: what there is. Raises InvalidInput."""
    return _bounded(math.floor(parse_quantity(field, value)))


def milli_at_least(field: str, value: Any) -> int:
    """Thousandths, rounded up: what a request takes. Raises InvalidInput."""
    return _bounded(math.ceil(parse_quantity(field, value) * 1000))


def milli_at_most(field: str, value: Any) -> int:
    """Thousandths, rounded down: what there is. Raises InvalidInput."""
    return _bounded(math.floor(parse_quantity(field, value) * 1000))


def _bounded(number: int) -> int:
    return max(-LARGEST, min(LARGEST, number))
