"""What the engine holds after pods, owners and mirrors did what they do: whole states compared."""

import asyncio
import time
from typing import Any

from berth.kubernetes.client import KubernetesError, Object
from berth.v1 import jobs_pb2 as pb
from tests.unit.berth.kubernetes.pods.builders import a_pod, gang_of, make, ref_of
from tests.unit.binder.pods.fakes import PODS, Sides, path_of, settled

PENDING, RUNNING, FAILED, CANCELLED = (
    pb.JOB_STATE_PENDING,
    pb.JOB_STATE_RUNNING,
    pb.JOB_STATE_FAILED,
    pb.JOB_STATE_CANCELLED,
)


async def test_a_bound_pod_stays_with_its_job_whatever_is_written_on_it() -> None:
    sides = Sides()
    members = [f"m{index}" for index in range(2)]
    gang = {"berth.dev/gang": "g", "berth.dev/gang-size": "2"}
    for name in members:
        sides.kubernetes.put(a_pod(name, annotations=gang))
    async with sides.mirrored():
        async with sides.taken_up():
            assert sides.engine.held() == {"j1": (PENDING, ["uid-m0", "uid-m1"])}
            for name in members:
                sides.kubernetes.put(a_pod(name, annotations={**gang, "berth.dev/job": "j1"}, nodeName="n"))
            sides.engine.set("j1", RUNNING)
            await settled()
            for name in members:
                sides.kubernetes.put(a_pod(name, annotations={"berth.dev/job": "j1"}, nodeName="n"))
                await settled()
            running = {"j1": (RUNNING, ["uid-m0", "uid-m1"])}
            assert sides.engine.held() == running
        # Another binder, that knows only what is written now.
        sides.source = sides.made()
        async with sides.taken_up():
            sides.kubernetes.delete(a_pod("m0"))
            await settled()
            assert sides.engine.held() == running
            sides.kubernetes.delete(a_pod("m1"))
            await settled()
            assert sides.engine.held() == {"j1": (CANCELLED, ["uid-m0", "uid-m1"])}


def bound_elsewhere(sides: Sides) -> None:
    """A pod and a gang that another binder took up and bound, of which the mirror has heard of one member only."""
    gang = {"berth.dev/gang": "g", "berth.dev/gang-size": "2"}
    for number, names in enumerate((["alone"], ["m0", "m1"], ["w0", "w1"])):
        pods = [a_pod(name, annotations={**gang, "berth.dev/gang": names[0]} if number else {}) for name in names]
        spec = make(pods, gang_of(ref_of(pods[0]), None, pods) if number else None, 0).spec
        job = pb.Job(job_id=f"j{number}", spec=spec, state=PENDING if number == 2 else RUNNING, version=3)
        for member in range(len(pods)):
            job.members.add(member=member)
        sides.engine.jobs[job.job_id] = job
        for pod in pods:
            if number < 2:
                pod["spec"]["nodeName"] = "n"
            sides.kubernetes.quiet = pod["metadata"]["name"] != "w0"
            sides.kubernetes.put(pod)
    sides.kubernetes.quiet = True


async def test_who_takes_over_with_a_mirror_that_lags_ends_nothing() -> None:
    sides = Sides()
    async with sides.mirrored():
        bound_elsewhere(sides)
        await settled()
        assert list(sides.informer.objects) == ["team/w0"]
        before = sides.engine.held()
        async with sides.taken_up():
            assert sides.engine.held() == before
            assert sorted(sides.informer.objects) == sorted(
                f"team/{name}" for name in ("alone", "m0", "m1", "w0", "w1")
            )


async def test_a_job_ends_only_where_the_server_itself_has_none_of_its_pods() -> None:
    sides = Sides()
    sides.source = sides.made(compare_seconds=0.01)
    async with sides.mirrored(), sides.taken_up():
        bound_elsewhere(sides)
        sides.kubernetes.things.pop(path_of(a_pod("alone")))
        sides.kubernetes.refusals[path_of(a_pod("alone"))] = KubernetesError(403, "Forbidden", "not now")
        asked = sides.kubernetes.asked
        async with asyncio.timeout(20):
            while asked.count(path_of(a_pod("alone"))) < 3 or len(sides.informer.objects) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        before = sides.engine.held()
        assert [state for state, _ in before.values()] == [RUNNING, RUNNING, PENDING]
        # Another pod of that name is not the one.
        sides.kubernetes.refusals.clear()
        sides.kubernetes.put(a_pod("alone", uid="another"))
        async with asyncio.timeout(20):
            while sides.engine.held() == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert sides.engine.held() == {**before, "j0": (CANCELLED, ["uid-alone"])}


async def test_a_list_between_takes_nothing_older_over_what_was_watched() -> None:
    sides = Sides()
    api, told = sides.kubernetes, []
    for name in ("goes", "changes", "left"):
        api.put(a_pod(name))
    sides.informer.listen(
        lambda old, new: told.append((old and old["metadata"]["name"], new and new["metadata"]["name"]))
    )
    async with sides.mirrored():
        told.clear()
        listed, version = await api.list(PODS)
        asked, answer = asyncio.Event(), asyncio.Event()

        async def slow(path: str, **_: Any) -> tuple[list[Object], str]:
            asked.set()
            await answer.wait()
            return listed, version

        api.list = slow  # type: ignore[method-assign]
        listing = asyncio.create_task(sides.informer.relist())
        await asked.wait()
        api.delete(a_pod("goes"))
        api.put(a_pod("changes", labels={"new": "yes"}))
        api.put(a_pod("comes"))
        await settled()
        answer.set()
        await listing
        # What a watch that is behind says of before the list is known.
        api.tell("MODIFIED", {**a_pod("ghost"), "metadata": {**a_pod("ghost")["metadata"], "resourceVersion": "1"}})
        await settled()
        assert told == [("goes", None), ("changes", "changes"), (None, "comes")]
        assert sides.informer.objects == {f"team/{pod['metadata']['name']}": pod for pod in api.things.values()}


JOBS = "/apis/batch/v1/namespaces/team/jobs"


def of_job(name: str) -> Object:
    return a_pod(name, annotations={"berth.dev/gang": "true"}, owners={"Job": "array"})


def a_batch_job(parallelism: int) -> Object:
    return {
        "metadata": {"name": "array", "namespace": "team", "uid": "uid-array"},
        "spec": {"parallelism": parallelism, "completions": parallelism},
    }


async def passed(sides: Sides, seconds: float) -> None:
    """The clock goes on, and who looks at it has looked."""
    await settled()
    sides.now += seconds
    await asyncio.sleep(0.12)
    await settled()


async def test_an_owner_that_asks_for_fewer_pods_is_heard() -> None:
    sides = Sides()
    sides.kubernetes.put(a_batch_job(3), f"{JOBS}/array")
    for name in ("a", "b"):
        sides.kubernetes.put(of_job(name))
    async with sides.mirrored(), sides.taken_up():
        assert sides.engine.held() == {}
        sides.kubernetes.put(a_batch_job(2), f"{JOBS}/array")
        await passed(sides, 31)
        assert sides.engine.held() == {"j1": (PENDING, ["uid-a", "uid-b"])}
        # It has all it waits for: its owner is not asked for any more.
        asked = len(sides.kubernetes.asked)
        await passed(sides, 400)
        assert len(sides.kubernetes.asked) == asked


async def test_an_owner_that_cannot_be_read_now_is_not_one_that_is_not_there() -> None:
    sides = Sides()
    path = f"{JOBS}/array"
    sides.kubernetes.put(a_batch_job(2), path)
    # Its pods say another size, which counts only where the owner says none.
    for name in ("a", "b"):
        pod = of_job(name)
        pod["metadata"]["annotations"]["berth.dev/gang-size"] = "1"
        sides.kubernetes.put(pod)
    outcomes = {}
    for status in (429, 401, 403, 404):
        sides.kubernetes.refusals[path] = KubernetesError(status, "", "no")
        sides.engine.jobs.clear()
        sides.source = sides.made()
        async with sides.mirrored(), sides.taken_up():
            at_once = {job_id: job.spec.min_replicas for job_id, job in sides.engine.jobs.items()}
            for _ in range(5):
                await passed(sides, 11)
            later = {job_id: job.spec.min_replicas for job_id, job in sides.engine.jobs.items()}
            outcomes[status] = (at_once, later)
    assert outcomes == {429: ({}, {}), 401: ({}, {}), 403: ({}, {"j1": 1}), 404: ({"j1": 1}, {"j1": 1})}


async def test_jobs_that_are_over_are_forgotten_with_their_pods_and_where_many_followed() -> None:
    sides = Sides()
    gang = {"berth.dev/gang": "g", "berth.dev/gang-size": "1"}
    async with sides.mirrored(), sides.taken_up():
        # A gang that lives for ever: its pods come and go, each with a job.
        sides.kubernetes.put(a_pod("stays", annotations={**gang, "berth.dev/job": "j0"}, nodeName="n"))
        for number in range(5):
            sides.kubernetes.put(a_pod(f"p{number}", annotations=gang))
            await settled()
            sides.kubernetes.delete(a_pod(f"p{number}"))
            await settled()
        # One pod is in vain many times.
        sides.kubernetes.put(a_pod("waits", annotations=gang))
        await settled()
        for number in range(6, 18):
            sides.engine.set(f"j{number}", FAILED)
            await passed(sides, 301)
        (unit,) = sides.source._units.values()
        last = [f"j{number}" for number in range(10, 19)]
        assert (list(unit.jobs), list(unit.notes), list(sides.source._key_of_job)) == (last, last, last)
        base = sides.engine.jobs["j6"].spec.idempotency_key
        assert sides.engine.placed[5:] == [base, *(f"{base}/try-{number}" for number in range(2, 14))]


async def test_what_failed_long_before_a_restart_is_not_waited_for_again() -> None:
    sides = Sides()
    sides.kubernetes.put(a_pod())
    async with sides.mirrored():
        async with sides.taken_up():
            for number in range(1, 5):
                sides.engine.set(f"j{number}", FAILED)
                job = sides.engine.jobs[f"j{number}"]
                job.finished_at.FromSeconds(int(time.time()) - 1000 * (5 - number))
                await passed(sides, 301)
            sides.engine.set("j5", FAILED)
        before = sides.engine.held()
        assert list(before) == ["j1", "j2", "j3", "j4", "j5"]
        sides.source = sides.made()
        async with sides.taken_up():
            # The last one ended just now, for the fifth time.
            await passed(sides, 230)
            assert sides.engine.held() == before
            await passed(sides, 20)
            assert sides.engine.held() == {**before, "j6": (PENDING, ["uid-p"])}


async def test_what_changed_before_the_watch_listened_is_heard_once_it_does() -> None:
    sides = Sides()
    sides.kubernetes.put(a_pod())
    async with sides.mirrored():
        async with sides.taken_up():
            assert sides.engine.held() == {"j1": (PENDING, ["uid-p"])}
        # Another binder has read the jobs, and does not listen yet, when this one's ends: no notice tells of it.
        sides.source = sides.made()
        sides.engine.before_watch.append(lambda: sides.engine.set("j1", FAILED))
        async with sides.taken_up():
            await passed(sides, 301)
            assert sides.engine.held() == {"j1": (FAILED, ["uid-p"]), "j2": (PENDING, ["uid-p"])}
