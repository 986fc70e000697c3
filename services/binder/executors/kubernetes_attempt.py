"""What the executor knows of an attempt: its members, their pods as last seen, and how far a call got."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from berth.errors import InvalidInput
from berth.kubernetes.client import Object
from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.pod import GONE, Stand, View, gone_after, judge, newer, view_of
from binder.domain.work import Assignment, Member, PodReference
from binder.executors.kubernetes_manifest import created_for, pods_of

__all__ = ["HeldAttempt", "HeldMember", "Register", "hold"]

REMEMBERED = 4096


@dataclass(slots=True)
class HeldMember:
    """`pod.uid` "": not made yet. `manifest`: what it is made of, where the binder makes it."""

    place: Member
    pod: PodReference
    view: View
    manifest: Object | None = None
    doubtful: bool = False
    """A binding of it may be on its way."""

    @property
    def key(self) -> str:
        return f"{self.pod.namespace}/{self.pod.name}"

    @property
    def idle(self) -> bool:
        """It is not bound, and no binding that is on its way can bind it."""
        waits = self.view.stand is Stand.WAITING and (self.view.released or not self.doubtful)
        return waits or self.view.stand is Stand.GONE

    def is_it(self, pod: Object, attempt: AttemptId) -> bool:
        """That very pod, not another of its name."""
        if self.pod.uid:
            return bool(pod["metadata"]["uid"] == self.pod.uid)
        return self.manifest is not None and created_for(pod) == str(attempt)

    def take(self, pod: Object, attempt: AttemptId) -> None:
        if not self.pod.uid:
            self.pod = replace(self.pod, uid=str(pod["metadata"]["uid"]))
        self.view = newer(self.view, view_of(pod, attempt))

    def gone(self, now: float) -> None:
        self.view = replace(gone_after(self.view, now), name=self.key)
        if self.manifest is not None and not self.view.ours:
            self.pod = replace(self.pod, uid="")


@dataclass(slots=True)
class HeldAttempt:
    """`bound_at`: when all members were known to be bound. `cause`: why a bind is undone, "" where it is not."""

    id: AttemptId
    members: list[HeldMember]
    bound_at: float | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    releasing: bool = False
    stopping: bool = False
    """Somebody is about to end what goes on after a member has failed."""
    cause: str = ""
    retryable: bool = True
    told: Seen | None = None
    words: str = ""

    @property
    def made(self) -> bool:
        """Its pods are the binder's own."""
        return self.members[0].manifest is not None

    @property
    def active(self) -> int:
        return sum(member.view.active for member in self.members)

    @property
    def calm(self) -> bool:
        """None of its pods runs, and none will by a binding that is on its way."""
        return not any(
            member.view.active
            or (member.view.stand is Stand.WAITING and not member.view.released and member.doubtful)
            for member in self.members
        )  # fmt: skip

    def judge(self, now: float) -> Observation:
        if self.cause and self.bound_at is None:
            if self.calm:
                return Observation(Seen.REFUSED, now, self.cause, retryable=self.retryable)
            return Observation(Seen.PARTIAL, now, self.cause)
        if self.releasing and not self.calm:
            return Observation(Seen.UNCLEAR, now, self.words or "is ending")
        views = [member.view for member in self.members]
        if self.bound_at is None and all(view.ours for view in views):
            self.bound_at = now
        return judge(views, now=now, bound_at=self.bound_at, releasing=self.releasing)


def hold(assignment: Assignment, namespaces: AbstractSet[str]) -> HeldAttempt:
    """Raises InvalidInput where the job has nothing that can be bound."""
    work = assignment.work
    members = []
    if work.manifest:
        for place, manifest in zip(work.members, pods_of(assignment, namespaces), strict=True):
            pod = PodReference(manifest["metadata"]["namespace"], manifest["metadata"]["name"], "")
            members.append(HeldMember(place, pod, GONE, manifest))
    elif work.pods:
        if len(work.members) > len(work.pods):
            remedy = f"name a pod for each of the {len(work.members)} members"
            raise InvalidInput.of("kubernetes.pods", f"{len(work.pods)} pods", remedy)
        # An elastic gang may be placed smaller than wished: the rest stays as it is.
        members = [HeldMember(place, pod, GONE) for place, pod in zip(work.members, work.pods, strict=False)]
    else:
        remedy = "executor 'kubernetes' binds kubernetes.pods or makes pods of kubernetes.manifest; give either"
        raise InvalidInput.of("payload", "none", remedy)
    for member in members:
        member.view = replace(GONE, name=member.key)
    return HeldAttempt(assignment.id, members, assignment.attempt.bound_at)


class Register:
    """The attempts under way, by their ids and by their pods. `namespaces`: as for `hold`."""

    def __init__(self, namespaces: AbstractSet[str]) -> None:
        self._namespaces = namespaces
        self._held: dict[AttemptId, HeldAttempt] = {}
        self._by_pod: dict[str, dict[AttemptId, HeldMember]] = {}
        self._let_go: OrderedDict[str, None] = OrderedDict()

    def __iter__(self) -> Iterator[HeldAttempt]:
        return iter(self._held.values())

    def get(self, attempt: AttemptId) -> HeldAttempt | None:
        return self._held.get(attempt)

    def of_pod(self, key: str) -> Mapping[AttemptId, HeldMember]:
        """Who has an interest in the pod of that namespace and name."""
        return self._by_pod.get(key, {})

    def was_let_go(self, pod: Object) -> bool:
        """It was made for an attempt that is over; the latest few thousand are remembered."""
        return bool(self._let_go) and created_for(pod) in self._let_go

    def hold(self, assignment: Assignment) -> HeldAttempt:
        """Raises InvalidInput as `hold`."""
        held = self._held.get(assignment.id)
        if held is None:
            held = self._held[assignment.id] = hold(assignment, self._namespaces)
            for member in held.members:
                self._by_pod.setdefault(member.key, {})[held.id] = member
        if held.bound_at is None:
            held.bound_at = assignment.attempt.bound_at
        return held

    def forget(self, held: HeldAttempt) -> None:
        if held.made and (held.releasing or held.cause):
            self._let_go[str(held.id)] = None
            while len(self._let_go) > REMEMBERED:
                self._let_go.popitem(last=False)
        self._held.pop(held.id, None)
        for member in held.members:
            of_pod = self._by_pod.get(member.key, {})
            of_pod.pop(held.id, None)
            if not of_pod:
                self._by_pod.pop(member.key, None)

    def clear(self) -> None:
        self._held.clear()
        self._by_pod.clear()
