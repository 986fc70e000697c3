"""Power: headroom = cap - sum(EWMA draw + k sigma) - draw claimed but not yet visible >= the job's peak.

An idle device's own draw is part of the job's peak, so it is not counted twice. A job whose peak
nobody knows passes wherever anything is left. What passes here is never less than what the claim then counts.
"""

from collections.abc import Mapping

import numpy as np

from placement_engine.domain.columns import IDLE_WATTS, NODE_WATTS, WATTS, Bools, Floats, View
from placement_engine.domain.plugins import ByPower, Description, DeviceFloors, RowFloors, Selective
from placement_engine.domain.shapes import Ask


def member_watts(view: View, ask: Ask) -> Floats:
    """The most that one member would add to the draw of each row's node, whole W."""
    shape, added = ask.shape, ask.watts.take(view.model)
    if not shape.whole:  # may come to sit on a device that is not idle
        return added
    return np.maximum(added - view.rows(IDLE_WATTS), 0.0) * shape.whole


class DevicePower(DeviceFloors, Selective):
    name = "PowerHeadroom"
    code = "DEVICE_POWER_SHORT"

    def concerns(self, ask: Ask) -> bool:
        return bool((ask.watts > 0).any())

    def floors(self, ask: Ask) -> Mapping[int, Floats]:
        return {WATTS: ask.least_watts}

    def describe(self, view: View, ask: Ask) -> Description:
        needed, best = float(ask.watts.take(view.model).max()), float(view.devices(WATTS).max())
        return (
            f"needs up to {needed:g} W on a device; the most left is {best:g} W",
            {"watts_needed": needed, "watts_most_left": best},
        )


class NodePower(RowFloors, ByPower):
    """Node, and the power domains above it."""

    name = "PowerHeadroom"
    code = "NODE_POWER_SHORT"

    def floors(self, ask: Ask) -> Mapping[int, Floats] | None:
        """Whole devices may be idle: what their row draws anyway is not added to it."""
        return None if ask.shape.whole else {NODE_WATTS: ask.watts}

    def passes(self, view: View, ask: Ask) -> Bools:
        return view.rows(NODE_WATTS) >= member_watts(view, ask)

    def describe(self, view: View, ask: Ask) -> Description:
        needed, best = float(member_watts(view, ask).max()), float(view.rows(NODE_WATTS).max())
        return (
            f"a member adds up to {needed:g} W; the most left under a node, rack or row budget is {best:g} W",
            {"watts_needed": needed, "watts_most_left": best},
        )
