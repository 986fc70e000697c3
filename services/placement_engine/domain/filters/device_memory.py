"""Device memory really free: total less Berth's claims and less what telemetry shows others use."""

from collections.abc import Mapping

from placement_engine.domain.columns import MEMORY, Floats, View
from placement_engine.domain.plugins import Description, DeviceFloors, Selective
from placement_engine.domain.shapes import Ask


class DeviceMemory(DeviceFloors, Selective):
    name = "DeviceMemory"
    code = "DEVICE_MEMORY_SHORT"

    def concerns(self, ask: Ask) -> bool:
        return bool((ask.memory > 0).any())

    def floors(self, ask: Ask) -> Mapping[int, Floats]:
        # What asks for none passes, also where more is claimed than there is.
        return {MEMORY: ask.least_memory}

    def describe(self, view: View, ask: Ask) -> Description:
        needed = float(ask.memory.take(view.model).max())
        best = float(view.devices(MEMORY).max())
        return (
            f"needs {needed / 2**30:.1f} GiB of device memory; the most really free is {best / 2**30:.1f} GiB",
            {"memory_bytes_needed": needed, "memory_bytes_most_free": best},
        )
