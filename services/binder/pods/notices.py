"""Conditions, nominations and events of pods: written when they change, in order, and not too many at once.

What a pod says already is read from the pod itself: a restart writes nothing that is there. The write names the
resource version that it is made for, so that a pod that was bound meanwhile is never told that it waits.
"""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter

from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from binder.pods.messages import same_but_for_numbers, shortened

__all__ = ["Notices", "condition_of"]

log = structlog.get_logger(__name__)

WRITES = Counter("berth_pod_notices_total", "Conditions and events written to pods.", ["kind"])

CONDITION = "PodScheduled"
REPORTER = "berth"
MOST_EVENTS = 5000
"""Events beyond this many waiting are dropped: they are a courtesy, conditions are not."""


@dataclass(frozen=True, slots=True)
class _Notice:
    message: str
    nominated: str
    exact: bool


def condition_of(pod: Object) -> Object:
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one.get("type") == CONDITION:
            return dict(one)
    return {}


class Notices:
    """`pod_of`: the pod of a uid as last heard, None where it is gone or waits no more."""

    def __init__(
        self,
        client: Kubernetes,
        pod_of: Callable[[str], Object | None],
        *,
        writes_a_second: float = 20.0,
        event_refresh_seconds: float = 2400.0,
        numbers_refresh_seconds: float = 300.0,
    ) -> None:
        self._client = client
        self._pod_of = pod_of
        self._pause = 1.0 / writes_a_second
        self._refresh = event_refresh_seconds
        self._numbers_refresh = numbers_refresh_seconds
        self._due: dict[str, _Notice] = {}
        self._events: list[tuple[str, Object]] = []
        self._said_at: dict[str, float] = {}
        self._heard = asyncio.Event()

    def waits(self, uid: str, message: str, *, nominated: str = "", exact: bool = True) -> None:
        """The pod waits, for this reason; the latest counts. `exact` False: where only numbers differ from what it
        says, it is not told again at once."""
        pod, notice = self._pod_of(uid), _Notice(message, nominated, exact)
        if pod is not None and (self._changed(pod, notice) or self._older(uid, self._refresh)):
            self._due[uid] = notice
            self._heard.set()

    def forget(self, uid: str) -> None:
        self._due.pop(uid, None)
        self._said_at.pop(uid, None)

    def event(self, pod: Object, reason: str, note: str, *, warning: bool = False) -> None:
        """An event of the pod, dropped where too many wait."""
        if len(self._events) < MOST_EVENTS:
            self._events.append(_event(pod, reason, note, warning=warning))
            self._heard.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write())

    async def _write(self) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            while self._due or self._events:
                if self._due:
                    uid = next(iter(self._due))
                    await self._tell(uid, self._due.pop(uid))
                    await asyncio.sleep(self._pause)
                if self._events:
                    await self._post(*self._events.pop(0))

    async def _tell(self, uid: str, notice: _Notice) -> None:
        pod = self._pod_of(uid)
        if pod is None:
            return
        if self._changed(pod, notice) and not await self._patch(pod, notice):
            # Heard of again with the change that came between, or with the next look.
            return
        self._said_at[uid] = time.monotonic()
        await self._post(*_event(pod, "FailedScheduling", notice.message, warning=True))

    def _older(self, uid: str, seconds: float) -> bool:
        """Whether the pod was told longer ago. Events are kept for an hour: one that stands is told again before."""
        return time.monotonic() - self._said_at.setdefault(uid, time.monotonic()) > seconds

    def _changed(self, pod: Object, notice: _Notice) -> bool:
        condition = condition_of(pod)
        nominated = (pod.get("status") or {}).get("nominatedNodeName") or ""
        if condition.get("status") != "False" or nominated != notice.nominated:
            return True
        said = str(condition.get("message", ""))
        if notice.exact or not same_but_for_numbers(said, notice.message):
            return said != notice.message
        return said != notice.message and self._older(pod["metadata"]["uid"], self._numbers_refresh)

    async def _patch(self, pod: Object, notice: _Notice) -> bool:
        metadata = pod["metadata"]
        before = condition_of(pod)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": CONDITION,
            "status": "False",
            "reason": "Unschedulable",
            "message": notice.message,
            "lastProbeTime": None,
            "lastTransitionTime": before.get("lastTransitionTime") if before.get("status") == "False" else now,
        }
        status: Object = {"conditions": [condition]}
        if notice.nominated or (pod.get("status") or {}).get("nominatedNodeName"):
            status["nominatedNodeName"] = notice.nominated or None
        body = {"metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}, "status": status}
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        try:
            await self._client.patch(path, body, kind="strategic")
        except (KubernetesError, Unanswered) as error:
            if not (isinstance(error, KubernetesError) and (error.conflict or error.not_found)):
                log.warning("condition not written", pod=metadata["name"], error=str(error))
                await asyncio.sleep(min(5.0, getattr(error, "retry_after", None) or 0.2))
            return False
        WRITES.labels("condition").inc()
        return True

    async def _post(self, path: str, event: Object) -> None:
        try:
            await self._client.post(path, event)
        except (KubernetesError, Unanswered) as error:
            # An event is a courtesy; the namespace may be going, or the server.
            log.info("event not written", error=str(error))
            return
        WRITES.labels("event").inc()


def _event(pod: Object, reason: str, note: str, *, warning: bool) -> tuple[str, Object]:
    metadata = pod["metadata"]
    now = datetime.now(UTC)
    told = hashlib.sha256(f"{metadata['uid']} {reason} {now.isoformat()}".encode()).hexdigest()[:16]
    return f"/apis/events.k8s.io/v1/namespaces/{metadata['namespace']}/events", {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name'][:230]}.{told}", "namespace": metadata["namespace"]},
        "eventTime": now.isoformat().replace("+00:00", "Z"),
        "reportingController": REPORTER,
        "reportingInstance": f"{socket.gethostname()}-{os.getpid()}"[:128],
        "action": "Scheduling" if warning else "Binding",
        "reason": reason,
        "type": "Warning" if warning else "Normal",
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "note": shortened(note),
    }
