"""Answers that a real API server seldom gives: 429, 5xx and refusals of a kind that nothing can be read back of."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.informer import Informer
from binder.adapters.cluster import Cluster
from binder.domain.attempt import Attempt, AttemptId, State
from binder.domain.work import Assignment, Member, PodReference, Work
from binder.executors.kubernetes import KubernetesExecutor
from binder.executors.kubernetes_rights import LASTING_SECONDS, MissingRights


class FakeRequests:
    """One pod a name, as in `pods` or else one that waits; nothing changes them. Bindings, creations and deletions are
    answered from `answers`, None: done."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []
        self.pods: dict[str, Object] = {}

    async def look(self, namespace: str, name: str) -> Object:
        self.calls.append("look")
        return self.pods.get(name) or a_pod(name)

    async def evict(self, pod: PodReference) -> None:
        self.calls.append("evict")

    async def create(self, pod: Object) -> Object:
        self.calls.append("create")
        if (answer := self.answers.pop(0)) is not None:
            raise answer
        made = {**pod, "metadata": {**pod["metadata"], "uid": f"u-{pod['metadata']['name']}", "resourceVersion": "1"}}
        self.pods[pod["metadata"]["name"]] = made
        return made

    async def delete(self, pod: PodReference) -> None:
        self.calls.append("delete")
        if self.answers and (answer := self.answers.pop(0)) is not None:
            raise answer

    async def bind(self, pod: PodReference, place: Member, attempt: AttemptId, version: str) -> None:
        self.calls.append("bind")
        if (answer := self.answers.pop(0)) is not None:
            raise answer

    async def let_go(self, pod: PodReference, attempt: AttemptId) -> Object:
        self.calls.append("let go")
        return a_pod(pod.name, annotations={"berth.dev/released": str(attempt)}, resourceVersion="2")

    async def tell(self, pod: PodReference, reason: str, message: str) -> None: ...


def a_pod(name: str, **metadata: Any) -> Object:
    made = {"namespace": "default", "name": name, "uid": f"u-{name}", "resourceVersion": "1", **metadata}
    return {"metadata": made, "spec": {"schedulerName": "berth"}, "status": {"phase": "Pending"}}


BY_JOB = {"berth.dev/attempt": "job.1"}


def bound_pod(name: str, phase: str = "Running", **metadata: Any) -> Object:
    """By the attempt of `one` and `two`."""
    made = a_pod(name, annotations=BY_JOB, **metadata)
    return {**made, "spec": {**made["spec"], "nodeName": "n-0"}, "status": {"phase": phase}}


def executor_on(*answers: Exception | None) -> tuple[KubernetesExecutor, FakeRequests]:
    client: Any = Kubernetes.__new__(Kubernetes)
    cluster = Cluster(client, Informer(client, "/pods"), Informer(client, "/created"), ClaimBook(client))
    cluster.pods.synced.set()
    cluster.created.synced.set()
    cluster.pods.objects["default/a"] = a_pod("a")
    made = KubernetesExecutor(cluster, bind_seconds=1.0)
    requests = FakeRequests(*answers)
    made._requests = made._looks._requests = made._pods._requests = requests  # type: ignore[assignment]
    return made, requests


def one(tries: int = 1) -> Assignment:
    attempt = Attempt(AttemptId("job", 1), 1, State.INTENT, "kubernetes", "default", "", 1, 0.0, 0.0, 0.0, tries=tries)
    return Assignment(attempt, Work((Member(0, "n-0"),), pods=(PodReference("default", "a", "u-a"),)))


def two(tries: int = 1) -> Assignment:
    pods = (PodReference("default", "a", "u-a"), PodReference("default", "b", "u-b"))
    return Assignment(one(tries).attempt, Work((Member(0, "n-0"), Member(1, "n-0")), pods=pods))


def made_of_a_manifest(members: int = 1, **fields: Any) -> Assignment:
    manifest = "{apiVersion: v1, kind: Pod, spec: {containers: [{name: main, image: none}]}}"
    attempt = replace(one().attempt, members=members, **fields)
    return Assignment(attempt, Work(tuple(Member(number, "n-0") for number in range(members)), manifest=manifest))


BUSY = KubernetesError(429, "TooManyRequests", "come again", retry_after=0.01)


@pytest.mark.parametrize(
    ("answers", "seen", "retryable", "message", "calls"),
    [
        ([None], "HELD", True, "", ["bind"]),
        ([BUSY, BUSY, None], "HELD", True, "", ["bind"] * 3),
        (
            [BUSY] * 6, "UNCLEAR", True, "pod default/a is not bound yet, the API server is busy: come again",
            ["bind"] * 6,
        ),
        ([Unanswered("POST: 500 etcd is away")], "UNCLEAR", True, "pod default/a: POST: 500 etcd is away", ["bind"]),
        (
            [KubernetesError(403, "Forbidden", "no rights")], "UNCLEAR", True,
            "pod default/a cannot be bound: no rights", ["bind"],
        ),
        (
            [KubernetesError(422, "Invalid", "no such node")], "REFUSED", True,
            "pod default/a cannot be bound: no such node", ["bind"],
        ),
        ([KubernetesError(404, "NotFound", "none")], "REFUSED", False, "pod default/a is gone", ["bind"]),
    ],
)  # fmt: skip
async def test_what_the_server_may_answer_to_a_binding(
    answers: list[Exception | None], seen: str, retryable: bool, message: str, calls: list[str]
) -> None:
    executor, requests = executor_on(*answers)
    answer = (await executor.bind([one()]))[AttemptId("job", 1)]
    assert (answer.seen.value, answer.retryable, answer.message) == (seen, retryable, message)
    assert requests.calls == calls


async def test_the_good_path_is_one_request_a_pod_and_a_doubt_costs_one_read() -> None:
    executor, requests = executor_on(None)
    await executor.bind([one()])
    assert requests.calls == ["bind"]
    executor, requests = executor_on(None)
    await executor.bind([one(tries=2)])
    assert requests.calls == ["look", "bind"]


async def test_a_refusal_after_an_unclear_answer_waits_until_no_late_request_can_bind() -> None:
    executor, requests = executor_on(Unanswered("cut"), KubernetesError(422, "Invalid", "no such node"))
    assert (await executor.bind([one()]))[AttemptId("job", 1)].seen.value == "UNCLEAR"
    # The first request may still arrive. What is refused now must not be bound by it.
    answer = (await executor.bind([one(tries=2)]))[AttemptId("job", 1)]
    assert answer.seen.value == "REFUSED"
    assert requests.calls == ["bind", "look", "bind", "look", "let go"]


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (bound_pod("a", deletionTimestamp="2026-01-01T00:00:00Z"), "pod default/a is being deleted"),
        (bound_pod("a", "Failed"), "pod default/a on node n-0 failed"),
    ],
    ids=["being deleted", "failed"],
)
async def test_a_gang_that_is_losing_a_member_is_not_completed(known: Object, words: str) -> None:
    """After a restart in the middle of an undoing: what is going does not count as bound."""
    executor, requests = executor_on(None)
    requests.pods["a"] = executor._cluster.pods.objects["default/a"] = known
    executor._cluster.pods.objects["default/b"] = a_pod("b")
    answer = (await executor.bind([two(tries=2)]))[AttemptId("job", 1)]
    assert "bind" not in requests.calls
    assert answer.message.startswith(words)
    # Whole is whole, whatever became of it meanwhile.
    requests.pods["b"] = executor._cluster.pods.objects["default/b"] = bound_pod("b")
    executor._attempts.clear()
    assert (await executor.bind([two(tries=2)]))[AttemptId("job", 1)].seen.value in ("HELD", "STARTED")


FORBIDDEN = 'pods "job-0" is forbidden: '
NO_RIGHTS = 'pods is forbidden: User "berth" cannot create resource "pods" in API group "" in the namespace "default"'


@pytest.mark.parametrize(
    ("answer", "seen", "retryable"),
    [
        (BUSY, "UNCLEAR", True),
        (KubernetesError(401, "Unauthorized", "Unauthorized"), "UNCLEAR", True),
        (KubernetesError(403, "Forbidden", NO_RIGHTS), "UNCLEAR", True),
        (KubernetesError(403, "Forbidden", f"{FORBIDDEN}not yet ready to handle request"), "UNCLEAR", True),
        (KubernetesError(403, "Forbidden", f"{FORBIDDEN}exceeded quota: few, requested: pods=1"), "REFUSED", True),
        (
            KubernetesError(403, "Forbidden", f"{FORBIDDEN}unable to create new content in namespace default"),
            "REFUSED", True,
        ),
        (KubernetesError(422, "Invalid", "spec.containers[0].image: Required value"), "REFUSED", False),
    ],
    ids=["busy", "unauthorised", "no rights", "not ready", "quota", "namespace", "invalid"],
)  # fmt: skip
async def test_what_the_server_may_answer_to_a_creation(answer: KubernetesError, seen: str, retryable: bool) -> None:
    """A server that says nothing of the pod costs the gang nothing: what was made of it stays."""
    executor, requests = executor_on(None, answer)
    told = (await executor.bind([made_of_a_manifest(2)]))[AttemptId("job", 1)]
    assert (told.seen.value, told.retryable) == (seen, retryable)
    assert ("delete" in requests.calls) is (seen == "REFUSED")
    assert str(answer) in told.message


async def test_a_rest_that_may_not_be_deleted_is_asked_for_once_and_again_when_read_back() -> None:
    no_rights = KubernetesError(403, "Forbidden", "no rights")
    executor, requests = executor_on(*[None] * 4, *[no_rights] * 1000)
    told: list[str] = []
    await executor.start(lambda news: told.extend(one.seen.value for one in news.values()))
    work = made_of_a_manifest(2)
    await executor.bind([work])
    first, second = requests.pods
    for name, phase in ((second, "Running"), (first, "Failed")):
        pod = {**requests.pods[name], **{key: bound_pod(name, phase)[key] for key in ("spec", "status")}}
        pod["metadata"] |= {"resourceVersion": "2", "annotations": pod["metadata"]["annotations"] | BY_JOB}
        requests.pods[name] = pod
        executor._cluster.created._take(pod)
    await asyncio.sleep(0.3)
    assert requests.calls.count("delete") == 1
    await asyncio.gather(*(executor.read_back([work]) for _ in range(3)))
    await asyncio.sleep(0.3)
    assert requests.calls.count("delete") == 2
    await executor.stop()


class FakeClaims:
    """Allocates whatever is asked; `freed` are the pods whose claims were. Freeing is answered from `answers`."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.freed: list[str] = []

    async def allocate(self, pod: Object, node_name: str, device_ids: Sequence[str], attempt: str) -> None: ...

    async def release(self, pod: Object | None, uid: str, attempt: str) -> None:
        if self.answers and (answer := self.answers.pop(0)) is not None:
            raise answer
        self.freed.append(uid)


WRONG = KubernetesError(422, "Invalid", "no such node")
AWAY = Unanswered("GET: etcd is away")


class Undone:
    """A gang with claims of which a is bound and going, and b was refused."""

    def __init__(self, *answers: Exception | None) -> None:
        self.executor, self.requests = executor_on(None, WRONG)
        self.pods = self.executor._cluster.pods
        self.executor._pods._claims = self.claims = FakeClaims(*answers)  # type: ignore[assignment]
        self.told: list[str] = []
        self.pods.objects.clear()
        going = bound_pod("a", deletionTimestamp="2026-01-01T00:00:00Z")
        self.requests.pods = {name: a_pod(name) for name in ("a", "b")}
        for pod in (*self.requests.pods.values(), going):
            pod["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": pod["metadata"]["name"]}]
            self.pods.objects.setdefault(f"default/{pod['metadata']['name']}", pod)
        self.requests.pods["a"] = going

    async def bind(self) -> str:
        await self.executor.start(lambda news: self.told.extend(one.seen.value for one in news.values()))
        return (await self.executor.bind([two()]))[AttemptId("job", 1)].seen.value

    def a_is_gone(self) -> None:
        del self.requests.pods["a"]
        self.pods._take(
            {**bound_pod("a"), "metadata": {**bound_pod("a")["metadata"], "resourceVersion": "9"}}, gone=True
        )


async def test_the_claims_of_a_gang_that_is_undone_are_free_before_it_is_told() -> None:
    gang = Undone()
    assert await gang.bind() == "UNCLEAR"
    # Those of a, which was bound, are kube-controller-manager's to free.
    assert gang.claims.freed == ["u-b"]
    gang.a_is_gone()
    await asyncio.sleep(0.1)
    assert gang.told == ["REFUSED"]
    await gang.executor.stop()


async def test_claims_that_could_not_be_freed_are_freed_when_the_pods_go() -> None:
    gang = Undone(AWAY)
    assert await gang.bind() == "UNCLEAR"
    assert gang.claims.freed == []
    gang.a_is_gone()
    await asyncio.sleep(0.1)
    assert (gang.claims.freed, gang.told) == (["u-b"], ["REFUSED"])
    assert gang.executor._attempts.get(AttemptId("job", 1)) is None
    await gang.executor.stop()


async def test_claims_that_could_not_be_freed_are_freed_when_read_back() -> None:
    gang = Undone(AWAY, AWAY)
    await gang.bind()
    gang.a_is_gone()
    await asyncio.sleep(0.1)
    assert (gang.claims.freed, gang.told) == ([], [])
    answer = (await gang.executor.read_back([two(tries=2)]))[AttemptId("job", 1)]
    assert (answer.seen.value, answer.message) == ("REFUSED", "pod default/b cannot be bound: no such node")
    assert gang.claims.freed == ["u-b"]
    await gang.executor.stop()


async def test_claims_of_a_gang_that_is_released_half_bound_are_freed() -> None:
    gang = Undone(AWAY)
    gang.requests.answers[1] = Unanswered("cut")
    assert await gang.bind() == "UNCLEAR"
    answer = (await gang.executor.release([two(tries=2)]))[AttemptId("job", 1)]
    assert (answer.seen.value, gang.claims.freed) == ("UNCLEAR", [])
    gang.a_is_gone()
    await asyncio.sleep(0.1)
    assert (gang.claims.freed, gang.told) == (["u-b"], ["RELEASED"])
    await gang.executor.stop()


async def test_claims_of_a_pod_that_another_scheduler_bound_are_left_alone() -> None:
    gang = Undone()
    gang.requests.pods["b"]["spec"]["nodeName"] = "n-9"
    assert await gang.bind() == "REFUSED"
    assert gang.claims.freed == ["u-a"]
    await gang.executor.stop()


def no_right(verb: str, resource: str, group: str = "") -> KubernetesError:
    said = f'cannot {verb} resource "{resource}" in API group "{group}" in the namespace "default"'
    return KubernetesError(403, "Forbidden", f'{resource} "a" is forbidden: User "system:berth" {said}')


def may_not(verb: str, resource: str) -> str:
    role = "ClusterRole berth-binder (deploy/kubernetes/rbac/binder.yaml)"
    return f"Forbidden: Berth's binder may not {verb} {resource} in namespace default: grant it by {role}"


class Clock:
    def __init__(self, executor: KubernetesExecutor) -> None:
        self.now = 0.0
        executor._rights = executor._pods._rights = MissingRights(lambda: self.now)


async def bound(executor: KubernetesExecutor, work: Assignment) -> tuple[str, bool, str]:
    answer = (await executor.bind([work]))[AttemptId("job", 1)]
    return answer.seen.value, answer.retryable, answer.message


async def test_a_right_that_is_missing_for_long_is_a_clear_failure_that_names_it() -> None:
    create, bind = no_right("create", "pods"), no_right("create", "pods/binding")
    cases = (
        (made_of_a_manifest(1), create, f"pod default/job-1-0 cannot be made: {may_not('create', 'pods')}"),
        (one(), bind, f"pod default/a cannot be bound: {may_not('create', 'pods/binding')}"),
    )
    for work, error, words in cases:
        executor, _ = executor_on(*[error] * 4)
        clock = Clock(executor)
        assert (await bound(executor, work))[0] == "UNCLEAR"
        clock.now += LASTING_SECONDS - 0.1
        assert (await bound(executor, work))[0] == "UNCLEAR"
        clock.now += 0.1
        seen, retryable, message = await bound(executor, work)
        assert (seen, retryable) == ("REFUSED", True)
        assert message.partition(" cannot be ")[2] == words.partition(" cannot be ")[2]
        assert message.startswith("pod default/")


async def test_rights_that_a_server_which_has_just_started_does_not_know_are_no_answer() -> None:
    """However often it starts anew."""
    executor, _ = executor_on(*[no_right("create", "pods/binding")] * 3, None)
    clock = Clock(executor)
    for _ in range(3):
        assert (await bound(executor, one()))[0] == "UNCLEAR"
        clock.now += 1000
    assert (await bound(executor, one()))[0] == "HELD"


class ClaimsWithoutRights:
    """Neither allocates nor frees."""

    async def allocate(self, pod: Object, node_name: str, device_ids: Sequence[str], attempt: str) -> None:
        raise no_right("update", "resourceclaims", "resource.k8s.io")

    async def release(self, pod: Object | None, uid: str, attempt: str) -> None:
        raise no_right("get", "resourceclaims", "resource.k8s.io")


async def test_claims_without_rights_are_a_clear_failure_too() -> None:
    executor, _ = executor_on()
    clock = Clock(executor)
    executor._pods._claims = ClaimsWithoutRights()  # type: ignore[assignment]
    executor._cluster.pods.objects["default/a"]["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "c"}]
    seen = []
    for _ in range(5):
        seen.append(await bound(executor, one()))
        clock.now += LASTING_SECONDS / 2
    assert [state for state, _, _ in seen] == ["UNCLEAR"] * 4 + ["REFUSED"]
    assert seen[-1][1:] == (True, may_not("update", "resourceclaims.resource.k8s.io"))


async def test_a_pod_of_ours_that_goes_is_not_bound_whatever_a_conflict_says() -> None:
    """A late answer of an earlier binding bound it, and somebody deletes it meanwhile."""
    executor, requests = executor_on(KubernetesError(409, "Conflict", "changed"))
    requests.pods["a"] = bound_pod("a", deletionTimestamp="2026-01-01T00:00:00Z", resourceVersion="2")
    assert await bound(executor, one()) == (
        "UNCLEAR", True, "pod default/a is being deleted; what was bound is being undone",
    )  # fmt: skip
    executor, requests = executor_on(KubernetesError(409, "Conflict", "changed"))
    requests.pods["a"] = bound_pod("a", resourceVersion="2")
    assert (await bound(executor, one()))[0] in ("HELD", "STARTED")
