"""A real Triton server that is killed leaves nothing behind once it was started or ended again."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from berth.backends import triton_python
from berth.backends.base import Placement
from berth.embedded.triton import TritonServer, unavailable
from berth.models.artefact_file import open_artefact
from tests.serving import model_folder

USES_TEMPORARY = """
import os, sys, tempfile
sys.path[:0] = os.environ["BERTH_TRITON_PYTHONPATH"].split(":")
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        tempfile.mkdtemp(prefix="of-the-model-")

    def execute(self, requests):
        return []
"""


def stubs(server: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(server).children() if "python_backend_stub" in one.name()]


def places(processes: list[psutil.Process]) -> Iterator[Path]:
    """Their model's folder, and their region of shared memory."""
    for process in processes:
        argv = process.cmdline()
        yield Path(argv[1]).parents[1]
        yield Path("/dev/shm") / argv[2]


def of_models() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("berth-triton-*/of-the-model-*"))


async def serving(folder: Path, tmp_path: Path) -> TritonServer:
    """A server that serves a model of two processes."""
    server = TritonServer(folder)
    await server.start()
    backend = triton_python.backend()
    path = tmp_path / "doubler"
    if not path.exists():
        model_folder(path)
        (path / "1" / "model.py").write_text(USES_TEMPORARY)
    placement = Placement("here", "CPU", (), server.address, {"instances": "2"})
    opened = open_artefact(path)
    await backend.serve("doubler", await backend.prepare(opened.artefact, opened.content, placement), placement)
    await backend.close()
    return server


async def test_what_a_killed_server_left_is_swept_by_the_next_start_and_by_its_end(tmp_path: Path) -> None:
    if missing := unavailable():
        pytest.skip(f"Triton cannot run here: {missing}")
    before = set(of_models())
    server = await serving(tmp_path / "server", tmp_path)
    try:
        assert server.child is not None
        orphans = stubs(server.child.pid)
        left = list(places(orphans))
        made = [one for one in of_models() if one not in before]
        assert len(orphans) == len(made) == 2
        assert all(one.exists() for one in left)
        server.note()
        os.kill(server.child.pid, signal.SIGKILL)
        server.child.popen.wait()
        assert all(one.is_running() for one in orphans), "they outlive their server"
        # As another supervisor would, after this one was killed too.
        again = TritonServer(tmp_path / "server")
        await again.start()
        await asyncio.to_thread(
            psutil.wait_procs, orphans, 5
        )  # killed, and not yet waited for by whoever inherited them
        assert not any(one.is_running() for one in orphans)
        assert [one for one in (*left, *made) if one.exists()] == []
        again.stop()

        # The processes may be gone before anybody starts again: what was noted is enough.
        last = await serving(tmp_path / "server", tmp_path)
        assert last.child is not None
        orphans = stubs(last.child.pid)
        left = list(places(orphans))
        last.note()
        last.child.popen.kill()
        last.child.popen.wait()
        for one in orphans:
            one.terminate()
        await asyncio.to_thread(psutil.wait_procs, orphans, 15)
        assert left[0].exists()
        TritonServer(tmp_path / "server")._leftovers.sweep()
        assert [one for one in left if one.exists()] == []
        assert set(of_models()) <= before
    finally:
        server.stop()


async def test_only_what_is_ours_is_swept(tmp_path: Path) -> None:
    """A file of notes says what it likes: paths that no server of ours makes are left alone."""
    if missing := unavailable():
        pytest.skip(f"Triton cannot run here: {missing}")
    kept = tmp_path / "folder"
    kept.mkdir()
    link = tmp_path / "folderAAAAAA"
    link.symlink_to(kept)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "leftovers").write_text(f'["{kept}", "{link}", 3, "/"]')
    server = await serving(tmp_path / "other", tmp_path)
    try:
        TritonServer(tmp_path / "server")._leftovers.sweep()
        assert kept.is_dir()
        assert link.is_symlink()
        assert server.child is not None
        assert all(one.exists() for one in places(stubs(server.child.pid)))
        assert not (tmp_path / "server" / "leftovers").exists()
    finally:
        server.stop()
    assert not (tmp_path / "other" / "leftovers").exists()
