"""Which backends there are, and which is chosen."""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from berth import catalogue
from berth.backends import registry
from berth.backends.base import Verdict
from berth.backends.commands import CommandBackend
from berth.backends.declaration import parse_backends
from berth.backends.registry import Choice, accelerators_for, backends, choose, on, reasons_by_accelerator
from berth.cli.commands.backends import backends as command
from berth.errors import InvalidInput
from berth.models.artefact import Artefact

ARTEFACT = Artefact("m", "onnx", "digest", 10)
FILE = """
backends:
  - name: vendor
    accelerators: [SN40L]
    formats: [onnx]
    commands: {serve: [sh], health: ["true"]}
"""


class FakeBackend:
    """Can run what its word is in."""

    def __init__(self, name: str, word: str) -> None:
        self.name, self.stacks, self._word = name, ("CUDA",), word

    def can_run(self, artefact: Artefact, accelerator: catalogue.Accelerator) -> Verdict:
        return Verdict() if self._word in accelerator.name else Verdict((f"no {self._word}",))

    async def prepare(self, *_: object) -> None: ...

    serve = look = release = prepare


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    path = tmp_path / "backends.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Entry points: name -> what is called."""

    def install(**made: object) -> None:
        module = ModuleType("package_of_a_test")
        for name, what in made.items():
            setattr(module, name, what)
        monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
        points = [EntryPoint(name, f"{module.__name__}:{name}", registry.GROUP) for name in made]
        points.append(EntryPoint("gone", "package_that_is_gone:backend", registry.GROUP))
        monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: points)  # type: ignore[attr-defined]

    return install


def test_the_operators_come_first_and_a_broken_package_takes_none_with_it(
    declared: Path, tmp_path: Path, packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("its own trouble")

    packages(
        good=lambda: FakeBackend("good", "H100"),
        broken=broken,
        other=lambda: object(),
        taken=lambda: FakeBackend("vendor", "x"),
    )
    monkeypatch.setattr(registry, "BUILT_IN", {"absent": "berth.backends.absent:backend"})
    found = backends(declared, tmp_path)
    assert [(offer.backend.name, offer.origin, offer.missing) for offer in found.offers] == [
        ("vendor", f"operator: {declared}", ""),
        ("good", "package: package_of_a_test", ""),
    ]
    assert [problem.split(": ")[0] for problem in found.problems] == ["broken", "other", "gone", "absent", "vendor"]
    assert "its own trouble" in found.problems[0]
    assert "object has no can_run, prepare" in found.problems[1]
    assert found.by_name("good") is found.backends[1]
    assert found.by_name("x") is None


def test_a_wrong_file_of_the_operators_is_refused(declared: Path) -> None:
    declared.write_text(FILE.replace("SN40L", "SN41"))
    with pytest.raises(InvalidInput, match="SN41"):
        backends(declared)


def test_the_first_that_can_is_chosen_and_otherwise_all_reasons_are_said() -> None:
    first, second = FakeBackend("first", "H200"), FakeBackend("second", "H")
    among = (first, second)
    assert choose(ARTEFACT, "h200", among) == Choice("H200", first)  # type: ignore[arg-type]
    assert choose(ARTEFACT, "H100-SXM", among) == Choice("H100-SXM", second)  # type: ignore[arg-type]
    reasons = {"first": ("no H200",), "second": ("no H",)}
    assert choose(ARTEFACT, "SN40L", among) == Choice("SN40L", None, reasons)  # type: ignore[arg-type]
    [[unknown]] = choose(ARTEFACT, "H100-SMX", among).reasons.values()  # type: ignore[arg-type]
    assert "not in the catalogue; near: H100-SXM" in unknown
    assert choose(ARTEFACT, "SN40L", ()).backend is None


def test_an_artefact_may_go_where_some_backend_takes_it(tmp_path: Path) -> None:
    document = {
        "backends": [
            {
                "name": "vendor",
                "stacks": ["Cerebras"],
                "accelerators": ["SN40L"],
                "formats": ["onnx"],
                "commands": {"serve": ["x"], "health": ["y"]},
            }
        ]
    }
    among = [CommandBackend(one, tmp_path) for one in parse_backends(document)]
    choices = reasons_by_accelerator(ARTEFACT, among)
    taking = ("Cerebras-WSE-2", "Cerebras-WSE-3", "SN40L")
    assert accelerators_for(ARTEFACT, among) == taking
    assert [on(name, among) for name in (*taking, "H100-SXM", "nothing")] == [tuple(among)] * 3 + [()] * 2
    assert list(choices) == [entry.name for entry in catalogue.load()]
    assert all(choice.reasons for choice in choices.values() if choice.backend is None)


def test_the_command_lists_them(declared: Path, packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    packages(good=lambda: FakeBackend("good", "H100"))
    monkeypatch.setattr(registry, "BUILT_IN", {})
    declared.write_text(FILE.replace("[sh]", "[/nowhere/runtime]"))
    shown = CliRunner().invoke(command, ["--backends", str(declared)])
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines == [
        ["NAME", "STACKS", "FROM", "SOFTWARE"],
        ["vendor", "SambaFlow", "operator:", str(declared), "not", "on", "this", "machine:", "/nowhere/runtime"],
        ["good", "CUDA", "package:", "package_of_a_test", "here"],
    ]
    assert "left out: gone: " in shown.stderr
    as_json = json.loads(CliRunner().invoke(command, ["--backends", str(declared), "-o", "json"]).stdout)
    assert [item["name"] for item in as_json["items"]] == ["vendor", "good"]
