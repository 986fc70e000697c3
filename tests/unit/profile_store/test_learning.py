"""The learner: what spans of work make of an estimate."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import catalogue
from profile_store.domain.learning import (
    ENOUGH,
    MEMORY,
    SHIFT_SPANS,
    SHIFT_SPANS_OF_ONE_RUN,
    Estimate,
    Latencies,
    Reason,
    Run,
    Span,
    Watched,
    learn,
    profile_of,
    worth_telling,
)
from profile_store.domain.profile import ProfileKey, Provenance, best_fitting
from profile_store.domain.throttling import Reported, ThrottleWatch
from profile_store.domain.validation import validate
from tests.unit.profile_store.builders import NOW, a_profile

KEY = ProfileKey("bert", "H100-SXM", 1, configuration="observed")


def a_span(speed: float = 100.0, *, job: str = "j", sequence: int = 1, **changes: Any) -> Span:
    seconds = changes.pop("seconds", 10.0)
    made = Span(
        run=Run(job, 1), sequence=sequence, key=KEY, units=speed * seconds, unit="samples", seconds=seconds, at=NOW,
        watched=Watched.CLEAR,
    )  # fmt: skip
    return replace(made, **changes)


def spans_of(speeds: Sequence[float], *, job: str = "j", first: int = 1) -> list[Span]:
    return [a_span(speed, job=job, sequence=number) for number, speed in enumerate(speeds, first)]


def after(spans: Sequence[Span], before: Estimate | None = None, units: frozenset[str] = frozenset()) -> Estimate:
    known = {} if before is None else {KEY: before}
    return learn(spans, {}, known, lambda _: units).estimates[KEY]


def test_the_estimate_is_the_geometric_mean_and_knows_how_sure_it_is() -> None:
    few, many = after(spans_of([100.0, 104.0, 96.0])), after(spans_of([100.0, 104.0, 96.0] * 10))
    assert few.throughput == pytest.approx((100 * 104 * 96) ** (1 / 3))
    assert many.throughput == pytest.approx(few.throughput)
    assert (few.learnt, few.runs, few.weight) == (3, 1, 3)
    # Three spans may agree by chance: the assumed spread still counts.
    assert few.relative_uncertainty == pytest.approx(0.13, abs=0.02)
    assert many.relative_uncertainty == pytest.approx(0.06, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seconds": 0.99}, Reason.TOO_SHORT),
        ({"whole": False}, Reason.PARTIAL_GANG),
        ({"alone": False}, Reason.SHARED),
        ({"watched": Watched.THROTTLED}, Reason.THROTTLED),
        ({"unit": "tokens"}, Reason.OTHER_UNIT),
        ({"units": 10.0}, Reason.OUTLIER),
    ],
)
def test_what_says_nothing_of_the_speed_is_set_aside_and_counted(changes: dict[str, Any], reason: Reason) -> None:
    before = after(spans_of([100.0] * 4))
    estimate = after([a_span(job="other", **changes)], before)
    assert estimate.set_aside == {reason: 1}
    assert (estimate.learnt, estimate.level, estimate.variance) == (4, before.level, before.variance)


def test_a_first_span_in_another_unit_than_the_profiles_is_set_aside() -> None:
    assert after([a_span()], units=frozenset({"steps"})).set_aside == {Reason.OTHER_UNIT: 1}
    assert after([a_span()], units=frozenset({"steps", "samples"})).learnt == 1


def test_a_first_span_in_a_unit_that_nobody_else_uses_is_not_the_measure_of_all() -> None:
    """One span in epochs locked the estimate for ever: a thousand in samples were set aside."""
    first = after([a_span(5.0, job="first", unit="epochs")])
    spoilt = after(spans_of([100.0] * 20), first)
    assert (spoilt.unit, spoilt.learnt, spoilt.set_aside) == ("samples", 18, {Reason.OTHER_UNIT: 3})
    assert spoilt.throughput == pytest.approx(100.0)
    at_once = after(spans_of([100.0] * 3), first, units=frozenset({"samples"}))
    assert (at_once.unit, at_once.learnt, at_once.set_aside) == ("samples", 3, {Reason.OTHER_UNIT: 1})


def test_a_job_that_tells_two_units_in_turn_is_learnt_in_one() -> None:
    both = [a_span(unit=("epochs", "samples")[n % 2], sequence=n + 1) for n in range(20)]
    estimate = after(both)
    assert (estimate.unit, estimate.learnt, estimate.set_aside) == ("epochs", 10, {Reason.OTHER_UNIT: 10})
    late = after(spans_of([7.0] * 20, job="other", first=30), estimate)
    assert late.unit == "epochs", "with enough spans it stays"


def test_spans_of_which_telemetry_says_nothing_are_learnt_and_counted() -> None:
    estimate = after([a_span(watched=Watched.UNKNOWN), a_span(sequence=2)])
    assert (estimate.learnt, estimate.unwatched) == (2, 1)


def test_a_repetition_changes_nothing() -> None:
    spans = spans_of([100.0, 101.0, 99.0])
    lesson = learn(spans, {}, {}, lambda _: frozenset())
    again = learn([*spans, *reversed(spans)], lesson.reached, lesson.estimates, lambda _: frozenset())
    assert (again.reached, again.estimates) == ({}, {})
    assert learn([*spans, *spans], {}, {}, lambda _: frozenset()) == lesson


def test_a_lasting_shift_of_several_runs_is_learnt_and_a_passing_one_is_not() -> None:
    before = after(spans_of([100.0] * 60))
    slow = [a_span(50.0 + n / 10, job=f"s{n % 2}", sequence=n // 2 + 1) for n in range(SHIFT_SPANS)]
    passing = after([*slow[:-1], a_span(100.0, job="good"), *spans_of([50.0], job="late")], before)
    assert passing.throughput == pytest.approx(100.0)
    assert passing.set_aside == {Reason.OUTLIER: SHIFT_SPANS}
    lasting = after(slow, before)
    assert lasting.throughput == pytest.approx(50.2, rel=0.01)
    assert (lasting.learnt, dict(lasting.set_aside), lasting.outlying) == (60 + SHIFT_SPANS, {}, ())


def test_outliers_of_one_run_take_longer_to_become_the_level() -> None:
    before = after(spans_of([100.0] * 10))
    slow = spans_of([50.0] * SHIFT_SPANS_OF_ONE_RUN, job="sick")
    assert after(slow[:-1], before).throughput == pytest.approx(100.0)
    assert after(slow, before).throughput == pytest.approx(50.0)


def test_outliers_that_do_not_agree_are_no_level() -> None:
    before = after(spans_of([100.0] * 10))
    wild = [a_span(speed, job=f"w{n}") for n, speed in enumerate([10.0, 1000.0] * 10)]
    assert after(wild, before).throughput == pytest.approx(100.0)


def test_what_is_old_fades() -> None:
    before = after(spans_of([100.0] * 500))
    drifted = after(spans_of([100.0 * 1.002**n for n in range(300)], job="drift"), before)
    assert drifted.weight == MEMORY
    assert dict(drifted.set_aside) == {}
    assert drifted.throughput == pytest.approx(100.0 * 1.002**250, rel=0.05)


def test_it_is_told_when_there_is_enough_and_when_it_moved() -> None:
    few = after(spans_of([100.0] * (ENOUGH - 1)))
    assert not worth_telling(few)
    enough = after(spans_of([100.0] * ENOUGH))
    assert worth_telling(enough)
    told = replace(enough, told=(enough.throughput, enough.relative_uncertainty))
    assert not worth_telling(told)
    assert not worth_telling(after([a_span(103.0, job="next")], told)), "a quarter of 3 % is no news"
    assert worth_telling(after([a_span(112.0, job="next")], told))
    assert worth_telling(after(spans_of([100.0] * 40, job="next"), told)), "twice as sure"


def test_the_observed_profile_stands_beside_what_was_imported_and_speaks_first() -> None:
    imported = a_profile(throughput=300.0)
    estimate = after(spans_of([100.0] * 5))
    (own,) = validate([profile_of(KEY, estimate, a_span())], catalogue, now=NOW)
    assert own.key == KEY != imported.key
    assert (own.provenance, own.samples, own.throughput_unit) == (Provenance.OBSERVED, 5, "samples/s")
    assert own.throughput == pytest.approx(100.0)
    assert best_fitting([imported, own]) == (own,)


def test_latencies_that_only_some_spans_tell_stay_in_order() -> None:
    spans = [
        a_span(latencies=Latencies(0.5)),
        a_span(sequence=2, latencies=Latencies(0.1, None, 0.2)),
        a_span(sequence=3),
    ]
    (own,) = validate([profile_of(KEY, after(spans), spans[-1])], catalogue, now=NOW)
    # Of the span that told both: the other one's is not put together with it.
    assert (own.latency_p50_seconds, own.latency_p99_seconds) == (0.1, 0.2)


def windows(*p99: float) -> list[Span]:
    return [
        a_span(sequence=number, latencies=Latencies(value / 4, value / 2, value)) for number, value in enumerate(p99, 1)
    ]


def test_latencies_are_those_of_one_window_and_never_a_mean() -> None:
    estimate = after(windows(0.2, 0.21, 3.0, 0.19))
    assert estimate.latencies == Latencies(0.0525, 0.105, 0.21), "one slow window is not the rule"
    # What is older than the last five is forgotten.
    slower = after(windows(0.2, 0.2, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4))
    assert slower.latencies == Latencies(0.1, 0.2, 0.4)
    assert after([*windows(0.2), a_span(sequence=2)]).latencies.highest == 0.2, "silence is no news"


def test_a_latency_that_moved_is_worth_telling_though_the_speed_did_not() -> None:
    estimate = after(windows(0.2, 0.2, 0.2))
    told = replace(estimate, told=(estimate.throughput, estimate.relative_uncertainty), told_latency=0.2)
    assert not worth_telling(told)
    assert not worth_telling(replace(told, told_latency=0.23))
    assert worth_telling(replace(told, told_latency=0.3))
    assert worth_telling(replace(told, told_latency=None))
    assert worth_telling(replace(told, windows=()))


def test_a_new_level_of_speed_begins_with_no_latency() -> None:
    spans = windows(*[0.2] * 4)
    spans += [a_span(10.0, job=job, sequence=n) for job in ("k", "l") for n in range(1, SHIFT_SPANS)]
    assert after(spans[:4]).latencies.highest == 0.2
    assert after(spans).latencies == Latencies()


SPEEDS = st.floats(min_value=1e-6, max_value=1e9)
SPANS = st.builds(
    a_span,
    SPEEDS,
    job=st.sampled_from(["a", "b", "c"]),
    sequence=st.integers(1, 40),
    seconds=st.sampled_from([0.01, 1.0, 1e-9, 1e6]),
    whole=st.booleans(),
    alone=st.booleans(),
    watched=st.sampled_from(Watched),
    unit=st.sampled_from(["samples", "samples", "tokens"]),
)


def counted(estimate: Estimate) -> int:
    return estimate.learnt + sum(estimate.set_aside.values())


@given(st.lists(SPANS, max_size=60))
def test_whatever_comes_nothing_is_lost_and_the_figures_stay_figures(spans: list[Span]) -> None:
    lesson = learn(spans, {}, {}, lambda _: frozenset())
    newest: dict[Run, int] = {}
    fresh = 0
    for span in spans:
        if span.sequence > newest.get(span.run, 0):
            newest[span.run] = span.sequence
            fresh += 1
    assert lesson.reached == newest
    for estimate in lesson.estimates.values():
        assert counted(estimate) == fresh
        assert all(count > 0 for count in estimate.set_aside.values())
        assert math.isfinite(estimate.level)
        assert 0.0 <= estimate.variance < math.inf
        assert 0.0 < estimate.relative_uncertainty <= 10.0
        if estimate.known:
            assert 0.0 < estimate.throughput < math.inf


@given(st.lists(SPANS, max_size=40), st.data())
def test_batches_and_repetitions_make_no_difference(spans: list[Span], data: st.DataObject) -> None:
    whole = learn(spans, {}, {}, lambda _: frozenset())
    reached: dict[Run, int] = {}
    estimates: dict[ProfileKey, Estimate] = {}
    place = 0
    while place < len(spans):
        # A crash before Kafka's own offset moved: some records come again.
        place = data.draw(st.integers(max(0, place - 5), place))
        end = data.draw(st.integers(place + 1, len(spans)))
        lesson = learn(spans[place:end], reached, estimates, lambda _: frozenset())
        reached, estimates = {**reached, **lesson.reached}, {**estimates, **lesson.estimates}
        place = max(place, end)
    assert (reached, estimates) == (whole.reached, whole.estimates)


@given(
    st.floats(min_value=1.0, max_value=1e6),
    st.floats(min_value=0.05, max_value=20.0),
    st.lists(st.floats(min_value=-0.03, max_value=0.03), min_size=SHIFT_SPANS + 30, max_size=SHIFT_SPANS + 30),
)
def test_a_new_level_is_learnt_within_its_spans(level: float, factor: float, noise: list[float]) -> None:
    before = after([a_span(level * math.exp(off), job=f"o{n}") for n, off in enumerate(noise)])
    new = [a_span(level * factor * math.exp(off), job=f"n{n}") for n, off in enumerate(noise[:SHIFT_SPANS])]
    estimate = after(new, before)
    # What is far off is learnt as a new level, all at once; what is near is drawn to.
    if abs(math.log(factor)) > 0.35:
        assert math.log(estimate.throughput) == pytest.approx(math.log(level * factor), abs=0.05)


@given(st.lists(st.floats(min_value=-0.05, max_value=0.05), min_size=20, max_size=20), st.integers(4, 19), SPEEDS)
def test_one_outlier_moves_nothing(noise: list[float], place: int, wild: float) -> None:
    good = [a_span(100.0 * math.exp(off), job=f"g{n}") for n, off in enumerate(noise)]
    with_it = after([*good[:place], a_span(wild, job="wild"), *good[place:]])
    assert math.log(with_it.throughput / after(good).throughput) == pytest.approx(0.0, abs=0.15)


# When a device was throttled


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_watch(*told: tuple[float, int | None], limit: float | None = None) -> ThrottleWatch:
    watch = ThrottleWatch()
    for seconds, bits in told:
        watch.hear(seconds, [Reported("d", bits, limit)])
    return watch


COOL = [(float(seconds), 0) for seconds in range(0, 110, 10)]


@pytest.mark.parametrize("bit", [0x8, 0x20, 0x40, 0x80])
def test_heat_during_a_span_is_seen_and_before_and_after_is_not(bit: int) -> None:
    watch = a_watch(*COOL[:5], (50.0, bit), *COOL[6:])
    assert watch.during(["d"], 45.0, 60.0, None) is Watched.THROTTLED
    assert watch.during(["d"], 10.0, 40.0, None) is Watched.CLEAR
    assert watch.during(["d"], 60.0, 95.0, None) is Watched.CLEAR


def test_a_card_at_its_own_limit_is_not_throttled_and_one_whose_limit_was_lowered_is() -> None:
    capped = [(seconds, 0x4) for seconds, _ in COOL]
    assert a_watch(*capped, limit=700.0).during(["d"], 10.0, 50.0, 700.0) is Watched.CLEAR
    assert a_watch(*capped, limit=400.0).during(["d"], 10.0, 50.0, 700.0) is Watched.THROTTLED


def test_heat_and_a_power_cap_in_turn_are_not_forgotten() -> None:
    """Each sample began an episode, sixteen were kept, and a span that was hot throughout was called clear."""
    watch = ThrottleWatch()
    for number in range(0, 200, 2):
        watch.hear(10.0 * number, [Reported("d", 0x20, 700.0)])
        watch.hear(10.0 * number + 10.0, [Reported("d", 0x4, 700.0)])
    for start in (0.0, 500.0, 1900.0):
        assert watch.during(["d"], start, start + 50.0, 700.0) is Watched.THROTTLED


def test_a_span_whose_episodes_were_dropped_is_unknown() -> None:
    watch = ThrottleWatch()
    for number in range(400):
        # Far enough apart, each hot spell is one of its own.
        watch.hear(10.0 * number, [Reported("d", 0x20 if number % 10 == 0 and number < 300 else 0)])
    answers = {watch.during(["d"], at, at + 20.0, None) for at in (0.0, 300.0, 700.0, 1300.0)}
    assert answers == {Watched.UNKNOWN}
    assert watch.during(["d"], 2400.0, 2420.0, None) is Watched.THROTTLED
    assert watch.during(["d"], 3100.0, 3200.0, None) is Watched.CLEAR


def test_what_was_not_watched_is_unknown() -> None:
    watch = a_watch(*COOL)
    assert watch.during(["d"], 0.0, 100.0, None) is Watched.CLEAR
    assert watch.during(["d", "e"], 0.0, 100.0, None) is Watched.UNKNOWN, "nothing was heard of e"
    assert watch.during(["d"], -600.0, 50.0, None) is Watched.UNKNOWN, "it began before the watch"
    assert watch.during(["d"], 50.0, 400.0, None) is Watched.UNKNOWN, "nothing was heard since"
    assert a_watch((0.0, None), (10.0, None)).during(["d"], 0.0, 10.0, None) is Watched.UNKNOWN
    assert a_watch((0.0, 0), (900.0, 0)).during(["d"], 100.0, 200.0, None) is Watched.UNKNOWN, "a gap"
    assert watch.during([], 0.0, 100.0, None) is Watched.UNKNOWN
