"""From an artefact and a placement to a model configuration, without a server."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import catalogue
from berth.backends import onnx, triton_python, xla
from berth.backends.base import Placement, Prepared, Refused
from berth.errors import InvalidInput
from berth.models import pbtxt
from berth.models.artefact import Analysis, Artefact, Tensor
from berth.models.artefact_file import digest_of
from tests.serving import FOLDER_CONFIGURATION, model_folder

PORTABLE = Artefact(
    "small", "jax-export", "d", 4, (Tensor("x", "float32", (4, 3)), Tensor("k", "int32", (4,))),
    (Tensor("y", "bfloat16", (4, 2)),), ("cpu", "cuda", "rocm", "tpu"),
)  # fmt: skip


def test_a_configuration_as_a_person_writes_it() -> None:
    assert pbtxt.parse(FOLDER_CONFIGURATION) == {
        "name": "doubler",
        "backend": "python",
        "max_batch_size": 0,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3]}],
        "instance_group": [{"kind": "KIND_GPU", "count": 4, "gpus": [0, 1]}],
        "parameters": {"factor": {"string_value": "3"}},
    }
    assert pbtxt.parse(
        "optimization < cuda { graphs: true } > version_policy: { latest { num_versions: 1 } } # end"
    ) == {
        "optimization": {"cuda": {"graphs": True}},
        "version_policy": {"latest": {"num_versions": 1}},
    }


@pytest.mark.parametrize("text", ['name: "m', 'input [ { name: "x" }', "}", "a { b", "a: ]", "a {" * 100, '"x": 1'])
def test_broken_configurations_name_the_line(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"config\.pbtxt line [0-9]+: "):
        pbtxt.parse(text)


@given(st.text(alphabet="{}[]<>:,;#\"'\\ \nabc019.-", max_size=60))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    # Anything but InvalidInput fails the test.
    with suppress(InvalidInput):
        pbtxt.parse(text)


@pytest.mark.parametrize(
    ("accelerator", "indices", "group", "platform"),
    [
        ("CPU", (), {"kind": "KIND_CPU", "count": 2}, "cpu"),
        ("H100-SXM", (1, 3), {"kind": "KIND_GPU", "count": 2, "gpus": [1, 3]}, "cuda"),
        ("MI300X", (1, 3), {"kind": "KIND_CPU", "count": 4}, "rocm"),
        ("TPU v5e", (0,), {"kind": "KIND_CPU", "count": 2}, "tpu"),
    ],
)
async def test_one_artefact_on_every_xla_platform(
    tmp_path: Path, accelerator: str, indices: tuple[int, ...], group: dict[str, object], platform: str
) -> None:
    entry = catalogue.by_name(accelerator) or catalogue.resolve(accelerator)
    assert entry is not None
    content = tmp_path / "small"
    content.write_bytes(b"same")
    wished = {
        "max_batch_size": "4",
        "instances": "2",
        "max_queue_delay_microseconds": "50",
        "team": "a",
        "berth_x": "no",
    }
    prepared = await prepare(content, Placement("n", entry.name, indices, "http://n", wished))
    configuration = dict(prepared.configuration)
    assert configuration == {
        "backend": "python",
        "max_batch_size": 4,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [3]},
            {"name": "k", "data_type": "TYPE_INT32", "dims": [1], "reshape": {"shape": []}},
        ],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
        "instance_group": [{"name": "berth", **group}],
        "dynamic_batching": {"max_queue_delay_microseconds": 50},
        "parameters": {
            "team": {"string_value": "a"},
            "berth_platform": {"string_value": platform},
            "berth_devices": {"string_value": ",".join(map(str, indices))},
            "berth_rows": {"string_value": "4"},
        },
    }
    assert prepared.files["1/model.jax_export"] == b"same"


async def prepare(content: Path, placement: Placement) -> Prepared:
    return await xla.backend().prepare(replace(PORTABLE, digest=digest_of(content)), content, placement)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_batch_size": "-1"}, "max_batch_size: '-1': write a whole number from 0"),
        ({"max_batch_size": "5"}, "small takes 4 rows at once"),
        ({"instances": "0"}, "instances: '0': write a whole number from 1"),
        ({"instances": "NaN"}, "instances: 'NaN'"),
    ],
)
async def test_wrong_wishes_are_refused(tmp_path: Path, parameters: dict[str, str], words: str) -> None:
    content = tmp_path / "small"
    content.write_bytes(b"same")
    with pytest.raises(Refused, match=words):
        await prepare(content, Placement("n", "CPU", (), "http://n", parameters))


def test_what_cannot_run_says_why() -> None:
    groq = next(one for one in catalogue.load() if one.stack == "GroqWare")
    h100, cpu = catalogue.by_name("H100-SXM"), catalogue.by_name("CPU")
    assert h100 is not None
    assert cpu is not None
    can_run = xla.backend().can_run
    assert can_run(PORTABLE, h100).can
    assert "no OpenXLA plugin is built in for GroqWare" in can_run(PORTABLE, groq).reasons[0]
    only_tpu = Artefact("small", "jax-export", "d", 4, platforms=("tpu",))
    assert "was lowered for tpu, not for cuda (H100-SXM)" in can_run(only_tpu, h100).reasons[0]
    large = Artefact("large", "jax-export", "d", 4, analysis=Analysis(1.0, 1.0, {}, 10**12, 0, 0, 0))
    assert "large needs 1.2e+03 GB with headroom, H100-SXM has 80 GB" in can_run(large, h100).reasons[0]
    assert can_run(large, cpu).can, "a host's memory is not in the catalogue"
    assert "serves onnx" in onnx.backend().can_run(PORTABLE, cpu).reasons[0]
    assert "model folders" in triton_python.backend().can_run(PORTABLE, cpu).reasons[0]


async def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "1" / "model.py").unlink()
    (folder / "1").rmdir()
    artefact = Artefact("m", "triton", digest_of(folder), 4)
    placement = Placement("n", "CPU", (), "http://n")
    with pytest.raises(Refused, match="m: no version folder: put the model into m/1"):
        await triton_python.backend().prepare(artefact, folder, placement)
    (folder / "config.pbtxt").write_bytes(b"\xff\xfe")
    (folder / "1").mkdir()
    (folder / "1" / "model.py").write_text("")
    artefact = replace(artefact, digest=digest_of(folder))
    with pytest.raises(Refused, match=r"m: .*utf-8"):
        await triton_python.backend().prepare(artefact, folder, placement)
