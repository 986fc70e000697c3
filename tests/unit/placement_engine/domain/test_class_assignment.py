"""Jobs assigned by class: as good as one by one, where the classes are few as where they are coarse."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain import class_assignment, round_assignment
from placement_engine.domain.columns import Floats, Ints
from placement_engine.domain.round_assignment import WAITS, assign_kinds

NOBODY: Ints = np.empty(0, dtype=np.int64)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Floats, Ints, Ints]:
    """Jobs of few shapes, each of some height: values, scales, devices of each kind."""
    dice = np.random.default_rng(draw(st.integers(0, 10_000)))
    shapes, kinds, jobs = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 80))
    speed = dice.uniform(0.0, 1.0, (shapes, kinds)) * (dice.random((shapes, kinds)) < 0.9)
    scale = dice.choice(draw(st.sampled_from([(1,), (1, 2, 4)])), shapes)
    shape = dice.integers(0, shapes, jobs)
    value = dice.lognormal(0.0, 0.5, jobs)[:, None] * speed[shape] * scale[shape][:, None]
    return value, scale[shape].astype(np.int64), dice.integers(0, 12, kinds).astype(np.int64)


def by_class(monkeypatch: pytest.MonkeyPatch, problem: tuple[Floats, Ints, Ints], classes: int) -> Ints:
    with monkeypatch.context() as patch:
        patch.setattr(round_assignment, "MOST_CELLS", -1)
        patch.setattr(class_assignment, "MOST_CLASSES", classes)
        return assign_kinds(*problem, NOBODY)


def total(value: Floats, kind: Ints) -> float:
    return float(value[np.arange(kind.size), kind][kind != WAITS].sum())


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_within_the_devices_and_about_as_good_as_one_by_one(problem: tuple[Floats, Ints, Ints]) -> None:
    value, scale, devices = problem
    exact = total(value, assign_kinds(*problem, NOBODY))
    with pytest.MonkeyPatch.context() as patch:
        for classes, least in ((600, 0.98), (8, 0.7)):
            kind = by_class(patch, problem, classes)
            runs = kind != WAITS
            used = np.bincount(kind[runs], weights=scale[runs], minlength=devices.size)
            assert (used <= devices).all()
            assert (value[np.flatnonzero(runs), kind[runs]] > 0).all()
            gangs = (scale > 1).any()
            assert total(value, kind) >= (least - 0.1 * gangs) * exact - 1e-9


def test_a_large_fleet_is_near_the_bound_that_no_plan_passes() -> None:
    dice = np.random.default_rng(3)
    speed = dice.uniform(0.05, 1.0, (20, 4))
    shape = dice.integers(0, 20, 8000)
    value = dice.lognormal(0.0, 0.6, 8000)[:, None] * speed[shape]
    devices = np.full(4, 1000, dtype=np.int64)
    kind = assign_kinds(value, np.ones(8000, dtype=np.int64), devices, NOBODY)
    assert np.bincount(kind[kind != WAITS]).tolist() == [1000] * 4
    # Lagrange: with any prices a bound is the surplus of each job at its best kind, and the price of all devices.
    prices = np.zeros(4)
    for _ in range(400):
        best = (value - prices).argmax(axis=1)
        asked = np.bincount(best[(value - prices).max(axis=1) > 0], minlength=4)
        prices = np.maximum(prices + 2e-4 * (asked - devices), 0.0)
    bound = np.maximum((value - prices).max(axis=1), 0.0).sum() + float(prices @ devices)
    assert total(value, kind) >= 0.985 * bound


def test_a_solver_that_gives_up_leaves_no_device_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_assignment, "linprog", lambda *_, **__: SimpleNamespace(x=None, status=4))
    value = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 0.0]])
    kind = class_assignment.whole_by_class(value, np.ones(3, dtype=np.int64), np.array([1, 1], dtype=np.int64))
    assert kind.tolist() == [0, 1, WAITS]
