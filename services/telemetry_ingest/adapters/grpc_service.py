"""TelemetryService: agents report, operators declare and cordon, anybody may list the targets."""

import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import structlog

from berth.auth import current_principal
from berth.errors import InvalidInput, NotFound
from berth.v1 import telemetry_pb2
from berth.v1.telemetry_pb2_grpc import TelemetryServiceServicer
from telemetry_ingest.adapters.messages import node_message, node_record, reading_of, stamp
from telemetry_ingest.domain.inventory import FROM_AGENT, FROM_OPERATOR
from telemetry_ingest.handlers import REPORTS, Ingest

__all__ = ["TelemetryService"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

log = structlog.get_logger(__name__)


class TelemetryService(TelemetryServiceServicer):
    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    async def ReportTelemetry(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[telemetry_pb2.ReportTelemetryRequest],
        context: Context,
    ) -> telemetry_pb2.ReportTelemetryResponse:
        """A broken report is refused and the stream goes on; another node's report ends the stream."""
        accepted = refused = 0
        message = ""
        async for request in request_iterator:
            try:
                await self._take(request.report)
                accepted += 1
                REPORTS.labels("accepted").inc()
            except (InvalidInput, NotFound) as error:
                refused += 1
                message = str(error)
                REPORTS.labels("refused").inc()
                log.warning("report refused", error=message)
        return telemetry_pb2.ReportTelemetryResponse(accepted=accepted, refused=refused, message=message)

    async def _take(self, report: telemetry_pb2.NodeReport) -> None:
        if not report.HasField("inventory") and not report.HasField("telemetry"):
            raise InvalidInput.of("report", "", "is empty: send inventory, telemetry or both")
        for has, name in (
            (report.HasField("inventory"), report.inventory.name),
            (report.HasField("telemetry"), report.telemetry.node),
        ):
            if has:
                if not name:
                    raise InvalidInput.of("node", "", "name the node that the report is about")
                current_principal().require_node(name)
        if report.HasField("inventory"):
            await self._ingest.on_agent_inventory(node_record(report.inventory, FROM_AGENT))
        if report.HasField("telemetry"):
            telemetry = report.telemetry
            reading = reading_of(telemetry, received_at=time.time(), monotonic=time.monotonic())
            self._ingest.on_agent_telemetry(telemetry.node, telemetry.boot_id, telemetry.sequence, reading)

    async def ApplyNodes(  # type: ignore[override]
        self,
        request: telemetry_pb2.ApplyNodesRequest,
        context: Context,
    ) -> telemetry_pb2.ApplyNodesResponse:
        current_principal().require_role("admin")
        records = [node_record(node, FROM_OPERATOR) for node in request.nodes]
        return telemetry_pb2.ApplyNodesResponse(applied=await self._ingest.apply_nodes(records))

    async def CordonNode(  # type: ignore[override]
        self,
        request: telemetry_pb2.CordonNodeRequest,
        context: Context,
    ) -> telemetry_pb2.CordonNodeResponse:
        current_principal().require_role("admin")
        record = await self._ingest.cordon(request.node, request.cordoned, request.reason)
        return telemetry_pb2.CordonNodeResponse(node=node_message(record))

    async def ListTargets(  # type: ignore[override]
        self,
        request: telemetry_pb2.ListTargetsRequest,
        context: Context,
    ) -> telemetry_pb2.ListTargetsResponse:
        return telemetry_pb2.ListTargetsResponse(
            targets=[
                telemetry_pb2.ScrapeTarget(
                    node=status.target.node,
                    url=status.target.url,
                    format=status.target.format,
                    healthy=status.healthy,
                    last_error=status.last_error,
                    last_success=stamp(status.last_success) if status.last_success else None,
                    devices=status.devices,
                )
                for status in self._ingest.targets()
            ]
        )
