"""Small fleets and workloads."""

from collections import Counter
from collections.abc import Sequence

from placement_engine.simulation.openb.policies import POLICIES, Policy
from placement_engine.simulation.openb.state import State
from placement_engine.simulation.openb.trace import Node, TaskClass, Workload


def node(name: str, devices: int, *, cpu: int = 96_000, memory: int = 400_000, model: str = "T4") -> Node:
    return Node(name, cpu, memory, devices, model if devices else "")


def task(devices: int = 1, milli: int = 1000, *, cpu: int = 4_000, models: tuple[str, ...] = ()) -> TaskClass:
    return TaskClass(cpu, 8_000, devices, milli if devices else 0, models)


def workload(tasks: Sequence[TaskClass]) -> Workload:
    counts = Counter(tasks)
    classes = tuple(sorted(counts))
    shares = tuple(counts[one] / len(tasks) for one in classes)
    return Workload(classes, shares, tuple(classes.index(one) for one in tasks))


def start(name: str, nodes: Sequence[Node], mix: Sequence[TaskClass]) -> tuple[State, Policy, Workload]:
    state, known = State(nodes), workload(mix)
    policy = POLICIES[name](state, known, 1)
    policy.arrived(0.0)
    return state, policy, known


def place(state: State, policy: Policy, one: TaskClass, at: int, device: int = 0) -> None:
    state.place(one, at, device)
    policy.placed(at)
