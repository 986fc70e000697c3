"""A stand-in for the kubelet's device manager, over real sockets; the real one is in tests/kubernetes."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from berth.kubelet.v1beta1 import device_plugin_pb2 as pb
from berth.kubelet.v1beta1 import device_plugin_pb2_grpc as pb_grpc

RESOURCE = re.compile(r"(?!([^/]*\.)?kubernetes\.io/)(?!requests\.)[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-A-Za-z0-9_.]{1,63}")


@dataclass
class Endpoint:
    resource: str
    socket: str
    channel: grpc.aio.Channel
    options: pb.DevicePluginOptions
    following: asyncio.Task[None] | None = None

    @property
    def stub(self) -> Any:
        return pb_grpc.DevicePluginStub(self.channel)


@dataclass
class StrictKubeletStandIn:
    """Follows the rules of Kubernetes 1.37's device manager: what it refuses, this refuses; what it forgets, this
    forgets. As it starts it removes every socket in its folder. `refuse`: says no to each registration; `deaf`: takes
    it, and never follows the list."""

    folder: Path
    refuse: str = ""
    deaf: bool = False
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    lists: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Resource -> each list that was pushed: device -> health."""
    numa: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    allocated: dict[str, set[str]] = field(default_factory=dict)
    registrations: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    connected: set[str] = field(default_factory=set)
    _server: Any = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> "StrictKubeletStandIn":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        for path in self.folder.iterdir():
            if path.is_socket():
                path.unlink()
        self._server = grpc.aio.server()
        pb_grpc.add_RegistrationServicer_to_server(_Registration(self), self._server)
        self._server.add_insecure_port(f"unix:{self.folder / 'kubelet.sock'}")
        await self._server.start()

    async def stop(self) -> None:
        """Ends as a kubelet does: it lets go of every plugin and keeps what containers have."""
        try:
            for endpoint in list(self.endpoints.values()):  # a plugin may still register
                if endpoint.following is not None:
                    endpoint.following.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await endpoint.following
                await endpoint.channel.close()
            self.endpoints.clear()
            self.lists.clear()
            self.connected.clear()
        finally:  # a server that was not stopped is waited for without end when the process ends
            await self._server.stop(None)

    async def until(self, what: Callable[["StrictKubeletStandIn"], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: what(self))

    async def tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def capacity(self, resource: str) -> tuple[int, int]:
        """Devices in all, and healthy ones, as a node's capacity and allocatable."""
        devices = self.lists[resource][-1] if self.lists.get(resource) else {}
        healthy = sum(health == "Healthy" for health in devices.values())
        return len(devices), healthy if resource in self.connected else 0

    async def allocate(self, resource: str, count: int) -> tuple[list[str], pb.ContainerAllocateResponse]:
        """As for a new container: healthy free devices, the plugin's preference where it is one, then Allocate."""
        endpoint = self.endpoints[resource]
        devices = self.lists[resource][-1]
        used = self.allocated.setdefault(resource, set())
        free = {one for one, health in devices.items() if health == "Healthy"} - used
        if len(free) < count:
            raise AssertionError(f"requested {count}, available {len(free)}")
        chosen: set[str] = set()
        if endpoint.options.preferred_allocation_available:
            request = pb.ContainerPreferredAllocationRequest(available=sorted(free, reverse=True), size=count)
            answer = await endpoint.stub.GetPreferredAllocation(pb.PreferredAllocationRequest(containers=[request]))
            wished = set(answer.containers[0].device_ids)
            # The kubelet takes what is free of a wish. Here a wish that is not wholly free is a fault.
            assert wished <= free, wished - free
            assert len(wished) == count, wished
            chosen |= wished
        chosen |= set(sorted(free - chosen)[: count - len(chosen)])
        request = pb.ContainerAllocateRequest(device_ids=sorted(chosen))
        response = await endpoint.stub.Allocate(pb.AllocateRequest(containers=[request]))
        assert len(response.containers) == 1
        used |= chosen
        return sorted(chosen), response.containers[0]


class _Registration(pb_grpc.RegistrationServicer):
    def __init__(self, kubelet: StrictKubeletStandIn) -> None:
        self._kubelet = kubelet

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.Empty:
        kubelet = self._kubelet
        refusal = kubelet.refuse
        if request.version != "v1beta1":
            refusal = f"version {request.version} is not supported"
        elif not RESOURCE.fullmatch(request.resource_name):
            refusal = f"{request.resource_name} is no extended resource"
        elif "/" in request.endpoint or not (kubelet.folder / request.endpoint).is_socket():
            refusal = f"no socket {request.endpoint}"
        elif any(one.socket == request.endpoint for one in kubelet.endpoints.values()):
            refusal = f"already connected: {request.endpoint}"
        if not refusal:
            refusal = await self._connect(request)
        if refusal:
            kubelet.refusals.append(refusal)
            await kubelet.tell()
            await context.abort(grpc.StatusCode.UNKNOWN, refusal)
        kubelet.registrations.append((request.resource_name, request.endpoint))
        await kubelet.tell()
        return pb.Empty()

    async def _connect(self, request: pb.RegisterRequest) -> str:
        """Calls back before it answers: a plugin that serves only afterwards is refused."""
        kubelet = self._kubelet
        channel = grpc.aio.insecure_channel(f"unix:{kubelet.folder / request.endpoint}")
        try:
            options = await pb_grpc.DevicePluginStub(channel).GetDevicePluginOptions(pb.Empty(), timeout=10)
        except grpc.RpcError as error:
            await channel.close()
            return f"failed to dial the plugin: {error.details()}"
        endpoint = Endpoint(request.resource_name, request.endpoint, channel, options)
        kubelet.endpoints[request.resource_name] = endpoint
        if not kubelet.deaf:
            endpoint.following = asyncio.create_task(self._follow(endpoint))
        return ""

    async def _follow(self, endpoint: Endpoint) -> None:
        kubelet = self._kubelet
        try:
            async for response in endpoint.stub.ListAndWatch(pb.Empty()):
                kubelet.connected.add(endpoint.resource)
                assert len({one.id for one in response.devices}) == len(response.devices), "an id twice"
                kubelet.lists.setdefault(endpoint.resource, []).append({one.id: one.health for one in response.devices})
                kubelet.numa[endpoint.resource] = {
                    one.id: [node.id for node in one.topology.numa_nodes] for one in response.devices
                }
                await kubelet.tell()
        except grpc.RpcError:
            pass
        # The last plugin of a resource is gone: its devices count as unhealthy.
        if kubelet.endpoints.get(endpoint.resource) is endpoint:
            del kubelet.endpoints[endpoint.resource]
            kubelet.connected.discard(endpoint.resource)
        await endpoint.channel.close()
        await kubelet.tell()
