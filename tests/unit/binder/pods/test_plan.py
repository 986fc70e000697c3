"""What is submitted, cancelled and said: the whole plan compared."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from berth.kubernetes.client import Object
from berth.kubernetes.pods.groups import Gang
from berth.v1 import jobs_pb2 as pb
from binder.pods.plan import OURS, Cancellation, Held, Plan, plan
from tests.unit.berth.kubernetes.pods.builders import a_gang, a_job, a_member, a_pod, make

Shown = tuple[list[tuple[str, ...]], list[str], dict[str, str], float | None]


def planned(
    pods: list[Object],
    jobs: list[Held],
    gang: Gang | None = None,
    *,
    now: float = 100.0,
    quiet_in: float = 0.0,
    settled: bool = True,
) -> Plan:
    return plan(pods, gang, jobs, make, now=now, quiet_in=quiet_in, settled=settled)


def shown(made: Plan) -> tuple[list[tuple[str, ...]], list[str], list[str], float | None]:
    """Uids submitted, jobs cancelled, uids that hear something, and when again."""
    return [one.uids for one in made.submit], [one.job_id for one in made.cancel], sorted(made.said), made.again_in


NOTHING: tuple[list[tuple[str, ...]], list[str], list[str], float | None] = ([], [], [], None)


def members(number: int) -> list[Object]:
    return [a_member(f"m{index}") for index in range(number)]


def test_a_new_pod_is_submitted_and_a_known_one_left_alone() -> None:
    pod = a_pod()
    assert shown(planned([pod], [])) == ([("uid-p",)], [], [], None)
    for state in (pb.JOB_STATE_PENDING, pb.JOB_STATE_PLACED, pb.JOB_STATE_BOUND, pb.JOB_STATE_RELEASING):
        assert shown(planned([pod], [a_job("j", [pod], state=state)])) == NOTHING


def test_pods_that_do_not_wait_are_not_submitted() -> None:
    for pod in (
        a_pod(deleted=True),
        a_pod(nodeName="n"),
        a_pod(phase="Failed"),
        a_pod(schedulingGates=[{"name": "g"}]),
    ):
        assert shown(planned([pod], [])) == NOTHING


def test_a_job_ends_with_its_pod_before_and_after_it_is_bound() -> None:
    pod = a_pod()
    for state in (pb.JOB_STATE_PENDING, pb.JOB_STATE_PLACED, pb.JOB_STATE_RUNNING, pb.JOB_STATE_RELEASING):
        job = a_job("j", [pod], state=state)
        assert shown(planned([], [job])) == ([], ["j"], [], None)
        assert shown(planned([a_pod(deleted=True)], [job])) == ([], ["j"], [], None)
        assert shown(planned([], [replace(job, cancel_asked=True)])) == NOTHING
    assert shown(planned([], [a_job("j", [pod], state=pb.JOB_STATE_SUCCEEDED)])) == NOTHING


def test_a_pod_that_ended_by_itself_is_still_there() -> None:
    pod = a_pod(nodeName="n", phase="Succeeded", annotations={"berth.dev/job": "j"})
    assert shown(planned([pod], [a_job("j", [pod], state=pb.JOB_STATE_RUNNING)])) == NOTHING


def test_a_pod_that_somebody_else_bound_is_no_longer_asked_for() -> None:
    job = a_job("j", [a_pod()])
    made = planned([a_pod(nodeName="n", annotations={"berth.dev/job": "other"})], [job])
    assert made.cancel == [Cancellation("j", OURS + "pod p was bound to n by somebody else")]
    ours = a_pod(nodeName="n", annotations={"berth.dev/job": "j"})
    assert shown(planned([ours], [replace(job, state=pb.JOB_STATE_PLACED)])) == NOTHING


def test_other_wishes_are_another_job_only_while_it_waits() -> None:
    job, changed = a_job("j", [a_pod()]), a_pod(requests={"cpu": "2"})
    assert shown(planned([changed], [job])) == ([], ["j"], [], None)
    assert shown(planned([changed], [replace(job, state=pb.JOB_STATE_PLACED)])) == NOTHING
    ended = replace(job, state=pb.JOB_STATE_CANCELLED, message=OURS + "changed")
    assert shown(planned([changed], [ended])) == ([("uid-p",)], [], [], None)
    # Back to what it was: the old key stands for a job that is over.
    (again,) = planned([a_pod()], [ended]).submit
    assert again.job.spec.idempotency_key == job.key + "/try-2"


def test_what_somebody_cancelled_in_berth_is_not_submitted_again() -> None:
    pod = a_pod()
    job = a_job("j", [pod], state=pb.JOB_STATE_CANCELLED, message="not today")
    made = planned([pod], [job])
    assert shown(made) == ([], [], ["uid-p"], None)
    assert "job j was cancelled in Berth (not today)" in made.said["uid-p"]
    assert shown(planned([a_pod(requests={"cpu": "2"})], [job])) == ([("uid-p",)], [], [], None)


def test_a_job_that_failed_without_its_pod_is_tried_again_later_each_time() -> None:
    pod = a_pod()
    first = a_job("j", [pod], state=pb.JOB_STATE_FAILED, message="no bind", over_at=90.0)
    assert shown(planned([pod], [first])) == ([], [], ["uid-p"], 5.0)
    (again,) = planned([pod], [first], now=106.0).submit
    assert again.job.spec.idempotency_key == first.key + "/try-2"
    second = replace(first, job_id="k", key=first.key + "/try-2", over_at=110.0)
    assert shown(planned([pod], [first, second], now=130.0)) == ([], [], ["uid-p"], 10.0)


def test_a_gang_is_submitted_once_it_is_whole_and_quiet() -> None:
    few = planned(members(2), [], a_gang(3))
    assert shown(few) == ([], [], ["uid-m0", "uid-m1"], None)
    assert "2 of 3 pods of PodGroup ring (scheduling.k8s.io) are there" in few.said["uid-m0"]
    assert shown(planned(members(4), [], a_gang(3), quiet_in=0.3)) == ([], [], [], 0.3)
    made = planned(members(4), [], a_gang(3))
    assert shown(made) == ([("uid-m0", "uid-m1", "uid-m2", "uid-m3")], [], [], None)
    assert (made.submit[0].job.spec.replicas, made.submit[0].job.spec.min_replicas) == (4, 3)


def test_a_gang_that_waits_takes_in_who_joins_and_starts_again_without_who_left() -> None:
    three, gang = members(3), a_gang(2)
    job = a_job("j", three, gang, 2)
    assert shown(planned(three, [job], gang)) == NOTHING
    assert shown(planned(members(4), [job], gang, quiet_in=0.2)) == ([], [], [], 0.2)
    assert shown(planned(members(4), [job], gang)) == ([], ["j"], [], None)
    assert shown(planned(three[:2], [job], gang)) == ([], ["j"], [], None)
    # Nothing else of it is submitted until that one is over.
    leaving = replace(job, state=pb.JOB_STATE_RELEASING, cancel_asked=True)
    assert shown(planned(three[:2], [leaving], gang)) == NOTHING
    over = replace(job, state=pb.JOB_STATE_CANCELLED, message=OURS + "a pod left")
    assert shown(planned(three[:2], [over], gang)) == ([("uid-m0", "uid-m1")], [], [], None)


def test_pods_beyond_a_gang_that_sits_are_jobs_of_their_own() -> None:
    gang = a_gang(2)
    sitting = [a_member(f"m{i}", nodeName="n", annotations={"berth.dev/job": "j"}) for i in range(2)]
    late = [a_member("m2"), a_member("m3")]
    job = a_job("j", [*sitting, late[0]], gang, 2, state=pb.JOB_STATE_RUNNING, placed=(0, 1))
    assert shown(planned([*sitting, *late], [job], gang)) == ([("uid-m2",), ("uid-m3",)], [], [], None)
    own = a_job("k", [late[0]])
    assert shown(planned([*sitting, *late], [job, own], gang)) == ([("uid-m3",)], [], [], None)
    # The gang is not there any more: who waits alone waits with it again.
    gone = replace(job, state=pb.JOB_STATE_FAILED)
    assert shown(planned(late, [gone, own], gang)) == ([], ["k"], [], None)


def test_a_gang_that_sits_goes_on_without_a_member_and_ends_with_the_last() -> None:
    gang, three = a_gang(3), members(3)
    job = a_job("j", three, gang, 3, state=pb.JOB_STATE_RUNNING)
    bound = [a_member(f"m{i}", nodeName="n", annotations={"berth.dev/job": "j"}) for i in range(3)]
    assert shown(planned(bound[:1], [job], gang)) == NOTHING
    assert shown(planned([], [job], gang)) == ([], ["j"], [], None)
    # Who comes in the place of a member is a job of its own.
    assert shown(planned([*bound[:2], a_member("m3")], [job], gang)) == ([("uid-m3",)], [], [], None)


def test_an_elastic_gang_that_is_being_released_does_not_miss_who_never_had_a_place() -> None:
    gang, three = a_gang(2), members(3)
    job = a_job("j", three, gang, 2, state=pb.JOB_STATE_RELEASING, placed=(0, 1))
    assert shown(planned(three[:2], [job], gang)) == NOTHING


def test_what_sits_counts_for_the_minimum_of_who_comes_after() -> None:
    gang = a_gang(3)
    sitting = a_member("m0", nodeName="n")
    few = planned([sitting, a_member("m1")], [], gang)
    assert shown(few) == ([], [], ["uid-m1"], None)
    assert "2 of 3" in few.said["uid-m1"]
    (made,) = planned([sitting, *members(4)[1:]], [], gang).submit
    assert (made.uids, made.job.spec.replicas, made.job.spec.min_replicas) == (("uid-m1", "uid-m2", "uid-m3"), 3, 2)


def test_without_its_group_nothing_new_is_submitted_and_what_is_broken_ends() -> None:
    three = members(3)
    job = a_job("j", three, a_gang(2), 2)
    assert shown(planned(three, [], None, settled=False)) == NOTHING
    assert shown(planned(three, [job], None, settled=False)) == NOTHING
    assert shown(planned(three[:2], [job], None, settled=False)) == ([], ["j"], [], None)


STATES = st.sampled_from(
    [pb.JOB_STATE_PENDING, pb.JOB_STATE_PLACED, pb.JOB_STATE_BOUND, pb.JOB_STATE_RUNNING, pb.JOB_STATE_RELEASING]
)
PRESENCE = st.sampled_from(["waits", "bound", "leaving", "gone"])


@given(st.lists(PRESENCE, min_size=1, max_size=6), st.integers(1, 6), st.data())
def test_no_pod_is_ever_in_two_live_jobs(presence: list[str], minimum: int, data: st.DataObject) -> None:
    everyone = members(len(presence))
    gang = a_gang(minimum)
    taken = data.draw(st.lists(st.sampled_from(range(len(presence))), unique=True))
    jobs = []
    if taken:
        state = data.draw(STATES)
        jobs = [a_job("j", [everyone[i] for i in taken], gang, min(minimum, len(taken)), state=state)]
    there = []
    for index, how in enumerate(presence):
        if how != "gone":
            where = {"nodeName": "n", "annotations": {"berth.dev/job": "j"}} if how == "bound" else {}
            there.append(a_member(f"m{index}", deleted=how == "leaving", **where))
    made = planned(there, jobs, gang)
    cancelled = {one.job_id for one in made.cancel}
    held = [uid for job in jobs for uid in job.holds]
    submitted = [uid for one in made.submit for uid in one.uids]
    assert len(set(submitted)) == len(submitted)
    assert not set(submitted) & set(held)
    assert not (cancelled and submitted)
    waiting = {f"uid-m{index}" for index, how in enumerate(presence) if how == "waits"}
    assert set(submitted) <= waiting
    # A gang that is not there yet is submitted whole or not at all.
    sitting = [uid for uid in held if jobs[0].sitting and presence[int(uid[5:])] in ("waits", "bound")]
    bound = {f"uid-m{index}" for index, how in enumerate(presence) if how == "bound"} | set(sitting)
    if submitted and len(bound) < minimum:
        assert len(made.submit) == 1
        assert len(submitted) + len(bound) >= minimum
