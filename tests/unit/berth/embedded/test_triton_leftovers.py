"""What a Triton server leaves, with processes that look like one's: bash under its name."""

import asyncio
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from berth.embedded.process import Child, end_all, spawn
from berth.embedded.triton import TritonServer
from berth.embedded.triton_leftovers import GONE_SECONDS, MARK, STUB, Leftovers

SERVER = f'(exec -a /x/{STUB} bash "$1" "$2") & wait'
PARENT = 'exec -a /x/{name} bash "$@"'


@dataclass
class Left:
    """A running server with one process of a model, and the places that it would leave."""

    child: Child
    stub: psutil.Process
    folder: Path
    region: Path


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Callable[..., Left]]:
    made: list[Left] = []

    def make(state: Path, *, name: str = "tritonserver") -> Left:
        folder = Path(f"/tmp/folder{secrets.token_hex(3)}")
        folder.mkdir()
        region = Path(f"/dev/shm/triton_python_backend_shm_region_{uuid4()}")
        region.touch()
        os.mkfifo(folder / "never")
        (folder / "model.sh").write_text(f"read line < {folder / 'never'}")
        (tmp_path / "server.sh").write_text(SERVER)
        argv = ["bash", "-c", PARENT.format(name=name), "-", str(tmp_path / "server.sh")]
        argv += [str(folder / "model.sh"), region.name]
        child = spawn("triton", argv, log=tmp_path / "log", environment={MARK: str(state.resolve())})
        made.append(Left(child, a_stub(child.pid), folder, region))
        return made[-1]

    yield make
    for one in made:
        end_all([one.child], grace_seconds=0.0)
        if one.stub.is_running():
            one.stub.kill()
        shutil.rmtree(one.folder, ignore_errors=True)
        one.region.unlink(missing_ok=True)


def a_stub(server: int) -> psutil.Process:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [one for one in psutil.Process(server).children() if one.cmdline()[:1] == [f"/x/{STUB}"]]
        if found:
            return found[0]
        time.sleep(0.01)
    raise AssertionError("it has not started")


def lives(process: psutil.Process) -> bool:
    """Not, where it ended and nobody has waited for it yet."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_neither_the_watch_nor_the_orderly_end(
    tmp_path: Path, left: Callable[..., Left], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, notes = TritonServer(tmp_path / "server"), tmp_path / "server" / "leftovers"
    running = left(tmp_path / "server")
    server.child = running.child
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        server.note()
        assert not notes.exists()
    server.note()
    assert str(running.folder) in notes.read_text()
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        server._leftovers._unwritten = True
        server.stop(grace_seconds=5.0)
    assert not running.child.running()
    assert not lives(running.stub)
    assert not running.folder.exists()


def test_a_server_that_has_ended_is_not_looked_at_any_more(
    tmp_path: Path, left: Callable[..., Left], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process id may be another's by now."""
    server = TritonServer(tmp_path / "server")
    server.child = left(tmp_path / "server").child
    server.child.popen.kill()
    server.child.popen.wait()
    monkeypatch.setattr(server._leftovers, "note", full)
    server.note()


def test_a_full_disk_at_the_start_is_an_error_that_the_supervisor_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("berth.embedded.triton.fetch", lambda: tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = TritonServer(tmp_path / "server")
    (tmp_path / "server").mkdir()
    server._ports()
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RuntimeError, match=r"Triton could not be started: .*No space left"):
        asyncio.run(server.start())
    assert list(tmp_path.glob("berth-triton-*")) == []


def test_what_a_running_server_serves_is_no_orphan(tmp_path: Path, left: Callable[..., Left]) -> None:
    """A container's server may have a state folder of the same name as ours."""
    theirs, orphan = left(tmp_path / "server"), left(tmp_path / "server")
    orphan.child.popen.kill()
    orphan.child.popen.wait()
    Leftovers(tmp_path / "server").sweep()
    assert lives(theirs.stub)
    assert theirs.folder.exists()
    assert theirs.region.exists()
    assert not lives(orphan.stub)
    assert not orphan.folder.exists()
    assert not orphan.region.exists()


def test_what_was_noted_goes_though_the_models_processes_died_with_their_server(
    tmp_path: Path, left: Callable[..., Left]
) -> None:
    running = left(tmp_path / "server")
    Leftovers(tmp_path / "server").note(running.child.pid)
    for one in (running.stub, running.child.popen):
        one.kill()
        one.wait()
    Leftovers(tmp_path / "server").sweep()
    assert not running.folder.exists()
    assert not running.region.exists()


def test_a_process_that_nobody_waits_for_is_not_waited_for(tmp_path: Path) -> None:
    argv = ["bash", "-c", f"exec -a /x/{STUB} sleep 60"]
    child = spawn("stub", argv, log=tmp_path / "log", environment={MARK: str(tmp_path.resolve())})
    try:
        while psutil.Process(child.pid).cmdline()[:1] != [f"/x/{STUB}"]:
            time.sleep(0.01)
        began = time.monotonic()
        Leftovers(tmp_path).sweep()
        assert time.monotonic() - began < GONE_SECONDS / 2
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    finally:
        end_all([child], grace_seconds=0.0)


def test_a_thread_that_ended_hides_no_other_threads_children(
    tmp_path: Path, left: Callable[..., Left], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = left(tmp_path / "server")
    real = os.listdir
    monkeypatch.setattr("os.listdir", lambda path: ["999999999", *real(path)])
    Leftovers(tmp_path / "server").note(running.child.pid)
    assert str(running.folder) in (tmp_path / "server" / "leftovers").read_text()
