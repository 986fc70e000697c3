"""Model, class and software stack. A job without devices looks at each node once, at its first row."""

from placement_engine.domain.columns import PRIMARY, Bools, View
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class Accelerator:
    name = "Accelerator"
    code = "ACCELERATOR_MISMATCH"

    def passes(self, view: View, ask: Ask) -> Bools:
        if not ask.shape.needs_devices:
            return view.rows(PRIMARY) > 0
        return ask.allowed.take(view.model)

    def describe(self, view: View, ask: Ask) -> Description:
        shape = ask.shape
        wishes = [
            f"{what} {' or '.join(names)}"
            for what, names in (("model", shape.models), ("class", shape.classes), ("stack", shape.stacks))
            if names
        ]
        return f"needs {', '.join(wishes) or 'an accelerator'}", {}
