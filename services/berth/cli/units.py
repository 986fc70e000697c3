"""Quantities as a person reads them. Unknown is `-`, never zero."""

from berth.cli import clock

__all__ = ["UNKNOWN", "age", "bytes_of", "celsius", "cores", "duration", "percent", "seconds_of", "timestamp", "watts"]

UNKNOWN = "-"


def duration(seconds: float | None) -> str:
    """0.0000042 -> "4.2us", 0.25 -> "250ms", 3.2 -> "3.2s", 190 -> "3m10s", 8000 -> "2h13m"."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 0.0009995:
        return f"{seconds * 1e6:.3g}us"
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.3g}ms"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 172800:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def seconds_of(message: object, field: str) -> float | None:
    """A Timestamp or Duration field in seconds; None where it is not set."""
    if not message.HasField(field):  # type: ignore[attr-defined]
        return None
    return float(getattr(message, field).ToNanoseconds()) / 1e9


def age(message: object, field: str) -> str:
    """How long ago a Timestamp field was."""
    moment = seconds_of(message, field)
    return UNKNOWN if moment is None else duration(max(0.0, clock.now() - moment))


def timestamp(message: object, field: str) -> str:
    """A Timestamp field in RFC 3339, to the millisecond."""
    if not message.HasField(field):  # type: ignore[attr-defined]
        return UNKNOWN
    moment = getattr(message, field).ToDatetime()
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def bytes_of(count: int | float | None) -> str:
    """Bytes with a binary suffix: "80.0Gi"."""
    if count is None:
        return UNKNOWN
    size = float(count)
    for suffix in ("", "Ki", "Mi", "Gi"):
        if size < 1024:
            return f"{size:.0f}{suffix}" if suffix in ("", "Ki") else f"{size:.1f}{suffix}"
        size /= 1024
    return f"{size:.1f}Ti"


def cores(milli: int) -> str:
    """Thousandths of a core as cores."""
    return f"{milli / 1000:g}"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share * 100:.0f}%"


def celsius(degrees: float | None) -> str:
    return UNKNOWN if degrees is None else f"{degrees:.0f}C"


def watts(power: float | None) -> str:
    return UNKNOWN if power is None else f"{power:.0f}W"
