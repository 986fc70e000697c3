"""Kubernetes quantities and semantic versions, exactly: the real API compares them without rounding."""

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Version", "parse_quantity", "parse_version"]

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+|)\Z"
)
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
LONGEST = 64


def parse_quantity(text: str) -> Fraction:
    """ "1.5Gi" as a number. Raises ValueError that names what is wrong."""
    found = _QUANTITY.match(text) if len(text) <= LONGEST else None
    if found is None:
        raise ValueError(f"{text!r} is no quantity: a number with one of the units n u m k M G T P E Ki Mi Gi Ti Pi Ei")
    number, unit = Fraction(found["number"]), found["unit"]
    if unit in _BINARY:
        return number * (1 << _BINARY[unit])
    if unit in _DECIMAL:
        return number * Fraction(10) ** _DECIMAL[unit]
    exponent = int(unit[1:])
    if abs(exponent) > LONGEST:
        raise ValueError(f"{text!r} is no quantity: its exponent is beyond {LONGEST}")
    return number * Fraction(10) ** exponent


_VERSION = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?\Z"
)


@dataclass(frozen=True, slots=True)
class Version:
    """Semantic version 2.0. Build metadata counts for nothing in a comparison, and is not kept."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    def __str__(self) -> str:
        tail = f"-{'.'.join(self.pre)}" if self.pre else ""
        return f"{self.major}.{self.minor}.{self.patch}{tail}"

    @property
    def order(self) -> tuple[object, ...]:
        """What versions sort by: a pre-release is below its release, numbers are below words."""
        parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, parts)


def parse_version(text: str, *, normalise: bool = False) -> Version:
    """`normalise`: "v1.2" is taken as 1.2.0. Raises ValueError."""
    if normalise:
        core, mark, rest = _split(text.removeprefix("v"))
        numbers = [part.lstrip("0") or "0" if part.isdigit() else part for part in core.split(".")]
        text = ".".join([*numbers, "0", "0"][: max(3, len(numbers))]) + mark + rest
    found = _VERSION.match(text)
    pre = tuple(found[4].split(".")) if found is not None and found[4] else ()
    if found is None or any(not part or (part.isdigit() and part != "0" and part[0] == "0") for part in pre):
        raise ValueError(f"{text!r} is no semantic version, such as 1.2.3 or 1.2.3-rc.1")
    return Version(int(found[1]), int(found[2]), int(found[3]), pre)


def _split(text: str) -> tuple[str, str, str]:
    for position, letter in enumerate(text):
        if letter in "-+":
            return text[:position], letter, text[position + 1 :]
    return text, "", ""
