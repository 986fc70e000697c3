"""What each policy chooses on a case that can be worked out by hand."""

import numpy as np
import pytest

from berth.errors import InvalidInput
from placement_engine.domain.hosting_value import Kind, fill_table
from placement_engine.simulation.openb.policies import POLICIES
from placement_engine.simulation.openb.policies.fgd import typical_tasks
from placement_engine.simulation.openb.power import PowerModel
from placement_engine.simulation.openb.state import State
from tests.unit.placement_engine.simulation.builders import node, place, start, task, workload

SHARE, HALF, WHOLE, PAIR = task(milli=300), task(milli=500), task(), task(2)
EVERY = [SHARE, HALF, WHOLE, PAIR]


def test_best_fit_takes_the_node_with_least_left_and_its_tightest_device() -> None:
    state, policy, known = start("bestfit", [node("a", 4), node("b", 2)], EVERY)
    place(state, policy, HALF, 1, 1)
    assert policy.choose(known.classes.index(SHARE)) == (1, 1)


def test_dot_product_takes_the_least_aligned() -> None:
    state, policy, known = start("dotprod", [node("a", 8), node("b", 8), node("c", 8)], EVERY)
    place(state, policy, HALF, 1, 3)
    # b has least left, and its broken device holds the share most tightly.
    assert policy.choose(known.classes.index(SHARE)) == (1, 3)


def test_packing_prefers_shared_devices_then_used_nodes_then_small_unused_ones() -> None:
    state, policy, known = start("packing", [node("a", 4), node("b", 2), node("c", 2)], EVERY)
    share, whole = known.classes.index(SHARE), known.classes.index(WHOLE)
    assert policy.choose(whole) == (1, 0)
    place(state, policy, HALF, 0, 2)
    assert policy.choose(share) == (0, 2)
    assert policy.choose(whole) == (0, 0)


def test_random_reaches_every_node_and_device_that_fits_and_no_other() -> None:
    state, policy, known = start("random", [node("a", 2), node("b", 1), node("c", 1, cpu=1_000)], EVERY)
    place(state, policy, WHOLE, 1)
    assert {policy.choose(known.classes.index(SHARE)) for _ in range(100)} == {(0, 0), (0, 1)}


def test_fgd_does_not_break_a_device_that_typical_tasks_want() -> None:
    state, policy, known = start("fgd", [node("a", 2), node("b", 2)], EVERY)
    place(state, policy, HALF, 1, 1)
    assert policy.choose(known.classes.index(HALF)) == (1, 1)


def test_fgd_counts_the_most_frequent_requests_as_typical() -> None:
    typical = typical_tasks(workload([HALF] * 60 + [task(0, 0)] * 37 + [WHOLE] * 3))
    assert [(one.devices, one.milli) for one, _ in typical] == [(1, 500), (0, 0)]
    assert [share for _, share in typical] == pytest.approx([60 / 97, 37 / 97])


def test_berth_keeps_the_pair_of_devices_for_the_pair_to_come() -> None:
    state, policy, known = start("berth", [node("a", 2), node("b", 1)], EVERY)
    assert policy.choose(known.classes.index(WHOLE)) == (1, 0)
    place(state, policy, WHOLE, 1)
    assert policy.choose(known.classes.index(PAIR)) == (0, 0)


def test_berth_keeps_a_model_that_is_demanded() -> None:
    mix = [WHOLE, task(models=("V100M32",))]
    _, policy, known = start("berth", [node("a", 1, model="V100M32"), node("b", 1)], mix)
    assert policy.choose(known.classes.index(WHOLE)) == (1, 0)


def test_berth_leaves_no_rest_that_nothing_of_the_mix_fills() -> None:
    state, policy, known = start("berth", [node("a", 1), node("b", 1)], [task(milli=600), task(milli=400)])
    place(state, policy, task(milli=600), 1, 0)
    assert policy.choose(known.classes.index(task(milli=400))) == (1, 0)


def test_a_pair_that_is_taken_makes_those_that_are_left_dearer() -> None:
    state, policy, known = start("berth", [node("a", 2), node("b", 8)], EVERY)
    index = known.classes.index(WHOLE)
    policy.choose(index)
    before = policy._scores[index].copy()  # type: ignore[attr-defined]
    state.place(PAIR, 1, 0)
    policy.arrived(0.5)
    policy.choose(index)
    assert (policy._scores[index] < before).all()  # type: ignore[attr-defined]


def test_the_fill_of_a_device_is_the_expected_sum_of_what_still_fits() -> None:
    table = fill_table([Kind(0, 0, 1, 500), Kind(0, 0, 1, 1000)], [0.5, 0.5])
    # 1000 free: half of the draws fill it at once; else 500, and only a further half fills the rest.
    assert table[499] == 0
    assert table[500] == pytest.approx(500, abs=1e-6)
    assert table[1000] == pytest.approx(1000, abs=1e-3)


def test_pwr_wakes_no_device_where_a_woken_one_will_do() -> None:
    state, policy, known = start("pwr", [node("a", 2, model="G3"), node("b", 2)], EVERY)
    assert policy.choose(known.classes.index(SHARE)) == (1, 0)
    place(state, policy, SHARE, 0, 1)
    assert policy.choose(known.classes.index(SHARE)) == (0, 1)


def test_pwr_refuses_a_model_without_figures() -> None:
    state = State([node("a", 1, model="B300")])
    assert PowerModel(state).kilowatts() is None
    with pytest.raises(InvalidInput, match="B300"):
        POLICIES["pwr"](state, workload(EVERY), 1)


def test_power_by_hand() -> None:
    state = State([node("a", 2, cpu=96_000)])
    # 48 cores: three packages of 15 W, two T4 of 10 W.
    assert PowerModel(state).kilowatts() == pytest.approx(0.065)
    state.place(task(milli=1, cpu=1_000), 0, 0)
    assert PowerModel(state).kilowatts() == pytest.approx((120 + 2 * 15 + 70 + 10) / 1000)


@pytest.mark.parametrize("name", [name for name in POLICIES if not name.startswith(("random", "engine"))])
def test_equal_nodes_tie_to_the_first(name: str) -> None:
    _, policy, known = start(name, [node("a", 2), node("b", 2), node("c", 2)], EVERY)
    assert [policy.choose(index) for index in range(len(known.classes))] == [(0, 0)] * len(known.classes)


@pytest.mark.parametrize("name", [name for name in POLICIES if not name.startswith("engine")])
def test_nothing_is_chosen_where_nothing_fits(name: str) -> None:
    state, policy, known = start(name, [node("a", 1)], EVERY)
    assert policy.choose(known.classes.index(PAIR)) is None
    place(state, policy, HALF, 0, 0)
    assert policy.choose(known.classes.index(WHOLE)) is None
    assert np.array_equal(state.left[:, 0], [500, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("name", ["berth", "berth-expected", "berth-online", "berth-power", "engine", "engine-power"])
def test_a_small_fleet_is_filled_where_best_fit_strands(name: str) -> None:
    """Devices of 500 and 1000: 400 goes to the whole one, so that 500 and 600 fit after it."""
    mix = [task(milli=400), task(milli=500), task(milli=600)]
    if name in ("berth-online", "engine", "engine-power"):
        mix = mix * 40
    fleet = [node("a", 1, cpu=64_000), node("b", 1, cpu=64_000)]
    _, policy, known = start(name, fleet, mix)
    index = {one.milli: known.classes.index(one) for one in mix}
    assert policy.choose(index[500]) == (0, 0)


def test_thrifty_power_wakes_no_device_while_there_is_room_and_packs_when_there_is_not() -> None:
    mix = [task(milli=300), task(milli=500), task(milli=700), task(8)]
    fleet = [node("a", 1), node("b", 1), *(node(f"c{n}", 8) for n in range(4))]
    state, policy, known = start("berth-power", fleet, mix)
    share = known.classes.index(task(milli=300))
    place(state, policy, task(milli=500), 0, 0)
    # Leaves 200 that nothing fills, but wakes nothing.
    assert policy.choose(share) == (0, 0)
    for at in range(2, 6):
        place(state, policy, task(8, cpu=1), at)
    policy.arrived(0.9)
    assert policy.choose(share) == (1, 0)


def test_the_engine_is_told_of_what_it_placed_only_once() -> None:
    _, policy, known = start("engine", [node("a", 2), node("b", 1)], EVERY)
    index = known.classes.index(PAIR)
    assert policy.choose(index) == (0, 0)
    assert policy.choose(index) is None
    assert policy.choose(known.classes.index(WHOLE)) == (1, 0)
