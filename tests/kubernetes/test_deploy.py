"""deploy/kubernetes and deploy/helm: the same objects, which a real API server takes."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from berth.backends.declaration import parse_backends
from berth.kubernetes.client import Kubernetes, Object
from berth.settings import ServiceSettings
from binder.settings import BinderSettings
from placement_engine.settings import EngineSettings
from profile_store.settings import ProfileStoreSettings
from telemetry_ingest.settings import TelemetryIngestSettings
from tests.conftest import ROOT
from tests.kubernetes.installing import MANIFESTS, NAMESPACE, SERVICES, documents

CHART = ROOT / "deploy/helm/berth"
SETTINGS: dict[str, type[ServiceSettings]] = {
    "telemetry-ingest": TelemetryIngestSettings,
    "profile-store": ProfileStoreSettings,
    "placement-engine": EngineSettings,
    "binder": BinderSettings,
}
SECRET = {"auth-key": "k" * 32, "postgres-dsn": "postgresql://berth@postgres/berth"}
Objects = dict[tuple[str, str], Object]


class Helm:
    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        places = {f"HELM_{name}_HOME": str(folder / name) for name in ("CACHE", "CONFIG", "DATA")}
        self._environment = {**os.environ, **places}

    def __call__(self, *arguments: str) -> str:
        """What it prints. Raises AssertionError with what it says where it fails."""
        done = subprocess.run(
            [self._program, *arguments], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def template(self, *arguments: str, namespace: str = NAMESPACE) -> str:
        return self("template", "berth", str(CHART), "--namespace", namespace, "--include-crds", *arguments)


@pytest.fixture(scope="session")
def helm(control_plane: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    program: Path = control_plane.helm()
    if not program.exists():
        why = "helm is not built: `make test` does it, or `python deploy/controlplane/control_plane.py build`"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    return Helm(program, tmp_path_factory.mktemp("helm"))


def overlay(folder: Path, **fields: Any) -> Path:
    """A kustomization on top of the base, as an operator writes one."""
    base = os.path.relpath(MANIFESTS, folder)
    document = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [base], **fields}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder


def comparable(rendered: str) -> Objects:
    """By kind and name, without what each of the two tools adds of its own."""
    found: Objects = {}
    for one in documents(rendered):
        kind, metadata = one["kind"], one["metadata"]
        if kind == "Namespace":
            continue  # helm creates it by --create-namespace
        if kind == "ConfigMap":
            metadata["name"] = metadata["name"].partition("-")[0]  # kustomize adds a hash of the content
        labels = metadata.get("labels") or {}
        for label in ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/part-of"):
            labels.pop(label, None)
        metadata["labels"] = labels
        if kind == "CustomResourceDefinition":
            one.pop("status", None)
        if kind == "Deployment":
            template = one["spec"]["template"]
            template["metadata"]["annotations"].pop("checksum/settings", None)
            container = template["spec"]["containers"][0]
            # kustomize puts what a patch adds to the front.
            for named in (container["ports"], container["env"], container["volumeMounts"], template["spec"]["volumes"]):
                named.sort(key=lambda each: str(each["name"]))
            for source in container["envFrom"]:
                source["configMapRef"]["name"] = source["configMapRef"]["name"].partition("-")[0]
        assert (kind, metadata["name"]) not in found
        found[kind, metadata["name"]] = one
    return found


def test_the_chart_installs_what_kustomize_installs(helm: Helm, shared_cluster: Any) -> None:
    by_helm, by_kustomize = comparable(helm.template()), comparable(shared_cluster.kubectl("kustomize", str(MANIFESTS)))
    assert sorted(by_helm) == sorted(by_kustomize)
    assert {key: one for key, one in by_helm.items() if by_kustomize[key] != one} == {}


def test_an_update_never_runs_two_telemetry_ingests(shared_cluster: Any) -> None:
    found = comparable(shared_cluster.kubectl("kustomize", str(MANIFESTS)))
    strategies = {name: one["spec"]["strategy"]["type"] for (kind, name), one in found.items() if kind == "Deployment"}
    assert strategies == {name: "Recreate" if name == "telemetry-ingest" else "RollingUpdate" for name in SERVICES}


def test_with_the_extender_too(helm: Helm, shared_cluster: Any, tmp_path: Path) -> None:
    folder = overlay(tmp_path, components=[os.path.relpath(MANIFESTS / "components/extender", tmp_path)])
    by_helm = comparable(helm.template("--set", "extender.enabled=true"))
    by_kustomize = comparable(shared_cluster.kubectl("kustomize", str(folder)))
    assert by_helm == by_kustomize
    plain = comparable(helm.template())
    assert sorted(set(by_helm) - set(plain)) == [
        ("ClusterRole", "berth-extender"), ("ClusterRoleBinding", "berth-extender"), ("Service", "extender"),
    ]  # fmt: skip
    assert sorted(key for key in plain if plain[key] != by_helm[key]) == [
        ("Deployment", "placement-engine"), ("NetworkPolicy", "berth"),
    ]  # fmt: skip


def test_the_chart_in_another_namespace_names_it_everywhere(helm: Helm) -> None:
    found = comparable(helm.template(namespace="elsewhere"))
    cluster_wide = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    assert {one["metadata"].get("namespace") for (kind, _), one in found.items() if kind not in cluster_wide} == {
        "elsewhere"
    }
    subjects = [subject for one in found.values() for subject in one.get("subjects", ())]
    assert {subject["namespace"] for subject in subjects} == {"elsewhere"}


def test_the_chart_is_sound_and_refuses_values_that_are_not(helm: Helm) -> None:
    helm("lint", "--strict", str(CHART))
    wrong = {
        "services.telemetry-ingest.replicas=2": "/services/telemetry-ingest/replicas",
        "kafka.bootstrap=kafka": "/kafka/bootstrap",
        "settings.LOG_LEVEL=debug": "does not match pattern",
        "replicas=2": "replicas",
        "services.engine.replicas=1": "/services",
        "extender.port=80": "/extender/port",
    }
    for values, said in wrong.items():
        with pytest.raises(AssertionError) as refused:
            helm.template("--set", values)
        assert said in str(refused.value)


def test_the_operators_backends_reach_the_binder_alone(helm: Helm, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    example = yaml.safe_load((ROOT / "examples/backends.yaml").read_text())
    values.write_text(yaml.safe_dump(example))
    rendered = helm.template("--values", str(values))
    written = {one["metadata"]["name"]: one for one in documents(rendered) if one["kind"] == "ConfigMap"}
    assert parse_backends(yaml.safe_load(written["berth-backends"]["data"]["backends.yaml"])) == parse_backends(example)
    for name, deployment in deployments(rendered).items():
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        read = {one["name"]: one.get("value") for one in container["env"]}.get("BERTH_BACKENDS")
        mounted = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "backends"]
        assert (read, mounted) == (
            ("/etc/berth/backends/backends.yaml", ["/etc/berth/backends"]) if name == "binder" else (None, [])
        )


@pytest.mark.parametrize("tool", ["helm", "kustomize", "helm with everything"])
def test_a_real_server_takes_all_of_it(tool: str, helm: Helm, installed: Any) -> None:
    if tool == "kustomize":
        rendered = installed.kubectl("kustomize", str(MANIFESTS))
    else:
        more = ("--set", "extender.enabled=true,imagePullSecrets[0].name=r,settings.BERTH_LOG_LEVEL=debug")
        rendered = helm.template(*more) if tool == "helm with everything" else helm.template()
    said = installed.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-",
        stdin=rendered,
    )  # fmt: skip
    lines = said.splitlines()
    assert len(lines) == len(documents(rendered))
    assert all(line.endswith("serverside-applied (server dry run)") for line in lines)


def deployments(rendered: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in documents(rendered) if one["kind"] == "Deployment"}


def environment(objects: list[Object], deployment: Object) -> Mapping[str, str]:
    """Of its container, with the operator's secret."""
    config = next(one for one in objects if one["kind"] == "ConfigMap")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert [one["configMapRef"]["name"] for one in container["envFrom"]] == [config["metadata"]["name"]]
    found = dict(config["data"])
    for one in container["env"]:
        secret = one.get("valueFrom", {}).get("secretKeyRef")
        found[one["name"]] = SECRET[secret["key"]] if secret else one["value"]
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_takes_the_settings_that_it_is_given(
    service: str, shared_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = documents(shared_cluster.kubectl("kustomize", str(MANIFESTS)))
    deployment = next(one for one in objects if one["kind"] == "Deployment" and one["metadata"]["name"] == service)
    given = environment(objects, deployment)
    known = {f"BERTH_{name.upper()}" for kind in SETTINGS.values() for name in kind.model_fields}
    assert sorted(set(given) - known) == []
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    loaded = SETTINGS[service]()
    assert loaded.kubernetes
    assert loaded.auth_key is not None
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert loaded.grpc_listen == f"0.0.0.0:{ports['grpc']}"
    assert loaded.http_listen == f"0.0.0.0:{ports['http']}"
    assert {one["mountPath"] for one in container["volumeMounts"]} >= {str(loaded.state_dir), "/tmp"}


def test_what_belongs_together_names_each_other(shared_cluster: Any) -> None:
    objects = documents(shared_cluster.kubectl("kustomize", str(MANIFESTS)))
    found = deployments(yaml.safe_dump_all(objects))
    assert sorted(found) == sorted(SERVICES)
    for name, deployment in found.items():
        template = deployment["spec"]["template"]
        labels, container = template["metadata"]["labels"], template["spec"]["containers"][0]
        ports = {one["name"] for one in container["ports"]}
        assert container["command"] == [f"berth-{name}"]
        selecting = [
            (one["kind"], one["metadata"]["name"])
            for one in objects
            if one["kind"] in ("Service", "PodDisruptionBudget")
            and one["spec"]["selector"].get("matchLabels", one["spec"]["selector"]).items() <= labels.items()
        ]
        assert sorted(selecting) == [("PodDisruptionBudget", name), ("Service", name)]
        service = next(one for one in objects if one["kind"] == "Service" and one["metadata"]["name"] == name)
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        accounts = [one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"]
        assert template["spec"]["serviceAccountName"] == name
        assert name in accounts


async def test_the_pods_pass_the_strictest_standard(helm: Helm, installed: Any, kubernetes: Kubernetes) -> None:
    namespace = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await kubernetes.patch(f"/api/v1/namespaces/{NAMESPACE}", namespace)
    for name, deployment in deployments(helm.template("--set", "extender.enabled=true")).items():
        template = deployment["spec"]["template"]
        pod = {"metadata": {"name": name, **template["metadata"]}, "spec": template["spec"]}
        taken = await kubernetes.post(f"/api/v1/namespaces/{NAMESPACE}/pods", pod, dryRun="All")
        context = taken["spec"]["containers"][0]["securityContext"]
        assert (context["readOnlyRootFilesystem"], taken["spec"]["securityContext"]["runAsUser"]) == (True, 10001)
