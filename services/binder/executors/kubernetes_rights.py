"""Rights that the binder lacks for good, told apart from those that an API server does not know of yet.

A server that has just started knows nobody's rights for a moment, and says Forbidden to whoever asks: no reason to undo
a gang. Where it says the same for longer it is an answer, and a person has to do something.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from berth.kubernetes.client import KubernetesError

__all__ = ["LASTING_SECONDS", "MissingRights"]

LASTING_SECONDS = 10.0
"""Refused for so long a right is missing. Less than the tries that the worker gives an attempt take."""
FORGOTTEN_SECONDS = 120.0
"""A refusal so long after the last one is a new one."""
MOST_KEPT = 1024
ROLE = "ClusterRole berth-binder (deploy/kubernetes/rbac/binder.yaml)"
# As the authorizer of Kubernetes words it; a cluster-wide right has no namespace.
WORDED = re.compile(
    r'cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)")?'
)


@dataclass(slots=True)
class _Refused:
    first: float
    last: float


class MissingRights:
    """`clock`: seconds, for differences."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._refused: dict[tuple[str, ...], _Refused] = {}

    def lasting(self, error: KubernetesError) -> str:
        """What is missing and how to grant it, once this right has been refused for long; "" until then, and for
        what is no word on rights."""
        found = WORDED.search(error.message)
        if error.status != 403 or found is None:
            return ""
        verb, resource, group, namespace = (found[name] or "" for name in ("verb", "resource", "group", "namespace"))
        now, right = self._clock(), (verb, resource, group, namespace)
        known = self._refused.pop(right, None)
        if known is None or now - known.last > FORGOTTEN_SECONDS:
            known = _Refused(now, now)
        known.last = now
        if len(self._refused) >= MOST_KEPT:
            del self._refused[next(iter(self._refused))]
        self._refused[right] = known
        if now - known.first < LASTING_SECONDS:
            return ""
        what = f"{resource}.{group}" if group else resource
        where = f"in namespace {namespace}" if namespace else "in the cluster"
        return f"Forbidden: Berth's binder may not {verb} {what} {where}: grant it by {ROLE}"
