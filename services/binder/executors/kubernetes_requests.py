"""What the executor asks of the API server about one pod. Each call is one request, at most `requests` at once.

The binding carries the pod's uid and the resource version that was looked at: a pod that was let go, or changed in any
other way, since then is not bound by it, however late the request arrives.
"""

import asyncio
import uuid
from datetime import UTC, datetime

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from binder.domain.attempt import AttemptId
from binder.domain.work import Member, PodReference

__all__ = ["UNDECIDED", "PodRequests", "is_undecided"]

# An API server that has just started knows nobody's rights for a moment, and one that is busy has not looked: no reason
# to delete a gang's bound pods. Rights that are truly missing are told as the attempt's message.
UNDECIDED = frozenset({401, 403, 429})
REPORTER = "berth-binder"
JSON = "application/json"


def _path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else "")


def is_undecided(error: KubernetesError) -> bool:
    """A refusal to create that says nothing of what was to be created. Admission's 403 does: quotas, the namespace."""
    no_word_of_it = "cannot create resource" in error.message or "not yet ready" in error.message
    return error.status in UNDECIDED and (error.status != 403 or no_word_of_it)


class PodRequests:
    """All raise KubernetesError and Unanswered as the client does, unless said otherwise.

    `answer_seconds`: how long one answer is waited for, so that a single one that is swallowed holds up no batch.
    """

    def __init__(self, client: Kubernetes, *, requests: int, answer_seconds: float) -> None:
        self._client = client
        self._room = asyncio.Semaphore(requests)
        self._answer_seconds = answer_seconds

    async def _ask(self, method: str, path: str, body: Object | None = None, content_type: str = JSON) -> Object:
        async with self._room:
            return await self._client.request(
                method, path, body=body, content_type=content_type, timeout_seconds=self._answer_seconds
            )

    async def look(self, namespace: str, name: str) -> Object | None:
        """The pod of that name; None: there is none."""
        try:
            return await self._ask("GET", _path(namespace, name))
        except KubernetesError as error:
            if error.not_found:
                return None
            raise

    async def bind(self, pod: PodReference, place: Member, attempt: AttemptId, version: str) -> None:
        annotations = {
            names.JOB: attempt.job_id,
            names.ATTEMPT: str(attempt),
            names.MEMBER: str(place.member),
            names.DEVICES: ",".join(claim.device_id for claim in place.devices),
        }
        metadata = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "annotations": annotations}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {**metadata, **({"resourceVersion": version} if version else {})},
            "target": {"apiVersion": "v1", "kind": "Node", "name": place.node},
        }
        await self._ask("POST", f"{_path(pod.namespace, pod.name)}/binding", body)

    async def let_go(self, pod: PodReference, attempt: AttemptId) -> Object | None:
        """Marks a pod that is not bound, so that no binding of `attempt` that is still on its way takes effect.

        Gives the pod as it is then, which may be a bound one; None: it is gone.
        """
        body = {"metadata": {"uid": pod.uid, "annotations": {names.RELEASED: str(attempt)}}}
        try:
            return await self._ask("PATCH", _path(pod.namespace, pod.name), body, "application/merge-patch+json")
        except KubernetesError as error:
            if error.not_found or error.conflict:
                return None
            raise

    async def evict(self, pod: PodReference) -> None:
        """By the Eviction API: 429 where a disruption budget does not allow it now."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        await self._ask("POST", f"{_path(pod.namespace, pod.name)}/eviction", body)

    async def delete(self, pod: PodReference) -> None:
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod.uid}}
        await self._ask("DELETE", _path(pod.namespace, pod.name), options)

    async def create(self, pod: Object) -> Object:
        return await self._ask("POST", _path(pod["metadata"]["namespace"]), pod)

    async def tell(self, pod: PodReference, reason: str, message: str) -> None:
        """A warning event on the pod. Best effort: raises nothing."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{pod.name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": pod.namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
            },
            "type": "Warning",
            "reason": reason,
            "message": message[:1000],
            "action": "Binding",
            "eventTime": now,
            "firstTimestamp": None,
            "lastTimestamp": None,
            "reportingComponent": REPORTER,
            "reportingInstance": REPORTER,
        }  # fmt: skip
        try:
            await self._ask("POST", f"/api/v1/namespaces/{pod.namespace}/events", event)
        except (KubernetesError, Unanswered):
            pass
