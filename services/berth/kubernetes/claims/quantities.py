"""Kubernetes quantities and semantic versions, exactly: the real API compares them without rounding."""

import re
from dataclasses import dataclass
from fractions import Fraction

from berth.errors import InvalidInput
from berth.kubernetes import quantities

__all__ = ["Version", "parse_quantity", "parse_version"]


def parse_quantity(text: str) -> Fraction:
    """ "1.5Gi" as a number. Raises ValueError that names what is wrong."""
    try:
        return quantities.parse_quantity("quantity", text)
    except InvalidInput as error:
        raise ValueError(str(error)) from error


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
