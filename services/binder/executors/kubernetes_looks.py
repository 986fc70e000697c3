"""How the executor gets to know its pods: by the mirror where that will do, else by asking the API server."""

import asyncio
from collections.abc import Callable

from berth.kubernetes.client import Object
from berth.kubernetes.informer import Informer
from binder.adapters.cluster import Cluster
from binder.executors.kubernetes_attempt import HeldAttempt, HeldMember
from binder.executors.kubernetes_requests import PodRequests

__all__ = ["PodLooks"]

MIRROR_SECONDS = 5.0


class PodLooks:
    """All raise KubernetesError and Unanswered as requests do. `clock`: seconds since the epoch."""

    def __init__(self, cluster: Cluster, requests: PodRequests, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._requests = requests
        self._clock = clock

    async def members(self, held: HeldAttempt, *, sure: bool) -> None:
        """Every member, by the mirror where that will do. `sure`: a mirror that lags behind will not do for a pod that
        is not ours."""
        doubtful = [member for member in held.members if not self._by_mirror(held, member, sure=sure)]
        if sure:
            for member in held.members:
                member.doubtful = member.doubtful or not member.view.ours
        # All to their end, also where one fails: none is under way once the attempt's lock is free.
        done = await asyncio.gather(*(self.at(held, member) for member in doubtful), return_exceptions=True)
        for failed in filter(None, done):
            raise failed

    def _by_mirror(self, held: HeldAttempt, member: HeldMember, *, sure: bool) -> bool:
        mirror = self._mirror(held)
        pod = mirror.objects.get(member.key)
        if pod is None or not member.is_it(pod, held.id):
            # A pod that is still to be made need not be looked for, unless it may have been.
            return held.made and not sure and not member.pod.uid and mirror.synced.is_set()
        member.take(pod, held.id)
        return member.view.ours or not (sure or member.view.obstacle)

    async def at(self, held: HeldAttempt, member: HeldMember) -> None:
        pod = await self._requests.look(member.pod.namespace, member.pod.name)
        if pod is None or not member.is_it(pod, held.id):
            member.gone(self._clock())
        else:
            member.take(pod, held.id)

    def _mirror(self, held: HeldAttempt) -> Informer:
        return self._cluster.created if held.made else self._cluster.pods

    async def synced(self) -> None:
        """Waits for the mirrors, a while: what they do not have is asked for."""
        try:
            async with asyncio.timeout(MIRROR_SECONDS):
                await self._cluster.pods.synced.wait()
                await self._cluster.created.synced.wait()
        except TimeoutError:
            pass

    async def pod_of(self, held: HeldAttempt, member: HeldMember) -> Object | None:
        """The member's pod as mirrored, else as the API server has it; None: there is no such pod."""
        pod = self._mirror(held).objects.get(member.key)
        if pod is None or not member.is_it(pod, held.id):
            pod = await self._requests.look(member.pod.namespace, member.pod.name)
        return pod if pod is not None and member.is_it(pod, held.id) else None
