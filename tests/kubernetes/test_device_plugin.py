"""`berth device-plugin`, as a process, with a real kubelet: what it lists is what the node has and what a pod gets."""

import asyncio
import base64
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from berth.cli.commands.device_plugin import device_plugin
from berth.device_plugin.reading import parse_text
from berth.kubelet.v1beta1 import device_plugin_pb2 as pb
from berth.kubernetes.client import Kubernetes
from tests.conftest import ROOT

LPU = "groq.com/lpu"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(scope="session")
def kubelet_module(control_plane: ModuleType) -> ModuleType:
    """A machine that refuses namespaces has the stand-in of tests/unit alone, and says so in one line."""
    # It stands on the very module that the cluster is of.
    sys.modules["control_plane"] = control_plane
    spec = importlib.util.spec_from_file_location("berth_kubelet", ROOT / "deploy/controlplane/kubelet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if missing := module.available():
        pytest.skip(f"needs a kubelet: {missing}")
    if not module.built():
        how = "it is not built: `make test` does it, or `python deploy/controlplane/kubelet.py build`"
        if os.environ.get("CI"):
            pytest.fail(f"CI must run with a real kubelet, but {how}", pytrace=False)
        pytest.skip(f"needs a kubelet: {how}")
    return module


@pytest.fixture
async def kubelet(cluster: Any, kubelet_module: ModuleType) -> AsyncIterator[Any]:
    made = kubelet_module.Kubelet(cluster, "real-1", status_seconds=0.5)
    try:
        yield await asyncio.to_thread(made.__enter__)
    finally:
        await asyncio.to_thread(made.close)


@pytest.fixture
def plugin(kubelet: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `berth device-plugin` with these arguments; its log is in tmp_path/plugin.log."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "plugin.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from berth.cli.main import main; main()",
                    "device-plugin",
                    f"--kubelet-dir={kubelet.device_plugins}",
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def write(path: Path, count: int, ill: tuple[int, ...] = ()) -> Path:
    """Devices lpu-0 and on; two make a link group, as 0 and 4, 1 and 5."""
    devices = [
        {
            "id": f"lpu-{number}",
            "health": "unhealthy" if number in ill else "healthy",
            "numa": 0,
            "link": str(number % 4),
            "files": [{"host": "/dev/null", "container": f"/dev/groq{number}"}],
            "environment": {"GROQ_VISIBLE_DEVICES": str(number)},
        }
        for number in range(count)
    ]
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps({"resources": [{"name": LPU, "devices": devices}]}))
    scratch.replace(path)
    return path


async def until(what: Callable[[], Any], expected: Any, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while (seen := await asyncio.to_thread(what)) != expected:
        assert time.monotonic() < end, f"{seen!r} instead of {expected!r} after {seconds:g} s"
        await asyncio.sleep(0.05)


def amounts(kubelet: Any, resource: str = LPU) -> tuple[str | None, str | None]:
    """Of the node on the API server: capacity and allocatable."""
    status = kubelet.node()["status"]
    return status["capacity"].get(resource), status["allocatable"].get(resource)


def lpu_pod(name: str, count: int) -> dict[str, Any]:
    limits = {"limits": {LPU: str(count)}}
    containers = [{"name": "main", "image": "none", "resources": limits}]
    spec = {"nodeName": "real-1", "restartPolicy": "Never", "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def test_from_a_file_to_a_running_pod(
    kubelet: Any, plugin: Callable[..., Any], kubernetes: Kubernetes, tmp_path: Path
) -> None:
    path = tmp_path / "devices.json"
    process = plugin(f"--file={write(path, 8)}")
    await until(lambda: amounts(kubelet), ("8", "8"))

    # A pod gets a link group, and what the file says of its devices.
    pod = await kubernetes.request("POST", PODS, body=lpu_pod("pair", 2))
    await until(lambda: kubelet.cluster.request("GET", f"{PODS}/pair")["status"]["phase"], "Running")
    [entry] = kubelet.checkpoint()["Data"]["PodDeviceEntries"]
    assert (entry["PodUID"], entry["ContainerName"], entry["ResourceName"]) == (pod["metadata"]["uid"], "main", LPU)
    numbers = sorted(int(one.removeprefix("lpu-")) for ids in entry["DeviceIDs"].values() for one in ids)
    assert list(entry["DeviceIDs"]) == ["0"]
    assert numbers == [0, 4]
    given = pb.ContainerAllocateResponse.FromString(base64.b64decode(entry["AllocResp"]))
    assert dict(given.environment) == {"GROQ_VISIBLE_DEVICES": "0,4"}
    assert [(one.host_path, one.container_path, one.permissions) for one in given.device_files] == [
        ("/dev/null", "/dev/groq0", "rw"),
        ("/dev/null", "/dev/groq4", "rw"),
    ]

    # Health goes and comes back; the pod that has the device is told.
    write(path, 8, ill=(4, 5))
    await until(lambda: amounts(kubelet), ("8", "6"))

    def health() -> dict[str, str]:
        status = kubelet.cluster.request("GET", f"{PODS}/pair")["status"]["containerStatuses"][0]
        [resource] = status["allocatedResourcesStatus"]
        return {one["resourceID"]: one["health"] for one in resource["resources"]}

    await until(health, {"lpu-0": "Healthy", "lpu-4": "Unhealthy"})
    path.write_text("resources: [")
    await until(lambda: '"no inventory"' in (tmp_path / "plugin.log").read_text(), True)
    assert amounts(kubelet) == ("8", "6")
    write(path, 8)
    await until(lambda: amounts(kubelet), ("8", "8"))
    await until(health, {"lpu-0": "Healthy", "lpu-4": "Healthy"})

    # What is asked for beyond what is there is refused by the kubelet, and names the resource.
    await kubernetes.request("POST", PODS, body=lpu_pod("greedy", 7))
    await until(lambda: kubelet.cluster.request("GET", f"{PODS}/greedy")["status"]["phase"], "Failed")
    assert LPU in kubelet.cluster.request("GET", f"{PODS}/greedy")["status"]["message"]

    # The end: no device is given any more, and nothing is left behind.
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    await until(lambda: amounts(kubelet), ("8", "0"))
    assert list(kubelet.device_plugins.glob("berth-*")) == []


async def test_a_kubelet_that_starts_anew_is_registered_with_again(
    kubelet: Any, plugin: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "devices.json"
    plugin(f"--file={write(path, 8)}")
    await until(lambda: amounts(kubelet), ("8", "8"))
    # The node object keeps what it had: each time another number proves that the new kubelet knows.
    for count, end in ((9, kubelet.stop), (10, kubelet.kill)):
        await asyncio.to_thread(end)
        write(path, count)
        await asyncio.to_thread(kubelet.start)
        await until(lambda: amounts(kubelet), (str(count), str(count)))
    # Our socket is removed under a kubelet that stays.
    [ours] = kubelet.device_plugins.glob("berth-*.sock")
    ours.unlink()
    await until(lambda: [one != ours for one in kubelet.device_plugins.glob("berth-*.sock")], [True])
    write(path, 11)
    await until(lambda: amounts(kubelet), ("11", "11"))


async def test_a_plugin_that_is_killed_and_one_that_a_command_feeds(
    kubelet: Any, plugin: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "devices.json"
    process = plugin(f"--file={write(path, 8)}")
    await until(lambda: amounts(kubelet), ("8", "8"))
    process.kill()
    process.wait()
    await until(lambda: amounts(kubelet), ("8", "0"))
    plugin(f"--command=cat {path}", "--interval=100ms", "--failures=2")
    await until(lambda: amounts(kubelet), ("8", "8"))
    assert len(list(kubelet.device_plugins.glob("berth-*.sock"))) == 1
    away = path.rename(tmp_path / "away")
    await until(lambda: amounts(kubelet), ("8", "0"))
    assert "No such file" in (tmp_path / "plugin.log").read_text()
    away.rename(path)
    await until(lambda: amounts(kubelet), ("8", "8"))


def test_the_kubelet_is_of_the_control_planes_version() -> None:
    def pinned(module: str) -> set[str]:
        text = (ROOT / f"deploy/controlplane/{module}/go.mod").read_text(encoding="utf-8")
        return set(re.findall(r"\bk8s\.io/kubernetes (v[\d.]+)", text))

    assert pinned("kubelet") == pinned("kubernetes") != set()


async def test_the_manifest_is_accepted_and_its_inventory_is_one(cluster: Any) -> None:
    text = (ROOT / "deploy/kubernetes/device-plugin.yaml").read_text(encoding="utf-8")
    namespace, config, daemons = yaml.safe_load_all(text)
    said = cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(namespace))
    assert said == "namespace/berth-devices created (server dry run)\n"
    # A namespace that a dry run made has no room for the rest.
    moved = yaml.safe_dump_all([{**one, "metadata": {"name": one["metadata"]["name"]}} for one in (config, daemons)])
    said = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=moved)
    assert said.splitlines() == [
        "configmap/groq-lpu created (server dry run)",
        "daemonset.apps/groq-lpu created (server dry run)",
    ]
    [resource] = parse_text(config["data"]["devices.yaml"]).resources
    assert (resource.name, len(resource.devices)) == (LPU, 4)
    # The command line is one that the command takes.
    program, command, *options = daemons["spec"]["template"]["spec"]["containers"][0]["command"]
    assert (program, command) == ("berth", device_plugin.name)
    known = {name for parameter in device_plugin.params for name in parameter.opts}
    assert {option.partition("=")[0] for option in options} <= known
