"""Hardware slowdown, thermal throttling and power brake block; a software power cap only costs score."""

from placement_engine.domain.columns import THROTTLED, View
from placement_engine.domain.filters.flags import Flag
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class Throttle(Flag):
    name = "Throttle"
    code = "DEVICE_THROTTLED"
    bit = THROTTLED

    def describe(self, view: View, ask: Ask) -> Description:
        slowed = int(self.raised(view).sum())
        return f"{slowed} devices are slowed down by heat or power brake", {"devices_throttled": float(slowed)}
