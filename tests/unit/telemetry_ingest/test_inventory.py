"""Who is who: identity by UUID, versions that rise on change only, what wins over what."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput, NotFound
from telemetry_ingest.domain.inventory import AGENT, DeviceRecord, Inventory, NodeRecord
from telemetry_ingest.domain.targets import NodeDeclaration, Target


def declared(name: str = "n1", **more: object) -> NodeDeclaration:
    return NodeDeclaration(name, **more)  # type: ignore[arg-type]


def device(identity: str, index: int = 0, **more: object) -> DeviceRecord:
    return DeviceRecord(identity, index, "H100-SXM", "GPU", "CUDA", 80 * 10**9, **more)  # type: ignore[arg-type]


class Fleet:
    """An inventory and the time."""

    def __init__(self, *declarations: NodeDeclaration) -> None:
        self.inventory = Inventory()
        self.now = 100.0
        self.take(self.inventory.plan_targets(declarations, self.now))

    def take(self, records: list[NodeRecord]) -> list[NodeRecord]:
        self.inventory.commit(records)
        self.now += 1
        return records

    def page(
        self, *devices: DeviceRecord, node: str = "n1", source: str = "u1", sources: str = "u1"
    ) -> list[NodeRecord]:
        records = self.take(self.inventory.plan_observed(node, source, devices, sources=sources.split(), now=self.now))
        self.inventory.heard(node, source, [one.device_id for one in devices])
        return records


def test_declared_and_observed_become_one_record() -> None:
    fleet = Fleet(
        declared(
            topology=(("rack", "r1"),), cpu_milli=64000, memory_bytes=7, power_cap_watts=900.0, executors=("simulated",)
        )
    )
    fleet.page(device("GPU-b", 1), device("GPU-a", 0))
    assert fleet.inventory.nodes == {
        "n1": NodeRecord(
            "n1",
            devices=(device("GPU-a", 0), device("GPU-b", 1)),
            cpu_milli=64000,
            memory_bytes=7,
            topology=(("rack", "r1"),),
            power_cap_watts=900.0,
            executors=("simulated",),
            version=2,
            updated_at=101.0,
            origin="targets",
        )
    }


def test_a_device_vanishes_and_comes_back_under_another_index() -> None:
    fleet = Fleet(declared())
    fleet.page(device("GPU-a", 0), device("GPU-b", 1))
    (gone,) = fleet.page(device("GPU-a", 0))
    assert [(one.device_id, one.index, one.present) for one in gone.devices] == [
        ("GPU-a", 0, True),
        ("GPU-b", 1, False),
    ]
    (back,) = fleet.page(device("GPU-b", 0), device("GPU-a", 1))
    assert [(one.device_id, one.index, one.present) for one in back.devices] == [("GPU-b", 0, True), ("GPU-a", 1, True)]
    assert (gone.version, back.version) == (3, 4)


def test_what_flickers_raises_no_version() -> None:
    fleet = Fleet(declared())
    fleet.page(device("GPU-a", power_limit_watts=700.0))
    flicker = replace(device("GPU-a", power_limit_watts=700.4), memory_bytes=80 * 10**9 + (1 << 20))
    silent = replace(device("GPU-a"), memory_bytes=0, model="")
    assert fleet.page(flicker) == []
    assert fleet.page(silent) == []
    assert [record.version for record in fleet.page(device("GPU-a", power_limit_watts=400.0))] == [3]


def test_after_a_restart_nothing_is_gone_before_all_sources_spoke() -> None:
    fleet = Fleet(declared())
    fleet.page(device("GPU-a"), source="u1", sources="u1 u2")
    fleet.page(device("GPU-b"), source="u2", sources="u1 u2")
    again = Inventory(fleet.inventory.nodes.values())
    assert again.plan_observed("n1", "u1", [device("GPU-a")], sources=["u1", "u2"], now=1.0) == []
    again.heard("n1", "u1", ["GPU-a"])
    (record,) = again.plan_observed("n1", "u2", [], sources=["u1", "u2"], now=1.0)
    assert {one.device_id: one.present for one in record.devices} == {"GPU-a": True, "GPU-b": False}


def test_one_device_on_two_nodes_is_refused_until_it_left_the_first() -> None:
    fleet = Fleet(declared("n1"), declared("n2"))
    fleet.page(device("GPU-a"))
    with pytest.raises(InvalidInput, match="device: 'GPU-a': node 'n1' has it already"):
        fleet.page(device("GPU-a"), node="n2")
    fleet.page()
    fleet.page(device("GPU-a"), node="n2")
    assert [one.present for one in fleet.inventory.nodes["n2"].devices] == [True]
    with pytest.raises(InvalidInput, match="node 'n2' has it already"):
        fleet.page(device("GPU-a"))


def test_a_node_that_leaves_the_file_is_removed_and_comes_back_with_a_higher_version() -> None:
    fleet = Fleet(declared("n1"), declared("n2"))
    (removed,) = fleet.take(fleet.inventory.plan_targets([declared("n2")], fleet.now))
    assert (removed.name, removed.removed, removed.version) == ("n1", True, 2)
    with pytest.raises(NotFound, match="'n1': not declared"):
        fleet.page(device("GPU-a"))
    (back,) = fleet.take(fleet.inventory.plan_targets([declared("n1"), declared("n2")], fleet.now))
    assert (back.name, back.removed, back.version) == ("n1", False, 3)


def test_the_targets_file_leaves_other_nodes_alone() -> None:
    fleet = Fleet(declared("n1"))
    fleet.take(fleet.inventory.plan_operator([NodeRecord("static", telemetry_exempt=True)], fleet.now))
    fleet.take(fleet.inventory.plan_agent(NodeRecord("host"), fleet.now))
    fleet.take(fleet.inventory.plan_targets([], fleet.now))
    assert {name: record.removed for name, record in fleet.inventory.nodes.items()} == {
        "n1": True,
        "static": False,
        "host": False,
    }


def test_cordon_stays_over_every_other_change() -> None:
    fleet = Fleet(declared())
    (record,) = fleet.take(fleet.inventory.plan_cordon("n1", True, "fan", fleet.now))
    assert (record.schedulable, record.cordon_reason) == (False, "fan")
    assert fleet.inventory.plan_cordon("n1", True, "fan", fleet.now) == []
    fleet.page(device("GPU-a"))
    fleet.take(fleet.inventory.plan_targets([declared(labels=(("a", "b"),))], fleet.now))
    assert not fleet.inventory.nodes["n1"].schedulable
    (record,) = fleet.take(fleet.inventory.plan_cordon("n1", False, "", fleet.now))
    assert (record.schedulable, record.cordon_reason) == (True, "")
    with pytest.raises(NotFound, match="no such node"):
        fleet.inventory.plan_cordon("n9", True, "", fleet.now)


def test_operator_nodes_are_all_or_none() -> None:
    fleet = Fleet()
    asked = NodeRecord("s1", devices=(device("d1", present=False),), schedulable=False, telemetry_exempt=True)
    (record,) = fleet.take(fleet.inventory.plan_operator([asked], fleet.now))
    # proto3 cannot tell "false" from "not said": what an operator lists is there and takes work.
    assert (record.devices[0].present, record.schedulable) == (True, True)
    assert fleet.inventory.plan_operator([asked], fleet.now) == []
    other = NodeRecord("s2", devices=(device("d1"),))
    with pytest.raises(InvalidInput, match="device_id: 'd1': is on node 's1' already"):
        fleet.inventory.plan_operator([NodeRecord("s3"), other], fleet.now)
    with pytest.raises(InvalidInput, match="stands twice"):
        fleet.inventory.plan_operator([NodeRecord("s3"), NodeRecord("s3")], fleet.now)
    (cordoned,) = fleet.inventory.plan_operator([replace(asked, cordon_reason="moved")], fleet.now)
    assert (cordoned.schedulable, cordoned.cordon_reason) == (False, "moved")


def test_an_agent_brings_its_node_and_its_devices() -> None:
    fleet = Fleet()
    own = NodeRecord("host", devices=(device("host/cpu"),), cpu_milli=2000, executors=("process",), boot_id="b1")
    (record,) = fleet.take(fleet.inventory.plan_agent(own, fleet.now))
    fleet.inventory.heard("host", AGENT, ["host/cpu"])
    assert (record.origin, record.version, record.boot_id, record.executors) == ("agent", 1, "b1", ("process",))
    assert fleet.inventory.plan_agent(own, fleet.now) == []
    (rebooted,) = fleet.take(fleet.inventory.plan_agent(replace(own, boot_id="b2"), fleet.now))
    assert (rebooted.version, rebooted.boot_id, rebooted.devices) == (2, "b2", record.devices)
    (poorer,) = fleet.take(fleet.inventory.plan_agent(replace(own, devices=(), boot_id="b2"), fleet.now))
    assert [one.present for one in poorer.devices] == [False]


def test_what_the_file_declares_of_an_agents_node_stands() -> None:
    fleet = Fleet(declared("host", pool="gold", executors=("simulated",)))
    own = NodeRecord("host", pool="mine", devices=(device("host/cpu"),), cpu_milli=2000, executors=("process",))
    (record,) = fleet.take(fleet.inventory.plan_agent(own, fleet.now))
    assert (record.pool, record.cpu_milli, record.executors) == ("gold", 2000, ("simulated", "process"))
    assert record.origin == "targets"


@given(
    st.lists(
        st.tuples(st.sampled_from(["u1", "u2"]), st.sets(st.sampled_from("abcd"))),
        max_size=12,
    )
)
def test_presence_is_what_the_last_pages_say(looks: list[tuple[str, set[str]]]) -> None:
    """After both sources spoke, a device is present exactly where a source's last page names it; none is forgotten."""
    fleet = Fleet(declared(targets=(Target("n1", "u1", "auto"),)))
    last: dict[str, set[str]] = {}
    ever: set[str] = set()
    version = 1
    for source, names in looks:
        # One exporter a device: the sources never name the same one.
        own = {f"{source}-{name}" for name in names}
        records = fleet.page(*(device(name) for name in sorted(own)), source=source, sources="u1 u2")
        last[source] = own
        ever |= own
        record = fleet.inventory.nodes["n1"]
        assert {one.device_id for one in record.devices} == ever
        if len(last) == 2:
            assert {one.device_id for one in record.devices if one.present} == last["u1"] | last["u2"]
        version += len(records)
        assert record.version == version
