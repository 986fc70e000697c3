"""What a format needs besides the page's lines."""

from dataclasses import dataclass

from telemetry_ingest.domain.counters import Counters

__all__ = ["Context", "first", "index_of", "index_order"]


@dataclass(frozen=True, slots=True)
class Context:
    """`now`: monotonic seconds at which the page was received; `counters`: the target's memory."""

    node: str
    now: float
    counters: Counters


def first(*values: float | None) -> float | None:
    """The first that is known."""
    for value in values:
        if value is not None:
            return value
    return None


def index_of(text: str) -> int | None:
    """The device's index on the node, from labels such as "3", "gpu3", "card3", "accel3" or "nvidia3"."""
    digits = text.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-")
    return int(digits) if digits.isdecimal() and len(digits) < 7 else None


def index_order(text: str) -> tuple[int, str]:
    """Sorts numbers by value, then the rest by text."""
    index = index_of(text)
    return (index if index is not None else 1 << 30, text)
