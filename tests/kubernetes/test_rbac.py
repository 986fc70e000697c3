"""What each service may do in a cluster, asked of the API server itself: the whole table, and nothing beside it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes, KubernetesError
from tests.kubernetes.conftest import pod
from tests.kubernetes.installing import MANIFESTS, NAMESPACE, SERVICES, kubeconfig_of_service

READ = ("get", "list", "watch")
VERBS = (*READ, "create", "update", "patch", "delete", "deletecollection")
KUBEFLOW = ("jaxjobs", "mpijobs", "paddlejobs", "pytorchjobs", "tfjobs", "xgboostjobs")
# Whatever a cluster has that could matter, asked for each service and verb.
RESOURCES = {
    "": (
        "nodes", "nodes/status", "nodes/proxy", "namespaces", "pods", "pods/binding", "pods/status", "pods/eviction",
        "pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "bindings", "events",
        "secrets", "configmaps", "services", "endpoints", "serviceaccounts", "serviceaccounts/token",
        "persistentvolumes", "persistentvolumeclaims", "replicationcontrollers",
    ),
    "apps": ("deployments", "daemonsets", "replicasets", "statefulsets"),
    "batch": ("jobs", "jobs/status", "cronjobs"),
    "policy": ("poddisruptionbudgets",),
    "coordination.k8s.io": ("leases",),
    "discovery.k8s.io": ("endpointslices",),
    "events.k8s.io": ("events",),
    "scheduling.k8s.io": ("podgroups", "podgroups/status", "priorityclasses", "workloads"),
    "scheduling.x-k8s.io": ("podgroups",),
    "scheduling.volcano.sh": ("podgroups", "queues"),
    "scheduling.run.ai": ("podgroups",),
    "jobset.x-k8s.io": ("jobsets",),
    "leaderworkerset.x-k8s.io": ("leaderworkersets",),
    "kubeflow.org": KUBEFLOW,
    "ray.io": ("rayclusters", "rayjobs"),
    "resource.k8s.io": (
        "resourceclaims", "resourceclaims/status", "resourceclaims/binding", "resourceclaimtemplates",
        "resourceslices", "deviceclasses", "devicetaintrules",
    ),
    "kueue.x-k8s.io": (
        "admissionchecks", "admissionchecks/status", "workloads", "workloads/status", "clusterqueues",
        "localqueues", "resourceflavors",
    ),
    "berth.dev": (
        "queues", "queues/status", "pools", "pools/status", "workloadprofiles", "workloadprofiles/status",
    ),
    "rbac.authorization.k8s.io": ("roles", "rolebindings", "clusterroles", "clusterrolebindings"),
    "admissionregistration.k8s.io": ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "certificates.k8s.io": ("certificatesigningrequests",),
}  # fmt: skip
MAY: dict[str, dict[str, tuple[str, ...]]] = {
    "telemetry-ingest": {
        "nodes": READ,
        "pods": READ,
        "discovery.k8s.io/endpointslices": READ,
        "resource.k8s.io/resourceslices": READ,
        "resource.k8s.io/resourceclaims": READ,
        "resource.k8s.io/deviceclasses": READ,
        "resource.k8s.io/devicetaintrules": READ,
    },
    "profile-store": {
        "berth.dev/workloadprofiles": READ,
        "berth.dev/workloadprofiles/status": ("patch",),
    },
    "placement-engine": {
        "berth.dev/queues": (*READ, "patch"),
        "berth.dev/queues/status": ("patch",),
        "berth.dev/pools": READ,
        "berth.dev/pools/status": ("patch",),
        "resource.k8s.io/resourceslices": READ,
        "resource.k8s.io/devicetaintrules": (*READ, "create", "update", "delete"),
        "kueue.x-k8s.io/admissionchecks": READ,
        "kueue.x-k8s.io/admissionchecks/status": ("patch",),
        "kueue.x-k8s.io/workloads": READ,
        "kueue.x-k8s.io/workloads/status": ("patch",),
        "kueue.x-k8s.io/resourceflavors": READ,
    },
    "binder": {
        "pods": (*READ, "create", "patch", "delete"),
        "pods/binding": ("create",),
        "pods/eviction": ("create",),
        "pods/status": ("patch",),
        "pods/log": ("get",),
        "events": ("create",),
        "events.k8s.io/events": ("create",),
        "nodes": READ,
        "batch/jobs": ("get",),
        "jobset.x-k8s.io/jobsets": ("get",),
        "leaderworkerset.x-k8s.io/leaderworkersets": ("get",),
        **{f"kubeflow.org/{kind}": ("get",) for kind in KUBEFLOW},
        "ray.io/rayclusters": ("get",),
        "scheduling.k8s.io/podgroups": READ,
        "scheduling.x-k8s.io/podgroups": READ,
        "scheduling.volcano.sh/podgroups": READ,
        "scheduling.run.ai/podgroups": READ,
        "resource.k8s.io/resourceclaims": (*READ, "update"),
        "resource.k8s.io/resourceclaims/status": ("update",),
        "resource.k8s.io/resourceclaims/binding": ("update",),
        "resource.k8s.io/resourceslices": READ,
        "resource.k8s.io/deviceclasses": READ,
        "resource.k8s.io/devicetaintrules": READ,
    },
}


def account(service: str) -> str:
    return f"system:serviceaccount:{NAMESPACE}:{service}"


async def allowed(client: Kubernetes, service: str) -> dict[str, tuple[str, ...]]:
    """By SubjectAccessReview, in every namespace. Resource to verbs, where there are any."""
    room = asyncio.Semaphore(32)

    async def ask(group: str, resource: str, verb: str) -> bool:
        name, _, below = resource.partition("/")
        attributes = {"group": group, "resource": name, "subresource": below, "verb": verb}
        spec = {
            "user": account(service),
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
            "resourceAttributes": attributes,
        }
        async with room:
            answer = await client.post(
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec},
            )
        return bool(answer["status"]["allowed"])

    asked = [(group, resource, verb) for group, all_of in RESOURCES.items() for resource in all_of for verb in VERBS]
    answers = await asyncio.gather(*(ask(*one) for one in asked))
    found: dict[str, tuple[str, ...]] = {}
    for (group, resource, verb), yes in zip(asked, answers, strict=True):
        if yes:
            name = f"{group}/{resource}" if group else resource
            found[name] = (*found.get(name, ()), verb)
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_may_do_what_it_does_and_nothing_else(
    service: str, installed: Any, kubernetes: Kubernetes
) -> None:
    assert await allowed(kubernetes, service) == MAY[service]


def test_no_role_grants_everything_of_a_kind() -> None:
    for path in sorted((MANIFESTS / "rbac").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert "'*'" not in text
        assert '"*"' not in text
        assert "nonResourceURLs" not in text


async def test_kubectl_says_the_same(installed: Any) -> None:
    """A few rows as an operator asks them."""
    asked = {
        ("binder", "create", "pods/binding"): "yes",
        ("placement-engine", "create", "pods/binding"): "no",
        ("telemetry-ingest", "create", "pods/binding"): "no",
        ("profile-store", "create", "pods/binding"): "no",
        **{(service, "get", "secrets"): "no" for service in SERVICES},
        ("placement-engine", "create", "devicetaintrules.resource.k8s.io"): "yes",
        ("binder", "create", "devicetaintrules.resource.k8s.io"): "no",
        ("placement-engine", "patch", "queues.berth.dev/status"): "yes",
        ("profile-store", "patch", "queues.berth.dev/status"): "no",
    }

    def can(service: str, verb: str, resource: str) -> str:
        kind, _, below = resource.partition("/")
        under = ["--subresource", below] if below else []
        command = ["auth", "can-i", verb, kind, *under, "--as", account(service), "-A", "--quiet"]
        try:
            installed.kubectl(*command)
        except RuntimeError:
            return "no"
        return "yes"

    answers = await asyncio.gather(*(asyncio.to_thread(can, *one) for one in asked))
    assert dict(zip(asked, answers, strict=True)) == asked


async def test_a_binding_is_the_binders_alone(
    installed: Any, cluster: Any, kubernetes: Kubernetes, tmp_path: Path
) -> None:
    """Not what is allowed on paper: what happens."""
    cluster.add_nodes(1)
    await kubernetes.post("/api/v1/namespaces/default/pods", pod("a"))
    binding = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "node-0"}}
    happened = {}
    for service in SERVICES:
        async with await Kubernetes.connect(kubeconfig_of_service(cluster, service, tmp_path)) as client:
            try:
                await client.post("/api/v1/namespaces/default/pods/a/binding", binding)
                happened[service] = 201
            except KubernetesError as error:
                happened[service] = error.status
            with pytest.raises(KubernetesError) as refused:
                await client.get("/api/v1/namespaces/default/secrets")
            assert refused.value.status == 403
    assert happened == {"telemetry-ingest": 403, "profile-store": 403, "placement-engine": 403, "binder": 201}
    assert json.loads(cluster.kubectl("get", "pod", "a", "-o", "json"))["spec"]["nodeName"] == "node-0"


async def test_whoever_may_view_the_cluster_may_view_queues(installed: Any, kubernetes: Kubernetes) -> None:
    async def rules() -> Any:
        return (await kubernetes.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/view"))["rules"]

    for _ in range(100):
        aggregated = [rule for rule in await rules() if rule.get("apiGroups") == ["berth.dev"]]
        if aggregated:
            break
        await asyncio.sleep(0.1)
    assert aggregated == [
        {"apiGroups": ["berth.dev"], "resources": ["queues", "pools", "workloadprofiles"], "verbs": list(READ)}
    ]
