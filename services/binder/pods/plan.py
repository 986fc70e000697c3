"""What is to be submitted, cancelled and said for the pods of one unit: a pod on its own, or a gang. Pure.

Level-triggered: made anew from what is there, not from what happened. The rules, in order:

1. A job that waits is cancelled where a pod of it is gone, was bound by somebody else, or asks for something else now:
   what is left is then submitted again. A job that is bound is cancelled once none of its pods is left: what a gang
   does without a member is up to whoever made it, who would be fought by a second one.
2. As long as a job of a gang waits, is on its way or is being released, nothing else of the gang is submitted.
3. Pods on their own are submitted each. A gang is submitted once its minimum is there and it has been quiet for a
   moment (or all are there). Once a gang is bound, pods beyond it are submitted each.
4. A job that somebody cancelled in Berth is not submitted again, unless its pods ask for something else.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from berth.errors import InvalidInput
from berth.kubernetes import names
from berth.kubernetes.claims.needs import ClaimsNotReady
from berth.kubernetes.client import Object
from berth.kubernetes.pods.groups import Gang
from berth.kubernetes.pods.translation import Translated, uid_of
from berth.v1 import jobs_pb2 as pb

__all__ = [
    "OURS",
    "Cancellation",
    "Held",
    "Plan",
    "Submission",
    "is_bound",
    "is_over",
    "is_waiting",
    "plan",
    "worth_keeping",
]

OURS = "kubernetes: "
"""Before the reason of a cancellation that is made here, so that it is told from one by a person."""
OVER = frozenset({pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED})
SITTING = frozenset({pb.JOB_STATE_BOUND, pb.JOB_STATE_RUNNING})
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 15.0, 300.0
KEPT_TRIES, KEPT_WISHES = 8, 16
"""Jobs that are over and still known: of one wish, and those that gave way to another wish."""
CLAIMS_AGAIN_SECONDS = 5.0
"""Slices and classes change without the pod's doing."""

Make = Callable[[Sequence[Object], Gang | None, int], Translated]


@dataclass(frozen=True, slots=True)
class Held:
    """A job as last heard of. `placed`: the members that have a place, by number, where only some have.

    `over_at`: when it was heard to be over, by the clock that `plan` is given.
    """

    job_id: str
    key: str
    uids: tuple[str, ...]
    state: int = pb.JOB_STATE_PENDING
    message: str = ""
    placed: tuple[int, ...] = ()
    version: int = 0
    cancel_asked: bool = False
    over_at: float = 0.0

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def sitting(self) -> bool:
        return self.state in SITTING

    @property
    def alone(self) -> bool:
        """It was made of a pod on its own, which may be one beyond its gang."""
        return len(self.uids) == 1 and self.key.startswith(f"{self.uids[0]}.")

    @property
    def holds(self) -> tuple[str, ...]:
        """Pods that no other job may have: all of them, until it is known which have a place."""
        if self.placed and self.state not in (pb.JOB_STATE_PENDING, pb.JOB_STATE_PLACED):
            return tuple(self.uids[member] for member in self.placed if member < len(self.uids))
        return self.uids


@dataclass(frozen=True, slots=True)
class Submission:
    job: Translated
    uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cancellation:
    job_id: str
    reason: str


@dataclass(slots=True)
class Plan:
    """`said`: for a pod that no job has, why. `again_in`: seconds until it is to be looked at again; None: only when
    something changes."""

    submit: list[Submission] = field(default_factory=list)
    cancel: list[Cancellation] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    again_in: float | None = None

    def later(self, seconds: float) -> None:
        self.again_in = seconds if self.again_in is None else min(self.again_in, seconds)

    def say(self, pods: Sequence[Object], text: str) -> None:
        self.said.update({uid_of(pod): text for pod in pods})


def is_leaving(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_bound(pod: Object) -> bool:
    return bool(pod["spec"].get("nodeName"))


def is_over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_waiting(pod: Object) -> bool:
    """It wants a place now: pods with a scheduling gate do not, yet."""
    return not (is_leaving(pod) or is_bound(pod) or is_over(pod) or pod["spec"].get("schedulingGates"))


def plan(
    pods: Sequence[Object],
    gang: Gang | None,
    jobs: Sequence[Held],
    make: Make,
    *,
    now: float,
    quiet_in: float = 0.0,
    settled: bool = True,
) -> Plan:
    """`jobs`: those of the unit, also the ones that are over. `quiet_in`: seconds until the unit counts as quiet.
    `settled` False: what the gang is is not known, so that only what is broken ends."""
    made = Plan()
    by_uid = {uid_of(pod): pod for pod in pods}
    live = [job for job in jobs if not job.over]
    held = {uid for job in live for uid in job.holds}
    free = [pod for pod in pods if is_waiting(pod) and uid_of(pod) not in held]
    there = {uid for job in live if job.sitting for uid in job.holds}
    there |= {uid for uid, pod in by_uid.items() if is_bound(pod) and not (is_leaving(pod) or is_over(pod))}
    there &= {uid for uid, pod in by_uid.items() if not is_leaving(pod)}
    need = 1 if gang is None else max(1, gang.minimum - len(there))
    each = gang is None or (bool(there) and gang.minimum <= len(there))
    # 1. What must not go on as it is.
    for job in live:
        if job.cancel_asked:
            continue
        if reason := _broken(job, by_uid):
            made.cancel.append(Cancellation(job.job_id, OURS + reason))
        elif settled and job.state == pb.JOB_STATE_PENDING:
            own = [by_uid[uid] for uid in job.uids]
            if job.alone and not each:
                made.cancel.append(Cancellation(job.job_id, OURS + "its gang starts again"))
                continue
            late = free if gang is not None and not job.alone else []
            if late and quiet_in > 0:
                made.later(quiet_in)
                continue
            try:
                whole = None if job.alone else gang
                wanted = make([*own, *late], whole, 0 if job.alone else need).spec.idempotency_key
            except ClaimsNotReady:
                continue  # what it asked for may be there again: the engine says why it waits
            except InvalidInput as error:
                made.say([*own, *late], f"refused: {error}")
                made.cancel.append(Cancellation(job.job_id, OURS + "its pods ask for what cannot be: " + str(error)))
                continue
            if wanted != base_of(job.key):
                why = "more pods joined the gang" if late else "its pods ask for something else now"
                made.cancel.append(Cancellation(job.job_id, OURS + why))
    # 2. One at a time.
    if made.cancel or not settled or any(not job.sitting and not job.alone for job in live):
        return made
    # 3. What is new.
    if gang is None or each:
        for pod in free:
            _submit(made, [pod], None, 0, jobs, make, now)
        return made
    if len(free) < need:
        missing = f"{len(free) + len(there)} of {gang.minimum} pods of {gang.ref.shown} are there"
        made.say(free, f"waits for its gang: {missing}; it is placed when all of them are, or not at all")
    elif quiet_in > 0 and not (gang.size and len(free) + len(there) >= gang.size):
        made.later(quiet_in)
    else:
        _submit(made, free, gang, need, jobs, make, now)
    return made


def base_of(key: str) -> str:
    """The key without the number of the try."""
    return key.partition("/try-")[0]


def number_of(key: str) -> int:
    """Of the try."""
    number = key.partition("/try-")[2]
    return int(number) if number.isdigit() else 1


def worth_keeping(jobs: Sequence[Held], pods: Collection[str]) -> list[Held]:
    """All but jobs that are over and of none of these pods, or have many after them. One that is left out and asked for
    again is the engine's to tell: its key stands for it. `pods`: uids."""
    over = sorted((job for job in jobs if job.over), key=lambda job: (job.over_at, number_of(job.key)), reverse=True)
    found: dict[str, int] = {}
    kept = set()
    for job in over:
        if not any(uid in pods for uid in job.uids):
            continue
        gave_way = job.state == pb.JOB_STATE_CANCELLED and job.message.startswith(OURS)
        group = OURS if gave_way else base_of(job.key)
        found[group] = found.get(group, 0) + 1
        if found[group] <= (KEPT_WISHES if gave_way else KEPT_TRIES):
            kept.add(job.job_id)
    return [job for job in jobs if not job.over or job.job_id in kept]


def _broken(job: Held, by_uid: Mapping[str, Object]) -> str:
    """Why a job cannot go on with the pods that are there; "": it can."""
    gone = [uid for uid in job.holds if uid not in by_uid or is_leaving(by_uid[uid])]
    if job.sitting:
        return "its pods are gone" if len(gone) == len(job.holds) else ""
    if gone:
        names_of = [by_uid[uid]["metadata"]["name"] for uid in gone if uid in by_uid]
        which = f" ({', '.join(names_of[:3])})" if names_of else ""
        return f"{len(gone)} of its {len(job.uids)} pods were deleted{which}"
    for uid in job.holds:
        pod = by_uid[uid]
        if is_bound(pod) and (pod["metadata"].get("annotations") or {}).get(names.JOB) != job.job_id:
            return f"pod {pod['metadata']['name']} was bound to {pod['spec']['nodeName']} by somebody else"
    return ""


def _submit(
    made: Plan, pods: list[Object], gang: Gang | None, minimum: int, jobs: Sequence[Held], make: Make, now: float
) -> None:
    try:
        job = make(pods, gang, minimum)
    except ClaimsNotReady as error:
        made.say(pods, str(error))
        made.later(CLAIMS_AGAIN_SECONDS)
        return
    except InvalidInput as error:
        made.say(pods, f"refused: {error}")
        return
    earlier = [one for one in jobs if one.over and base_of(one.key) == job.spec.idempotency_key]
    for one in earlier:
        if one.state == pb.JOB_STATE_CANCELLED and not one.message.startswith(OURS):
            how = "delete the pod, or change what it asks for, to have it scheduled again"
            made.say(pods, f"job {one.job_id} was cancelled in Berth ({one.message}): {how}")
            return
    failed = [one for one in earlier if one.state != pb.JOB_STATE_CANCELLED]
    if failed:
        last = max(failed, key=lambda one: one.over_at)
        wait = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(len(failed) - 1, 10))
        if (left := last.over_at + wait - now) > 0:
            made.say(pods, f"job {last.job_id} ended without its pods ({last.message}): it is submitted again shortly")
            made.later(left)
            return
    if earlier:
        job.spec.idempotency_key += f"/try-{max(number_of(one.key) for one in earlier) + 1}"
    made.submit.append(Submission(job, tuple(uid_of(pod) for pod in pods)))
