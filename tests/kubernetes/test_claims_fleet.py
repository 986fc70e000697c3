"""ResourceSlices and resource claims in the fleet: the real telemetry-ingest on a real API server."""

import asyncio
from typing import Any

from berth.kubernetes.claims.needs import NEED_PREFIX, need_of
from berth.kubernetes.client import Kubernetes, Object
from berth.v1 import fleet_pb2
from tests.kubernetes.conftest import pod
from tests.kubernetes.test_fleet import Fleet
from tests.resource_claims import DRIVER, claim, device, device_class, gpus, request, resource_slice, wish
from tests.services import System

GROUP = "/apis/resource.k8s.io/v1"
SLICES, CLASSES = f"{GROUP}/resourceslices", f"{GROUP}/deviceclasses"
CLAIMS, PODS = f"{GROUP}/namespaces/default/resourceclaims", "/api/v1/namespaces/default/pods"


def devices_of(node: fleet_pb2.Node) -> list[tuple[str, int, str, str]]:
    return [(one.device_id, one.index, one.model, one.held_by) for one in node.devices if one.present]


def marked(node: fleet_pb2.Node, need: str) -> list[int]:
    return [one.index for one in node.devices if need in one.traits]


async def allocated(kubernetes: Kubernetes, name: str, node: str, *devices: str) -> Object:
    """As another scheduler would."""
    claim_ = await kubernetes.get(f"{CLAIMS}/{name}")
    claim_["status"] = {
        "allocation": {
            "devices": {
                "results": [{"request": "gpu", "driver": DRIVER, "pool": node, "device": one} for one in devices]
            }
        }
    }
    return await kubernetes.put(f"{CLAIMS}/{name}/status", claim_)


async def test_slices_become_devices_marked_for_the_claims_that_wait(
    system: System, cluster: Any, kubernetes: Kubernetes
) -> None:
    plugin = {"nvidia.com/gpu": 2, "cpu": 16, "memory": "64Gi"}
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    await asyncio.to_thread(cluster.add_nodes, 2, prefix="gpu", resources=plugin, labels=labels)
    fleet = await Fleet(system, cluster, kubernetes).start()
    await fleet.until("gpu-0", lambda node: len(node.devices) == 2)
    # The pool's first slice alone says nothing; with the second the plugin's devices are not counted a second time.
    await kubernetes.post(CLASSES, device_class())
    first = [device("gpu-0", numa=0), device("gpu-1", numa=1)]
    second = [device("gpu-2", numa=1), device("sick", taints=[{"key": "sick", "effect": "NoSchedule"}])]
    await kubernetes.post(SLICES, resource_slice("gpu-0", first, name="one", of=2))
    await kubernetes.post(SLICES, resource_slice("gpu-1", gpus(1), name="other"))
    node = await fleet.until("gpu-1", lambda node: [one.device_id for one in node.devices if one.present] != [])
    await fleet.until("gpu-1", lambda node: devices_of(node)[0][0] == f"{DRIVER}/gpu-1/gpu-0")
    node = await fleet.until("gpu-0", lambda node: len(devices_of(node)) == 2)
    assert {one.device_id for one in node.devices} == {"gpu-0/nvidia.com-gpu/0", "gpu-0/nvidia.com-gpu/1"}
    await kubernetes.post(SLICES, resource_slice("gpu-0", second, name="two", of=2))
    node = await fleet.until("gpu-0", lambda node: len(devices_of(node)) == 4)
    names = ("gpu-0", "gpu-1", "gpu-2", "sick")
    assert devices_of(node) == [(f"{DRIVER}/gpu-0/{name}", index, "H100-SXM", "") for index, name in enumerate(names)]
    assert [dict(one.topology) for one in node.devices if one.present] == [
        {"numa": "0"},
        {"numa": "1"},
        {"numa": "1"},
        {},
    ]
    assert {tuple(one.traits) for one in node.devices if one.present} == {("resource-claim",)}
    # Two pods wait: one for any two, the other for two of one NUMA domain.
    any_two = claim("any-two", request("gpu", wish(2)))
    near = claim("near", request("gpu", wish(2)), constraints=[{"matchAttribute": f"{DRIVER}/numa"}])
    for wanted in (any_two, near):
        await kubernetes.post(CLAIMS, wanted)
        name = wanted["metadata"]["name"]
        await kubernetes.post(PODS, pod(name, resourceClaims=[{"name": "gpu", "resourceClaimName": name}]))
    wide = need_of([await kubernetes.get(f"{CLAIMS}/any-two")])
    narrow = need_of([await kubernetes.get(f"{CLAIMS}/near")])
    node = await fleet.until("gpu-0", lambda node: bool(marked(node, wide)) and bool(marked(node, narrow)))
    assert (marked(node, wide), marked(node, narrow)) == ([0, 1, 2], [1, 2])
    assert (node.labels[f"{NEED_PREFIX}{wide}"], node.labels[f"{NEED_PREFIX}{narrow}"]) == ("2", "2")
    other = await fleet.node("gpu-1")
    assert other is not None
    assert not marked(other, wide)
    # Somebody else allocates a device; then gives it back.
    await kubernetes.post(CLAIMS, claim("foreign"))
    await allocated(kubernetes, "foreign", "gpu-0", "gpu-1")
    node = await fleet.until("gpu-0", lambda node: devices_of(node)[1][3] == "default/foreign")
    assert [held for *_, held in devices_of(node)] == ["", "default/foreign", "", ""]
    await kubernetes.delete(f"{CLAIMS}/foreign")
    await fleet.until("gpu-0", lambda node: devices_of(node)[1][3] == "")
    # A taint rule takes a device from those that do not tolerate it.
    await kubernetes.post(
        f"{GROUP}/devicetaintrules",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": "hot"},
            "spec": {
                "deviceSelector": {"pool": "gpu-0", "device": "gpu-0"},
                "taint": {"key": "hot", "effect": "NoSchedule"},
            },
        },
    )
    await fleet.until("gpu-0", lambda node: marked(node, wide) == [1, 2])
    # The driver's next generation has fewer devices: those that are gone are not there any more.
    await kubernetes.delete(f"{SLICES}/two")
    newer = resource_slice("gpu-0", first[:1], name="three", generation=2)
    await kubernetes.post(SLICES, newer)
    node = await fleet.until("gpu-0", lambda node: len(devices_of(node)) == 1)
    assert f"{NEED_PREFIX}{wide}" not in node.labels
    # The driver is gone; the plugin's devices count again.
    for name in ("one", "three"):
        await kubernetes.delete(f"{SLICES}/{name}")
    node = await fleet.until("gpu-0", lambda node: len(devices_of(node)) == 2)
    assert devices_of(node)[0][0] == "gpu-0/nvidia.com-gpu/0"
