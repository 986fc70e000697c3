"""A model that was refused goes elsewhere, and where there is no elsewhere it is tried again."""

from collections.abc import Collection

import pytest

from berth.v1 import jobs_pb2, placement_pb2
from placement_engine.adapters.translate import away_from
from placement_engine.domain.job_state import JobRow, JobState, Retry
from placement_engine.handlers import Outcomes


def row(failures: int, *, model: bool = True, refused: tuple[str, ...] = ()) -> JobRow:
    spec = jobs_pb2.JobSpec(name="m", replicas=1)
    if model:
        spec.model.uri = "/m"
    members = placement_pb2.Decision(members=[jobs_pb2.MemberPlacement(node="n2")]).SerializeToString()
    return JobRow(
        "j", "t", "m", "q", "p", spec.SerializeToString(), "", 0.0, 0.0, JobState.PENDING, members=members,
        bind_failures=failures, refused_nodes=refused,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "room", "left_out"),
    [
        (row(0), True, ("n2",)),
        (row(0, refused=("n1",)), True, ("n1", "n2")),
        (row(0, refused=("n1",)), False, ()),
        (row(0, model=False), True, ()),
        (row(1), True, ()),
    ],
)
def test_which_nodes_are_left_out(before: JobRow, room: bool, left_out: tuple[str, ...]) -> None:
    asked: list[Collection[str]] = []

    def elsewhere(_: jobs_pb2.JobSpec, refused: Collection[str]) -> bool:
        asked.append(refused)
        return room

    after = row(1, model=bool(before.spec.count(b"/m")))
    assert Outcomes(Retry(), elsewhere)._elsewhere(before, after).refused_nodes == left_out


def test_nodes_are_left_out_of_every_condition() -> None:
    spec = jobs_pb2.JobSpec(name="m")
    assert away_from(spec, ()) == jobs_pb2.JobSpec(name="m")
    spec.nodes.required.add().requirements.add(key="zone", operator="In", values=["a"])
    spec.nodes.required.add().requirements.add(key="zone", operator="In", values=["b"])
    left = [[str(one.key) for one in term.requirements] for term in away_from(spec, ("n1",)).nodes.required]
    assert left == [["zone", "metadata.name"]] * 2
    bare = away_from(jobs_pb2.JobSpec(), ("n2", "n1")).nodes.required[0].requirements[0]
    assert (bare.operator, list(bare.values)) == ("NotIn", ["n1", "n2"])
