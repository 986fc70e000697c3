"""A cluster's nodes in the inventory, beside what files, agents and exporters say of them."""

from dataclasses import replace

import pytest

from berth.errors import InvalidInput, NotFound
from berth.kubernetes.devices import DeviceResources
from telemetry_ingest.adapters.messages import node_message, node_record
from telemetry_ingest.domain.board import SourceReading
from telemetry_ingest.domain.inventory import FROM_KUBERNETES, DeviceRecord, NodeRecord, TaintRecord
from telemetry_ingest.domain.kubernetes.nodes import facts_of
from telemetry_ingest.domain.kubernetes.pods import use_of
from telemetry_ingest.domain.kubernetes.records import joined
from telemetry_ingest.domain.model import DeviceReading, NodeReading
from telemetry_ingest.domain.targets import NodeDeclaration, Target
from tests.unit.telemetry_ingest import pages
from tests.unit.telemetry_ingest.builders import World
from tests.unit.telemetry_ingest.kubernetes.builders import a_node, a_pod

RESOURCES = DeviceResources()
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
EXPORTER = Target("n1", "http://10.0.0.1:9400/metrics", "dcgm")


async def tell(world: World, node: dict[str, object], *pods: dict[str, object]) -> NodeRecord:
    uses = [use for pod in pods if (use := use_of(pod, RESOURCES)) is not None]
    await world.ingest.on_cluster([(facts_of(node, RESOURCES), uses)], RESOURCES)
    return world.ingest.inventory.nodes[str(node["metadata"]["name"])]  # type: ignore[index]


async def test_a_node_of_the_cluster_whole() -> None:
    world = World()
    node = a_node(
        resources={"nvidia.com/gpu": "1", "pods": "110"}, labels=H100, taints=[{"key": "t", "effect": "NoSchedule"}]
    )
    record = await tell(world, node, a_pod("p", {"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": "1"}))
    assert record == NodeRecord(
        name="n1",
        devices=(
            DeviceRecord(
                "n1/nvidia.com-gpu/0", 0, "H100-SXM", "GPU", "CUDA", 80_000_000_000, 700.0,
                reported_model="NVIDIA-H100-80GB-HBM3", held_by="ml/p",
            ),
        ),
        cpu_milli=64_000,
        memory_bytes=512 << 30,
        labels=tuple(H100.items()),
        executors=("kubernetes",),
        boot_id="b1",
        version=1,
        updated_at=1000.0,
        telemetry_exempt=True,
        origin=FROM_KUBERNETES,
        taints=(TaintRecord("t", "", "NoSchedule"),),
        cpu_milli_elsewhere=2000,
        memory_bytes_elsewhere=1 << 30,
        pod_limit=110,
        pods_elsewhere=1,
    )  # fmt: skip
    # Nothing is lost on its way through the database and Kafka.
    assert node_record(node_message(record), FROM_KUBERNETES) == record


def test_what_is_declared_of_a_device_is_kept_on_its_way() -> None:
    device = DeviceRecord(
        "d", topology=(("link", "1"), ("numa", "0")), partitionable=True, partition="1g.5gb", held_by="x"
    )
    record = NodeRecord("n1", devices=(device,), origin=FROM_KUBERNETES)
    assert node_record(node_message(record), FROM_KUBERNETES) == record


async def test_pods_of_berths_do_not_change_the_record() -> None:
    world = World()
    node = a_node(resources={"nvidia.com/gpu": "2"})
    await tell(world, node)
    for count in range(5):
        annotations = {"berth.dev/job": f"j{count}", "berth.dev/devices": "n1/nvidia.com-gpu/0"}
        await tell(world, node, a_pod(f"p{count}", {"cpu": "1", "nvidia.com/gpu": "1"}, annotations=annotations))
    assert world.store.names() == [("n1", 1)]


async def test_an_operators_cordon_and_the_clusters_stand_side_by_side() -> None:
    world = World()
    await tell(world, a_node())
    await world.ingest.cordon("n1", True, "fan")
    record = await tell(world, a_node(unschedulable=True))
    assert (record.schedulable, record.cordon_reason) == (False, "fan")
    # The operator lifts hers; the cluster's stays at once, and only the cluster lifts it.
    record = await world.ingest.cordon("n1", False, "")
    assert (record.schedulable, record.cordon_reason) == (False, "Kubernetes: cordoned (spec.unschedulable)")
    assert await tell(world, a_node(unschedulable=True)) == record
    with pytest.raises(InvalidInput, match="kubectl uncordon"):
        await world.ingest.cordon("n1", False, "")
    record = await tell(world, a_node())
    assert (record.schedulable, record.cordon_reason) == (True, "")


async def test_an_uncordon_waits_for_the_clusters_word_after_a_restart() -> None:
    world = World()
    record = replace(NodeRecord("n1", origin=FROM_KUBERNETES, version=3), schedulable=False, cordon_reason="fan")
    world.ingest.inventory.commit([record])
    with pytest.raises(InvalidInput, match="'n1': the cluster has not told of it yet; try again in a moment"):
        await world.ingest.cordon("n1", False, "")
    assert world.ingest.inventory.nodes["n1"] == record
    await tell(world, a_node())
    record = await world.ingest.cordon("n1", False, "")
    assert (record.schedulable, record.cordon_reason) == (True, "")


async def test_devices_that_went_stay_until_their_work_settles() -> None:
    world = World()
    await tell(world, a_node(resources={"nvidia.com/gpu": "2"}))
    record = await tell(world, a_node(resources={"amd.com/gpu": "1"}))
    assert [(one.device_id, one.present) for one in record.devices] == [
        ("n1/amd.com-gpu/0", True), ("n1/nvidia.com-gpu/0", False), ("n1/nvidia.com-gpu/1", False),
    ]  # fmt: skip
    record = await tell(world, a_node(resources={"nvidia.com/gpu": "1"}))
    assert [one.device_id for one in record.devices if one.present] == ["n1/nvidia.com-gpu/0"]


async def test_a_node_that_left_is_removed_and_may_come_back() -> None:
    world = World()
    await tell(world, a_node())
    await world.ingest.on_cluster([], RESOURCES, gone=["n1", "never-there"])
    assert world.ingest.inventory.nodes["n1"].removed
    assert world.ingest.nodes_of_cluster() == []
    record = await tell(world, a_node())
    assert (record.removed, record.version) == (False, 3)


async def test_an_exporter_fills_in_what_the_kubelet_does_not_know_and_adds_no_device() -> None:
    world = World()
    node = a_node(resources={"nvidia.com/gpu": "2"})
    await tell(world, node)
    world.ingest.on_found_targets([EXPORTER])
    assert world.scraped == [EXPORTER]
    # Found, but not heard of yet: the node takes work.
    assert (await tell(world, node)).telemetry_exempt
    await world.ingest.on_page(EXPORTER, pages.DCGM, "text/plain")
    record = world.ingest.inventory.nodes["n1"]
    assert not record.telemetry_exempt
    assert [(one.device_id, one.model) for one in record.devices] == [
        ("n1/nvidia.com-gpu/0", "H100-SXM"), ("n1/nvidia.com-gpu/1", "H100-SXM"),
    ]  # fmt: skip
    assert record.devices[0].memory_bytes > 0
    (snapshot, _) = world.ingest.drain()[0]
    assert {identity for identity, _ in snapshot.devices} <= {one.device_id for one in record.devices}
    assert dict(snapshot.devices)["n1/nvidia.com-gpu/0"].temperature_celsius is not None
    # Both tell again: no ping-pong.
    version = record.version
    for _ in range(2):
        await world.ingest.on_page(EXPORTER, pages.DCGM, "text/plain")
        await tell(world, node)
    assert world.ingest.inventory.nodes["n1"].version == version
    # The exporter goes: nobody reports, and that is no hindrance.
    world.ingest.on_found_targets([])
    assert (await tell(world, node)).telemetry_exempt


async def test_the_targets_file_goes_before_what_is_found_and_adds_a_power_budget() -> None:
    world = World()
    await tell(world, a_node())
    own = Target("n1", EXPORTER.url, "auto")
    other = Target("n1", "http://10.0.0.1:9100/metrics", "node_exporter")
    world.ingest.on_found_targets([EXPORTER, other])
    await world.ingest.on_targets([NodeDeclaration("n1", pool="other", power_cap_watts=900.0, targets=(own,))])
    assert world.scraped == [own, other]
    record = world.ingest.inventory.nodes["n1"]
    assert (record.pool, record.power_cap_watts, record.origin) == ("default", 900.0, FROM_KUBERNETES)
    assert (await tell(world, a_node())).power_cap_watts == 900.0
    await world.ingest.on_targets([])
    record = world.ingest.inventory.nodes["n1"]
    assert (record.removed, record.power_cap_watts, world.scraped) == (False, 0.0, [EXPORTER, other])


async def test_an_operator_cannot_declare_a_node_of_the_cluster() -> None:
    world = World()
    await tell(world, a_node())
    with pytest.raises(InvalidInput, match="node of the Kubernetes cluster"):
        await world.ingest.apply_nodes([NodeRecord("n1")])


async def test_a_node_that_a_file_declared_first_becomes_the_clusters() -> None:
    world = World()
    await world.declare(EXPORTER)
    await world.ingest.on_page(EXPORTER, pages.DCGM, "text/plain")
    before = [one.device_id for one in world.ingest.inventory.nodes["n1"].devices]
    record = await tell(world, a_node(resources={"nvidia.com/gpu": "1"}))
    assert [one.device_id for one in record.devices if one.present] == ["n1/nvidia.com-gpu/0"]
    assert [one.device_id for one in record.devices if not one.present] == before


async def test_an_agent_on_a_clusters_node_speaks_of_the_kubelets_devices() -> None:
    world = World()
    await tell(world, a_node(resources={"nvidia.com/gpu": "1"}))
    reading = SourceReading((("GPU-a", DeviceReading(power_watts=99.0)),), NodeReading(), 1000.0, 10.0)
    with pytest.raises(NotFound, match="send its inventory first"):
        world.ingest.on_agent_telemetry("n1", "b", 1, reading)
    theirs = DeviceRecord("GPU-a", 0, "H100-SXM", "GPU", "CUDA")
    extra = DeviceRecord("n1/cpu", 0, "CPU", "CPU", "oneDNN")
    await world.ingest.on_agent_inventory(NodeRecord("n1", devices=(theirs, extra), executors=("process",)))
    record = world.ingest.inventory.nodes["n1"]
    assert [(one.device_id, one.model) for one in record.devices] == [("n1/nvidia.com-gpu/0", "H100-SXM")]
    assert record.executors == ("kubernetes",)
    world.ingest.on_agent_telemetry("n1", "b", 1, reading)
    (snapshot, _) = world.ingest.drain()[0]
    assert snapshot.devices == (("n1/nvidia.com-gpu/0", DeviceReading(power_watts=99.0)),)


def test_devices_are_joined_by_index_or_else_in_order() -> None:
    ours = [DeviceRecord(f"n1/nvidia.com-gpu/{index}", index, stack="CUDA") for index in range(2)]
    amd = DeviceRecord("n1/amd.com-gpu/0", 0, stack="ROCm")

    def of(*observed: tuple[str, int, str]) -> dict[str, str]:
        return {theirs: one.device_id for theirs, one in joined([*ours, amd], observed).items()}

    assert of(("u1", 1, "CUDA"), ("u0", 0, "CUDA"), ("m", 0, "ROCm")) == {
        "u0": "n1/nvidia.com-gpu/0", "u1": "n1/nvidia.com-gpu/1", "m": "n1/amd.com-gpu/0",
    }  # fmt: skip
    # One of them fell silent: the other is still itself.
    assert of(("u1", 1, "CUDA")) == {"u1": "n1/nvidia.com-gpu/1"}
    # Counted otherwise: in order; what the kubelet does not offer joins nothing.
    assert of(("a", 4, "CUDA"), ("b", 6, "CUDA"), ("c", 9, "CUDA")) == {
        "a": "n1/nvidia.com-gpu/0", "b": "n1/nvidia.com-gpu/1",
    }  # fmt: skip
    assert of(("cpu", 0, "oneDNN")) == {}
    cuts = [replace(one, partition="1g.5gb") for one in ours]
    assert joined(cuts, [("u0", 0, "CUDA")]) == {}
