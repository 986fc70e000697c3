"""ProfileService over gRPC. Reading is open to all callers; writing needs the role `profiler` or `admin`."""

from collections.abc import AsyncIterator
from typing import Any

from berth import catalogue
from berth.auth import current_principal
from berth.errors import InvalidInput
from berth.v1 import profiles_pb2 as pb
from berth.v1 import profiles_pb2_grpc as rpc
from profile_store.adapters.encoding import (
    accelerator_message,
    prediction_message,
    profile_from,
    profile_message,
    work_from,
)
from profile_store.adapters.estimates import PostgresEstimates
from profile_store.adapters.observations import learnt_message
from profile_store.domain.importers import LARGEST, Hints
from profile_store.domain.prediction.question import Question
from profile_store.handlers import ProfileStore

__all__ = ["WRITER_ROLE", "ProfileService"]

WRITER_ROLE = "profiler"


class ProfileService(rpc.ProfileServiceServicer):
    """Errors are raised as berth.errors; the server's guard turns them into status codes."""

    def __init__(self, store: ProfileStore, estimates: PostgresEstimates) -> None:
        self._store = store
        self._estimates = estimates

    async def PutProfiles(self, request: pb.PutProfilesRequest, context: Any) -> pb.PutProfilesResponse:
        # A profile steers everybody's placements, not only those of one tenant.
        current_principal().require_role(WRITER_ROLE)
        stored = await self._store.put([profile_from(message) for message in request.profiles])
        return pb.PutProfilesResponse(changed=stored.changed, unchanged=stored.unchanged)

    async def ImportProfiles(self, request: pb.ImportProfilesRequest, context: Any) -> pb.ImportProfilesResponse:
        current_principal().require_role(WRITER_ROLE)
        return await self._import(request, request.content)

    async def UploadProfiles(
        self, request_iterator: AsyncIterator[pb.UploadProfilesRequest], context: Any
    ) -> pb.UploadProfilesResponse:
        current_principal().require_role(WRITER_ROLE)
        first: pb.UploadProfilesRequest | None = None
        content = bytearray()
        async for piece in request_iterator:
            first = first or piece
            content += piece.content
            if len(content) > LARGEST:
                raise InvalidInput.of("content", f"over {LARGEST} bytes", "too large: pack it with gzip, or split it")
        if first is None:
            raise InvalidInput.of("content", "", "send the file in one piece or more")
        return pb.UploadProfilesResponse(result=await self._import(first, bytes(content)))

    async def _import(
        self, request: pb.ImportProfilesRequest | pb.UploadProfilesRequest, content: bytes
    ) -> pb.ImportProfilesResponse:
        hints = Hints(
            workload=request.hints.workload.strip(),
            accelerator=request.hints.accelerator.strip(),
            devices=request.hints.devices,
            precision=request.hints.precision.strip(),
            batch_size=request.hints.batch_size,
            decimal=request.hints.decimal,
        )
        stored = await self._store.import_document(request.format, content, request.source, hints)
        return pb.ImportProfilesResponse(
            changed=stored.changed,
            unchanged=stored.unchanged,
            skipped=stored.skipped,
            format=stored.format,
            taken=stored.taken,
        )

    async def GetProfile(self, request: pb.GetProfileRequest, context: Any) -> pb.GetProfileResponse:
        found = await self._store.get(request.workload, request.accelerator, request.devices)
        return pb.GetProfileResponse(profile=profile_message(found))

    async def ListProfiles(self, request: pb.ListProfilesRequest, context: Any) -> pb.ListProfilesResponse:
        page = await self._store.list(request.workload, request.accelerator, request.page_size, request.page_token)
        return pb.ListProfilesResponse(profiles=map(profile_message, page.profiles), next_page_token=page.next_token)

    async def QueryProfiles(self, request: pb.QueryProfilesRequest, context: Any) -> pb.QueryProfilesResponse:
        ranking = await self._store.query(request.workload, request.devices)
        return pb.QueryProfilesResponse(
            profiles=map(profile_message, ranking.profiles), suggestions=ranking.suggestions
        )

    async def PredictProfile(self, request: pb.PredictProfileRequest, context: Any) -> pb.PredictProfileResponse:
        if request.keep:
            current_principal().require_role(WRITER_ROLE)
        question = Question(
            workload=request.workload,
            accelerator=request.accelerator,
            devices=request.devices,
            batch_size=request.batch_size if request.HasField("batch_size") else None,
            concurrency=request.concurrency if request.HasField("concurrency") else None,
            precision=request.precision.strip().casefold() if request.HasField("analysis") else request.precision,
            power_limit_watts=request.power_limit_watts if request.HasField("power_limit_watts") else None,
            work=work_from(request.analysis) if request.HasField("analysis") else None,
        )
        found, suggestions = await self._store.predict(question, keep=request.keep)
        return pb.PredictProfileResponse(
            predictions=map(prediction_message, found.predictions), unknown=found.unknown, suggestions=suggestions
        )

    async def ListLearnt(self, request: pb.ListLearntRequest, context: Any) -> pb.ListLearntResponse:
        if not request.workload.isprintable():
            raise InvalidInput.of("workload", ascii(request.workload), "printable characters only")
        found = await self._estimates.listed(request.workload)
        return pb.ListLearntResponse(learnt=[learnt_message(key, estimate) for key, estimate in found])

    async def ListAccelerators(self, request: pb.ListAcceleratorsRequest, context: Any) -> pb.ListAcceleratorsResponse:
        return pb.ListAcceleratorsResponse(accelerators=map(accelerator_message, catalogue.load()))
