"""The programs inside the published policies."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.simulation.gavel.policies import View
from placement_engine.simulation.gavel.policies.allox import AlloX
from placement_engine.simulation.gavel.policies.max_min_fairness import max_min_share, max_min_share_of_pairs
from placement_engine.simulation.gavel.trace import Floats, Ints
from tests.unit.placement_engine.simulation.gavel.builders import setting, table

SPEEDS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(SPEEDS, SPEEDS), min_size=2, max_size=2),
    st.lists(st.sampled_from([1, 2]), min_size=2, max_size=2),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_no_share_on_a_grid_is_fairer(
    speeds: list[tuple[float, float]], scales: list[int], devices: tuple[int, int]
) -> None:
    worth, scale, there = np.array(speeds), np.array(scales, dtype=np.int64), np.array(devices, dtype=np.float64)

    def least(share: Floats) -> float:
        return float((worth * share).sum(axis=1).min())

    found = max_min_share(worth, scale, there)
    assert (found.sum(axis=1) <= 1 + 1e-7).all()
    assert (scale @ found <= there + 1e-7).all()
    grid = np.array([row for row in product(np.linspace(0, 1, 9), repeat=2) if sum(row) <= 1])
    shares = [np.array(pair) for pair in product(grid, repeat=2)]
    best = max(least(share) for share in shares if (scale @ share <= there + 1e-9).all())
    assert least(found) >= best - 1e-7


def members(jobs: int) -> Ints:
    """Every job alone, then every pair."""
    alone = [(job, -1) for job in range(jobs)]
    return np.array(alone + [(one, other) for other in range(jobs) for one in range(other)], dtype=np.int64)


def throughput(share: Floats, worth: Floats, paired: Floats, shape: Ints, units: Ints) -> Floats:
    found = np.zeros(shape.size)
    for unit, (one, other) in enumerate(units.tolist()):
        for job, beside in ((one, other), (other, one)):
            if job >= 0:
                rate = worth[shape[job]] if beside < 0 else paired[shape[job], shape[beside]]
                found[job] += float(rate @ share[:, unit])
    return found


def test_a_pair_that_loses_little_has_the_device_to_itself() -> None:
    shape, units = np.array([0, 0]), members(2)
    share = max_min_share_of_pairs(np.array([[1.0]]), np.array([[[0.8]]]), np.array([1]), np.array([1.0]), shape, units)
    assert share.tolist() == [[0.0, 0.0, 1.0]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=6, max_size=6),
    st.lists(st.sampled_from([0.0, 0.3, 0.7, 0.9]), min_size=9, max_size=9),
)
def test_pairs_keep_within_time_and_devices_and_are_never_less_fair(
    shapes: list[int], speeds: list[float], factors: list[float]
) -> None:
    shape, worth = np.array(shapes), np.array(speeds).reshape(3, 2)
    paired = np.array(factors).reshape(3, 3, 1) * worth[:, None, :]
    scale, devices, units = np.array([1, 1, 2]), np.array([2.0, 1.0]), members(len(shapes))
    share = max_min_share_of_pairs(worth, paired, scale, devices, shape, units)
    time = np.zeros(shape.size)
    for unit, pair in enumerate(units.tolist()):
        for job in pair:
            if job >= 0:
                time[job] += share[:, unit].sum()
    assert (time <= 1 + 1e-7).all()
    assert (share @ scale[shape[units[:, 0]]] <= devices + 1e-7).all()
    alone = max_min_share(worth[shape], scale[shape], devices)
    least = float((worth[shape] * alone).sum(axis=1).min())
    assert throughput(share, worth, paired, shape, units).min() >= least - 1e-7


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True), st.integers(1, 2))
def test_allox_starts_the_jobs_that_no_order_of_the_queues_ends_sooner(steps: list[int], devices: int) -> None:
    rates = table({("x", 1): (1.0, 0.6)})
    where = setting(rates, {"a": devices, "b": 1})
    policy, jobs = AlloX(where), np.arange(len(steps))
    remaining = np.array(steps, dtype=np.float64)
    zero = np.zeros(jobs.size, dtype=np.int64)
    share = policy.allocate(View(0.0, jobs, zero, zero + 1, zero * 0.0, zero * 0.0, remaining), members(jobs.size))
    speed = [1.0] * devices + [0.6]

    def mean(queues: list[list[int]]) -> float:
        return sum(sum(steps[job] for job in queue[: at + 1]) / rate
                   for queue, rate in zip(queues, speed, strict=True) for at in range(len(queue)))  # fmt: skip

    best, starts = np.inf, set()
    for where_to in product(range(len(speed)), repeat=len(steps)):
        for order in permutations(range(len(steps))):
            queues = [[job for job in order if where_to[job] == device] for device in range(len(speed))]
            cost = mean(queues)
            heads = frozenset((queue[0], int(device >= devices)) for device, queue in enumerate(queues) if queue)
            if cost < best - 1e-9:
                best, starts = cost, {heads}
            elif cost < best + 1e-9:
                starts.add(heads)
    found = frozenset((int(job), int(kind)) for kind, job in zip(*np.nonzero(share), strict=True))
    assert found in starts


def test_a_shape_that_cannot_run_on_a_kind_has_no_worth_there() -> None:
    share = max_min_share(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([1, 1]), np.array([1.0, 1.0]))
    assert share[0, 0] == pytest.approx(1.0)
    assert share[1].tolist() == pytest.approx([0.0, 1.0])
