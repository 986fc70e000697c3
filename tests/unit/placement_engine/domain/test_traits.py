"""Devices by their traits: the marks of the resource claims that they may serve."""

from dataclasses import replace

from placement_engine.domain.job_mix import WARM
from placement_engine.domain.model import Decision, MemberGroup, Node, Rejection
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, an_engine, placed


def marked(node: Node, *traits: str, devices: tuple[int, ...]) -> Node:
    return replace(
        node,
        devices=tuple(replace(device, traits=traits) if device.index in devices else device for device in node.devices),
    )


def indices(found: Decision | Rejection) -> list[int]:
    assert isinstance(found, Decision), found
    return sorted(device.index for member in found.members for device in member.devices)


def test_only_devices_with_every_trait_are_taken() -> None:
    engine = an_engine(marked(a_node("a", 4), "x", devices=(1, 3)), marked(a_node("b", 4), "x", "y", devices=(0, 2)))
    assert indices(engine.dry_run(a_job(devices=2, traits=("y",)), NOW)) == [0, 2]
    refused = engine.dry_run(a_job(devices=3, traits=("x",)), NOW)
    assert isinstance(refused, Rejection)
    assert [(reason.plugin, reason.code, reason.nodes, reason.devices) for reason in refused.reasons] == [
        ("Claim", "CLAIM_SELECTOR", 2, 8)
    ]
    assert isinstance(engine.dry_run(a_job(devices=1, traits=("z",)), NOW), Rejection)
    assert isinstance(engine.dry_run(a_job(devices=4), NOW), Decision)
    one_of_two = an_engine(marked(a_node("a", 4), "x", devices=(1, 3))).dry_run(
        a_job(devices=1, traits=("x", "y")), NOW
    )
    assert isinstance(one_of_two, Rejection)


def test_a_mark_that_comes_later_is_seen() -> None:
    engine = an_engine(a_node("a", 2))
    engine.submit(a_job("j", devices=1, traits=("x",)))
    assert engine.cycle(NOW).decisions == ()
    engine.apply_node(marked(a_node("a", 2), "x", devices=(1,)))
    (decision,) = engine.cycle(NOW + 1).decisions
    assert indices(decision) == [1]
    engine.apply_node(a_node("a", 2))
    engine.submit(a_job("k", devices=1, traits=("x",)))
    assert engine.cycle(NOW + 2).decisions == ()


def test_a_member_group_has_its_own() -> None:
    engine = an_engine(marked(a_node("a", 3), "x", devices=(2,)))
    groups = (MemberGroup("leader", devices=1, traits=("x",)), MemberGroup("worker", devices=2, replicas=1))
    found = engine.dry_run(a_job(devices=0, replicas=2, groups=groups), NOW)
    assert isinstance(found, Decision)
    assert {member.group: [one.index for one in member.devices] for member in found.members}["leader"] == [2]


def test_what_is_handed_out_for_claims_is_for_claims_only() -> None:
    engine = an_engine(marked(a_node("a", 2), "resource-claim", "x", devices=(0,)))
    assert indices(engine.dry_run(a_job(devices=1), NOW)) == [1]
    assert indices(engine.dry_run(a_job(devices=1, traits=("x",)), NOW)) == [0]
    refused = engine.dry_run(a_job(devices=2), NOW)
    assert isinstance(refused, Rejection)
    assert refused.reasons[0].message.startswith("1 devices are handed out for resource claims only")


def test_what_is_for_claims_only_is_kept_from_jobs_whose_kind_was_looked_at_before_any_mark() -> None:
    engine = an_engine(*(a_node(name, 1) for name in ("a", "b", "c", "d")))
    for number in range(WARM):  # what the fleet hosts is known by then: a node that changes makes no table anew
        placed(engine, a_job(f"past-{number}", devices=1))
        engine.release(f"past-{number}")
        engine.cycle(NOW)
    assert isinstance(engine.dry_run(a_job(devices=1), NOW), Decision)
    engine.apply_node(marked(a_node("a", 1), "resource-claim", "x", devices=(0,)))
    taken = [engine.member_on(a_job(devices=1), name, NOW) is not None for name in ("a", "b", "c", "d")]
    assert taken == [False, True, True, True]
