"""A cluster that keeps its default scheduler: a real kube-scheduler asks Berth by the extender protocol."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes
from tests.kubernetes.conftest import empty, pod
from tests.kubernetes.extending import (
    GPU,
    PODS,
    Extended,
    a_free_port,
    a_plain_pod,
    fleet_node,
    node_of,
    restart_scheduler,
    scheduler_settings,
    why_it_waits,
)
from tests.services import System

HOT, COOL = 1.0, 40.0


@pytest.fixture(scope="module")
def scheduled_cluster(control_plane: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with control_plane.ControlPlane(tmp_path_factory.mktemp("scheduled"), scheduler=True) as running:
        yield running


@pytest.fixture
async def client(scheduled_cluster: Any) -> AsyncIterator[Kubernetes]:
    async with await Kubernetes.connect(scheduled_cluster.kubeconfig) as made:
        await empty(made)
        yield made
        await empty(made)


def a_pod(name: str, devices: int = 1, **fields: Any) -> dict[str, Any]:
    return pod(name, scheduler="default-scheduler", limits={GPU: devices}, **fields)


async def add_nodes(cluster: Any, *names: str, devices: int = 8) -> None:
    for name in names:
        made = await asyncio.to_thread(cluster.add_nodes, 1, prefix=name, resources={GPU: devices})
        assert made == [f"{name}-0"]


@pytest.mark.parametrize("whole_nodes", [False, True])
async def test_pods_of_the_default_scheduler_land_where_berth_says(
    system: System, scheduled_cluster: Any, client: Kubernetes, whole_nodes: bool
) -> None:
    await add_nodes(scheduled_cluster, "hot", "other", "warm", "cool")
    fleet = [fleet_node(f"{name}-0") for name in ("hot", "warm", "cool")]
    berth = await Extended.started(system, [*fleet, fleet_node("other-0", model="L4")])
    await berth.margins(hot_0=HOT, warm_0=12.0, cool_0=COOL)
    await restart_scheduler(scheduled_cluster, scheduler_settings(berth.url, nodeCacheCapable=not whole_nodes))
    wish = {"berth.dev/accelerators": "H100-SXM"}
    for number in range(3):
        await client.post(PODS, a_pod(f"p{number}", annotations=wish))
        assert await node_of(client, f"p{number}") == "cool-0"
    await client.post(PODS, a_pod("whole", 8, annotations=wish))
    assert await node_of(client, "whole") == "warm-0"  # five of eight are left on the cool one
    await client.post(PODS, a_pod("too-much", 6, annotations=wish))
    why = await why_it_waits(client, "too-much")
    assert "1 berth: 8 devices are too hot: margin below 5 degrees, or not yet back at 8" in why
    assert "1 berth: needs model H100-SXM, stack CUDA" in why
    assert f"2 Insufficient {GPU}" in why
    await client.post(PODS, a_pod("wrong", annotations={"berth.dev/objective": "fast"}))
    why = await why_it_waits(client, "wrong")
    assert "berth: metadata.annotations[berth.dev/objective]: 'fast': write one of:" in why


@pytest.mark.parametrize("ignorable", [True, False])
async def test_an_extender_that_is_not_there(scheduled_cluster: Any, client: Kubernetes, ignorable: bool) -> None:
    await add_nodes(scheduled_cluster, "n")
    nobody = f"http://127.0.0.1:{a_free_port()}"
    await restart_scheduler(scheduled_cluster, scheduler_settings(nobody, ignorable=ignorable))
    await client.post(PODS, a_pod("p"))
    if ignorable:
        assert await node_of(client, "p") == "n-0"
    else:
        assert "connection refused" in await why_it_waits(client, "p")


async def test_preemption_spares_what_would_not_help(
    system: System, scheduled_cluster: Any, client: Kubernetes
) -> None:
    for name, value in (("low", 1), ("middle", 2), ("high", 3)):
        await priority_class(client, name, value)
    await add_nodes(scheduled_cluster, "hot", "cool")
    berth = await Extended.started(system, [fleet_node("hot-0"), fleet_node("cool-0")])
    await restart_scheduler(scheduled_cluster, scheduler_settings(berth.url, preemptVerb="preempt"))
    # On what becomes hot sits the pod that kube-scheduler would rather stop.
    for name, on, priority in (("a", "hot-0", "low"), ("b", "cool-0", "middle")):
        there = {"nodeSelector": {"kubernetes.io/hostname": on}, "priorityClassName": priority}
        await client.post(PODS, a_pod(name, 8, **there))
        assert await node_of(client, name) == on
    await berth.margins(hot_0=HOT, cool_0=COOL)
    await client.post(PODS, a_pod("urgent", 8, priorityClassName="high"))
    assert await node_of(client, "urgent") == "cool-0"
    left = {one["metadata"]["name"] for one in (await client.list(PODS))[0]}
    assert left == {"a", "urgent"}


async def priority_class(client: Kubernetes, name: str, value: int) -> None:
    path = "/apis/scheduling.k8s.io/v1/priorityclasses"
    known = {one["metadata"]["name"] for one in (await client.list(path))[0]}
    if name not in known:
        await client.post(path, {"metadata": {"name": name}, "value": value})


async def test_a_bind_by_the_extender_counts_before_the_fleet_tells(
    system: System, scheduled_cluster: Any, client: Kubernetes
) -> None:
    await add_nodes(scheduled_cluster, "n", "m")
    where = str(scheduled_cluster.kubeconfig)
    fleet = [fleet_node("n-0", 2), fleet_node("m-0", 2)]
    berth = await Extended.started(system, fleet, kubernetes="true", kubeconfig=where)
    await restart_scheduler(scheduled_cluster, scheduler_settings(berth.url, bindVerb="bind"))
    placed: dict[str, str] = {}
    for number in range(4):
        await client.post(PODS, a_pod(f"p{number}"))
        placed[f"p{number}"] = await node_of(client, f"p{number}")
    assert sorted(placed.values()) == ["m-0", "m-0", "n-0", "n-0"]
    # The nodes themselves have eight each: only Berth's own count keeps the fifth away.
    await client.post(PODS, a_pod("p4"))
    assert "berth: needs 1 whole devices on a node; the most entirely free is 0" in await why_it_waits(client, "p4")
    things = [await client.get(f"{PODS}/{name}") for name in placed]
    taken = [one["metadata"]["annotations"]["berth.dev/devices"] for one in things]
    assert sorted(taken) == ["m-0/0", "m-0/1", "n-0/0", "n-0/1"]
    first = things[0]["metadata"]
    asked = {"PodNamespace": "default", "PodName": "p0", "PodUID": first["uid"], "Node": placed["p0"]}
    assert await berth.ask("bind", asked) == (200, {"Error": ""})  # it is, as asked
    elsewhere = {"n-0": "m-0", "m-0": "n-0"}[placed["p0"]]
    assert await berth.ask("bind", {**asked, "Node": elsewhere}) == (
        200, {"Error": f"berth: the pod is bound to {placed['p0']} already"},
    )  # fmt: skip
    assert await berth.ask("bind", {**asked, "PodUID": "another"}) == (
        200, {"Error": "berth: pod default/p0 is another one by now"},
    )  # fmt: skip
    # What the fleet tells of is no longer held besides.
    told = fleet_node("n-0", 2, version=2)
    for device, name in zip(told.devices, [name for name, on in placed.items() if on == "n-0"], strict=True):
        device.held_by = f"default/{name}"
    told.devices.append(fleet_node("n-0", 3).devices[2])
    await system.publish_nodes([told])

    async def the_third_is_free() -> bool:
        _, answer = await berth.ask("filter", {"Pod": a_plain_pod(), "NodeNames": ["n-0", "m-0"]})
        return bool(answer["NodeNames"] == ["n-0"])

    await system.eventually(the_third_is_free)


async def test_on_the_fleet_that_telemetry_ingest_reads_from_the_cluster(
    system: System, scheduled_cluster: Any, client: Kubernetes
) -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    await asyncio.to_thread(scheduled_cluster.add_nodes, 2, prefix="n", resources={GPU: 2}, labels=labels)
    asked = {"kubernetes": "true", "kubeconfig": str(scheduled_cluster.kubeconfig)}
    await system.service("telemetry-ingest", **asked).ready()
    berth = await Extended.started(system, [], **asked)
    offer = {"Pod": a_plain_pod(annotations={"berth.dev/accelerators": "H100-SXM"}), "NodeNames": ["n-0", "n-1"]}

    async def passes(*nodes: str) -> None:
        async def told() -> bool:
            return bool((await berth.ask("filter", offer))[1]["NodeNames"] == list(nodes))

        await system.eventually(told)

    await passes("n-0", "n-1")
    await restart_scheduler(scheduled_cluster, scheduler_settings(berth.url, bindVerb="bind"))
    placed: dict[str, list[str]] = {"n-0": [], "n-1": []}
    for number in range(4):
        await client.post(PODS, a_pod(f"p{number}"))
        placed[await node_of(client, f"p{number}")].append(f"p{number}")
    assert {node: len(pods) for node, pods in placed.items()} == {"n-0": 2, "n-1": 2}

    async def told_by_the_fleet() -> bool:
        said = (await berth.ask("filter", offer))[1]["FailedNodes"]
        holders = {f"default/{pod}": node for node, pods in placed.items() for pod in pods}
        return all(f"{holder} (1)" in said.get(node, "") for holder, node in holders.items())

    await system.eventually(told_by_the_fleet)
    await client.delete(f"{PODS}/{placed['n-1'][0]}", grace_seconds=0)
    await passes("n-1")


async def test_requests_that_are_none_are_told_what_is_wrong(system: System) -> None:
    berth = await Extended.started(system, [fleet_node("n-0")])
    for verb, body, text in (
        ("filter", b"nonsense", "body: 'nonsense': no JSON"),
        ("filter", {"NodeNames": []}, "Pod: 'nothing': send the JSON of k8s.io/kube-scheduler/extender/v1"),
        ("prioritize", {"Pod": a_plain_pod()}, "Nodes: 'nothing': send a NodeList, or NodeNames"),
        ("preempt", {"Pod": a_plain_pod()}, "NodeNameToVictims: 'nothing': send the victims by node name"),
        ("bind", {"PodName": "p"}, "PodNamespace: 'nothing': send a name that is not empty"),
    ):
        status, said = await berth.ask(verb, body)
        assert (status, said[: len(text)]) == (400, text)
    status, said = await berth.ask("bind", {"PodNamespace": "a", "PodName": "b", "PodUID": "c", "Node": "d"})
    assert (status, said) == (
        200, {"Error": "berth: BERTH_KUBERNETES is not set: set it to true, or leave bindVerb out"},
    )  # fmt: skip
