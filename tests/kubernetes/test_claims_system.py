"""Pods with resource claims through the whole of Berth, judged from the API server; and beside kube-scheduler."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from berth.kubernetes.claims.matching import ClaimError, NoMatch, match
from berth.kubernetes.claims.slices import offers_on, pools_of
from berth.kubernetes.client import Kubernetes, Object
from tests.kubernetes.conftest import pod
from tests.kubernetes.scheduler import free_port
from tests.resource_claims import (
    DRIVER,
    claim,
    device,
    device_class,
    gpus,
    request,
    resource_slice,
    template,
    wish,
)
from tests.services import System

GROUP = "/apis/resource.k8s.io/v1"
SLICES, CLASSES = f"{GROUP}/resourceslices", f"{GROUP}/deviceclasses"
CLAIMS, PODS = f"{GROUP}/namespaces/default/resourceclaims", "/api/v1/namespaces/default/pods"
TEMPLATES = f"{GROUP}/namespaces/default/resourceclaimtemplates"


class Berth:
    """Engine, binder and telemetry-ingest on the cluster."""

    def __init__(self, system: System, cluster: Any, kubernetes: Kubernetes) -> None:
        self.system, self.kubernetes = system, kubernetes
        port = free_port()
        cluster_settings = {"kubernetes": "true", "kubeconfig": str(cluster.kubeconfig)}
        system.service("telemetry-ingest", **cluster_settings)
        system.service("placement-engine", grpc_listen=f"127.0.0.1:{port}")
        self.binder = system.service("binder", engine=f"127.0.0.1:{port}", executors="kubernetes", **cluster_settings)

    async def create(self, name: str, *claims: Object, **fields: Any) -> None:
        await self.kubernetes.post(PODS, pod(name, resourceClaims=list(claims), **fields))

    async def node(self, name: str, seconds: float = 40.0) -> str:
        """Where the pod is bound, once it is."""
        seen: Object = {}

        async def look() -> str:
            seen.update(await self.kubernetes.get(f"{PODS}/{name}"))
            return str(seen["spec"].get("nodeName", ""))

        try:
            return str(await self.system.eventually(look, seconds))
        except AssertionError as error:
            conditions = (seen.get("status") or {}).get("conditions")
            raise AssertionError(f"{name} is not bound: {conditions}\n{error}") from error

    async def told(self, name: str, words: str, seconds: float = 30.0) -> str:
        """The message of PodScheduled, once it has these words."""

        async def look() -> str:
            status = (await self.kubernetes.get(f"{PODS}/{name}")).get("status") or {}
            said = [one.get("message", "") for one in status.get("conditions") or () if one["type"] == "PodScheduled"]
            return said[0] if said and words in said[0] else ""

        return str(await self.system.eventually(look, seconds))

    async def claim_of(self, name: str) -> Object:
        """Of a pod with one claim."""
        made = await self.kubernetes.get(f"{PODS}/{name}")
        (entry,) = made["spec"]["resourceClaims"]
        statuses = (made.get("status") or {}).get("resourceClaimStatuses") or [{}]
        return await self.kubernetes.get(
            f"{CLAIMS}/{entry.get('resourceClaimName') or statuses[0]['resourceClaimName']}"
        )


def by_template(name: str) -> Object:
    return {"name": "gpu", "resourceClaimTemplateName": name}


def by_name(name: str) -> Object:
    return {"name": "gpu", "resourceClaimName": name}


def devices_of(found: Object) -> list[tuple[str, str, str]]:
    results = ((found.get("status") or {}).get("allocation") or {"devices": {}})["devices"].get("results") or ()
    return [(one["request"], one["pool"], one["device"]) for one in results]


async def test_pods_with_claims_are_bound_with_their_devices_allocated(
    system: System, cluster: Any, kubernetes: Kubernetes
) -> None:
    await asyncio.to_thread(cluster.add_nodes, 2, prefix="gpu")
    await asyncio.to_thread(cluster.add_nodes, 1, prefix="plain")
    near = [{"matchAttribute": f"{DRIVER}/numa"}]
    await kubernetes.post(CLASSES, device_class())
    await kubernetes.post(CLASSES, device_class("nic", 'device.driver == "nic.example.com"'))
    for node in ("gpu-0", "gpu-1"):
        await kubernetes.post(SLICES, resource_slice(node, [device(f"gpu-{n}", numa=n % 2) for n in range(4)]))
    card = device("nic-0", model="", memory="", **{f"{DRIVER}__numa": 1})
    await kubernetes.post(SLICES, resource_slice("gpu-1", [card], driver="nic.example.com"))
    await kubernetes.post(TEMPLATES, template("pair", request("gpu", wish(2)), constraints=near))
    with_card = [request("gpu", wish(1)), request("nic", wish(of="nic"))]
    await kubernetes.post(TEMPLATES, template("card", *with_card, constraints=near))
    await kubernetes.post(CLAIMS, claim("shared", request("gpu", first={"many": wish(8), "one": wish(1)})))
    berth = Berth(system, cluster, kubernetes)
    # A card is on one node only, in one NUMA domain: the GPU beside it must be had.
    await berth.create("card", by_template("card"))
    assert await berth.node("card") == "gpu-1"
    found = devices_of(await berth.claim_of("card"))
    assert [one[0] for one in found] == ["gpu", "nic"]
    assert found[0][2] in ("gpu-1", "gpu-3")
    # Pairs of one NUMA domain: three are left, on two nodes.
    for number in range(4):
        await berth.create(f"pair-{number}", by_template("pair"))
    nodes: dict[str, str] = {}
    async with asyncio.timeout(60):
        while len(nodes) < 3:
            for number in range(4):
                made = await kubernetes.get(f"{PODS}/pair-{number}")
                if made["spec"].get("nodeName"):
                    nodes[f"pair-{number}"] = made["spec"]["nodeName"]
            await asyncio.sleep(0.2)
    (late,) = {f"pair-{number}" for number in range(4)} - set(nodes)
    for name, node in nodes.items():
        one = await berth.claim_of(name)
        results = devices_of(one)
        assert {pool for _, pool, _ in results} == {node}
        assert len({int(name_[-1]) % 2 for *_, name_ in results}) == 1
        made = await kubernetes.get(f"{PODS}/{name}")
        assert [user["uid"] for user in one["status"]["reservedFor"]] == [made["metadata"]["uid"]]
    everything = [
        (one["driver"], one["pool"], one["device"])
        for each in (await kubernetes.list(CLAIMS))[0]
        for one in ((each.get("status") or {}).get("allocation") or {"devices": {"results": []}})["devices"]["results"]
    ]
    assert len(everything) == len(set(everything)) == 8
    # The last pair hears why it waits, and comes when a pair goes.
    await berth.told(late, "resource claims")
    gone = next(iter(nodes))
    await kubernetes.delete(f"{PODS}/{gone}", grace_seconds=0)
    assert await berth.node(late) == nodes[gone]
    # One GPU is left on a node: the second alternative; another pod joins the claim where it is.
    await berth.create("first", by_name("shared"))
    where = await berth.node("first")
    await berth.create("second", by_name("shared"))
    assert await berth.node("second") == where
    shared = await kubernetes.get(f"{CLAIMS}/shared")
    assert [one[0] for one in devices_of(shared)] == ["gpu/one"]
    assert {one["name"] for one in shared["status"]["reservedFor"]} == {"first", "second"}
    # What cannot be is said.
    await kubernetes.post(CLAIMS, claim("nobody", request("gpu", wish(of="nobody"))))
    await berth.create("nobody", by_name("nobody"))
    await berth.told("nobody", "there is no device class 'nobody'")
    await berth.create("missing", by_name("missing"))
    await berth.told("missing", "waits for claim 'missing', which is not there")
    await kubernetes.post(CLAIMS, claim("huge", request("gpu", wish(9))))
    await berth.create("huge", by_name("huge"))
    await berth.told("huge", "request 'gpu' wants 9 of class gpu: 4 match")
    # A gang, whose members have claims each: whole, on what a new pair of nodes offers.
    await asyncio.to_thread(cluster.add_nodes, 2, prefix="new")
    for node in ("new-0", "new-1"):
        await kubernetes.post(SLICES, resource_slice(node, gpus(4)))
    await kubernetes.post(TEMPLATES, template("two", request("gpu", wish(2))))
    for number in range(3):
        gang = {"berth.dev/gang": "g", "berth.dev/gang-size": "3"}
        await berth.create(f"g-{number}", by_template("two"), annotations=gang)
    assert {await berth.node(f"g-{number}") for number in range(3)} == {"new-0", "new-1"}
    taken = [one for number in range(3) for one in devices_of(await berth.claim_of(f"g-{number}"))]
    assert len(taken) == len(set(taken)) == 6
    # kill -9 of the binder while claims are being allocated: each pod is bound, with the devices of its own claim.
    await kubernetes.delete(f"{PODS}/huge", grace_seconds=0)
    await asyncio.to_thread(cluster.add_nodes, 4, prefix="late")
    for number in range(4):
        await kubernetes.post(SLICES, resource_slice(f"late-{number}", gpus(4)))
    await kubernetes.post(TEMPLATES, template("single"))
    await asyncio.gather(*(berth.create(f"k-{number}", by_template("single")) for number in range(16)))
    async with asyncio.timeout(30):
        while not any(  # noqa: ASYNC110
            one["metadata"]["name"].startswith("k-") and devices_of(one) for one in (await kubernetes.list(CLAIMS))[0]
        ):
            await asyncio.sleep(0.01)
    berth.binder.kill()
    half = sum(bool(one["spec"].get("nodeName")) for one in (await kubernetes.list(PODS))[0]
               if one["metadata"]["name"].startswith("k-"))  # fmt: skip
    berth.binder.start()
    seen: list[tuple[str, str, str]] = []
    for number in range(16):
        node = await berth.node(f"k-{number}")
        one = await berth.claim_of(f"k-{number}")
        made = await kubernetes.get(f"{PODS}/k-{number}")
        assert [user["uid"] for user in one["status"]["reservedFor"]] == [made["metadata"]["uid"]]
        assert [pool for _, pool, _ in devices_of(one)] == [node]
        annotations = made["metadata"]["annotations"]
        assert annotations["berth.dev/devices"] == "/".join((DRIVER, *devices_of(one)[0][1:]))
        seen += devices_of(one)
    assert len(seen) == len(set(seen)) == 16
    assert half < 16, "it was killed too late to matter"


# --- beside kube-scheduler ---


@pytest.fixture
def own_cluster(control_plane: ModuleType, tmp_path: Path) -> Iterator[Any]:
    """With the real kube-scheduler."""
    with control_plane.ControlPlane(tmp_path / "kubernetes", scheduler=True) as running:
        yield running


def situation(number: int) -> tuple[list[Object], Object]:
    """Slices of node `s<number>` and a claim: chosen by the number alone."""
    choose = random.Random(number)
    node = f"s{number}"
    devices = []
    for index in range(choose.randint(1, 4)):
        taints = [{"key": "sick", "effect": choose.choice(["NoSchedule", "None"])}] if choose.random() < 0.15 else []
        draws = {"cut": {"slices": choose.randint(1, 3)}} if choose.random() < 0.4 else None
        values: Object = {"kind": choose.choice("ab"), "version": (f"1.{choose.randint(0, 2)}.0",)}
        if choose.random() < 0.8:
            values["numa"] = choose.randint(0, 1)
        devices.append(
            device(f"d{index}", memory=choose.choice(["16Gi", "40Gi", "80Gi"]), taints=taints, draws=draws, **values)
        )
    slices = [
        resource_slice(node, devices, of=2, name=f"{node}-devices"),
        resource_slice(node, of=2, name=f"{node}-counters", counters={"cut": {"slices": 4}}),
    ]
    if choose.random() < 0.1:
        slices.pop()  # a pool that is not whole
    own = f'device.attributes["{DRIVER}"]'
    expressions = [
        f'{own}.kind == "a"',
        f'device.capacity["{DRIVER}"].memory.compareTo(quantity("40Gi")) >= 0',
        f'{own}.version.isGreaterThan(semver("1.0.0"))',
        f"has({own}.numa) && {own}.numa == 1",
        f"{own}.numa == 0",  # an error on a device without
        '!has(device.attributes["other.example.com"].x)',
    ]

    def wanted() -> Object:
        chosen = choose.sample(expressions, choose.choice([0, 0, 1, 1, 2]))
        extra: Object = {}
        if choose.random() < 0.2:
            extra["tolerations"] = [{"key": "sick", "operator": "Exists"}]
        return wish(choose.randint(1, 2), *chosen, everything=choose.random() < 0.15, **extra)

    requests = [
        request(f"r{index}", wanted())
        if choose.random() < 0.6
        else request(f"r{index}", first={"x": wanted(), "y": wanted()})
        for index in range(choose.randint(1, 2))
    ]
    limits = [{"matchAttribute": f"{DRIVER}/numa"}] if choose.random() < 0.3 else []
    return slices, claim(node, *requests, constraints=limits)


async def test_kube_scheduler_finds_the_same_claims_satisfiable(own_cluster: Any) -> None:
    """The same slices and claims, each on a node of its own: the real scheduler's answer is the judge."""
    count = 60
    async with await Kubernetes.connect(own_cluster.kubeconfig) as kubernetes:
        await kubernetes.post(CLASSES, device_class())
        await asyncio.to_thread(own_cluster.add_nodes, count, prefix="s")
        nodes = {f"s-{number}": number for number in range(count)}
        mine: dict[str, bool] = {}
        names = []
        for node, number in nodes.items():
            slices, wanted = situation(number)
            for one in slices:
                one["spec"]["nodeName"] = node
                await kubernetes.post(SLICES, one)
            await kubernetes.post(CLAIMS, wanted)
            name = wanted["metadata"]["name"]
            names.append(name)
            stored = await kubernetes.get(f"{CLAIMS}/{name}")
            try:
                found = match(
                    [stored], {"gpu": device_class()}, offers_on({"metadata": {"name": node}}, pools_of(slices))
                )
                mine[name] = not isinstance(found, NoMatch)
            except ClaimError:
                mine[name] = False
        # Every pod may go to its own node only.
        for node, number in nodes.items():
            await kubernetes.post(
                PODS,
                pod(
                    f"s{number}",
                    scheduler="default-scheduler",
                    nodeSelector={"kubernetes.io/hostname": node},
                    resourceClaims=[by_name(f"s{number}")],
                ),
            )
        theirs: dict[str, bool] = {}
        async with asyncio.timeout(90):
            while len(theirs) < count:
                for one in (await kubernetes.list(PODS))[0]:
                    conditions = (one.get("status") or {}).get("conditions") or ()
                    scheduled = next((each["status"] for each in conditions if each["type"] == "PodScheduled"), "")
                    if scheduled:
                        theirs[one["metadata"]["name"]] = scheduled == "True"
                await asyncio.sleep(0.3)
    assert mine == theirs
    assert 0.2 * count < sum(theirs.values()) < 0.9 * count
