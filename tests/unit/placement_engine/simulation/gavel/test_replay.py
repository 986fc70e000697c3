"""Whole schedules on clusters small enough to work out by hand, and what holds for any."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.service_index import IndexWeights
from placement_engine.simulation.gavel.policies import POLICIES, Plan, View
from placement_engine.simulation.gavel.policies.berth import KEPT_ROUNDS, PATIENCE_S, Berth
from placement_engine.simulation.gavel.replay import Row, rates, replay
from placement_engine.simulation.gavel.trace import Table, Workload
from tests.unit.placement_engine.simulation.gavel.builders import run, setting, table, workload

TWO = table({("x", 1): (1.0, 0.5), ("y", 1): (1.0, 0.9)})
ONE = table({("x", 1): (1.0,)}, {(0, 0): 0.8})


def test_berth_gives_the_scarce_kind_to_the_job_that_needs_it() -> None:
    row, schedule = run("berth", workload(TWO, [(0, 0, 15), (0, 1, 15)]), setting(TWO, {"a": 1, "b": 1}))
    assert schedule == [(0.0, {0: "a", 1: "b"}), (10.0, {0: "a", 1: "b"})]
    # x ends after 15 s, y after 15 / 0.9; alone with half of each kind they would take 20 s and 15 / 0.95.
    ends = np.array([15, 15 / 0.9])
    assert dataclasses.astuple(row) == pytest.approx((
        "berth", ends.mean() / 3600, np.percentile(ends, 99) / 3600, ends[1] / 3600,
        ends.sum() / (2 * ends[1]), 0.95 / 0.9,
    ))  # fmt: skip


def test_max_min_fairness_gives_both_half_of_each_kind() -> None:
    row, schedule = run("max_min_fairness", workload(TWO, [(0, 0, 15), (0, 1, 15)]), setting(TWO, {"a": 1, "b": 1}))
    assert schedule == [(0.0, {0: "a", 1: "b"}), (10.0, {0: "b", 1: "a"})]
    assert row.mean_jct_hours == pytest.approx((20 + 16) / 2 / 3600)


def test_fifo_lets_the_first_end() -> None:
    row, schedule = run("fifo", workload(ONE, [(0, 0, 15), (1, 0, 5)]), setting(ONE, {"a": 1}))
    assert schedule == [(0.0, {0: "a"}), (10.0, {0: "a"}), (20.0, {1: "a"})]
    assert row.mean_jct_hours == pytest.approx((15 + 24) / 2 / 3600)


def test_fifo_lets_nobody_pass() -> None:
    gang = table({("x", 1): (1.0,), ("x", 2): (1.0,)})
    _, schedule = run("fifo", workload(gang, [(0, 0, 15), (0, 1, 5), (0, 0, 5)]), setting(gang, {"a": 2}))
    assert schedule == [(0.0, {0: "a"}), (10.0, {0: "a"}), (20.0, {1: "a"}), (30.0, {2: "a"})]


def test_allox_runs_the_shortest_first_and_preempts_nobody() -> None:
    _, schedule = run("allox", workload(ONE, [(0, 0, 15), (0, 0, 5)]), setting(ONE, {"a": 1}))
    assert schedule == [(0.0, {1: "a"}), (10.0, {0: "a"}), (20.0, {0: "a"})]


def test_las_takes_turns() -> None:
    _, schedule = run("las", workload(ONE, [(0, 0, 15), (0, 0, 15)]), setting(ONE, {"a": 1}))
    assert schedule == [(0.0, {0: "a"}), (10.0, {1: "a"}), (20.0, {0: "a"}), (30.0, {1: "a"})]


def test_a_job_that_comes_after_the_allocation_holds_a_device_but_does_not_run() -> None:
    _, schedule = run("las", workload(ONE, [(0, 0, 2000), (1, 0, 5)]), setting(ONE, {"a": 2}))
    assert [now for now, ran in schedule if 1 in ran] == [1920.0]


@pytest.mark.parametrize("policy", ["berth", "max_min_fairness"])
def test_two_jobs_share_a_device_where_that_is_faster(policy: str) -> None:
    jobs, where = workload(ONE, [(0, 0, 15), (0, 0, 15)]), setting(ONE, {"a": 1}, share=True)
    row, schedule = run(policy, jobs, where)
    assert schedule == [(0.0, {0: "a+", 1: "a+"}), (10.0, {0: "a+", 1: "a+"})]
    assert (row.mean_jct_hours, row.utilisation) == pytest.approx((15 / 0.8 / 3600, 1.0))


@pytest.mark.parametrize("policy", ["berth", "max_min_fairness"])
def test_two_jobs_do_not_share_where_that_is_slower(policy: str) -> None:
    slow = table({("x", 1): (1.0,)}, {(0, 0): 0.4})
    _, schedule = run(policy, workload(slow, [(0, 0, 10), (0, 0, 10)]), setting(slow, {"a": 1}, share=True))
    assert {kind for _, ran in schedule for kind in ran.values()} == {"a"}


def test_time_jumps_to_the_next_arrival_when_nothing_runs() -> None:
    row, schedule = run("berth", workload(ONE, [(3, 0, 5), (100, 0, 5)]), setting(ONE, {"a": 1}))
    assert schedule == [(3.0, {0: "a"}), (100.0, {1: "a"})]
    assert row.makespan_hours == pytest.approx(102 / 3600)


def test_only_the_window_is_measured_and_it_ends_the_replay() -> None:
    jobs = workload(ONE, [(0, 0, 5), (50, 0, 8), (60, 0, 1000)])
    row, schedule = run("fifo", jobs, setting(ONE, {"a": 1}), (1, 1))
    assert row.mean_jct_hours == pytest.approx(8 / 3600)
    assert schedule[-1][0] == 50.0


@pytest.mark.parametrize("late", [0.0, IndexWeights().late])
def test_berth_starves_nobody_whatever_keeps_coming(late: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two long jobs on one device against an endless stream of short ones, which the index prefers, one a round."""
    monkeypatch.setitem(POLICIES, "berth", lambda where: Berth(where, IndexWeights(late=late)))  # type: ignore[arg-type]
    stream = [(3600.0 * hour, 0, 3000.0) for hour in range(100)]
    jobs = workload(ONE, sorted([*stream, (72_000.0, 0, 40_000.0), (72_000.0, 0, 40_000.0)]))
    old = np.flatnonzero(jobs.steps == 40_000.0)
    _, schedule = run("berth", jobs, setting(ONE, {"a": 1}, round_s=3600.0), (int(old[0]), int(old[1])))
    for job in old.tolist():
        turns = [20.0, *(now / 3600 for now, ran in schedule if job in ran)]
        assert len(turns) > 11
        # Patience, and a plan for the other job and for those of the stream that this has made late.
        assert max(np.diff(turns)) <= PATIENCE_S / 3600 + 10 * KEPT_ROUNDS


@st.composite
def cases(draw: st.DrawFn) -> tuple[Table, Workload, dict[str, int], bool]:
    devices = {"a": draw(st.integers(2, 4)), "b": draw(st.integers(1, 3))}
    speed = st.sampled_from([0.25, 0.5, 1.0, 2.0])
    rate = table(
        {("x", 1): (draw(speed), draw(speed)), ("y", 1): (draw(speed), 0.0), ("z", 2): (draw(speed), draw(speed))},
        {(0, 0): 0.2, (0, 1): 0.15, (1, 0): 0.2},
    )
    job = st.tuples(st.sampled_from([0.0, 4.0, 25.0]), st.integers(0, 2), st.integers(1, 60))
    gaps = draw(st.lists(job, min_size=1, max_size=12))
    arrival = np.cumsum([gap for gap, _, _ in gaps])
    jobs = [(float(at), shape, float(steps)) for at, (_, shape, steps) in zip(arrival, gaps, strict=True)]
    return rate, workload(rate, jobs), devices, draw(st.booleans())


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(sorted(POLICIES)))
def test_every_plan_is_sound_and_every_job_ends_after_its_work(
    case: tuple[Table, Workload, dict[str, int], bool], policy: str
) -> None:
    rate, jobs, devices, share = case
    if not POLICIES[policy].multi and (jobs.scale > 1).any():
        return
    where = setting(rate, devices, share=share and POLICIES[policy].shares)
    received = np.zeros(jobs.arrival.size)

    def check(view: View, plan: Plan) -> None:
        used = [0] * len(devices)
        speeds = rates(where, view, plan)
        for at, (kind, other) in enumerate(zip(plan.kind.tolist(), plan.partner.tolist(), strict=True)):
            assert view.arrival[at] <= view.now
            if other >= 0:
                assert where.share
                assert (plan.partner[other], plan.kind[other], view.scale[other]) == (at, kind, view.scale[at])
                assert other != at
            if kind >= 0:
                assert speeds[at] > 0  # a kind that can run it
                used[kind] += int(view.scale[at]) if other < 0 or at < other else 0
        assert all(taken <= there for taken, there in zip(used, devices.values(), strict=True))
        received[view.jobs] = view.done + np.minimum(speeds * where.round_s, (jobs.steps[view.jobs] - view.done))

    row = replay(jobs, where, policy, (0, jobs.arrival.size - 1), observe=check)
    assert received == pytest.approx(jobs.steps)
    assert 0 < row.utilisation <= 1 + 1e-9
    # Nobody can beat his fastest kind.
    fastest = (jobs.steps / rate.alone.max(axis=1)[jobs.shape]).mean() / 3600
    assert row.mean_jct_hours >= fastest - 1e-9


@settings(max_examples=10, deadline=None)
@given(cases(), st.sampled_from(sorted(POLICIES)))
def test_the_same_input_gives_the_same_row_bit_for_bit(
    case: tuple[Table, Workload, dict[str, int], bool], policy: str
) -> None:
    rate, jobs, devices, share = case
    if not POLICIES[policy].multi and (jobs.scale > 1).any():
        return
    where = setting(rate, devices, share=share and POLICIES[policy].shares)

    def row() -> Row:
        return replay(jobs, where, policy, (0, jobs.arrival.size - 1))

    assert row() == row()
