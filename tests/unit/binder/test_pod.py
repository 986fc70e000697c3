"""What pods say of an attempt: whole views of single pods, and the judgement over a gang."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.kubernetes import names
from binder.domain.attempt import AttemptId, Seen
from binder.domain.pod import GONE, Stand, View, gone_after, judge, newer, view_of

ATTEMPT = AttemptId("job.x", 3)
T1, T2, T3 = "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z"
S1, S2, S3 = 1767225601.0, 1767225602.0, 1767225603.0


def a_pod(*, node: str = "", attempt: str = "", phase: str = "Pending", **more: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"namespace": "team", "name": "a", "uid": "u", "resourceVersion": "7"}
    annotations = {names.ATTEMPT: attempt} if attempt else {}
    annotations |= {names.RELEASED: more.pop("released")} if "released" in more else {}
    metadata |= {"annotations": annotations} | more.pop("metadata", {})
    spec = {"schedulerName": "berth"} | ({"nodeName": node} if node else {})
    return {"metadata": metadata, "spec": spec | more.pop("spec", {}), "status": {"phase": phase, **more}}


def ended(code: int, **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "startedAt": T1, "finishedAt": T3, **more}}
    return {"name": "main", "state": state}


OURS = {"node": "n", "attempt": "job.x.3"}
SEEN = View(Stand.WAITING, name="team/a", version="7")
HELD = replace(SEEN, stand=Stand.BOUND, node="n")


@pytest.mark.parametrize(
    ("pod", "view"),
    [
        (a_pod(), SEEN),
        (a_pod(released="job.x.2"), SEEN),
        (a_pod(released="job.9"), SEEN),
        (a_pod(released="job.x.4"), replace(SEEN, released=True, passing=True,
                                            obstacle="pod team/a was let go by this attempt")),
        (a_pod(metadata={"deletionTimestamp": T1}),
         replace(SEEN, deleting=True, obstacle="pod team/a is being deleted")),
        (a_pod(spec={"schedulerName": "other"}),
         replace(SEEN, obstacle="pod team/a asks for scheduler 'other': Berth binds pods with schedulerName berth")),
        (a_pod(phase="Failed"), replace(SEEN, obstacle="pod team/a has ended (Failed)")),
        (a_pod(spec={"schedulingGates": [{"name": "x/y"}]}),
         replace(SEEN, passing=True, obstacle="pod team/a is held back by scheduling gates: x/y")),
        (a_pod(node="n"), replace(HELD, stand=Stand.ELSEWHERE,
                                  obstacle="pod team/a is bound to node n by another scheduler")),
        (a_pod(node="n", attempt="job.x.2"),
         replace(HELD, stand=Stand.ELSEWHERE, obstacle="pod team/a is bound to node n by Berth's attempt job.x.2")),
        (a_pod(**OURS), HELD),
        (a_pod(**OURS, phase="Running", startTime=T1), replace(HELD, stand=Stand.RUNNING, started_at=S1)),
        (a_pod(**OURS, phase="Running", startTime=T1, containerStatuses=[{"state": {"running": {"startedAt": T2}}}]),
         replace(HELD, stand=Stand.RUNNING, started_at=S2)),
        (a_pod(**OURS, phase="Unknown", reason="NodeLost", message="no word"),
         replace(HELD, stand=Stand.RUNNING, words="NodeLost: no word")),
        (a_pod(**OURS, phase="Succeeded", containerStatuses=[ended(0)]),
         replace(HELD, stand=Stand.SUCCEEDED, started_at=S1, ended_at=S3, exit_code=0)),
        (a_pod(**OURS, phase="Failed", containerStatuses=[ended(0), ended(137, reason="OOMKilled", message="boo\n")]),
         replace(HELD, stand=Stand.FAILED, started_at=S1, ended_at=S3, exit_code=137,
                 words="pod team/a on node n failed: container main ended with exit code 137 (OOMKilled): boo")),
        (a_pod(**OURS, phase="Failed", reason="Evicted", message="disk"),
         replace(HELD, stand=Stand.FAILED, words="pod team/a on node n failed: Evicted: disk")),
        (a_pod(**OURS, phase="Failed"),
         replace(HELD, stand=Stand.FAILED, words="pod team/a on node n failed: no reason is given")),
    ],
)  # fmt: skip
def test_one_pod(pod: dict[str, Any], view: View) -> None:
    assert view_of(pod, ATTEMPT) == view


def test_what_is_left_of_a_pod_that_is_gone() -> None:
    assert gone_after(HELD, 9.0) == replace(
        HELD, stand=Stand.LOST, ended_at=9.0, words="pod team/a on node n is gone: deleted"
    )
    assert gone_after(SEEN, 9.0) == replace(GONE, name="team/a", version="7")
    done = replace(HELD, stand=Stand.SUCCEEDED, ended_at=3.0)
    assert gone_after(done, 9.0) == done


views = st.builds(
    View,
    stand=st.sampled_from(Stand),
    name=st.just("team/a"),
    version=st.sampled_from(["1", "2", "3", "10", ""]),
    deleting=st.booleans(),
    started_at=st.one_of(st.none(), st.floats(100, 200)),
    ended_at=st.one_of(st.none(), st.floats(100, 200)),
    exit_code=st.one_of(st.none(), st.integers(0, 255)),
)


@given(st.lists(views, min_size=1))
def test_what_was_ours_stays_so_and_what_is_lost_stays_lost(seen: list[View]) -> None:
    known = seen[0]
    for view in seen:
        after = newer(known, view)
        assert not known.ours or after.ours
        assert known.stand is not Stand.LOST or after == known
        known = after


@given(st.lists(views, min_size=1, max_size=5), st.sampled_from([None, 150.0]), st.booleans())
def test_an_attempt_is_over_when_none_of_its_pods_can_be_running(
    gang: list[View], bound_at: float | None, releasing: bool
) -> None:
    said = judge(gang, now=300.0, bound_at=bound_at, releasing=releasing)
    active = any(view.active for view in gang)
    assert (said.seen in (Seen.SUCCEEDED, Seen.FAILED, Seen.RELEASED, Seen.ABSENT)) <= (not active)
    assert (said.seen in (Seen.HELD, Seen.STARTED)) <= active
    assert (said.seen is Seen.SUCCEEDED) == all(view.stand is Stand.SUCCEEDED for view in gang)
    whole = bound_at is not None or all(view.ours for view in gang)
    assert (said.seen in (Seen.PARTIAL, Seen.ABSENT)) == (not whole and not (releasing and not active))
    if said.started_at is not None:
        assert (bound_at or 0.0) <= said.started_at <= said.at
