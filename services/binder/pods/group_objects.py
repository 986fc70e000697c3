"""The objects that say what gangs are: mirrored groups, and owners that are read when needed."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.informer import Informer
from berth.kubernetes.pods.groups import GangRef

__all__ = ["GroupObjects"]

log = structlog.get_logger(__name__)

SYNC_SECONDS = 10.0
NO_RIGHTS_SECONDS = 30.0
"""An API server that has just started refuses what it will grant in a moment."""


class GroupObjects:
    """`mirrors`: informers by API group, run by somebody else; the first that is served counts."""

    def __init__(
        self,
        client: Kubernetes,
        mirrors: Mapping[str, Sequence[Informer]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._mirrors = mirrors
        self._clock = clock
        self._forbidden: dict[str, float] = {}
        """Since when owners may not be read, by API."""

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
        """Read now; None: it is not there, or may not be read for good. Raises Unanswered."""
        try:
            found = await self._client.get(ref.path)
        except KubernetesError as error:
            if error.status == 403:
                since = self._forbidden.setdefault(ref.api, self._clock())
                if self._clock() - since > NO_RIGHTS_SECONDS:
                    log.info("gang's owner may not be read", path=ref.path, error=error.message)
                    return None
            if not error.not_found:
                raise Unanswered(f"GET {ref.path}: {error.status} {error.message}") from error
            found = None
        self._forbidden.pop(ref.api, None)
        return found
