"""How long the place of an admitted Workload counts as taken for those that come after it."""

from types import SimpleNamespace
from typing import Any, cast

from berth.auth import Authenticator
from berth.kubernetes.client import Kubernetes, Object
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.pods.beside import job_beside
from berth.v1 import fleet_pb2
from placement_engine.adapters.admission_checks import ADMITTED_SECONDS, PROMISE_SECONDS, AdmissionChecks
from placement_engine.adapters.kueue_wire import CONTROLLER
from placement_engine.handlers import Admission
from placement_engine.planner import Planner
from placement_engine.world import World
from tests.unit.placement_engine.domain.builders import NOW, a_node, an_engine

RESOURCES = DeviceResources()
CHECK = {
    "metadata": {"name": "berth"},
    "spec": {"controllerName": CONTROLLER},
    "status": {"conditions": [{"type": "Active", "status": "True"}]},
}


class FakeKubernetes:
    """Takes every answer."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str]] = []

    async def patch(self, path: str, document: Object, **_: Any) -> None:
        (state,) = document["status"]["admissionChecks"]
        self.answers.append((document["metadata"]["name"], state["state"]))


class Sides:
    """Admission checks of a fleet of one node with eight devices, and the Workloads that a watch tells of."""

    def __init__(self) -> None:
        self.now = NOW
        self.kubernetes = FakeKubernetes()
        planner = SimpleNamespace(engine=an_engine(a_node("n1", 8, executors=("kubernetes",))), active=True)
        queues = {"default": fleet_pb2.Queue(name="default")}
        self.checks = AdmissionChecks(
            cast(Kubernetes, self.kubernetes),
            planners=cast(dict[str, Planner], {"default": planner}),
            admission=Admission(Authenticator(), lambda: queues, lambda: {"default"}, lambda _: None),
            world=World(),
            job_of_pod=lambda pod: job_beside(pod, RESOURCES),
            clock=lambda: self.now,
        )
        self.workloads: dict[str, Object] = {}
        mirrors: Any = self.checks
        mirrors._checks = SimpleNamespace(objects={"berth": CHECK})
        mirrors._flavors = SimpleNamespace(objects={})
        mirrors._workloads = SimpleNamespace(objects=self.workloads)

    def tell(self, name: str, *conditions: str) -> None:
        """The watch tells of a Workload that asks for the whole node and has these conditions beside its quota."""
        key = f"default/{name}"
        before = self.workloads.get(key)
        container = {"name": "c", "resources": {"requests": {"nvidia.com/gpu": "8"}}}
        self.workloads[key] = {
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"podSets": [{"name": "main", "count": 1, "template": {"spec": {"containers": [container]}}}]},
            "status": {
                "admission": {"podSetAssignments": [{"name": "main", "count": 1}]},
                "conditions": [{"type": one, "status": "True"} for one in ("QuotaReserved", *conditions)],
                "admissionChecks": [{"name": "berth", "state": "Pending"}],
            },
        }
        self.checks._heard("workload")(before, self.workloads[key])

    async def answer(self, name: str) -> str:
        await self.checks._look_at_workload(f"default/{name}")
        workload, state = self.kubernetes.answers[-1]
        assert workload == name
        return state


async def promised() -> Sides:
    sides = Sides()
    sides.tell("first")
    assert await sides.answer("first") == "Ready"
    sides.tell("second")
    assert await sides.answer("second") == "Retry"
    return sides


async def test_a_place_is_promised_until_other_checks_have_answered() -> None:
    sides = await promised()
    sides.now += PROMISE_SECONDS - 1
    sides.tell("first")
    assert await sides.answer("second") == "Retry"
    sides.now += 1
    assert await sides.answer("second") == "Ready"


async def test_an_admitted_workloads_pods_are_seen_soon() -> None:
    sides = await promised()
    sides.now += 3
    sides.tell("first", "Admitted")
    sides.now += ADMITTED_SECONDS - 1
    # It is told of again and again: the time counts from the first.
    sides.tell("first", "Admitted")
    assert await sides.answer("second") == "Retry"
    sides.now += 1
    assert await sides.answer("second") == "Ready"


async def test_a_promise_near_its_end_is_not_made_longer() -> None:
    sides = await promised()
    sides.now += PROMISE_SECONDS - 1
    sides.tell("first", "Admitted")
    sides.now += 1
    assert await sides.answer("second") == "Ready"
