#!/usr/bin/env python3
"""A real kubelet for tests, on a container runtime that runs nothing, beside a control plane of control_plane.py.

For the device-plugin tests. Built once, like the rest. It runs in a user and a mount namespace of its own: its
/var/lib is a folder of the test, and the kernel's settings, which a kubelet changes otherwise, are read-only to it.
Containers "run" at once and for ever: the runtime is the fake that Kubernetes' own tests use.

    with ControlPlane(tmp_path) as cluster, Kubelet(cluster, "real-1") as kubelet:
        kubelet.device_plugins  # the folder of kubelet.sock
        kubelet.kill()  # SIGKILL
        kubelet.start()
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))
import control_plane as _control_plane  # noqa: E402

PROGRAMS = {"kubelet": "k8s.io/kubernetes/cmd/kubelet", "containerless": "./containerless"}
START_SECONDS = 60.0
_NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]
# Mounts end with the process. A namespace that others share keeps what it has: hence read-only, and nothing unmounted.
_ENTER = """
mount --rbind "$0" /var/lib
mount --rbind /proc/sys /proc/sys
mount -o remount,bind,ro,nosuid,nodev,noexec /proc/sys
exec "$@"
"""


def available() -> str | None:
    """None where a kubelet can be built and run here, otherwise one line that says what is missing."""
    if (missing := _control_plane.available()) is not None:
        return str(missing)
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is not on the PATH: the kubelet runs in namespaces of its own"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            [*_NAMESPACES, "sh", "-ec", _ENTER, folder, "true"], capture_output=True, text=True, check=False
        )
    if tried.returncode:
        said = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"the kubelet needs user and mount namespaces, and this machine refuses them: {said}"
    if shutil.which("go") is None and not built():
        return "go is not on the PATH: the kubelet is built with it"
    return None


def _programs() -> Path:
    digest = hashlib.sha256()
    for path in (_HERE / "kubelet/go.mod", _HERE / "kubelet/go.sum", _HERE / "kubelet/containerless/main.go"):
        digest.update(path.read_bytes())
    beside: Path = _control_plane._programs()
    return beside.with_name(f"kubelet-{_control_plane.kubernetes_version()}-{digest.hexdigest()[:12]}")


def built() -> bool:
    return all((_programs() / name).exists() for name in PROGRAMS)


def build() -> Path:
    """The folder of the programs, built first where they are not there: 3 to 5 minutes and 110 MB on 2 cores."""
    folder = _programs()
    if built():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, package in PROGRAMS.items():
            if not (folder / name).exists():
                print(f"building {name} (once)", file=sys.stderr)
                _control_plane._go_build(_HERE / "kubelet", package, folder / name)
    return folder


class Kubelet:
    """A node of `cluster` (a ControlPlane) with a real kubelet. Nothing of it is left behind."""

    def __init__(self, cluster: Any, name: str, *, status_seconds: float = 1.0) -> None:
        self.cluster = cluster
        self.name = name
        self.programs = build()
        # A socket's path has at most 107 characters: folders of tests are too deep for some.
        self.folder = Path(tempfile.mkdtemp(prefix="berth-kubelet-"))
        self._status_seconds = status_seconds
        self._ports = _control_plane._free_ports(2)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def device_plugins(self) -> Path:
        """What the kubelet sees as /var/lib/kubelet/device-plugins."""
        return self.folder / "lib/kubelet/device-plugins"

    def __enter__(self) -> Kubelet:
        try:
            self.device_plugins.mkdir(parents=True)
            self._spawn("containerless", [str(self.programs / "containerless"), self._runtime])
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _runtime(self) -> str:
        return f"unix://{self.folder / 'runtime.sock'}"

    def start(self) -> None:
        """Starts the kubelet, as after a crash, and waits until its node is ready."""
        config = self.folder / "kubelet.json"
        config.write_text(json.dumps(self._config()), encoding="utf-8")
        kubelet = [
            str(self.programs / "kubelet"), f"--config={config}", f"--kubeconfig={self.cluster.kubeconfig}",
            f"--root-dir={self.folder / 'root'}", f"--cert-dir={self.folder / 'keys'}",
            f"--hostname-override={self.name}", "--v=2",
        ]  # fmt: skip
        self._spawn("kubelet", [*_NAMESPACES, "sh", "-ec", _ENTER, str(self.folder / "lib"), *kubelet])
        until = time.monotonic() + START_SECONDS
        while not (self._healthy() and self._ready()):
            for name, process in self._processes.items():
                if process.poll() is not None:
                    said = "\n".join(self.log(name).read_text(errors="replace").splitlines()[-15:])
                    raise _control_plane.ControlPlaneError(f"{name} ended with {process.returncode}:\n{said}")
            if time.monotonic() > until:
                raise _control_plane.ControlPlaneError(f"the node {self.name} was not ready in {START_SECONDS:g} s")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL: the socket stays, and nobody listens on it."""
        process = self._processes.pop("kubelet")
        process.kill()
        process.wait()

    def stop(self) -> None:
        """SIGTERM."""
        process = self._processes.pop("kubelet")
        process.terminate()
        process.wait(START_SECONDS)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, name: str = "kubelet") -> Path:
        return self.folder / f"{name}.log"

    def node(self) -> Any:
        return self.cluster.request("GET", f"/api/v1/nodes/{self.name}")

    def checkpoint(self) -> Any:
        """What the kubelet's device manager wrote down: which devices which container has, and what it was told."""
        return json.loads((self.device_plugins / "kubelet_internal_checkpoint").read_text(encoding="utf-8"))

    def _config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": self._runtime,
            "featureGates": {"KubeletInUserNamespace": True},
            # No control group is touched.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "address": _control_plane.HOST,
            "port": self._ports[0],
            "healthzBindAddress": _control_plane.HOST,
            "healthzPort": self._ports[1],
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "podLogsDir": str(self.folder / "logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "nodeStatusUpdateFrequency": f"{self._status_seconds:g}s",
            "syncFrequency": "1s",
            # The machine is shared: what others use is no reason to evict.
            "evictionHard": {"memory.available": "1Mi"},
            "imageGCHighThresholdPercent": 100,
        }

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        guarded = [sys.executable, "-I", "-S", "-c", _control_plane._GUARD, str(os.getpid())]
        path = shutil.which(command[0])
        assert path is not None

        def spawn() -> subprocess.Popen[bytes]:
            with self.log(name).open("ab") as out:
                return subprocess.Popen(
                    [*guarded, path, *command[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )

        self._processes[name] = _control_plane._spawner.submit(spawn).result()

    def _healthy(self) -> bool:
        return bool(_control_plane._healthy(f"http://{_control_plane.HOST}:{self._ports[1]}/healthz"))

    def _ready(self) -> bool:
        try:
            conditions = self.node()["status"].get("conditions", ())
        except _control_plane.ControlPlaneError:
            return False
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="build the programs, where they are not there, and print their folder")
    making.add_argument("--where-possible", action="store_true", help="a machine that cannot build is no failure")
    chosen = parser.parse_args(arguments)
    try:
        if (missing := available()) is not None:
            print(f"kubelet: not built: {missing}", file=sys.stderr)
            return 0 if chosen.where_possible else 1
        print(build())
    except _control_plane.ControlPlaneError as error:
        print(f"kubelet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
