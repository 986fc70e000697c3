"""CPU and memory of the node. A job that asks for none of one does not care how much is left."""

from collections.abc import Mapping

from placement_engine.domain.columns import CPU, HOST_MEMORY, View
from placement_engine.domain.plugins import Description, RowFloors, Selective
from placement_engine.domain.shapes import Ask


class HostResources(RowFloors, Selective):
    name = "HostResources"
    code = "HOST_RESOURCES_SHORT"

    def concerns(self, ask: Ask) -> bool:
        return ask.shape.cpu_milli > 0 or ask.shape.memory > 0

    def floors(self, ask: Ask) -> Mapping[int, float]:
        asked = {CPU: ask.shape.cpu_milli, HOST_MEMORY: ask.shape.memory}
        return {column: least for column, least in asked.items() if least > 0}

    def describe(self, view: View, ask: Ask) -> Description:
        shape = ask.shape
        cpu, memory = max(0.0, float(view.rows(CPU).max())), max(0.0, float(view.rows(HOST_MEMORY).max()))
        return (
            f"needs {shape.cpu_milli / 1000:g} CPU and {shape.memory / 2**30:g} GiB; "
            f"the most left is {cpu / 1000:g} CPU, and {memory / 2**30:.1f} GiB",
            {
                "cpu_milli_needed": float(shape.cpu_milli),
                "cpu_milli_most_free": cpu,
                "memory_bytes_needed": float(shape.memory),
                "memory_bytes_most_free": memory,
            },
        )
