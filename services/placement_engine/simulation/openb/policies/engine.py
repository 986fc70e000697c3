"""The running engine itself on this protocol: each task is submitted, a cycle is run, and what waits is withdrawn.

It starts cold and learns the mix from the tasks as they come. Only packing has a weight: the trace says nothing of
objectives, heat, power or telemetry.
"""

from berth import catalogue
from placement_engine.adapters.translate import accelerator_from
from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Device, Job
from placement_engine.domain.model import Node as EngineNode
from placement_engine.domain.policy import Policy as EnginePolicy
from placement_engine.domain.policy import Weights
from placement_engine.simulation.openb.policies.base import Policy
from placement_engine.simulation.openb.state import State
from placement_engine.simulation.openb.trace import Workload

__all__ = ["RunningEngine", "ThriftyEngine"]

MIB = 2**20


def _catalogued(model: str) -> str:
    """The trace's name for a model, as telemetry-ingest would have it."""
    entry = catalogue.resolve(model)
    return entry.name if entry is not None else model


class RunningEngine(Policy):
    """Nodes are named in the order of the state, so that ties go the same way."""

    thrift = 0.0
    """The policy's `thrift_milli_per_watt`."""

    def __init__(self, state: State, workload: Workload, seed: int) -> None:
        super().__init__(state, workload, seed)
        weights = Weights(objective=0.0, fragmentation=1.0, topology=0.0, heat=0.0, power=0.0, freshness=0.0)
        self._engine = Engine(EnginePolicy(weights=weights, next_best=0, thrift_milli_per_watt=self.thrift))
        self._engine.set_accelerators([accelerator_from(one) for one in catalogue.load()])
        self._serial = 0
        for number, node in enumerate(state.nodes):
            name, model = f"{number:06d}", _catalogued(node.model)
            self._engine.apply_node(
                EngineNode(
                    name=name,
                    devices=tuple(Device(f"{name}/{i}", i, model, "GPU") for i in range(node.devices)),
                    cpu_milli=node.cpu,
                    memory_bytes=node.memory * MIB,
                    telemetry_exempt=True,
                )
            )

    def choose(self, index: int) -> tuple[int, int] | None:
        task = self.workload.classes[index]
        self._serial += 1
        job = Job(
            job_id=f"{self._serial:08d}",
            devices=0 if task.fraction else task.devices,
            device_milli=task.milli if task.fraction else 0,
            cpu_milli=task.cpu,
            memory_bytes=task.memory * MIB,
            models=tuple(_catalogued(name) for name in task.models),
            submitted_at=float(self._serial),
        )
        self._engine.submit(job)
        decisions = self._engine.cycle(0.0).decisions
        if not decisions:
            self._engine.withdraw(job.job_id)
            return None
        (member,) = decisions[0].members
        return int(member.node), member.devices[0].index if task.fraction else 0


class ThriftyEngine(RunningEngine):
    """With power while there is room, packing when there is not (domain/thrift.py)."""

    thrift = 40.0
