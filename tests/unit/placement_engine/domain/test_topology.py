"""Levels and their order, the tightest domain, few and near domains, groups of members; and what would help."""

from typing import Any

import numpy as np
import pytest

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Job, Node
from placement_engine.domain.topology import Topology, Wishes, distinct, nearest_devices, wishes_of
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, an_engine, placed, why


def at(name: str, devices: int = 8, /, **topology: str) -> Node:
    return a_node(name, devices, topology=topology)


def a_tree(*, racks: int, nodes: int, blocks: int = 1, devices: int = 8) -> list[Node]:
    """Nodes named by block, rack and number: "b0r1n2"."""
    return [
        at(f"b{b}r{r}n{n}", devices, rack=f"b{b}r{r}", block=f"b{b}", zone="z")
        for b in range(blocks)
        for r in range(racks)
        for n in range(nodes)
    ]


def filled(engine: Engine, *names: str) -> Engine:
    """Nodes with no device left."""
    for name in names:
        view = engine.node_view(name, NOW)
        assert view is not None
        job = a_job(f"fill-{name}", devices=len(view.devices), executor=f"only-{name}")
        engine.apply_node(a_node(name, view.node.devices, topology=view.node.topology, executors=(job.executor, "x")))
        assert placed(engine, job) == {job.job_id: [name]}
    return engine


def where(engine: Engine, **wishes: Any) -> list[str]:
    """Nodes of a gang in member order."""
    return placed(engine, a_job("gang", devices=wishes.pop("devices", 8), **wishes)).get("gang", [])


# -- levels ----------------------------------------------------------------------------------------


def test_levels_are_ordered_by_what_lies_inside_what() -> None:
    engine = an_engine(
        at("a", rack="r1", block="b1", zone="z", region="eu", rail="odd"),
        at("b", rack="r1", block="b1", zone="z", region="eu", rail="even"),
        at("c", rack="r2", block="b1", zone="z", region="eu", rail="odd"),
        at("d", rack="r3", block="b2", zone="z", region="us", rail="even"),
        at("e"),
    )
    topology = Topology(engine._fleet)
    assert topology.levels() == ("block", "node", "rack", "rail", "region", "zone")
    assert topology.chain(("rack",)) == ("node", "rack", "block", "region", "zone")
    assert topology.chain(("rail",)) == ("node", "rail", "zone"), "racks are across rails"
    assert (topology.inside("rack", "block"), topology.inside("block", "rack")) == (True, False)
    assert topology.inside("region", "zone")
    assert not topology.inside("rack", "rail")
    assert topology.chain(("nowhere",)) == topology.chain(("block",)), "what nobody declares orders nothing"
    engine.apply_node(at("e", rack="r1", block="b2"))
    assert not topology.inside("rack", "block")
    engine.remove_node("e")
    assert topology.inside("rack", "block")


def test_levels_with_the_same_domains_go_by_name() -> None:
    engine = an_engine(*(at(f"n{i}", rack=f"r{i // 2}", zone="z", site="s") for i in range(4)))
    assert Topology(engine._fleet).chain(("zone",)) == ("node", "rack", "site", "zone")


def test_levels_are_read_anew_as_a_fleet_changes_and_the_same_as_from_scratch() -> None:
    engine = an_engine(at("a", rack="r1"), at("b", rack="r2"), at("c"))
    topology = Topology(engine._fleet)
    assert topology.level("rack").names == ("r1", "r2")
    for change in (
        lambda: engine.apply_node(at("b", rack="r0", zone="z")),
        lambda: engine.apply_node(at("d", rack="r1")),
        lambda: engine.remove_node("a"),
        lambda: engine.apply_node(a_node("d", 2, rack="r1", schedulable=False)),
        lambda: engine.apply_node(at("b")),
        lambda: engine.apply_node(at("a", rack="r9")),
    ):
        change()
        fresh = Topology(engine._fleet)
        assert topology.levels() == fresh.levels()
        live = engine._fleet.columns.node[: engine._fleet.columns.rows] >= 0
        for level in fresh.levels():
            mine, new = topology.level(level), fresh.level(level)
            assert mine.names == new.names
            assert np.array_equal(mine.domain[live], new.domain[live])
            assert len(set(mine.domain[live & (mine.domain >= len(mine.names))].tolist())) == int(
                (live & (mine.domain >= len(mine.names))).sum()
            )


@pytest.mark.parametrize(
    ("job", "wishes"),
    [
        ({}, Wishes()),
        ({"topology_level": "rack"}, Wishes(preferred=("rack",))),
        (
            {"topology_level": "block", "topology_required": True, "preferred_level": "rack"},
            Wishes(required="block", preferred=("rack",)),
        ),
        ({"topology_level": "zone", "preferred_level": "rack"}, Wishes(preferred=("rack", "zone"))),
        ({"topology_level": "numa", "topology_required": True}, Wishes(device_required="numa")),
        (
            {"topology_level": "rack", "topology_required": True, "preferred_level": "link"},
            Wishes(required="rack", device_preferred="link"),
        ),
        ({"group_size": 4, "group_level": "rack"}, Wishes(group_size=4, group_level="rack")),
        ({"group_size": 4}, Wishes()),
    ],
)
def test_what_a_job_asks_of_topology(job, wishes) -> None:
    assert wishes_of(a_job(**job)) == wishes


def test_distinct_and_nearest_devices() -> None:
    numbers, first, place = distinct(np.array([5, 2, 5, 9, 2]))
    assert (numbers.tolist(), first.tolist(), place.tolist()) == ([2, 5, 9], [1, 0, 3], [1, 0, 1, 2, 0])
    usable = np.array([True, True, True, False, True, True])
    domains = np.array([0, 1, 1, 1, -1, 1])

    def near(devices: int) -> list[int]:
        return np.flatnonzero(nearest_devices(usable, domains, devices)).tolist()

    assert (near(1), near(3), near(4), near(9)) == ([0], [1, 2, 5], [0, 1, 2, 5], [0, 1, 2, 4, 5])


# -- the tightest domain ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "domain"), [(1, "b0r0n0"), (2, "b0r0"), (3, "b0r0"), (4, "b0"), (6, "b0"), (7, "z"), (12, "z")]
)
def test_the_tightest_domain_that_holds_the_gang(replicas, domain) -> None:
    engine = an_engine(*a_tree(blocks=2, racks=2, nodes=3))
    nodes = where(engine, replicas=replicas, topology_level="zone", topology_required=True)
    assert len(nodes) == replicas
    assert all(name.startswith(domain) for name in nodes) or domain == "z"
    assert len({name[:4] for name in nodes}) == -(-replicas // 3)


def test_of_equal_domains_the_one_that_leaves_least() -> None:
    engine = filled(an_engine(*a_tree(racks=3, nodes=4)), "b0r1n0", "b0r1n1", "b0r2n0")
    assert where(engine, replicas=2, topology_level="rack") == ["b0r1n2", "b0r1n3"]


def test_room_for_members_being_equal_fewer_free_devices_are_left() -> None:
    engine = an_engine(
        *(at(f"a{i}", count, rack="a") for i, count in enumerate((8, 6, 3))),
        *(at(f"b{i}", count, rack="b") for i, count in enumerate((8, 3, 3))),
        *(at(f"c{i}", count, rack="c") for i, count in enumerate((8, 6, 2))),
    )
    assert where(engine, devices=4, replicas=3, topology_level="rack") == ["c0", "c0", "c1"]


def test_room_for_members_counts_before_free_devices() -> None:
    engine = an_engine(
        *(at(f"a{i}", 8, rack="a") for i in range(3)),
        *(at(f"b{i}", count, rack="b") for i, count in enumerate((8, 8, 6, 6))),
    )
    assert where(engine, devices=8, replicas=2, topology_level="rack") == ["b0", "b1"]


def test_a_larger_empty_domain_is_not_broken_where_a_used_one_fits() -> None:
    engine = filled(
        an_engine(*(at(f"a{i}", rack="a") for i in range(4)), *(at(f"b{i}", rack="b") for i in range(4))), "b0"
    )
    assert where(engine, replicas=3, topology_level="rack") == ["b1", "b2", "b3"]
    engine = filled(an_engine(at("a1", rack="a"), at("a2", rack="a"), *(at(f"b{i}", rack="b") for i in range(3))), "b2")
    assert where(engine, replicas=2, topology_level="rack") == ["b0", "b1"], "both have two nodes left, b is in use"


def test_a_node_that_declares_no_domain_is_in_none() -> None:
    engine = an_engine(at("a", rack="r"), at("b"), at("c"))
    required: dict[str, Any] = {"topology_level": "rack", "topology_required": True}
    assert where(engine, replicas=2, **required) == []
    engine.withdraw("gang")
    assert sorted(where(engine, replicas=3, topology_level="rack")) == ["a", "b", "c"]
    engine.release("gang")
    filled(engine, "a")
    assert where(engine, replicas=2, devices=4, **required) == [], "one node alone is no rack either"


def test_node_is_a_level_that_nobody_declares() -> None:
    engine = filled(an_engine(a_node("a", 8), a_node("b", 8), a_node("c", 6)), "b")
    required: dict[str, Any] = {"topology_level": "node", "topology_required": True}
    assert where(engine, devices=2, replicas=3, **required) == ["c", "c", "c"]
    engine.release("gang")
    assert why(engine, a_job("large", devices=2, replicas=5, **required))["TOPOLOGY_DOMAIN_TOO_SMALL"] == (0, 0)


# -- across domains --------------------------------------------------------------------------------


def test_across_domains_few_of_them_and_in_one_block_before_two() -> None:
    engine = filled(an_engine(*a_tree(blocks=2, racks=3, nodes=2)), "b0r0n0", "b0r1n0", "b1r2n0")
    assert where(engine, replicas=4, topology_level="rack") == ["b1r0n0", "b1r0n1", "b1r1n0", "b1r1n1"]
    engine.release("gang")
    assert where(engine, replicas=5, topology_level="rack") == ["b1r0n0", "b1r0n1", "b1r1n0", "b1r1n1", "b1r2n1"]
    engine.release("gang")
    spread = where(engine, replicas=6, topology_level="rack")
    assert [name[:2] for name in spread] == ["b1"] * 5 + ["b0"]
    assert spread[-1] in ("b0r0n1", "b0r1n1"), "the last is the tightest fit"


def test_a_preferred_level_within_a_required_one() -> None:
    engine = filled(an_engine(*a_tree(blocks=2, racks=2, nodes=3)), "b0r0n0", "b1r0n0", "b1r1n0")
    wishes: dict[str, Any] = {"topology_level": "block", "topology_required": True, "preferred_level": "rack"}
    assert where(engine, replicas=3, **wishes) == ["b0r1n0", "b0r1n1", "b0r1n2"]
    engine.release("gang")
    assert where(engine, replicas=4, **wishes) == ["b1r0n1", "b1r0n2", "b1r1n1", "b1r1n2"]
    engine.release("gang")
    assert where(engine, replicas=6, **wishes) == []


def test_levels_that_cross_each_other_are_both_kept() -> None:
    """Rails cross racks: the required rail holds, the preferred rack is kept as far as rails have it."""
    nodes = [at(f"r{r}l{n}", rack=f"r{r}", rail=f"l{n}") for r in range(3) for n in range(2)]
    gang: dict[str, Any] = {"topology_level": "rail", "topology_required": True, "preferred_level": "rack"}
    nodes_taken = where(an_engine(*nodes), replicas=3, **gang)
    assert nodes_taken == ["r0l0", "r1l0", "r2l0"]


def test_the_topology_term_tells_how_tight_it_is() -> None:
    engine = an_engine(*a_tree(racks=2, nodes=2))
    engine.submit(a_job("gang", devices=8, replicas=3, topology_level="rack"))
    (decision,) = engine.cycle(NOW).decisions
    (term,) = (t for t in decision.candidates[0].terms if t.plugin == "Topology")
    assert term.value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert decision.candidates[0].score == pytest.approx(sum(t.value * t.weight for t in decision.candidates[0].terms))


# -- groups of members -----------------------------------------------------------------------------


def racks_of(nodes: list[str], size: int) -> list[set[str]]:
    return [{name[:4] for name in nodes[i : i + size]} for i in range(0, len(nodes), size)]


def test_members_in_order_form_groups_that_share_a_domain() -> None:
    engine = filled(an_engine(*a_tree(blocks=2, racks=3, nodes=3)), "b0r0n0")
    nodes = where(engine, replicas=8, group_size=2, group_level="rack")
    assert [len(racks) for racks in racks_of(nodes, 2)] == [1, 1, 1, 1]
    assert len(set(nodes)) == 8
    assert [name[:2] for name in nodes] == ["b0"] * 6 + ["b1"] * 2, "neighbours are near, the fuller block first"
    assert nodes[:2] == ["b0r0n1", "b0r0n2"], "the rack that this leaves full goes first"


def test_a_group_is_never_split() -> None:
    engine = an_engine(*a_tree(racks=3, nodes=3))
    gang: dict[str, Any] = {"group_size": 2, "group_level": "rack"}
    assert where(engine, replicas=9, **gang) == []
    assert why(engine, a_job("gang", devices=8, replicas=9, **gang)) == {"TOPOLOGY_GROUPS_APART": (0, 0)}
    rejection = engine.explain("gang", NOW)
    assert rejection is not None
    assert rejection.reasons[0].message == "6 of 9 replicas fit at once in groups of 2, each in one rack"
    assert rejection.reasons[0].numbers == {"replicas": 9.0, "replicas_that_fit": 6.0, "group_size": 2.0}
    assert rejection.remedies == (
        "it would fit now with each group of 2 in one block",
        "it would fit now if groups of 2 needed no rack of their own",
        "6 of 9 replicas would fit now",
        "a replica with 4 instead of 8 devices would fit now",
    )


def test_only_the_last_group_may_be_smaller() -> None:
    engine = an_engine(*a_tree(racks=3, nodes=3))
    nodes = where(engine, replicas=7, group_size=3, group_level="rack")
    assert racks_of(nodes, 3) == [{"b0r0"}, {"b0r1"}, {"b0r2"}]
    engine.release("gang")
    nodes = where(filled(engine, "b0r0n0"), replicas=8, group_size=3, group_level="rack")
    assert [len(racks) for racks in racks_of(nodes, 3)] == [1, 1, 1]


def test_an_elastic_gang_grows_by_whole_groups() -> None:
    engine = an_engine(*a_tree(racks=3, nodes=3))
    gang: dict[str, Any] = {"replicas": 12, "group_size": 2, "group_level": "rack"}
    assert len(where(engine, min_replicas=5, **gang)) == 6
    engine.release("gang")
    assert where(engine, min_replicas=7, **gang) == []


def test_several_groups_of_one_node() -> None:
    engine = an_engine(*a_tree(racks=1, nodes=2, devices=4))
    nodes = where(engine, devices=1, replicas=6, group_size=2, group_level="node")
    assert [set(nodes[i : i + 2]) for i in (0, 2, 4)] == [{nodes[0]}, {nodes[2]}, {nodes[4]}]
    assert sorted(nodes.count(name) for name in set(nodes)) == [2, 4]


# -- what a gang that waits is told ----------------------------------------------------------------


def told(engine: Engine, job: Job) -> tuple[str, dict[str, float], tuple[str, ...]]:
    engine.submit(job)
    assert engine.cycle(NOW).decisions == ()
    rejection = engine.explain(job.job_id, NOW)
    assert rejection is not None
    first = rejection.reasons[0]
    return first.message, dict(first.numbers), rejection.remedies


def test_a_looser_level_that_would_admit_it_is_named() -> None:
    engine = an_engine(*a_tree(blocks=2, racks=2, nodes=2))
    required: dict[str, Any] = {"devices": 8, "topology_level": "rack", "topology_required": True}
    assert told(engine, a_job("three", replicas=3, **required)) == (
        "the roomiest rack holds 2 of 3 replicas",
        {"replicas": 3.0, "replicas_that_fit": 2.0, "domains": 4.0},
        (
            "it would fit now within one block",
            "it would fit now if one rack were preferred, not required",
            "2 of 3 replicas would fit now",
            "a replica with 4 instead of 8 devices would fit now",
        ),
    )
    assert told(engine, a_job("five", replicas=5, **required))[2][0] == "it would fit now within one zone"
    assert told(engine, a_job("nine", replicas=9, **required)) == (
        "2 of 9 replicas fit at once in one rack",
        {"replicas": 9.0, "replicas_that_fit": 2.0},
        ("2 of 9 replicas would fit now", "a replica with 1 instead of 8 devices would fit now"),
    )


def test_a_level_that_no_node_declares_holds_nothing() -> None:
    engine = an_engine(a_node("a", 8), a_node("b", 8))
    message, _, remedies = told(
        engine, a_job("gang", devices=8, replicas=2, topology_level="block", topology_required=True)
    )
    assert message == "the roomiest block holds 0 of 2 replicas"
    assert remedies == (
        "it would fit now if one block were preferred, not required",
        "1 of 2 replicas would fit now",
    )


def test_a_zone_is_preferred_and_several_of_its_racks_hold_the_gang() -> None:
    """The tightest level is asked for the level that is wished, which here is a looser one: racks share a zone."""
    engine = an_engine(*(a_node(f"n{i}", 4, topology={"rack": f"r{i // 2}", "zone": f"z{i // 4}"}) for i in range(8)))
    job = a_job("gang", devices=4, replicas=2, topology_level="zone")
    assert placed(engine, a_job("one", devices=1)) == {"one": ["n0"]}
    assert placed(engine, job) == {"gang": ["n2", "n3"]}
