"""Thrift: watts count while there is room, and what is woken agrees with the power model of the openb protocol."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement_engine.domain.columns import ABSENT, CPU, CPU_TOTAL, DEVICE_COLUMNS, FREE, ROW_COLUMNS, View
from placement_engine.domain.engine import Engine
from placement_engine.domain.hosting_value import Kind
from placement_engine.domain.model import Accelerator
from placement_engine.domain.models import Models
from placement_engine.domain.policy import Policy
from placement_engine.domain.thrift import Thrift
from placement_engine.simulation.openb.power import DEVICE_WATTS, PowerModel
from placement_engine.simulation.openb.state import State
from tests.unit.placement_engine.domain.builders import a_device, a_job, a_node, placed

THRIFTY = Policy(thrift_milli_per_watt=40.0)
CATALOGUE = [Accelerator(name, "GPU", idle_watts=idle, tdp_watts=full) for name, (idle, full) in DEVICE_WATTS.items()]
PACKAGE_MILLI = 2_000


def a_thrift(policy: Policy = THRIFTY, free: float = 1.0) -> tuple[Thrift, Models]:
    models = Models(policy)
    models.estimator.set_catalogue(CATALOGUE)
    for name in DEVICE_WATTS:
        models.identify(a_device("n", 0, name, stack="", device_class="GPU"))
    thrift = Thrift(models, policy)
    thrift.review(free)
    return thrift, models


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, int, int, list[int]]:
    """Model, CPU in thousandths in all and taken, and milli left of each device."""
    cores = draw(st.integers(1, 64))
    taken = draw(st.integers(0, cores * PACKAGE_MILLI))
    left = draw(st.lists(st.sampled_from((0, 200, 500, 810, 1000)), min_size=1, max_size=8))
    return draw(st.sampled_from(sorted(DEVICE_WATTS))), cores * PACKAGE_MILLI, taken, left


kinds = st.builds(
    Kind, cpu=st.integers(0, 40_000), memory=st.just(0), devices=st.just(1), milli=st.sampled_from((100, 500, 810))
) | st.builds(Kind, cpu=st.integers(0, 40_000), memory=st.just(0), devices=st.integers(0, 4), milli=st.just(1000))


@given(row=rows(), kind=kinds)
def test_what_is_woken_is_what_the_power_model_of_openb_says(row: tuple[str, int, int, list[int]], kind: Kind) -> None:
    model, cpu, taken, left = row
    able = [milli for milli in left if milli >= kind.milli] if kind.devices else []
    if cpu - taken < kind.cpu or len(able) < kind.devices:
        return
    thrift, models = a_thrift()
    device = np.zeros((DEVICE_COLUMNS, 8, 1))
    device[FREE] = ABSENT
    device[FREE, : len(left), 0] = left
    columns = np.zeros((ROW_COLUMNS, 1))
    columns[CPU], columns[CPU_TOTAL] = cpu - taken, cpu
    number = np.array([models.names.index(model)])
    view = View(device, columns, number, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.intp))
    usable = device[FREE] >= max(kind.milli, 1)

    free = left.count(1000)
    after = free - (min(able) == 1000) if kind.fraction else free - kind.devices
    state = SimpleNamespace(
        models=["", model], model=np.array([1]), cpu_capacity=np.array([cpu]), devices=np.array([len(left)])
    )
    power = PowerModel(_as_state(state))
    node = np.array([0])
    before_watts = power.watts(node, np.array([cpu - taken]), np.array([free]))
    after_watts = power.watts(node, np.array([cpu - taken - kind.cpu]), np.array([after]))
    assert thrift.milli(view, usable, kind).tolist() == [40.0 * float(after_watts[0] - before_watts[0])]


def _as_state(state: SimpleNamespace) -> State:
    return state  # type: ignore[return-value]


@pytest.mark.parametrize(("taken", "part"), [(0.0, 1.0), (0.7, 1.0), (0.75, 0.5), (0.8, 0.0), (1.0, 0.0)])
def test_watts_count_less_and_less_as_the_fleet_fills(taken: float, part: float) -> None:
    thrift, models = a_thrift(free=1.0 - taken)
    device = np.zeros((DEVICE_COLUMNS, 1, 1))
    device[FREE] = 1000
    view = View(
        device,
        np.zeros((ROW_COLUMNS, 1)),
        np.array([models.names.index("T4")]),
        np.zeros(1, dtype=np.int64),
        np.zeros(1, dtype=np.intp),
    )
    assert thrift.milli(view, device[FREE] >= 1000, Kind(0, 0, 1, 1000)) == pytest.approx([40.0 * 60 * part])


def an_engine_of(policy: Policy) -> Engine:
    """A hungry model stands first by name; the frugal one would do as well."""
    engine = Engine(policy)
    engine.set_accelerators(CATALOGUE)
    for name, model in (("a-hungry", "G3"), ("b-frugal", "T4"), ("c-hungry", "G3")):
        engine.apply_node(a_node(name, devices=4, model=model))
    return engine


def test_a_job_goes_where_it_wakes_least_while_there_is_room_and_where_it_packs_best_without_thrift() -> None:
    jobs = [a_job(f"j{number}", devices=1, cpu_milli=1000, submitted_at=float(number)) for number in range(4)]
    assert placed(an_engine_of(THRIFTY), *jobs) == {job.job_id: ["b-frugal"] for job in jobs}
    plain = an_engine_of(Policy())
    assert placed(plain, *jobs) != {job.job_id: ["b-frugal"] for job in jobs}


def test_work_of_cpus_wakes_no_further_package() -> None:
    engine = an_engine_of(THRIFTY)
    engine.apply_node(a_node("d-plain", devices=0))
    first = placed(engine, a_job("gpu", devices=1, cpu_milli=1000, submitted_at=0.0))
    assert first == {"gpu": ["b-frugal"]}
    beside = placed(engine, a_job("cpu", devices=0, cpu_milli=1000, submitted_at=1.0), now=1_001.0)
    assert beside == {"cpu": ["b-frugal"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"thrift_milli_per_watt": -1.0},
        {"thrifty_until": 0.8, "packing_from": 0.8},
        {"thrifty_until": -0.1},
        {"cpu_package_milli": 0},
        {"cpu_package_watts": -1.0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Policy(**changes)  # type: ignore[arg-type]
