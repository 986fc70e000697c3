"""What it takes to keep Berth's own custom resources: paths, the condition Ready, a status written with measure."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from berth.errors import InvalidInput
from berth.kubernetes.client import Kubernetes, KubernetesError, Object
from berth.kubernetes.informer import key_of
from berth.kubernetes.names import DOMAIN

__all__ = ["POOLS", "QUEUES", "WORKLOAD_PROFILES", "StatusWriter", "in_object_terms", "ready_condition"]

log = structlog.get_logger(__name__)

VERSION = "v1alpha1"
QUEUES = f"/apis/{DOMAIN}/{VERSION}/queues"
POOLS = f"/apis/{DOMAIN}/{VERSION}/pools"
WORKLOAD_PROFILES = f"/apis/{DOMAIN}/{VERSION}/workloadprofiles"

READY = "Ready"
LONGEST_MESSAGE = 4096


def ready_condition(thing: Object, *, ready: bool, reason: str, message: str, now: datetime) -> Object:
    """The condition as it should stand. It keeps the time of its last change, and all of it where nothing changed."""
    wanted = {
        "type": READY,
        "status": "True" if ready else "False",
        "observedGeneration": thing["metadata"].get("generation", 0),
        "reason": reason,
        "message": message[:LONGEST_MESSAGE],
    }
    for known in (thing.get("status") or {}).get("conditions") or []:
        if known["type"] == READY and known["status"] == wanted["status"]:
            return {**wanted, "lastTransitionTime": known["lastTransitionTime"]}
    return {**wanted, "lastTransitionTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def in_object_terms(error: InvalidInput, kind: str, name: str) -> str:
    """The error's words with the fields as the object has them: spec.quotas[0].borrowingLimit."""

    def renamed(path: str) -> str:
        path = path.replace(f"{kind}[{name}].", "spec.", 1)
        if not path.startswith("spec"):
            path = f"spec.{path}"
        first, *rest = path.split("_")
        return first + "".join(word[:1].upper() + word[1:] for word in rest)

    return "; ".join(str(type(one)(renamed(one.field), one.value, one.remedy)) for one in error.errors)


@dataclass(slots=True)
class _Written:
    uid: str
    status: Mapping[str, Any]
    at: float
    """By the monotonic clock."""


@dataclass(slots=True)
class StatusWriter:
    """Writes a status where it is another than the one that stands: conditions at once, figures of an object at most
    every `every_seconds`, and no more than `most` objects between two calls of `begin`."""

    client: Kubernetes
    every_seconds: float = 5.0
    most: int = 50
    monotonic: Callable[[], float] = time.monotonic
    _written: dict[str, _Written] = field(default_factory=dict)
    _left: int = 0

    def begin(self) -> None:
        """A new round."""
        self._left = self.most

    def longest_unwritten(self, collection: str, things: Mapping[str, Object]) -> list[tuple[str, Object]]:
        """In the order in which a round should write them, so that none is left out for ever."""

        def written_at(item: tuple[str, Object]) -> float:
            last = self._written.get(f"{collection}/{item[0]}")
            return float("-inf") if last is None else last.at

        return sorted(things.items(), key=written_at)

    async def write(self, collection: str, thing: Object, status: Mapping[str, Any]) -> bool:
        """Whether it was written. Raises Unanswered and KubernetesError, except that the object is gone."""
        key, uid, now = f"{collection}/{key_of(thing)}", str(thing["metadata"].get("uid", "")), self.monotonic()
        stands = thing.get("status") or {}
        if all(stands.get(name) == value for name, value in status.items()):
            return False
        last = self._written.get(key)
        if last is not None and last.uid == uid and now - last.at < self.every_seconds:
            # What was written may not have come back yet; figures may wait.
            if all(last.status.get(name) == status.get(name) for name in ("conditions", "observedGeneration")):
                return False
        elif self._left <= 0:
            return False
        self._left -= 1
        self._written[key] = _Written(uid, dict(status), now)
        try:
            await self.client.patch(f"{key}/status", {"status": dict(status)})
        except KubernetesError as error:
            del self._written[key]
            if not error.not_found:
                raise
            return False
        except ConnectionError:
            del self._written[key]
            raise
        return True

    def forget(self, collection: str, key: str) -> None:
        self._written.pop(f"{collection}/{key}", None)
