"""Binds pods of a Kubernetes cluster, or makes them from a job's manifest, and follows what becomes of them.

Everything is in the pods themselves: a bound pod's annotation names the attempt, a waiting one's says that an attempt
was let go. `_bind_one` is the cycle. Nothing is bound before every member's pod was found fit; what was asked and got
no clear answer is read back; a gang that cannot be bound whole is undone, and refused only once that is seen.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import structlog

from berth.errors import InvalidInput
from berth.kubernetes.client import KubernetesError, Object, Unanswered
from berth.kubernetes.informer import key_of
from binder.adapters.cluster import Cluster
from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.executor import LogPiece, Observations, Sink
from binder.domain.pod import Stand
from binder.domain.work import Assignment, PodReference
from binder.executors.kubernetes_attempt import HeldAttempt, Register, hold
from binder.executors.kubernetes_claims import ClaimAllocator
from binder.executors.kubernetes_logs import read_logs
from binder.executors.kubernetes_looks import PodLooks
from binder.executors.kubernetes_members import MemberPods, NotFit
from binder.executors.kubernetes_requests import PodRequests
from binder.executors.kubernetes_rights import MissingRights

__all__ = ["KubernetesExecutor"]

log = structlog.get_logger(__name__)

ENDS = frozenset({Seen.SUCCEEDED, Seen.FAILED, Seen.RELEASED, Seen.REFUSED})
TOLD = ENDS | {Seen.HELD, Seen.STARTED}
# Changes that come together are judged and told together.
GATHER_SECONDS = 0.02


class KubernetesExecutor:
    """`requests`: to the API server at once, each given `answer_seconds`; `bind_seconds`: what a bind may take, what it
    does not get to is left for the next; `namespaces`: where pods may be made from manifests, empty: anywhere; `clock`:
    seconds since the epoch."""

    batch = 128

    def __init__(
        self,
        cluster: Cluster,
        *,
        requests: int = 64,
        bind_seconds: float = 12.0,
        answer_seconds: float = 5.0,
        namespaces: AbstractSet[str] = frozenset({"default"}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._requests = PodRequests(cluster.client, requests=requests, answer_seconds=answer_seconds)
        self._looks = PodLooks(cluster, self._requests, clock)
        self._rights = MissingRights()
        claims = ClaimAllocator(cluster.client, cluster.claims, requests=requests)
        self._pods = MemberPods(self._requests, self._looks, claims, self._rights, clock)
        self._bind_seconds = bind_seconds
        self._namespaces = namespaces
        self._clock = clock
        self._attempts = Register(namespaces)
        self._dirty: dict[AttemptId, HeldAttempt] = {}
        self._sink: Sink | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        cluster.pods.listen(self._pod_changed)
        cluster.created.listen(self._pod_changed)

    async def start(self, sink: Sink) -> None:
        self._sink = sink

    async def stop(self) -> None:
        self._sink = None
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._attempts.clear()
        self._dirty.clear()

    async def bind(self, assignments: Sequence[Assignment]) -> Observations:
        until = asyncio.get_running_loop().time() + self._bind_seconds
        await self._looks.synced()
        return await self._for_each(assignments, lambda each, held: self._bind_one(each, held, until))

    async def read_back(self, assignments: Sequence[Assignment]) -> Observations:
        await self._looks.synced()
        return await self._for_each(assignments, self._read_back_one)

    async def release(self, assignments: Sequence[Assignment]) -> Observations:
        return await self._for_each(assignments, self._release_one)

    async def logs(
        self, assignment: Assignment, member: int, *, follow: bool, tail_lines: int
    ) -> AsyncIterator[LogPiece]:
        held = self._attempts.get(assignment.id) or hold(assignment, self._namespaces)
        chosen = [each for each in held.members if member < 0 or each.place.member == member]
        pieces = read_logs(self._cluster.client, chosen, follow=follow, tail_lines=tail_lines)
        async for piece in pieces:
            yield piece

    # --- one attempt ---

    async def _for_each(
        self,
        assignments: Sequence[Assignment],
        act: Callable[[Assignment, HeldAttempt], Awaitable[Observation]],
    ) -> Observations:
        async def one(each: Assignment) -> Observation:
            try:
                held = self._attempts.hold(each)
                async with held.lock:
                    observation = await act(each, held)
                if observation.seen in ENDS:
                    self._forget(held)
                else:
                    held.told = observation.seen
                return observation
            except InvalidInput as error:
                # Nothing was ever asked of the server for it.
                return Observation(Seen.REFUSED, self._clock(), str(error), retryable=False)
            except Unanswered as error:
                return Observation(Seen.UNCLEAR, self._clock(), f"the API server gave no clear answer: {error}")
            except KubernetesError as error:
                return Observation(Seen.UNCLEAR, self._clock(), f"the API server refused to say: {error}")

        answers = await asyncio.gather(*(one(each) for each in assignments))
        return {each.id: answer for each, answer in zip(assignments, answers, strict=True)}

    async def _bind_one(self, assignment: Assignment, held: HeldAttempt, until: float) -> Observation:
        again = assignment.attempt.tries > 1
        # 1. Every member's pod, before the first is bound.
        await self._looks.members(held, sure=again)
        if asyncio.get_running_loop().time() > until:
            words = "there was no time to begin"
            return Observation(Seen.PARTIAL, self._clock(), words)
        try:
            if held.cause:
                raise NotFit(held.cause, passing=held.retryable)
            if held.made:
                absent = [member for member in held.members if member.view.stand is Stand.GONE]
                await self._all(self._pods.make(held, member) for member in absent)
            missing = [member for member in held.members if not member.view.ours]
            for member in held.members:
                self._pods.check_fit(member, whole=not missing)
            # 2. Their resource claims, then all of them at once.
            for member in missing:
                await self._pods.allocate(held, member)
            unclear = await self._all(self._pods.bind(held, member, until) for member in missing)
        except NotFit as error:
            # 3. Not whole: nothing of it stays.
            return await self._undo(held, error)
        except KubernetesError as error:
            if missing_right := self._rights.lasting(error):
                return await self._undo(held, NotFit(missing_right, passing=True))
            raise
        # 4. What is known now; the rest is read back.
        words = next((one for one in unclear if one), "")
        if words:
            return Observation(Seen.UNCLEAR, self._clock(), words)
        return held.judge(self._clock())

    async def _undo(self, held: HeldAttempt, error: NotFit) -> Observation:
        first = not held.cause
        if first:
            held.cause, held.retryable = str(error), error.passing or any(each.view.ours for each in held.members)
        began = [member for member in held.members if member.view.active or member.doubtful]
        if began and first:
            log.warning("a gang is undone", attempt=str(held.id), bound=len(began), reason=held.cause)
            message = f"Berth undoes the binding of attempt {held.id}, which cannot be whole: {held.cause}"
            for member in began:
                self._spawn(self._requests.tell(member.pod, "BindingUndone", message))
        await self._end(held, evict=False)
        await self._pods.free_claims(held)
        observation = held.judge(self._clock())
        if observation.seen is Seen.REFUSED:
            return observation
        return Observation(Seen.UNCLEAR, self._clock(), f"{held.cause}; what was bound is being undone")

    async def _read_back_one(self, assignment: Assignment, held: HeldAttempt) -> Observation:
        if held.releasing:
            return await self._release_one(assignment, held)
        if held.cause:
            return await self._undo(held, NotFit(held.cause, passing=held.retryable))
        await self._looks.members(held, sure=held.bound_at is None)
        if _broken(held):
            self._stop_rest(held)
        return held.judge(self._clock())

    async def _release_one(self, assignment: Assignment, held: HeldAttempt) -> Observation:
        held.releasing = True
        if assignment.attempt.bound_at is None:
            for member in held.members:
                member.doubtful = True
        await self._looks.members(held, sure=True)
        await self._end(held, evict=not held.made)
        await self._pods.free_claims(held)
        if held.cause and held.calm:
            return Observation(Seen.RELEASED, self._clock(), held.cause)
        return held.judge(self._clock())

    async def _end(self, held: HeldAttempt, *, evict: bool) -> None:
        """Asks for the end of what is bound, and keeps what waits from being bound by a late request; then looks."""
        held.words = ""
        acted = await self._all(self._pods.end(held, member, evict=evict) for member in held.members)
        held.words = next((one for one in acted if one), "")
        again = [member for member in held.members if member.view.active]
        await self._all(self._looks.at(held, member) for member in again)

    # --- what happens by itself ---

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        if pod is None:
            return
        for attempt_id, member in self._attempts.of_pod(key_of(pod)).items():
            if not member.is_it(pod, attempt_id):
                continue
            before = member.view
            member.take(pod, attempt_id)
            if new is None:
                member.gone(self._clock())
            held = self._attempts.get(attempt_id)
            if member.view != before and held is not None:
                self._dirty[attempt_id] = held
        if new is not None and self._attempts.was_let_go(pod) and not pod["spec"].get("nodeName"):
            # Made by a request that came late, after its attempt was let go.
            late = PodReference(pod["metadata"]["namespace"], pod["metadata"]["name"], pod["metadata"]["uid"])
            self._spawn(self._remove(late))
        if self._dirty:
            self._flush_soon()

    def _flush(self) -> None:
        self._flush_timer = None
        dirty, self._dirty = self._dirty, {}
        news: dict[AttemptId, Observation] = {}
        for attempt_id, held in dirty.items():
            if self._attempts.get(attempt_id) is not held:
                continue
            if held.lock.locked():
                # A call is at it: its answer first, then another look.
                self._dirty[attempt_id] = held
                continue
            observation = held.judge(self._clock())
            if observation.seen in ENDS and held.bound_at is None:
                self._spawn(self._conclude(held))
                continue
            if observation.seen in TOLD and observation.seen is not held.told:
                held.told = observation.seen
                news[attempt_id] = observation
            if observation.seen in ENDS:
                self._forget(held)
            elif _broken(held):
                self._stop_rest(held)
        if news and self._sink is not None:
            self._sink(news)
        if self._dirty:
            self._flush_soon()

    async def _conclude(self, held: HeldAttempt) -> None:
        """Tells the end of an attempt that never was whole: once the claims of what it did not bind are free."""
        try:
            async with held.lock:
                if self._attempts.get(held.id) is not held:
                    return
                await self._pods.free_claims(held)
        except (KubernetesError, Unanswered) as error:
            log.warning("claims could not be freed yet", attempt=str(held.id), error=str(error))
            return
        observation = held.judge(self._clock())
        if observation.seen in ENDS and self._sink is not None:
            self._forget(held)
            self._sink({held.id: observation})

    def _stop_rest(self, held: HeldAttempt) -> None:
        """A gang whose pods are the binder's own ends with the first member that fails."""
        if not held.stopping:
            held.stopping = True
            self._spawn(self._stop(held))

    async def _stop(self, held: HeldAttempt) -> None:
        try:
            async with held.lock:
                await self._end(held, evict=False)
        except (KubernetesError, Unanswered) as error:
            log.warning("the rest of a gang could not be stopped yet", attempt=str(held.id), error=str(error))
            return
        finally:
            held.stopping = False
        if _broken(held):
            # It would be asked for again at once, without end. Reading back asks again.
            log.warning("the rest of a gang could not be stopped yet", attempt=str(held.id), error=held.words)
            return
        self._dirty[held.id] = held
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flush_timer is None and self._sink is not None:
            self._flush_timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)

    async def _remove(self, pod: PodReference) -> None:
        try:
            await self._requests.delete(pod)
        except (KubernetesError, Unanswered) as error:
            log.warning("a late pod could not be removed", pod=f"{pod.namespace}/{pod.name}", error=str(error))

    def _forget(self, held: HeldAttempt) -> None:
        self._attempts.forget(held)
        self._dirty.pop(held.id, None)

    async def _all(self, calls: Any) -> list[Any]:
        """All to their end, also where one fails; then the first failure is raised, NotFit before any other."""
        done = await asyncio.gather(*calls, return_exceptions=True)
        failed = [one for one in done if isinstance(one, BaseException)]
        if failed:
            raise next((one for one in failed if isinstance(one, NotFit)), failed[0])
        return done

    def _spawn(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _broken(held: HeldAttempt) -> bool:
    """It is to be stopped: the binder made its pods, and a member has failed while others go on."""
    if not held.made or held.bound_at is None or held.releasing:
        return False
    going_on = any(member.view.active and not member.view.deleting for member in held.members)
    return going_on and any(member.view.stand in (Stand.FAILED, Stand.LOST) for member in held.members)
