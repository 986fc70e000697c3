"""What a command says of its own speed: lines of JSON in the file that BERTH_REPORT names, as jobs of the executor
`process` write them.

    {"units": 120, "unit": "steps", "seconds": 10.2, "batch_size": 8}
"""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from berth.errors import FieldError, InvalidInput

__all__ = ["Report", "read_reports", "run_command"]

UNITS = ("steps", "tokens", "samples", "queries", "epochs")
EXAMPLE = '{"units": 120, "unit": "steps", "seconds": 10.2}'
LARGEST = 50_000_000
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """`units` of `unit` in `seconds` of work."""

    units: float
    unit: str
    seconds: float
    batch_size: int | None = None


def run_command(command: Sequence[str], report: Path, limit_seconds: float) -> tuple[int, bool]:
    """(exit status, whether the time limit ended it). Its whole group is ended with it. Raises InvalidInput where it
    cannot be started."""
    environment = {**os.environ, "BERTH_REPORT": str(report)}
    try:
        process = subprocess.Popen(list(command), env=environment, start_new_session=True)
    except OSError as error:
        raise InvalidInput.of("command", command[0], f"cannot be started: {error.strerror}") from error
    try:
        return process.wait(limit_seconds), False
    except subprocess.TimeoutExpired:
        return 0, True
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if number is signal.SIGTERM:
                # Others of the group get a moment too.
                time.sleep(0.05)


def read_reports(path: Path) -> tuple[list[Report], list[str]]:
    """Reports of one unit and batch, the first that stands there; and what was left out, in sentences. Raises
    InvalidInput where none is good."""
    try:
        if path.stat().st_size > LARGEST:
            raise InvalidInput.of("report", path.name, f"over {LARGEST} bytes: report less often")
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        lines = []
    good: list[Report] = []
    left: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = _parse(line)
        except InvalidInput as error:
            left.append(f"report {number}: {error}")
            continue
        if good and (one.unit, one.batch_size) != (good[0].unit, good[0].batch_size):
            left.append(f"report {number}: {one.unit} at batch {one.batch_size}, not as the first")
        else:
            good.append(one)
    if not good:
        said = f"; {left[0]}" if left else ""
        raise InvalidInput.of(
            "report", "none",
            f"the command wrote no line such as {EXAMPLE} to $BERTH_REPORT{said}",
        )  # fmt: skip
    return good, left


def _parse(line: bytes) -> Report:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput.of("line", line[:60].decode("utf-8", "replace"), f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput.of("line", str(found)[:60], "write an object")
    errors = []
    for field in ("units", "seconds"):
        value = found.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15 or math.isnan(value):
            errors.append(FieldError(field, str(value), "a number above 0"))
    if found.get("unit") not in UNITS:
        errors.append(FieldError("unit", str(found.get("unit")), f"one of {', '.join(UNITS)}"))
    batch = found.get("batch_size")
    if batch is not None and (type(batch) is not int or not 1 <= batch <= 10**9):
        errors.append(FieldError("batch_size", str(batch), "a whole number, at least 1; or leave it out"))
    if errors:
        raise InvalidInput(errors)
    return Report(float(found["units"]), found["unit"], float(found["seconds"]), batch)
