"""Model, class and software stack. A job without devices looks at each node once, at its first row."""

from collections.abc import Mapping

from placement_engine.domain.columns import PRIMARY, Bools, View
from placement_engine.domain.plugins import ByModel, Description, RowFloors
from placement_engine.domain.shapes import Ask


class Accelerator(ByModel, RowFloors):
    name = "Accelerator"
    code = "ACCELERATOR_MISMATCH"

    def models(self, ask: Ask) -> Bools | None:
        return ask.allowed if ask.shape.needs_devices else None

    def floors(self, ask: Ask) -> Mapping[int, float] | None:
        return None if ask.shape.needs_devices else {PRIMARY: 1.0}

    def passes(self, view: View, ask: Ask) -> Bools:
        return (ByModel if ask.shape.needs_devices else RowFloors).passes(self, view, ask)

    def describe(self, view: View, ask: Ask) -> Description:
        shape = ask.shape
        wishes = [
            f"{what} {' or '.join(names)}"
            for what, names in (("model", shape.models), ("class", shape.classes), ("stack", shape.stacks))
            if names
        ]
        return f"needs {', '.join(wishes) or 'an accelerator'}", {}
