"""When a waiting job would fit, and that asking changes nothing."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement_engine.domain.asks import with_deadline
from placement_engine.domain.engine import Engine
from placement_engine.domain.forecast import Start, earliest_start
from placement_engine.domain.model import Accelerator, Job, PowerDomain, Profile
from placement_engine.domain.shapes import shape_of
from placement_engine.domain.supposition import Supposition
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, a_sample, an_engine, placed
from tests.unit.placement_engine.domain.test_properties import device_facts, jobs, nodes


def forecast(engine: Engine, job: Job, now: float = NOW) -> Start | None:
    table = engine._tables.get(shape_of(job))
    ask = with_deadline(engine._fleet, table.ask, job, now)
    return earliest_start(engine._fleet, engine._tables, engine._reserver, engine._ends, job=job, ask=ask, now=now)


def running(engine: Engine, job_id: str, seconds: float | None, now: float = NOW, **changes: Any) -> None:
    changes = {"devices": 4} | changes
    assert placed(engine, a_job(job_id, expected_duration_seconds=seconds, **changes), now=now)


def told(start: Start | None) -> tuple[float, list[str], tuple[str, ...]] | None:
    return start and (start.at, [m.node for m in start.members], start.after)


def test_a_job_that_fits_starts_now() -> None:
    engine = an_engine(a_node("n1"))
    assert told(forecast(engine, a_job("w", devices=8))) == (NOW, ["n1"], ())


def test_it_waits_for_the_first_ends_that_make_it_fit() -> None:
    engine = an_engine(a_node("n1"), a_node("n2"))
    for job_id, seconds in (("a", 300.0), ("b", 100.0), ("c", 200.0), ("d", None)):
        running(engine, job_id, seconds)
    where = {j: engine.holds(j).members[0].node for j in "abcd"}  # type: ignore[union-attr]
    assert where == {"a": "n1", "b": "n1", "c": "n2", "d": "n2"}
    assert told(forecast(engine, a_job("w", devices=4))) == (NOW + 100, ["n1"], ("b",))
    assert told(forecast(engine, a_job("w", devices=8))) == (NOW + 300, ["n1"], ("b", "a"))
    assert told(forecast(engine, a_job("w", devices=4, replicas=3))) == (NOW + 300, ["n1", "n1", "n2"], ("b", "c", "a"))
    assert forecast(engine, a_job("w", devices=4, replicas=4)) is None, "d never ends by itself"
    assert forecast(engine, a_job("w", devices=9)) is None


def test_an_overdue_job_runs_on_for_a_tenth_of_its_run_time() -> None:
    engine = an_engine(a_node("n1"))
    running(engine, "a", 100.0, devices=8)
    assert told(forecast(engine, a_job("w"), NOW + 300)) == (NOW + 330, ["n1"], ("a",))


def test_the_start_counts_from_when_the_job_was_heard_to_run() -> None:
    engine = an_engine(a_node("n1"))
    running(engine, "a", 100.0, devices=8)
    engine.started("a", 1, NOW + 20)
    assert told(forecast(engine, a_job("w"))) == (NOW + 100, ["n1"], ("a",)), "another attempt"
    engine.started("a", 0, NOW + 20)
    assert told(forecast(engine, a_job("w"))) == (NOW + 120, ["n1"], ("a",))
    engine.release("a")
    assert told(forecast(engine, a_job("w"))) == (NOW, ["n1"], ())


def test_durations_scale_to_the_accelerator_the_job_sits_on() -> None:
    engine = an_engine(a_node("n1", model="L4"), a_node("n2", model="H100", schedulable=False))
    engine.set_profiles([Profile("w", "L4", 1, 1.0), Profile("w", "H100", 1, 4.0)])
    running(engine, "a", 100.0, devices=8, workload="w")
    assert told(forecast(engine, a_job("w"))) == (NOW + 400, ["n1"], ("a",))


def test_what_telemetry_shows_of_the_work_that_ends_does_not_count() -> None:
    node = a_node("n1", 1, telemetry_exempt=False, power_cap_watts=900, device={"power_limit_watts": 700.0})
    engine = an_engine(node)
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", 80 * GIB, tdp_watts=700.0)])
    engine.set_profiles([Profile("w", "H100", 1, 1.0, power_watts=650.0)])
    engine.apply_sample(a_sample("n1", {}, at=NOW))
    running(engine, "a", 100.0, devices=1, workload="w", device_memory_bytes=10 * GIB)
    busy = {"power_watts": 690.0, "memory_used_bytes": 70 * GIB}
    engine.apply_sample(a_sample("n1", busy, at=NOW + 90, power_watts=850.0))
    waiting = a_job("w", devices=1, workload="w", device_memory_bytes=75 * GIB)
    before = engine.state_digest()
    assert told(forecast(engine, waiting, NOW + 90)) == (NOW + 100, ["n1"], ("a",))
    assert engine.state_digest() == before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), fleet=st.tuples(*(nodes(f"n{i}") for i in range(4))))
def test_a_supposition_leaves_no_trace(data: st.DataObject, fleet: Any) -> None:
    """Any jobs taken out and put back in any order: same digest, and every column follows from the facts."""
    engine = an_engine(*fleet)
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0, 2.95)])
    engine.set_power_domains([PowerDomain("rack", "r0", 1500.0)])
    ids = [f"j{i}" for i in range(data.draw(st.integers(0, 8)))]
    for job_id in ids:
        engine.submit(data.draw(jobs(job_id)))
    engine.cycle(NOW)
    for node in fleet:
        facts = data.draw(st.lists(device_facts(), min_size=len(node.devices), max_size=len(node.devices)))
        engine.apply_sample(a_sample(node.name, *facts, at=NOW + data.draw(st.sampled_from((0.0, 90.0)))))
    before = engine.state_digest()
    with Supposition(engine._fleet, engine._tables, engine._reserver) as suppose:
        for job_id in data.draw(st.lists(st.sampled_from(ids or ["none"]), max_size=12)):
            claim = engine.holds(job_id)
            if claim is not None and not suppose.is_ended(job_id):
                suppose.end(claim)
            else:
                suppose.resume(job_id)
            waiting = data.draw(jobs("w"))
            suppose.placement(waiting, engine._tables.get(shape_of(waiting)).ask, NOW)
    forecast(engine, data.draw(jobs("w")))
    assert engine.state_digest() == before
    clock = engine._fleet.columns.clock
    engine._fleet.rewrite()
    assert engine._fleet.columns.clock == clock
    assert not any(d.supposed_idle for f in engine._fleet.nodes.values() for d in f.devices.values())
