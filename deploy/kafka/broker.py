#!/usr/bin/env python3
"""Fetches Apache Kafka's Maven artefacts once and runs a single KRaft node from them, on the loopback only.

For the integration tests and `make kafka`; not for production. The standard library only.

    with Broker(tmp_path) as broker:
        connect(broker.bootstrap)
        broker.kill()  # SIGKILL
        broker.restart()  # the same data, the same ports
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType

HOST = "127.0.0.1"
MIN_JAVA = 17
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
# A node's data carries its cluster's id. One fixed id is enough: these nodes never meet.
CLUSTER_ID = "YmVydGgtdGVzdC1rYWZrYQ"

_POM = Path(__file__).resolve().with_name("pom.xml")
_STARTED = b"Kafka Server started"
_STAMP = ".pom-sha256"
_JVM_FLAGS = (
    "-Xmx512m",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    # The one INFO line that is waited for comes from here.
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)
# Runs in the new process before Java does: asks the kernel to end it with the process that started it, then
# becomes Java (the process id stays). A preexec_fn could do it too, but that runs Python between fork and
# exec, which can deadlock in a process with threads (gRPC's, say).
_GUARD = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
except (AttributeError, OSError, TypeError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that wanted this broker is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class BrokerError(RuntimeError):
    """Kafka could not be fetched, started or reached."""


# --- what is on this machine ---


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    if home and (found := shutil.which("java", path=str(Path(home) / "bin"))):
        return found
    return shutil.which("java")


@functools.lru_cache(maxsize=4)
def _java_banner(java: str) -> str:
    """What `java -version` says, on one or more lines; empty where it does not run."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stderr if done.returncode == 0 else ""


def _java_major(banner: str) -> int:
    match = re.search(r'version "(\d+)(?:\.(\d+))?', banner)
    if match is None:
        return 0
    major = int(match[1])
    return int(match[2] or 0) if major == 1 else major


def available() -> str | None:
    """None where a broker can be fetched and run here, otherwise one line that says what is missing."""
    java = _java()
    if java is None:
        return f"java is not on the PATH: Kafka needs Java {MIN_JAVA} or newer"
    major = _java_major(_java_banner(java))
    if major < MIN_JAVA:
        return f"{java} is Java {major or 'of an unknown version'}: Kafka needs Java {MIN_JAVA} or newer"
    if shutil.which("mvn") is None and not _fetched(_lib()):
        return "mvn is not on the PATH: Kafka is fetched with Maven"
    return None


# --- fetching ---


@functools.cache
def kafka_version() -> str:
    """The version that pom.xml pins."""
    node = ET.parse(_POM).find("{*}properties/{*}kafka.version")
    if node is None or not node.text:
        raise BrokerError(f"{_POM} has no property kafka.version")
    return node.text.strip()


def _home() -> Path:
    if root := os.environ.get("BERTH_CACHE"):
        base = Path(root)
    elif root := os.environ.get("XDG_CACHE_HOME"):
        base = Path(root) / "berth"
    else:
        base = Path.home() / ".cache" / "berth"
    return base.absolute() / f"kafka-{kafka_version()}"


def _lib() -> Path:
    return _home() / "lib"


def _pom_digest() -> str:
    return hashlib.sha256(_POM.read_bytes()).hexdigest()


def _fetched(lib: Path) -> bool:
    try:
        return (lib / _STAMP).read_text(encoding="ascii") == _pom_digest()
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, where the platform has flock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        try:
            import fcntl
        except ImportError:
            yield
            return
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch() -> Path:
    """The folder of Kafka's jars, fetched first where they are not there (or pom.xml has changed since).

    The folder is filled under another name and then renamed, so an interrupted fetch leaves nothing that
    looks complete. The first fetch also records a class data archive, which makes every later start faster.
    """
    lib = _lib()
    if not (_fetched(lib) and _archive_settled(lib)):
        if (missing := available()) is not None:
            raise BrokerError(missing)
        with _locked(lib.parent / ".lock"):
            for leftover in (*lib.parent.glob(".fetch-*"), *lib.parent.glob(".cds-*")):
                shutil.rmtree(leftover, ignore_errors=True)
            if not _fetched(lib):
                _fetch_into(lib)
            if not _archive_settled(lib):
                _record_archive(lib)
    return lib


def _fetch_into(lib: Path) -> None:
    mvn = shutil.which("mvn")
    if mvn is None:
        raise BrokerError("mvn is not on the PATH: Kafka is fetched with Maven")
    scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=lib.parent))
    try:
        fresh = scratch / "lib"
        command = [mvn, "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
        command += [f"-DoutputDirectory={fresh}", "-DincludeScope=runtime"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode != 0:
            said = "\n".join(done.stdout.decode(errors="replace").splitlines()[-20:])
            what = f"Maven could not fetch Kafka {kafka_version()} (exit {done.returncode})"
            raise BrokerError(f"{what}:\n{said}")
        if not any(fresh.glob("kafka_*.jar")):
            raise BrokerError(f"Maven ended well but brought no Kafka {kafka_version()} jar")
        (fresh / _STAMP).write_text(_pom_digest(), encoding="ascii")
        if lib.exists():
            lib.rename(scratch / "old")
        fresh.rename(lib)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# --- class data sharing ---


def _archive(lib: Path) -> Path:
    """Where the class data archive for this Java and these jars is, or would be."""
    java = _java() or ""
    key = hashlib.sha256(f"{java}\n{_java_banner(java)}\n{lib}\n{_pom_digest()}".encode()).hexdigest()[:12]
    return lib.parent / f"classes-{key}.jsa"


def _archive_settled(lib: Path) -> bool:
    """There, or tried in vain: an empty file says that this Java would not make one."""
    return _archive(lib).exists()


def _record_archive(lib: Path) -> None:
    """Runs a broker once and keeps what its JVM loaded. It only saves time, so a failure is no error."""
    archive = _archive(lib)
    with tempfile.TemporaryDirectory(prefix=".cds-", dir=lib.parent) as scratch:
        fresh = Path(scratch) / "classes.jsa"
        flags = [f"-XX:ArchiveClassesAtExit={fresh}"]
        try:
            with Broker(Path(scratch) / "data", jvm_flags=flags, _lib=lib) as broker:
                broker.stop(timeout=60.0)
        except BrokerError:
            return  # The caller's own start will say why, or go well; the next fetch tries this again.
        fresh.touch()
        os.replace(fresh, archive)


# --- processes ---

# The kernel ends a guarded child when the *thread* that started it ends. This one ends only with the process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka-spawner")


def _spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    guarded = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    return _spawner.submit(start).result()


def _ephemeral_floor() -> int:
    try:
        floor = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    return floor if floor > 12000 else 32768


def _free_ports(count: int, taken: Sequence[int] = ()) -> list[int]:
    """Free ports below those that the kernel hands to outgoing connections.

    A client that keeps dialling a stopped broker's port from that same range can be given the port itself,
    and then holds it (a TCP connection to itself): the restarted broker could not bind.
    """
    top = _ephemeral_floor()
    found: list[int] = []
    for port in random.SystemRandom().sample(range(10000, top), k=top - 10000):
        if port in taken or not _bindable(port):
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise BrokerError("no free loopback port")


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise ConnectionError("closed early")
        data += chunk
    return data


def _answers(port: int) -> bool:
    """Whether a Kafka broker answers an ApiVersions request (version 0) there."""
    client = b"berth-probe"
    request = struct.pack(f">hhih{len(client)}s", 18, 0, 7, len(client), client)
    try:
        with socket.create_connection((HOST, port), timeout=2.0) as sock:
            sock.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", _read_exactly(sock, 4))
            if not 6 <= size <= 1 << 20:
                return False
            correlation, error = struct.unpack(">ih", _read_exactly(sock, size)[:6])
            return bool(correlation == 7 and error == 0)
    except OSError:
        return False


# --- the broker ---


class Broker:
    """One KRaft node, broker and controller in one JVM, on 127.0.0.1.

    `data_dir` is made where it is missing, and kept: a second Broker on it finds the first one's topics.
    Left out, `port` is a free one. `settings` adds to or replaces lines of server.properties, `jvm_flags`
    adds JVM flags. The calls block: from a coroutine, use asyncio.to_thread.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        jvm_flags: Sequence[str] = (),
        _lib: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        if port is None:
            self.port, self.controller_port = _free_ports(2)
        else:
            self.port, (self.controller_port,) = port, _free_ports(1, taken=[port])
        self._settings = dict(settings or {})
        self._jvm_flags = list(jvm_flags)
        self._lib = _lib
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def bootstrap(self) -> str:
        """What a client is given: HOST:PORT."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The JVM's output: warnings, errors and the lines of start and stop."""
        return self.data_dir / "kafka.log"

    @property
    def pid(self) -> int | None:
        """The JVM's process id, None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout: float = START_TIMEOUT_S) -> Broker:
        """Formats the storage if that is still to do, starts the JVM, returns once the broker answers."""
        if self.running:
            return self
        deadline = time.monotonic() + timeout
        if self._lib is None:
            self._lib = fetch()
            deadline = time.monotonic() + timeout
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        properties = self._write_properties()
        if not (self.data_dir / "data" / "meta.properties").exists():
            self._format(properties, deadline)
        if not _bindable(self.port):
            raise BrokerError(f"port {self.port} of {HOST} is taken")
        self._process = _spawn(self._command("kafka.Kafka", [str(properties)]), self.log)
        try:
            self._await_start(deadline)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """Ends the JVM in good order, or by SIGKILL where it takes longer than that."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Ends the JVM with SIGKILL, as a crash would."""
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait()
        self._process = None

    def restart(self, timeout: float = START_TIMEOUT_S) -> Broker:
        """Starts again on the same data and ports, after an orderly stop where it still runs."""
        self.stop()
        return self.start(timeout)

    def _command(self, main: str, arguments: Sequence[str], extra: Sequence[str] | None = None) -> list[str]:
        java = _java()
        if java is None or self._lib is None:
            raise BrokerError(available() or "Kafka's jars are not there")
        flags = list(_JVM_FLAGS)
        archive = _archive(self._lib)
        if archive.exists() and archive.stat().st_size > 0:
            flags.append(f"-XX:SharedArchiveFile={archive}")
        flags += self._jvm_flags if extra is None else extra
        # In one order always, and no wildcard: a class data archive fits one class path only.
        classpath = os.pathsep.join(str(jar) for jar in sorted(self._lib.glob("*.jar")))
        return [java, *flags, "-cp", classpath, main, *arguments]

    def _format(self, properties: Path, deadline: float) -> None:
        arguments = ["format", "--cluster-id", CLUSTER_ID, "--config", str(properties), "--ignore-formatted"]
        process = _spawn(self._command("kafka.tools.StorageTool", arguments, extra=()), self.log)
        try:
            code = process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise BrokerError(f"formatting Kafka's storage took too long\n{self._tail()}") from None
        finally:
            process.kill()
            process.wait()
        if code != 0:
            raise BrokerError(f"formatting Kafka's storage failed (exit {code})\n{self._tail()}")

    def _await_start(self, deadline: float) -> None:
        process = self._process
        assert process is not None
        started = False
        while True:
            # The line says that it is this JVM, and the answer that it serves.
            if not started:
                with self.log.open("rb") as handle:
                    handle.seek(self._log_start)
                    started = _STARTED in handle.read()
            if started and _answers(self.port):
                return
            if (code := process.poll()) is not None:
                raise BrokerError(f"Kafka ended while it started (exit {code})\n{self._tail()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"Kafka did not answer on {self.bootstrap} in time\n{self._tail()}")
            time.sleep(0.05)

    def _tail(self, lines: int = 30) -> str:
        try:
            with self.log.open("rb") as handle:
                handle.seek(max(self._log_start, self.log.stat().st_size - 64 * 1024))
                text = handle.read().decode(errors="replace")
        except OSError:
            text = ""
        # Without the stack frames, which would push the messages themselves out of the tail.
        said = [line for line in text.splitlines() if not line.startswith(("\tat ", "\t... "))]
        return f"the end of {self.log} (stack frames left out):\n" + "\n".join(said[-lines:])

    def _write_properties(self) -> Path:
        broker = f"PLAINTEXT://{HOST}:{self.port}"
        controller = f"{HOST}:{self.controller_port}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            # A fixed quorum of one, not a recorded one: the controller's port may differ from run to run.
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listeners": f"{broker},CONTROLLER://{controller}",
            "advertised.listeners": broker,
            "log.dirs": str(self.data_dir / "data"),
            "auto.create.topics.enable": "true",
            "num.partitions": "4",
            "default.replication.factor": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            # Lets a test ask for a short session; the clients' own default stays what it is.
            "group.min.session.timeout.ms": "1000",
            # After a kill the restarted node may register only once its old session is over (default: 9 s).
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "300",
            # Few threads and small buffers.
            "num.network.threads": "2",
            "num.io.threads": "4",
            "background.threads": "2",
            "num.recovery.threads.per.data.dir": "1",
            "num.replica.fetchers": "1",
            "log.cleaner.enable": "true",
            "log.cleaner.threads": "1",
            "log.cleaner.dedupe.buffer.size": "16777216",
            "log.index.size.max.bytes": "1048576",
            "auto.leader.rebalance.enable": "false",
        }
        settings.update(self._settings)
        path = self.data_dir / "server.properties"
        path.write_text("".join(f"{k}={_escaped(v)}\n" for k, v in settings.items()), encoding="latin-1")
        return path


def _escaped(value: str) -> str:
    """A value as a Java properties file has it."""
    plain = value.replace("\\", "\\\\").replace("\n", "\\n")
    units = plain.encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(chr(code) if code < 0x7F else f"\\u{code:04x}" for code in codes)


# --- the command line ---


def _run(port: int, data: Path | None) -> int:
    stopping = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            return
        stopping.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    with contextlib.ExitStack() as stack:
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="berth-kafka-")))
        try:
            fetch()
            began = time.monotonic()
            with Broker(data, port) as broker:
                took = time.monotonic() - began
                where = f"{broker.bootstrap}, log {broker.log}"
                print(f"Kafka {kafka_version()} serves on {where}; started in {took:.1f} s", flush=True)
                while broker.running:
                    time.sleep(0.2)
                print(f"Kafka ended by itself; {broker._tail()}", file=sys.stderr)
                return 1
        except KeyboardInterrupt:
            print("stopped", flush=True)
            return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="broker.py", description="One Kafka node, on the loopback.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run in the foreground until Ctrl-C")
    run.add_argument("--port", type=int, default=9092)
    run.add_argument("--data", type=Path, help="keep the data here (left out: a temporary folder)")
    commands.add_parser("fetch", help="fetch the jars and print their folder")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "fetch":
            print(fetch())
            return 0
        return _run(chosen.port, chosen.data)
    except BrokerError as error:
        print(f"broker.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
