"""ProfileService over gRPC. Reading is open to all callers; writing needs the role `profiler` or `admin`."""

from typing import Any

from berth import catalogue
from berth.auth import current_principal
from berth.v1 import profiles_pb2 as pb
from berth.v1 import profiles_pb2_grpc as rpc
from profile_store.adapters.encoding import accelerator_message, profile_from, profile_message
from profile_store.handlers import ProfileStore

__all__ = ["WRITER_ROLE", "ProfileService"]

WRITER_ROLE = "profiler"


class ProfileService(rpc.ProfileServiceServicer):
    """Errors are raised as berth.errors; the server's guard turns them into status codes."""

    def __init__(self, store: ProfileStore) -> None:
        self._store = store

    async def PutProfiles(self, request: pb.PutProfilesRequest, context: Any) -> pb.PutProfilesResponse:
        # A profile steers everybody's placements, not only those of one tenant.
        current_principal().require_role(WRITER_ROLE)
        stored = await self._store.put([profile_from(message) for message in request.profiles])
        return pb.PutProfilesResponse(changed=stored.changed, unchanged=stored.unchanged)

    async def ImportProfiles(self, request: pb.ImportProfilesRequest, context: Any) -> pb.ImportProfilesResponse:
        current_principal().require_role(WRITER_ROLE)
        stored = await self._store.import_document(request.format, request.content, request.source)
        return pb.ImportProfilesResponse(changed=stored.changed, unchanged=stored.unchanged, skipped=stored.skipped)

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

    async def ListAccelerators(self, request: pb.ListAcceleratorsRequest, context: Any) -> pb.ListAcceleratorsResponse:
        return pb.ListAcceleratorsResponse(accelerators=map(accelerator_message, catalogue.load()))
