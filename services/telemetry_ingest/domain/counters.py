"""Rates of cumulative counters between two looks. Time is handed in, monotonic, in seconds."""

from dataclasses import dataclass, field

from telemetry_ingest.domain.exposition import PageReader

__all__ = ["Counters"]


@dataclass(slots=True)
class _Point:
    time: float
    value: float
    stood_still: bool = False


@dataclass(slots=True)
class Counters:
    """What is kept of one target between its pages: each counter's last value, and how the page looked."""

    readers: dict[str, PageReader] = field(default_factory=dict)
    _points: dict[str, _Point] = field(default_factory=dict)

    def rate(self, key: str, value: float, now: float) -> float | None:
        """Units a second since the last look; None at the first look and after a reset or no time passed."""
        point = self._points.get(key)
        if point is None or now <= point.time or value < point.value:
            if point is None or value < point.value:
                self._points[key] = _Point(now, value)
            return None
        self._points[key] = _Point(now, value)
        return (value - point.value) / (now - point.time)

    def fresh_rate(self, key: str, value: float, now: float) -> float | None:
        """Like `rate`, for exporters that serve a cached page.

        A counter that stands still says that the page is old, not that the rate is 0: None then, and None at
        the next step too, since the moment of that step is not known.
        """
        point = self._points.get(key)
        if point is None or value < point.value:
            self._points[key] = _Point(now, value)
            return None
        if now <= point.time:
            return None
        if value == point.value:
            point.stood_still = True
            return None
        self._points[key] = _Point(now, value)
        return None if point.stood_still else (value - point.value) / (now - point.time)

    def rose(self, key: str, value: float, now: float) -> bool | None:
        """Whether the counter rose since the last look; None where there was none."""
        rate = self.rate(key, value, now)
        return None if rate is None else rate > 0
