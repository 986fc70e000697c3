"""What an engine was told and what it decided, so that its last decisions can be made again elsewhere.

A Recorder is an Engine that notes each event before it takes it, and the answer after. It keeps a picture of
itself and the events since; when those are too many it takes a fresh picture and drops the older half. So at
any time between half of `limit` and `limit` events can be replayed, once so many have come. A fresh picture
pauses the engine for some 0.3 ms a node: a fleet of thousands of nodes wants a large limit, or 0, no journal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from placement_engine.domain.encoding import Reader, Writer
from placement_engine.domain.engine import Engine
from placement_engine.domain.model import CycleResult
from placement_engine.domain.pictures import Picture, capture, revive
from placement_engine.domain.policy import Policy

__all__ = ["INPUTS", "READOUTS", "Difference", "Event", "Journal", "Recorder", "Replay", "replay"]

LIMIT = 20_000

INPUTS = (
    "apply_node",
    "remove_node",
    "apply_sample",
    "set_power_domains",
    "set_queues",
    "set_profiles",
    "put_profile",
    "set_accelerators",
    "submit",
    "withdraw",
    "release",
    "restore",
    "undo",
    "started",
    "ending",
    "undo_preemption",
    "leaving",
    "members_gone",
    "undo_resize",
    "restore_usage",
    "cycle",
)
"""Methods of Engine that change what it decides; each call is an event."""

READOUTS = (
    "usage_history",
    "dry_run",
    "survey",
    "member_on",
    "explain",
    "pool",
    "waiting",
    "is_waiting",
    "holds",
    "gang_size",
    "grows_with_time",
    "node_names",
    "node_view",
    "queue_usage",
    "device_verdicts",
    "matching_capacity",
    "situation",
    "state_digest",
)
"""Members of Engine that change nothing it decides by."""


@dataclass(slots=True)
class Event:
    """One call and its answer: a CycleResult, None, or the text of the error it raised."""

    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Journal:
    """A picture and all events since, in order."""

    base: Picture
    events: tuple[Event, ...]

    def write(self, writer: Writer) -> dict[str, Any]:
        return {
            "base": writer.picture(self.base),
            "events": [
                [one.method, writer.value(one.arguments), writer.value(dict(one.options)), writer.value(one.answer)]
                for one in self.events
            ],
        }

    @classmethod
    def read(cls, written: Mapping[str, Any], reader: Reader) -> "Journal":
        events = []
        for method, arguments, options, answer in written["events"]:
            if method not in INPUTS:
                raise ValueError(f"event {method!r} is none of {', '.join(INPUTS)}")
            events.append(Event(method, reader.value(arguments), reader.value(options), reader.value(answer)))
        return cls(reader.picture(written["base"]), tuple(events))


class Recorder(Engine):
    """An Engine with a journal of what it was told and decided."""

    # Slots, so that the journal is no part of what the engine decides by.
    __slots__ = ("_deep", "_fresh", "_limit", "_middle", "_old", "_start")

    def __init__(self, policy: Policy = Policy(), pool: str = "default", *, limit: int = LIMIT) -> None:  # noqa: B008
        super().__init__(policy, pool)
        self._limit = limit
        self._deep = False
        self._start = capture(self)
        self._middle: Picture | None = None
        self._old: list[Event] = []
        self._fresh: list[Event] = []

    @property
    def records(self) -> bool:
        return self._limit > 0

    @property
    def journal(self) -> Journal:
        """The last events, from the oldest picture that is kept."""
        return Journal(self._start, (*self._old, *self._fresh))

    def _record(self, method: str, call: Callable[..., Any], arguments: tuple[Any, ...], options: Any) -> Any:
        if self._deep or not self._limit:  # called by another event, which is the one that was told
            return call(self, *arguments, **options)
        if len(self._fresh) >= max(1, self._limit // 2):
            self._rebase()
        if arguments and not isinstance(arguments[0], (str, float, int)) and method.startswith("set_"):
            arguments = (tuple(arguments[0]), *arguments[1:])  # may be read only once
        event = Event(method, arguments, options)
        self._fresh.append(event)
        self._deep = True
        try:
            event.answer = call(self, *arguments, **options)
        except Exception as error:
            event.answer = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._deep = False
        return event.answer

    def _rebase(self) -> None:
        if self._middle is not None:
            self._start, self._old = self._middle, self._fresh
        else:
            self._old = self._fresh
        self._middle, self._fresh = capture(self), []


def _recording(method: str) -> Callable[..., Any]:
    call = getattr(Engine, method)

    def recorded(self: Recorder, *arguments: Any, **options: Any) -> Any:
        return self._record(method, call, arguments, options)

    recorded.__name__, recorded.__doc__ = method, call.__doc__
    return recorded


for _method in INPUTS:
    setattr(Recorder, _method, _recording(_method))


@dataclass(frozen=True, slots=True)
class Difference:
    """The first answer that is another one than was recorded. Texts of both, from where they part."""

    event: int
    method: str
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class Replay:
    """`answers` as decided now, up to and with the first that differs."""

    events: int
    cycles: tuple[CycleResult, ...]
    difference: Difference | None
    engine: Engine

    @property
    def equal(self) -> bool:
        return self.difference is None


def replay(journal: Journal) -> Replay:
    """Makes the events happen again on the journal's picture, and compares each answer byte for byte."""
    engine = revive(journal.base)
    cycles = []
    for number, event in enumerate(journal.events):
        try:
            answer = getattr(engine, event.method)(*event.arguments, **event.options)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if isinstance(answer, CycleResult):
            cycles.append(answer)
        was, now = as_text(event.answer), as_text(answer)
        if was != now:
            return Replay(number + 1, tuple(cycles), _difference(number, event.method, was, now), engine)
    return Replay(len(journal.events), tuple(cycles), None, engine)


def as_text(answer: Any) -> str:
    """Equal texts are equal answers: repr gives every float to the last bit."""
    return repr(answer)


def _difference(number: int, method: str, was: str, now: str) -> Difference:
    at = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    at = max(0, at - 60)
    return Difference(number, method, was[at : at + 200], now[at : at + 200])


def decided(cycles: Sequence[CycleResult]) -> int:
    """Number of decisions."""
    return sum(len(cycle.decisions) for cycle in cycles)
