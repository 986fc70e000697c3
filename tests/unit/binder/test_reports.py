"""Reports of commands: lines, gangs, and files that are read once."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from binder.domain.executor import Reading
from binder.domain.report import Line, Speed, complete, joined, parse_line
from binder.executors import reports
from binder.executors.reports import read_reports


def line(units: float = 10.0, seconds: float = 2.0, **changes: Any) -> bytes:
    return json.dumps({"units": units, "unit": "steps", "seconds": seconds, **changes}).encode() + b"\n"


def test_a_line_says_what_was_done() -> None:
    text = line(120, 10.5, batch_size=64, precision="fp16", software_stack="CUDA 12", scope="gang", note="unknown")
    assert parse_line(text) == Line(120.0, "steps", 10.5, True, 64, "fp16", "CUDA 12")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"units=3", "line"),
        (b"[1]", "line"),
        (b"\xff\xfe", "line"),
        (b"[" * 100_000, "line"),
        (line(0), "units"),
        (line(-3), "units"),
        (line(float("nan")), "units"),
        (line(float("inf")), "units"),
        (line(1e30), "units"),
        (b'{"units": 1' + b"0" * 400 + b', "unit": "steps", "seconds": 1}', "units"),
        (b'{"units": true, "unit": "steps", "seconds": 1}', "units"),
        (b'{"units": "1,5", "unit": "steps", "seconds": 1}', "units"),
        (line(seconds=0), "seconds"),
        (line(unit="furlongs"), "unit"),
        (b'{"units": 1, "unit": ["steps"], "seconds": 1}', "unit"),
        (line(batch_size=0), "batch_size"),
        (line(batch_size=2.5), "batch_size"),
        (line(precision="a|b"), "precision"),
        (line(scope="rack"), "scope"),
        (line(latency_p99_seconds=-1), "latency_p99_seconds"),
    ],
)
def test_what_is_no_report_is_refused_by_name(text: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_line(text)
    assert [error.field for error in caught.value.errors] == [field]


@given(st.binary(max_size=60) | st.from_type(dict).map(lambda value: repr(value).encode()))
def test_any_bytes_are_a_line_or_refused(text: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert parse_line(text).units > 0


def a_line(units: float, seconds: float, **changes: Any) -> Line:
    return Line(units, "samples", seconds, **changes)


def test_the_rates_of_members_are_added_over_their_mean_seconds() -> None:
    lines = {0: [a_line(100, 10), a_line(100, 10)], 1: [a_line(300, 10)]}
    assert complete(lines, 2)
    (speed,) = joined(lines, 2)
    assert speed == Speed(units=600.0, unit="samples", seconds=15.0, members_counted=2, source="report")


def test_quantiles_of_several_lines_are_bounded_by_the_slowest_and_never_averaged() -> None:
    quick = a_line(900, 10, latency_p50_seconds=0.1, latency_p90_seconds=0.3, latency_p99_seconds=0.4)
    slow = a_line(100, 10, latency_p50_seconds=0.2, latency_p90_seconds=0.2, latency_p99_seconds=0.9)
    (speed,) = joined({0: [quick, a_line(5, 1)], 1: [slow]}, 2)
    assert (speed.latency_p50_seconds, speed.latency_p90_seconds, speed.latency_p99_seconds) == (0.2, 0.3, 0.9)
    # What one of them does not tell is unknown of all: its requests may be the slowest.
    (speed,) = joined({0: [quick], 1: [a_line(1, 1, latency_p50_seconds=7.0)]}, 2)
    assert (speed.latency_p50_seconds, speed.latency_p90_seconds, speed.latency_p99_seconds) == (7.0, None, None)


def test_a_gang_of_which_a_member_is_silent_is_not_whole() -> None:
    lines: dict[int, list[Line]] = {0: [a_line(100, 10)], 1: []}
    assert not complete(lines, 2)
    assert joined(lines, 2)[0].members_counted == 1


def test_a_line_that_speaks_for_the_gang_is_enough_and_not_added_to() -> None:
    lines = {0: [a_line(1, 10)], 1: [a_line(100, 10, gang=True)], 2: [a_line(100, 10, gang=True)]}
    assert complete(lines, 3)
    (speed,) = joined(lines, 3)
    assert (speed.units, speed.seconds, speed.members_counted) == (100.0, 10.0, 3)


def test_what_was_run_otherwise_is_told_apart() -> None:
    lines = {0: [a_line(10, 1, batch_size=1), a_line(60, 1, batch_size=8), a_line(20, 2, batch_size=1)]}
    assert [(speed.batch_size, speed.units, speed.seconds) for speed in joined(lines, 1)] == [(1, 30, 3), (8, 60, 1)]


# Files


class Folders:
    """The folders of an attempt's members, and the mark that was kept last."""

    def __init__(self, root: Path, members: int = 1) -> None:
        self.paths = {member: root / str(member) for member in range(members)}
        for path in self.paths.values():
            path.mkdir()
        self.mark = ""

    def write(self, text: bytes, member: int = 0) -> None:
        with (self.paths[member] / "report").open("ab") as file:
            file.write(text)

    def read(self, *, ended: bool = False, keep: bool = True) -> Reading | None:
        reading = read_reports(self.paths, self.mark, ended=ended)
        if reading is not None and keep:
            self.mark = reading.mark
        return reading

    def units(self, *, ended: bool = False, keep: bool = True) -> float:
        reading = self.read(ended=ended, keep=keep)
        return 0.0 if reading is None else sum(speed.units for speed in reading.speeds)

    def stderr(self, member: int = 0) -> list[str]:
        path = self.paths[member] / "stderr"
        return path.read_text().splitlines() if path.exists() else []


def test_each_line_is_read_once_and_a_half_written_one_waits(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    assert folders.read() is None
    folders.write(line(10) + line(20) + line(5)[:-4])
    assert folders.units(keep=False) == 30
    assert folders.units() == 30, "a reading that was not kept is made again"
    assert folders.read() is None
    folders.write(line(5)[-4:])
    assert folders.units() == 5
    folders.write(line(7).strip())
    assert folders.read() is None
    assert folders.units(ended=True) == 7, "nobody will end it any more"
    assert folders.read(ended=True) is None


def test_lines_wait_for_those_of_the_other_members(tmp_path: Path) -> None:
    folders = Folders(tmp_path, members=2)
    folders.write(line(10), member=0)
    assert folders.read() is None
    folders.write(line(30), member=1)
    reading = folders.read()
    assert reading is not None
    assert [(speed.units, speed.members_counted) for speed in reading.speeds] == [(40.0, 2)]
    folders.write(line(10), member=0)
    assert folders.read() is None
    reading = folders.read(ended=True)
    assert reading is not None
    assert [(speed.units, speed.members_counted) for speed in reading.speeds] == [(10.0, 1)]


def test_what_is_no_report_is_said_once_in_the_jobs_log_and_is_not_fatal(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.write(line(10) + b"epoch 1 done\n" + line(-1) + b"\n" + line(20))
    assert folders.units() == 30
    assert folders.read() is None
    assert [text.partition(" is left out: ")[0] for text in folders.stderr()] == ["berth: report 2", "berth: report 3"]
    assert "units: '-1'" in folders.stderr()[1]
    folders.write(b"x\n" * 500)
    assert folders.read() is not None
    assert len(folders.stderr()) == reports.MOST_NOTICES + 1


def test_so_many_kinds_are_told_and_no_more(tmp_path: Path) -> None:
    """A file of two hundred thousand kinds became as many records and estimates."""
    folders = Folders(tmp_path)

    def told(*batches: int) -> list[int | None]:
        folders.write(b"".join(line(batch_size=batch) for batch in batches))
        reading = folders.read()
        return [] if reading is None else [speed.batch_size for speed in reading.speeds]

    for start in range(1, 120, 10):
        kept = reports.MOST_KINDS if start < 80 else 0
        assert told(*range(start, start + 10)) == list(range(start, start + kept))
    assert len(json.loads(folders.mark)["kinds"]) == reports.MOST_KINDS_OF_ATTEMPT
    assert told(1, 1000) == [1], "a kind that is known is told still"
    assert ["at most 8 kinds at once and 64 an attempt" in one for one in folders.stderr()] == [True]


def test_a_mark_of_an_older_binder_is_read(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.write(line(10) + line(20))
    folders.mark = json.dumps({"0": [len(line(10)), 1, 0]})
    assert folders.units() == 20


def test_a_file_larger_than_one_look_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "AT_ONCE", 200)
    folders = Folders(tmp_path)
    folders.write(line(1) * 30 + b"y" * 900 + b"\n" + line(1) * 3)
    total, looks = 0.0, 0
    while (reading := folders.read(ended=True)) is not None:
        total += sum(speed.units for speed in reading.speeds)
        looks += 1
    assert total == 33
    assert looks > 5


@pytest.mark.parametrize("kind", ["absent", "folder", "link", "pipe"])
def test_a_file_that_is_none_tells_nothing(tmp_path: Path, kind: str) -> None:
    folders = Folders(tmp_path)
    path = folders.paths[0] / "report"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "secret").write_bytes(line())
        path.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(path)
    assert folders.read(ended=True) is None


def test_a_file_that_was_written_anew_is_read_from_its_start(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.write(line(10) * 5)
    assert folders.units() == 50
    (folders.paths[0] / "report").write_bytes(line(3))
    assert folders.units() == 3
