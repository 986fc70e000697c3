"""What a pod says of the member it is, and what the members' pods say of their attempt. Pure.

A member is *ours* once its pod is bound and carries the attempt's annotation, which the API server wrote together
with the node. An attempt is held when all members are, and it is over when none of their pods can still be running.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from berth.kubernetes import names
from binder.domain.attempt import AttemptId, Observation, Seen

__all__ = ["ACTIVE", "GONE", "OURS", "Stand", "View", "gone_after", "judge", "newer", "view_of"]


class Stand(StrEnum):
    """How a member's pod stands towards an attempt."""

    GONE = "GONE"
    """There is no such pod (any more), and it is not known to have been ours."""
    WAITING = "WAITING"
    """Not bound."""
    ELSEWHERE = "ELSEWHERE"
    """Bound, and not by this attempt."""
    BOUND = "BOUND"
    """Ours; it has not started."""
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    LOST = "LOST"
    """It was ours, and went before it had ended by itself: deleted, evicted, or its node is gone."""


ACTIVE: Final = frozenset({Stand.BOUND, Stand.RUNNING})
"""Its containers run, or may run yet."""
OURS: Final = ACTIVE | {Stand.SUCCEEDED, Stand.FAILED, Stand.LOST}


@dataclass(frozen=True, slots=True)
class View:
    """One pod as an attempt sees it. Times in seconds since the epoch.

    `obstacle`: why it cannot be bound now, "" where it can; `passing`: a later attempt may find it gone.
    `version`: the resource version; `words`: what the kubelet or the container said of the end.
    """

    stand: Stand
    name: str = ""
    node: str = ""
    version: str = ""
    deleting: bool = False
    obstacle: str = ""
    passing: bool = False
    released: bool = False
    """It says that this attempt was let go."""
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    words: str = ""

    @property
    def active(self) -> bool:
        return self.stand in ACTIVE

    @property
    def ours(self) -> bool:
        return self.stand in OURS


# Another scheduler's pod is not Berth's to bind, whoever names it in a job.
SCHEDULERS: Final = frozenset({names.SCHEDULER_NAME, names.BINDER_SCHEDULER_NAME})
GONE: Final = View(Stand.GONE)


def view_of(pod: Mapping[str, Any], attempt: AttemptId) -> View:
    """`pod`: the API's object, already known to be the very pod that is meant."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    name = f"{metadata.get('namespace', 'default')}/{metadata['name']}"
    annotations = metadata.get("annotations") or {}
    node, phase = str(spec.get("nodeName") or ""), status.get("phase", "Pending")
    common: dict[str, Any] = {
        "name": name,
        "node": node,
        "version": str(metadata.get("resourceVersion", "")),
        "deleting": "deletionTimestamp" in metadata,
    }
    if not node:
        released = _lets_go(annotations.get(names.RELEASED, ""), attempt)
        obstacle, passing = _obstacle(name, metadata, spec, phase, released)
        return View(Stand.WAITING, **common, obstacle=obstacle, passing=passing, released=released)
    if annotations.get(names.ATTEMPT) != str(attempt):
        by = annotations.get(names.ATTEMPT)
        whose = f"by Berth's attempt {by}" if by else "by another scheduler"
        return View(Stand.ELSEWHERE, **common, obstacle=f"pod {name} is bound to node {node} {whose}")
    started = _started(status)
    match phase:
        case "Succeeded":
            code, ended, _ = _end(status)
            return View(Stand.SUCCEEDED, **common, started_at=started, ended_at=ended, exit_code=code or 0)
        case "Failed":
            code, ended, said = _end(status)
            words = f"pod {name} on node {node} failed: {_reason(status) or said or 'no reason is given'}"
            return View(Stand.FAILED, **common, started_at=started, ended_at=ended, exit_code=code, words=words)
        case "Running" | "Unknown":
            return View(Stand.RUNNING, **common, started_at=started, words=_reason(status))
    return View(Stand.BOUND, **common, words=_reason(status))


def gone_after(last: View, now: float) -> View:
    """The view of a pod that is no longer there, by what was last seen of it."""
    if last.stand in (Stand.SUCCEEDED, Stand.FAILED, Stand.LOST, Stand.GONE):
        return last
    if last.active:
        why = last.words or "deleted"
        words = f"pod {last.name} on node {last.node} is gone: {why}"
        return replace(last, stand=Stand.LOST, deleting=False, ended_at=now, words=words)
    return replace(GONE, name=last.name, version=last.version, released=last.released)


def newer(known: View, seen: View) -> View:
    """What is known after `seen` of the same pod: a mirror may lag behind what a request was answered."""
    if known.stand is Stand.LOST or (known.ours and not seen.ours):
        # A node's name, once written, stays. Only the pod itself can go, and that is told as `gone_after`.
        return known
    if known.version.isdigit() and seen.version.isdigit() and int(seen.version) < int(known.version):
        return known
    return seen


def judge(
    views: Sequence[View], *, now: float, bound_at: float | None, releasing: bool = False, whole: bool = False
) -> Observation:
    """What the members' pods say of an attempt. `bound_at`, `whole`: all members are known to have been bound.

    A gang that has lost a member goes on as long as another one runs: what becomes of it is up to who made the pods.
    """
    ours = sum(view.ours for view in views)
    if releasing and not any(view.active for view in views):
        if all(view.stand is Stand.SUCCEEDED for view in views):
            return _succeeded(views, bound_at, now)
        return Observation(Seen.RELEASED, now)
    if not whole and bound_at is None and ours < len(views):
        words = next((_obstacle_of(view) for view in views if not view.ours and _obstacle_of(view)), "")
        return Observation(Seen.PARTIAL if ours else Seen.ABSENT, now, words)
    if any(view.active for view in views):
        if any(view.stand is Stand.BOUND for view in views):
            return Observation(Seen.HELD, now if bound_at is None else bound_at)
        started = _all_started([view for view in views if view.active], bound_at, now)
        return Observation(Seen.STARTED, started, started_at=started)
    if all(view.stand is Stand.SUCCEEDED for view in views):
        return _succeeded(views, bound_at, now)
    return _failed(views, bound_at, now)


def _succeeded(views: Sequence[View], bound_at: float | None, now: float) -> Observation:
    started = _all_started(views, bound_at, now)
    ended = max((view.ended_at for view in views if view.ended_at is not None), default=now)
    return Observation(Seen.SUCCEEDED, max(ended, started), exit_code=0, started_at=started)


def _failed(views: Sequence[View], bound_at: float | None, now: float) -> Observation:
    bad = [view for view in views if view.stand is not Stand.SUCCEEDED]
    # The first that failed is the cause; what was lost later may be its consequence.
    first = min(bad, key=lambda view: (view.stand is not Stand.FAILED, view.ended_at or now))
    words = first.words or _obstacle_of(first)
    if len(bad) > 1:
        words += f" (and {len(bad) - 1} more of {len(views)} members)"
    ended = max((view.ended_at for view in views if view.ended_at is not None), default=now)
    ran = all(view.started_at is not None for view in views)
    started = _all_started(views, bound_at, now) if ran else None
    at = ended if started is None else max(ended, started)
    return Observation(Seen.FAILED, at, words, exit_code=first.exit_code, started_at=started)


def _all_started(views: Sequence[View], bound_at: float | None, now: float) -> float:
    """When the last one started. The API's times are whole seconds: never before the binding."""
    started = max((view.started_at for view in views if view.started_at is not None), default=now)
    return max(started, bound_at or 0.0)


def _obstacle_of(view: View) -> str:
    if view.stand is Stand.GONE:
        return f"pod {view.name} is gone" if view.name else "its pod is gone"
    return view.obstacle


def _lets_go(released: str, attempt: AttemptId) -> bool:
    job, _, number = released.rpartition(".")
    return job == attempt.job_id and number.isdigit() and int(number) >= attempt.attempt


def _obstacle(
    name: str, metadata: Mapping[str, Any], spec: Mapping[str, Any], phase: str, released: bool
) -> tuple[str, bool]:
    """Why a pod cannot be bound, and whether that may pass."""
    if released:
        return f"pod {name} was let go by this attempt", True
    if "deletionTimestamp" in metadata:
        return f"pod {name} is being deleted", False
    if phase in ("Succeeded", "Failed"):
        return f"pod {name} has ended ({phase})", False
    scheduler = spec.get("schedulerName", "")
    if scheduler not in SCHEDULERS:
        words = (
            f"pod {name} asks for scheduler {scheduler!r}: Berth binds pods with schedulerName {names.SCHEDULER_NAME}"
        )
        return words, False
    gates = [str(gate.get("name")) for gate in spec.get("schedulingGates") or ()]
    if gates:
        return f"pod {name} is held back by scheduling gates: {', '.join(gates)}", True
    return "", False


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except ValueError:
        return None


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("containerStatuses") or ())]


def _started(status: Mapping[str, Any]) -> float | None:
    times = []
    for container in _containers(status):
        state = container.get("state") or {}
        started = (state.get("running") or state.get("terminated") or {}).get("startedAt")
        if (seconds := _seconds(started)) is not None:
            times.append(seconds)
    return max(times) if times else _seconds(status.get("startTime"))


def _end(status: Mapping[str, Any]) -> tuple[int | None, float | None, str]:
    """Exit code of the first container that ended badly, when the last one ended, and what the bad one said."""
    code, said, ended = None, "", None
    for container in [*_containers(status), *(status.get("initContainerStatuses") or ())]:
        end = (container.get("state") or {}).get("terminated")
        if not end:
            continue
        at = _seconds(end.get("finishedAt"))
        ended = at if ended is None or (at is not None and at > ended) else ended
        if end.get("exitCode") and code is None:
            code = int(end["exitCode"])
            last = str(end.get("message") or "").strip()[-500:]
            reason = str(end.get("reason") or "Error")
            said = f"container {container.get('name')} ended with exit code {code} ({reason})"
            said += f": {last}" if last else ""
    return code, ended, said


def _reason(status: Mapping[str, Any]) -> str:
    """Why the pod is being ended from outside, or what its status says: eviction, a lost node, a missed deadline."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return _joined(condition.get("reason"), condition.get("message"))
    return _joined(status.get("reason"), status.get("message"))


def _joined(reason: object, message: object) -> str:
    return ": ".join(str(part) for part in (reason, message) if part)
