"""Intervals of transfers where little or nothing of a workload ran on the accelerator."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from profile_store.domain.prediction.kinds import half_width, narrowed

SPREAD = 0.2


def of(errors: dict[str, list[float]], spread: float = SPREAD) -> float:
    left = {name: [(error, 1.0) for error in runs] for name, runs in errors.items()}
    return half_width(left, dict.fromkeys(left, 1.0), spread)


def test_without_any_workload_the_general_error_speaks() -> None:
    assert of({}) == pytest.approx(SPREAD * float(stdtrit(4, 0.95)), rel=0.05)
    assert of({}, 2 * SPREAD) == pytest.approx(2 * of({}))


def test_a_workload_counts_once_however_many_runs_it_has() -> None:
    assert of({"bert": [0.01] * 100}) == pytest.approx(of({"bert": [0.01]}), rel=0.02)
    # A hundred that all agree leave little to the general error, and a tenth of them that do not is the end.
    assert of({f"w{number}": [0.01] for number in range(100)}) == pytest.approx(0.01)
    assert of({f"w{number}": [0.01 if number % 5 else 0.9] for number in range(100)}) == pytest.approx(0.9)


def test_a_workload_that_tells_less_counts_less() -> None:
    left = {f"w{number}": [(0.01, 1.0)] for number in range(20)}
    near, far = (half_width(left, dict.fromkeys(left, weight), SPREAD) for weight in (1.0, 0.05))
    assert near < far < of({})


@given(st.floats(0.01, 2.0), st.floats(0.01, 2.0), st.integers(0, 50))
def test_runs_there_narrow_it_and_never_below_what_all_of_them_leave(
    nothing: float, everything: float, runs: int
) -> None:
    width = narrowed(nothing, everything, runs)
    assert everything <= width * (1 + 1e-9)
    assert narrowed(nothing, everything, runs + 1) <= width * (1 + 1e-9)
    assert narrowed(nothing, everything, 0) == pytest.approx(max(nothing, everything))
    assert narrowed(nothing, everything, 10**9) == pytest.approx(everything, rel=1e-3) or math.isclose(nothing, 0)
