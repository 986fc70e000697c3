"""The fast parser says what prometheus_client's says, of the names it is asked for."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from berth.errors import InvalidInput
from telemetry_ingest.domain.exposition import Exposition, PageReader, parse, refuse_foreign

WANTED = {"m": "m", "wanted_total": "wanted", "g": "g"}


def test_lines_in_every_shape() -> None:
    page = parse(
        "# HELP m A help with {braces} and m 1\n"
        "# TYPE m gauge\n"
        'm{a="x",b="y",} 1\n'
        'other{a="x"} not-a-number\n'
        'm {a="a \\"quoted\\" \\\\ back\\nslash, } brace"} 2.5e3 1700000000123\n'
        "\n"
        "m NaN\n"
        "m{} +Inf\n"
        "  m -Inf\n"
        'm{a="x"} 3 # {trace_id="t"} 1\n'
        'wanted_total{a=""} 4\r\n',
        WANTED,
    )
    shown = [(name, labels, repr(value)) for name, labels, value in page.samples]
    assert shown == [
        ("m", {"a": "x", "b": "y"}, "1.0"),
        ("m", {"a": 'a "quoted" \\ back\nslash, } brace'}, "2500.0"),
        ("m", {}, "nan"),
        ("m", {}, "inf"),
        ("m", {}, "-inf"),
        ("m", {"a": "x"}, "3.0"),
        ("wanted", {"a": ""}, "4.0"),
    ]
    assert page.source_time == 1700000000.123


@pytest.mark.parametrize(
    "line",
    [
        'm{a="x} 1',
        'm{a="x"} one',
        'm{a="x"}',
        'm{a="x"} 1_000',
        'm{a="x"} 1 2 3',
        'm{a="x"} 1 soon',
        "m{a=x} 1",
        'm{a="x" b="y"} 1',
        'm{a="x"',
    ],
)
def test_a_broken_wanted_line_is_named(line: str) -> None:
    with pytest.raises(InvalidInput, match=r"line 2: .*the exporter's page is broken or cut off"):
        parse(f"g 1\n{line}\ng 2\n", WANTED)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("<html>x</html>", "", "starts with '<html>"),
        ("m 1\n", "text/html; charset=utf-8", "text/html"),
        ('{"m": 1}', "application/json", "application/json"),
        ("  \n", "", "is empty"),
        ("\x00\x01\x02", "", "is binary"),
    ],
)
def test_what_is_no_page_is_refused(text: str, kind: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        refuse_foreign(text, kind)


LABEL_VALUES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))
    | st.sampled_from(['"', "\\", "\n", "{", "}", ",", "#"]),
    max_size=12,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["m", "g", "unwanted"]),
            st.dictionaries(st.sampled_from(["a", "b", "cc"]), LABEL_VALUES, max_size=3),
            st.floats(allow_nan=True, allow_infinity=True),
        ),
        max_size=8,
    )
)
def test_agrees_with_the_reference_parser(rows: list[tuple[str, dict[str, str], float]]) -> None:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    lines = [
        name + "{" + ",".join(f'{key}="{escaped(value)}"' for key, value in labels.items()) + "} " + repr(number)
        for name, labels, number in rows
    ]
    text = "\n".join(lines) + "\n"
    reference = [
        (sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in WANTED
    ]
    ours = list(parse(text, WANTED).samples)
    key = lambda row: (row[0], sorted(row[1].items()), repr(row[2]))  # noqa: E731
    assert sorted(map(key, ours)) == sorted(map(key, reference))
    assert len(ours) == sum(name != "unwanted" for name, _, _ in rows)
    assert all(isinstance(value, float) or math.isnan(value) for _, _, value in ours)


LINES = st.sampled_from(
    [
        'm{a="x"} 1',
        'm{a="x"} 2',
        'm{a="y"} 1',
        'm{a="x"} 1 1700000000000',
        'm{a="x"} 3 # {t="u"} 1',
        'm{a="x"} 3 # {t="u"} 4',
        'm{a="}"} 5',
        'm{a="x"} broken',
        'm{a="x"} 1_0',
        'm {a="x"} 6',
        'g{b="x"} NaN',
        'unwanted{a="x"} 1',
        'other{a="x"} 1',
        "m 7",
        "# HELP m {x} 1",
        "",
    ]
)


@given(st.lists(st.lists(LINES, max_size=4).map("\n".join), min_size=1, max_size=6))
def test_what_is_read_never_depends_on_the_page_before(texts: list[str]) -> None:
    def outcome(read: Callable[[str], Exposition], text: str) -> str:
        try:
            return repr(read(text))
        except InvalidInput as error:
            return str(error)

    reader = PageReader(WANTED)
    for text in texts:
        expected = outcome(lambda text: parse(text, WANTED), text)
        assert outcome(reader.read, text) == expected
        assert outcome(reader.read, text) == expected
