#!/usr/bin/env python3
"""Builds a real Kubernetes control plane from the Go module proxy once, and runs it on the loopback only.

etcd, kube-apiserver, kube-controller-manager and, where asked for, kube-scheduler; KWOK plays the kubelets. For the
Kubernetes tests and `make kubernetes`; not for production. The standard library only; needs go and openssl.

    with ControlPlane(tmp_path) as cluster:
        cluster.add_nodes(4, prefix="gpu", resources={"nvidia.com/gpu": 8})
        cluster.kubectl("get", "nodes")
        cluster.kill("kube-apiserver")  # SIGKILL
        cluster.start("kube-apiserver")  # the same data, the same port
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

HOST = "127.0.0.1"
START_SECONDS = 120.0
STOP_SECONDS = 15.0
MODULES = {
    "kubernetes": {
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "etcd": "go.etcd.io/etcd/server/v3",
    },
    "kwok": {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
}
HELM_MODULE, HELM_PACKAGE = "helm", "helm.sh/helm/v4/cmd/helm"
FEATURES = "GenericWorkload=true,DRAPartitionableDevices=true"
APIS = "scheduling.k8s.io/v1beta1=true,scheduling.k8s.io/v1alpha3=true"
# Each is a user of this name; RBAC says what it may. `system:masters` may do all.
ADMIN = "berth-admin"

_HERE = Path(__file__).resolve().parent
_GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that wanted this one is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
# The kernel ends a guarded child when the *thread* that started it ends. This one ends only with the process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control-plane-spawner")


class ControlPlaneError(RuntimeError):
    """The control plane could not be built, started or reached."""


# --- building ---


def available() -> str | None:
    """None where a control plane can be built and run here, otherwise one line that says what is missing."""
    if sys.platform != "linux":
        return "the control plane needs Linux"
    if shutil.which("openssl") is None:
        return "openssl is not on the PATH: the API server's keys are made with it"
    if shutil.which("go") is None and not built():
        return f"go is not on the PATH: Kubernetes is built with Go {_required_go()} or newer"
    return None


def kubernetes_version() -> str:
    """The version that go.mod pins, such as v1.37.2."""
    for line in (_HERE / "kubernetes/go.mod").read_text(encoding="utf-8").splitlines():
        words = line.removeprefix("require").split()
        if words[:1] == ["k8s.io/kubernetes"] and len(words) >= 2 and words[1].startswith("v"):
            return words[1]
    raise ControlPlaneError("kubernetes/go.mod requires no k8s.io/kubernetes")


def _required_go() -> str:
    text = (_HERE / "kubernetes/go.mod").read_text(encoding="utf-8")
    return next(line.split()[1] for line in text.splitlines() if line.startswith("go "))


def _names() -> list[str]:
    return [name for programs in MODULES.values() for name in programs]


def _cache() -> Path:
    if root := os.environ.get("BERTH_CACHE"):
        return Path(root).absolute()
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root).absolute() / "berth"
    return Path.home() / ".cache" / "berth"


def _digest(modules: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update((_HERE / module / "go.sum").read_bytes() + (_HERE / module / "go.mod").read_bytes())
    return digest.hexdigest()[:12]


def _programs() -> Path:
    """The folder of the built programs: another one for each change of what they are built from."""
    return _cache() / f"kubernetes-{kubernetes_version()}-{_digest(MODULES)}"


def built() -> bool:
    return all((_programs() / name).exists() for name in _names())


def build() -> Path:
    """The folder of the programs, built first where they are not there: 7 minutes and 1 GB on 2 cores."""
    folder = _programs()
    if built():
        return folder
    if (missing := available()) is not None:
        raise ControlPlaneError(missing)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing_programs = [name for name in _names() if not (folder / name).exists()]
        if missing_programs:
            print(f"building {', '.join(missing_programs)} {kubernetes_version()} (once)", file=sys.stderr)
        for module, programs in MODULES.items():
            for name, package in programs.items():
                if not (folder / name).exists():
                    _go_build(_HERE / module, package, folder / name)
    return folder


def helm() -> Path:
    """Where Helm is once it is built; a folder of its own, so that the control plane is not built again for it."""
    return _cache() / f"helm-{_digest([HELM_MODULE])}" / "helm"


def build_helm() -> Path:
    """Helm, for the tests of the chart: built first where it is not there, in 2 minutes on 2 cores."""
    program = helm()
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            if shutil.which("go") is None:
                raise ControlPlaneError("go is not on the PATH: Helm is built with it")
            print("building helm (once)", file=sys.stderr)
            _go_build(_HERE / HELM_MODULE, HELM_PACKAGE, program)
    return program


def _go_build(module: Path, package: str, target: Path) -> None:
    version = kubernetes_version()
    major, minor = version.removeprefix("v").split(".")[:2]
    stamp = "k8s.io/component-base/version"
    flags = f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(scratch)]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""}
    done = subprocess.run(
        [*command, package], cwd=module, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        scratch.unlink(missing_ok=True)
        said = "\n".join(done.stdout.decode(errors="replace").splitlines()[-20:])
        raise ControlPlaneError(f"go build {package} failed (exit {done.returncode}):\n{said}")
    os.replace(scratch, target)


# --- running ---


def _free_ports(count: int) -> list[int]:
    """Free ports below those that the kernel hands to outgoing connections: a restart finds its own free again."""
    top = 32768
    with contextlib.suppress(OSError, ValueError, IndexError):
        top = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    found: list[int] = []
    while len(found) < count:
        port = 10000 + secrets.randbelow(max(top, 12000) - 10000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class ControlPlane:
    """A cluster of its own in `folder`: free ports, its own keys, nothing left behind.

    `users` are further users with a token each, for `kubeconfig_of`; RBAC alone says what they may. `scheduler`: with
    kube-scheduler; `scheduler_config`: its KubeSchedulerConfiguration without clientConnection, as a dictionary.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: Sequence[str] = (),
        scheduler: bool = False,
        scheduler_config: Mapping[str, Any] | None = None,
        node_grace_seconds: int = 600,
    ) -> None:
        self.folder = folder
        self.programs = build()
        self._tokens = {name: secrets.token_hex(16) for name in (ADMIN, *users)}
        self._scheduler = scheduler
        self._scheduler_config = scheduler_config
        self._grace = node_grace_seconds
        etcd, peer, api, manager, schedule, kwok = _free_ports(6)
        self._ports = {"etcd": etcd, "peer": peer, "kube-apiserver": api}
        self._ports |= {"kube-controller-manager": manager, "kube-scheduler": schedule, "kwok": kwok}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def server(self) -> str:
        return f"https://{HOST}:{self._ports['kube-apiserver']}"

    @property
    def certificate(self) -> Path:
        return self.folder / "keys" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.kubeconfig_of(ADMIN)

    def __enter__(self) -> ControlPlane:
        try:
            self._prepare()
            for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kwok"):
                self.start(name)
            if self._scheduler:
                self.start("kube-scheduler")
            self._await("the namespace's service account", self._has_service_account)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        keys = self.folder / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["openssl", "genrsa", "-out", str(keys / "service-accounts.key"), "2048"], capture_output=True, check=False
        )
        if done.returncode:
            raise ControlPlaneError(f"openssl genrsa failed: {done.stderr.decode(errors='replace')}")
        groups = {ADMIN: '"system:masters"'}
        lines = [f"{token},{name},{name},{groups.get(name, '')}\n" for name, token in self._tokens.items()]
        (keys / "tokens.csv").write_text("".join(lines), encoding="utf-8")
        (keys / "tokens.csv").chmod(0o600)

    def _command(self, name: str) -> list[str]:
        port, keys = self._ports[name], self.folder / "keys"
        program = str(self.programs / name)
        match name:
            case "etcd":
                url, peer = f"http://{HOST}:{port}", f"http://{HOST}:{self._ports['peer']}"
                return [
                    program, "--name=default", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync",
                    f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
                    "--quota-backend-bytes=4294967296", "--log-level=warn",
                ]  # fmt: skip
            case "kube-apiserver":
                return [
                    program, f"--etcd-servers=http://{HOST}:{self._ports['etcd']}", f"--secure-port={port}",
                    f"--bind-address={HOST}", f"--advertise-address={HOST}", f"--cert-dir={keys}",
                    "--service-cluster-ip-range=10.0.0.0/24", f"--token-auth-file={keys / 'tokens.csv'}",
                    "--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={keys / 'service-accounts.key'}",
                    f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
                    "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
                    f"--feature-gates={FEATURES}", f"--runtime-config={APIS}", "--endpoint-reconciler-type=none",
                    "--max-requests-inflight=800", "--max-mutating-requests-inflight=400",
                ]  # fmt: skip
            case "kube-controller-manager":
                return [
                    program, f"--kubeconfig={self.kubeconfig}", f"--secure-port={port}", f"--bind-address={HOST}",
                    f"--service-account-private-key-file={keys / 'service-accounts.key'}", "--leader-elect=false",
                    f"--feature-gates={FEATURES}", f"--node-monitor-grace-period={self._grace}s",
                    "--kube-api-qps=500", "--kube-api-burst=1000", f"--cert-dir={keys / 'manager'}",
                ]  # fmt: skip
            case "kube-scheduler":
                config = {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "leaderElection": {"leaderElect": False},
                    **(self._scheduler_config or {}),
                    "clientConnection": {"kubeconfig": str(self.kubeconfig), "qps": 5000, "burst": 5000},
                }
                path = self.folder / "scheduler.json"
                path.write_text(json.dumps(config), encoding="utf-8")
                return [
                    program, f"--config={path}", f"--secure-port={port}", f"--bind-address={HOST}",
                    f"--feature-gates={FEATURES}", f"--cert-dir={keys / 'scheduler'}",
                ]  # fmt: skip
            case "kwok":
                return [
                    program, f"--kubeconfig={self.kubeconfig}", f"--config={_HERE / 'stages.yaml'}",
                    "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                    f"--node-lease-duration-seconds={max(2, self._grace // 2)}", "--cidr=10.128.0.0/9",
                    "--node-ip=127.0.0.1", f"--server-address={HOST}:{port}", "--v=WARN",
                ]  # fmt: skip
        raise ControlPlaneError(f"no such program: {name}")

    def start(self, name: str) -> None:
        """Starts a program, as after a crash, and waits until it answers."""
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        guarded = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *self._command(name)]

        def spawn() -> subprocess.Popen[bytes]:
            with log.open("ab") as out:
                return subprocess.Popen(
                    guarded, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
                )

        self._processes[name] = _spawner.submit(spawn).result()
        self._await(name, lambda: self._answers(name))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str = "") -> None:
        """Ends one program, or all, in order."""
        for one in [name] if name else ["kube-scheduler", "kwok", "kube-controller-manager", "kube-apiserver", "etcd"]:
            process = self._processes.pop(one, None)
            if process is None or process.poll() is not None:
                continue
            # An API server lingers over its watches; at the end of all nothing is lost by a kill.
            process.send_signal(signal.SIGTERM if name else signal.SIGKILL)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def _await(self, what: str, ready: Any) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            dead = [name for name, process in self._processes.items() if process.poll() is not None]
            if dead:
                said = "\n".join(self.log(dead[0]).read_text(errors="replace").splitlines()[-15:])
                raise ControlPlaneError(f"{dead[0]} ended:\n{said}")
            if ready():
                return
            time.sleep(0.1)
        raise ControlPlaneError(f"{what} was not ready in {START_SECONDS:g} s; its log is in {self.folder / 'logs'}")

    def _answers(self, name: str) -> bool:
        port = self._ports[name]
        match name:
            case "etcd":
                return _healthy(f"http://{HOST}:{port}/health")
            case "kube-apiserver":
                return self.certificate.exists() and _healthy(
                    f"{self.server}/readyz", self.certificate, self._tokens[ADMIN]
                )
            case "kwok":
                return _healthy(f"http://{HOST}:{port}/healthz")
        return _healthy(f"https://{HOST}:{port}/healthz", insecure=True)

    def _has_service_account(self) -> bool:
        try:
            self.request("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        except ControlPlaneError:
            return False
        return True

    # --- use ---

    def kubeconfig_of(self, user: str, *, server: str = "") -> Path:
        """A kubeconfig file of that user; `server`: another address, such as a proxy's."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "berth",
                    "cluster": {"server": server or self.server, "certificate-authority": str(self.certificate)},
                }
            ],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": user, "context": {"cluster": "berth", "user": user}}],
            "current-context": user,
        }
        name = (
            f"{user}.kubeconfig"
            if not server
            else f"{user}-{hashlib.sha256(server.encode()).hexdigest()[:8]}.kubeconfig"
        )
        path = self.folder / name
        text = json.dumps(document)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
        return path

    def kubectl(self, *arguments: str, stdin: str = "", user: str = ADMIN) -> str:
        """What kubectl prints. Raises ControlPlaneError with what it says where it fails."""
        done = subprocess.run(
            [str(self.programs / "kubectl"), f"--kubeconfig={self.kubeconfig_of(user)}", *arguments],
            input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ControlPlaneError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def request(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> Any:
        """One request as the administrator; gives the answer's document."""
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._tokens[ADMIN]}", "Content-Type": content_type},
        )
        try:
            with urllib.request.urlopen(request, context=_trusting(self.certificate), timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ControlPlaneError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise ControlPlaneError(f"{method} {path}: {error}") from error

    def add_nodes(
        self,
        count: int,
        *,
        prefix: str = "node",
        resources: Mapping[str, int | str] | None = None,
        labels: Mapping[str, str] | None = None,
        racks: int = 0,
    ) -> list[str]:
        """Simulated nodes `<prefix>-0` and on. `racks`: so many labels topology.berth.dev/rack, in blocks."""
        names = [f"{prefix}-{number}" for number in range(count)]
        width = -(-count // racks) if racks else 0

        def add(number: int) -> None:
            own = {"kubernetes.io/hostname": names[number], **(labels or {})}
            if racks:
                own["topology.berth.dev/rack"] = f"{prefix}-r{number // width}"
            self.request("POST", "/api/v1/nodes", node_manifest(names[number], resources or {}, own))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(count)))
        return names


def node_manifest(name: str, resources: Mapping[str, int | str], labels: Mapping[str, str]) -> dict[str, Any]:
    """A node that KWOK keeps alive."""
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "250", **{key: str(value) for key, value in resources.items()}}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels), "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {"allocatable": amounts, "capacity": amounts},
    }


def _trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    # The API server's own certificate is no certificate authority by the strict reading.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _healthy(url: str, certificate: Path | None = None, token: str = "", *, insecure: bool = False) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        # Inside: the API server's certificate is there before it is written.
        context = _trusting(certificate) if certificate is not None else None
        if insecure:
            context = ssl._create_unverified_context()
        with urllib.request.urlopen(request, context=context, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="berth-kubernetes-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(nodes: int, scheduler: bool) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with temporary() as folder, ControlPlane(folder, scheduler=scheduler) as cluster:
        labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
        cluster.add_nodes(nodes, prefix="gpu", resources={"nvidia.com/gpu": 8}, labels=labels, racks=max(1, nodes // 8))
        print(f"Kubernetes {kubernetes_version()} with {nodes} simulated nodes. Ctrl-C ends it.\n")
        print(f"  export KUBECONFIG={cluster.kubeconfig}")
        print(f"  export PATH={cluster.programs}:$PATH      # kubectl of the same version", flush=True)
        ended.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="build the programs, where they are not there, and print their folder")
    making.add_argument("--where-possible", action="store_true", help="a machine that cannot build is no failure")
    run = commands.add_parser("run", help="run a cluster until Ctrl-C")
    run.add_argument("--nodes", type=int, default=16, help="simulated nodes with 8 devices each (default: 16)")
    run.add_argument("--scheduler", action="store_true", help="with kube-scheduler too")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "build":
            if chosen.where_possible and (missing := available()) is not None:
                print(f"control plane: not built: {missing}", file=sys.stderr)
            else:
                print(build())
                build_helm()
        else:
            _run(chosen.nodes, chosen.scheduler)
    except ControlPlaneError as error:
        print(f"control plane: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
