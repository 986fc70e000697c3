"""Hardware slowdown, thermal throttling and power brake block; a software power cap only costs score."""

from placement_engine.domain.columns import ABSENT, FREE, UNTHROTTLED, Bools, View
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class Throttle:
    name = "Throttle"
    code = "DEVICE_THROTTLED"

    def passes(self, view: View, ask: Ask) -> Bools:
        return view.devices(UNTHROTTLED) > 0

    def describe(self, view: View, ask: Ask) -> Description:
        slowed = int(((view.devices(UNTHROTTLED) == 0) & (view.devices(FREE) > ABSENT)).sum())
        return f"{slowed} devices are slowed down by heat or power brake", {"devices_throttled": float(slowed)}
