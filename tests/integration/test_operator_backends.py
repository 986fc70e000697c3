"""The executor `triton` with a backend of the operator's, whose runtime is a stand-in: bound, read back, released."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from berth.backends import registry, vendor_processes
from berth.backends.registry import Registry
from berth.models.artefact_file import open_artefact
from binder.domain.attempt import Seen
from binder.domain.work import Assignment, DeviceClaim, Member, Model, Work
from binder.executors.model_rules import ModelRules
from binder.executors.triton import Times, TritonExecutor
from binder.executors.triton_copies import Servers
from binder.settings import BinderSettings
from tests.serving import model_folder
from tests.unit.berth.backends.test_commands import command, fetched
from tests.unit.binder.builders import make_attempt


@pytest.fixture
async def installed(tmp_path: Path) -> AsyncIterator[Registry]:
    """A stand-in vendor for Groq's chips, which takes a Triton model folder; beside Berth's own backends."""
    program = "[{}]".format(", ".join(f'"{part}"' for part in command()))
    serve = program.replace("]", ', "serve", "{folder}", "{port}"]')
    prepare = program.replace("]", ', "compile", "{artefact}/1/model.py", "{folder}"]')
    health = program.replace("]", ', "health", "{port}"]')
    path = tmp_path / "backends.yaml"
    path.write_text(
        "backends:\n"
        "  - name: stand-in\n"
        "    stacks: [GroqWare]\n"
        "    formats: [triton]\n"
        "    endpoint: 'http://127.0.0.1:{port}'\n"
        f"    commands: {{prepare: {prepare}, serve: {serve}, health: {health}}}\n"
        "    timeouts: {serve: 5s}\n"
        f"    environment: {{STAND_IN_LOG: '{tmp_path / 'log'}'}}\n"
    )
    yield registry.backends(path, tmp_path)
    for folder in (tmp_path / "backends/stand-in/served").glob("*"):
        assert await vendor_processes.end(folder, grace_seconds=0.0)


@asynccontextmanager
async def executor(installed: Registry) -> AsyncIterator[TritonExecutor]:
    # Nobody listens there, and nobody asks: no Triton serves such a device.
    servers = Servers(by_node={"n1": "http://127.0.0.1:9"})
    times = Times(bind=20.0, watch=0.1, grace=60.0)
    made = TritonExecutor(servers, installed.backends, rules=ModelRules(open_artefact), clock=time.time, times=times)
    await made.start(lambda _: None)
    try:
        yield made
    finally:
        await made.stop()


def wanted(job: str, uri: Path) -> Assignment:
    member = Member(0, "n1", (DeviceClaim("n1/3", 3, 1000, "Groq-LPU-v1"),))
    return Assignment(make_attempt(job, executor="triton", tries=1), Work((member,), model=Model(str(uri), "m")))


async def test_a_model_goes_to_the_operators_backend_where_no_other_serves_the_device(
    installed: Registry, tmp_path: Path
) -> None:
    assignment = wanted("served", model_folder(tmp_path / "doubler"))
    async with executor(installed) as made:
        bound = (await made.bind([assignment]))[assignment.id]
        assert (bound.seen, bound.message) == (Seen.STARTED, "")
        assert "class TritonPythonModel" in fetched(bound.endpoints[0])
    # Another binder, which knows no more than the store's attempt.
    async with executor(installed) as made:
        again = (await made.read_back([assignment]))[assignment.id]
        assert (again.seen, again.endpoints) == (Seen.STARTED, bound.endpoints)
        assert (await made.release([assignment]))[assignment.id].seen is Seen.RELEASED
    with pytest.raises(OSError):  # noqa: PT011
        fetched(bound.endpoints[0])
    assert (tmp_path / "log").read_text().split() == ["compile", "serve"]
    assert list((tmp_path / "backends/stand-in/served").iterdir()) == []


async def test_a_compiler_that_refuses_is_a_refused_bind_in_its_words(installed: Registry, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "doubler")
    (folder / "1/model.py").write_text("unsupported")
    refused_model = wanted("refused", folder)
    async with executor(installed) as made:
        refused = (await made.bind([refused_model]))[refused_model.id]
    assert refused.seen is Seen.REFUSED
    assert (
        "stand-in: prepare: exit code 1:\nline of progress\nerror: operator Einsum is not supported" in refused.message
    )


def test_a_wrong_file_of_backends_stops_the_binder_with_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "backends.yaml"
    path.write_text("backends: [{name: x}]")
    with pytest.raises(ValidationError, match=r"backends\[0\] \(x\).commands: 'nothing': write a mapping with"):
        BinderSettings(backends=path)
