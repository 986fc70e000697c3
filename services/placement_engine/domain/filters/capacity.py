"""Thousandths of devices not claimed. A fraction sits on one device, a whole device is entirely free, and a
partition needs slices instead (see sharing.py)."""

from collections.abc import Mapping

import numpy as np

from placement_engine.domain.columns import ABSENT, FREE, Bools, View
from placement_engine.domain.filters.sharing import milli_needed
from placement_engine.domain.plugins import Description, DeviceFloors
from placement_engine.domain.shapes import Ask


class Capacity(DeviceFloors):
    name = "Capacity"
    code = "DEVICES_BUSY"

    def floors(self, ask: Ask) -> Mapping[int, float] | None:
        return None if ask.shape.by_model else {FREE: ask.shape.milli_per_device}

    def passes(self, view: View, ask: Ask) -> Bools:
        if not ask.shape.by_model:
            return super().passes(view, ask)
        if ask.cuts is not None:
            return view.devices(FREE) > ABSENT
        return view.devices(FREE) >= milli_needed(view, ask)

    def describe(self, view: View, ask: Ask) -> Description:
        shape = ask.shape
        free = view.devices(FREE)
        if shape.whole:
            most = int((free >= shape.milli_per_device).sum(axis=0).max())
            return (
                f"needs {shape.whole} whole devices on a node; the most entirely free is {most}",
                {"devices_needed": float(shape.whole), "devices_most_free": float(most)},
            )
        best = float(np.maximum(free.max(), 0))
        if shape.share_bytes:
            least = float(milli_needed(view, ask).min())
            return (
                f"needs {shape.share_bytes / 2**30:g} GiB of one device's memory, {least:g} thousandths of the "
                f"largest; the most left on a device is {best:g}",
                {"milli_needed": least, "milli_most_free": best, "share_bytes": float(shape.share_bytes)},
            )
        return (
            f"needs {shape.milli} thousandths of one device; the most left on a device is {best:g}",
            {"milli_needed": float(shape.milli), "milli_most_free": best},
        )
