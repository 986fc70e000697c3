"""A model that was refused goes elsewhere, and where there is no elsewhere it is tried again."""

from collections.abc import Collection
from dataclasses import replace
from typing import cast

import pytest

from berth.postgres import Database
from berth.v1 import jobs_pb2, placement_pb2
from placement_engine.adapters.translate import away_from, job_from_spec, waiting_job
from placement_engine.domain.job_state import REFUSED_SECONDS, JobRow, JobState, Retry
from placement_engine.domain.model import Queue
from placement_engine.domain.node_constraints import Taint
from placement_engine.domain.policy import Policy
from placement_engine.handlers import Outcomes
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World
from tests.unit.placement_engine.domain.builders import a_node, an_engine


def row(failures: int, *, model: bool = True, refused: tuple[str, ...] = ()) -> JobRow:
    spec = jobs_pb2.JobSpec(name="m", replicas=1, pool="default", queue="default")
    if model:
        spec.model.uri = "/m"
    members = placement_pb2.Decision(members=[jobs_pb2.MemberPlacement(node="n2")]).SerializeToString()
    return JobRow(
        "j", "t", "m", "q", "p", spec.SerializeToString(), "", 0.0, 0.0, JobState.PLACED, members=members,
        bind_failures=failures, refused_nodes=refused,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "room", "left_out"),
    [
        (row(0), True, ("n2",)),
        (row(0, refused=("n1",)), True, ("n1", "n2")),
        (row(0, refused=("n1",)), False, ()),
        (row(0, model=False), True, ()),
        (replace(row(0), state=JobState.PENDING), True, ()),
        (replace(row(0), state=JobState.RELEASING, requeue=True), True, ()),
        # It had run for long, so that its row of failures began anew.
        (replace(row(3), state=JobState.RUNNING), True, ("n2",)),
    ],
)
def test_which_nodes_are_left_out(before: JobRow, room: bool, left_out: tuple[str, ...]) -> None:
    asked: list[Collection[str]] = []

    def elsewhere(_: jobs_pb2.JobSpec, refused: Collection[str]) -> bool:
        asked.append(refused)
        return room

    after = replace(row(1, model=bool(before.spec.count(b"/m"))), state=JobState.PENDING)
    assert Outcomes(Retry(), elsewhere)._elsewhere(before, after, 1.0).refused_nodes == left_out


def test_nodes_are_left_out_of_every_condition() -> None:
    spec = jobs_pb2.JobSpec(name="m")
    assert away_from(spec, ()) == jobs_pb2.JobSpec(name="m")
    spec.nodes.required.add().requirements.add(key="zone", operator="In", values=["a"])
    spec.nodes.required.add().requirements.add(key="zone", operator="In", values=["b"])
    left = [[str(one.key) for one in term.requirements] for term in away_from(spec, ("n1",)).nodes.required]
    assert left == [["zone", "metadata.name"]] * 2
    bare = away_from(jobs_pb2.JobSpec(), ("n2", "n1")).nodes.required[0].requirements[0]
    assert (bare.operator, list(bare.values)) == ("NotIn", ["n1", "n2"])


def test_there_is_no_elsewhere_on_nodes_that_the_job_may_not_have() -> None:
    """A job for n1 alone that n1 refused once was never placed again: it asked for n1 and not n1."""
    tainted = replace(a_node("n3", 1), taints=(Taint("kept"),))
    engine = an_engine(a_node("n1", 1), a_node("n2", 1), tainted)

    def room(spec: jobs_pb2.JobSpec, *refused: str) -> int:
        job = job_from_spec(spec, job_id="", submitted_at=0.0, attempt=1)
        return engine.matching_capacity(job, refused, where_it_may=True).members

    spec = jobs_pb2.JobSpec(name="m", replicas=1)
    spec.resources.devices = 1
    assert (room(spec), room(spec, "n1"), room(spec, "n1", "n2")) == (2, 1, 0)
    spec.nodes.required.add().requirements.add(key="metadata.name", operator="In", values=["n1"])
    assert (room(spec), room(spec, "n1")) == (1, 0)


def test_a_refusal_is_forgotten_after_a_while() -> None:
    """Otherwise a job whose other nodes leave waits for ever beside one that was mended."""
    placed = replace(row(1, refused=("n1",)), not_before=100.0)
    waiting = replace(placed, state=JobState.PENDING)
    kept_away = waiting_job(waiting, 100.0 + REFUSED_SECONDS - 1).nodes.required
    assert [one.values for term in kept_away for one in term] == [("n1",)]
    assert waiting_job(waiting, 100.0 + REFUSED_SECONDS).nodes.required == ()
    outcomes, after = Outcomes(Retry(), lambda spec, refused: True), replace(waiting, bind_failures=2)
    assert outcomes._elsewhere(placed, after, 101.0).refused_nodes == ("n1", "n2")
    assert outcomes._elsewhere(placed, after, 100.0 + REFUSED_SECONDS).refused_nodes == ("n2",)


def test_a_waiting_job_is_planned_anew_when_its_refusals_are_old() -> None:
    now = 100.0
    planner = Planner(
        "default", settings=EngineSettings(), policy=Policy(), database=cast(Database, None), world=World(), name="",
        published=lambda: None, clock=lambda: now,
    )  # fmt: skip
    planner.engine.apply_node(a_node("n1", 1))
    planner.engine.set_queues([Queue("default")])
    planner._sync(replace(row(1, refused=("n1",)), state=JobState.PENDING, not_before=100.0))
    planner._forget_refusals(now)
    assert planner.engine.cycle(now + 1.0, 10).decisions == ()
    now += REFUSED_SECONDS
    assert planner.engine.cycle(now - 1.0, 10).decisions == ()
    planner._forget_refusals(now)
    decided = planner.engine.cycle(now, 10).decisions
    assert [one.job_id for one in decided] == ["j"], planner.engine.explain("j", now)
    assert planner._rows["j"].refused_nodes == ()
