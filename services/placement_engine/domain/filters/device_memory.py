"""Device memory really free: total less Berth's claims and less what telemetry shows others use."""

from placement_engine.domain.columns import MEMORY, Bools, View
from placement_engine.domain.plugins import Description, Selective
from placement_engine.domain.shapes import Ask


class DeviceMemory(Selective):
    name = "DeviceMemory"
    code = "DEVICE_MEMORY_SHORT"

    def concerns(self, ask: Ask) -> bool:
        return bool((ask.memory > 0).any())

    def passes(self, view: View, ask: Ask) -> Bools:
        # What asks for none passes, also where more is claimed than there is.
        fits: Bools = view.devices(MEMORY) >= ask.least_memory.take(view.model)
        return fits

    def describe(self, view: View, ask: Ask) -> Description:
        needed = float(ask.memory.take(view.model).max())
        best = float(view.devices(MEMORY).max())
        return (
            f"needs {needed / 2**30:.1f} GiB of device memory; the most really free is {best / 2**30:.1f} GiB",
            {"memory_bytes_needed": needed, "memory_bytes_most_free": best},
        )
