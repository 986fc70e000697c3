"""Device filters that read one bit of the BLOCKED column: see columns.py for the bits."""

import numpy as np

from placement_engine.domain.columns import ABSENT, BLOCKED, FREE, Bools, View
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class Flag:
    """Together they say BLOCKED == 0, which is what a cycle asks; one by one they give the reasons."""

    name = ""
    code = ""
    bit = 0

    def passes(self, view: View, ask: Ask) -> Bools:
        return ~self.raised(view)

    def raised(self, view: View) -> Bools:
        """Devices with the bit: (slots, k)."""
        found: Bools = (view.devices(BLOCKED).astype(np.int64) & self.bit) != 0
        return found & (view.devices(FREE) > ABSENT)

    def describe(self, view: View, ask: Ask) -> Description:
        raise NotImplementedError


def unblocked(view: View, ask: Ask) -> Bools:
    """What all flags say at once."""
    free: Bools = view.devices(BLOCKED) == 0
    return free
