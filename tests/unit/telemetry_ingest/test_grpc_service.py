"""TelemetryService over a real channel: who may say what, and how refusals sound."""

from collections.abc import AsyncIterator

import grpc
import pytest

from berth.auth import Authenticator
from berth.grpc import GrpcServer, connect
from berth.v1 import fleet_pb2, telemetry_pb2
from berth.v1.telemetry_pb2_grpc import TelemetryServiceStub, add_TelemetryServiceServicer_to_server
from telemetry_ingest.adapters.grpc_service import TelemetryService
from telemetry_ingest.domain.targets import Target
from tests.unit.telemetry_ingest import pages
from tests.unit.telemetry_ingest.builders import World

AUTHENTICATOR = Authenticator("k" * 32)


class Served:
    def __init__(self, world: World, address: str) -> None:
        self.world = world
        self._address = address
        self.channels: list[grpc.aio.Channel] = []

    def as_(self, *roles: str, node: str = "") -> TelemetryServiceStub:
        channel = connect(self._address, AUTHENTICATOR.issue("test", roles=roles, node=node))
        self.channels.append(channel)
        return TelemetryServiceStub(channel)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    world = World()
    server = GrpcServer(
        "127.0.0.1:0",
        AUTHENTICATOR,
        [(add_TelemetryServiceServicer_to_server, TelemetryService(world.ingest), "berth.v1.TelemetryService")],
    )
    running = Served(world, await server.start())
    yield running
    for channel in running.channels:
        await channel.close()
    await server.stop(0)


def report(node: str, sequence: int, *, inventory: bool = False) -> telemetry_pb2.ReportTelemetryRequest:
    message = telemetry_pb2.NodeReport(
        telemetry=telemetry_pb2.NodeTelemetry(
            node=node,
            boot_id="b",
            sequence=sequence,
            devices=[
                telemetry_pb2.DeviceSample(
                    device_id=f"{node}/cpu", utilisation=0.5, temperature_celsius=float("nan"), memory_used_bytes=0
                )
            ],
        )
    )
    if inventory:
        message.inventory.name = node
        message.inventory.devices.add(device_id=f"{node}/cpu", device_class="CPU", stack="oneDNN", present=True)
    return telemetry_pb2.ReportTelemetryRequest(report=message)


async def stream(
    *requests: telemetry_pb2.ReportTelemetryRequest,
) -> AsyncIterator[telemetry_pb2.ReportTelemetryRequest]:
    for request in requests:
        yield request


async def test_a_stream_goes_on_after_a_refused_report(served: Served) -> None:
    empty = telemetry_pb2.ReportTelemetryRequest()
    answer = await served.as_("agent", node="h").ReportTelemetry(
        stream(report("h", 1), report("h", 2, inventory=True), report("h", 2), empty, report("h", 3))
    )
    assert (answer.accepted, answer.refused) == (2, 3)
    assert answer.message == "report: '': is empty: send inventory, telemetry or both"
    ((snapshot, _),) = served.world.ingest.drain()
    ((_, sample),) = snapshot.devices
    # Zero is a value, absent and NaN are unknown.
    assert (sample.memory_used_bytes, sample.utilisation, sample.temperature_celsius) == (0, 0.5, None)


async def test_an_agent_speaks_for_its_own_node_only(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.as_("agent", node="h").ReportTelemetry(stream(report("other", 1, inventory=True)))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "may report 'h' only" in (caught.value.details() or "")
    mixed = report("h", 1, inventory=True)
    mixed.report.inventory.name = "other"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.as_("agent", node="h").ReportTelemetry(stream(mixed))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert served.world.ingest.inventory.nodes == {}


async def test_nodes_are_declared_and_cordoned_by_admins(served: Served) -> None:
    node = fleet_pb2.Node(
        name="s1", cpu_milli=1000, devices=[fleet_pb2.Device(device_id="d", model="H100-SXM")], telemetry_exempt=True
    )
    admin, agent = served.as_("admin"), served.as_("agent", node="s1")
    assert (await admin.ApplyNodes(telemetry_pb2.ApplyNodesRequest(nodes=[node]))).applied == 1
    assert (await admin.ApplyNodes(telemetry_pb2.ApplyNodesRequest(nodes=[node]))).applied == 1
    assert served.world.store.names() == [("s1", 1)]
    cordon = telemetry_pb2.CordonNodeRequest(node="s1", cordoned=True, reason="fan")
    answer = await admin.CordonNode(cordon)
    assert (answer.node.schedulable, answer.node.cordon_reason, answer.node.version) == (False, "fan", 2)
    assert answer.node.devices[0].present
    assert answer.node.devices[0].memory_bytes == 80 * 10**9
    for call in (agent.ApplyNodes(telemetry_pb2.ApplyNodesRequest(nodes=[node])), agent.CordonNode(cordon)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await admin.CordonNode(telemetry_pb2.CordonNodeRequest(node="s9", cordoned=True))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (fleet_pb2.Node(name=""), "name: '': write a name"),
        (fleet_pb2.Node(name="a", cpu_milli=-1), "cpu_milli: '-1': write at least 0"),
        (fleet_pb2.Node(name="a", power_cap_watts=float("inf")), "power_cap_watts: 'inf'"),
        (fleet_pb2.Node(name="a", devices=[fleet_pb2.Device()]), r"devices\[0\].device_id: '': write 1 to 256"),
        (
            fleet_pb2.Node(name="a", devices=[fleet_pb2.Device(device_id="d")] * 2),
            r"devices\[1\].device_id: 'd': stands twice",
        ),
        (fleet_pb2.Node(name="a", devices=[fleet_pb2.Device(device_id="d", memory_bytes=-1)]), "memory_bytes: '-1'"),
    ],
)
async def test_a_broken_node_is_refused_with_its_field(served: Served, node: fleet_pb2.Node, says: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
        await served.as_("admin").ApplyNodes(telemetry_pb2.ApplyNodesRequest(nodes=[fleet_pb2.Node(name="good"), node]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert served.world.store.saved == []


async def test_targets_are_listed_with_what_is_wrong(served: Served) -> None:
    good, bad = Target("n1", "http://a/", "dcgm"), Target("n2", "http://b/", "auto")
    await served.world.declare(good, bad)
    await served.world.ingest.on_page(good, pages.DCGM, "")
    served.world.ingest.on_scrape_failed(bad, "http://b/: HTTP 500")
    answer = await served.as_().ListTargets(telemetry_pb2.ListTargetsRequest())
    assert [
        (one.node, one.healthy, one.devices, one.last_error, one.last_success.seconds) for one in answer.targets
    ] == [
        ("n1", True, 2, "", 1000),
        ("n2", False, 0, "http://b/: HTTP 500", 0),
    ]
