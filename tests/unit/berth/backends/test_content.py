"""What is served is what was digested."""

import asyncio
import gc
import hashlib
import os
from pathlib import Path

import pytest

from berth.backends import content, onnx, triton_python, xla
from berth.backends.base import Backend, Placement, Refused
from berth.models.artefact import Artefact
from berth.models.artefact_file import digest_of
from tests.serving import model_folder

HERE = Placement("n", "CPU", (), "http://n")


async def nobody_has_it() -> None:
    """What was read is kept while anybody has it; the thread that read it may, for a moment more."""
    for _ in range(1000):
        gc.collect()
        if not content._kept:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still in use: {list(content._kept)}")


async def test_a_folder_that_changes_between_the_look_and_the_load_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "1" / "__pycache__").mkdir()
    (folder / "1" / "__pycache__" / "model.pyc").write_bytes(b"x")
    (folder / "1-more").write_bytes(b"by path, not by part")
    artefact = Artefact("m", "triton", digest_of(folder), 4)
    prepared = await triton_python.backend().prepare(artefact, folder, HERE)
    assert set(prepared.files) == {"1/model.py", "1-more"}
    del prepared
    await nobody_has_it()
    (folder / "1" / "model.py").write_text("EVIL")
    with pytest.raises(Refused, match=r"m: digest: .* it changed while it was being read: try again"):
        await triton_python.backend().prepare(artefact, folder, HERE)


@pytest.mark.parametrize(("backend", "format"), [(xla.backend(), "jax-export"), (onnx.backend(), "onnx")])
async def test_a_file_that_changes_between_the_look_and_the_load_is_refused(
    tmp_path: Path, backend: Backend, format: str
) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"GOOD")
    artefact = Artefact("m", format, hashlib.sha256(b"GOOD").hexdigest(), 4)
    await backend.prepare(artefact, path, HERE)
    await nobody_has_it()
    path.write_bytes(b"EVIL")
    with pytest.raises(Refused, match="m: digest: "):
        await backend.prepare(artefact, path, HERE)


@pytest.mark.parametrize("at", ["1/leak", "leak"])
async def test_links_and_pipes_of_a_folder_are_refused(tmp_path: Path, at: str) -> None:
    folder = model_folder(tmp_path / "m")
    artefact = Artefact("m", "triton", digest_of(folder), 4)
    (folder / at).symlink_to("/etc" if at == "leak" else "/etc/hostname")
    with pytest.raises(Refused, match=f"m/{at}: a link: copy what it names into the folder"):
        await triton_python.backend().prepare(artefact, folder, HERE)
    (folder / at).unlink()
    os.mkfifo(folder / at)
    with pytest.raises(Refused, match=f"m/{at}: it is no file"):
        await triton_python.backend().prepare(artefact, folder, HERE)


@pytest.mark.parametrize(("backend", "format"), [(xla.backend(), "jax-export"), (onnx.backend(), "onnx")])
async def test_what_is_too_large_for_one_request_is_refused_and_not_read(
    tmp_path: Path, backend: Backend, format: str
) -> None:
    path = tmp_path / "m"
    with path.open("wb") as file:
        file.truncate(content.MOST_BYTES + 1)
    with pytest.raises(Refused, match="m: 2147483649 bytes: more than 2147483648 bytes: Triton's load API"):
        await backend.prepare(Artefact("m", format, "d", 4), path, HERE)


async def test_the_files_of_a_folder_are_too_large_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "m")
    size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    artefact = Artefact("m", "triton", digest_of(folder), size)
    monkeypatch.setattr(content, "MOST_BYTES", size)
    await triton_python.backend().prepare(artefact, folder, HERE)
    await nobody_has_it()
    monkeypatch.setattr(content, "MOST_BYTES", size - 1)
    with pytest.raises(Refused, match=f"{size} bytes: more than"):
        await triton_python.backend().prepare(artefact, folder, HERE)


async def test_content_is_read_once_for_as_long_as_it_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"GOOD")
    artefact = Artefact("m", "onnx", hashlib.sha256(b"GOOD").hexdigest(), 4)
    one = await onnx.backend().prepare(artefact, path, HERE)
    two = await onnx.backend().prepare(artefact, path, Placement("n2", "CPU", (), "http://n2"))
    assert one.files["1/model.onnx"] is two.files["1/model.onnx"]
