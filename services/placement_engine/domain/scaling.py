"""Speed over the number of devices: between measured counts and beyond them.

Between two counts a power law through both (a straight line in logarithms). Beyond them the power law
that fits all counts best, its exponent at most 0.95 and taken down by a tenth outwards, because the
efficiency of more devices keeps falling. One count alone: the exponent 0.85, the median of the training
jobs in Gavel's tables (OSDI'20) being 0.83 from one to eight devices. Checked there by leaving one count
out: tests/unit/placement_engine/domain/test_estimates_on_real_data.py.
"""

import math
from collections.abc import Collection, Mapping

LONE_EXPONENT = 0.85
MOST_EXPONENT = 0.95
OUTWARD = 0.9
UNCERTAINTY_PER_DOUBLING = 0.10
LONE_UNCERTAINTY_PER_DOUBLING = 0.15


def at_count(measured: Mapping[int, float], devices: int) -> float:
    """The value at `devices`; `measured` has at least one count, all values above 0."""
    if devices in measured:
        return measured[devices]
    below = max((n for n in measured if n < devices), default=None)
    above = min((n for n in measured if n > devices), default=None)
    if below is not None and above is not None:
        return _along(measured[below], devices / below, _slope({n: measured[n] for n in (below, above)}))
    if below is not None:
        slope = exponent(measured) * (OUTWARD if len(measured) > 1 else 1.0)
        return _along(measured[below], devices / below, slope)
    assert above is not None
    return _along(measured[above], devices / above, exponent(measured))


def exponent(measured: Mapping[int, float]) -> float:
    """How speed grows beyond the counts: 1 is linear, 0 not at all."""
    if len(measured) < 2:
        return LONE_EXPONENT
    return min(max(_slope(measured), 0.0), MOST_EXPONENT)


def uncertainty(counts: Collection[int], devices: int) -> float:
    """Relative, for the distance to the nearest measured count alone."""
    doublings = min(abs(math.log2(devices / n)) for n in counts)
    return doublings * (UNCERTAINTY_PER_DOUBLING if len(counts) > 1 else LONE_UNCERTAINTY_PER_DOUBLING)


def _along(value: float, ratio: float, slope: float) -> float:
    return float(value * ratio**slope)


def _slope(points: Mapping[int, float]) -> float:
    """Least squares in logarithms."""
    x = [math.log(n) for n in sorted(points)]
    y = [math.log(points[n]) for n in sorted(points)]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
