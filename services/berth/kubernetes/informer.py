"""A live mirror of a collection of the API: list, then watch, and list again where the watch is lost."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import structlog

from berth.kubernetes.client import Gone, Kubernetes, KubernetesError, Object, Unanswered
from berth.retry import delays

__all__ = ["Informer", "key_of", "run_all"]

log = structlog.get_logger(__name__)

# A watch that lived so long worked; after so many that gave no answer in a row the collection is listed again.
WORKED_SECONDS, IN_VAIN = 1.0, 5
NOT_SERVED_SECONDS = 30.0


def key_of(thing: Object) -> str:
    """ "<namespace>/<name>", or the name of what has no namespace."""
    metadata = thing["metadata"]
    namespace = metadata.get("namespace", "")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def _older(version: str, than: str) -> bool:
    """Not newer. False where versions cannot be compared."""
    return version.isdigit() and than.isdigit() and int(version) <= int(than)


class Informer:
    """`objects` by `key_of`, as last heard. `changed(old, new)` is called for each difference, also those that a new
    list brings to light: `old` None: it is new; `new` None: it is gone. It returns at once; what it raises is logged.

    `resync_seconds`: `changed(same, same)` is called for every object so often, so that what failed is tried again.
    `optional`: a collection that the server does not serve (no such API) is an empty one, and looked for again.
    """

    def __init__(
        self,
        client: Kubernetes,
        path: str,
        changed: Callable[[Object | None, Object | None], None] | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resync_seconds: float = 0.0,
        optional: bool = False,
    ) -> None:
        self.path = path
        self.objects: dict[str, Object] = {}
        self.synced = asyncio.Event()
        """Set once the collection was listed; cleared never: after that it may lag, but it is whole."""
        self.served = True
        """False: the server knows no such collection."""
        self._client = client
        self._listeners = [changed] if changed is not None else []
        self._query: dict[str, Any] = {
            **({"labelSelector": label_selector} if label_selector else {}),
            **({"fieldSelector": field_selector} if field_selector else {}),
        }
        self._resync = resync_seconds
        self._optional = optional
        self._listing = asyncio.Lock()
        self._listed = ""
        """The version of the last list: what a watch says of earlier ones is known."""
        self._meanwhile: dict[str, str] = {}
        """What a watch told of while a list was on its way: versions by key."""
        self.last_heard = 0.0
        """When the server was last heard of it, by the monotonic clock; bookmarks count."""

    def listen(self, changed: Callable[[Object | None, Object | None], None]) -> None:
        """One more to be told, of what comes from now on."""
        self._listeners.append(changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        for listener in self._listeners:
            try:
                listener(old, new)
            except Exception:
                # One strange object must not end the watch of all others.
                log.exception("not understood", path=self.path, object=key_of(new or old or {}))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            if self._resync:
                tasks.create_task(self._again())

    async def _follow(self) -> None:
        version, waits, in_vain = "", _waits(), 0
        while True:
            began, heard, asked = time.monotonic(), False, None
            try:
                if not version:
                    version = await self._relist()
                    began = time.monotonic()
                async with aclosing(self._client.watch(self.path, version, **self._query)) as events:
                    async for event, thing in events:
                        version, heard = thing["metadata"]["resourceVersion"], True
                        self.last_heard = time.monotonic()
                        if event != "BOOKMARK":
                            self._watched(thing, gone=event == "DELETED")
            except Gone:
                log.info("watch is too old; listing again", path=self.path)
                version = ""
            except Unanswered as error:
                log.warning("watch broke", path=self.path, error=str(error))
                in_vain += 1
                if in_vain >= IN_VAIN:
                    version = ""
            except KubernetesError as error:
                if error.not_found and self._optional:
                    self._not_served()
                    version, asked = "", NOT_SERVED_SECONDS
                else:
                    # A server that is busy is not asked for everything again.
                    version, asked = version if error.status == 429 else "", error.retry_after
                    log.warning(
                        "collection cannot be watched", path=self.path, status=error.status, error=error.message
                    )
            # A watch that worked is taken up again at once; what was refused or gave nothing waits, longer each time.
            if heard or time.monotonic() - began >= WORKED_SECONDS:
                waits, in_vain = _waits(), 0
            else:
                await asyncio.sleep(asked or next(waits))

    def _not_served(self) -> None:
        self.served = False
        for thing in list(self.objects.values()):
            self._take(thing, gone=True)
        self.synced.set()

    async def relist(self) -> None:
        """What the server has now, also where the watch lags or is broken; a running watch goes on from where it is.
        Raises KubernetesError and Unanswered."""
        await self._relist()

    async def _relist(self) -> str:
        async with self._listing:
            self._meanwhile.clear()
            things, version = await self._client.list(self.path, **self._query)
            self.served, self.last_heard = True, time.monotonic()
            newer = {key for key, told in self._meanwhile.items() if not _older(told, version)}
            present = {key_of(thing) for thing in things} | newer
            for key in [key for key in self.objects if key not in present]:
                self._take(self.objects[key], gone=True)
            for thing in things:
                if key_of(thing) not in newer:
                    self._take(thing)
            self._listed = version
            self.synced.set()
            return version

    def _watched(self, thing: Object, *, gone: bool) -> None:
        version = thing["metadata"].get("resourceVersion", "")
        if _older(version, self._listed):
            return
        if self._listing.locked():
            self._meanwhile[key_of(thing)] = version
        self._take(thing, gone=gone)

    def _take(self, thing: Object, *, gone: bool = False) -> None:
        key = key_of(thing)
        old = self.objects.get(key)
        if old is not None and old["metadata"].get("uid") != thing["metadata"].get("uid"):
            # Deleted and made anew between two looks: two things of one name.
            del self.objects[key]
            self._changed(old, None)
            old = None
        if gone:
            if self.objects.pop(key, None) is not None:
                self._changed(thing, None)
            return
        self.objects[key] = thing
        if old is None or old["metadata"].get("resourceVersion") != thing["metadata"].get("resourceVersion"):
            self._changed(old, thing)

    async def _again(self) -> None:
        while True:
            await asyncio.sleep(self._resync)
            for number, thing in enumerate(list(self.objects.values())):
                if self.objects.get(key_of(thing)) is thing:
                    self._changed(thing, thing)
                if number % 200 == 199:
                    await asyncio.sleep(0)


def _waits() -> Iterator[float]:
    return delays(first=0.1, longest=15.0)


async def run_all(informers: Iterable[Informer]) -> None:
    """Runs informers side by side, until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for informer in informers:
            tasks.create_task(informer.run())
