"""The objects that say what gangs are: mirrored groups, and owners that are read when needed."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from berth.kubernetes.client import Kubernetes, KubernetesError, Object
from berth.kubernetes.informer import Informer
from binder.pods.groups import GangRef

__all__ = ["GroupObjects"]

log = structlog.get_logger(__name__)

SYNC_SECONDS = 10.0


class GroupObjects:
    """`mirrors`: informers by API group, run by somebody else; the first that is served counts."""

    def __init__(self, client: Kubernetes, mirrors: Mapping[str, Sequence[Informer]]) -> None:
        self._client = client
        self._mirrors = mirrors

    def listen(self, changed: Callable[[GangRef], None]) -> None:
        """`changed` hears of every group that comes, changes or goes."""

        def listener(api: str) -> Callable[[Object | None, Object | None], None]:
            def heard(old: Object | None, new: Object | None) -> None:
                thing = new or old
                if thing is not None:
                    metadata = thing["metadata"]
                    changed(GangRef(api, metadata.get("namespace", "default"), metadata["name"]))

            return heard

        for api, informers in self._mirrors.items():
            for informer in informers:
                informer.listen(listener(api))

    async def wait(self) -> None:
        """Until they are listed, but for a moment only: groups that the binder may not read are not waited for."""
        waits = [asyncio.ensure_future(one.synced.wait()) for some in self._mirrors.values() for one in some]
        try:
            if waits:
                await asyncio.wait(waits, timeout=SYNC_SECONDS)
        finally:
            for one in waits:
                one.cancel()
        for api, informers in self._mirrors.items():
            if not any(one.synced.is_set() for one in informers):
                log.warning("groups cannot be read", api=api, remedy="grant the binder list and watch on its podgroups")

    def mirrored(self, ref: GangRef) -> Object | None:
        """The group as last heard; None: it is not there. Raises LookupError where that cannot be known."""
        informers = self._mirrors.get(ref.api, ())
        if informers and not any(one.synced.is_set() for one in informers):
            raise LookupError(f"{ref.shown} cannot be read: grant the binder list and watch on podgroups.{ref.api}")
        for informer in informers:
            if informer.served and informer.synced.is_set():
                return informer.objects.get(f"{ref.namespace}/{ref.name}")
        return None

    async def owner(self, ref: GangRef) -> Object | None:
        """Read now; None: it is not there, or may not be read. Raises Unanswered."""
        try:
            return await self._client.get(ref.path)
        except KubernetesError as error:
            log.info("gang's owner cannot be read", path=ref.path, error=error.message)
            return None
