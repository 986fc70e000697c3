from hypothesis import given
from hypothesis import strategies as st

from binder.domain.attempt import AttemptId, Lifecycle, LifecycleKind, Outcome, Settled, State
from binder.domain.intake import BindCommand, Command, Plan, ReleaseCommand, plan
from tests.unit.binder.builders import NOW

ENABLED = frozenset({"process", "simulated"})


def bind(version: int, attempt: int = 1, executor: str = "simulated", job_id: str = "a") -> BindCommand:
    return BindCommand(AttemptId(job_id, attempt), version, executor, "default", 2, b"bind", NOW - 1)


def release(version: int, attempt: int = 1, job_id: str = "a") -> ReleaseCommand:
    return ReleaseCommand(AttemptId(job_id, attempt), version, "cancelled", NOW - 1)


def states(result: Plan) -> dict[tuple[str, int], tuple[State, bool, bytes]]:
    return {tuple(each): (row.state, row.release_wanted, stored) for each, (row, stored) in result.new.items()}


def test_a_bind_is_an_intent_once() -> None:
    result = plan([bind(1), bind(1)], {}, {}, ENABLED, NOW)
    assert states(result) == {("a", 1): (State.INTENT, False, b"bind")}
    assert (result.releases, result.events) == ({}, [])
    known = plan([bind(1)], {AttemptId("a", 1): State.RUNNING}, {"a": 1}, ENABLED, NOW)
    assert known == Plan()


def test_what_is_older_is_dropped() -> None:
    assert plan([bind(3, attempt=1)], {AttemptId("a", 2): State.INTENT}, {"a": 4}, ENABLED, NOW) == Plan()
    result = plan([bind(5, attempt=2), release(4, attempt=2)], {}, {"a": 3}, ENABLED, NOW)
    assert states(result) == {("a", 2): (State.INTENT, False, b"bind")}


def test_a_release_marks_the_attempt_wherever_it_is() -> None:
    stored = plan([release(2)], {AttemptId("a", 1): State.RUNNING}, {"a": 1}, ENABLED, NOW)
    assert stored == Plan(releases={AttemptId("a", 1): (2, "cancelled")})
    same_batch = plan([bind(1), release(2)], {}, {}, ENABLED, NOW)
    assert states(same_batch) == {("a", 1): (State.INTENT, True, b"bind")}


def test_a_bind_that_comes_after_its_release_starts_nothing() -> None:
    result = plan([release(2), bind(1), bind(3)], {}, {}, ENABLED, NOW)
    assert states(result) == {("a", 1): (State.RELEASED, True, b"")}
    assert [event for _, event in result.events] == [Lifecycle(16, LifecycleKind.RELEASED, NOW, "cancelled")]


def test_an_executor_that_is_not_enabled_is_refused_with_the_remedy() -> None:
    result = plan([bind(1, executor="triton")], {}, {}, ENABLED, NOW)
    assert states(result) == {("a", 1): (State.FAILED, False, b"bind")}
    [(_, event)] = result.events
    assert isinstance(event, Settled)
    assert (event.outcome, event.retryable) == (Outcome.FAILED, False)
    assert "'triton'" in event.message
    assert "process, simulated" in event.message
    assert "BERTH_EXECUTORS" in event.message


commands = st.one_of(
    st.builds(bind, version=st.integers(1, 6), attempt=st.integers(1, 3), job_id=st.sampled_from("ab")),
    st.builds(release, version=st.integers(1, 6), attempt=st.integers(1, 3), job_id=st.sampled_from("ab")),
)


@given(st.lists(commands, max_size=12), st.integers(0, 12))
def test_where_a_batch_is_cut_does_not_matter(batch: list[Command], cut: int) -> None:
    """Kafka's batches, repetition included, lead to the same attempts however they fall."""

    def apply(batches: list[list[Command]]) -> dict[AttemptId, tuple[State, bool]]:
        rows: dict[AttemptId, tuple[State, bool]] = {}
        versions: dict[str, int] = {}
        for some in batches:
            result = plan(some, {each: row[0] for each, row in rows.items()}, versions, ENABLED, NOW)
            assert not set(result.new) & set(rows)
            rows |= {each: (row.state, row.release_wanted) for each, (row, _) in result.new.items()}
            for each in result.releases:
                rows[each] = (rows[each][0], True)
            for each, (row, _) in result.new.items():
                versions[each.job_id] = max(versions.get(each.job_id, -1), row.version)
            for each, (version, _) in result.releases.items():
                versions[each.job_id] = max(versions.get(each.job_id, -1), version)
        return rows

    whole = apply([batch])
    assert apply([batch[:cut], batch[cut:]]) == whole
    assert apply([batch, batch]) == whole
