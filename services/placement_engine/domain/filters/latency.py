"""A latency target that this accelerator misses, by a profile or one request's roofline. Else nothing is said."""

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
        numbers = {"target_seconds": target}
        text = f"p99 latency is above the target of {target:g} s"
        slow = set(view.model.tolist())
        # Of the numbers of devices that may be given, the fastest; what the target is held against.
        known = [
            (latest, ask.models[model])
            for (_, model), estimate in sorted(ask.outlook.estimates.items())
            if model in slow and (latest := estimate.latest_seconds) is not None
        ]
        if not known:
            return text, numbers
        best, accelerator = min(known)
        return f"{text}: at best {best:.3g} s, its spread included, on {accelerator}", numbers | {
            "best_p99_seconds": best
        }
