"""Gangs: whole or not at all, elastic, of several shapes, within budgets; and what a gang that waits is told."""

from typing import Any

import pytest

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import (
    Accelerator,
    Character,
    Claim,
    Decision,
    Job,
    Member,
    MemberGroup,
    Objective,
    PowerDomain,
    Queue,
    Quota,
    Rejection,
)
from placement_engine.domain.policy import Policy
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_device, a_job, a_node, an_engine, placed, why

WORKERS = MemberGroup("workers", 2, 2, devices=8)
LEADER = MemberGroup("leader", cpu_milli=1000)


def seats(engine: Engine, job: Job) -> list[tuple[int, str, str, list[int]]]:
    """Submits and runs a cycle: (member, group, node, device indices) of each member, [] where it waits."""
    engine.submit(job)
    engine.cycle(NOW)
    claim = engine.holds(job.job_id)
    return [] if claim is None else [(m.member, m.group, m.node, [d.index for d in m.devices]) for m in claim.members]


def decided(engine: Engine, job: Job) -> Decision:
    engine.submit(job)
    (decision,) = engine.cycle(NOW).decisions
    return decision


# -- elastic ---------------------------------------------------------------------------------------


def test_an_elastic_gang_takes_as_many_as_fit() -> None:
    engine = an_engine(a_node("a", 8), a_node("b", 4))
    decision = decided(engine, a_job(devices=2, replicas=8, min_replicas=3, expected_duration_seconds=60.0))
    assert [(m.member, m.node) for m in decision.members] == [
        (0, "a"),
        (1, "a"),
        (2, "a"),
        (3, "a"),
        (4, "b"),
        (5, "b"),
    ]
    assert decision.summary.startswith("placed 6 of 8 wished on 2 nodes, first a: best of 2 nodes, score")
    assert (decision.expectation.devices, decision.expectation.duration_seconds) == (12, 80.0)
    assert [(u.used_milli, u.running_jobs) for u in engine.queue_usage()] == [(12_000, 1)]


def test_an_elastic_gang_waits_below_its_minimum() -> None:
    engine = an_engine(a_node("a", 8))
    before = engine.state_digest()
    job = a_job(devices=2, replicas=8, min_replicas=5)
    assert isinstance(engine.dry_run(job, NOW), Rejection)
    assert engine.state_digest() == before
    assert why(engine, job) == {"GANG_TOO_LARGE_NOW": (0, 0)}
    rejection = engine.explain("j1", NOW)
    assert rejection is not None
    assert rejection.reasons[0].numbers == {"replicas": 5.0, "replicas_that_fit": 4.0}
    assert rejection.remedies == (
        "4 of 5 replicas would fit now",
        "a replica with 1 instead of 2 devices would fit now",
    )
    engine.apply_node(a_node("b", 2))
    assert placed(engine) == {"j1": ["a", "a", "a", "a", "b"]}


def test_the_wished_size_is_said_only_where_it_is_missed() -> None:
    engine = an_engine(a_node("a", 8))
    assert decided(engine, a_job(replicas=2, min_replicas=1)).summary.startswith("placed on 1 nodes, first a")


def test_more_members_count_for_more_than_a_better_model() -> None:
    engine = an_engine(a_node("a", 2, "H100"), a_node("b", 1, "L4"), a_node("c", 2, "L4"))
    assert placed(engine, a_job(replicas=4, min_replicas=1)) == {"j1": ["c", "c", "b"]}


def test_a_gang_is_elastic_only_up_to_the_limit_of_its_queue() -> None:
    engine = an_engine(a_node("a", 8))
    engine.set_queues([Queue("default", device_limit=5)])
    decision = decided(engine, a_job(devices=2, replicas=4, min_replicas=1))
    assert len(decision.members) == 2
    assert decision.summary.startswith("placed 2 of 4 wished on")
    assert "QUEUE_DEVICE_LIMIT" in why(engine, a_job("j2", devices=2, replicas=2, min_replicas=1))


@pytest.mark.parametrize(
    "queue", [Queue("q", device_limit=4), Queue("q", quotas=(Quota("H100", 4000, borrowing_limit=0),))]
)
def test_an_elastic_gang_whose_members_may_get_more_devices_stays_within_both_kinds_of_limit(queue: Queue) -> None:
    """Its members count by the devices that they get, not by the least that they ask for."""
    engine = an_engine(a_node("n1", 8))
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", dense_fp16_tflops=989.0, memory_bandwidth=3.35e12)])
    engine.set_queues([queue])
    work = Character(1e18, 1e15, 1.0)
    wide = {"devices": 1, "max_devices": 2, "replicas": 4, "min_replicas": 1}
    found = decided(engine, a_job(**wide, character=work, objective=Objective.TIME, queue="q"))
    assert sum(len(member.devices) for member in found.members) <= 4


def test_an_elastic_gang_of_shares_stays_within_the_limit_too() -> None:
    engine = an_engine(a_node("a", 4))
    engine.set_queues([Queue("default", device_limit=1)])
    shares = a_job("shares", devices=0, device_share_bytes=30 * GIB, replicas=4, min_replicas=1)
    assert placed(engine, shares) == {"shares": ["a", "a"]}
    assert [u.used_milli for u in engine.queue_usage()] == [750]


def test_a_smaller_minimum_is_not_held_up_by_a_larger_one() -> None:
    engine = an_engine(a_node("a", 2))
    jobs = [a_job("large", replicas=4, submitted_at=1.0), a_job("small", replicas=4, min_replicas=2, submitted_at=2.0)]
    assert placed(engine, *jobs) == {"small": ["a", "a"]}


# -- several shapes --------------------------------------------------------------------------------


def test_a_leader_and_its_workers_are_placed_together() -> None:
    engine = an_engine(a_node("cpu", 0), a_node("g1", 8), a_node("g2", 8))
    gang = a_job(groups=(LEADER, WORKERS), devices=0)
    assert seats(engine, gang) == [
        (0, "leader", "cpu", []),
        (1, "workers", "g1", list(range(8))),
        (2, "workers", "g2", list(range(8))),
    ]
    assert why(engine, a_job("next")) == {"DEVICES_BUSY": (2, 16), "ACCELERATOR_MISMATCH": (1, 0)}


def test_a_leader_on_one_device_does_not_break_the_workers_nodes() -> None:
    engine = an_engine(a_node("a", 8), a_node("b", 8), a_node("c", 4))
    leader = MemberGroup("leader", devices=1)
    assert [seat[:3] for seat in seats(engine, a_job(groups=(leader, WORKERS), devices=0))] == [
        (0, "leader", "c"),
        (1, "workers", "a"),
        (2, "workers", "b"),
    ]


def test_all_groups_or_none() -> None:
    engine = an_engine(a_node("a", 8), a_node("b", 4), a_node("cpu", 0))
    gang = a_job(groups=(LEADER, WORKERS), devices=0)
    before = engine.state_digest()
    assert isinstance(engine.dry_run(gang, NOW), Rejection)
    assert engine.state_digest() == before
    assert why(engine, gang) == {
        "GANG_TOO_LARGE_NOW": (0, 0),
        "DEVICES_BUSY": (1, 4),
        "ACCELERATOR_MISMATCH": (1, 0),
    }
    rejection = engine.explain("j1", NOW)
    assert rejection is not None
    assert rejection.reasons[0].message == "1 of 2 replicas of group 'workers' fit at once on one model"
    engine.apply_node(a_node("c", 8))
    assert len(placed(engine)["j1"]) == 3


def test_groups_may_sit_on_different_models_and_no_group_mixes_them() -> None:
    engine = an_engine(a_node("a", 4, "H100"), a_node("b", 1, "L4"), a_node("c", 4, "L4"))
    groups = (MemberGroup("eval", 2, 2, devices=1), MemberGroup("train", 4, 4, devices=1, models=("H100",)))
    assert [seat[1:3] for seat in seats(engine, a_job(groups=groups, devices=0))] == [
        ("eval", "c"),
        ("eval", "c"),
        ("train", "a"),
        ("train", "a"),
        ("train", "a"),
        ("train", "a"),
    ]
    mixed = a_job("mixed", devices=0, groups=(MemberGroup("all", 4, 4, devices=1),))
    assert why(engine, mixed)["GANG_TOO_LARGE_NOW"] == (0, 0)


def test_a_group_without_selectors_has_the_jobs() -> None:
    engine = an_engine(a_node("a", 2, "H100"), a_node("b", 1, "L4"))
    groups = (MemberGroup("one", devices=1), MemberGroup("two", devices=1))
    assert seats(engine, a_job(groups=groups, devices=0, models=("L4",))) == []
    assert [seat[2] for seat in seats(engine, a_job("k", groups=groups, devices=0, models=("H100",)))] == ["a", "a"]


def test_the_least_of_every_group_goes_before_the_wishes_of_the_first() -> None:
    engine = an_engine(a_node("a", 4))
    groups = (MemberGroup("first", 3, 1, devices=1), MemberGroup("second", 3, 1, devices=1))
    decision = decided(engine, a_job(groups=groups, devices=0))
    assert [(m.member, m.group) for m in decision.members] == [
        (0, "first"),
        (1, "first"),
        (2, "first"),
        (3, "second"),
    ]
    assert decision.summary.startswith("placed 4 of 6 wished on 1 nodes")
    assert sorted(d.index for m in decision.members for d in m.devices) == [0, 1, 2, 3]


def test_the_rest_of_a_group_joins_the_model_of_its_least() -> None:
    engine = an_engine(a_node("a", 2, "H100"), a_node("b", 2, "L4"))
    decision = decided(engine, a_job(groups=(MemberGroup("all", 3, 1, devices=1),), devices=0))
    assert len(decision.members) == 2
    assert len({d.model for m in decision.members for d in m.devices}) == 1


def test_the_wishes_of_groups_are_cut_to_the_queues_limit_from_the_last_one() -> None:
    engine = an_engine(a_node("a", 8))
    engine.set_queues([Queue("default", device_limit=4)])
    groups = (MemberGroup("first", 3, 1, devices=1), MemberGroup("second", 3, 1, devices=1))
    decision = decided(engine, a_job(groups=groups, devices=0))
    assert [m.group for m in decision.members] == ["first", "first", "first", "second"]


def test_all_groups_share_the_required_domain() -> None:
    engine = an_engine(
        a_node("r1a", 8, rack="r1"),
        a_node("r1b", 8, rack="r1"),
        a_node("r2a", 8, rack="r2"),
        a_node("r2b", 8, rack="r2"),
        a_node("r2c", 1, rack="r2"),
    )
    groups = (MemberGroup("leader", devices=1), WORKERS)
    gang = a_job(groups=groups, devices=0, topology_level="rack", topology_required=True)
    assert [seat[2] for seat in seats(engine, gang)] == ["r2c", "r2a", "r2b"]


def test_groups_that_no_one_domain_holds_are_told_which_level_would() -> None:
    engine = an_engine(
        a_node("a1", 1, topology={"rack": "r1", "block": "b"}),
        *(a_node(f"a{i}", 8, topology={"rack": "r2", "block": "b"}) for i in (2, 3)),
    )
    groups = (MemberGroup("leader", devices=1, models=("H100",)), MemberGroup("workers", 3, 3, devices=5))
    gang = a_job(groups=groups, devices=0, topology_level="rack", topology_required=True)
    assert why(engine, gang)["GANG_TOO_LARGE_NOW"] == (0, 0)
    engine.withdraw("j1")
    two = (MemberGroup("leader", devices=1, cpu_milli=64_000), MemberGroup("workers", 2, 2, devices=8))
    engine.restore(Claim(a_job("busy"), tuple(Member(i, f"a{i}", (), 1000, 0) for i in (2, 3))))
    gang = a_job(groups=two, devices=0, topology_level="rack", topology_required=True)
    assert why(engine, gang)["TOPOLOGY_DOMAIN_TOO_SMALL"] == (0, 0)
    rejection = engine.explain("j1", NOW)
    assert rejection is not None
    assert rejection.reasons[0].message == "each of 2 groups fits in one rack, no rack holds them all"
    assert rejection.remedies == (
        "it would fit now within one block",
        "it would fit now if one rack were preferred, not required",
    )


def test_nodes_that_hold_each_group_and_not_both_do_not_hide_the_rack_that_does() -> None:
    engine = an_engine(*(a_node(f"n{i}", 8, rack=f"r{i // 2}") for i in range(12)))
    groups = (MemberGroup("leader", devices=1, cpu_milli=1000), MemberGroup("worker", devices=8))
    gang = a_job(groups=groups, devices=0, topology_level="rack", topology_required=True)
    assert [seat[2] for seat in seats(engine, gang)] == ["n1", "n0"]


def test_groups_that_collide_are_told_so() -> None:
    """Each group alone would have room in the node's CPU."""
    engine = an_engine(a_node("a", 8, cpu_milli=4000))
    groups = (MemberGroup("one", devices=1, cpu_milli=3000), MemberGroup("two", devices=1, cpu_milli=3000))
    assert why(engine, a_job(groups=groups, devices=0)) == {"GANG_GROUPS_COLLIDE": (0, 0)}


def test_a_claim_of_groups_from_the_ledger_counts_the_same() -> None:
    """Expected draw differs by group: the leader takes one device, a worker eight."""
    catalogue = [Accelerator("H100", "GPU", "CUDA", tdp_watts=700.0)]
    nodes = [a_node(n, 8, power_cap_watts=10_000.0) for n in ("a", "b", "c")]
    groups = (MemberGroup("leader", device_milli=500), WORKERS)
    gang = a_job(groups=groups, devices=0)
    first, second = an_engine(*nodes), an_engine(*nodes)
    for engine in (first, second):
        engine.set_accelerators(catalogue)
    second.restore(Claim(gang, decided(first, gang).members, placed_at=NOW))
    assert first.state_digest() == second.state_digest()
    first.release("j1")
    second.undo("j1", 0)
    second.withdraw("j1")
    assert first.state_digest() == second.state_digest()


# -- budgets ---------------------------------------------------------------------------------------


def powered(*racks: str, cap: float, nodes: int = 2) -> Engine:
    """Nodes of two devices of 500 W each."""
    engine = an_engine(*(a_node(f"{rack}{i}", 2, rack=rack) for rack in racks for i in range(nodes)))
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", tdp_watts=500.0)])
    engine.set_power_domains([PowerDomain("rack", rack, cap) for rack in racks])
    return engine


def test_a_gang_goes_on_elsewhere_where_a_rack_has_no_power_left() -> None:
    engine = powered("x", "y", "z", cap=1600.0)
    assert placed(engine, a_job(devices=1, replicas=8)) == {"j1": ["x0", "x0", "y0", "y0", "z0", "z0", "x1", "y1"]}
    assert [f.headroom for f in engine._fleet.power_domains().values()] == pytest.approx([98.4, 98.4, 598.4], abs=2)


def test_one_member_a_node_counts_what_the_others_of_its_rack_draw() -> None:
    engine = an_engine(*(a_node(f"{rack}{i}", 1, rack=rack) for rack in "xy" for i in range(3)))
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", tdp_watts=500.0)])
    engine.set_power_domains([PowerDomain("rack", rack, 1100.0) for rack in "xy"])
    assert placed(engine, a_job(devices=1, replicas=4)) == {"j1": ["x0", "x1", "y0", "y1"]}
    assert why(engine, a_job("k", devices=1)) == {"NODE_POWER_SHORT": (6, 6)}


def test_power_that_every_member_has_alone_and_not_all_together() -> None:
    engine = powered("x", "y", cap=1600.0)
    before = engine.state_digest()
    gang = a_job(devices=1, replicas=7)
    assert isinstance(engine.dry_run(gang, NOW), Rejection)
    assert engine.state_digest() == before
    assert why(engine, gang) == {"SHARED_POWER_SHORT": (0, 0)}
    engine.withdraw("j1")
    elastic = decided(engine, a_job("j2", devices=1, replicas=7, min_replicas=1))
    assert [m.node for m in elastic.members] == ["x0", "x0", "y0", "y0", "x1", "y1"]


def test_a_nodes_own_power_cap_bounds_its_members() -> None:
    engine = an_engine(*(a_node(n, 4, power_cap_watts=1100.0) for n in ("a", "b")))
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", tdp_watts=500.0)])
    assert placed(engine, a_job(devices=1, replicas=4)) == {"j1": ["a", "a", "b", "b"]}


def test_host_resources_bound_the_members_of_a_node() -> None:
    engine = an_engine(*(a_node(n, 8, cpu_milli=5000, memory_bytes=64 * GIB) for n in ("a", "b", "c")))
    gang = a_job(devices=1, cpu_milli=2000, replicas=5)
    assert placed(engine, gang) == {"j1": ["a", "a", "b", "b", "c"]}
    assert why(engine, a_job("k", devices=1, cpu_milli=2000, replicas=2)) == {
        "HOST_RESOURCES_SHORT": (2, 16),
        "GANG_TOO_LARGE_NOW": (0, 0),
    }


# -- devices of a member ---------------------------------------------------------------------------


def with_numa(name: str, *domains: str, **changes: Any) -> Any:
    devices = [a_device(name, i, topology={"numa": domain} if domain else {}) for i, domain in enumerate(domains)]
    return a_node(name, devices, **changes)


def test_devices_of_a_member_share_the_required_domain_the_tightest_that_holds_them() -> None:
    engine = an_engine(with_numa("a", "0", "1", "1", "0", "1", "0", "0"))
    near: dict[str, Any] = {"topology_level": "numa", "topology_required": True}
    assert seats(engine, a_job("three", devices=3, **near)) == [(0, "", "a", [1, 2, 4])]
    assert seats(engine, a_job("two", devices=2, replicas=2, **near)) == [(0, "", "a", [0, 3]), (1, "", "a", [5, 6])]


def test_a_required_domain_of_devices_that_is_missing_is_told_with_what_would_help() -> None:
    engine = an_engine(with_numa("a", "0", "0", "1", "1", "", ""))
    job = a_job(devices=3, topology_level="numa", topology_required=True)
    assert why(engine, job) == {"TOPOLOGY_DEVICES_APART": (0, 0)}
    rejection = engine.explain("j1", NOW)
    assert rejection is not None
    assert rejection.reasons[0].message == "0 of 1 replicas fit with all devices of a replica in one numa"
    assert rejection.remedies == (
        "it would fit now if one numa were preferred, not required",
        "a replica with 2 instead of 3 devices would fit now",
    )


def test_a_preferred_domain_of_devices_gives_way() -> None:
    engine = an_engine(with_numa("a", "0", "1", "0", "1"), with_numa("b", "0", "1", "2", "2", "2"))
    near: dict[str, Any] = {"preferred_level": "numa"}
    assert seats(engine, a_job("three", devices=3, **near)) == [(0, "", "b", [2, 3, 4])]
    assert seats(engine, a_job("again", devices=3, **near)) == [(0, "", "a", [0, 1, 2])]


# -- the same whatever the order -------------------------------------------------------------------


def test_models_of_equal_worth_go_by_name_whatever_the_order_of_arrival() -> None:
    nodes = [a_node("n1", 2, "B"), a_node("n2", 2, "A")]
    for order in (nodes, nodes[::-1]):
        policy = Policy()
        assert placed(an_engine(*order, policy=policy), a_job(replicas=2)) == {"j1": ["n2", "n2"]}
