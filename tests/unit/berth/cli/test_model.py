"""`berth model`, and `berth submit --model`."""

import json
from pathlib import Path

from tests.unit.berth.cli.conftest import Berth, FakeSystem
from tests.unit.berth.models.builders import onnx_bytes

SOURCE = """
import jax
import jax.numpy as jnp

def layer(x):
    return jax.lax.fori_loop(0, 5, lambda _, held: jnp.tanh(held @ held), x)

def example_arguments():
    return (jax.ShapeDtypeStruct((8, 8), jnp.float32),)
"""


async def test_a_function_is_analysed_exported_packed_and_submitted(
    berth: Berth, system: FakeSystem, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    outcome = await berth("model", "analyse", "net:layer", "--out", "chat", "--accelerator", "h100-sxm", "-o", "json")
    assert (outcome.code, outcome.err) == (0, "")
    shown = json.loads(outcome.out)
    assert shown.keys() == {"model", "accelerators", "fits_any", "package"}
    assert shown["package"] == "chat"
    assert shown["model"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [8, 8]}]
    assert shown["model"]["analysis"]["operations"] == 5 * (2 * 8**3 + 64)
    assert [(one["name"], one["platform"], one["takes"]) for one in shown["accelerators"]] == [
        ("H100-SXM", "cuda", True)
    ]
    again = await berth("model", "show", "chat", "--accelerator", "h100-sxm", "-o", "json")
    assert json.loads(again.out) == {**shown, "package": None}

    table = (await berth("model", "show", "chat")).out
    for text in ("5.44 k (5.44 k fp32)", "lowered for  cpu, cuda, rocm, tpu", "MI300X", "TPU-v5p", "not on:", "Gaudi3"):
        assert text in table

    outcome = await berth("submit", "--model", "chat", "--latency-target", "50ms", "--dry-run")
    assert outcome.code == 0
    assert "accelerators.stacks: CUDA, ROCm, XLA, oneDNN" in outcome.err
    spec = system.placement.placed[0].spec
    assert spec.model.uri == str((tmp_path / "chat").resolve())
    assert spec.model.digest == shown["model"]["digest"]
    assert spec.latency_target.ToMilliseconds() == 50
    # It is all fp32, for which placement knows no peaks.
    assert not spec.HasField("character")


async def test_a_file_is_analysed_at_a_batch_size(berth: Berth, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_bytes())
    outcome = await berth("model", "analyse", "m.onnx", "--batch", "4", "--accelerator", "L4")
    assert (outcome.code, outcome.err) == (0, "")
    assert "operations   1.06 k (1.06 k fp32)" in outcome.out
    free = await berth("model", "analyse", "m.onnx", "--accelerator", "L4")
    assert "say its size with --batch" in free.out


async def test_misuse_says_what_to_do(berth: Berth, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "broken").write_bytes(b"no model at all")
    for arguments, text in (
        (("model", "analyse", "absent.bin"), "No such file"),
        (("model", "analyse", "broken"), "none of these"),
        (("model", "analyse", "net:other"), "it has layer"),
        (("model", "analyse", "net:layer", "--accelerator", "H100"), "nearest: H100"),
        (("model", "show", "."), "No such file"),
        (("submit", "--model", "absent"), "No such file"),
        (("submit", "--model", "a", "-f", "b"), "give one of"),
    ):
        outcome = await berth(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert text in outcome.err
