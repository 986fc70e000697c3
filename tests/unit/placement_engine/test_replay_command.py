"""`berth debug replay`, as typed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from placement_engine.domain import snapshot
from placement_engine.domain.journal import Recorder
from placement_engine.domain.model import CycleResult
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node


def replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "berth.cli.main", "debug", "replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def recorded() -> Recorder:
    engine = Recorder()
    engine.apply_node(a_node("n1", 4))
    for number in range(3):
        engine.submit(a_job(f"j{number}", devices=1, attempt=1, submitted_at=float(number)))
        engine.cycle(NOW + number)
    return engine


def write(engine: Recorder, path: Path) -> str:
    path.write_bytes(snapshot.to_bytes(snapshot.dump(engine, NOW)))
    return str(path)


def test_the_last_decisions_are_made_again(tmp_path: Path) -> None:
    file = write(recorded(), tmp_path / "a.snapshot")
    done = replay(file)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["TIME", "DECIDED", "JOB", "ATTEMPT", "WHERE", "WHY"]
    assert [line.split()[:5] for line in lines[1:4]] == [
        [f"{NOW + number:.3f}", "place", f"j{number}", "1", "n1"] for number in range(3)
    ]
    assert lines[-1] == "equal: 7 events, 3 cycles, 3 decisions"
    told = json.loads(replay(file, "--last", "1", "-o", "json").stdout)
    assert (told["equal"], told["difference"], [one["job"] for one in told["decided"]]) == (True, None, ["j2"])


def test_a_decision_that_was_altered_is_shown_and_fails(tmp_path: Path) -> None:
    engine = recorded()
    event = next(event for event in engine._fresh if event.method == "cycle")
    assert isinstance(event.answer, CycleResult)
    event.answer = replace(event.answer, decisions=())
    done = replay(write(engine, tmp_path / "a.snapshot"))
    assert done.returncode == 1
    assert "DIFFERENT at event 2 (cycle)" in done.stdout


def test_a_state_that_was_altered_fails_though_no_answer_shows_it(tmp_path: Path) -> None:
    engine = recorded()
    engine._fleet.nodes["n1"].used_cpu += 1
    done = replay(write(engine, tmp_path / "a.snapshot"))
    assert done.returncode == 1
    assert "but not the state" in done.stdout


@pytest.mark.parametrize("content", [b"", b"{}", b"\x1f\x8b"])
def test_what_is_no_snapshot_is_misuse(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    done = replay(str(tmp_path / "a"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "no snapshot" in done.stderr


def test_a_snapshot_without_a_journal_is_misuse(tmp_path: Path) -> None:
    document = snapshot.dump(recorded())
    del document["journal"]
    (tmp_path / "a").write_bytes(snapshot.to_bytes(document))
    done = replay(str(tmp_path / "a"))
    assert done.returncode == 2
    assert "no journal" in done.stderr


def test_help_is_the_replay_s_own() -> None:
    done = replay("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: berth debug replay [OPTIONS] FILE")
