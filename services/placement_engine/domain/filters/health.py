"""A device that reports an error or says it is unhealthy. Unknown health does not block."""

from placement_engine.domain.columns import ABSENT, FREE, WELL, Bools, View
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class Health:
    name = "Health"
    code = "DEVICE_UNHEALTHY"

    def passes(self, view: View, ask: Ask) -> Bools:
        return view.devices(WELL) > 0

    def describe(self, view: View, ask: Ask) -> Description:
        sick = int(((view.devices(WELL) == 0) & (view.devices(FREE) > ABSENT)).sum())
        return f"{sick} devices report an error", {"devices_unhealthy": float(sick)}
