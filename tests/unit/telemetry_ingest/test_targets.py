"""The targets file: what it may say, and what a mistake in it costs (nothing)."""

import json
from pathlib import Path

import pytest

from berth.errors import InvalidInput
from telemetry_ingest.adapters.target_file import TargetFile, read_targets
from telemetry_ingest.domain.targets import NodeDeclaration, Target, parse_targets

GOOD = """\
- node: gpu-007
  pool: gold
  topology: {rack: r01, zone: a}
  labels: {owner: vision, generation: 3}
  cpu_milli: 64000
  memory_bytes: 549755813888
  power_cap_watts: 6500.5
  executors: [simulated]
  scrape:
    - {url: "http://10.0.0.7:9400/metrics", format: dcgm}
    - http://10.0.0.7:9100/metrics
- node: bare
"""
PARSED = (
    NodeDeclaration(
        "gpu-007",
        "gold",
        (("rack", "r01"), ("zone", "a")),
        (("generation", "3"), ("owner", "vision")),
        64000,
        549755813888,
        6500.5,
        ("simulated",),
        (
            Target("gpu-007", "http://10.0.0.7:9400/metrics", "dcgm"),
            Target("gpu-007", "http://10.0.0.7:9100/metrics", "auto"),
        ),
    ),
    NodeDeclaration("bare"),
)


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text(GOOD)
    assert read_targets(path)[0] == PARSED
    path.write_text(json.dumps({"nodes": [{"node": "bare"}]}))
    assert read_targets(path)[0] == (NodeDeclaration("bare"),)
    path.write_text("")
    assert read_targets(path)[0] == ()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({}, r"\[0\].node: 'None': write a name"),
        ({"node": "a b"}, r"\[0\].node: 'a b': write a name"),
        ({"node": "a", "rak": 1}, r"\[0\].rak: '1': is no known key; use: cpu_milli"),
        ({"node": "a", "cpu_milli": -1}, r"\(a\).cpu_milli: '-1': write a number of at least 0"),
        ({"node": "a", "cpu_milli": "4"}, "cpu_milli: '4': write a number"),
        ({"node": "a", "power_cap_watts": float("nan")}, "power_cap_watts: 'nan': write a number"),
        ({"node": "a", "topology": ["r1"]}, "topology: .*write a mapping"),
        ({"node": "a", "executors": "simulated"}, "executors: 'simulated': write a list"),
        ({"node": "a", "scrape": [{"url": "ftp://x/"}]}, r"scrape\[0\].url: 'ftp://x/': write an http"),
        ({"node": "a", "scrape": [{"url": "http://x:99999/"}]}, r"scrape\[0\].url"),
        ({"node": "a", "scrape": [{"url": "http://x/", "format": "dgcm"}]}, "format: 'dgcm': use one of: auto, dcgm"),
        ({"node": "a", "scrape": {"url": "http://x/"}}, "scrape: .*write a list"),
        ("a", r"\[0\]: 'a': write a mapping"),
    ],
)
def test_a_mistake_is_named(entry: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_targets([entry])


def test_every_mistake_is_named_at_once() -> None:
    page = [{"url": "http://x/"}]
    with pytest.raises(InvalidInput) as caught:
        parse_targets([{"node": "a", "scrape": page}, {"node": "a"}, {"node": "b", "scrape": page}, {"node": ""}])
    assert [error.field for error in caught.value.errors] == ["[1].node", "[2].scrape", "[3].node"]
    with pytest.raises(InvalidInput, match="targets: 'dict': write a list"):
        parse_targets({"node": "a"})


async def test_a_broken_file_changes_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    taken: list[tuple[NodeDeclaration, ...]] = []

    async def take(declarations: tuple[NodeDeclaration, ...]) -> None:
        taken.append(declarations)

    watched = TargetFile(path, take)
    await watched.look()
    assert (taken, "No such file" in watched.error) == ([], True)
    path.write_text(GOOD)
    await watched.look()
    assert (taken, watched.error) == ([PARSED], "")
    path.write_text("- node: [unclosed\n")
    await watched.look()
    assert "no YAML or JSON" in watched.error
    assert "targets.yaml:2:1" in watched.error
    path.write_text("- {node: a, pol: x}\n")
    await watched.look()
    assert "[0].pol: 'x': is no known key" in watched.error
    path.unlink()
    await watched.look()
    assert taken == [PARSED]
    path.write_text(GOOD)
    await watched.look()
    # The same content again is no change.
    assert (taken, watched.error) == ([PARSED], "")
    path.write_text("- node: b\n")
    await watched.look()
    assert taken == [PARSED, (NodeDeclaration("b"),)]


async def test_a_change_that_could_not_be_stored_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text("- node: b\n")
    calls: list[int] = []

    async def fails_once(_: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the database is away")

    watched = TargetFile(path, fails_once)
    await watched.look()
    assert "the database is away" in watched.error
    await watched.look()
    await watched.look()
    assert (len(calls), watched.error) == (2, "")
