"""The life of a job under any order, loss or repetition of the binder's news."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement_engine.domain.job_state import Event, EventKind, JobRow, JobState, Retry, advance, cancel, is_over

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
    last = replace(PLACED, attempt=3)
    after, freed = advance(last, event(EventKind.BIND_FAILED, attempt=3, retryable=True), RETRY)
    assert (after.state, freed) == (JobState.FAILED, True)


def test_back_off_doubles() -> None:
    assert [Retry(longest_seconds=6.0).delay(attempt) for attempt in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 6.0]


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
