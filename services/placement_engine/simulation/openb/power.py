"""Power of a node by what is taken of it, after PWR (CCGrid'25).

A device draws its full power as soon as any of it is taken. CPUs are packages of 16 cores with 2 vCPU a core; a
package draws its full power as soon as one of its cores is taken.
"""

import numpy as np

from placement_engine.simulation.openb.state import Floats, Ints, State
from placement_engine.simulation.openb.trace import MILLI

__all__ = ["CPU_WATTS", "DEVICE_WATTS", "PowerModel"]

# W idle, full.
DEVICE_WATTS = {
    "T4": (10, 70),
    "A10": (30, 150),
    "G2": (30, 150),
    "P100": (25, 250),
    "V100M16": (30, 300),
    "V100M32": (30, 300),
    "G3": (50, 400),
}
CPU_WATTS = (15, 120)
CORES_PER_PACKAGE = 16
VCPUS_PER_CORE = 2


class PowerModel:
    """Power of the nodes of one fleet."""

    def __init__(self, state: State) -> None:
        figures = [DEVICE_WATTS.get(model, (0, 0)) for model in state.models]
        self.unknown = tuple(model for model in state.models if model and model not in DEVICE_WATTS)
        self._state = state
        self._idle = np.array([idle for idle, _ in figures])[state.model]
        self._full = np.array([full for _, full in figures])[state.model]
        self._cores = -(-state.cpu_capacity // (MILLI * VCPUS_PER_CORE))
        self._packages = -(-self._cores // CORES_PER_PACKAGE)

    def watts(self, nodes: Ints, cpu: Ints, free: Ints) -> Ints:
        """W of each node were `cpu` milli and `free` whole devices left on it."""
        working = self._cores[nodes] - cpu // (MILLI * VCPUS_PER_CORE)
        active = -(-working // CORES_PER_PACKAGE)
        idle_watts, full_watts = CPU_WATTS
        watts: Ints = idle_watts * (self._packages[nodes] - active) + full_watts * active
        watts += self._idle[nodes] * free + self._full[nodes] * (self._state.devices[nodes] - free)
        return watts

    def kilowatts(self) -> float | None:
        """kW of the fleet now; None where a model of the fleet has no figures."""
        if self.unknown:
            return None
        state = self._state
        free = (state.left == MILLI).sum(axis=0)
        total: Floats = self.watts(np.arange(len(state.nodes)), state.cpu, free).sum() / 1000
        return float(total)
