"""What the extender does with its answers in doubt: binds that got none, victims that may not be stopped, standby."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from berth.auth import Authenticator
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.pods.beside import job_beside
from berth.v1 import fleet_pb2
from placement_engine.adapters import extender as extender_module
from placement_engine.adapters.extender import HOLD_SECONDS, HOLD_WITHOUT_DEVICES_SECONDS, Extender
from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Claim
from placement_engine.handlers import Admission
from placement_engine.planner import Planner
from placement_engine.world import World
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, an_engine

RESOURCES = DeviceResources()


@dataclass
class FakePlanner:
    engine: Engine
    active: bool = True


class FakeKubernetes:
    """One pod; `post` and `get` do what the test says, in turn. "bind": it happens; an error is raised after that."""

    def __init__(self, *plan: Any) -> None:
        self.plan = list(plan)
        self.pod: Object = a_pod("p")
        self.posted: list[Object] = []

    async def get(self, path: str) -> Object:
        assert path == "/api/v1/namespaces/default/pods/p"
        step = self.plan.pop(0) if self.plan else None
        if isinstance(step, Exception):
            raise step
        if isinstance(step, str):
            self.pod["spec"]["nodeName"] = step
        return self.pod

    async def post(self, path: str, body: Object) -> Object:
        assert path == "/api/v1/namespaces/default/pods/p/binding"
        self.posted.append(body)
        step = self.plan.pop(0) if self.plan else None
        if isinstance(step, Exception):
            raise step
        return {}


def a_pod(uid: str, devices: int = 1, **metadata: Any) -> Object:
    container = {"name": "c", "resources": {"requests": {"nvidia.com/gpu": str(devices), "cpu": "1"}}}
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": uid, **metadata},
        "spec": {"containers": [container]},
    }


class Served:
    def __init__(self, extender: Extender, planner: FakePlanner, world: World, client: Any) -> None:
        self.extender, self.planner, self.world, self.engine = extender, planner, world, planner.engine
        self._client = client
        self.now = NOW

    async def ask(self, verb: str, **body: Any) -> tuple[int, Any]:
        answer = await self._client.post(f"/{verb}", json=body)
        return answer.status, await (answer.json() if answer.content_type == "application/json" else answer.text())

    async def bind(self, node: str = "n1") -> str:
        status, answer = await self.ask("bind", PodNamespace="default", PodName="p", PodUID="p", Node=node)
        assert status == 200
        return str(answer["Error"])

    def held(self) -> list[str]:
        claim = self.engine.holds("extender-p")
        return [] if claim is None else [one.device_id for member in claim.members for one in member.devices]


@asynccontextmanager
async def served(kubernetes: FakeKubernetes | None = None, job_of_uid: Callable[[str], str] = lambda _: "") -> Any:
    planner, world = FakePlanner(an_engine(*(a_node(n, 2, executors=("kubernetes",)) for n in ("n1", "n2")))), World()
    queues = {"default": fleet_pb2.Queue(name="default")}
    admission = Admission(Authenticator(), lambda: queues, lambda: {"default"}, lambda _: None)
    made: Served
    extender = Extender(
        planners=cast(dict[str, Planner], {"default": planner}),
        admission=admission,
        world=world,
        job_of_pod=lambda pod: job_beside(pod, RESOURCES),
        kubernetes=cast(Kubernetes, kubernetes),
        job_of_uid=job_of_uid,
        clock=lambda: made.now,
    )
    async with TestClient(TestServer(extender.application())) as client:
        made = Served(extender, planner, world, client)
        yield made


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extender_module, "READ_BACK_SECONDS", 0.0)


@pytest.fixture
async def plain() -> AsyncIterator[Served]:
    async with served() as made:
        yield made


TIMED_OUT = Unanswered("POST: timed out")
CONFLICT = KubernetesError(409, "Conflict", "already assigned")


@pytest.mark.parametrize(
    ("plan", "error", "held"),
    [
        ((None, None), "", True),
        ((None, CONFLICT), "berth: already assigned", False),
        ((None, TIMED_OUT, "n1"), "", True),
        ((None, TIMED_OUT, "n2"), "berth: the pod is bound to n2 already", False),
        ((None, TIMED_OUT, None), "berth: whether it is bound is not known: POST: timed out", True),
        ((None, TIMED_OUT, TIMED_OUT, "n1"), "", True),
        ((None, TIMED_OUT, *[TIMED_OUT] * 3), "berth: whether it is bound is not known: POST: timed out", True),
        ((None, TIMED_OUT, KubernetesError(404, "NotFound", "pod is gone")), "berth: pod is gone", False),
        ((TIMED_OUT,), "berth: the pod could not be read: POST: timed out", False),
        (("n1",), "", False),
    ],
)
async def test_a_bind_counts_as_long_as_it_may_have_happened(plan: Any, error: str, held: bool) -> None:
    async with served(FakeKubernetes(*plan)) as made:
        assert await made.bind() == error
        assert made.held() == (["n1/0"] if held else [])


async def test_what_is_bound_says_which_devices_and_whose_it_is() -> None:
    kubernetes = FakeKubernetes()
    async with served(kubernetes) as made:
        assert await made.bind("n2") == ""
    assert kubernetes.posted == [
        {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": "p", "namespace": "default", "uid": "p", "annotations": {"berth.dev/devices": "n2/0"},
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": "n2"},
        }
    ]  # fmt: skip


async def test_what_was_taken_meanwhile_is_not_bound() -> None:
    kubernetes = FakeKubernetes()
    async with served(kubernetes) as made:
        job = a_job("x", devices=2, executor="kubernetes")
        member = made.engine.member_on(job, "n1", NOW)
        made.engine.restore(Claim(job, (member,)))
        error = await made.bind()
        assert error == "berth: n1: needs 1 whole devices on a node; the most entirely free is 0"
        assert kubernetes.posted == []


async def test_devices_are_let_go_once_the_fleet_tells_or_after_a_while() -> None:
    async with served(FakeKubernetes()) as made:
        assert await made.bind() == ""
        made.world.add_node(fleet_pb2.Node(name="n1", version=1, devices=[fleet_pb2.Device(held_by="default/other")]))
        made.extender.let_go()
        assert made.held() == ["n1/0"]
        made.now += HOLD_SECONDS - 0.1
        made.extender.let_go()
        assert made.held() == ["n1/0"]
        made.world.add_node(fleet_pb2.Node(name="n1", version=2, devices=[fleet_pb2.Device(held_by="default/p")]))
        made.extender.let_go()
        assert made.held() == []
    async with served(FakeKubernetes()) as made:
        assert await made.bind() == ""
        made.now += HOLD_SECONDS
        made.extender.let_go()
        assert made.held() == []


def of_others(made: Served, pods: int, cpu_milli: int = 0, memory_bytes: int = 0) -> None:
    version = made.world.nodes["n1"].version + 1 if "n1" in made.world.nodes else 1
    made.world.add_node(
        fleet_pb2.Node(
            name="n1",
            version=version,
            pods_elsewhere=pods,
            cpu_milli_elsewhere=cpu_milli,
            memory_bytes_elsewhere=memory_bytes,
        )
    )


async def test_a_pod_without_devices_counts_once_as_soon_as_it_is_among_those_of_others() -> None:
    kubernetes = FakeKubernetes()
    async with served(kubernetes) as made:

        def counted() -> list[str]:
            made.extender.let_go()
            return [uid for uid in ("p", "q") if made.engine.holds(f"extender-{uid}") is not None]

        of_others(made, 3, 500, 1 << 30)
        for uid in ("p", "q"):
            kubernetes.pod = a_pod(uid, devices=0)
            status, answer = await made.ask("bind", PodNamespace="default", PodName="p", PodUID=uid, Node="n1")
            assert (status, answer) == (200, {"Error": ""})
        assert counted() == ["p", "q"]
        # Somebody else's came, which asks for less; then the first of both; then both.
        of_others(made, 4, 600, 1 << 30)
        assert counted() == ["p", "q"]
        of_others(made, 4, 1500, 1 << 30)
        assert counted() == ["q"]
        of_others(made, 5, 2500, 1 << 30)
        assert counted() == []


async def test_a_pod_without_devices_is_let_go_after_a_short_while_all_the_same() -> None:
    """Where as much of others ended meanwhile, nothing grew."""
    kubernetes = FakeKubernetes()
    kubernetes.pod = a_pod("p", devices=0)
    async with served(kubernetes) as made:
        of_others(made, 3, 3000)
        assert await made.bind() == ""
        of_others(made, 3, 3000)
        made.now += HOLD_WITHOUT_DEVICES_SECONDS - 0.1
        made.extender.let_go()
        assert made.engine.holds("extender-p") is not None
        made.now += 0.1
        made.extender.let_go()
        assert made.engine.holds("extender-p") is None


async def test_a_pod_that_was_bound_here_is_not_stopped_for_a_job() -> None:
    kubernetes = FakeKubernetes()
    kubernetes.pod = a_pod("p", annotations={"berth.dev/preemptible": "true"})
    async with served(kubernetes) as made:
        assert await made.bind() == ""
        claim = made.engine.holds("extender-p")
        assert claim is not None
        assert claim.job.preemptible
        made.engine.submit(a_job("pair", devices=2, replicas=2, priority=9, executor="kubernetes"))
        assert made.engine.cycle(made.now).preemptions == ()


@pytest.mark.parametrize("identifiers", [True, False])
async def test_a_job_of_berths_own_that_is_not_preemptible_is_no_victim(identifiers: bool) -> None:
    jobs = {"v1": "kept", "v2": "given"}
    async with served(job_of_uid=lambda uid: jobs[uid] if identifiers else "") as made:
        for node, job_id, preemptible in (("n1", "kept", False), ("n2", "given", True)):
            job = a_job(job_id, devices=2, executor="kubernetes", preemptible=preemptible)
            made.engine.restore(Claim(job, (made.engine.member_on(job, node, NOW),)))
        if identifiers:
            sent = {uid: {"UID": uid} for uid in jobs}
        else:
            sent = {uid: a_pod(uid, annotations={"berth.dev/job": job_id}) for uid, job_id in jobs.items()}
        field = "NodeNameToMetaVictims" if identifiers else "NodeNameToVictims"
        victims = {node: {"Pods": [sent[uid]], "NumPDBViolations": 0} for node, uid in (("n1", "v1"), ("n2", "v2"))}
        assert await made.ask("preempt", Pod=a_pod("p"), **{field: victims}) == (
            200, {"NodeNameToMetaVictims": {"n2": {"Pods": [{"UID": "v2"}], "NumPDBViolations": 0}}},
        )  # fmt: skip


async def test_asking_changes_nothing(plain: Served) -> None:
    before = plain.engine.state_digest()
    offer = {"Pod": a_pod("p"), "NodeNames": ["n1", "n2", "n3"]}
    assert await plain.ask("filter", **offer) == (
        200,
        {
            "Nodes": None,
            "NodeNames": ["n1", "n2"],
            "FailedNodes": {},
            "FailedAndUnresolvableNodes": {"n3": "berth: Berth knows no such node in this pool"},
            "Error": "",
        },
    )
    answer = [{"Host": "n1", "Score": 10}, {"Host": "n2", "Score": 10}, {"Host": "n3", "Score": 0}]
    assert await plain.ask("prioritize", **offer) == (200, answer)
    assert plain.engine.state_digest() == before


async def test_an_instance_that_does_not_plan_the_pool_says_so(plain: Served) -> None:
    plain.planner.active = False
    status, text = await plain.ask("filter", Pod=a_pod("p"), NodeNames=["n1"])
    assert (status, text) == (503, "pool 'default' is planned by another instance; ask that one\n")


async def test_a_pod_that_is_not_understood_is_refused_by_every_node(plain: Served) -> None:
    pod = a_pod("p", annotations={"berth.dev/queue": "nowhere"})
    _, answer = await plain.ask("filter", Pod=pod, NodeNames=["n1", "n2"])
    said = "berth: queue: 'nowhere': unknown queue: use one of: default, or `berth apply` it"
    assert (answer["NodeNames"], answer["FailedAndUnresolvableNodes"]) == ([], {"n1": said, "n2": said})


@pytest.mark.parametrize(
    "pod",
    [
        {"metadata": {"annotations": ["x"]}, "spec": {}},
        {"metadata": {}, "spec": {"containers": "many"}},
        {"metadata": {}, "spec": {"containers": [3]}},
        {"metadata": {}, "spec": {"priority": "high"}},
        {"metadata": {}, "spec": {"affinity": 1}},
    ],
)
async def test_what_is_no_pod_is_a_bad_request(plain: Served, pod: Object) -> None:
    for verb, more in (("filter", {"NodeNames": ["n1"]}), ("preempt", {"NodeNameToMetaVictims": {}})):
        status, text = await plain.ask(verb, Pod=pod, **more)
        assert status == 400
        assert text.startswith("Pod: 'without a name': is none (")
        assert text.endswith("): send it as the API server has it\n")
