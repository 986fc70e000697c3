"""Kueue's Workloads as jobs and Berth's answers as states of a check: whole documents compared."""

from typing import Any

import pytest

from berth.errors import InvalidInput
from berth.jobs import validate
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.pods.beside import job_beside
from berth.v1 import fleet_pb2, jobs_pb2
from placement_engine.adapters.kueue_wire import Answer, job_of_workload, pending_checks, ready, refused, state_of
from placement_engine.domain.model import Decision, Expectation, Member, Reason, Rejection

RESOURCES = DeviceResources()
NODES = {
    name: fleet_pb2.Node(
        name=name,
        labels={
            "kubernetes.io/hostname": name,
            "topology.berth.dev/rack": rack,
            "topology.kubernetes.io/zone": "z",
            "nvidia.com/gpu.product": product,
        },
    )
    for name, rack, product in (("a1", "ra", "H100"), ("a2", "ra", "H100"), ("b1", "rb", "H100"), ("b2", "rb", "L4"))
}


def read(pod: Any) -> jobs_pb2.JobSpec:
    return job_beside(pod, RESOURCES)


def a_pod_set(name: str = "main", count: int = 1, devices: int = 8, **spec: Any) -> dict[str, Any]:
    more = {"topologyRequest": spec.pop("topologyRequest")} if "topologyRequest" in spec else {}
    container = {"name": "c", "resources": {"requests": {"cpu": "2", "nvidia.com/gpu": str(devices)}}}
    return {"name": name, "count": count, "template": {"spec": {"containers": [container], **spec}}, **more}


def a_workload(*pod_sets: Any, status: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "w", "namespace": "team", "uid": "u"},
        "spec": {"podSets": list(pod_sets or [a_pod_set()]), **spec},
        "status": status or {},
    }


def a_decision(*nodes: str, group: str = "") -> Decision:
    members = tuple(Member(number, node, group=group) for number, node in enumerate(nodes))
    return Decision("j", 1, members, (), Expectation("", 0), 4, "placed")


def test_a_check_waits_for_an_answer_only_with_quota_and_while_the_workload_is_neither_over_nor_evicted() -> None:
    reserved = {"type": "QuotaReserved", "status": "True"}
    mine, other = {"name": "mine", "state": "Pending"}, {"name": "other", "state": "Pending"}
    table: list[tuple[list[Any], list[Any], bool | None, list[str]]] = [
        ([reserved], [mine, other], True, ["mine"]),
        ([reserved], [mine, other], None, ["mine"]),
        ([reserved], [mine, other], False, []),
        ([], [mine], True, []),
        ([{"type": "QuotaReserved", "status": "False"}], [mine], True, []),
        ([reserved, {"type": "Evicted", "status": "True"}], [mine], True, []),
        ([reserved, {"type": "Evicted", "status": "False"}], [mine], True, ["mine"]),
        ([reserved, {"type": "Finished", "status": "True"}], [mine], True, []),
        ([reserved], [{"name": "mine", "state": "Retry"}, {"name": "mine2", "state": "Ready"}], True, []),
        ([reserved], [], True, []),
    ]
    for conditions, checks, active, expected in table:
        workload = a_workload(status={"conditions": conditions, "admissionChecks": checks})
        if active is not None:
            workload["spec"]["active"] = active
        assert pending_checks(workload, ["mine", "mine2"]) == expected
    assert pending_checks({"spec": {}}, ["mine"]) == []


def test_a_workload_of_one_pod_set_is_a_gang_of_its_pods() -> None:
    flavors = {"h": {"spec": {"nodeLabels": {"kind": "h100"}, "tolerations": [{"key": "k", "operator": "Exists"}]}}}
    assigned = [{"name": "main", "count": 3, "flavors": {"nvidia.com/gpu": "h", "cpu": "h"}}]
    workload = a_workload(
        a_pod_set(count=4, nodeSelector={"a": "b"}, topologyRequest={"required": "topology.berth.dev/rack"}),
        status={"admission": {"podSetAssignments": assigned}},
        priority=7,
    )
    spec = job_of_workload(workload, flavors, read, pool="fast")
    assert validate(spec).replicas == 3
    assert (spec.name, spec.pool, spec.priority, spec.replicas) == ("w", "fast", 7, 3)
    assert (spec.resources.devices, spec.resources.cpu_milli, list(spec.accelerators.stacks)) == (8, 2000, ["CUDA"])
    assert (spec.topology.level, spec.topology.required) == ("rack", True)
    (term,) = spec.nodes.required
    assert [(one.key, one.operator, list(one.values)) for one in term.requirements] == [
        ("a", "In", ["b"]), ("kind", "In", ["h100"]),
    ]  # fmt: skip
    assert [(one.key, one.operator) for one in spec.nodes.tolerations] == [("k", "Exists")]


def test_several_pod_sets_are_groups_and_one_without_pods_is_none() -> None:
    workload = a_workload(a_pod_set("driver", 1, 1), a_pod_set("workers", 2, 8), a_pod_set("spare", 0, 8))
    spec = job_of_workload(workload, {}, read)
    assert [(one.name, one.replicas, one.min_replicas, one.resources.devices) for one in spec.member_groups] == [
        ("driver", 1, 1, 1), ("workers", 2, 2, 8),
    ]  # fmt: skip
    assert validate(spec).replicas == 3
    assert (spec.replicas, spec.resources.ByteSize(), spec.accelerators.ByteSize()) == (0, 0, 0)


def test_what_cannot_be_read_names_the_pod_set_and_a_flavor_that_is_not_there_itself() -> None:
    wrong = a_pod_set("bad")
    wrong["template"]["metadata"] = {"annotations": {"berth.dev/objective": "fast"}}
    with pytest.raises(InvalidInput, match=r"podSets\[bad\].*berth.dev/objective\]: 'fast': write one of"):
        job_of_workload(a_workload(wrong), {}, read)
    with pytest.raises(InvalidInput, match="podSets: 'no pods': ask for one pod at least"):
        job_of_workload(a_workload(a_pod_set(count=0)), {}, read)
    status = {"admission": {"podSetAssignments": [{"name": "main", "flavors": {"cpu": "gone"}}]}}
    with pytest.raises(InvalidInput) as told:
        job_of_workload(a_workload(status=status), {}, read)
    assert [one.field for one in told.value.errors] == ["ResourceFlavor"]


def test_selectors_lead_to_the_smallest_domain_that_holds_the_pods() -> None:
    table: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("a1",), {"nvidia.com/gpu.product": "H100", "kubernetes.io/hostname": "a1"}),
        (("a1", "a1"), {"nvidia.com/gpu.product": "H100", "kubernetes.io/hostname": "a1"}),
        (("a1", "a2"), {"nvidia.com/gpu.product": "H100", "topology.berth.dev/rack": "ra"}),
        (("a1", "b1"), {"nvidia.com/gpu.product": "H100", "topology.kubernetes.io/zone": "z"}),
        (("b1", "b2"), {"topology.berth.dev/rack": "rb"}),
    ]
    for nodes, selector in table:
        answer = ready(a_decision(*nodes), a_workload(), {}, NODES)
        assert answer == Answer("Ready", "berth: placed", {"main": selector})
    assert ready(a_decision("gone"), a_workload(), {}, NODES).selectors == {}


def test_selectors_say_nothing_that_is_said_and_nothing_where_others_choose() -> None:
    flavors = {"h": {"spec": {"nodeLabels": {"nvidia.com/gpu.product": "H100"}}}}
    assigned: dict[str, Any] = {"name": "main", "flavors": {"nvidia.com/gpu": "h"}}
    status = {"admission": {"podSetAssignments": [assigned]}}
    assert ready(a_decision("a1"), a_workload(status=status), flavors, NODES).selectors == {
        "main": {"kubernetes.io/hostname": "a1"}
    }
    there = a_pod_set(nodeSelector={"kubernetes.io/hostname": "a1", "nvidia.com/gpu.product": "H100"})
    assert ready(a_decision("a1"), a_workload(there), {}, NODES).selectors == {}
    assigned["topologyAssignment"] = {"levels": []}
    assert ready(a_decision("a1"), a_workload(status=status), flavors, NODES).selectors == {}
    own = a_workload(a_pod_set("own", schedulerName="berth"), a_pod_set("other"))
    decision = a_decision("a1", group="own")
    decision = Decision("j", 1, (*decision.members, Member(1, "b1", group="other")), (), Expectation("", 0), 4, "x")
    assert ready(decision, own, {}, NODES).selectors == {
        "other": {"nvidia.com/gpu.product": "H100", "kubernetes.io/hostname": "b1"}
    }


def test_answers_as_kueue_reads_them() -> None:
    at = "2026-11-25T04:00:00Z"
    answer = ready(a_decision("a1"), a_workload(), {}, NODES)
    assert state_of("c", answer, at) == {
        "name": "c",
        "state": "Ready",
        "message": "berth: placed",
        "lastTransitionTime": at,
        "podSetUpdates": [
            {"name": "main", "nodeSelector": {"nvidia.com/gpu.product": "H100", "kubernetes.io/hostname": "a1"}}
        ],
    }
    reasons = (Reason("Capacity", "DEVICES_BUSY", 1, 8, "none is free"), Reason("HeatMargin", "HOT", 1, 1, "too hot"))
    rejection = Rejection("j", 1, reasons, ("ask for fewer",), 2, 0, "waits")
    assert state_of("c", refused(rejection, 0), at) == {
        "name": "c",
        "state": "Retry",
        "message": "berth: none is free; too hot; would help: ask for fewer",
        "lastTransitionTime": at,
        "requeueAfterSeconds": 15,
    }
    assert [refused(rejection, retries).retry_seconds for retries in (1, 2, 5, 6, 1000)] == [30, 60, 480, 600, 600]
    assert len(state_of("c", Answer("Rejected", "x" * 5000), at)["message"]) == 2048
