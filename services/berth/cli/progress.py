"""A progress bar on standard error; nothing where that is no terminal."""

import sys
import time
from types import TracebackType
from typing import Self

__all__ = ["Progress"]

WIDTH = 30
REDRAW_SECONDS = 0.1


class Progress:
    """`with Progress("submitting", total) as bar: bar.at(done, "detail")`."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = max(1, total)
        self._terminal = sys.stderr.isatty()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def at(self, done: int, detail: str = "") -> None:
        """Shows `done` of the total."""
        if not self._terminal or (time.monotonic() - self._drawn < REDRAW_SECONDS and done < self._total):
            return
        self._drawn = time.monotonic()
        filled = min(WIDTH, WIDTH * done // self._total)
        bar = "█" * filled + "░" * (WIDTH - filled)
        sys.stderr.write(f"\r\x1b[K{self._label} {bar} {done}/{self._total} {detail}")
        sys.stderr.flush()
