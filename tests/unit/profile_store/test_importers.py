"""Readers: Gavel's table and our own file. A document is read whole or refused whole."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from profile_store.domain.importers import read
from profile_store.domain.profile import Profile, ProfileKey, Provenance
from profile_store.domain.validation import validate
from tests.unit.profile_store.builders import NOW, TABLE


def steps(workload: str, kind: str, devices: int, other: str, speed: float) -> Profile:
    model, _, batch = workload.removesuffix(")").partition(" (batch size ")
    return Profile(
        key=ProfileKey(workload, kind, devices, other),
        provenance=Provenance.MEASURED,
        source="table.json",
        task="training",
        throughput=speed,
        throughput_unit="steps/s",
        model=model,
        batch_size=int(batch),
    )


RESNET, LM = "ResNet-50 (batch size 64)", "LM (batch size 10)"


def test_a_gavel_table() -> None:
    imported = read("gavel", json.dumps(TABLE).encode(), "table.json")
    assert set(imported.profiles) == {
        steps(RESNET, "v100", 1, "", 5.5),
        steps(RESNET, "v100", 1, LM, 4.0),
        steps(RESNET, "v100", 1, RESNET, 3.0),
        steps(LM, "v100", 1, "", 3.25),
        steps(LM, "v100", 1, RESNET, 2.5),
        steps(LM, "v100", 4, "", 9.75),
        steps(LM, "k80", 1, "", 0.5),
    }
    assert imported.skipped == (
        "k80: 1 pairs: 0 steps/s, which says that they do not run there",
        "k80_unconsolidated: 1 jobs: devices spread over servers have no key of their own in a profile",
    )


JOB = "('LM', 1)"


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("", "content"),
        ("  \n", "content"),
        ("<html>busy</html>", "content"),
        ("[]", "content"),
        ("{}", "content"),
        ('{"v100": []}', "v100"),
        ('{"v100": {}}', "v100"),
        ('{"v100": {"LM": {"null": 1}}}', "v100[LM]"),
        ('{"v100": {"(\'LM\', True)": {"null": 1}}}', "v100[('LM', True)]"),
        ('{"v100": {"__import__(\'os\')": {"null": 1}}}', "v100[__import__('os')]"),
        ('{"v100": {"' + "(" * 350 + '": {"null": 1}}}', "v100[" + "(" * 350 + "]"),
        (f'{{"v100": {{"{"x" * 500}": {{"null": 1}}}}}}', ("v100[" + "x" * 500)[:80]),
        (f'{{"v100": {{"{JOB}": {{"null": "fast"}}}}}}', f"v100[{JOB}][null]"),
        (f'{{"v100": {{"{JOB}": {{"null": true}}}}}}', f"v100[{JOB}][null]"),
        (f'{{"v100": {{"{JOB}": {{"null": 1{"0" * 400}}}}}}}', f"v100[{JOB}][null]"),
        (f'{{"v100": {{"{JOB}": {{"null": NaN}}}}}}', "content"),
        (f'{{"v100": {{"{JOB}": {{"null": 1, "null": 2}}}}}}', "content"),
        (f'{{"v100": {{"{JOB}": {{"{JOB}": 1}}}}}}', f"v100[{JOB}][{JOB}]"),
        (f'{{"v100": {{"{JOB}": {{"{JOB}": [1, null]}}}}}}', f"v100[{JOB}][{JOB}]"),
        (f'{{"v100": {{"{JOB}": {{"(\'LM\', 2)": [1, 1]}}}}}}', f"v100[{JOB}][('LM', 2)]"),
        (f'{{"v100_unconsolidated": {{"{JOB}": {{"null": 1}}}}}}', "content"),
        ("[" * 100_000, "content"),
        ('{"\\ud800": {}}', "\\ud800"),
    ],
)
def test_what_is_no_gavel_table_is_refused(content: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read("gavel", content.encode(), "x")
    assert [one.field for one in caught.value.errors] == [field]
    str(caught.value).encode()


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not UTF-8 at byte 1"):
        read("gavel", b"{\xff}", "x")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="format: 'xlsx': one of mlperf, torch, aiperf"):
        read("xlsx", b"x", "x")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["v100", JOB, "null", "('A', -1)", "x"]), inner, max_size=3)
    ),
)


@given(json_values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    errors: tuple[FieldError, ...] = ()
    try:
        assert read("gavel", json.dumps(value).encode(), "x").profiles
    except InvalidInput as error:
        errors = error.errors
    assert all(one.field and one.remedy for one in errors)


def test_the_real_table(data_folder: Path) -> None:
    path = data_folder / "gavel" / "simulation_throughputs.json"
    imported = read("gavel", path.read_bytes(), "gavel")
    stored = {one.key: one.throughput for one in validate(imported.profiles, catalogue, now=NOW)}
    table = json.loads(path.read_text())
    expected = {}
    for kind, name in (("k80", "K80"), ("p100", "P100"), ("v100", "V100-16")):
        for text, row in table[kind].items():
            workload, _, devices = text[1:-1].rpartition(", ")
            for other, value in row.items():
                speed = value if other == "null" else value[0]
                partner = "" if other == "null" else other[1:-1].rpartition(", ")[0].strip("'")
                batch = workload.strip("'").removesuffix(")").partition(" (batch size ")[2]
                if speed:
                    run = f"batch={batch}" if batch else ""
                    expected[ProfileKey(workload.strip("'"), name, int(devices), partner, run)] = speed
    assert stored == expected
    assert stored[ProfileKey("ResNet-18 (batch size 16)", "V100-16", 1, "", "batch=16")] == 32.353384328946916


OWN = """
workloads:
  - workload: w
    task: inference
    unit: tokens/s
    provenance: measured
    measured_at: 2026-02-01T10:00:00Z
    runs:
      - {accelerator: L4, throughput: 10, latency_p99_ms: 250, memory_gib: 2, power_watts: 60}
      - {accelerator: L40S, devices: 2, latency_p50_ms: 20, source: somebody}
"""


def test_our_own_file() -> None:
    first, second = read("yaml", OWN.encode(), "w.yaml").profiles
    assert (first.key, first.throughput, first.throughput_unit, first.latency_p99_seconds) == (
        ProfileKey("w", "L4", 1),
        10.0,
        "tokens/s",
        0.25,
    )
    assert (first.memory_bytes, first.power_watts, first.source) == (2 * 2**30, 60.0, "w.yaml")
    assert (second.key, second.throughput, second.throughput_unit, second.source) == (
        ProfileKey("w", "L40S", 2),
        None,
        "",
        "somebody",
    )
    assert first.measured_at == second.measured_at
    assert first.measured_at is not None
    assert first.measured_at.isoformat() == "2026-02-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("throughput: 10", "throughput: fast", r"workloads\[0\].runs\[0\].throughput: \"'fast'\""),
        ("throughput: 10", "througput: 10", "througput: '10': unknown key"),
        ("devices: 2", "devices: 2.5", "devices: '2.5': a whole number"),
        ("devices: 2", "devices: .nan", "devices: 'nan': a count"),
        ("workload: w", "workload: 7", "workload: '7': a text"),
        ("provenance: measured", "provenance: guessed", "provenance: 'guessed': one of measured"),
        ("2026-02-01T10:00:00Z", "yesterday", "measured_at: 'yesterday'"),
        ("workloads:", "jobs:", "one key `workloads`"),
        ("    runs:", "    walks:", r"workloads\[0\].runs: 'None': a list"),
        ("task: inference", "task: [", "not YAML"),
        ("task: inference", "1: inference", "a mapping was expected"),
        ("task: inference", 'task: "\\ud800"', "task: "),
    ],
)
def test_a_broken_file_of_our_own_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        validate(read("yaml", OWN.replace(old, new).encode(), "x").profiles, catalogue, now=NOW)
    str(caught.value).encode()


def test_a_large_file_of_our_own_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidInput, match="split it"):
        read("yaml", b"x" * 1_000_001, "x")


def test_the_demo_profiles_are_sound_and_marked_as_declared() -> None:
    content = (importlib.resources.files("profile_store") / "seed.yaml").read_bytes()
    profiles = validate(read("yaml", content, "x").profiles, catalogue, now=NOW)
    assert {one.key.workload for one in profiles} == {
        "llama-8b-finetune",
        "resnet50-train",
        "llama-8b-serve",
        "bert-embed",
    }
    assert {one.key.accelerator for one in profiles} == {
        "H100-SXM",
        "A100-80-SXM",
        "L40S",
        "L4",
        "MI300X",
        "Gaudi3",
    }
    assert {(one.provenance, one.source) for one in profiles} == {(Provenance.DECLARED, "declared for the demo")}
    for one in profiles:
        entry = catalogue.by_name(one.key.accelerator)
        assert entry is not None
        assert entry.tdp_watts is not None
        assert one.peak_power_watts is not None
        assert one.peak_power_watts <= entry.tdp_watts
