"""The operator's file of backends: what it takes, and every error that it names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.backends.declaration import DEFAULT_TIMEOUTS, BackendDeclaration, fill, parse_backends, read_backends
from berth.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[4]


def entry() -> dict[str, Any]:
    return {
        "name": "vendor",
        "accelerators": ["SN40L"],
        "formats": ["onnx"],
        "commands": {"serve": ["run", "{folder}", "--port={port}"], "health": ["ask", "{port}"]},
    }


def errors_of(document: object) -> list[str]:
    with pytest.raises(InvalidInput) as raised:
        parse_backends(document)
    return [str(error) for error in raised.value.errors]


def test_a_whole_entry() -> None:
    whole = entry() | {
        "accelerators": ["sn40l"],
        "stacks": ["GroqWare"],
        "limits": {"bytes": "4Gi"},
        "endpoint": "http://{node}:{port}/{{x}}",
        "timeouts": {"serve": "2m"},
        "parameters": {"batch": 4},
        "environment": {"HOME_OF_VENDOR": "/opt", "CHIPS": "{indices}"},
    }
    assert parse_backends({"backends": [whole]}) == (
        BackendDeclaration(
            name="vendor",
            formats=("onnx",),
            commands={"serve": ("run", "{folder}", "--port={port}"), "health": ("ask", "{port}")},
            accelerators=("SN40L",),
            stacks=("GroqWare",),
            most_bytes=4 << 30,
            endpoint="http://{node}:{port}/{{x}}",
            timeouts=DEFAULT_TIMEOUTS | {"serve": 120.0},
            parameters={"batch": "4"},
            environment={"HOME_OF_VENDOR": "/opt", "CHIPS": "{indices}"},
        ),
    )


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in entry().items() if name != key}


def commands(**changes: object) -> dict[str, Any]:
    return entry() | {"commands": entry()["commands"] | changes}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("text", "backends[0]: 'text': write a mapping with the keys name, formats and commands"),
        (without("name"), "backends[0].name: 'nothing': write a name of lower-case"),
        (entry() | {"name": "../x"}, "backends[0].name: '../x': write a name"),
        (entry() | {"nme": 1}, "backends[0].nme: '1': is no known key; did you mean 'name'? one of: name"),
        (without("accelerators"), "(vendor).accelerators: 'nothing': name accelerators or stacks"),
        (entry() | {"accelerators": ["SN40"]}, "(vendor).accelerators: 'SN40': is not in the catalogue; nearest: SN4"),
        (entry() | {"stacks": ["GroqWear"]}, "(vendor).stacks: 'GroqWear': is not known; did you mean 'GroqWare'?"),
        (entry() | {"formats": ["onx"]}, "(vendor).formats: 'onx': is not known; did you mean 'onnx'?"),
        (entry() | {"formats": "onnx"}, "(vendor).formats: 'onnx': write a list of names"),
        (entry() | {"limits": {"byte": 1}}, "(vendor).limits: \"{'byte': 1}\": write {bytes: 4Gi}"),
        (entry() | {"limits": {"bytes": -1}}, "(vendor).limits.bytes: '-1': write a number from 0"),
        (entry() | {"limits": {"bytes": 0}}, "(vendor).limits.bytes: '0': write at least 1 byte"),
        (entry() | {"limits": {"bytes": float("nan")}}, "(vendor).limits.bytes: 'nan': write a number from 0"),
        (entry() | {"serve_mode": "daemon"}, "(vendor).serve_mode: 'daemon': write one of: process, request"),
        (entry() | {"serve_mode": "request"}, "(vendor).commands.release: 'nothing': is needed where serve_mode is"),
        (without("commands"), "(vendor).commands: 'nothing': write a mapping with health, serve"),
        (commands(serv=["x"]), "(vendor).commands.serv: \"['x']\": is no command; did you mean 'serve'?"),
        (commands(serve="run it"), "(vendor).commands.serve: 'run it': write a list of texts, the program first"),
        (commands(serve=[]), "(vendor).commands.serve: '[]': write a list of texts"),
        (commands(serve=["{artefact}"]), "(vendor).commands.serve: '{artefact}': write the program itself first"),
        (commands(serve=["run", "{prt}"]), "(vendor).commands.serve[1]: '{prt}': {prt} is no value here; did you mean"),
        (commands(serve=["run", "{port!r}"]), "{port!r} is no value here"),
        (commands(serve=["run", "{node.__class__}"]), "{node.__class__} is no value here"),
        (commands(serve=["run", "{"]), "(vendor).commands.serve[1]: '{': "),
        (commands(check=["run", "{artefact}"]), "(vendor).commands.check[1]: '{artefact}': {artefact} is no value"),
        (entry() | {"timeouts": {"serv": 1}}, "(vendor).timeouts.serv: '1': is no command; did you mean 'serve'?"),
        (entry() | {"timeouts": {"serve": "soon"}}, "(vendor).timeouts.serve: 'soon': write a duration"),
        (entry() | {"timeouts": {"serve": float("inf")}}, "(vendor).timeouts.serve: 'inf': write a duration"),
        (entry() | {"parameters": {"port": 1}}, "(vendor).parameters.port: '1': is a value of Berth"),
        (entry() | {"parameters": {"a-b": 1}}, "(vendor).parameters: 'a-b': write a word"),
        (entry() | {"environment": {"BERTH_X": "1"}}, "(vendor).environment.BERTH_X: '1': BERTH_ is Berth's own"),
        (entry() | {"environment": {"X": True}}, "(vendor).environment.X: 'True': write a text"),
        (entry() | {"endpoint": 8000}, "(vendor).endpoint: '8000': write an address"),
    ],
)  # fmt: skip
def test_an_error_names_field_value_and_remedy(wrong: object, error: str) -> None:
    assert [one for one in errors_of({"backends": [wrong]}) if error in one], errors_of({"backends": [wrong]})


def test_all_errors_are_named_at_once() -> None:
    found = errors_of({"backends": [entry() | {"formats": ["x"], "serve_mode": "y"}, entry(), entry()]})
    assert [error.split(": ")[0] for error in found] == [
        "backends[0] (vendor).serve_mode",
        "backends[0] (vendor).formats",
        "backends[1] (vendor).name",
        "backends[2] (vendor).name",
    ]


@pytest.mark.parametrize("document", [None, [], "x", {"backend": []}, {"backends": "x"}, {"backends": [], "x": 1}])
def test_what_is_no_file_of_backends_is_refused(document: object) -> None:
    assert "write the one key backends" in errors_of(document)[0]


def unreadable(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, "No such file or directory: name a file that is there"),
        (unreadable, "Is a directory"),
        (lambda path: path.write_bytes(b"backends: [\n"), ":2:1': is no YAML"),
        (lambda path: path.write_bytes(b"\xff\xfe\xff"), "is no YAML"),
        (lambda path: path.write_bytes(b"#" * (5 << 20)), "is larger than"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], object], error: str) -> None:
    path = tmp_path / "backends.yaml"
    make(path)
    with pytest.raises(InvalidInput, match="BERTH_BACKENDS") as raised:
        read_backends(path)
    assert error in str(raised.value)


def test_the_example_is_valid_and_serves_the_three_vendors() -> None:
    declared = read_backends(ROOT / "examples/backends.yaml")
    assert {one.name for one in declared} == {"groq", "cerebras", "sambanova"}


KEYS = st.sampled_from(["backends", "name", "commands", "serve", "formats", "limits", "timeouts"]) | st.text()
LEAVES = st.none() | st.booleans() | st.floats() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_any_document_is_taken_or_refused_by_name(document: object) -> None:
    for whole in (document, {"backends": [document]}):
        try:
            parse_backends(whole)
        except InvalidInput as error:
            assert all(one.field and one.remedy for one in error.errors)  # noqa: PT017


@given(st.text())
def test_a_value_is_put_in_as_it_is(value: str) -> None:
    assert fill("a{{{name}}}b", {"name": value}, {}) == f"a{{{value}}}b"
