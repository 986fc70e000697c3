"""Which gang a pod names, and what is known of it, for each way that clusters write it."""

from typing import Any

import pytest

from berth.errors import InvalidInput
from berth.kubernetes.client import Object
from berth.kubernetes.pods.groups import Gang, GangRef, gang_of, place_of, ref_of
from tests.unit.berth.kubernetes.pods.builders import a_group, a_pod

LWS_API = "leaderworkerset.x-k8s.io"
LWS, JOBSET, KUBEFLOW = "leaderworkerset.sigs.k8s.io", "jobset.sigs.k8s.io", "training.kubeflow.org"


def ref(api: str, name: str, path: str = "") -> GangRef:
    return GangRef(api, "team", name, path)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"schedulingGroup": {"podGroupName": "g"}}, ref("scheduling.k8s.io", "g")),
        ({"annotations": {"berth.dev/gang": "g"}}, ref("berth.dev", "g")),
        ({"annotations": {"berth.dev/gang": "true"}}, None),
        ({"annotations": {"berth.dev/gang": "true"}, "owners": {"ReplicaSet": "r"}}, ref("berth.dev", "r")),
        (
            {"annotations": {"berth.dev/gang": "true"}, "owners": {"Job": "j"}},
            ref("batch", "j", "/apis/batch/v1/namespaces/team/jobs/j"),
        ),
        ({"owners": {"Job": "j"}}, None),
        ({"annotations": {"scheduling.k8s.io/group-name": "g"}}, ref("scheduling.volcano.sh", "g")),
        ({"annotations": {"scheduling.volcano.sh/group-name": "g"}}, ref("scheduling.volcano.sh", "g")),
        ({"labels": {"scheduling.x-k8s.io/pod-group": "g"}}, ref("scheduling.x-k8s.io", "g")),
        ({"annotations": {"pod-group-name": "g"}}, ref("scheduling.run.ai", "g")),
        ({"annotations": {"pod-group-name": "g", "berth.dev/gang": "false"}}, None),
        (
            {"labels": {f"{LWS}/name": "l", f"{LWS}/group-index": "2"}},
            ref(LWS_API, "l-2", f"/apis/{LWS_API}/v1/namespaces/team/leaderworkersets/l"),
        ),
        (
            {"labels": {f"{JOBSET}/jobset-name": "s"}, "owners": {"Job": "s-a-0"}},
            ref("jobset.x-k8s.io", "s", "/apis/jobset.x-k8s.io/v1alpha2/namespaces/team/jobsets/s"),
        ),
        (
            {"labels": {f"{KUBEFLOW}/job-name": "t"}, "owners": {"PyTorchJob": "t"}},
            ref("kubeflow.org", "t", "/apis/kubeflow.org/v1/namespaces/team/pytorchjobs/t"),
        ),
        (
            {"labels": {"ray.io/cluster": "c"}, "owners": {"RayCluster": "c"}},
            ref("ray.io", "c", "/apis/ray.io/v1/namespaces/team/rayclusters/c"),
        ),
    ],
)  # fmt: skip
def test_a_pod_names_its_gang(fields: dict[str, Any], wanted: GangRef | None) -> None:
    assert ref_of(a_pod(**fields)) == wanted


def facts(gang: Gang | None) -> tuple[int, int, str, bool, str] | None:
    """(minimum, size, level, required, queue)"""
    return gang and (gang.minimum, gang.size, gang.level, gang.level_required, gang.queue)


def thing(spec: dict[str, Any]) -> Object:
    return {"metadata": {"name": "g", "namespace": "team", "uid": "uid-g"}, "spec": spec}


def pods(*roles: str) -> list[Object]:
    return [a_pod(f"p{i}", labels={f"{JOBSET}/replicatedjob-name": role}) for i, role in enumerate(roles)]


RAY = {"workerGroupSpecs": [{"groupName": "w", "replicas": 3, "minReplicas": 1, "numOfHosts": 2}]}
JOBSET_SPEC = {
    "replicatedJobs": [
        {"name": "driver", "template": {"spec": {"parallelism": 1}}},
        {"name": "workers", "replicas": 2, "template": {"spec": {"parallelism": 4}}},
    ]
}
TORCH = {
    "pytorchReplicaSpecs": {"Master": {}, "Worker": {"replicas": 3}},
    "runPolicy": {"schedulingPolicy": {"minAvailable": 3, "queue": "q"}},
}


@pytest.mark.parametrize(
    ("api", "spec", "there", "wanted"),
    [
        ("scheduling.k8s.io", {"schedulingPolicy": {"gang": {"minCount": 4}}}, [], (4, 0, "", False, "")),
        ("scheduling.k8s.io", {"schedulingPolicy": {"basic": {}}}, [], None),
        ("scheduling.volcano.sh", {"minMember": 3, "queue": "q"}, [], (3, 0, "", False, "q")),
        ("scheduling.x-k8s.io", {"minMember": 3}, [], (3, 0, "", False, "")),
        (
            "scheduling.run.ai",
            {"minMember": 2, "queue": "q", "topologyConstraint": {"preferredTopologyLevel": "topology.berth.dev/rack"}},
            [],
            (2, 0, "rack", False, "q"),
        ),
        ("batch", {"parallelism": 8, "completions": 6}, [], (6, 6, "", False, "")),
        ("batch", {"parallelism": 8}, [], (8, 8, "", False, "")),
        ("leaderworkerset.x-k8s.io", {"leaderWorkerTemplate": {"size": 4}}, [], (4, 4, "", False, "")),
        ("jobset.x-k8s.io", JOBSET_SPEC, [], (9, 9, "", False, "")),
        (
            "jobset.x-k8s.io",
            {**JOBSET_SPEC, "startupPolicy": {"startupPolicyOrder": "InOrder"}},
            ["driver"],
            (1, 0, "", False, ""),
        ),
        (
            "jobset.x-k8s.io",
            {**JOBSET_SPEC, "startupPolicy": {"startupPolicyOrder": "InOrder"}},
            ["driver", "workers"],
            (9, 0, "", False, ""),
        ),
        ("kubeflow.org", TORCH, [], (3, 4, "", False, "q")),
        ("ray.io", RAY, [], (7, 7, "", False, "")),
        ("ray.io", {**RAY, "enableInTreeAutoscaling": True}, [], (3, 7, "", False, "")),
    ],
)
def test_a_gang_is_what_its_object_says(api: str, spec: dict[str, Any], there: list[str], wanted: Any) -> None:
    path = "" if api.startswith("scheduling.") else "/apis/a/b/namespaces/team/things/g"
    assert facts(gang_of(ref(api, "g", path), thing(spec), pods(*there))) == wanted


def test_a_gang_by_annotations_says_how_many_it_is() -> None:
    name = ref("berth.dev", "g")
    assert facts(gang_of(name, None, [a_pod(annotations={"berth.dev/gang-size": "4"})])) == (4, 4, "", False, "")
    both = {"berth.dev/gang-size": "4", "berth.dev/gang-minimum": "2"}
    assert facts(gang_of(name, None, [a_pod(annotations=both)])) == (2, 4, "", False, "")
    size = a_pod(annotations={f"{LWS}/size": "3"})
    assert facts(gang_of(ref("leaderworkerset.x-k8s.io", "l-0", "/a/b/c"), None, [size])) == (3, 3, "", False, "")
    for annotations in (
        {},
        {"berth.dev/gang-size": "many"},
        {"berth.dev/gang-size": "2", "berth.dev/gang-minimum": "3"},
    ):
        with pytest.raises(InvalidInput, match=r"berth\.dev/gang-"):
            gang_of(name, None, [a_pod(annotations=annotations)])


def test_what_is_not_there_is_waited_for_by_name() -> None:
    with pytest.raises(LookupError, match=r"PodGroup g \(scheduling.k8s.io\) does not exist yet"):
        gang_of(ref("scheduling.k8s.io", "g"), None, [])
    with pytest.raises(LookupError, match="jobsets s cannot be read"):
        gang_of(ref("jobset.x-k8s.io", "s", "/apis/jobset.x-k8s.io/v1alpha2/namespaces/team/jobsets/s"), None, [])


def test_the_topology_of_a_group_is_a_level_or_an_error() -> None:
    for key, level in (
        ("kubernetes.io/hostname", "node"), ("topology.kubernetes.io/zone", "zone"),
        ("topology.berth.dev/rack", "rack"), ("example.com/block", "block"),
    ):  # fmt: skip
        group = a_group(schedulingConstraints={"topology": [{"key": key}]})
        assert facts(gang_of(ref("scheduling.k8s.io", "ring"), group, [])) == (2, 0, level, True, "")
    with pytest.raises(InvalidInput, match=r"example.com/shelf"):
        gang_of(
            ref("scheduling.k8s.io", "ring"),
            a_group(schedulingConstraints={"topology": [{"key": "example.com/shelf"}]}),
            [],
        )


def test_members_are_in_order_of_role_and_index() -> None:
    assert place_of(a_pod(labels={f"{LWS}/worker-index": "0"})) == (0, "leader", 0)
    assert place_of(a_pod(labels={f"{LWS}/worker-index": "3"})) == (1, "worker", 3)
    roles = {f"{KUBEFLOW}/replica-type": "Master", f"{KUBEFLOW}/replica-index": "0"}
    assert place_of(a_pod(labels=roles)) == (0, "master", 0)
    assert place_of(a_pod(annotations={"batch.kubernetes.io/job-completion-index": "5"})) == (1, "", 5)
