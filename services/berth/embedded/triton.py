"""A real NVIDIA Triton server on this machine, from the wheel of nvidia-pytriton: the server and its Python backend.

The wheel is fetched once, by pip and with its hash, into the user's cache; none of its Python is imported, for its own
requirements would bind ours. The server listens on the loopback only and starts with no model: models come through
its repository API (`--model-control-mode=explicit`).

The Python backend's process ignores PYTHONPATH. A `model.py` that needs numpy or jax therefore puts the folders named
in the environment variable BERTH_TRITON_PYTHONPATH in front of `sys.path` first; `start` sets it to this interpreter's.
"""

import asyncio
import fcntl
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from pathlib import Path

from berth.embedded.process import Child, end_all, free_port, spawn
from berth.embedded.triton_leftovers import Leftovers

__all__ = ["PYTHONPATH", "TritonServer", "fetch", "unavailable"]

PYTHONPATH = "BERTH_TRITON_PYTHONPATH"
LOCK = Path(__file__).with_name("triton-requirements.lock")
STUBS = "pytriton/tritonserver/python_backend_stubs"
START_SECONDS = 60.0
_INHERITED = frozenset({"PATH", "HOME", "LANG", "TZ", "GPU_DEVICE_ORDINAL"})
_INHERITED_BEGINNINGS = ("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "TPU_", "JAX_", "XLA_", "OMP_")


def inherited(name: str) -> bool:
    """Whether the server gets this variable of our environment. It runs tenants' code: keys and tokens stay here."""
    return name in _INHERITED or name.startswith(_INHERITED_BEGINNINGS)


def _cache() -> Path:
    if explicit := os.environ.get("BERTH_CACHE"):
        return Path(explicit)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "berth"


def _folder() -> Path:
    version = LOCK.read_text(encoding="utf-8").split("==")[1].split()[0]
    return _cache() / f"triton-{version}-py{sys.version_info.major}.{sys.version_info.minor}"


def unavailable() -> str | None:
    """None where the server can run here, otherwise one line that says what is missing. Fetches nothing."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"Triton's wheel is for Linux on x86_64 or aarch64, not {sys.platform} on {platform.machine()}"
    if _libpython() is None:
        return (
            "the shared libpython of this Python is missing, and Triton's Python backend needs it: "
            f"install libpython{sys.version_info.major}.{sys.version_info.minor} (Debian), or a Python built with it"
        )
    return None


def _libpython() -> Path | None:
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}", "/usr/lib64", "/usr/local/lib"]
    return next((Path(folder) for folder in folders if folder and (Path(folder) / name).exists()), None)


def fetch() -> Path:
    """The folder with the server, fetched where it is not there yet. Blocks. Raises RuntimeError."""
    problem = unavailable()
    if problem is not None:
        raise RuntimeError(problem)
    folder = _folder()
    if (folder / "backends").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if (folder / "backends").exists():
            return folder
        # Renamed when whole: what was interrupted leaves nothing that looks like a server.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as temporary:
            fresh = Path(temporary) / "server"
            _install(fresh)
            fresh.rename(folder)
    return folder


def _install(fresh: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-compile", "--require-hashes", "--target", str(fresh), "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"Triton's server could not be fetched:\n{done.stderr.strip()[-2000:]}")
    stub = fresh / STUBS / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
    if not stub.exists():
        raise RuntimeError(f"Triton's wheel has no Python backend for Python {sys.version.split()[0]}")
    shutil.copy(stub, fresh / "pytriton/tritonserver/backends/python" / stub.name)
    for part in ("pytriton/tritonserver/backends/python", "pytriton/tritonserver/bin"):
        for file in (fresh / part).iterdir():
            file.chmod(file.stat().st_mode | 0o755)
    (fresh / "backends").symlink_to("pytriton/tritonserver/backends")


class TritonServer:
    """One server on free loopback ports, those of the last time if they can be, its files below `folder`.

    `stop` ends it; so does this process's own end.

    `address` is where its HTTP API answers, `metrics` the page of its metrics.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._leftovers = Leftovers(self._folder)
        self.child: Child | None = None
        self.address = ""
        self.metrics = ""

    async def start(self) -> str:
        """Fetches it where need be, starts it, waits until it is ready, gives its address. Raises RuntimeError."""
        try:
            await self._spawn()
        except OSError as error:
            raise RuntimeError(f"Triton could not be started: {error}") from error
        await self._wait()
        return self.address

    async def _spawn(self) -> None:
        home = await asyncio.to_thread(fetch)
        (self._folder / "models").mkdir(parents=True, exist_ok=True)
        # Of the last one, which may have been killed.
        await asyncio.to_thread(self._leftovers.sweep)
        if not self.address:
            port, metrics_port = self._ports()
            self.address = f"http://127.0.0.1:{port}"
            self.metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        libraries = [str(home / "nvidia_pytriton.libs"), str(_libpython())]
        argv = [
            str(home / "pytriton/tritonserver/bin/tritonserver"),
            f"--model-repository={self._folder / 'models'}",
            f"--backend-directory={home / 'backends'}",
            "--model-control-mode=explicit",
            "--http-address=127.0.0.1",
            f"--http-port={self.address.rsplit(':', 1)[1]}",
            "--allow-grpc=false",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self.metrics.rsplit(':', 1)[1].split('/')[0]}",
            "--metrics-config=summary_latencies=true",
            "--exit-timeout-secs=5",
        ]
        self.child = spawn(
            "triton",
            argv,
            log=self._folder / "server.log",
            environment={
                "LD_LIBRARY_PATH": ":".join(libraries),
                PYTHONPATH: ":".join(dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))),
                **self._leftovers.environment(),
            },
            inherit=inherited,
            folder=self._folder,
        )

    def _ports(self) -> tuple[int, int]:
        """Those of the last time where they are free: who serves models here is known by its address."""
        file = self._folder / "ports"
        try:
            ports = [int(word) for word in file.read_text(encoding="utf-8").split()]
        except (OSError, ValueError):
            ports = []
        if len(ports) != 2 or not all(_is_free(port) for port in ports):
            ports = [free_port(), free_port()]
            file.write_text(f"{ports[0]} {ports[1]}\n", encoding="utf-8")
        return ports[0], ports[1]

    async def _wait(self) -> None:
        assert self.child is not None
        for _ in range(int(START_SECONDS / 0.1)):
            if not self.child.running():
                raise RuntimeError(f"Triton ended while it started:\n{self.child.last_lines()}")
            # Its metrics have a port of their own, opened later.
            if await asyncio.to_thread(_answers, f"{self.address}/v2/health/ready") and await asyncio.to_thread(
                _answers, self.metrics
            ):
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"Triton did not answer within {START_SECONDS:g} s:\n{self.child.last_lines()}")

    def stop(self, *, grace_seconds: float = 8.0) -> None:
        """Ends it, and removes what it left. Blocks."""
        if self.child is None:
            return
        try:
            self.note()
        finally:
            end_all([self.child], grace_seconds=grace_seconds)
            self._leftovers.sweep()

    def note(self) -> None:
        """Remembers what it would leave if it were killed now. Call it now and then while it runs."""
        # Of a process that has ended and was waited for, the number may be somebody else's.
        if self.child is not None and self.child.running():
            self._leftovers.note(self.child.pid)

    def kill(self) -> None:
        """SIGKILL, as a crash; `start` brings it back on the same ports, without its models."""
        assert self.child is not None
        self.note()
        self.child.popen.kill()
        self.child.popen.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: a connection of the last one that lingers does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
