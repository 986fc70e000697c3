"""Repeats a call until its mean is sure enough, and what the repetitions say together."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Timing", "percentile", "repeat", "spread_of"]

FEWEST, MOST = 5, 100_000
NINETY = 1.645
BLOCKS = 10


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each call, in order. `half_width`: of the mean's 90 % interval, relative; `tight`: as tight as asked,
    not ended by the time limit."""

    seconds: tuple[float, ...]
    half_width: float
    tight: bool


def repeat(
    call: Callable[[], object],
    *,
    warmups: int,
    tolerance: float,
    limit_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """At least FEWEST calls, however long they take; then until the mean's interval is within `tolerance`."""
    for _ in range(warmups):
        call()
    end = clock() + limit_seconds
    seconds: list[float] = []
    check = FEWEST
    while True:
        start = clock()
        call()
        now = clock()
        seconds.append(now - start)
        if len(seconds) < FEWEST:
            continue
        if now >= end or len(seconds) >= MOST:
            width = half_width(seconds)
            return Timing(tuple(seconds), width, width <= tolerance)
        if len(seconds) >= check:
            # Looked at ever more rarely: looking costs time too.
            check = math.ceil(check * 1.2)
            width = half_width(seconds)
            if width <= tolerance:
                return Timing(tuple(seconds), width, tight=True)


def half_width(seconds: Sequence[float]) -> float:
    """Of the mean's 90 % interval, relative to it."""
    mean = statistics.fmean(seconds)
    return NINETY * statistics.stdev(seconds) / math.sqrt(len(seconds)) / mean if mean > 0 else math.inf


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread_of(seconds: Sequence[float]) -> float | None:
    """Relative standard deviation of throughput from one block of calls to the next; None for fewer than two."""
    blocks = min(BLOCKS, len(seconds) // 2)
    if blocks < 2:
        return None
    ends = [round(len(seconds) * number / blocks) for number in range(blocks + 1)]
    rates = [(b - a) / sum(seconds[a:b]) for a, b in itertools.pairwise(ends)]
    return statistics.stdev(rates) / statistics.fmean(rates)
