"""What Triton's text format may not hold."""

import pytest

from berth.errors import InvalidInput
from berth.models import pbtxt


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max_batch_size: 1\nx: nan", "nan"),
        ("x: -inf", "-inf"),
        ("x: 1e999", "1e999"),
        ("1x: 2", "1x"),
        ("x 1", "x"),
        ("x: [1, Infinity]", "Infinity"),
        ('parameters: "x"', "parameters"),
        ('parameters { value: { string_value: "x" } }', "parameters"),
        ("parameters: [1]", "parameters"),
        ('parameters { key: "a" value: "x" }', "parameters"),
    ],
)
def test_what_json_or_the_server_cannot_take_is_refused_with_its_line(text: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=r"config\.pbtxt line \d") as caught:
        pbtxt.parse(text)
    assert value in str(caught.value)


def test_numbers_and_maps() -> None:
    assert pbtxt.parse("x: 1" + 400 * "0") == {"x": 10**400}
    text = """x: 1e3 parameters { key: "a" value: { string_value: "b" } }
    parameters [{ key: "c" }] metric_tags { key: "t" value: "v" }"""
    assert pbtxt.parse(text) == {
        "x": 1000.0,
        "parameters": {"a": {"string_value": "b"}, "c": {}},
        "metric_tags": {"t": "v"},
    }
