"""The one place where the command line reads the clock."""

import time

__all__ = ["now"]


def now() -> float:
    """Seconds since the epoch."""
    return time.time()
