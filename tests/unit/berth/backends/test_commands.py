"""The backend by command templates, with real processes of a stand-in for a vendor's runtime."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from berth import catalogue
from berth.backends import launcher, vendor_processes
from berth.backends.base import Health, Placement, Prepared, Refused, Unanswered
from berth.backends.commands import CommandBackend
from berth.backends.declaration import BackendDeclaration, parse_backends
from berth.models.artefact import Analysis, Artefact

STAND_IN = Path(__file__).with_name("stand_in_vendor_runtime.py")
PLACEMENT = Placement("node-1", "Groq-LPU-v1", (0, 3))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(STAND_IN), *arguments]


def declared(root: Path, **changes: object) -> BackendDeclaration:
    entry: dict[str, object] = {
        "name": "stand-in",
        "accelerators": ["groq-lpu-v1"],
        "formats": ["onnx"],
        "endpoint": "http://127.0.0.1:{port}",
        "commands": {
            "prepare": command("compile", "{artefact}", "{folder}"),
            "serve": command("serve", "{folder}", "{port}"),
            "health": command("health", "{port}"),
        },
        "timeouts": {"prepare": "10s", "serve": "10s", "health": "5s", "release": "1s"},
        "environment": {"STAND_IN_LOG": str(root / "log"), "STAND_IN_MODELS": str(root), "CHIPS": "{indices}"},
    }
    [declaration] = parse_backends({"backends": [entry | changes]})
    return declaration


def asked(root: Path, **changes: object) -> BackendDeclaration:
    """A runtime elsewhere, that is asked."""
    commands = {
        "prepare": command("compile", "{artefact}", "{folder}"),
        "serve": command("load", "{name}", "{folder}"),
        "health": command("state", "{name}"),
        "release": command("unload", "{name}"),
    }
    request: dict[str, object] = {"serve_mode": "request", "commands": commands, "endpoint": "http://{node}/{name}"}
    return declared(root, **(request | changes))


class Site:
    """A backend with its state folder, and what it left running."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.backends: list[CommandBackend] = []

    def backend(self, declaration: BackendDeclaration | None = None) -> CommandBackend:
        backend = CommandBackend(declaration or declared(self.root), self.root / "state", grace_seconds=1.0)
        self.backends.append(backend)
        return backend

    def model(self, text: str) -> tuple[Artefact, Path]:
        path = self.root / "model.onnx"
        path.write_text(text)
        return Artefact("m", "onnx", hashlib.sha256(text.encode()).hexdigest(), len(text)), path

    async def prepared(self, backend: CommandBackend, text: str = "hello") -> Prepared:
        return await backend.prepare(*self.model(text), PLACEMENT)

    def calls(self) -> list[str]:
        log = self.root / "log"
        return log.read_text().split() if log.exists() else []

    def folder(self, name: str) -> Path:
        return self.root / "state/stand-in/served" / f"{name}@node-1"

    def processes(self, name: str = "a") -> set[int]:
        return set(vendor_processes.marked(self.folder(name)))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    yield site
    for folder in (*site.root.glob("state/*/served/*"), *site.root.glob("state/*/prepared/*")):
        assert await vendor_processes.end(folder, grace_seconds=0.0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def variable(name: str, pid: int) -> str:
    """As /proc has it of a process."""
    return Path(f"/proc/{pid}/environ").read_text().split(f"{name}=")[1].split("\0")[0]


def fetched(endpoint: str) -> str:
    with urllib.request.urlopen(endpoint, timeout=5) as answer:
        return str(answer.read().decode())


async def test_a_model_is_compiled_served_answers_and_is_gone_after_its_release(site: Site) -> None:
    backend = site.backend()
    prepared = await site.prepared(backend)
    serving = await backend.serve("a", prepared, PLACEMENT)
    assert serving.health is Health.READY
    assert await asyncio.to_thread(fetched, serving.endpoint) == "hello"
    assert await backend.look("a", PLACEMENT) == serving
    assert {variable("CHIPS", pid) for pid in site.processes()} == {"0,3"}
    assert len(site.processes()) == 2
    await backend.release("a", PLACEMENT)
    assert site.processes() == set()
    assert (await backend.look("a", PLACEMENT)).health is Health.ABSENT


async def test_the_same_model_is_compiled_once_and_served_once(site: Site) -> None:
    backend = site.backend()
    prepared = await site.prepared(backend)
    first, second = await asyncio.gather(*(backend.serve("a", prepared, PLACEMENT) for _ in range(2)))
    again = site.backend()
    assert await site.prepared(again) == prepared
    assert await again.serve("a", prepared, PLACEMENT) == first == second
    assert site.calls() == ["compile", "serve"]


async def test_of_several_launchers_of_one_intent_one_becomes_the_command(site: Site) -> None:
    backend = site.backend()
    await backend.serve("a", await site.prepared(backend), PLACEMENT)
    environment = {"STAND_IN_LOG": str(site.root / "log")}
    # As a binder does that was killed between its start of the launcher and its own next step.
    launchers = [vendor_processes.spawn(site.folder("a"), environment) for _ in range(3)]
    await until(lambda: not any(launcher.start_time(pid) for pid in launchers))
    for pid in launchers:
        assert vendor_processes.reap(pid) == 0
    assert site.calls() == ["compile", "serve"]
    assert len(site.processes()) == 2


async def test_a_name_that_serves_another_model_is_refused_and_stays(site: Site) -> None:
    backend = site.backend()
    await backend.serve("a", await site.prepared(backend), PLACEMENT)
    before = site.processes()
    with pytest.raises(Refused, match="serves another model already"):
        await backend.serve("a", await site.prepared(backend, "other"), PLACEMENT)
    assert site.processes() == before


async def test_a_compiler_that_refuses_is_quoted_and_leaves_nothing(site: Site) -> None:
    backend = site.backend()
    with pytest.raises(Refused) as refused:
        await site.prepared(backend, "unsupported")
    assert "exit code 1:\nline of progress\nerror: operator Einsum is not supported" in str(refused.value)
    assert list((site.root / "state/stand-in/prepared").iterdir()) == []


async def test_a_compiler_that_does_not_end_is_ended(site: Site) -> None:
    backend = site.backend(declared(site.root, timeouts={"prepare": "300ms"}))
    with pytest.raises(Refused, match="did not end in time"):
        await site.prepared(backend, "endless compile")
    assert list((site.root / "state/stand-in/prepared").iterdir()) == []


async def test_an_interrupted_compilation_is_begun_again(site: Site) -> None:
    backend = site.backend()
    prepared = await site.prepared(backend)
    folder = site.root / "state/stand-in/prepared" / prepared.digest
    (folder / "ready").unlink()
    (folder / "output/model").write_text("half")
    await site.prepared(backend)
    assert site.calls() == ["compile", "compile"]
    assert (folder / "output/model").read_text() == "hello"


async def test_a_runtime_that_never_gets_ready_is_refused_with_its_words_and_ended(site: Site) -> None:
    backend = site.backend(declared(site.root, timeouts={"serve": "1s"}))
    with pytest.raises(Refused, match="was not ready within 1 s: health: exit code 1:\nthe runtime says 503"):
        await backend.serve("a", await site.prepared(backend, "never ready"), PLACEMENT)
    assert site.processes() == set()
    assert (await backend.look("a", PLACEMENT)).health is Health.ABSENT


async def test_a_runtime_that_crashes_at_its_start_is_refused_with_its_words(site: Site) -> None:
    backend = site.backend()
    with pytest.raises(Refused, match="ended with 4:\nerror: no device"):
        await backend.serve("a", await site.prepared(backend, "crashes"), PLACEMENT)


async def test_a_program_that_is_not_there_is_named(site: Site) -> None:
    commands = {"serve": ["/nowhere/vendor-runtime"], "health": command("health", "{port}")}
    backend = site.backend(declared(site.root, commands=commands))
    assert backend.unavailable() == "not on this machine: /nowhere/vendor-runtime"
    with pytest.raises(Refused, match=r"cannot run '/nowhere/vendor-runtime': No such file"):
        await backend.serve("a", await site.prepared(backend), PLACEMENT)


async def test_a_runtime_that_dies_later_is_seen_and_may_be_served_again(site: Site) -> None:
    backend = site.backend()
    prepared = await site.prepared(backend)
    serving = await backend.serve("a", prepared, PLACEMENT)
    with pytest.raises(OSError):  # noqa: PT011
        await asyncio.to_thread(fetched, f"{serving.endpoint}/stop")
    # Its worker is not the model: what is left of it is ended with it.
    [worker] = site.processes()
    os.kill(worker, signal.SIGKILL)
    await until(lambda: not site.processes())
    failed = await backend.look("a", PLACEMENT)
    assert (failed.health, failed.message) == (Health.FAILED, "its process ended with 5:\n")
    assert await site.backend().look("a", PLACEMENT) == failed
    assert (await backend.serve("a", prepared, PLACEMENT)).health is Health.READY
    assert site.calls() == ["compile", "serve", "serve"]


async def test_a_runtime_that_sickens_fails_only_after_several_looks(site: Site) -> None:
    backend = site.backend()
    await backend.serve("a", await site.prepared(backend, "sickens"), PLACEMENT)
    await asyncio.sleep(1.2)
    failed = await backend.look("a", PLACEMENT)
    assert failed.health is Health.FAILED
    assert "the runtime says 503" in failed.message


async def test_a_health_command_that_does_not_answer_says_nothing_of_the_model(site: Site) -> None:
    backend = site.backend(declared(site.root, timeouts={"health": "300ms", "serve": "800ms"}))
    prepared = await site.prepared(backend, "hangs")
    serving = asyncio.create_task(backend.serve("a", prepared, PLACEMENT))
    await until(lambda: site.calls() == ["compile", "serve"])
    await asyncio.sleep(0.3)  # until it listens
    with pytest.raises(Unanswered, match="did not end in time"):
        await backend.look("a", PLACEMENT)
    with pytest.raises(Refused, match="not ready within"):
        await serving


async def test_a_release_while_it_starts_ends_it_for_good(site: Site) -> None:
    backend = site.backend()
    serving = asyncio.create_task(backend.serve("a", await site.prepared(backend, "never ready"), PLACEMENT))
    await until((site.folder("a") / "started").exists)
    await backend.release("a", PLACEMENT)
    with pytest.raises(Refused, match="ended"):
        await serving
    assert site.processes() == set()


async def test_what_is_not_there_is_released_without_a_word(site: Site) -> None:
    await site.backend().release("never-served", PLACEMENT)
    await site.backend(asked(site.root)).release("never-served", PLACEMENT)


CRASHING = """
import asyncio, json, sys
sys.path[:0] = json.loads(sys.argv[4])
from pathlib import Path
from tests.unit.berth.backends.test_commands import PLACEMENT, Site, asked, declared
site = Site(Path(sys.argv[1]))
backend = site.backend(asked(site.root) if sys.argv[3] == "request" else None)
async def main():
    prepared = await site.prepared(backend, sys.argv[2])
    await backend.serve("a", prepared, PLACEMENT)
asyncio.run(main())
"""


def crashing(site: Site, text: str, mode: str) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-c", CRASHING, str(site.root), text, mode, json.dumps(sys.path)]
    return subprocess.Popen(argv, start_new_session=True)


async def test_what_a_killed_binder_started_lives_and_is_found_by_its_name(site: Site) -> None:
    with crashing(site, "warms up", "process") as binder:
        while not (site.folder("a") / "started").exists():
            assert binder.poll() is None
            await asyncio.sleep(0.01)
        os.killpg(binder.pid, signal.SIGKILL)
    assert (site.processes(), binder.returncode) != (set(), -signal.SIGKILL)
    backend = site.backend()
    serving = await backend.serve("a", await site.prepared(backend, "warms up"), PLACEMENT)
    assert await asyncio.to_thread(fetched, serving.endpoint) == "warms up"
    assert site.calls() == ["compile", "serve"]
    await backend.release("a", PLACEMENT)
    assert site.processes() == set()


async def test_what_a_killed_binder_asked_of_a_runtime_elsewhere_is_found_and_done_again(site: Site) -> None:
    with crashing(site, "endless load", "request") as binder:
        while "load" not in site.calls():
            assert binder.poll() is None
            await asyncio.sleep(0.01)
        os.killpg(binder.pid, signal.SIGKILL)
    backend = site.backend(asked(site.root))
    await until((site.root / "a").exists)
    assert (await backend.look("a", PLACEMENT)).health is Health.READY
    await backend.release("a", PLACEMENT)
    assert not (site.root / "a").exists()
    assert site.processes() == set()


async def test_lost_notes_leave_no_process_behind(site: Site) -> None:
    backend = site.backend()
    await backend.serve("a", await site.prepared(backend), PLACEMENT)
    for name in ("started", "intent.json", "ready"):
        (site.folder("a") / name).write_text('{"truncated')
    with pytest.raises(Unanswered, match="cannot be read: release it"):
        await backend.look("a", PLACEMENT)
    await backend.release("a", PLACEMENT)
    assert site.processes() == set()


@pytest.mark.parametrize("recorded", ["another start", "another boot"])
async def test_a_stranger_under_a_recorded_process_id_is_left_alone(site: Site, recorded: str) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        site.folder("a").mkdir(parents=True)
        start = 1 if recorded == "another start" else launcher.start_time(stranger.pid)
        boot = launcher.boot_id() if recorded == "another start" else "of-yesterday"
        written = {"pid": stranger.pid, "start": start, "boot": boot}
        (site.folder("a") / "started").write_text(json.dumps(written))
        await site.backend().release("a", PLACEMENT)
        assert stranger.returncode is None
        assert launcher.start_time(stranger.pid) is not None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_runtime_elsewhere_is_asked_and_read_back(site: Site) -> None:
    backend = site.backend(asked(site.root))
    prepared = await site.prepared(backend)
    serving = await backend.serve("a", prepared, PLACEMENT)
    assert (serving.health, serving.endpoint) == (Health.READY, "http://node-1/a")
    await backend.serve("a", prepared, PLACEMENT)
    assert site.calls() == ["compile", "load"]
    (site.root / "a").unlink()
    assert (await backend.look("a", PLACEMENT)).health is Health.ABSENT
    await backend.serve("a", prepared, PLACEMENT)
    assert site.calls() == ["compile", "load", "load"]
    await backend.release("a", PLACEMENT)
    assert not (site.root / "a").exists()


async def test_a_runtime_elsewhere_that_refuses_is_quoted_and_one_that_hangs_is_unknown(site: Site) -> None:
    backend = site.backend(asked(site.root, timeouts={"serve": "500ms"}))
    with pytest.raises(Refused, match="exit code 1:\nerror: no slot is free"):
        await backend.serve("a", await site.prepared(backend, "too many"), PLACEMENT)
    with pytest.raises(Unanswered, match="did not end in time"):
        await backend.serve("b", await site.prepared(backend, "endless load"), PLACEMENT)
    assert (await backend.look("b", PLACEMENT)).health is Health.READY


async def test_a_release_that_changes_nothing_is_not_taken_for_one(site: Site) -> None:
    backend = site.backend(asked(site.root, timeouts={"release": "500ms"}))
    await backend.serve("a", await site.prepared(backend, "stays"), PLACEMENT)
    with pytest.raises(Unanswered, match="is there still after release: exit code 1:\nerror: busy"):
        await backend.release("a", PLACEMENT)
    assert (await backend.look("a", PLACEMENT)).health is Health.READY


async def test_only_declared_parameters_reach_a_command_and_none_as_an_option(site: Site) -> None:
    commands = {
        "prepare": command("compile", "{artefact}", "{folder}"),
        "serve": command("serve", "{folder}", "{port}", "{batch}"),
        "health": command("health", "{port}"),
    }
    backend = site.backend(declared(site.root, commands=commands, parameters={"batch": 1}))
    prepared = await site.prepared(backend)
    with pytest.raises(Refused, match="a value must not begin with a dash"):
        await backend.serve("a", prepared, replace(PLACEMENT, parameters={"batch": "--config=/etc/passwd"}))
    with pytest.raises(Refused, match="bach: '2': backend stand-in takes as parameters batch: leave it out"):
        await backend.serve("a", prepared, replace(PLACEMENT, parameters={"bach": "2"}))
    with pytest.raises(Refused, match="max_batch_size: '8'"):
        await backend.serve("a", prepared, replace(PLACEMENT, parameters={"max_batch_size": "8"}))
    assert site.processes() == set()
    unsaid = {"max_batch_size": "0", "instances": "1", "berth_owner": "job-1.0"}
    commands["serve"] = command("serve", "{folder}", "{port}")
    backend = site.backend(declared(site.root, commands=commands))
    assert (await backend.serve("a", prepared, replace(PLACEMENT, parameters=unsaid))).health is Health.READY


async def test_names_stay_below_the_state_folder(site: Site) -> None:
    backend = site.backend()
    serving = await backend.serve("../../x/..", await site.prepared(backend), replace(PLACEMENT, node=".."))
    assert serving.health is Health.READY
    [folder] = (site.root / "state/stand-in/served").iterdir()
    assert folder.name == "%2E%2E%2F%2E%2E%2Fx%2F%2E%2E@%2E%2E"


def accelerator(name: str) -> catalogue.Accelerator:
    found = catalogue.by_name(name)
    assert found is not None
    return found


def test_every_reason_against_an_artefact_is_said(tmp_path: Path) -> None:
    backend = CommandBackend(declared(tmp_path, limits={"bytes": "1k"}), tmp_path)
    large = Artefact("m", "stablehlo", "d", 2000, analysis=Analysis(1.0, 1.0, {}, 10**15, 0, 0, 0))
    assert backend.can_run(large, accelerator("H100-SXM")).reasons == (
        "accelerator: 'H100-SXM': backend stand-in serves Groq-LPU-v1",
        "format: 'stablehlo': backend stand-in takes onnx: export the model as that",
        "content_bytes: '2000': backend stand-in takes at most 1000",
        "m needs 1.2e+06 GB with headroom, H100-SXM has 80 GB: take a smaller batch or precision, or a larger device",
    )
    assert backend.can_run(Artefact("m", "onnx", "d", 1000), accelerator("Groq-LPU-v1")).can
    assert backend.stacks == ("GroqWare",)


def test_the_check_command_has_a_say_and_is_asked_once(tmp_path: Path) -> None:
    commands = {**declared(tmp_path).commands, "check": tuple(command("check", "{format}", "{bytes}"))}
    declaration = replace(declared(tmp_path), commands=commands)
    backend = CommandBackend(declaration, tmp_path)
    groq = accelerator("Groq-LPU-v1")
    assert backend.can_run(Artefact("m", "onnx", "small", 10), groq).can
    refused = ("check: backend stand-in refuses it: onnx of 1001 bytes does not fit the chip",)
    assert backend.can_run(Artefact("m", "onnx", "large", 1001), groq).reasons == refused
    backend.declaration = replace(declaration, commands=commands | {"check": ("/nowhere/check",)})
    assert backend.can_run(Artefact("m", "onnx", "large", 1001), groq).reasons == refused
    [reason] = backend.can_run(Artefact("m", "onnx", "third", 10), groq).reasons
    assert reason.startswith("check: '/nowhere/check': backend stand-in could not be asked: ")
