"""A package: whole or not there, and what is read is what was written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from berth.errors import InvalidInput
from berth.models import formats
from berth.models.artefact import Analysis
from berth.models.artefact_file import open_artefact
from berth.models.package import read_package, write_package
from tests.unit.berth.models.builders import onnx_bytes


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    artefact = formats.read(onnx_bytes(4), "chat", "chat")
    write_package(tmp_path / "deep" / "package", artefact, onnx_bytes(4))
    found = open_artefact(tmp_path / "deep" / "package")
    assert (found.artefact, found.in_package) == (artefact, True)
    assert found.content.read_bytes() == onnx_bytes(4)
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["package"]


def test_each_platforms_own_analysis_is_written_and_read_back(tmp_path: Path) -> None:
    bare = formats.read(onnx_bytes(4), "chat", "chat")
    costs = {"cpu": Analysis(1.0, 2.0, {"fp32": 1.0}), "cuda": Analysis(3.0, 4.0, {"fp32": 3.0})}
    artefact = replace(bare, platforms=("cpu", "cuda"), by_platform=costs)
    write_package(tmp_path / "p", artefact, onnx_bytes(4))
    assert read_package(tmp_path / "p").artefact == artefact
    assert artefact.analysis_on("cuda") == costs["cuda"]
    assert artefact.analysis_on("tpu") == bare.analysis


def test_a_folder_is_packed_too(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "1").mkdir(parents=True)
    (source / "1" / "model.py").write_text("pass")
    (source / "config.pbtxt").write_text('name: "chat"')
    opened = open_artefact(source)
    write_package(tmp_path / "package", opened.artefact, opened.content)
    assert read_package(tmp_path / "package").artefact == opened.artefact


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path) -> None:
    artefact = formats.read(onnx_bytes(4), "chat", "chat")
    with pytest.raises(InvalidInput, match="changed while"):
        write_package(tmp_path / "package", replace(artefact, digest="0" * 64), onnx_bytes(4))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(InvalidInput, match="there already"):
        write_package(tmp_path / "taken", artefact, onnx_bytes(4))
    assert [one.name for one in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"digest": "abc"}, "digest"),
        ({"file": "../secret"}, "file"),
        ({"file": "absent"}, "file"),
        ({"format": "pickle"}, "format"),
        ({"inputs": [{"name": "x"}]}, "inputs"),
        ({"analysis": {"operations": float("nan")}}, "operations"),
        ({"analysis": {"operations": 10**400}}, "operations"),
        ({"analysis": {"constant_bytes": -1}}, "constant_bytes"),
        ({"by_platform": {"cuda": {"operations": 1}}}, "by_platform"),
        ({"platforms": ["cuda"], "by_platform": {"cuda": {"operations": -1}}}, "by_platform.cuda.operations"),
        ({"custom_calls": ["a"]}, "custom_calls"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    write_package(tmp_path / "p", formats.read(onnx_bytes(4), "chat", "chat"), onnx_bytes(4))
    manifest = tmp_path / "p" / "model.yaml"
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(manifest.read_text()), **change}))
    with pytest.raises(InvalidInput, match=says):
        read_package(tmp_path / "p")


def test_a_changed_content_is_refused(tmp_path: Path) -> None:
    write_package(tmp_path / "p", formats.read(onnx_bytes(4), "chat", "chat"), onnx_bytes(4))
    (tmp_path / "p" / "model.onnx").write_bytes(onnx_bytes(8))
    with pytest.raises(InvalidInput, match="it was changed"):
        open_artefact(tmp_path / "p")
    (tmp_path / "p" / "model.yaml").write_text("- a list")
    with pytest.raises(InvalidInput, match="a mapping"):
        open_artefact(tmp_path / "p")


def test_aliases_that_mean_gigabytes_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 12)]
    (tmp_path / "model.yaml").write_text("\n".join([*lines, "file: m"]))
    with pytest.raises(InvalidInput, match="alias"):
        read_package(tmp_path)


def test_a_long_value_is_shown_by_its_beginning(tmp_path: Path) -> None:
    manifest = {"file": "m", "name": "a" * 100_000, "inputs": [list(range(10_000))] * 3, "b" * 100_000: 1}
    (tmp_path / "model.yaml").write_text(yaml.dump(manifest, Dumper=Plain))
    with pytest.raises(InvalidInput) as caught:
        read_package(tmp_path)
    assert all(len(one.field) + len(one.value) < 500 for one in caught.value.errors)


class Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write_package(tmp_path / "p", formats.read(onnx_bytes(4), "chat", "chat"), onnx_bytes(4))
    for path in (tmp_path / "p" / "model.onnx", tmp_path / "sparse"):
        with path.open("ab") as file:
            file.truncate(2**31 + 1)
    for path in (tmp_path / "p", tmp_path / "sparse"):
        with pytest.raises(InvalidInput, match="at most 2147483648 bytes"):
            open_artefact(path)
