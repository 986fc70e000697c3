from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder.domain.attempt import (
    ENDED,
    Attempt,
    Event,
    Lifecycle,
    LifecycleKind,
    Observation,
    Outcome,
    Seen,
    Settled,
    State,
    transition,
)
from tests.unit.binder.builders import make_attempt

observations = st.builds(
    Observation,
    seen=st.sampled_from(Seen),
    at=st.floats(1, 100),
    message=st.sampled_from(["", "because"]),
    exit_code=st.none() | st.integers(0, 255),
    retryable=st.booleans(),
    started_at=st.none() | st.floats(1, 100),
)


def run(attempt: Attempt, seen: list[Observation | None]) -> tuple[Attempt, list[Event]]:
    """None: a Release comes in."""
    told: list[Event] = []
    for observation in seen:
        if observation is None:
            attempt = replace(attempt, release_wanted=True)
            continue
        attempt, events = transition(attempt, observation)
        told.extend(events)
    return attempt, told


def is_end(event: Event) -> bool:
    if isinstance(event, Settled):
        return event.outcome is Outcome.FAILED
    return event.kind is not LifecycleKind.STARTED


@given(st.lists(st.none() | observations, max_size=12), st.integers(1, 5))
def test_whatever_is_seen_the_story_told_is_a_true_one(seen: list[Observation | None], number: int) -> None:
    attempt, told = run(make_attempt(attempt=number), seen)

    outcomes = [event.outcome for event in told if isinstance(event, Settled)]
    assert outcomes.count(Outcome.BOUND) <= 1
    assert outcomes.count(Outcome.UNKNOWN) <= 1
    ends = [place for place, event in enumerate(told) if is_end(event)]
    assert ends in ([], [len(told) - 1]), "nothing is told after an end"
    assert (attempt.state in ENDED) == bool(ends)
    versions = [event.version for event in told]
    assert versions == sorted(set(versions)), "versions rise"
    assert all(16 * number <= version < 16 * (number + 1) for version in versions), "attempts share no version"
    kinds = [event.kind for event in told if isinstance(event, Lifecycle)]
    if LifecycleKind.STARTED in kinds or LifecycleKind.SUCCEEDED in kinds:
        assert Outcome.BOUND in outcomes
    if LifecycleKind.FAILED in kinds:
        assert Outcome.BOUND in outcomes
        assert Outcome.FAILED not in outcomes


@given(st.lists(st.none() | observations, max_size=12), observations)
def test_seeing_the_same_again_tells_nothing_more(seen: list[Observation | None], last: Observation) -> None:
    once, _ = run(make_attempt(), [*seen, last])
    again, events = transition(once, last)
    assert events == ()
    assert again == once


LATE = Observation(Seen.SUCCEEDED, 9.0, started_at=3.0, exit_code=0)


@pytest.mark.parametrize(
    ("start", "seen", "state", "told"),
    [
        ({}, Observation(Seen.HELD, 2.0), State.BOUND, [Settled(16, Outcome.BOUND, 2.0)]),
        (
            {},
            Observation(Seen.STARTED, 2.0),
            State.RUNNING,
            [Settled(16, Outcome.BOUND, 2.0), Lifecycle(17, LifecycleKind.STARTED, 2.0)],
        ),
        (
            {},
            LATE,
            State.SUCCEEDED,
            [
                Settled(16, Outcome.BOUND, 3.0),
                Lifecycle(17, LifecycleKind.STARTED, 3.0),
                Lifecycle(18, LifecycleKind.SUCCEEDED, 9.0, exit_code=0),
            ],
        ),
        (
            {},
            Observation(Seen.REFUSED, 2.0, "no such node", retryable=False),
            State.FAILED,
            [Settled(16, Outcome.FAILED, 2.0, "no such node", retryable=False)],
        ),
        (
            {"release_wanted": True, "release_reason": "preempted"},
            Observation(Seen.REFUSED, 2.0, "no such node"),
            State.RELEASED,
            [Lifecycle(16, LifecycleKind.RELEASED, 2.0, "preempted")],
        ),
        (
            {},
            Observation(Seen.UNCLEAR, 2.0, "no answer"),
            State.UNKNOWN,
            [Settled(16, Outcome.UNKNOWN, 2.0, "no answer")],
        ),
        ({"state": State.UNKNOWN, "told_unknown": True}, Observation(Seen.ABSENT, 2.0), State.INTENT, []),
        (
            {"state": State.RUNNING, "bound_at": 1.0, "started_at": 1.0, "published": 2},
            Observation(Seen.ABSENT, 2.0),
            State.FAILED,
            [Lifecycle(18, LifecycleKind.FAILED, 2.0, "the executor no longer holds it")],
        ),
        ({"state": State.RELEASED, "ended_at": 1.0}, Observation(Seen.STARTED, 2.0), State.RELEASED, []),
        (
            # Finished before the release reached it: the truth is told.
            {"state": State.RUNNING, "bound_at": 1.0, "started_at": 1.0, "published": 2, "release_wanted": True},
            LATE,
            State.SUCCEEDED,
            [Lifecycle(18, LifecycleKind.SUCCEEDED, 9.0, exit_code=0)],
        ),
    ],
)
def test_transitions(start: dict[str, object], seen: Observation, state: State, told: list[Event]) -> None:
    attempt, events = transition(make_attempt(**start), seen)
    assert (attempt.state, list(events)) == (state, told)


@pytest.mark.parametrize("between", [Seen.ABSENT, Seen.PARTIAL])
def test_unknown_is_told_once_however_often_it_becomes_so(between: Seen) -> None:
    unclear = Observation(Seen.UNCLEAR, 2.0, "no answer")
    attempt, told = run(make_attempt(), [unclear, unclear, Observation(between, 3.0), unclear])
    assert attempt.state is State.UNKNOWN
    assert told == [Settled(16, Outcome.UNKNOWN, 2.0, "no answer")]


def test_what_keeps_an_attempt_from_ending_is_its_message() -> None:
    words = "Cannot evict pod as it would violate the pod's disruption budget."
    held = make_attempt(state=State.RUNNING, bound_at=1.0, started_at=1.0, published=2, release_wanted=True)
    attempt, events = transition(held, Observation(Seen.UNCLEAR, 2.0, words))
    assert (attempt.state, attempt.message, events) == (State.RUNNING, words, ())


def test_the_start_of_a_served_model_says_where_it_takes_requests() -> None:
    _, told = run(make_attempt(), [Observation(Seen.STARTED, 5.0, endpoints=("http://n1/v2/models/m",))])

    assert told[-1] == Lifecycle(17, LifecycleKind.STARTED, 5.0, endpoints=("http://n1/v2/models/m",))
