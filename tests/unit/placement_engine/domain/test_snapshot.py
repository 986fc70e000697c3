"""A snapshot is the whole engine: what it decides later, and what it decided last."""

import importlib
import inspect
import json
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule

from placement_engine.domain import pictures, snapshot
from placement_engine.domain.engine import Engine
from placement_engine.domain.journal import INPUTS, READOUTS, Journal, Recorder, replay
from placement_engine.domain.model import CycleResult, Queue, Quota
from placement_engine.domain.policy import Policy
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node, a_sample, an_engine
from tests.unit.placement_engine.domain.test_properties import TwoEngines


def through_a_file(engine: Engine) -> Engine:
    return snapshot.load(snapshot.from_bytes(snapshot.to_bytes(snapshot.dump(engine))))


class DumpedInTheMiddle(TwoEngines):
    """Random events; again and again the second engine is made anew from a dump of the first, which records."""

    def __init__(self) -> None:
        super().__init__()
        self.cached = Recorder(self.cached._policy, limit=12)
        self.plain = through_a_file(self.cached)

    @rule()
    def dump_and_load(self) -> None:
        self.plain = through_a_file(self.cached)

    @rule()
    def capture_and_revive(self) -> None:
        self.plain = pictures.revive(pictures.capture(self.cached))

    @rule()
    def replay_what_was_recorded(self) -> None:
        journal = snapshot.journal_of(json.loads(json.dumps(snapshot.dump(self.cached))))
        assert journal is not None
        assert len(journal.events) <= 12
        done = replay(journal)
        assert done.difference is None
        assert done.engine.state_digest() == self.cached.state_digest()


DumpedInTheMiddle.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestDumpedInTheMiddle = DumpedInTheMiddle.TestCase


def busy(recorder: Engine) -> Engine:
    recorder.set_queues([Queue("a", quotas=(Quota("H100", 4000),)), Queue("b", weight=2.0)])
    for name in ("n1", "n2"):
        recorder.apply_node(a_node(name, 4, rack="r0", telemetry_exempt=False))
        recorder.apply_sample(a_sample(name, {"power_watts": 60.0, "margin_celsius": 4.0}, {"power_watts": 71.5}))
    for number in range(5):
        recorder.submit(a_job(f"j{number}", devices=2, queue="ab"[number % 2], submitted_at=float(number)))
    recorder.cycle(NOW)
    recorder.submit(a_job("gang", replicas=2, devices=4, not_before=NOW + 5))
    recorder.cycle(NOW + 1)
    return recorder


def test_the_same_engine_gives_the_same_bytes() -> None:
    first, second = (snapshot.to_bytes(snapshot.dump(busy(Recorder()))) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(snapshot.from_bytes(first), allow_nan=False)) == snapshot.from_bytes(first)


def test_a_picture_does_not_move_with_the_engine() -> None:
    engine = busy(Engine())
    picture, digest = pictures.capture(engine), engine.state_digest()
    engine.release("j0")
    assert engine.state_digest() != digest
    assert pictures.revive(picture).state_digest() == digest, "columns are copied too"
    engine.cycle(NOW + 2)
    assert pictures.revive(picture).state_digest() == digest
    assert pictures.revive(picture).state_digest() == digest, "a picture can be revived more than once"


def test_what_a_snapshot_cannot_keep_is_refused_with_its_path() -> None:
    engine = busy(Engine())
    engine._queues.order["x"] = lambda: None  # type: ignore[assignment]
    with pytest.raises(snapshot.SnapshotError, match=r"engine\._queues\.order: a builtins\.function cannot be kept"):
        snapshot.dump(engine)


def test_an_attribute_that_is_new_is_kept() -> None:
    """Whatever a part of the core comes to hold is state, until somebody names it in DERIVED."""
    engine = busy(Engine())
    engine._fleet.what_others_add = {"x": [OrderedDict(a=(1, 2.5)), Policy()]}  # type: ignore[attr-defined]
    kept: Any = through_a_file(engine)._fleet
    assert kept.what_others_add == {"x": [OrderedDict(a=(1, 2.5)), Policy()]}


def test_what_is_derived_is_an_attribute_and_starts_empty() -> None:
    for name, fresh in pictures.DERIVED.items():
        module, kind, attribute = name.split(".")
        source = inspect.getsource(getattr(importlib.import_module(f"{pictures.PACKAGE}.{module}"), kind))
        assert f"self.{attribute}" in source, f"{name} is no attribute any more"
        assert not fresh()


def test_every_member_of_the_engine_is_an_event_or_changes_nothing() -> None:
    """A new method of Engine has to say which: one that changes what is decided is recorded."""
    public = {name for name in dir(Engine) if not name.startswith("_")}
    assert public == {*INPUTS, *READOUTS}


def test_a_snapshot_of_another_layout_is_refused() -> None:
    document = snapshot.dump(busy(Engine()))
    for entry in document["classes"]:
        if entry[0] == "model.Job":
            entry[1].remove("priority")
    with pytest.raises(snapshot.SnapshotError, match=r"model\.Job was another class .*\(priority\)"):
        snapshot.load(document)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no snapshot"),
        (b"\x1f\x8b broken", "no snapshot"),
        (b"[]", "no `engine`"),
        (b'{"format": 2, "engine": []}', "format 2"),
        (b'{"format": 1, "engine": []}', "damaged"),
        (b'{"format": 1, "classes": [["os.system", []]], "messages": [], "engine": []}', "has not"),
        (b'{"format": 1, "classes": [], "messages": [], "engine": [["popen"]]}', "unknown kind"),
    ],
)
def test_what_is_no_snapshot_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(snapshot.SnapshotError, match=message):
        snapshot.load(snapshot.from_bytes(content))


def test_replay_finds_a_decision_that_was_altered() -> None:
    recorder = busy(Recorder())
    assert isinstance(recorder, Recorder)
    journal = recorder.journal
    assert replay(journal).equal
    number = next(n for n, e in enumerate(journal.events) if e.method == "cycle")
    event = journal.events[number]
    assert isinstance(event.answer, CycleResult)
    first, *others = event.answer.decisions
    moved = replace(first, members=(replace(first.members[0], node="n9"), *first.members[1:]))
    altered = replace(event.answer, decisions=(moved, *others))
    events = list(journal.events)
    events[number] = replace_answer(event, altered)
    done = replay(Journal(journal.base, tuple(events)))
    assert done.difference is not None
    assert (done.difference.event, done.difference.method) == (number, "cycle")
    assert "'n9'" in done.difference.recorded
    assert "'n9'" not in done.difference.replayed


def replace_answer(event: Any, answer: Any) -> Any:
    return type(event)(event.method, event.arguments, event.options, answer)


def test_a_call_that_fails_is_replayed_as_such() -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="parent"):
        recorder.set_queues(Queue("a", parent=name) for name in ("nowhere",))
    assert [(e.method, e.arguments) for e in recorder.journal.events] == [
        ("set_queues", ((Queue("a", parent="nowhere"),),))
    ]
    assert replay(recorder.journal).equal


def test_the_journal_is_bounded_and_keeps_the_later_half() -> None:
    recorder = Recorder(limit=10)
    for number in range(33):
        recorder.withdraw(f"j{number}")
    events = recorder.journal.events
    assert 5 <= len(events) <= 10
    assert events[-1].arguments == ("j32",)


def test_a_limit_of_nothing_records_nothing() -> None:
    recorder = busy(Recorder(limit=0))
    assert isinstance(recorder, Recorder)
    assert recorder.journal.events == ()
    assert through_a_file(recorder).state_digest() == recorder.state_digest()
    assert snapshot.journal_of(snapshot.dump(recorder)) is None


def test_a_recorder_decides_as_an_engine() -> None:
    assert busy(Recorder()).state_digest() == busy(Engine()).state_digest()
    assert type(snapshot.load(snapshot.dump(busy(Recorder())))) is Engine
    assert snapshot.journal_of(snapshot.dump(an_engine())) is None
