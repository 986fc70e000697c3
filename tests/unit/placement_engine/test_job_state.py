"""The life of a job under any order, loss or repetition of the binder's news."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement_engine.domain.job_state import (
    Event,
    EventKind,
    JobRow,
    JobState,
    Retry,
    advance,
    cancel,
    is_over,
    preempt,
)

PLACED = JobRow(
    "j", "t", "n", "q", "p", b"spec", "", 0.0, 0.0, state=JobState.PLACED, attempt=1, version=2, members=b"m"
)
RETRY = Retry(attempts=3)


def event(kind: EventKind, version: int = 1, *, attempt: int = 1, retryable: bool = False) -> Event:
    return Event(kind, "j", attempt, version, at=10.0 + version, message=kind.name, retryable=retryable)


@pytest.mark.parametrize(
    ("start", "kind", "retryable", "state", "freed"),
    [
        (JobState.PLACED, EventKind.BOUND, False, JobState.BOUND, False),
        (JobState.PLACED, EventKind.STARTED, False, JobState.RUNNING, False),
        (JobState.RUNNING, EventKind.BOUND, False, JobState.RUNNING, False),
        (JobState.PLACED, EventKind.BIND_UNKNOWN, True, JobState.PLACED, False),
        (JobState.PLACED, EventKind.BIND_FAILED, True, JobState.PENDING, True),
        (JobState.PLACED, EventKind.BIND_FAILED, False, JobState.FAILED, True),
        (JobState.RELEASING, EventKind.BIND_FAILED, True, JobState.CANCELLED, True),
        (JobState.RELEASING, EventKind.BOUND, False, JobState.RELEASING, False),
        (JobState.RELEASING, EventKind.RELEASED, False, JobState.CANCELLED, True),
        (JobState.RELEASING, EventKind.SUCCEEDED, False, JobState.SUCCEEDED, True),
        (JobState.RUNNING, EventKind.SUCCEEDED, False, JobState.SUCCEEDED, True),
        (JobState.RUNNING, EventKind.FAILED, False, JobState.FAILED, True),
    ],
)
def test_each_transition(start: JobState, kind: EventKind, retryable: bool, state: JobState, freed: bool) -> None:
    after, free = advance(replace(PLACED, state=start), event(kind, retryable=retryable), RETRY)
    assert (after.state, free) == (state, freed)
    assert after.version == PLACED.version + 1


def test_a_bind_that_fails_too_often_fails_the_job() -> None:
    last = replace(PLACED, bind_failures=2)
    after, freed = advance(last, event(EventKind.BIND_FAILED, retryable=True), RETRY)
    assert (after.state, freed) == (JobState.FAILED, True)


def test_attempts_that_were_bound_do_not_count_as_failed_binds() -> None:
    """A job that was preempted often is tried as patiently as a new one."""
    seasoned = replace(PLACED, attempt=7)
    after, freed = advance(seasoned, event(EventKind.BIND_FAILED, attempt=7, retryable=True), RETRY)
    assert (after.state, after.bind_failures, freed) == (JobState.PENDING, 1, True)


@pytest.mark.parametrize(
    ("ran_seconds", "state", "failures"), [(599.0, JobState.FAILED, 2), (600.0, JobState.PENDING, 1)]
)
def test_what_loads_and_soon_fails_is_not_tried_without_end(ran_seconds: float, state: JobState, failures: int) -> None:
    """A model that crashed its server at its first request was placed again a thousand times: BOUND began the row."""
    row = replace(PLACED, bind_failures=2)
    for kind, version in ((EventKind.BOUND, 1), (EventKind.STARTED, 2)):
        row, _ = advance(row, Event(kind, "j", 1, version, at=10.0), RETRY)
    after, freed = advance(row, Event(EventKind.FAILED, "j", 1, 3, at=10.0 + ran_seconds, retryable=True), RETRY)
    assert (after.state, after.bind_failures, freed) == (state, failures, True)


def test_a_preempted_job_that_ran_for_long_begins_its_row_anew() -> None:
    held = replace(PLACED, state=JobState.RELEASING, requeue=True, bound_at=10.0, bind_failures=2)
    after, _ = advance(held, Event(EventKind.RELEASED, "j", 1, 1, at=610.0), RETRY)
    assert (after.state, after.bind_failures) == (JobState.PENDING, 0)


def test_a_preempted_job_waits_again_with_all_traces_of_its_attempt_gone() -> None:
    running = replace(PLACED, state=JobState.RUNNING, bound_at=3.0, started_at=4.0)
    told, release = preempt(running, 1, "makes room for x")
    assert release
    assert told == replace(
        running, state=JobState.RELEASING, requeue=True, message="makes room for x", version=3, preemptions=1
    )
    after, freed = advance(told, event(EventKind.RELEASED), RETRY)
    assert freed
    assert after == replace(
        told, state=JobState.PENDING, requeue=False, members=b"", placed_at=None, bound_at=None, started_at=None,
        version=4, lifecycle_version=1,
    )  # fmt: skip
    assert preempt(after, 1, "again") == (after, False)
    assert preempt(running, 2, "of another attempt") == (running, False)
    assert preempt(told, 1, "twice") == (told, False)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (EventKind.RELEASED, JobState.PENDING),
        (EventKind.BIND_FAILED, JobState.PENDING),
        (EventKind.SUCCEEDED, JobState.SUCCEEDED),
        (EventKind.FAILED, JobState.FAILED),
    ],
)
def test_how_a_preemption_ends(kind: EventKind, state: JobState) -> None:
    told, _ = preempt(PLACED, 1, "room")
    after, freed = advance(told, event(kind), RETRY)
    assert (after.state, after.requeue, freed) == (state, False, True)


def test_a_cancel_during_a_preemption_is_a_cancel() -> None:
    told, _ = preempt(PLACED, 1, "room")
    cancelled, release = cancel(told, 99.0, "enough")
    assert (cancelled.state, cancelled.requeue, release) == (JobState.RELEASING, False, False)
    after, freed = advance(cancelled, event(EventKind.RELEASED), RETRY)
    assert (after.state, freed) == (JobState.CANCELLED, True)


def test_back_off_doubles() -> None:
    assert [Retry(longest_seconds=6.0).delay(failures) for failures in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 6.0]


EVENTS = st.lists(
    st.builds(event, st.sampled_from(EventKind), st.integers(1, 6), attempt=st.integers(1, 2), retryable=st.booleans()),
    max_size=12,
)


@given(EVENTS)
def test_claims_are_freed_at_most_once_an_attempt_and_an_end_is_final(events: list[Event]) -> None:
    row, freed = PLACED, 0
    for one in events:
        before = row
        row, free = advance(row, one, RETRY)
        freed += free
        assert row.version >= before.version
        if is_over(before.state):
            assert row.state is before.state
            assert not free
        if free:
            assert is_over(row.state) or row.state is JobState.PENDING
    assert freed <= 1
    assert (freed == 1) == (is_over(row.state) or row.state is JobState.PENDING)


@given(EVENTS)
def test_delivered_twice_is_delivered_once(events: list[Event]) -> None:
    once = twice = PLACED
    for one in events:
        once, _ = advance(once, one, RETRY)
        twice, _ = advance(twice, one, RETRY)
        twice, again = advance(twice, one, RETRY)
        assert not again
    assert once == twice


@given(EVENTS)
def test_a_cancel_ends_waiting_work_and_releases_placed_work(events: list[Event]) -> None:
    row = PLACED
    for one in events:
        row, _ = advance(row, one, RETRY)
    ended, release = cancel(row, 99.0, "enough")
    if row.state is JobState.PENDING:
        assert (ended.state, release) == (JobState.CANCELLED, False)
    elif is_over(row.state):
        assert (ended, release) == (row, False)
    else:
        assert (ended.state, release) == (JobState.RELEASING, True)
    assert cancel(ended, 100.0, "again") == (ended, False)


def test_endpoints_stand_while_a_model_is_served_and_go_with_it() -> None:
    urls = ("http://n1/v2/models/m", "http://n2/v2/models/m")
    running, _ = advance(PLACED, replace(event(EventKind.STARTED), endpoints=urls), RETRY)
    assert (running.state, running.endpoints) == (JobState.RUNNING, urls)
    for ending in (EventKind.RELEASED, EventKind.SUCCEEDED, EventKind.FAILED):
        ended, _ = advance(running, event(ending, 2), RETRY)
        assert ended.endpoints == ()


def test_a_served_model_that_lost_its_server_waits_for_another_and_a_cancelled_one_does_not() -> None:
    running = replace(PLACED, state=JobState.RUNNING, endpoints=("http://n1",), bound_at=1.0)
    again, freed = advance(running, event(EventKind.FAILED, retryable=True), RETRY)
    assert (again.state, again.endpoints, again.bound_at, freed) == (JobState.PENDING, (), None, True)
    ended, freed = advance(replace(running, state=JobState.RELEASING), event(EventKind.FAILED, retryable=True), RETRY)
    assert (ended.state, freed) == (JobState.FAILED, True)
