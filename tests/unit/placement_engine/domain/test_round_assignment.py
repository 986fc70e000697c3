"""The plan of a round: as good as the best of all plans where that is promised, sound everywhere."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.round_assignment import WAITS, Floats, Ints, assign_kinds, assign_shared, overdue

NOBODY = np.empty(0, dtype=np.int64)


def ints(*values: int) -> Ints:
    return np.array(values, dtype=np.int64)


def total(value: Floats, kind: Ints) -> float:
    return sum(float(value[job, one]) for job, one in enumerate(kind.tolist()) if one != WAITS)


def best_of_all(value: Floats, scale: Ints, devices: Ints) -> float:
    jobs, kinds = value.shape
    best = 0.0
    for kind in product(range(-1, kinds), repeat=jobs):
        used = [sum(int(scale[job]) for job in range(jobs) if kind[job] == one) for one in range(kinds)]
        if all(there >= taken for there, taken in zip(devices.tolist(), used, strict=True)):
            best = max(best, total(value, np.array(kind)))
    return best


@st.composite
def problems(draw: st.DrawFn, scales: tuple[int, ...]) -> tuple[Floats, Ints, Ints]:
    jobs, kinds = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    cell = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.25])
    value = np.array(draw(st.lists(st.lists(cell, min_size=kinds, max_size=kinds), min_size=jobs, max_size=jobs)))
    scale = np.array(draw(st.lists(st.sampled_from(scales), min_size=jobs, max_size=jobs)), dtype=np.int64)
    return value, scale, np.array(draw(st.lists(st.integers(0, 4), min_size=kinds, max_size=kinds)), dtype=np.int64)


def test_the_scarce_kind_goes_where_it_gains_most() -> None:
    value = np.array([[3.0, 2.9], [2.0, 0.5], [1.0, 0.9]])
    assert assign_kinds(value, ints(1, 1, 1), ints(1, 1), NOBODY).tolist() == [1, 0, WAITS]


def test_those_who_come_first_come_first() -> None:
    value = np.array([[3.0, 2.9], [2.0, 0.5], [1.0, 0.9]])
    assert assign_kinds(value, ints(1, 1, 1), ints(1, 1), ints(2)).tolist() == [1, WAITS, 0]


def test_a_gang_is_placed_whole_or_waits_and_nobody_takes_half_of_its_room_for_nothing() -> None:
    value = np.array([[4.0, 4.0], [0.5, 0.4], [0.5, 0.4]])
    # By the device the gang is worth 2, but three devices are in two halves.
    assert assign_kinds(value, ints(2, 1, 1), ints(1, 1), NOBODY).tolist() == [WAITS, 0, 1]


def test_equal_gangs_are_not_split_between_kinds() -> None:
    value = np.ones((2, 2))
    assert sorted(assign_kinds(value, ints(4, 4), ints(4, 4), NOBODY).tolist()) == [0, 1]


def test_who_could_run_faster_moves_up_into_room_that_a_gang_leaves() -> None:
    # The gang of three is worth most of all by the device but fits nowhere.
    value = np.array([[30.0, 30.0], [1.0, 0.5], [1.0, 0.5]])
    assert assign_kinds(value, ints(3, 1, 1), ints(2, 2), NOBODY).tolist() == [WAITS, 0, 0]


@settings(max_examples=200, deadline=None)
@given(problems((1,)))
def test_with_single_devices_no_plan_is_better(problem: tuple[Floats, Ints, Ints]) -> None:
    value, scale, devices = problem
    found = total(value, assign_kinds(value, scale, devices, NOBODY))
    assert found == pytest.approx(best_of_all(value, scale, devices), abs=1e-5)


@settings(max_examples=300, deadline=None)
@given(problems((1, 2, 4)), st.integers(0, 5))
def test_gangs_stay_within_the_devices_and_none_idles_that_somebody_could_take(
    problem: tuple[Floats, Ints, Ints], late: int
) -> None:
    value, scale, devices = problem
    first = np.arange(min(late, scale.size))[::-1]
    kind = assign_kinds(value, scale, devices, first)
    free = devices.copy()
    for job, one in enumerate(kind.tolist()):
        if one != WAITS:
            free[one] -= scale[job]
            assert value[job, one] > 0
    assert (free >= 0).all()
    for job in np.flatnonzero(kind == WAITS).tolist():
        assert not ((value[job] > 0) & (free >= scale[job])).any()
    if first.size and ((value[first[0]] > 0) & (devices >= scale[first[0]])).any():
        assert kind[first[0]] != WAITS


@settings(max_examples=200, deadline=None)
@given(problems((1, 2)), st.lists(st.sampled_from([0.0, 0.4, 0.6, 0.9]), min_size=25, max_size=25))
def test_sharing_is_mutual_and_never_worth_less_than_none(
    problem: tuple[Floats, Ints, Ints], rates: list[float]
) -> None:
    speed, scale, devices = problem
    jobs = scale.size
    worth = 1.0 + np.arange(jobs) / 4
    paired = np.array(rates).reshape(5, 5)[:jobs, :jobs, None] * np.minimum(speed, 1.0)[:, None, :]
    kind, partner = assign_shared(worth, speed, paired, scale, devices, NOBODY)
    free, value = devices.copy(), 0.0
    for job, (one, other) in enumerate(zip(kind.tolist(), partner.tolist(), strict=True)):
        if other != WAITS:
            assert (partner[other], kind[other], scale[other]) == (job, one, scale[job])
            assert paired[job, other, one] > 0
        if one != WAITS:
            value += float(worth[job] * (speed[job, one] if other == WAITS else paired[job, other, one]))
            if other == WAITS or job < other:
                free[one] -= scale[job]
    assert (free >= 0).all()
    alone = worth[:, None] * speed
    assert value >= total(alone, assign_kinds(alone, scale, devices, NOBODY)) - 1e-6


def test_two_jobs_share_when_it_pays() -> None:
    paired = np.full((2, 2, 1), 0.6)
    kind, partner = assign_shared(np.ones(2), np.ones((2, 1)), paired, ints(1, 1), ints(1), NOBODY)
    assert (kind.tolist(), partner.tolist()) == ([0, 0], [1, 0])


def test_the_overdue_are_in_order_of_their_wait() -> None:
    assert overdue(np.array([5.0, 9.0, 1.0, 9.0]), 5.0).tolist() == [1, 3, 0]
