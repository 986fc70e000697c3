"""A latency target that a profile says this accelerator misses. No profile: nothing is said."""

from placement_engine.domain.columns import Bools, View
from placement_engine.domain.plugins import ByModel, Description
from placement_engine.domain.shapes import Ask


class LatencyTarget(ByModel):
    name = "LatencyTarget"
    code = "LATENCY_TARGET_MISSED"

    def models(self, ask: Ask) -> Bools:
        return ask.meets_latency

    def describe(self, view: View, ask: Ask) -> Description:
        target = ask.shape.latency_target or 0.0
        return f"profiles show a p99 latency above the target of {target:g} s", {"target_seconds": target}
