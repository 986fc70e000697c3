"""What telemetry says of a device's health over time, and when that cordons the device.

A cordoned device takes no new work; what runs there is left alone. It is cordoned by a stated fault (an error
code, `healthy` false) at once, by throttling once it lasted. It is free again after it was *stated* to be well for
the policy's time: silence is not health, and a gap in telemetry starts the time anew.

NVIDIA reports errors as XIDs; what each asks for is the "immediate action" of NVIDIA's catalogue
(docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html). Codes of other vendors have no such catalogue:
each of theirs is taken as a fault.
"""

from dataclasses import dataclass
from enum import Enum

from placement_engine.domain.model import DeviceSample
from placement_engine.domain.policy import Policy
from placement_engine.domain.telemetry import blocking_throttle

XID_STACK = "cuda"
XID_PROGRAM = frozenset({8, 11, 13, 14, 25, 31, 43, 45, 68, 80, 137})
"""RESTART_APP, IGNORE or WORKFLOW_XID_45 with a fault of the program; 68: NVIDIA's device plugin ignores it too."""
XID_WEAR = frozenset({63, 92, 94})
"""Memory that repairs itself: rows remapped (IGNORE), corrected errors often (IGNORE), contained (RESTART_APP)."""
XID_NAMES = {
    46: "GPU stopped processing",
    48: "uncorrectable memory error",
    62: "micro-controller halt",
    64: "row remapping failed",
    74: "NVLink error",
    79: "fell off the bus",
    95: "uncontained memory error",
    109: "context switch timeout",
    119: "GSP timeout",
    120: "GSP error",
    136: "link training failed",
    140: "uncorrectable memory error",
    143: "initialisation failed",
    154: "recovery action required",
    158: "fatal timeout",
}


def fault_code(sample: DeviceSample, stack: str) -> int:
    """The error code that takes a device out of service, else 0: a program's fault is not the device's."""
    code = sample.error_code or 0
    if stack.casefold() == XID_STACK and (code in XID_PROGRAM or code in XID_WEAR):
        return 0
    return code


def is_worn(sample: DeviceSample | None, stack: str) -> bool:
    """Works, but its memory begins to fail: others are preferred."""
    return sample is not None and stack.casefold() == XID_STACK and sample.error_code in XID_WEAR


def is_well(sample: DeviceSample | None, stack: str) -> bool:
    """Unknown health does not block; a stated fault does."""
    return sample is None or (sample.healthy is not False and not fault_code(sample, stack))


class Cause(Enum):
    THROTTLE = "throttle"
    UNHEALTHY = "unhealthy"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Cordon:
    cause: Cause
    since: float
    code: int = 0
    """The error code, or the throttle bits."""
    seconds: float = 0.0
    """Of throttling before the cordon."""

    @property
    def message(self) -> str:
        if self.cause is Cause.THROTTLE:
            return f"throttled for {self.seconds:.0f} s, reasons {self.code:#x}"
        if self.cause is Cause.ERROR:
            name = XID_NAMES.get(self.code)
            return f"error {self.code}" + (f", {name}" if name else "")
        return "unhealthy"


@dataclass(slots=True)
class HealthWatch:
    """Of one device; seconds since the epoch, None: it is not so now."""

    heard_at: float | None = None
    throttled_since: float | None = None
    well_since: float | None = None
    cordon: Cordon | None = None

    @property
    def idle(self) -> bool:
        """Nothing to remember."""
        return self.cordon is None and self.throttled_since is None

    def hear(self, sample: DeviceSample, stack: str, at: float, policy: Policy) -> bool:
        """Takes a sample received at `at`; whether it is what cordons the device."""
        if self.heard_at is not None and at - self.heard_at > policy.telemetry_gap_seconds:
            self.throttled_since = self.well_since = None
        self.heard_at = at
        if sample.throttle_bits is not None and not blocking_throttle(sample):
            self.throttled_since = None
        elif blocking_throttle(sample) and self.throttled_since is None:
            self.throttled_since = at
        found = self._cordon(sample, stack, at, policy)
        if found is not None:
            self.well_since = None
            before, self.cordon = self.cordon, self.cordon or found
            return before is None
        if self.cordon is not None:
            self._recover(self.cordon, sample, at, policy)
        return False

    def _cordon(self, sample: DeviceSample, stack: str, at: float, policy: Policy) -> Cordon | None:
        code = fault_code(sample, stack)
        if code:
            return Cordon(Cause.ERROR, at, code)
        if sample.healthy is False:
            return Cordon(Cause.UNHEALTHY, at)
        if self.throttled_since is not None and blocking_throttle(sample):
            seconds = at - self.throttled_since
            if self.cordon is not None or seconds >= policy.sustained_throttle_seconds:
                return Cordon(Cause.THROTTLE, at, sample.throttle_bits or 0, seconds)
        return None

    def _recover(self, cordon: Cordon, sample: DeviceSample, at: float, policy: Policy) -> None:
        stated = {
            Cause.THROTTLE: sample.throttle_bits is not None,
            Cause.UNHEALTHY: sample.healthy is True,
            # A later fault of a program hides the first code (the exporter tells the last one): only 0 is well.
            Cause.ERROR: sample.error_code == 0,
        }[cordon.cause]
        if not stated:
            self.well_since = None
            return
        if self.well_since is None:
            self.well_since = at
        if at - self.well_since >= policy.cordon_clear_seconds:
            self.cordon = self.well_since = None
