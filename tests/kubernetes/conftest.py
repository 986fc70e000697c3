"""One real control plane for all Kubernetes tests; each test begins with an empty cluster."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes, Unanswered
from tests.conftest import ROOT
from tests.kubernetes import executor
from tests.kubernetes.installing import EXTENDER, Reached, install_crds, install_rights, kubeconfig_of_service
from tests.services import ServiceProcess, System


def load_control_plane() -> ModuleType:
    name = "berth_control_plane"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "deploy/controlplane/control_plane.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def control_plane() -> ModuleType:
    """The module; a machine without it says so in one line, and in CI fails."""
    module = load_control_plane()
    missing = module.available()
    if not missing and not module.built():
        missing = "it is not built: `make test` does it, or `python deploy/controlplane/control_plane.py build`"
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run on a real control plane, but: {missing}", pytrace=False)
        pytest.skip(f"needs a Kubernetes control plane: {missing}")
    return module


# Users with a token each; what they may is up to RBAC.
USERS = ("telemetry-ingest", "profile-store", "placement-engine", "binder")


@pytest.fixture(scope="session")
def shared_cluster(control_plane: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with control_plane.ControlPlane(tmp_path_factory.mktemp("kubernetes"), users=USERS) as running:
        yield running


@pytest.fixture(scope="session")
def installed(shared_cluster: Any) -> Any:
    """The control plane with Berth's resources and the rights of its services."""
    install_crds(shared_cluster)
    install_rights(shared_cluster)
    return shared_cluster


ADMINISTRATOR = "berth-admin.kubeconfig"


@pytest.fixture(scope="session")
def own_kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """Of a service and the administrator's kubeconfig: one with the rights of its service account alone."""
    made: dict[tuple[str, Path], Path] = {}
    folders: dict[Path, Path] = {}

    def own(account: str, kubeconfig: Path) -> Path:
        cluster = Reached(load_control_plane().build() / "kubectl", kubeconfig)
        if kubeconfig not in folders:
            install_crds(cluster)
            install_rights(cluster)
            folders[kubeconfig] = tmp_path_factory.mktemp("rights")
        if (account, kubeconfig) not in made:
            made[account, kubeconfig] = kubeconfig_of_service(cluster, account, folders[kubeconfig], like=kubeconfig)
        return made[account, kubeconfig]

    return own


@pytest.fixture(autouse=True)
def _services_have_their_own_rights(
    own_kubeconfig: Callable[[str, Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service, or the binder's executor, that a test gives the administrator's kubeconfig runs with its own rights:
    they must do."""
    start = System.service

    def with_own_rights(self: System, service: str, *, name: str = "", **settings: str) -> ServiceProcess:
        given = Path(settings.get("kubeconfig", ""))
        if given.name == ADMINISTRATOR:
            account = EXTENDER if settings.get("extender_listen") else service
            settings["kubeconfig"] = str(own_kubeconfig(account, given))
        return start(self, service, name=name, **settings)

    monkeypatch.setattr(System, "service", with_own_rights)
    opened = executor.open_cluster

    def with_the_binders(kubeconfig: Path, *arguments: Any, **settings: Any) -> Any:
        own = kubeconfig.name == ADMINISTRATOR
        return opened(own_kubeconfig("binder", kubeconfig) if own else kubeconfig, *arguments, **settings)

    monkeypatch.setattr(executor, "open_cluster", with_the_binders)


@pytest.fixture
async def kubernetes(shared_cluster: Any) -> AsyncIterator[Kubernetes]:
    """As the administrator."""
    async with await Kubernetes.connect(shared_cluster.kubeconfig) as client:
        yield client


@pytest.fixture
async def cluster(shared_cluster: Any, kubernetes: Kubernetes) -> AsyncIterator[Any]:
    """The control plane without pods, nodes, gangs or claims of an earlier test. Tests use namespace `default`."""
    await empty(kubernetes)
    yield shared_cluster
    await empty(kubernetes)


OWNERS = (
    "/apis/batch/v1/namespaces/default/jobs",
    "/apis/apps/v1/namespaces/default/deployments",
    "/apis/apps/v1/namespaces/default/replicasets",
    "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
    "/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups",
    "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims",
    "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates",
    "/apis/resource.k8s.io/v1/resourceslices",
    "/apis/resource.k8s.io/v1/deviceclasses",
    "/apis/resource.k8s.io/v1/devicetaintrules",
)


async def empty(client: Kubernetes, *, nodes: bool = True) -> None:
    """Deletes what tests make, and waits until pods and claims are gone."""
    events, pods = "/api/v1/namespaces/default/events", "/api/v1/namespaces/default/pods"
    for path in (*OWNERS, pods, events, *(["/api/v1/nodes"] if nodes else [])):
        everything = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        while True:
            try:
                await client.request("DELETE", path, body=everything, timeout_seconds=120.0)
                break
            except Unanswered:  # Thousands of objects take longer than the server gives one request; the rest is next.
                continue
    claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
    for path in (pods, claims):
        for _ in range(200):
            left, _version = await client.list(path)
            if not left:
                break
            for one in left:
                if one["metadata"].get("finalizers"):
                    name = one["metadata"]["name"]
                    await client.patch(f"{path}/{name}", {"metadata": {"finalizers": None}})
            await asyncio.sleep(0.05)


def pod(name: str, *, scheduler: str = "berth", **fields: Any) -> dict[str, Any]:
    """A pod manifest. `annotations`, `labels`, `limits` (resources), `run_for` ("2s"), `exit_code`, `owner`; any other
    keyword is a field of the spec."""
    annotations = dict(fields.pop("annotations", {}))
    if run_for := fields.pop("run_for", ""):
        annotations["test.berth.dev/run-for"] = run_for
    if exit_code := fields.pop("exit_code", ""):
        annotations["test.berth.dev/exit-code"] = str(exit_code)
    limits = {key: str(value) for key, value in fields.pop("limits", {}).items()}
    requests = {"cpu": "1", **limits}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations, "labels": fields.pop("labels", {})},
        "spec": {
            "schedulerName": scheduler,
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none", "resources": {"limits": limits, "requests": requests}}],
            **fields,
        },
    }
