"""What each of many nodes says to one member: the same as a decision would, and nothing is changed by asking."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Claim, Decision, Job, Queue, Quota, Reason
from placement_engine.domain.node_constraints import NodeConstraints, NodeRequirement, Taint
from placement_engine.domain.policy import Policy
from placement_engine.domain.survey import CURABLE, MOST_TOLD, Survey
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, a_sample, an_engine, placed
from tests.unit.placement_engine.domain.test_partitions import a_cut_node, a_part, a_partitioned_engine
from tests.unit.placement_engine.domain.test_power_budgets import a_live_node, a_powered_engine, hear
from tests.unit.placement_engine.domain.test_properties import batches, fleets
from tests.unit.placement_engine.domain.test_reservations import a_blocked_gang

HOT = {"margin_celsius": 1.0}
COOL = {"margin_celsius": 40.0}


def told(found: Survey) -> dict[str, tuple[str, bool]]:
    return {name: (one.reason.code, one.curable) for name, one in found.refusals.items()}


def test_each_node_gives_its_own_reason_and_says_whether_it_could_be_cured() -> None:
    engine = an_engine(
        a_node("busy", 2), a_node("hot", 2), a_node("hot-and-busy", 4), a_node("other", 2, model="L4"),
        a_node("cordoned", 2, schedulable=False), a_node("full-host", 2, cpu_milli=500), a_node("free", 2),
        a_node("held", 1, device={"held_by": "default/p"}), a_node("tainted", 1, taints=(Taint("a", "b"),)),
        a_node("small", 1, labels={"size": "small"}),
        policy=Policy(heat_floor_celsius=5.0),
    )  # fmt: skip
    engine.apply_sample(a_sample("hot", HOT, HOT))
    engine.apply_sample(a_sample("hot-and-busy", COOL, COOL, HOT, HOT))
    for name in ("busy", "hot-and-busy"):
        engine.restore(a_claim(engine, a_job(name, devices=2), name))
    small = NodeConstraints(required=((NodeRequirement("size", "NotIn", ("small",)),),))
    found = engine.survey(a_job(models=("H100",), cpu_milli=1000, nodes=small), (*engine.node_names(), "nobody"), NOW)
    assert set(found.scores) == {"free"}
    assert told(found) == {
        "busy": ("DEVICES_BUSY", True),
        "hot": ("HEAT_MARGIN_BELOW_FLOOR", False),
        "hot-and-busy": ("HEAT_MARGIN_BELOW_FLOOR", True),  # two cool devices, were their job gone
        "other": ("ACCELERATOR_MISMATCH", False),
        "cordoned": ("NODE_CORDONED", False),
        "full-host": ("HOST_RESOURCES_SHORT", True),
        "held": ("DEVICE_HELD_ELSEWHERE", True),
        "tainted": ("TAINT_NOT_TOLERATED", False),
        "small": ("NODE_SELECTOR_MISMATCH", False),
        "nobody": ("NODE_UNKNOWN", False),
    }
    assert found.refusals["held"].reason.message == "1 devices are held outside Berth: default/p (1)"
    assert found.refusals["hot"].reason == Reason(
        "HeatMargin", "HEAT_MARGIN_BELOW_FLOOR", 1, 2,
        "2 devices are too hot: margin below 5 degrees, or not yet back at 8",
        {"devices_hot": 2.0, "floor_celsius": 5.0, "resume_celsius": 8.0},
    )  # fmt: skip


def test_what_leaves_with_the_work_is_curable_by_filter_and_not_by_name() -> None:
    """Two filters may share a name: of them one can be cured by eviction, the other cannot."""
    powered = a_powered_engine(a_live_node("draws"), a_live_node("capped", power_cap_watts=600.0))
    hear(powered, "draws", 300.0, 300.0)
    hear(powered, "capped", 300.0, 70.0)
    assert told(powered.survey(a_job(workload="w", devices=2), ("draws",), NOW)) == {
        "draws": ("DEVICE_POWER_SHORT", True)
    }
    assert told(powered.survey(a_job(workload="w"), ("capped",), NOW)) == {"capped": ("NODE_POWER_SHORT", True)}
    parted = a_partitioned_engine(a_cut_node("cut"), a_cut_node("whole", device={"partitionable": False}))
    parted.restore(a_claim(parted, a_part("x", "7g.80gb"), "cut"))
    assert told(parted.survey(a_part("y", "1g.10gb"), ("cut", "whole"), NOW)) == {
        "cut": ("PARTITION_NO_ROOM", True),
        "whole": ("PARTITION_UNSUPPORTED", False),
    }
    unknown = an_engine(a_node("n1", 1, device={"memory_bytes": None}))
    found = unknown.survey(a_job(device_share_bytes=GIB), ("n1",), NOW)
    assert told(found) == {"n1": ("DEVICE_MEMORY_UNKNOWN", False)}


def test_every_curable_filter_is_asked() -> None:
    assert set(CURABLE) <= {type(plugin) for plugin in an_engine()._explainer.filters}


def a_claim(engine: Engine, job: Job, node: str) -> Claim:
    member = engine.member_on(job, node, NOW)
    assert member is not None, node
    return Claim(job, (member,))


def test_many_nodes_of_one_filter_share_a_sentence_so_that_equal_reasons_can_be_counted() -> None:
    for nodes, sentences in ((MOST_TOLD, 2), (MOST_TOLD + 1, 1)):
        engine = an_engine(*(a_node(f"n{i:03}", 1 + i % 2) for i in range(nodes)))
        found = engine.survey(a_job(devices=4), engine.node_names(), NOW)
        assert len({one.reason.message for one in found.refusals.values()}) == sentences


def test_what_is_kept_for_a_job_is_not_offered_to_another_but_to_one_of_higher_priority() -> None:
    engine = a_blocked_gang()
    found = engine.survey(a_job("w", devices=4), ("n1", "n2"), NOW)
    assert told(found) == {"n1": ("HELD_FOR_RESERVATION", False), "n2": ("DEVICES_BUSY", True)}
    assert found.refusals["n1"].reason.message == "what is free there is kept for job gang"
    assert engine.member_on(a_job("w", devices=4), "n1", NOW) is None


def test_a_queue_that_has_no_room_refuses_everywhere() -> None:
    engine = an_engine(a_node("n1"), a_node("n2"))
    engine.set_queues([Queue("small", device_limit=1), Queue("owned", quotas=(Quota("", 1000, borrowing_limit=0),))])
    for queue, code in (("small", "QUEUE_DEVICE_LIMIT"), ("owned", "QUEUE_QUOTA_EXCEEDED")):
        found = engine.survey(a_job(devices=2, queue=queue), ("n1", "n2"), NOW)
        assert told(found) == {"n1": (code, False), "n2": (code, False)}


def test_a_member_on_a_node_has_devices_that_are_free_there() -> None:
    engine = an_engine(a_node("n1", 4), a_node("n2", 4))
    assert placed(engine, a_job("x", devices=3))["x"] == ["n1"]
    member = engine.member_on(a_job("y", devices=1, cpu_milli=2000, memory_bytes=GIB), "n1", NOW)
    assert member is not None
    assert (member.node, [one.device_id for one in member.devices]) == ("n1", ["n1/3"])
    assert (member.cpu_milli, member.memory_bytes) == (2000, GIB)


@settings(max_examples=80, deadline=None)
@given(fleet=fleets, batch=batches, data=st.data())
def test_a_survey_says_what_a_decision_says_and_leaves_no_trace(fleet: Any, batch: Any, data: st.DataObject) -> None:
    engine = an_engine(*fleet)
    engine.set_queues([Queue("a"), Queue("b", device_limit=3)])
    for job in batch:
        engine.submit(job)
    engine.cycle(NOW)
    job = replace(data.draw(st.sampled_from(batch)), job_id="asked", replicas=1, min_replicas=0, topology_level="")
    job = replace(job, groups=(), preferred_level="", group_size=0, expected_duration_seconds=None)
    before, names = engine.state_digest(), (*engine.node_names(), "nobody")
    found, decided = engine.survey(job, names, NOW), engine.dry_run(job, NOW)
    members = {name: engine.member_on(job, name, NOW) for name in names}
    assert engine.state_digest() == before
    assert engine.survey(job, names, NOW) == found
    assert found.scores.keys() | found.refusals.keys() == set(names)
    assert not found.scores.keys() & found.refusals.keys()
    assert {name for name, member in members.items() if member is not None} == set(found.scores)
    assert isinstance(decided, Decision) == bool(found.scores)
    if isinstance(decided, Decision):
        best = decided.candidates[0]
        assert best.node in found.scores
        if not job.topology_level:
            assert found.scores[best.node] == pytest.approx(max(found.scores.values()))
            assert found.scores[best.node] == pytest.approx(best.score)


def test_a_dry_run_beside_what_is_promised_leaves_no_trace() -> None:
    engine = an_engine(a_node("n1", 4), a_node("n2", 4))
    before = engine.state_digest()
    first = engine.dry_run(a_job("a", devices=4), NOW)
    assert isinstance(first, Decision)
    second = engine.dry_run(a_job("b", devices=4), NOW, beside={"a": first.members})
    assert isinstance(second, Decision)
    assert (first.members[0].node, second.members[0].node) == ("n1", "n2")
    third = engine.dry_run(a_job("c", devices=4), NOW, beside={"a": first.members, "b": second.members})
    assert not isinstance(third, Decision)
    assert [(one.code, one.nodes) for one in third.reasons] == [("DEVICES_BUSY", 2)]
    assert engine.state_digest() == before
