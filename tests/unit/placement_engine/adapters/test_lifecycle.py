"""What the engine makes of jobs.lifecycle."""

import pytest

from berth.v1 import binding_pb2 as pb
from placement_engine.adapters.translate import lifecycle_event
from placement_engine.domain.job_state import EventKind


def test_how_fast_a_job_is_says_nothing_of_its_state_whatever_its_version() -> None:
    told = pb.JobLifecycle(job_id="j", attempt=1, version=10_000, event=pb.LIFECYCLE_EVENT_OBSERVED)
    assert lifecycle_event(told.SerializeToString()) is None
    told.event = pb.LIFECYCLE_EVENT_STARTED
    event = lifecycle_event(told.SerializeToString())
    assert event is not None
    assert event.kind is EventKind.STARTED


def test_an_unknown_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="event: 99"):
        lifecycle_event(pb.JobLifecycle(job_id="j", event=99).SerializeToString())  # type: ignore[arg-type]
