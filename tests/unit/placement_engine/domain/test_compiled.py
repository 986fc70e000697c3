"""What the scoring pass says of some rows is the same whoever says it: C, arrays, or each plugin by itself."""

import random
import shutil
import sysconfig
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain import compiled
from placement_engine.domain.engine import Engine
from placement_engine.domain.filters.flags import Flag
from placement_engine.domain.hosting_value import ExpectedFill
from placement_engine.domain.model import Job
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.domain.scores.heat import Heat
from placement_engine.domain.shapes import shape_of
from placement_engine.domain.tables import EXCLUDED, Table, Tables
from tests.benchmarks.bench_core import NOW, a_fleet, a_sample, shapes
from tests.unit.placement_engine.domain.builders import GIB, a_node, an_engine

needs_compiler = pytest.mark.skipif(compiled.library is None, reason="the C pass was not built: no C compiler")
POLICIES = (
    Policy(),
    Policy(unknown_telemetry=UnknownPolicy.REFUSE),
    Policy(thrift_milli_per_watt=0.5),
)


def a_busy_engine(seed: int, policy: Policy) -> tuple[Engine, list[Job]]:
    """A small fleet of many kinds of nodes, telemetry of several ages and all sorts of work."""
    rng = random.Random(seed)
    engine = a_fleet(12, rng)
    nodes = [facts.node for facts in engine._fleet.nodes.values()]
    other = an_engine(policy=policy)
    other.set_accelerators(engine._fleet.models.estimator.catalogue())
    other.set_profiles(engine._fleet.models.estimator.profiles())
    for node in nodes:
        devices = tuple(node.devices[: rng.choice((0, 1, 3, 8, 8, 8))])
        runs = rng.choice((("process",), ("kubernetes",), ("process", "kubernetes")))
        caps = {
            "executors": runs,
            "power_cap_watts": rng.choice((None, 2000.0, 6000.0)),
            "pod_limit": rng.choice((None, 3)),
        }
        other.apply_node(replace(node, devices=devices, schedulable=rng.random() < 0.9, **caps))
        if rng.random() < 0.9:
            sample = a_sample(node.name, NOW - rng.choice((0, 0, 0, 100, 1000)), rng)
            wrong = [replace(one, throttle_bits=rng.choice((0, 0, 0, 8))) for one in sample.devices[: len(devices)]]
            other.apply_sample(replace(sample, devices=tuple(wrong)))
    mix = [replace(job, executor=rng.choice(("", "", "process", "kubernetes", "nowhere"))) for job in shapes(24, rng)]
    for number in range(rng.choice((10, 90))):  # cold, or with a mix that was learnt
        other.submit(replace(rng.choice(mix), job_id=f"job-{number}"))
    placed = [decision.job_id for decision in other.cycle(NOW).decisions]
    for job_id in placed[:: rng.choice((2, 3))]:
        other.release(job_id)
    return other, mix


def written(table: Table) -> tuple[bytes, bytes, bytes]:
    """The terms only of rows that can: nobody reads the others."""
    able = table.score > EXCLUDED
    return table.score.tobytes(), table._terms[able].tobytes(), table._usable.tobytes()


def written_in_c(table: Table, engine: Engine) -> tuple[bytes, bytes, bytes]:
    """The same by C, of all rows; the table is as before."""
    kept = [one.copy() for one in (table.score, table._terms, table._usable)]
    table.score.fill(7.0)
    table._terms.fill(7.0)
    table._usable.fill(True)
    in_c, columns = table.compiled(engine._pipeline), engine._fleet.columns
    assert in_c is not None
    in_c.score(columns, np.arange(columns.rows))
    found = written(table)
    for array, old in zip((table.score, table._terms, table._usable), kept, strict=True):
        array[:] = old
    return found


def test_the_library_is_there_where_there_is_a_compiler() -> None:
    """Else every test that needs it would be passed over in silence."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    assert (compiled.library is not None) == (shutil.which(compiler) is not None)


@needs_compiler
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), policy=st.sampled_from(POLICIES))
def test_c_and_arrays_write_the_same_to_the_last_bit(seed: int, policy: Policy) -> None:
    engine, mix = a_busy_engine(seed, policy)
    for job in mix:
        table = engine._tables.get(shape_of(job))
        assert (table.compiled(engine._pipeline) is None) == (policy.thrift_milli_per_watt > 0)
        if table.compiled(engine._pipeline) is not None:
            assert written_in_c(table, engine) == written(table)


@needs_compiler
@pytest.mark.parametrize("seed", range(6))
def test_c_and_arrays_agree_on_spare_cpu_and_on_rests(seed: int) -> None:
    engine, _ = a_busy_engine(seed, Policy())
    mix = [Job("c", cpu_milli=32_000, memory_bytes=GIB), Job("d", devices=8, cpu_milli=64_000, memory_bytes=GIB)]
    for number in range(300):
        engine.submit(replace(mix[number % 2], job_id=f"more-{number}"))
    for decision in engine.cycle(NOW).decisions[::2]:
        engine.release(decision.job_id)
    for job_id in [f"more-{number}" for number in range(300)]:
        engine.withdraw(job_id)
    engine.cycle(NOW)
    value = engine._hosting.value
    assert value is not None
    assert isinstance(value.fill, ExpectedFill)
    assert value._spare_cpu._worth.size
    assert value.fill.arrays()["rests"]
    able = 0
    for job in (Job("e", cpu_milli=2_000), Job("f", devices=1), Job("g", device_milli=100, cpu_milli=1_000)):
        table = engine._tables.get(shape_of(job))
        able += int((table.score > EXCLUDED).sum())
        assert written_in_c(table, engine) == written(table)
    assert able > 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), policy=st.sampled_from(POLICIES[:2]))
def test_a_sieve_says_what_its_filters_say_one_by_one(seed: int, policy: Policy) -> None:
    engine, mix = a_busy_engine(seed, policy)
    view, pipeline = engine._fleet.columns.view(), engine._pipeline
    for job in mix:
        ask = engine._tables.get(shape_of(job)).ask
        rows = np.logical_and.reduce([plugin.passes(view, ask) for plugin in pipeline.row_filters])
        usable = np.zeros(view.device.shape[1:], dtype=np.bool_)
        if ask.shape.needs_devices:
            # Flags say nothing of a slot without a device, floors exclude it.
            flags = [p for p in pipeline.device_filters if isinstance(p, Flag)]
            others = [p for p in pipeline.device_filters if not isinstance(p, Flag)]
            usable = np.logical_and.reduce([plugin.passes(view, ask) for plugin in (*others, *flags)])
            rows &= usable.sum(axis=0) >= ask.shape.slots
        found = pipeline.feasible(view, ask)
        assert (found[0] == rows).all()
        assert (found[1] == usable).all()


@needs_compiler
@pytest.mark.parametrize(
    ("job", "common"),
    [
        (Job("j", devices=2, cpu_milli=1000), True),
        (Job("j", device_milli=250), True),
        (Job("j", cpu_milli=1000), True),
        (Job("j", device_share_bytes=GIB), False),
        (Job("j", devices=1, executor="process"), True),
    ],
)
def test_uncommon_asks_are_left_to_arrays(job: Job, common: bool) -> None:
    engine = an_engine(a_node())
    assert (engine._tables.get(shape_of(job)).compiled(engine._pipeline) is not None) is common


class Untold:
    """A score of somebody who knows nothing of forms: half of the heat."""

    name = "Heat"

    def __init__(self) -> None:
        self.weight = Heat().weight
        self.detail = Heat().detail
        self.values = lambda view, usable, ask: 0.5 * Heat().values(view, usable, ask)


def test_a_score_that_tells_nothing_of_itself_is_asked_by_arrays_and_counts() -> None:
    engine = an_engine(a_node("n1"), a_node("n2"))
    pipeline = engine._pipeline
    before = engine._tables.get(shape_of(Job("j", devices=1))).score.tolist()
    heat = [score.name for score in pipeline.scores].index("Heat")
    pipeline.scores = (*pipeline.scores[:heat], Untold(), *pipeline.scores[heat + 1 :])
    pipeline._values = tuple((s.values, w) for s, w in zip(pipeline.scores, pipeline.weights, strict=True))
    engine._tables = Tables(engine._fleet, engine._policy, pipeline)
    table = engine._tables.get(shape_of(Job("j", devices=1)))
    assert table.compiled(engine._pipeline) is None
    assert all(after < old for after, old in zip(table.score.tolist(), before, strict=True))


def test_without_the_library_decisions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def decisions() -> list[str]:
        engine, mix = a_busy_engine(3, Policy())
        told = []
        for number, job in enumerate(mix * 3):
            engine.submit(replace(job, job_id=f"more-{number}", submitted_at=float(number)))
            told += [repr(one) for one in engine.cycle(NOW).decisions]
        return told

    with_library = decisions()
    monkeypatch.setattr(compiled, "library", None)
    assert decisions() == with_library
    assert len(with_library) > 10
