"""A device that reports an error or says it is unhealthy. Unknown health does not block."""

from placement_engine.domain.columns import CORDONED, SICK, View
from placement_engine.domain.filters.flags import Flag
from placement_engine.domain.plugins import Description
from placement_engine.domain.policy import Policy
from placement_engine.domain.shapes import Ask


class Health(Flag):
    name = "Health"
    code = "DEVICE_UNHEALTHY"
    bit = SICK

    def describe(self, view: View, ask: Ask) -> Description:
        sick = int(self.raised(view).sum())
        return f"{sick} devices report an error", {"devices_unhealthy": float(sick)}


class Cordon(Flag):
    """Of a device that telemetry no longer faults, but that has not been well for long enough."""

    name = "Cordon"
    code = "DEVICE_CORDONED"
    bit = CORDONED

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def describe(self, view: View, ask: Ask) -> Description:
        cordoned, clear = int(self.raised(view).sum()), self._policy.cordon_clear_seconds
        return (
            f"{cordoned} devices are cordoned after an error or lasting throttling, until well for {clear:g} s",
            {"devices_cordoned": float(cordoned), "clear_seconds": clear},
        )
