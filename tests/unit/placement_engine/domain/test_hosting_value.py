"""What rows could still host: worth more the more is left, nothing when full, and better than the naive best fit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.hosting_value import ExpectedFill, HostingValue, Kind, Mix, Room, fill_table
from placement_engine.domain.sampled_fill import SampledFill

MODELS = 2


def a_kind(devices: int = 1, milli: int = 1000, cpu: int = 4, memory: int = 8) -> Kind:
    return Kind(cpu, memory, devices, milli)


def a_mix(*kinds: Kind, only: dict[int, int] | None = None) -> Mix:
    """Equal shares; `only`: the one model that a kind, by its place, may use."""
    allowed = np.ones((len(kinds), MODELS), dtype=np.bool_)
    for place, model in (only or {}).items():
        allowed[place] = np.arange(MODELS) == model
    return Mix(kinds, (1 / len(kinds),) * len(kinds), allowed)


def a_room(*rows: list[int], cpu: float = 64, memory: float = 512, model: int = 0) -> Room:
    k = len(rows)
    left = np.array([row + [0] * (8 - len(row)) for row in rows], dtype=np.intp).T
    return Room(left, np.full(k, float(cpu)), np.full(k, float(memory)), np.full(k, model, dtype=np.intp))


def a_value(mix: Mix, fleet: Room) -> HostingValue:
    value = HostingValue(mix, np.ones(MODELS, dtype=np.bool_))
    value.review(fleet, float(fleet.left.sum()))
    return value


kinds = st.builds(
    Kind, cpu=st.integers(0, 20), memory=st.integers(0, 50), devices=st.just(1), milli=st.integers(1, 999)
) | st.builds(
    Kind, cpu=st.integers(0, 64), memory=st.integers(0, 99), devices=st.sampled_from((1, 2, 8)), milli=st.just(1000)
)
mixes = st.lists(kinds, min_size=1, max_size=6, unique=True).flatmap(
    lambda found: st.dictionaries(st.integers(0, len(found) - 1), st.integers(0, 1), max_size=3).map(
        lambda only: a_mix(*found, only=only)
    )
)
lefts = st.lists(st.integers(0, 1000), min_size=8, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    mix=mixes,
    left=lefts,
    less=lefts,
    cpu=st.tuples(st.integers(0, 128), st.integers(0, 128)),
    model=st.integers(0, 1),
)
def test_the_value_is_never_negative_and_rises_with_what_is_left(
    mix: Mix, left: list[int], less: list[int], cpu: tuple[int, int], model: int
) -> None:
    value = a_value(mix, a_room([1000] * 8, [1000] * 8))
    more = a_room(left, cpu=max(cpu), model=model)
    fewer = a_room([min(pair) for pair in zip(left, less, strict=True)], cpu=min(cpu), model=model)
    assert 0 <= value.of(fewer)[0] <= value.of(more)[0] + 1e-6


@settings(max_examples=40, deadline=None)
@given(mix=mixes, left=lefts, kind=kinds, model=st.integers(0, 1))
def test_a_placement_loses_something_between_nothing_and_everything(
    mix: Mix, left: list[int], kind: Kind, model: int
) -> None:
    value, room = a_value(mix, a_room([1000] * 8)), a_room(left, model=model)
    assert 0 <= value.lost(room, kind)[0] <= value.of(room)[0] + 1e-6


@settings(max_examples=40, deadline=None)
@given(mix=mixes, cpu=st.integers(0, 128))
def test_a_full_row_is_worth_nothing_and_so_is_one_without_devices(mix: Mix, cpu: int) -> None:
    assert a_value(mix, a_room([1000] * 8)).of(a_room([0] * 8, cpu=cpu))[0] == 0


@settings(max_examples=30, deadline=None)
@given(mix=mixes, left=lefts, cpu=st.integers(0, 128))
def test_a_sampled_fill_is_within_what_is_left_and_the_same_every_time(mix: Mix, left: list[int], cpu: int) -> None:
    room = a_room(left, sorted(left), cpu=cpu)
    fill = SampledFill(mix)
    found = fill.of(room)
    assert 0 <= found[0] <= sum(left)
    # Which device has what left is the same; asked again, or of another instance, too.
    assert found[0] == found[1] == fill.of(room)[0] == SampledFill(mix).of(room)[0]


@pytest.mark.parametrize("sampled", [False, True])
def test_the_fill_is_bounded_by_the_cpu_that_feeds_it(sampled: bool) -> None:
    mix = a_mix(a_kind(cpu=4))
    fill = SampledFill(mix) if sampled else ExpectedFill(mix)
    assert fill.of(a_room([1000] * 4, cpu=8)) == pytest.approx([2000])
    assert fill.of(a_room([1000] * 4, cpu=99, memory=8)) == pytest.approx([1000])


def test_a_table_of_one_size_counts_how_often_it_fits() -> None:
    table = fill_table([a_kind(milli=300)], [1.0])
    assert [table[left] for left in (299, 300, 599, 600, 1000)] == pytest.approx([0, 300, 300, 600, 900])


def test_best_fit_strands_what_this_keeps_for_the_work_to_come() -> None:
    """A share of 400 on a device with 500 left (best fit) strands 100; beside 600 it fills the device."""
    mix = a_mix(a_kind(milli=400), a_kind(milli=500), a_kind(milli=600))
    rows = a_room([500], [1000])
    lost = a_value(mix, a_room([1000] * 4)).lost(rows, mix.kinds[0])
    left_over = rows.left.max(axis=0) - 400
    assert (left_over.argmin(), lost.argmin()) == (0, 1)


def test_a_whole_small_fleet_best_fit_fails_where_this_places_all() -> None:
    """400, 500, 600 come to devices with 500 and 1000 left: all fit only if the first goes to the empty one."""
    mix = a_mix(a_kind(milli=400), a_kind(milli=500), a_kind(milli=600))
    value = a_value(mix, a_room([1000] * 4))

    def run(best_fit: bool) -> list[list[int]]:
        state = [[500], [1000]]
        for kind in mix.kinds:
            room = a_room(*state)
            fits = room.left.max(axis=0) >= kind.milli
            cost = room.left.max(axis=0) - kind.milli if best_fit else value.lost(room, kind)
            if fits.any():
                state[int(np.where(fits, cost, np.inf).argmin())][0] -= kind.milli
        return state

    assert run(best_fit=False) == [[0], [0]]
    assert run(best_fit=True) == [[100], [500]]


def test_a_demanded_model_and_several_free_devices_are_kept() -> None:
    mix = a_mix(a_kind(), a_kind(2), a_kind(4, cpu=1), only={0: 1})
    fleet = a_room([1000] * 4, [1000, 1000], [1000])
    value = a_value(mix, fleet)
    lost = value.lost(fleet, a_kind(cpu=1))
    # The four devices that the kind of four needs are dearer than one of a pair, and that dearer than a single one.
    assert lost[0] > lost[1] > lost[2]
    other = replace(fleet, model=np.array([0, 0, 1]))
    assert a_value(mix, other).lost(other, a_kind(cpu=1))[2] > lost[2]


def test_work_without_devices_costs_the_cpu_that_devices_need() -> None:
    mix = a_mix(a_kind(cpu=4))
    value = a_value(mix, a_room([1000] * 4))
    busy, idle = a_room([1000] * 4, cpu=16), a_room([1000, 0, 0, 0], cpu=16)
    cpu_only = Kind(8, 0, 0, 0)
    assert value.lost(busy, cpu_only) == pytest.approx([2000])
    assert value.lost(idle, cpu_only) == pytest.approx([0])


def test_seven_free_devices_of_eight_are_worth_little_where_nearly_all_work_asks_for_eight() -> None:
    """Without that, CPU that hardly feeds eight devices makes the whole node the cheapest for one."""
    mix = a_mix(a_kind(cpu=4), a_kind(8, cpu=32))
    value = a_value(mix, a_room(*[[1000] * 8] * 10, [1000] * 2))
    whole, begun, pair = a_room([1000] * 8, cpu=24), a_room([1000] * 7, cpu=24), a_room([1000] * 2, cpu=99)
    lost = [value.lost(room, a_kind(cpu=1))[0] for room in (whole, begun, pair)]
    assert lost[0] > 2 * lost[2] > 0
    assert lost[1] < lost[2]


@pytest.mark.parametrize("sampled", [False, True])
def test_the_rest_beside_several_is_filled_as_far_as_smaller_work_comes(sampled: bool) -> None:
    """Singles are a ninth of the milli: twice that of a rest is filled by them. Half of the milli fills all."""
    for mix, whole, rest in (
        (a_mix(a_kind(cpu=0), a_kind(8, cpu=0)), 8000, 1 / 9 * 7000 + 8 / 9 * 2 / 9 * 7000),
        (replace(a_mix(a_kind(cpu=0), a_kind(8, cpu=0)), shares=(8 / 9, 1 / 9)), 8000, 7000),
        (a_mix(a_kind(8, cpu=0)), 8000, 0),
    ):
        fill = SampledFill(mix) if sampled else ExpectedFill(mix)
        found = fill.of(a_room([1000] * 8, [1000] * 7))
        assert found[0] == pytest.approx(whole)
        assert found[1] == pytest.approx(rest)


def with_cpu_only(share: float, *, cpu: int = 32) -> Mix:
    """Single devices with 4 cores each, and CPU-only work of so many cores."""
    return replace(a_mix(a_kind(cpu=4)), shares=(1 - share,), cpu_only=((Kind(cpu, 8, 0, 0), share),))


def test_cores_that_hold_cpu_only_work_are_kept_together() -> None:
    rows = replace(a_room([0], [0], [0]), cpu=np.array([32.0, 40.0, 31.0]))
    small = Kind(8, 0, 0, 0)
    # The fleet's devices are taken but for a few, and so are its cores.
    fleet = a_room([1000] * 4, *[[0] * 8] * 20, cpu=40)
    lost = a_value(with_cpu_only(0.5), fleet).lost(rows, small)
    assert lost[0] > 0
    assert lost[1:].tolist() == [0, 0]


def test_the_cores_that_free_devices_need_are_no_room_for_cpu_only_work() -> None:
    value = a_value(with_cpu_only(0.5), a_room([1000] * 4, *[[0] * 8] * 20, cpu=40))
    # 4 cores a device: of 40 cores beside two devices 32 are spare, beside three 28.
    worth = value.scarcity(a_room([0], [1000] * 2, [1000] * 3, cpu=40)).tolist()
    assert worth[0] == worth[1] > worth[2] == 0


def test_cpu_only_work_is_weighed_by_what_comes_against_the_cores_that_devices_do_not_need() -> None:
    room, member = a_room([1000] * 4, cpu=48), Kind(32, 0, 0, 0)
    plain = a_value(replace(with_cpu_only(0.5), cpu_only=()), room)

    def lost(share: float, devices: int) -> float:
        value = HostingValue(with_cpu_only(share), np.ones(MODELS, dtype=np.bool_))
        # Two of 32 cores find room on each of ten nodes without devices; so many devices are to be filled.
        fleet = a_room(*[[1000] * devices] * 10, cpu=64 + 4 * devices)
        value.review(fleet, float(fleet.left.sum()))
        return float(value.lost(room, member)[0])

    feeds = float(plain.lost(room, member)[0])
    assert feeds == pytest.approx(0)
    # 32 of the 48 cores are beyond what four devices need.
    assert feeds == lost(0.05, 2) < lost(0.3, 2) < lost(0.3, 4) < lost(0.5, 8)
    # At most that part of what those cores would feed.
    assert lost(0.9, 8) == pytest.approx(ExpectedFill.cpu_only_weight * 32 / 4 * 1000)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.1, 0.9), left=lefts, cpu=st.tuples(st.integers(0, 128), st.integers(0, 128)))
def test_more_cores_are_never_worth_less(share: float, left: list[int], cpu: tuple[int, int]) -> None:
    value = a_value(with_cpu_only(share), a_room([1000] * 8, cpu=64))
    fewer, more = (a_room(left, cpu=cores) for cores in sorted(cpu))
    assert 0 <= value.of(fewer)[0] <= value.of(more)[0] + 1e-6
