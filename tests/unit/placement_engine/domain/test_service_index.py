"""What is learnt from the jobs that have ended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement_engine.domain.service_index import BOUNDS, Floats, IndexWeights, Ints, ServiceIndex, gittins, scarcity

HOUR = 3600.0


def ints(*values: int) -> Ints:
    return np.array(values, dtype=np.int64)


def index(**weights: float) -> ServiceIndex:
    """Shape 0 needs kind 0; shape 1 runs on either."""
    return ServiceIndex(np.array([[1.0, 0.1], [1.0, 1.0]]), ints(1, 1), ints(4, 4), IndexWeights(**weights))


def taught(sizes: list[float], **weights: float) -> ServiceIndex:
    made = index(**weights)
    for at, size in enumerate(sizes):
        made.arrived(at % 2)
        made.served(ints(at % 2), np.array([size]))
        made.ended(at % 2, size)
    return made


def worth(of: ServiceIndex, shape: int, work: float, elapsed: float, remaining: float | None = None) -> float:
    return float(
        of.worth(
            ints(shape), np.array([work]), np.array([elapsed]), None if remaining is None else np.array([remaining])
        )[0]
    )


def naive(ends: Floats, work: Floats) -> list[float]:
    """The definition: from each step the best ratio over all later steps."""
    begin = np.concatenate([[0.0], work])
    found = []
    for low in range(ends.size):
        best = 0.0
        for high in range(low + 1, ends.size + 1):
            ended, spent = float(ends[low:high].sum()), 0.0
            for step in range(low, high):
                after = float(ends[step + 1 :].sum())
                spent += (begin[step + 1] - begin[step]) * (after + float(ends[step]) / 2)
            best = max(best, ended / spent if spent else 0.0)
        found.append(best)
    return found


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_the_index_is_the_best_ratio_of_ends_to_work(ends: list[int]) -> None:
    counts, work = np.array(ends, dtype=np.float64), np.cumsum(np.arange(1.0, len(ends) + 1))
    assert gittins(counts, work).tolist() == pytest.approx(naive(counts, work))


def test_half_end_after_one_second_and_half_after_a_hundred() -> None:
    # At first one of two ends while 1 + 1/2 seconds are spent, later the other while 99 / 2.
    found = gittins(np.array([1.0, 1.0]), np.array([1.0, 100.0]))
    assert found.tolist() == pytest.approx([1 / 1.5, 1 / 49.5])


def test_a_kind_that_only_one_shape_needs_is_dear_and_the_other_free() -> None:
    # All of kind 0 goes to shape 0; shape 1 fits on kind 1 with room: the binding kind is 0.
    speed = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = scarcity(speed, ints(1, 1), np.array([3.0, 1.0]), np.array([4.0, 4.0]))
    assert found is not None
    assert found.tolist() == pytest.approx([2.0, 0.0])


def test_a_gang_takes_as_much_as_its_devices() -> None:
    found = scarcity(np.ones((2, 1)), ints(1, 4), np.array([1.0, 1.0]), np.array([5.0]))
    assert found is not None
    assert found.tolist() == pytest.approx([1.0, 4.0])


def test_before_anything_has_ended_all_are_equal_but_for_devices_and_delay() -> None:
    fresh = index()
    assert worth(fresh, 0, 0.0, 0.0) == worth(fresh, 1, 5 * HOUR, 5 * HOUR) == 1.0


def test_a_job_that_has_outlived_the_short_ones_is_worth_less() -> None:
    made = taught([HOUR] * 90 + [100 * HOUR] * 10)
    assert worth(made, 1, 0.5 * HOUR, 0.5 * HOUR) > worth(made, 1, 2 * HOUR, 2 * HOUR)


def test_a_job_near_the_end_of_the_longest_is_worth_more_again() -> None:
    made = taught([HOUR] * 90 + [100 * HOUR] * 10)
    assert worth(made, 1, 98 * HOUR, 98 * HOUR) > worth(made, 1, 2 * HOUR, 2 * HOUR)


def test_a_job_that_needs_the_scarce_kind_is_worth_more() -> None:
    made = taught([HOUR] * 100, young=0.0)
    assert worth(made, 0, 0.0, 0.0) > worth(made, 1, 0.0, 0.0)


def test_delay_has_no_bound() -> None:
    made = taught([HOUR] * 100)
    assert worth(made, 1, 200 * HOUR, 20_000 * HOUR) > worth(made, 0, 0.0, 0.0)


def test_known_work_to_go_stands_in_for_the_index() -> None:
    made = taught([HOUR] * 100)
    assert worth(made, 0, 0.0, 0.0, remaining=HOUR) > worth(made, 0, 0.0, 0.0, remaining=50 * HOUR)


def test_running_work_counts_before_it_ends() -> None:
    """A shape of which no job has ended is not believed to be short because the running ones are young."""
    made = index(young=0.0, scarce=1.0)
    for at in range(40):
        made.arrived(at % 2)
        made.served(ints(at % 2), np.array([10 * HOUR if at % 2 else 2 * HOUR]))
        if at % 2:
            made.ended(1, 10 * HOUR)
    # So kind 0 has more to do than kind 1, and a shape that does as well on kind 1 is worth less.
    assert worth(made, 0, 0.0, 0.0) > 2 * worth(made, 1, 0.0, 0.0)


def test_work_that_only_a_free_kind_needs_is_still_worth_something() -> None:
    made = ServiceIndex(np.array([[1.0, 0.0], [1.0, 1.0]]), ints(1, 1), ints(4, 4))
    for shape, size in [(0, 90 * HOUR)] * 30 + [(1, HOUR)] * 30:
        made.arrived(shape)
        made.served(ints(shape), np.array([size]))
        made.ended(shape, size)
    assert worth(made, 1, 2e8, 2e8) > 0


def test_a_shape_that_runs_nowhere_disturbs_no_other() -> None:
    made = ServiceIndex(np.array([[0.0, 0.0], [1.0, 1.0]]), ints(1, 1), ints(4, 4))
    for shape in [0, 1] * 30:
        made.arrived(shape)
    made.served(ints(1), np.array([HOUR]))
    made.ended(1, HOUR)
    assert worth(made, 1, 0.0, 0.0) > 0


@given(st.lists(st.floats(10.0, 1e6), min_size=1, max_size=60), st.floats(0.0, 2e8))
def test_every_worth_is_a_positive_number_and_the_same_twice(sizes: list[float], work: float) -> None:
    one, two = taught(sizes), taught(sizes)
    assert worth(one, 0, work, work + 1) == worth(two, 0, work, work + 1)
    assert 0 < worth(one, 1, work, work + 1) < np.inf
    assert BOUNDS[0] <= 10.0


def test_a_job_that_takes_back_more_than_the_halved_counts_hold_does_not_end_the_scheduler() -> None:
    """It was told of before the counts were halved, and loses what it did since its last checkpoint."""
    made = taught([HOUR] * 40)
    made.served(ints(0), np.array([-1000 * HOUR]))
    for _ in range(100):
        made.arrived(0)
    assert worth(made, 0, HOUR, HOUR) > 0
    assert worth(made, 1, HOUR, HOUR) > 0


def test_what_no_fleet_can_serve_has_no_scarcity() -> None:
    assert scarcity(np.array([[1.0]]), ints(1), np.array([-1.0]), np.array([4.0])) is None
