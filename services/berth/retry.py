"""Exponential back-off with full jitter: bounded, and never in step with other instances."""

import random
from collections.abc import Iterator

__all__ = ["delays"]


def delays(
    *, first: float = 0.05, factor: float = 2.0, longest: float = 5.0, attempts: int | None = None
) -> Iterator[float]:
    """Seconds to wait before each further try; endless where `attempts` is None.

    Each delay is uniform between half and all of the exponential bound.
    """
    bound = first
    count = 0
    while attempts is None or count < attempts:
        yield bound * (0.5 + random.random() / 2)
        bound = min(bound * factor, longest)
        count += 1
