"""Bare StableHLO as an artefact of jax.export."""

import pytest

from berth import catalogue
from berth.backends import xla
from berth.errors import InvalidInput
from berth.models import formats
from berth.models.portable import portable_of

TEXT = """
module @double attributes {mhlo.num_partitions = 1 : i32} {
  func.func public @main(%x: tensor<4xf64>) -> tensor<4xf64> {
    %0 = stablehlo.add %x, %x : tensor<4xf64>
    return %0 : tensor<4xf64>
  }
}
"""


def test_it_says_the_same_and_runs_where_it_was_made_for() -> None:
    import jax
    import jax.export

    made = portable_of(TEXT.encode(), "double", "rocm")
    bare, whole = (formats.read(one, "double", "double") for one in (TEXT.encode(), made))
    assert (whole.format, whole.platforms) == ("jax-export", ("rocm",))
    assert [(one.dtype, one.shape) for one in whole.inputs] == [(one.dtype, one.shape) for one in bare.inputs]
    assert whole.analysis == bare.analysis
    here = portable_of(TEXT.encode(), "double", "cpu")
    with jax.enable_x64(True):
        values = jax.numpy.array([0.1, 1.0, 2.0, 3.0], "float64")
        (answer,) = jax.export.deserialize(bytearray(here)).call(values)
        assert answer.dtype == "float64"
        assert answer.tolist() == (values * 2).tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT.replace("num_partitions = 1", "num_partitions = 2"), "mhlo.num_partitions: '?2'?.*several devices"),
        (TEXT.replace("4xf64", "?xf64"), "shape: .*input_0.*write the sizes into the program"),
        (
            TEXT.replace("stablehlo.add %x, %x :", '"unheard.of"(%x, %x) :').replace(
                "tensor<4xf64>\n    return", "(tensor<4xf64>, tensor<4xf64>) -> tensor<4xf64>\n    return"
            ),
            "file: .*no StableHLO: lower it to StableHLO alone",
        ),
        ("module {", "file: "),
    ],
)
def test_what_cannot_be_made_one_is_refused_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        portable_of(text.encode(), "double", "cpu")


def test_the_backend_takes_it_but_for_free_dimensions() -> None:
    cpu = catalogue.by_name("CPU")
    assert cpu is not None
    assert xla.backend().can_run(formats.read(TEXT.encode(), "double", "m.mlir"), cpu).can
    free = formats.read(TEXT.replace("4xf64", "?xf64").encode(), "double", "m.mlir")
    (reason,) = xla.backend().can_run(free, cpu).reasons
    assert reason.startswith("shape: input_0, output_0: StableHLO with a free dimension is not served: write its size")
