"""Devices that somebody outside Berth has: a pod of another scheduler, a process that an operator knows of."""

from placement_engine.domain.columns import HELD, View
from placement_engine.domain.filters.flags import Flag
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class Held(Flag):
    name = "Held"
    code = "DEVICE_HELD_ELSEWHERE"
    bit = HELD

    def describe(self, view: View, ask: Ask) -> Description:
        """By whom is not in the columns: `explaining` adds it."""
        held = int(self.raised(view).sum())
        return f"{held} devices are held outside Berth", {"devices_held": float(held)}
