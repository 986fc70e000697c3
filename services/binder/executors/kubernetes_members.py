"""What is asked of the API server for one member of an attempt: its pod made, found fit, bound, ended; its claims."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from berth.kubernetes.client import KubernetesError, Unanswered
from binder.domain.pod import Stand, View
from binder.executors.kubernetes_attempt import HeldAttempt, HeldMember
from binder.executors.kubernetes_claims import ClaimAllocator, ClaimsRefused
from binder.executors.kubernetes_looks import PodLooks
from binder.executors.kubernetes_requests import UNDECIDED, PodRequests, is_undecided
from binder.executors.kubernetes_rights import MissingRights

__all__ = ["MemberPods", "NotFit"]

log = structlog.get_logger(__name__)

CHANGED_MEANWHILE = 6


class NotFit(Exception):
    """A member's pod cannot be bound by this attempt. `passing`: a later attempt may find it otherwise."""

    def __init__(self, words: str, *, passing: bool) -> None:
        super().__init__(words)
        self.passing = passing


class MemberPods:
    """`clock`: seconds since the epoch."""

    def __init__(
        self,
        requests: PodRequests,
        looks: PodLooks,
        claims: ClaimAllocator,
        rights: MissingRights,
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._looks = looks
        self._claims = claims
        self._rights = rights
        self._clock = clock

    async def make(self, held: HeldAttempt, member: HeldMember) -> None:
        """Creates its pod. Raises NotFit; what got no answer raises Unanswered."""
        assert member.manifest is not None
        doubted, member.doubtful = member.doubtful, True
        try:
            pod = await self._requests.create(member.manifest)
        except KubernetesError as error:
            member.doubtful = doubted
            if error.reason == "AlreadyExists":
                await self._looks.at(held, member)
                if member.view.stand is Stand.GONE:
                    raise NotFit(f"pod {member.key} is there and not of this job", passing=False) from error
                return
            if is_undecided(error):
                if missing_right := self._rights.lasting(error):
                    raise NotFit(f"pod {member.key} cannot be made: {missing_right}", passing=True) from error
                raise Unanswered(f"pod {member.key} cannot be made: {error}") from error
            # A quota, a namespace that is ending and the like may pass; what is not valid never will be.
            passing = error.status in (403, 409)
            raise NotFit(f"kubernetes.manifest: {error}: mend the manifest", passing=passing) from error
        member.doubtful = False
        member.take(pod, held.id)

    async def allocate(self, held: HeldAttempt, member: HeldMember) -> None:
        """Allocates the pod's resource claims, where it has any. Raises NotFit."""
        pod = await self._looks.pod_of(held, member)
        if pod is None or not pod["spec"].get("resourceClaims"):
            return
        try:
            devices = [claim.device_id for claim in member.place.devices]
            await self._claims.allocate(pod, member.place.node, devices, str(held.id))
        except ClaimsRefused as error:
            raise NotFit(f"pod {member.key}: {error}", passing=True) from error

    async def free_claims(self, held: HeldAttempt) -> None:
        """Of members that are not bound, and will not be by this attempt. What runs, whoever bound it, keeps them, and
        kube-controller-manager frees them."""
        for member in held.members:
            if member.pod.uid and member.idle:
                pod = await self._looks.pod_of(held, member)
                if pod is not None and not pod["spec"].get("resourceClaims"):
                    continue
                try:
                    await self._claims.release(pod, member.pod.uid, str(held.id))
                except KubernetesError as error:
                    # Nobody is helped by an attempt that never ends: the next one of this pod frees what it finds.
                    if not (words := self._rights.lasting(error)):
                        raise
                    log.error("claims are not freed", pod=member.key, attempt=str(held.id), error=words)

    def check_fit(self, member: HeldMember, *, whole: bool = False) -> None:
        """`whole`: all are bound. Else one that has ended, or is going, is no member of a gang that is to become so."""
        view = member.view
        if view.ours:
            if not whole and (view.deleting or view.stand in (Stand.LOST, Stand.FAILED)):
                raise NotFit(view.words or f"pod {member.key} is being deleted", passing=True)
            return
        if view.stand is Stand.GONE:
            raise NotFit(f"pod {member.key} is gone", passing=False)
        if view.obstacle:
            raise NotFit(view.obstacle, passing=view.passing)

    async def bind(self, held: HeldAttempt, member: HeldMember, until: float) -> str:
        """Why it is not known, "" once it is bound. Raises NotFit."""
        doubted, words = member.doubtful, "changes too fast to be bound"
        for _ in range(CHANGED_MEANWHILE):
            if asyncio.get_running_loop().time() > until:
                return f"pod {member.key}: there was no time to bind it"
            # The mirror may have heard since the look, and the version that goes with the binding is the new one.
            self.check_fit(member)
            if member.view.ours:
                return ""
            member.doubtful = True
            try:
                await self._requests.bind(member.pod, member.place, held.id, member.view.version)
            except Unanswered as error:
                return f"pod {member.key}: {error}"
            except KubernetesError as error:
                if error.status == 429:
                    words = f"is not bound yet, the API server is busy: {error}"
                    await asyncio.sleep(min(error.retry_after or 0.5, 2.0))
                    continue
                # This one did nothing; an earlier one may still arrive.
                member.doubtful = doubted
                if error.status in UNDECIDED:
                    if missing_right := self._rights.lasting(error):
                        raise NotFit(f"pod {member.key} cannot be bound: {missing_right}", passing=True) from error
                    return f"pod {member.key} cannot be bound: {error}"
                if not error.conflict:
                    gone = error.not_found
                    words = f"pod {member.key} is gone" if gone else f"pod {member.key} cannot be bound: {error}"
                    if gone:
                        member.gone(self._clock())
                    raise NotFit(words, passing=not gone) from error
                # Somebody was there before, or it changed since it was looked at: which of them?
                try:
                    await self._looks.at(held, member)
                except (KubernetesError, Unanswered) as unread:
                    return f"pod {member.key}: {unread}"
                if member.view.ours and not member.view.deleting:
                    return ""
                self.check_fit(member)
                continue
            member.doubtful = False
            if not member.view.ours:
                member.view = _bound(member)
            return ""
        return f"pod {member.key} {words}"

    async def end(self, held: HeldAttempt, member: HeldMember, *, evict: bool) -> str:
        """What keeps it from ending, "" where nothing does."""
        try:
            if member.doubtful:
                await self._looks.at(held, member)
            if member.view.stand is Stand.WAITING:
                if held.made:
                    await self._requests.delete(member.pod)
                    await self._looks.at(held, member)
                elif not member.view.released and member.doubtful:
                    pod = await self._requests.let_go(member.pod, held.id)
                    if pod is None:
                        member.gone(self._clock())
                    else:
                        member.take(pod, held.id)
            if member.view.active and not member.view.deleting:
                await (self._requests.evict if evict else self._requests.delete)(member.pod)
        except KubernetesError as error:
            if error.not_found or error.conflict:
                return ""  # gone, or another one by now: the look that follows tells
            return f"pod {member.key}: {error}"
        except Unanswered as error:
            return f"pod {member.key}: {error}"
        return ""


def _bound(member: HeldMember) -> View:
    """After the server's word, before the mirror has it."""
    return replace(member.view, stand=Stand.BOUND, node=member.place.node, obstacle="")
