"""On which nodes a job may sit: labels, taints, what others have, and what is said where nothing is left."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Accelerator, MemberGroup, Node, Partition, Rejection
from placement_engine.domain.node_constraints import (
    NodeConstraints,
    NodeRequirement,
    Taint,
    Toleration,
    first_not_tolerated,
    matches,
    selects,
    tolerates,
)
from placement_engine.domain.policy import Policy
from tests.unit.placement_engine.domain.builders import (
    GIB,
    NOW,
    a_device,
    a_job,
    a_node,
    a_sample,
    an_engine,
    device_ids,
    placed,
    why,
)


def needs(key: str, operator: str = "In", *values: str) -> NodeRequirement:
    return NodeRequirement(key, operator, values)


def where(*terms: tuple[NodeRequirement, ...], tolerations: tuple[Toleration, ...] = ()) -> NodeConstraints:
    return NodeConstraints(tuple(terms), tolerations)


@pytest.mark.parametrize(
    ("requirement", "fits", "does_not"),
    [
        (needs("k", "In", "a", "b"), ["a", "b"], ["c", "", None]),
        (needs("k", "NotIn", "a"), ["b", "", None], ["a"]),
        (needs("k", "Exists"), ["a", ""], [None]),
        (needs("k", "DoesNotExist"), [None], ["a", ""]),
        (
            needs("k", "Gt", "5"),
            ["6", "+6", "9223372036854775807"],
            ["5", "-6", "x", "", "6.5", "9223372036854775808", None],
        ),
        (needs("k", "Lt", "5"), ["4", "-9223372036854775808"], ["5", "x", "-9223372036854775809", "٤", None]),
        (needs("k", "Gt", "x"), [], ["6", None]),
        (needs("k", "Near", "a"), [], ["a", None]),
    ],
)
def test_an_operator_is_that_of_kubernetes(
    requirement: NodeRequirement, fits: list[str | None], does_not: list[str | None]
) -> None:
    assert [value for value in (*fits, *does_not) if matches(requirement, value)] == fits


def test_terms_are_any_of_and_requirements_all_of() -> None:
    either = where((needs("a", "In", "1"), needs("b", "Exists")), (needs("metadata.name", "In", "n9"),))
    assert selects(either, "n1", {"a": "1", "b": ""})
    assert not selects(either, "n1", {"a": "1"})
    assert selects(either, "n9", {})
    # A term without requirements matches nothing; no terms match everything.
    assert not selects(where(()), "n1", {})
    assert selects(where(), "n1", {})


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (Toleration("team", "", "vision"), True),
        (Toleration("team", "Equal", "vision", "NoSchedule"), True),
        (Toleration("team", "Exists"), True),
        (Toleration("", "Exists"), True),
        (Toleration("team", "Equal", "speech"), False),
        (Toleration("team", "Equal", "vision", "NoExecute"), False),
        (Toleration("other", "Exists"), False),
        (Toleration("", "Equal", "vision"), False),
        (Toleration("team", "Near", "vision"), False),
    ],
)
def test_a_taint_is_tolerated_as_kubernetes_has_it(toleration: Toleration, tolerated: bool) -> None:
    assert tolerates(toleration, Taint("team", "vision", "NoSchedule")) is tolerated


def test_a_preference_keeps_nobody_away() -> None:
    taints = (Taint("a", "", "PreferNoSchedule"), Taint("b", "", "NoExecute"))
    assert first_not_tolerated(NodeConstraints(), taints[:1]) is None
    assert first_not_tolerated(NodeConstraints(), taints) == taints[1]


KEYS, VALUES = ("a", "b"), ("1", "2", "7")
labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
taints = st.lists(
    st.builds(
        Taint, st.sampled_from("xy"), st.sampled_from(("", "v")),
        st.sampled_from(("NoSchedule", "NoExecute", "PreferNoSchedule")),
    ),
    max_size=2,
).map(tuple)  # fmt: skip
requirements = st.builds(
    NodeRequirement,
    st.sampled_from((*KEYS, "metadata.name")),
    st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")),
    st.lists(st.sampled_from((*VALUES, "n1")), min_size=1, max_size=2).map(tuple),
)
constraints = st.builds(
    NodeConstraints,
    st.lists(st.lists(requirements, max_size=2).map(tuple), max_size=2).map(tuple),
    st.lists(
        st.builds(
            Toleration, st.sampled_from(("", "x", "y")), st.sampled_from(("", "Equal", "Exists")),
            st.sampled_from(("", "v")), st.sampled_from(("", "NoSchedule")),
        ),
        max_size=2,
    ).map(tuple),
)  # fmt: skip
nodes = st.builds(
    lambda number, has, bars: a_node(f"n{number}", 1, labels=has, taints=bars), st.integers(0, 4), labels, taints
)


@given(st.lists(st.one_of(nodes, st.integers(0, 4)), max_size=8), st.lists(constraints, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_the_masks_of_a_fleet_say_what_the_rules_say_of_each_node(
    changes: list[Node | int], asked: list[NodeConstraints]
) -> None:
    """Whatever came, changed its labels or left in between."""
    fleet = Fleet(Policy())
    for change in changes:
        if isinstance(change, int):
            fleet.remove_node(f"n{change}")
        else:
            fleet.apply_node(change)
        for one in asked:
            reach = fleet.selection.reach(one)
            for facts in fleet.nodes.values():
                node = facts.node
                barred = first_not_tolerated(one, node.taints)
                admitted = selects(one, node.name, node.labels) and barred is None
                assert reach.admits(facts.number) is admitted, (node, one)
                if reach.barred is not None and barred is not None:
                    assert reach.taints[reach.barred[facts.number]] == barred
            assert reach.admits(len(fleet.names) + 3) is (reach.selected is None and reach.barred is None)


def test_a_job_goes_where_its_constraints_allow() -> None:
    engine = an_engine(
        a_node("plain"),
        a_node("ssd", labels={"disk": "ssd"}),
        a_node("tainted", labels={"disk": "ssd"}, taints=(Taint("team", "vision"),)),
    )
    ssd, tolerant = where((needs("disk", "In", "ssd"),)), (Toleration("team", "Exists"),)
    jobs = [
        a_job("anywhere", devices=8, nodes=where((needs("disk", "DoesNotExist"),))),
        a_job("on-ssd", devices=8, nodes=ssd),
        a_job("tolerant", devices=8, nodes=NodeConstraints(ssd.required, tolerant)),
        a_job("too-late", devices=8, nodes=ssd),
    ]
    assert placed(engine, *jobs) == {"anywhere": ["plain"], "on-ssd": ["ssd"], "tolerant": ["tainted"]}


def test_each_group_of_a_gang_has_its_own_or_the_jobs() -> None:
    engine = an_engine(a_node("head", 0, labels={"role": "head"}), a_node("w1"), a_node("w2"))
    groups = (
        MemberGroup("leader", cpu_milli=1000, nodes=where((needs("role", "In", "head"),))),
        MemberGroup("worker", replicas=2, min_replicas=2, devices=8),
    )
    job = a_job(devices=0, replicas=3, groups=groups, nodes=where((needs("role", "DoesNotExist"),)))
    assert placed(engine, job) == {"j1": ["head", "w1", "w2"]}


def test_a_relabelled_node_is_looked_at_anew_and_scores_of_others_stay() -> None:
    engine = an_engine(a_node("n1"), a_node("n2"))
    for number in range(400):  # a mix of work that is known: nothing else has a reason to look at the fleet anew
        engine.submit(a_job(f"past{number}"))
        engine.withdraw(f"past{number}")
    job = a_job(nodes=where((needs("disk", "In", "ssd"),)))
    assert why(engine, job) == {"NODE_SELECTOR_MISMATCH": (2, 16)}
    engine.apply_node(a_node("n2", labels={"disk": "ssd"}))
    assert placed(engine) == {"j1": ["n2"]}
    engine.apply_node(a_node("n2", labels={"disk": "ssd"}, taints=(Taint("gone", "", "NoExecute"),)))
    # What runs there is left alone: to evict is the cluster's.
    assert device_ids(engine, "j1") == [["n2/0"]]
    assert placed(engine, a_job("j2", nodes=where((needs("disk", "In", "ssd"),)))) == {}


def explained(engine: Any, job_id: str = "j1") -> Rejection:
    found = engine.explain(job_id, NOW)
    assert isinstance(found, Rejection)
    return found


def test_what_excludes_is_said_with_numbers_and_the_least_that_would_help() -> None:
    engine = an_engine(
        a_node("n1", taints=(Taint("team", "vision"),)),
        a_node("n2", taints=(Taint("team", "vision"),)),
        a_node("n3", taints=(Taint("spot", "", "NoExecute"), Taint("maintenance"))),
        a_node("n4", labels={"disk": "hdd"}),
        a_node("n5", 2, labels={"disk": "ssd"}),
    )
    job = a_job(devices=8, nodes=where((needs("disk", "In", "ssd", "nvme"), needs("old", "DoesNotExist"))))
    engine.submit(job)
    (first,) = engine.cycle(NOW).rejections
    assert (first.reasons[0].plugin, first.reasons[0].code) == ("NodeSelector", "NODE_SELECTOR_MISMATCH")
    assert first.reasons[0].message == "node selector excludes 4 nodes: needs disk In ssd, nvme and old DoesNotExist"
    assert dict(first.reasons[0].numbers) == {"nodes_excluded": 4.0}
    assert "it would fit now without its node selector, which excludes 4 nodes" in first.remedies
    assert [(one.kind.value, one.subjects) for one in explained(engine).changes if one.kind.value == "other_nodes"] == [
        ("other_nodes", ("disk In ssd, nvme and old DoesNotExist",))
    ]

    engine.withdraw("j1")
    engine.submit(a_job("j2", devices=8, replicas=2, nodes=where((needs("disk", "DoesNotExist"),))))
    (second,) = engine.cycle(NOW).rejections
    taints = next(one for one in second.reasons if one.code == "TAINT_NOT_TOLERATED")
    assert taints.message == "does not tolerate team=vision:NoSchedule (2 nodes), spot:NoExecute (1 nodes)"
    assert (taints.nodes, dict(taints.numbers)) == (3, {"nodes_excluded": 3.0, "taints": 2.0})
    helps = ["it would fit now if it tolerated the taint team=vision:NoSchedule (2 nodes)"]
    assert [one for one in second.remedies if "taint" in one] == helps
    assert [one.message for one in explained(engine, "j2").changes if "taint" in one.message] == helps


def test_a_device_held_elsewhere_takes_no_new_work_and_says_who_has_it() -> None:
    def node(*holders: str) -> Node:
        return a_node("n1", [a_device("n1", index, held_by=holder) for index, holder in enumerate(holders)])

    engine = an_engine(node("", "", "ml/train-0", "ml/train-0"))
    assert placed(engine, a_job("j1", devices=2)) == {"j1": ["n1"]}
    assert device_ids(engine, "j1") == [["n1/0", "n1/1"]]
    engine.submit(a_job("j2", devices=2))
    (rejection,) = engine.cycle(NOW).rejections
    held = next(one for one in rejection.reasons if one.code == "DEVICE_HELD_ELSEWHERE")
    assert (held.devices, held.message) == (2, "2 devices are held outside Berth: ml/train-0 (2)")
    # A device that Berth's own claim holds keeps it, and takes no more.
    engine.apply_node(node("x/y", "", "", "ml/train-0"))
    assert device_ids(engine, "j1") == [["n1/0", "n1/1"]]
    assert placed(engine, a_job("j3", devices=0, device_milli=500)) == {"j3": ["n1"]}
    assert device_ids(engine, "j3") == [["n1/2"]]
    view = engine.node_view("n1", NOW)
    assert view is not None
    assert [one.blocked for one in view.devices] == ["held by x/y", "", "", "held by ml/train-0"]
    engine.release("j1", NOW)
    engine.apply_node(node("", "", "", ""))
    assert placed(engine) == {"j2": ["n1"]}


def test_what_others_have_of_cpu_and_memory_is_not_free() -> None:
    engine = an_engine(a_node(cpu_milli=8000, memory_bytes=8 * GIB, cpu_milli_elsewhere=5000))
    assert placed(engine, a_job("j1", devices=0, cpu_milli=3001)) == {}
    assert placed(engine, a_job("j2", devices=0, cpu_milli=3000)) == {"j2": ["n1"]}
    engine.withdraw("j1")
    engine.apply_node(a_node(cpu_milli=8000, memory_bytes=8 * GIB, memory_bytes_elsewhere=9 * GIB))
    assert why(engine, a_job("j3", devices=0, memory_bytes=1)) == {"HOST_RESOURCES_SHORT": (1, 8)}
    assert "0.0 GiB" in explained(engine, "j3").reasons[0].message


def test_an_engine_told_of_others_bit_by_bit_is_as_one_that_was_told_at_once() -> None:
    """The short way for what only others changed leaves no trace."""
    first = a_node("n1", [a_device("n1", index) for index in range(3)], cpu_milli_elsewhere=7)
    last = a_node("n1", [a_device("n1", index, held_by="x/y" if index else "") for index in range(3)])
    slowly, at_once = an_engine(first, a_node("n2")), an_engine(last, a_node("n2"))
    slowly.apply_node(last)
    assert slowly.state_digest() == at_once.state_digest()
    job = a_job(devices=3)
    assert placed(slowly, job) == placed(at_once, job) == {"j1": ["n2"]}


def test_a_device_that_is_a_cut_takes_just_that_partition() -> None:
    """MIG by an operator's plan: the plugin offers instances, and which there are is not Berth's to change."""
    model = Accelerator(
        "A100", "GPU", "CUDA", 40 * GIB,
        partitions=(Partition("1g.5gb", 1, 1, tuple(range(7)), 5 * GIB), Partition("3g.20gb", 3, 4, (0, 4), 20 * GIB)),
    )  # fmt: skip
    cuts = [a_device("n1", i, "A100", partition="1g.5gb", memory_bytes=5 * GIB) for i in range(2)]
    engine = an_engine(a_node("n1", cuts))
    engine.set_accelerators([model])
    assert placed(engine, a_job("whole", models=("A100",)), a_job("other", partition="3g.20gb")) == {}
    jobs = [a_job(f"cut{i}", partition="1g.5gb", models=("A100",)) for i in range(3)]
    assert placed(engine, *jobs) == {"cut0": ["n1"], "cut1": ["n1"]}
    claims = [engine.holds(f"cut{i}") for i in range(2)]
    assert [claim.members[0].devices[0].milli for claim in claims if claim] == [142, 142]
    assert {device for i in range(2) for (device,) in device_ids(engine, f"cut{i}")} == {"n1/0", "n1/1"}
    engine.release("cut0", NOW)
    assert placed(engine) == {"cut2": ["n1"]}


def test_ten_thousand_nodes_are_looked_at_once() -> None:
    fleet = Fleet(Policy())
    for number in range(300):
        fleet.apply_node(a_node(f"n{number}", 1, labels={"host": f"n{number}", "zone": f"z{number % 3}"}))
    asked = where((needs("zone", "In", "z1"), needs("host", "NotIn", "n1")))
    reach = fleet.selection.reach(asked)
    assert reach.selected is not None
    assert int(np.count_nonzero(reach.selected)) == 99
    assert fleet.selection.reach(asked) is reach
    # What others take moves nothing of it; a label does.
    fleet.apply_node(a_node("n4", 1, labels={"host": "n4", "zone": "z1"}, cpu_milli_elsewhere=1000))
    assert fleet.selection.reach(asked) is reach
    fleet.apply_node(a_node("n4", 1, labels={"host": "n4", "zone": "z2"}))
    assert fleet.selection.reach(asked) is not reach


@pytest.mark.parametrize(
    ("reason", "lifted"),
    [
        ("fan", True),
        ("Kubernetes: cordoned (spec.unschedulable), not ready (KubeletNotReady)", True),
        ("Kubernetes: not ready (KubeletNotReady)", False),
        ("Kubernetes: DiskPressure (KubeletHasDiskPressure)", False),
    ],
)
def test_a_node_that_recovers_by_itself_does_not_lift_the_cordons_of_its_devices(reason: str, lifted: bool) -> None:
    engine = an_engine(a_node("n1", 1, telemetry_exempt=False))
    engine.apply_sample(a_sample("n1", {"error_code": 48}))
    engine.apply_sample(a_sample("n1", {"error_code": 0, "healthy": True}, at=NOW + 1))
    assert "DEVICE_CORDONED" in why(engine, a_job(), NOW + 1)
    engine.apply_node(a_node("n1", 1, telemetry_exempt=False, schedulable=False, cordon_reason=reason))
    engine.apply_node(a_node("n1", 1, telemetry_exempt=False))
    assert bool(placed(engine, now=NOW + 2)) is lifted
