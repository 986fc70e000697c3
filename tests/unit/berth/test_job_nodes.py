"""`nodes` of a job file: as it is written, and every error by its field."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from berth.cli.explaining import describe_job, describe_node
from berth.errors import InvalidInput
from berth.jobs import parse_document, validate
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2

NODES = {
    "required": [
        {"disk": "ssd", "zone": ["a", "b"], "spot": False},
        [{"key": "cores", "operator": "Gt", "values": [64]}, {"key": "old", "operator": "DoesNotExist"}],
    ],
    "tolerations": [{"key": "team", "value": "vision", "effect": "NoSchedule"}, {"operator": "Exists"}],
}


def test_a_job_file_says_on_which_nodes() -> None:
    spec = parse_document({"name": "j", "devices": 1, "nodes": NODES})
    assert MessageToDict(spec.nodes) == {
        "required": [
            {
                "requirements": [
                    {"key": "disk", "operator": "In", "values": ["ssd"]},
                    {"key": "zone", "operator": "In", "values": ["a", "b"]},
                    {"key": "spot", "operator": "In", "values": ["false"]},
                ]
            },
            {
                "requirements": [
                    {"key": "cores", "operator": "Gt", "values": ["64"]},
                    {"key": "old", "operator": "DoesNotExist"},
                ]
            },
        ],
        "tolerations": [{"key": "team", "value": "vision", "effect": "NoSchedule"}, {"operator": "Exists"}],
    }
    assert not parse_document({"name": "j", "devices": 1}).HasField("nodes")


def test_a_group_has_its_own_where_it_says_so() -> None:
    members = [{"name": "a", "cpu": 1, "nodes": {}}, {"name": "b", "cpu": 1, "nodes": {"required": [{"x": "y"}]}}]
    spec = parse_document({"name": "j", "members": [*members, {"name": "c", "cpu": 1}], "nodes": NODES})
    assert [group.HasField("nodes") for group in spec.member_groups] == [True, True, False]
    assert len(spec.member_groups[1].nodes.required) == 1


@pytest.mark.parametrize(
    ("nodes", "field", "remedy"),
    [
        ("ssd", "nodes", "write a mapping"),
        ({"require": []}, "nodes.require", "known: required, tolerations"),
        ({"required": {"disk": "ssd"}}, "nodes.required", "write a list"),
        ({"required": ["ssd"]}, "nodes.required[0]", "write a list"),
        ({"required": [{}]}, "nodes.required[0]", "matches no node"),
        ({"required": [["x"]]}, "nodes.required[0][0]", "write a mapping"),
        (
            {"required": [[{"key": "a", "operator": "in", "values": ["b"]}]]},
            "nodes.required[0][0].operator",
            "DoesNotExist",
        ),
        ({"required": [[{"key": "", "operator": "Exists"}]]}, "nodes.required[0][0].key", "name a label"),
        ({"required": [[{"key": "a", "operator": "In"}]]}, "nodes.required[0][0].values", "at least one"),
        (
            {"required": [[{"key": "a", "operator": "Exists", "values": ["b"]}]]},
            "nodes.required[0][0].values",
            "leave it out",
        ),
        (
            {"required": [[{"key": "a", "operator": "Gt", "values": ["b"]}]]},
            "nodes.required[0][0].values",
            "whole number",
        ),
        (
            {"required": [[{"key": "a", "operator": "Lt", "values": [1, 2]}]]},
            "nodes.required[0][0].values",
            "whole number",
        ),
        ({"tolerations": [{"key": "a", "operator": "In"}]}, "nodes.tolerations[0].operator", "Equal or Exists"),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "nodes.tolerations[0].effect", "NoExecute"),
        ({"tolerations": [{"value": "a"}]}, "nodes.tolerations[0].key", "operator: Exists"),
        ({"tolerations": [{"operator": "Exists", "value": "a"}]}, "nodes.tolerations[0].value", "leave it out"),
        ({"tolerations": [{"keys": "a"}]}, "nodes.tolerations[0]", "key, operator, value and effect"),
    ],
)
def test_wrong_input_names_field_and_remedy(nodes: Any, field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as wrong:
        parse_document({"name": "j", "devices": 1, "nodes": nodes})
    assert [error.field for error in wrong.value.errors] == [field]
    assert remedy in str(wrong.value)
    if isinstance(nodes, dict):
        with pytest.raises(InvalidInput, match=r"members\[0\]\.nodes"):
            parse_document({"name": "j", "members": [{"name": "a", "cpu": 1, "nodes": nodes}]})


def test_what_comes_as_protobuf_is_checked_too() -> None:
    spec = jobs_pb2.JobSpec(name="j", replicas=1, resources=jobs_pb2.Resources(cpu_milli=1))
    spec.nodes.required.add()
    with pytest.raises(InvalidInput, match=r"nodes\.required\[0\]: '0 requirements'"):
        validate(spec)


def test_a_job_and_a_node_are_described_with_them() -> None:
    job = jobs_pb2.Job(spec=parse_document({"name": "j", "devices": 1, "nodes": NODES}))
    lines = [line.split(":", 1) for line in describe_job(job)]
    described = {one[0].strip(): one[1].strip() for one in lines if len(one) == 2}
    assert described["Nodes"] == "disk In ssd and zone In a, b and spot In false or cores Gt 64 and old DoesNotExist"
    assert described["Tolerates"] == "team=vision:NoSchedule, every taint"

    node = fleet_pb2.Node(
        name="n1", cpu_milli=8000, cpu_milli_elsewhere=1500, memory_bytes_elsewhere=2**30, schedulable=True
    )
    node.taints.add(key="team", value="vision", effect="NoSchedule")
    node.taints.add(key="spot", effect="NoExecute")
    device = fleet_pb2.Device(device_id="n1/x/0", model="A100-40-SXM", partition="1g.5gb", held_by="ml/p", present=True)
    status = placement_pb2.NodeStatus(node=node)
    status.devices.add(device=device, blocked="held by ml/p")
    text = "\n".join(describe_node(status))
    for part in (
        "team=vision:NoSchedule, spot:NoExecute", "1.5 cores held outside Berth", "1.0Gi held outside Berth",
        "A100-40-SXM/1g.5gb", "held by ml/p",
    ):  # fmt: skip
        assert part in text, text
