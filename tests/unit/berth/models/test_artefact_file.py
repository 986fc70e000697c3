"""Files and folders: what they are, and the words for those that are nothing."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.models import formats
from berth.models.artefact import Analysis, Tensor
from berth.models.artefact_file import digest_of, open_artefact, path_of, read_artefact
from berth.models.export import export, is_function, parse_input
from berth.models.pbtxt import parse
from tests.unit.berth.models.builders import TRANSFORMER, exported, onnx_bytes, shape, transformer

CONFIGURATION = """
# A comment
name: "chat" backend: 'python'
max_batch_size: 8
input [ { name: "tokens", data_type: TYPE_INT32, dims: [ 64, -1 ] } ]
output { name: "log" "its" data_type: TYPE_BF16 dims: 2048 }
instance_group < count: 2; kind: KIND_CPU >
parameters: { key: "a", value: { string_value: "quoted \\"x\\" }" } }
"""


def test_the_example_is_one_artefact_for_every_platform() -> None:
    made = transformer()
    assert made.names == ("tokens",)
    found = read_artefact(made.content, "chat")
    assert (found.format, found.platforms, found.custom_calls) == ("jax-export", ("cpu", "cuda", "rocm", "tpu"), {})
    assert found.inputs == (Tensor("tokens", "int32", (4, 64)),)
    assert found.outputs == (Tensor("output_0", "float32", (4, 2048)),)
    assert found.analysis is not None
    assert found.analysis.unknown_loops == ()
    # Embedding and norms aside: the products of four layers, and of the logits.
    tokens, width, hidden = 4 * 64, 192, 512
    layer = 2 * tokens * width * (4 * width + 3 * hidden) + 2 * 2 * tokens * 64 * width
    products = 4 * layer + 2 * 4 * width * 2048
    assert found.analysis.operations == pytest.approx(products, rel=0.01)
    assert found.content_bytes < 10 * 2**20


def test_a_free_dimension_takes_the_size_that_is_given() -> None:
    free = export(TRANSFORMER, ["int32[batch,64]"]).content
    unknown = formats.read(free, "chat", "chat")
    assert unknown.inputs[0].shape == (None, 64)
    assert unknown.analysis is not None
    assert unknown.analysis.operations is None
    fixed = formats.read(transformer().content, "chat", "chat").analysis
    sized = formats.read(free, "chat", "chat", batch=4).analysis
    assert fixed is not None
    assert sized is not None
    assert sized.operations == fixed.operations
    assert sized.argument_bytes == fixed.argument_bytes


def test_stablehlo_is_known_as_text_and_as_bytecode() -> None:
    made = exported(lambda x: x @ x, shape(8, 8))
    text = formats.read(made.mlir_module().encode(), "m", "m")
    code = formats.read(made.mlir_module_serialized, "m", "m")
    expected = Analysis(1024, 512, {"fp32": 1024}, 0, 256, 256, 0)
    for one in (text, code):
        assert (one.format, one.platforms, one.inputs) == ("stablehlo", (), (Tensor("x", "float32", (8, 8)),))
        assert one.analysis == expected


def test_onnx_is_counted_once_its_batch_is_known() -> None:
    free = formats.read(onnx_bytes(), "m", "m.onnx")
    assert (free.format, free.inputs) == ("onnx", (Tensor("x", "float32", (None, 16)),))
    assert free.analysis is not None
    assert free.analysis.operations is None
    sized = formats.read(onnx_bytes(), "m", "m.onnx", batch=32).analysis
    assert sized == formats.read(onnx_bytes(32), "m", "m").analysis
    products = 32 * 16 * 8 * 2
    assert sized == Analysis(
        operations=products + 32 * 8,
        bytes_moved=4 * (32 * 16 + 16 * 8 + 3 * 32 * 8),
        by_precision={"fp32": products + 32 * 8},
        constant_bytes=4 * 16 * 8,
        argument_bytes=4 * 32 * 16,
        output_bytes=4 * 32 * 8,
        temporary_bytes=4 * 32 * 8,
    )


def test_a_model_folder_of_triton_is_read_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(CONFIGURATION)
    with pytest.raises(InvalidInput, match="no version folder"):
        open_artefact(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.py").write_text("pass")
    found = open_artefact(tmp_path).artefact
    assert (found.name, found.format, found.analysis) == ("chat", "triton", None)
    assert found.inputs == (Tensor("tokens", "int32", (None, 64, None)),)
    assert found.outputs == (Tensor("logits", "bfloat16", (None, 2048)),)
    before = digest_of(tmp_path)
    (tmp_path / "1" / "model.py").rename(tmp_path / "1" / "other.py")
    assert digest_of(tmp_path) != before
    (tmp_path / "1" / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="a link"):
        open_artefact(tmp_path)


@given(st.text(alphabet='{}[]<>:,;"\\abc1 \n#-', max_size=60))
def test_whatever_stands_in_a_configuration_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except InvalidInput:
        pass


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"hello", "none of these"),
        (b"\x00" * 64, "none of these"),
        (b"ML\xefR\rStableHLO_v1.15", "StableHLO"),
        (b"\x08\x08garbage", "ONNX"),
        (b"module { broken", "StableHLO"),
    ],
)
def test_what_is_no_model_is_refused_in_words(content: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_artefact(content, "m")


def _broken(content: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    if seed % 3 == 0:
        return content[: chance.randrange(len(content))]
    made = bytearray(content)
    for _ in range(chance.randrange(1, 6)):
        made[chance.randrange(len(made))] = chance.randrange(256)
    return bytes(made)


@pytest.mark.parametrize("kind", ["onnx", "jax-export", "stablehlo"])
def test_broken_bytes_are_refused_and_never_raise_anything_else(kind: str) -> None:
    made = exported(lambda x: x @ x, shape(8, 8))
    content = {
        "onnx": onnx_bytes(8),
        "jax-export": bytes(made.serialize()),
        "stablehlo": bytes(made.mlir_module_serialized),
    }[kind]
    for seed in range(3):
        try:
            read_artefact(_broken(content, seed), "m", source="m.onnx" if kind == "onnx" else "m")
        except InvalidInput:
            pass


def test_bytes_that_end_the_reader_are_refused() -> None:
    """MLIR's binding gives an artefact that was cut as a module of nothing, and dies when that is looked at."""
    made = bytes(exported(lambda x: x @ x, shape(8, 8)).mlir_module_serialized)
    with pytest.raises(InvalidInput, match=r"broken|StableHLO"):
        read_artefact(made[: len(made) // 2], "m")


def test_a_path_that_is_not_there_or_no_model_is_refused(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "absent", "No such file"), (tmp_path, "no model in it")):
        with pytest.raises(InvalidInput, match=says):
            open_artefact(path)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidInput, match="at most"):
        open_artefact(huge)


def test_a_uri_is_a_path_or_a_file() -> None:
    assert path_of("file:///a/b%20c") == Path("/a/b c")
    assert path_of("models/chat") == Path("models/chat")
    for uri in ("", "s3://bucket/x", "file://host/x", "a\0b"):
        with pytest.raises(InvalidInput, match=r"model\.uri"):
            path_of(uri)


@pytest.mark.parametrize(
    ("target", "inputs", "says"),
    [
        ("absent.module:f", (), "importing absent.module"),
        ("examples/models/absent.py:f", (), "is not there"),
        ("examples/models/transformer.py:absent", (), "it has"),
        (TRANSFORMER, ("float99[2]",), "no type"),
        (TRANSFORMER, ("int32",), "write it as"),
        (TRANSFORMER, ("int32[99999999999,99999999999]",), "at most"),
        (TRANSFORMER, ("int32[2]",), "jax cannot export it"),
        (TRANSFORMER, ("words=int32[2,4]",), "tokens"),
        ("examples/models/transformer.py:layer", ("float32[2]",), "jax cannot export it"),
    ],
)
def test_a_function_that_cannot_be_exported_is_refused_in_words(
    target: str, inputs: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        export(target, inputs)


def test_a_target_is_a_function_unless_such_a_file_is_there() -> None:
    assert is_function("package.module:function")
    assert not is_function("examples/models/transformer.py")
    assert parse_input("mask=bool[2, n]") == parse_input("mask = bool[2,n]")
