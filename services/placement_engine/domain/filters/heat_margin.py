"""Degrees to slowdown: below the floor a device takes no new work until floor + hysteresis."""

from placement_engine.domain.columns import ABSENT, COOL, FREE, Bools, View
from placement_engine.domain.plugins import Description
from placement_engine.domain.policy import Policy
from placement_engine.domain.shapes import Ask


class HeatMargin:
    name = "HeatMargin"
    code = "HEAT_MARGIN_BELOW_FLOOR"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def passes(self, view: View, ask: Ask) -> Bools:
        return view.devices(COOL) > 0

    def describe(self, view: View, ask: Ask) -> Description:
        hot = int(((view.devices(COOL) == 0) & (view.devices(FREE) > ABSENT)).sum())
        floor, back = self._policy.heat_floor_celsius, self._policy.heat_hysteresis_celsius
        return (
            f"{hot} devices are too hot: margin below {floor:g} degrees, or not yet back at {floor + back:g}",
            {"devices_hot": float(hot), "floor_celsius": floor, "resume_celsius": floor + back},
        )
