"""One resource's device plugin, as the kubelet calls it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import grpc
import structlog
from prometheus_client import Counter

from berth.device_plugin.inventory import Device, Grant, Refusal, Resource
from berth.device_plugin.preference import preferred
from berth.kubelet.v1beta1 import device_plugin_pb2 as pb
from berth.kubelet.v1beta1 import device_plugin_pb2_grpc as pb_grpc

__all__ = ["HEALTHY", "OPTIONS", "UNHEALTHY", "VERSION", "Advertised", "DevicePlugin", "device_list"]

log = structlog.get_logger(__name__)

VERSION = "v1beta1"
HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
OPTIONS = pb.DevicePluginOptions(pre_start_required=False, preferred_allocation_available=True)

Response = TypeVar("Response")

CALLS = Counter("berth_device_plugin_calls_total", "Calls of the kubelet.", ["resource", "call", "outcome"])


class Advertised:
    """What is advertised of one resource now. Those who wait see the latest state, not each one in between."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self._changed = asyncio.Event()

    def publish(self, resource: Resource) -> None:
        self.resource = resource
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def changed(self) -> Awaitable[Any]:
        """Done at the next publish after this call."""
        return self._changed.wait()


class DevicePlugin(pb_grpc.DevicePluginServicer):
    """`on_follow`: called when the kubelet begins or ends to follow the list; `followers` says how many do now."""

    def __init__(self, advertised: Advertised, on_follow: Callable[[], None] = lambda: None) -> None:
        self._advertised = advertised
        self._on_follow = on_follow
        self._closing = asyncio.Event()
        self.followers = 0

    def close(self) -> None:
        """Ends every stream after what is advertised now was sent."""
        self._closing.set()

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> pb.DevicePluginOptions:
        return OPTIONS

    async def ListAndWatch(self, request: Any, context: Any) -> AsyncIterator[pb.ListAndWatchResponse]:
        self.followers += 1
        self._on_follow()
        closing = asyncio.ensure_future(self._closing.wait())
        sent: pb.ListAndWatchResponse | None = None
        try:
            while True:
                closed = closing.done()
                changed = asyncio.ensure_future(self._advertised.changed())
                try:
                    current = device_list(self._advertised.resource.devices)
                    if current != sent:
                        sent = current
                        yield current
                    if closed:
                        return
                    await asyncio.wait({changed, closing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        finally:
            closing.cancel()
            self.followers -= 1
            self._on_follow()

    async def GetPreferredAllocation(
        self, request: pb.PreferredAllocationRequest, context: Any
    ) -> pb.PreferredAllocationResponse:
        def answer(resource: Resource) -> pb.PreferredAllocationResponse:
            return pb.PreferredAllocationResponse(
                containers=[
                    pb.ContainerPreferredAllocationResponse(
                        device_ids=preferred(resource, one.available, one.required, one.size)
                    )
                    for one in request.containers
                ]
            )

        return await self._answered("GetPreferredAllocation", answer, context, grpc.StatusCode.INVALID_ARGUMENT)

    async def Allocate(self, request: pb.AllocateRequest, context: Any) -> pb.AllocateResponse:
        def answer(resource: Resource) -> pb.AllocateResponse:
            return pb.AllocateResponse(
                containers=[_granted(resource.grant_of(one.device_ids)) for one in request.containers]
            )

        response = await self._answered("Allocate", answer, context, grpc.StatusCode.FAILED_PRECONDITION)
        devices = [list(one.device_ids) for one in request.containers]
        log.info("allocated", resource=self._advertised.resource.name, devices=devices)
        return response

    async def PreStartContainer(
        self, request: pb.PreStartContainerRequest, context: Any
    ) -> pb.PreStartContainerResponse:
        def answer(resource: Resource) -> pb.PreStartContainerResponse:
            resource.healthy_devices(request.device_ids)
            return pb.PreStartContainerResponse()

        return await self._answered("PreStartContainer", answer, context, grpc.StatusCode.FAILED_PRECONDITION)

    async def _answered(
        self, call: str, answer: Callable[[Resource], Response], context: Any, refused: grpc.StatusCode
    ) -> Response:
        resource = self._advertised.resource
        try:
            response = answer(resource)
        except Refusal as refusal:
            CALLS.labels(resource.name, call, "refused").inc()
            log.warning("refused", call=call, reason=str(refusal))
            await context.abort(refused, str(refusal))
            raise
        CALLS.labels(resource.name, call, "answered").inc()
        return response


def device_list(devices: Iterable[Device]) -> pb.ListAndWatchResponse:
    return pb.ListAndWatchResponse(
        devices=[
            pb.Device(
                id=device.id,
                health=HEALTHY if device.healthy else UNHEALTHY,
                # Absent is unknown: an empty topology is not sent.
                topology=pb.Topology(numa_nodes=[pb.NumaNode(id=node) for node in device.numa])
                if device.numa
                else None,
            )
            for device in devices
        ]
    )


def _granted(grant: Grant) -> pb.ContainerAllocateResponse:
    return pb.ContainerAllocateResponse(
        environment=grant.environment,
        annotations=grant.annotations,
        mounts=[
            pb.Mount(container_path=one.container, host_path=one.host, read_only=one.read_only) for one in grant.mounts
        ],
        device_files=[
            pb.DeviceFile(container_path=one.container, host_path=one.host, permissions=one.permissions)
            for one in grant.files
        ],
        cdi_devices=[pb.CdiDevice(name=name) for name in grant.cdi],
    )
